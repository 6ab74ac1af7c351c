"""Sheets for reviewers: what they are given, and what their answers come to, by hand and by statsmodels' kappa."""

import csv

import numpy as np
import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.review import apply_review, export_review, import_review
from cogvsr_utils.functions import NAMES


@pytest.fixture
def some(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 6), "red").save(path)
    steps = [Step("Is it <b>red</b>?", "yes", "yesno", None, NAMES[2]), Step("=1+1", "2", "int", None, NAMES[6])]
    return [
        Item("one", "mine", "g", "What & where?", "red", "closed", steps, image=str(path)),
        Item("two", "mine", "h", "Why?", "so", "text", steps[:1]),
    ]


def fill(sheet, target, labels, rights):
    """A copy of the sheet with each row's two fields filled in."""
    with sheet.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, label, right in zip(rows, labels, rights, strict=True):
        row["reviewed_function"], row["answer_is_right"] = label, right
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return target


def test_the_sheet_has_a_row_a_step_and_no_formula(some, tmp_path):
    sheet = export_review(some, tmp_path / "out")
    rows = list(csv.DictReader(sheet.open(encoding="utf-8")))
    assert [(row["uid"], row["step"]) for row in rows] == [("one", "0"), ("one", "1"), ("two", "0")]
    assert rows[1]["question"] == "'=1+1" and not any(row["reviewed_function"] for row in rows)


def test_the_page_shows_text_as_text_beside_the_pictures(some, tmp_path):
    export_review(some, tmp_path / "out")
    soup = BeautifulSoup((tmp_path / "out" / "review.html").read_text(encoding="utf-8"), "html.parser")
    assert "Is it <b>red</b>?" in [cell.text for cell in soup.find_all("td")]
    assert [b.text for b in soup.find_all("b")] == ["red", "so"]
    (image,) = soup.find_all("img")
    assert Image.open(tmp_path / "out" / image["src"]).size == (8, 6) and image["alt"]


def test_three_reviewers_keep_relabel_and_reject(some, tmp_path):
    sheet = export_review(some, tmp_path / "out")
    votes = [  # of each reviewer for the three steps
        ([NAMES[2], NAMES[6], NAMES[0]], ["yes", "yes", "yes"]),
        ([NAMES[2], NAMES[5], NAMES[1]], ["yes", "yes", "yes"]),
        ([NAMES[3], NAMES[5], NAMES[2]], ["no", "yes", "yes"]),
    ]
    sheets = [fill(sheet, tmp_path / f"{n}.csv", *each) for n, each in enumerate(votes)]
    review = import_review(sheets, some)
    assert review.steps["verdict"].tolist() == ["kept", "relabelled", "rejected"]
    assert review.steps["function_share"].tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert review.steps["answer_share"].tolist() == pytest.approx([2 / 3, 1, 1])
    (item,) = apply_review(some, review)
    assert item.uid == "one" and [step.function for step in item.steps] == [NAMES[2], NAMES[5]]


def test_a_step_whose_answer_is_found_wrong_or_that_nobody_reviewed_is_rejected(some, tmp_path):
    sheet = export_review(some, tmp_path / "out")
    filled = fill(sheet, tmp_path / "a.csv", [NAMES[2], "", NAMES[2]], ["no", "", "yes"])
    steps = import_review([filled], some).steps
    assert steps["reason"].tolist() == ["the answer is not found right", "not reviewed", ""]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.sampled_from(NAMES[:3]), min_size=3, max_size=3), min_size=3, max_size=3))
def test_kappa_is_fleiss_counted_by_hand(tmp_path_factory, labels):
    folder = tmp_path_factory.mktemp("kappa")
    step = Step("What?", "it", "text", None, NAMES[0])
    items = [Item(str(n), "mine", str(n), "Why?", "so", "text", [step]) for n in range(3)]
    sheet = export_review(items, folder)
    sheets = [fill(sheet, folder / f"{n}.csv", each, ["yes"] * 3) for n, each in enumerate(labels)]
    found = import_review(sheets, items).agreement.set_index("label").loc["all", "kappa"]
    counts = np.array([[sum(row[i] == name for row in labels) for name in NAMES] for i in range(3)])
    agreeing = ((counts * (counts - 1)).sum(1) / 6).mean()
    chance = ((counts.sum(0) / 9) ** 2).sum()
    if chance == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx((agreeing - chance) / (1 - chance))


@pytest.mark.parametrize("label, right, message", [
    ("Juggling", "yes", "line 2: unknown function 'Juggling'"), (NAMES[0], "perhaps", "'perhaps'; expected yes, no or"),
])  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_line(some, tmp_path, label, right, message):
    sheet = export_review(some, tmp_path / "out")
    filled = fill(sheet, tmp_path / "a.csv", [label, "", ""], [right, "", ""])
    with pytest.raises(ValueError, match=message):
        import_review([filled], some)


def test_a_sheet_of_other_items_and_none_are_refused(some, tmp_path):
    sheet = export_review(some, tmp_path / "out")
    with pytest.raises(ValueError, match="no step '0' of 'one'; expected a step of the items"):
        import_review([sheet], some[1:])
    with pytest.raises(ValueError, match="no sheets; expected one a reviewer"):
        import_review([], some)
    with pytest.raises(ValueError, match="no item has steps"):
        export_review([], tmp_path)
