"""The built book: whole pages, described pictures, links that lead somewhere."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

BOOK = Path(__file__).resolve().parents[2] / "_build" / "book"
HTML = BOOK / "_build" / "html"
PAGES = sorted([*HTML.glob("book/*.html"), *HTML.glob("notebooks/*.html")])
RUN = sorted((BOOK / "notebooks").glob("*.ipynb"))

pytestmark = [
    pytest.mark.book,
    pytest.mark.skipif(
        not (HTML / "index.html").exists(), reason="the book is not built; `make book` removes this skip"
    ),
]


@pytest.mark.parametrize("path", RUN, ids=lambda p: p.stem)
def test_every_cell_ran_and_none_failed(path):
    notebook = nbformat.read(path, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code)
    outputs = [o for c in code for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    noise = [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert not noise, noise[:1]
    assert not [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]


@pytest.mark.parametrize("path", RUN, ids=lambda p: p.stem)
def test_every_cell_meant_to_show_something_does(path):
    """A call that shows a table, a figure or a sentence is the last of its cell, and the cell has an output."""
    shows = ("show(", "paragraph(", "agreement(", "measured_note(", "head_maps(", "map_pair(", "family_maps(")
    shown = 0
    for cell in (c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"):
        body = ast.parse(cell.source).body
        for number, node in enumerate(body):
            called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.IfExp)
            text = ast.unparse(node)
            if called and (text.startswith(shows) or text.split("(")[0].endswith("_figure")):
                assert number == len(body) - 1, f"not the last of its cell: {text[:60]}"
                assert cell.outputs, text[:60]
                kinds = set().union(*(o.get("data", {}) for o in cell.outputs))
                assert kinds & {"text/html", "image/png", "text/markdown"}, text[:60]
                shown += 1
    assert shown >= 4


@pytest.mark.parametrize("path", RUN, ids=lambda p: p.stem)
def test_a_page_opens_with_its_answer(path):
    notebook = nbformat.read(path, as_version=4)
    summary = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## Summary"))
    (output,) = [output for output in notebook.cells[summary + 1].outputs if "text/markdown" in output.data]
    assert output.data["text/markdown"] in notebook.cells[1].source
    page = BeautifulSoup((HTML / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8"), "html.parser")
    boxes = page.select("article div.admonition")
    assert boxes and boxes[0].select_one(".admonition-title").get_text() == "In short"
    assert re.search(r"\d", boxes[0].get_text())


def test_what_this_run_makes_anew_agrees_with_what_is_kept():
    compared = 0
    for path in RUN:
        for cell in (c for c in nbformat.read(path, as_version=4).cells if "agreement(" in c.source):
            html = [o.data["text/html"] for o in cell.get("outputs", ()) if "text/html" in o.get("data", {})]
            for table in (BeautifulSoup(each, "html.parser") for each in html):
                assert {row.find_all("td")[-1].get_text() for row in table.select("tbody tr")} == {"yes"}, path.stem
                compared += 1
    assert compared >= 2


def test_all_pages_are_there():
    assert len(RUN) == 13 and len(PAGES) >= 20


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_pictures_are_described_and_links_lead_somewhere(page):
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    article = soup.find("article") or soup
    for image in article.find_all("img"):
        alt = image.get("alt", "")
        assert len(alt) > 12 and not alt.startswith(("_images", "../_images")), image.get("src")
    assert len(article.find_all("h1")) == 1
    for link in article.find_all("a", href=True):
        target, _, anchor = link["href"].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link["href"]
        if anchor and path.suffix == ".html":
            other = soup if path == page else BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
            assert other.find(id=anchor), link["href"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_no_number_is_missing_from_a_sentence(page):
    text = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").get_text(" ")
    assert "glue:" not in text and "No key" not in text and " nan" not in text.replace("nano", "")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_tables_have_few_columns(page):
    """A phone shows about five; up to eight can be pushed aside; nine are a function's row and its eight columns."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    for table in soup.find_all("table"):
        wide = max((len(row.find_all(["th", "td"])) for row in table.find_all("tr")), default=0)
        assert wide <= 9, table.get_text(" ")[:200]
