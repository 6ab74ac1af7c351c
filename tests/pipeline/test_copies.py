"""Copies of benchmarks asked in shards: the same as at once, in any order, and nothing twice."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvsr_utils import Experiment, load_items
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.models import answering, options
from cogvsr_utils.pipeline import benchmarks, copies
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline.copies import Shard, copies_in, copy_effects, shard_replies


@pytest.fixture
def root(small_set, tmp_path):
    write_lookalikes(load_items(small_set), tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def experiment(vlm, tmp_path, monkeypatch):
    """One whose heads are given, so that nothing has to be selected first."""
    monkeypatch.setattr(Experiment, "folder", tmp_path / "kept")
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)  # in full precision on every device
    heads = vlm.heads.pairs

    def few(experiment, rankings, scaled, boxes):
        return benchmarks.conditions(heads, heads[:9], 1.5, 1, boxes)

    monkeypatch.setattr(copies, "spatial_conditions", few)
    monkeypatch.setattr(benchmarks, "THOUGHT", 4)
    monkeypatch.setattr(copies, "rankings", lambda experiment: None)
    monkeypatch.setattr(copies.emphasis, "scaled", lambda experiment: None)
    return Experiment("nano-internvl")


def test_shards_in_any_order_give_what_one_run_gives_and_nothing_is_asked_twice(experiment, root, monkeypatch):
    monkeypatch.setattr(copies, "KEPT_AT_ONCE", 2)
    whole_items, _ = shard_replies(experiment, "vsr", root, Shard(2, 3))
    shard_replies(experiment, "vsr", root, Shard(1, 3))
    with monkeypatch.context() as patched:
        patched.setattr(answering, "_converse", lambda *_: pytest.fail("asked again"))
        patched.setattr(options, "_read", lambda *_: pytest.fail("read again"))
        again, _ = shard_replies(experiment, "vsr", root, Shard(2, 3))
        assert again == whole_items
    items, replies = shard_replies(experiment, "vsr", root)  # the third shard is asked now
    assert {item.uid for item in items} == set(replies["uid"])
    with monkeypatch.context() as patched:
        patched.setattr(Experiment, "folder", experiment.folder / "alone")
        alone_items, alone = shard_replies(experiment, "vsr", root)
    order = ["condition", "how", "uid"]
    one, other = (each.sort_values(order).reset_index(drop=True) for each in (replies, alone))
    assert alone_items == items and one[[*order, "prediction"]].equals(other[[*order, "prediction"]])
    np.testing.assert_allclose(one["covered"], other["covered"], atol=1e-4)


def test_other_weights_pictures_or_edits_are_asked_anew(experiment, root, monkeypatch):
    shard_replies(experiment, "vsr", root)
    asked = []
    answer = answering._converse

    def counted(vlm, batch, room):
        asked.extend(item.uid for item in batch)
        return answer(vlm, batch, room)

    monkeypatch.setattr(answering, "_converse", counted)
    monkeypatch.setattr(
        copies,
        "spatial_conditions",
        lambda *_: benchmarks.conditions(experiment.vlm.heads.pairs, experiment.vlm.heads.pairs[:2], 1.5, 0),
    )
    items, _ = shard_replies(experiment, "vsr", root)
    assert len(asked) == 2 * len(items), "ablated and scaled, with other heads"
    asked.clear()
    table = root / "vsr" / "test.jsonl"
    table.write_text("\n".join(table.read_text().splitlines()[1:]))
    shard_replies(experiment, "vsr", root)
    assert asked


def test_every_copy_is_scored(experiment, root):
    for name in ("spatialeval", "spatial457", "3dsrbench"):
        (root / name).rename(root / f"not {name}")
    table = root / "cogvsr" / "cogvsr.json"
    table.write_text(json.dumps(json.loads(table.read_text())[:8]))
    scores = copy_effects(experiment, root)
    assert set(scores["benchmark"]) == {"vsr", "cogvsr"} == set(copies_in(root))
    assert "Spatial Score" in set(scores.loc[scores["benchmark"] == "cogvsr", "protocol"])
    without = set(scores.loc[scores["benchmark"] == "cogvsr", "condition"])
    assert "without steps" in without and "after thinking" not in without
    assert "after thinking" in set(scores.loc[scores["benchmark"] == "vsr", "condition"])
    with pytest.raises(FileNotFoundError, match="no copy of a benchmark"):
        copies_in(root / "vsr")
    with pytest.raises(FileNotFoundError, match="no copy of 3dsrbench"):
        shard_replies(experiment, "3dsrbench", root)


@given(st.integers(1, 9), st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_shards_are_disjoint_whole_and_keep_groups_together(total, groups):
    items = [Item(str(n), "vsr", str(group), "?", "yes", "yesno", []) for n, group in enumerate(groups)]
    parts = [Shard(number, total).of(items) for number in range(1, total + 1)]
    assert sorted(item.uid for part in parts for item in part) == sorted(item.uid for item in items)
    own = [{item.group_id for item in part} for part in parts]
    assert pd.Series([group for groups in own for group in groups]).is_unique


@pytest.mark.parametrize(("number", "total"), [(0, 1), (3, 2), (1, 0)])
def test_a_shard_that_is_not_there_is_refused(number, total):
    with pytest.raises(ValueError, match=f"shard {number} of {total}"):
        Shard(number, total)
