"""Harder by where the camera stands: the table is what a model answers there, and the camera is chosen on B alone."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from own_data import FEW

from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.synth.cameras import SHIFTS, from_aside
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models import answering
from cogvsr_utils.models.head_edits import scale, steer
from cogvsr_utils.models.recording import capture
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.pipeline import cameras, emphasis
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings


@pytest.fixture
def experiment(small_set, vlm, monkeypatch):
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)
    return Experiment("nano-internvl", profile=FEW, source=str(small_set))


def table_of(b: dict[float, float], c: dict[float, float]) -> pd.DataFrame:
    rows = [(split, shift, SPATIAL[0], share) for split, by in (("B", b), ("C", c)) for shift, share in by.items()]
    return pd.DataFrame(rows, columns=["split", "shift", "function", "accuracy"])


def test_accuracy_is_that_of_the_answers_by_hand(experiment, vlm):
    table = cameras.camera_accuracy.make(experiment)
    seen = from_aside(experiment.items("C"))
    right = {shift: judge(answering.answer(vlm, seen[shift])).set_index(["uid", "step"]) for shift in (0.0, 2.4)}
    row = table.set_index(["split", "shift", "function"]).loc[("C", 2.4, SPATIAL[0])]
    own = right[0.0]["function"] == SPATIAL[0]
    before, after = (right[shift]["correct"][own].astype(float) for shift in (0.0, 2.4))
    assert row["n"] == own.sum() and row["accuracy"] == pytest.approx(after.mean())
    assert row["change"] == pytest.approx((after - before).mean())
    assert row["low"] <= row["accuracy"] <= row["high"] and row["change_low"] <= row["change"] <= row["change_high"]


def test_the_camera_is_chosen_on_b():
    b, c = {0.0: 0.95, 1.6: 0.63, 2.4: 0.52}, {0.0: 0.6, 1.6: 0.2, 2.4: 0.6}
    assert cameras.half_right(table_of(b, c)) == 1.6


def test_emphasis_asks_what_the_chosen_camera_shows(experiment, vlm, items, answers, monkeypatch, tmp_path):
    monkeypatch.setattr(emphasis, "DRAWS", 1)
    asked, answer = [], answering.answer
    monkeypatch.setattr(answering, "answer", lambda vlm, some, **more: asked.append(some) or answer(vlm, some, **more))
    store = capture(vlm, items, store=tmp_path / "store", answers=answers)
    store = replace(store, index=store.index.assign(correct=np.arange(len(store.index)) % 2 == 0))
    rankings = Rankings(np.array(sorted(NAMES)), np.array(vlm.heads.pairs), {IMPORTANCE: np.ones((8, len(vlm.heads)))})
    best = pd.DataFrame({"split": ["B", "C"], "strength": [9.0, 1.5]})
    half = table_of(dict.fromkeys(SHIFTS, 0.9) | {2.4: 0.55}, {})
    table = cameras.camera_emphasis.make(
        experiment, rankings=rankings, activations=store, scaled=best, steered=best, camera_accuracy=half
    )
    shown = [item.image for item in from_aside(experiment.items("C"))[2.4]]
    assert len(asked) == 1 + 4 + 5 and all([item.image for item in each] == shown for each in asked)
    assert {"scale", "steer"} == set(table["method"]) and {"spatial", "other", "all"} == set(table["heads"])


def test_gains_are_those_of_the_edits_beside_them(experiment, vlm, items, answers, tmp_path):
    store = capture(vlm, items, store=tmp_path / "store", answers=answers)
    store = replace(store, index=store.index.assign(correct=np.arange(len(store.index)) % 2 == 0))
    strength = np.random.default_rng(0).random((8, len(vlm.heads)))
    rankings = Rankings(np.array(sorted(NAMES)), np.array(vlm.heads.pairs), {IMPORTANCE: strength})
    best = {name: pd.DataFrame({"split": ["B", "C"], "strength": [9.0, size]})
            for name, size in (("scaled", 1.5), ("steered", 2.0))}  # fmt: skip
    half, few = table_of(dict.fromkeys(SHIFTS, 0.9) | {2.4: 0.55}, {}), replace(FEW, random_sets=2)
    table = cameras.camera_gains.make(
        replace(experiment, profile=few, _cache={}), rankings=rankings, activations=store, camera_accuracy=half, **best
    ).set_index(["method", "heads", "direction", "function"])
    assert (table.xs("random", level="direction")["draws"] == few.random_sets).all()
    scorer = TeacherForcedScorer(vlm, from_aside(experiment.items("C"))[2.4])
    own = (scorer.index["function"] == SPATIAL[0]).to_numpy()
    spatial, every = emphasis.spatial_heads(rankings), vlm.heads.pairs
    intact, share = scorer.score(), len(spatial) / len(every)
    ahead = emphasis.spatial_directions(store, every)
    mine = [ahead[every.index(head)] for head in spatial]
    edits = {
        ("scale", cameras.OWN, ""): scale(spatial, 1.5),
        ("scale", cameras.OWN, "back"): scale(spatial, 1 / 1.5),
        ("scale", cameras.ALL, ""): scale(every, 1.5),
        ("scale", cameras.THIN, ""): scale(every, 1 + 0.5 * share),
        ("steer", cameras.OWN, "towards right"): steer(spatial, mine, 2.0, "all"),
        ("steer", cameras.OWN, "back"): steer(spatial, mine, -2.0, "all"),
        ("steer", cameras.ALL, "towards right"): steer(every, ahead, 2.0, "all"),
        ("steer", cameras.THIN, "towards right"): steer(every, ahead, 2.0 * share, "all"),
    }
    for key, edit in edits.items():
        row, scores = table.loc[(*key, SPATIAL[0])], scorer.score(edit)
        expected = (scores.log_prob - intact.log_prob)[own].mean()
        assert row["delta_log_prob"] == pytest.approx(expected, abs=1e-5), key
        assert row["right"] == pytest.approx(intact.correct[own].mean()) and row["n"] == own.sum()
        assert row["change"] == pytest.approx((scores.correct[own] * 1.0 - intact.correct[own]).mean())
    beside = table["draws"] > 1
    assert beside.any() and table.loc[beside, "p"].between(0, 1).all() and table.loc[~beside, "p"].isna().all()
    drawn = [edit.heads for _, name, *_, edit in cameras._emphases(every, spatial, {}, {"scale": 1.5}, 4)
             if name == cameras.OTHER]  # fmt: skip
    assert len({*drawn}) == 4 and all(len(some) == len(spatial) and not set(some) & set(spatial) for some in drawn)
