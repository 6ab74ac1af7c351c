import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvsr_utils.dataset.audit import audit_labels
from cogvsr_utils.dataset.jsonl import read_items
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.dataset.splits import split_groups
from cogvsr_utils.dataset.synth.build import build_synth
from cogvsr_utils.paths import ROOT


def test_same_settings_same_bytes(small_set, tmp_path):

    (tmp_path / "elsewhere" / "images").mkdir(parents=True)
    (tmp_path / "elsewhere" / "images" / ".00000_map.99.part.png").write_bytes(b"half")  # as a killed builder leaves it
    other = build_synth(tmp_path / "elsewhere", n_items=60, size=64, seed=7)
    assert other.read_bytes() == small_set.read_bytes()
    assert not list(other.parent.rglob(".*.part*"))
    picture = read_items(small_set)[0].image
    assert (other.parent / "images" / picture.rsplit("/", 1)[1]).read_bytes() == Path(picture).read_bytes()


def test_workers_that_import_the_script_say_what_to_do(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import multiprocessing\nmultiprocessing.set_start_method('spawn', force=True)\n"
        "from pathlib import Path\nfrom cogvsr_utils import load_items\nfrom cogvsr_utils.dataset.synth import build\n"
        "build.SYNTH = Path('set')\nload_items('synth')\n"
    )
    running = subprocess.Popen(
        [sys.executable, "mine.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert any("expected what that script does under `if __name__" in line for line in running.stderr)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


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
    with pytest.raises(FileNotFoundError, match='expected "synth", the path'):
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
