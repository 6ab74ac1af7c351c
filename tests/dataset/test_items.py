import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cogvsr_utils.dataset.audit import audit_labels
from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import BadRow, read_items, write_items
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.dataset.splits import split_groups
from cogvsr_utils.dataset.synth.build import build_synth
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
    (lambda r: {"question": ""}, "question"),
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


def test_same_settings_same_bytes(small_set, tmp_path):

    other = build_synth(tmp_path / "elsewhere", n_items=60, size=64, seed=7)
    assert other.read_bytes() == small_set.read_bytes()
    picture = read_items(small_set)[0].image
    assert (other.parent / "images" / picture.rsplit("/", 1)[1]).read_bytes() == Path(picture).read_bytes()


def test_splits_share_no_scene_and_limits_are_stable(small_set):
    items = load_items(small_set)
    where = {}
    for item in items:
        if item.split != "hard":
            assert where.setdefault(item.group_id, item.split) == item.split
    some = load_items(small_set, split="C", limit=5)
    assert some == load_items(small_set, split="C", limit=5) and len(some) == 5
    with pytest.raises(ValueError, match="split 'D' has no items"):
        load_items(small_set, split="D")
    with pytest.raises(FileNotFoundError, match='expected "synth" or the path'):
        load_items("nowhere.jsonl")


@given(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=40), st.integers(0, 9))
def test_split_groups_gives_every_group_one_split(groups, seed):
    found = split_groups(groups, {"A": 0.5, "B": 0.2, "C": 0.3}, seed)
    assert set(found) == set(groups)
    n = len(found)
    counts = [sum(v == name for v in found.values()) for name in "ABC"]
    assert all(abs(c - n * s) <= 1 for c, s in zip(counts, (0.5, 0.2, 0.3), strict=True))


def test_audit_knows_the_majority(small_set):
    items = load_items(small_set)
    table = audit_labels(items).set_index("predictor")
    labels = [s.function for item in items for s in item.steps]
    assert table.loc["majority", "accuracy"] == pytest.approx(max(map(labels.count, labels)) / len(labels))
    assert table["accuracy"].between(0, 1).all()


def test_pictures_open_mirror_and_complain(small_set):
    from dataclasses import replace

    import numpy as np

    item = load_items(small_set)[0]
    plain, flipped = (np.asarray(open_image(i)) for i in (item, replace(item, mirror=True)))
    assert (plain[:, ::-1] == flipped).all()
    with pytest.raises(ValueError, match="cannot read the picture"):
        open_image(replace(item, image=b"not a picture"))
    with pytest.raises(ValueError, match="download the picture"):
        open_image(replace(item, image="https://example.org/x.png"))
