import json
import re
from dataclasses import asdict, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from cogvsr_utils.dataset.__main__ import main
from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.jsonl import BadRow, check_items, read_items, write_items
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.functions import NAMES
from cogvsr_utils.paths import ROOT


def test_the_example_of_the_data_card_is_read(tmp_path):
    card = (ROOT / "data" / "README.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", card, re.S)
    (tmp_path / "mine.jsonl").write_text(example)
    Image.new("RGB", (8, 8)).save(tmp_path / "kitchen.png")
    assert [len(item.steps) for item in read_items(tmp_path / "mine.jsonl")] == [1, 1, 0]
    assert all(f"*{name}*" in " ".join(card.split()) for name in NAMES)


@pytest.fixture
def row(small_set):
    return json.loads(small_set.read_text().splitlines()[0])


def spoil(small_set, row, tmp_path, **changes):
    row = {**row, **changes}
    path = small_set.parent / f"bad-{tmp_path.name}.jsonl"
    good = small_set.read_text().splitlines()[1]
    path.write_text(good + "\n" + json.dumps(row) + "\n")
    return path


def step_with(row, **changes):
    return [{**row["steps"][0], **changes}, *row["steps"][1:]]


@pytest.mark.parametrize("change, told", [
    (lambda r: {"steps": step_with(r, function="Telepathy")}, "unknown function 'Telepathy'; expected one of"),
    (lambda r: {"image": "images/none.png"}, "is not there; expected a file under"),
    (lambda r: {"image": "../../etc/passwd"}, "leaves the folder"),
    (lambda r: {"image": "/etc/passwd"}, "leaves the folder"),
    (lambda r: {"answer": "maybe", "answer_type": "yesno", "options": None}, "'maybe' is not among ['yes', 'no']"),
    (lambda r: {"answer": "many", "answer_type": "int", "options": None}, "'many' is not a whole number"),
    (lambda r: {"answer": "left", "answer_type": "choice", "options": ["up", "down"]}, "not among ['up', 'down']"),
    (lambda r: {"answer": "left", "answer_type": "choice", "options": None}, "no options are given"),
    (lambda r: {"answer_type": "guess"}, "answer_type"),
    (lambda r: {"surprise": 1}, "surprise"),
    (lambda r: {"question": ""}, "question: '' is blank; expected a text"),
    (lambda r: {"question": " \t"}, "is blank; expected a text"),
    (lambda r: {"uid": " "}, "uid: ' ' is blank"),
    (lambda r: {"answer": "  ", "answer_type": "text"}, "answer: '  ' is blank"),
    (lambda r: {"answer": "?!", "answer_type": "text", "options": None}, "'?!' has no letter or digit"),
    (lambda r: {"answer": "--1", "answer_type": "int", "options": None}, "'--1' is not a whole number"),
    (lambda r: {"answer": "²", "answer_type": "int", "options": None}, "'²' is not a whole number"),
    (lambda r: {"answer": "٣", "answer_type": "int", "options": None}, "'٣' is not a whole number"),
    (lambda r: {"answer": "007", "answer_type": "int", "options": None}, "'007' is not a whole number in digits"),
    (lambda r: {"answer": "-0", "answer_type": "int", "options": None}, "'-0' is not a whole number in digits"),
    (lambda r: {"image": "x" * 300 + ".png"}, "is not a path"),
    (lambda r: {"answer": "1.0", "answer_type": "int", "options": None}, "'1.0' is not a whole number"),
    (lambda r: {"answer": 3, "answer_type": "int"}, "answer: 3 is not of type 'string'"),
    (lambda r: {"answer": "up", "answer_type": "choice", "options": ["up", "Up "]}, "are alike or blank"),
    (lambda r: {"answer": "up", "answer_type": "choice", "options": ["up", "..."]}, "are alike or blank"),
    (lambda r: {"answer": "up", "answer_type": "choice", "options": ["up"]}, "options"),
    (lambda r: {"answer": "blue", "answer_type": "closed", "options": ["red", "green"]}, "not among ['red', 'green']"),
    (lambda r: {"image": 7}, "image: 7 is not of type"),
    (lambda r: {"image": "images"}, "is not there; expected a file under"),
    (lambda r: {"image": "a\0b.png"}, "image"),
    (lambda r: {"mirror": "yes"}, "mirror: 'yes' is not of type 'boolean'"),
    (lambda r: {"split": "test"}, "split: 'test' is not one of"),
    (lambda r: {"steps": None}, "steps: None is not of type 'array'"),
    (lambda r: {"steps": [{"question": "Where?"}]}, "steps/0: 'answer' is a required property"),
    (lambda r: {"steps": step_with(r, answer="-", answer_type="text", options=None)}, "steps/0/answer: '-' has no"),
    (lambda r: {"meta": {"x": float("nan")}}, "NaN is not JSON"),
    (lambda r: {"meta": {"x": "\ud800"}}, "not UTF-8"),
])  # fmt: skip
def test_bad_rows_are_refused_with_file_line_and_what_was_expected(small_set, row, tmp_path, change, told):
    path = spoil(small_set, row, tmp_path, **change(row))
    with pytest.raises(BadRow) as caught:
        read_items(path)
    assert f"{path.name}, line 2: " in str(caught.value) and told in str(caught.value)


def test_broken_json_and_duplicate_uid(small_set, tmp_path):
    lines = small_set.read_text().splitlines()
    broken = small_set.parent / "broken.jsonl"
    broken.write_text(lines[0] + "\n" + lines[1][:-5] + "\n")
    with pytest.raises(BadRow, match=r"broken\.jsonl, line 2: not valid JSON"):
        read_items(broken)
    broken.write_text(lines[0] + "\n" + lines[0] + "\n")
    with pytest.raises(BadRow, match=r"line 2: uid .* is on line 1 already"):
        read_items(broken)


def test_written_items_read_back_the_same(small_set):
    items = read_items(small_set)
    again = read_items(write_items(small_set.parent / "again.jsonl", items))
    assert [asdict(i) for i in items] == [asdict(i) for i in again]


@pytest.mark.parametrize("content, told", [
    (b"", "no rows; expected one JSON object a line"),
    (b"\n \n", "no rows"),
    ("{}".encode("utf-16"), "line 1: the file is UTF-16 or UTF-32; expected UTF-8"),
    ('{"uid": "\u00fc"}'.encode("latin-1"), "line 1: not UTF-8"),
    (b"[]", "line 1: row: [] is not of type 'object'"),
    (b"7", "line 1: row: 7 is not of type 'object'"),
    (b"{} {}", "line 1: not valid JSON"),
    (b"[" * 100_000, "line 1: too many brackets within each other"),
    (b'{"uid": "1", "uid": "2"}', "line 1: fields ['uid'] are given more than once"),
])  # fmt: skip
def test_bad_files_are_refused(tmp_path, content, told):
    (tmp_path / "mine.jsonl").write_bytes(content)
    with pytest.raises(BadRow) as caught:
        read_items(tmp_path / "mine.jsonl")
    assert "mine.jsonl, " in str(caught.value) and told in str(caught.value)


STEP = Step("What is it?", "a mug", "text", None, NAMES[0])
ITEM = Item("1", "mine", "kitchen", "Is it red?", "yes", "yesno", [STEP])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1, max_size=30).filter(lambda t: t.strip()), kept=st.characters(codec="utf-8"))
def test_any_text_is_written_and_read_back(tmp_path, text, kept):
    """Line and paragraph separators, byte order marks and zero bytes too: only a line feed ends a line."""
    texts = [text, f"x{kept}", "x\u2028y\u2029z\x85\ufeff\x1e"]
    items = [
        replace(ITEM, uid=str(i), question=t, steps=[replace(STEP, question=t)], meta={t: t})
        for i, t in enumerate(texts)
    ]
    assert read_items(write_items(tmp_path / "mine.jsonl", items)) == items


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_harmed_file_is_read_or_refused_by_line(tmp_path, data):
    """Bytes put in, taken out and overwritten at random: no other error, and check_items agrees."""
    path = write_items(tmp_path / "mine.jsonl", [ITEM, replace(ITEM, uid="2", split="A")])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.integers(0, len(content)))
        content[first : first + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path.write_bytes(content)
    try:
        read_items(path)
        assert not check_items(path)
    except BadRow as error:
        assert re.search(r"mine\.jsonl, (line \d+: |no rows)", str(error)) and check_items(path)


def test_all_that_is_wrong_is_listed_pictures_too(tmp_path):
    Image.effect_noise((32, 32), 50).save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:300])
    rows = [asdict(ITEM), {**asdict(ITEM), "uid": "2", "image": "torn.png"}, {"uid": "3"},
            {**asdict(ITEM), "uid": "4", "answer": "maybe"}, {**asdict(ITEM), "uid": "5", "split": "A"},
            {**asdict(ITEM), "uid": "6", "split": "C", "image": "https://example.org/x.png"},
            {**asdict(ITEM), "uid": "1", "image": "good.png"}]  # fmt: skip
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    problems = check_items(path)
    for told in ("line 2: item '2': cannot read the picture", "line 3: row: 'question' is a required property",
                 "line 3: row: 'steps' is a required property", "line 4: answer: 'maybe' is not among",
                 "line 6: group 'kitchen' is in split 'A' too", "line 7: uid '1' is on line 1 already"):  # fmt: skip
        assert any(told in problem for problem in problems), told
    done = CliRunner().invoke(typer_app(), [str(path)])
    assert done.exit_code == 1 and done.output.count("mine.jsonl, line") == len(problems)
    with pytest.raises(BadRow, match=rf"\({len(problems) - 1} problems; `python -m cogvsr_utils\.dataset"):
        read_items(path)  # which does not open pictures


def typer_app():
    import typer

    app = typer.Typer()
    app.command()(main)
    return app


def test_what_a_good_file_has_is_counted(small_set, tmp_path):
    done = CliRunner().invoke(typer_app(), [str(small_set)])
    n_items = len(load_items(small_set))
    assert done.exit_code == 0 and f"{n_items} items" in done.output and all(name in done.output for name in NAMES)
    path = write_items(tmp_path / "mine.jsonl", [replace(ITEM, split="A")])
    told = CliRunner().invoke(typer_app(), [str(path)]).output
    assert "for each function: 20 in A, 1 in B, 10 in C. Too few: Spatial Perception in A;" in told


def test_pictures_outside_the_folder_and_bytes_are_not_written(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "out.png")
    with pytest.raises(ValueError, match=r"item '1': .*out\.png is outside .*; expected a picture inside it"):
        write_items(tmp_path / "data" / "mine.jsonl", [replace(ITEM, image=str(tmp_path / "out.png"))])
    for items, told in (([ITEM, ITEM], "line 2: uid '1' is on line 1 already"), ([], "no rows"),
                        ([replace(ITEM, answer="maybe")], "line 1: answer: 'maybe' is not among"),
                        ([replace(ITEM, meta={"x": "\ud800"})], None)):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            write_items(tmp_path / "mine.jsonl", items)
        assert not (tmp_path / "mine.jsonl").exists()
    with pytest.raises(ValueError, match="item '1' has the bytes of a picture"):
        write_items(tmp_path / "mine.jsonl", [replace(ITEM, image=b"png")])
