"""Emphasis beside its controls: the edits are what each row says, and the changes are theirs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from own_data import FEW

from cogvsr_utils import paths
from cogvsr_utils.dataset.jsonl import write_items
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models import answering
from cogvsr_utils.models.head_edits import scale
from cogvsr_utils.models.recording import capture
from cogvsr_utils.pipeline import emphasis
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings


@pytest.fixture
def made(small_set, vlm, items, answers, monkeypatch, tmp_path):
    """The table of controls, the edits that made it in order, the spatial heads, hard items and replies to them."""
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    experiment = Experiment("nano-internvl", profile=FEW, source=str(small_set))
    strength = np.random.default_rng(0).random((8, len(vlm.heads)))
    rankings = Rankings(np.array(sorted(NAMES)), np.array(vlm.heads.pairs), {IMPORTANCE: strength})
    store = capture(vlm, items, store=tmp_path / "store", answers=answers)
    store = replace(store, index=store.index.assign(correct=np.arange(len(store.index)) % 2 == 0))
    seen = {item.group_id for split in "AB" for item in experiment.items(split)}
    hard = [item for item in experiment.items("hard") if item.group_id not in seen]
    assert 0 < len(hard) < len(experiment.items("hard"))
    before, edits = judge(answering.answer(vlm, experiment.items("hard"))), []
    answer = answering.answer
    monkeypatch.setattr(
        answering, "answer", lambda *args, **given: edits.append(given["edits"]) or answer(*args, **given)
    )
    best = {
        name: pd.DataFrame({"split": ["B", "C"], "strength": [9.0, size]})
        for name, size in (("scaled", 1.5), ("steered", 2.0))
    }
    table = emphasis.emphasis_controls.make(experiment, rankings=rankings, activations=store, answers=before, **best)
    return table, edits, emphasis.spatial_heads(rankings), hard, before


def test_edits_are_what_each_row_says(made, vlm):
    table, edits, spatial, _, _ = made
    cases = table.drop_duplicates(["method", "heads", "direction", "strength", "draw"]).reset_index()
    assert len(cases) == len(edits) == 2 * (2 + 3 + 1) + 3
    by_case = {(c.method, c.heads, c.direction, c.strength): e for c, e in zip(cases.itertuples(), edits, strict=True)}
    drawn = (cases["method"] == "scale") & (cases["heads"] == "other")
    assert len({edits[i].heads for i in np.flatnonzero(drawn)}) == 3
    assert set(by_case["scale", "spatial", "", 1.5].heads) == set(spatial)
    assert by_case["scale", "spatial", "", 1 / 1.5].factor == pytest.approx(1 / 1.5)
    other = set(by_case["scale", "other", "", 1.5].heads)
    assert len(other) == len(spatial) and not other & set(spatial)
    assert len(by_case["steer", "all", "towards right", 2.0].heads) == len(vlm.heads)
    ahead, back, random = (
        np.array(by_case["steer", "spatial", *rest].shift)
        for rest in (("towards right", 2.0), ("towards right", -2.0), ("random", 2.0))
    )
    np.testing.assert_allclose(ahead, -back)
    np.testing.assert_allclose(np.linalg.norm(random, axis=1), np.linalg.norm(ahead, axis=1), rtol=1e-5)
    cosine = (random * ahead).sum(1) / (np.linalg.norm(ahead, axis=1) ** 2)
    assert np.abs(cosine).mean() < 0.6


def test_changes_are_those_of_the_answers_by_hand(made, vlm):
    table, _, spatial, hard, before = made
    after = judge(answering.answer(vlm, hard, edits=scale(spatial, 1.5)))
    both = before.merge(after[["uid", "step", "correct"]], on=["uid", "step"], suffixes=("", "_after"))
    own = both[both["function"] == SPATIAL[0]]
    row = table[(table["heads"] == "spatial") & (table["strength"] == 1.5) & (table["function"] == SPATIAL[0])].iloc[0]
    assert row["n"] == len(own) and row["change"] == pytest.approx((own["correct_after"] * 1.0 - own["correct"]).mean())


def test_where_all_spatial_answers_are_right_nothing_is_steered(vlm, items, answers, small_set, tmp_path):
    """There is no direction from wrong to right ones; scaling needs none."""
    store = capture(vlm, items, store=tmp_path / "store", answers=answers)
    store = replace(store, index=store.index.assign(correct=True))
    scaled = pd.DataFrame({"function": ["a"], "change": 0.0, "split": "C", "strength": 1.5, "method": "scale"})
    rankings = Rankings(np.array(sorted(NAMES)), np.array(vlm.heads.pairs), {IMPORTANCE: np.ones((8, len(vlm.heads)))})
    found = emphasis.steered.make(
        Experiment("nano-internvl", profile=FEW, source=str(small_set)), rankings=rankings, activations=store,
        scaled=scaled, tuning=pd.DataFrame(), test=pd.DataFrame(),
    )  # fmt: skip
    assert len(found) == 0 and list(found) == list(scaled)


def test_where_all_hard_questions_are_about_scenes_of_a_or_b_nothing_is_asked(vlm, small_set, tmp_path):
    items = [replace(item, image=None) for item in load_items(small_set)]
    first = next(item for item in items if item.split == "A")
    items = [replace(item, group_id=first.group_id) if item.split == "hard" else item for item in items]
    write_items(tmp_path / "mine.jsonl", items)
    scaled = pd.DataFrame({"function": ["a"], "change": 0.0, "split": "C", "strength": 1.5, "method": "scale"})
    found = emphasis.emphasis_controls.make(
        Experiment("nano-internvl", profile=FEW, source=str(tmp_path / "mine.jsonl")), rankings=None, activations=None,
        answers=pd.DataFrame(columns=["uid"]), scaled=scaled, steered=scaled,
    )  # fmt: skip
    assert len(found) == 0 and {"heads", "direction", "draw"} <= set(found)
