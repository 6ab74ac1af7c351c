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
from cogvsr_utils.models.head_edits import scale
from cogvsr_utils.models.patching import move_heads
from cogvsr_utils.models.recording import capture
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.pipeline import cameras, emphasis
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings
from cogvsr_utils.stats import single_case_p


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
    )
    table = table[table["function"] == SPATIAL[0]].set_index(["method", "heads", "direction"])

    scorer = TeacherForcedScorer(vlm, from_aside(experiment.items("C"))[2.4])
    own, intact = (scorer.index["function"] == SPATIAL[0]).to_numpy(), scorer.score()
    spatial, every = emphasis.spatial_heads(rankings), vlm.heads.pairs
    ahead = dict(zip(every, emphasis.spatial_directions(store, every), strict=True))
    share, right = len(spatial) / len(every), "towards right"

    def scaled(heads, factor):
        return scorer.score(scale(heads, factor))

    def moved(heads, size):
        return move_heads(scorer, [{head: size * ahead[head] for head in heads}])[0]

    by_hand = {
        ("scale", cameras.OWN, ""): scaled(spatial, 1.5), ("scale", cameras.OWN, "back"): scaled(spatial, 1 / 1.5),
        ("scale", cameras.ALL, ""): scaled(every, 1.5), ("scale", cameras.THIN, ""): scaled(every, 1 + 0.5 * share),
        ("steer", cameras.OWN, right): moved(spatial, 2.0), ("steer", cameras.OWN, "back"): moved(spatial, -2.0),
        ("steer", cameras.ALL, right): moved(every, 2.0), ("steer", cameras.THIN, right): moved(every, 2.0 * share),
    }  # fmt: skip
    for key, scores in by_hand.items():
        row = table.loc[key]
        assert row["delta_log_prob"] == pytest.approx((scores.log_prob - intact.log_prob)[own].mean(), abs=1e-5), key
        assert row["right"] == pytest.approx(intact.correct[own].mean()) and row["n"] == own.sum()
        assert row["change"] == pytest.approx((scores.correct[own] * 1.0 - intact.correct[own]).mean())
        assert row["draws"] == 1 and np.isnan(row["p"])

    cases = list(cameras._emphases(every, spatial, ahead, {"scale": 1.5, "steer": 2.0}, 2))
    runs = {"scale": lambda heads: scaled(heads, 1.5), "steer": lambda vectors: move_heads(scorer, [vectors])[0]}
    random = [("scale", cameras.OTHER, ""), ("steer", cameras.OTHER, right), ("steer", cameras.OWN, "random")]
    for key in random:
        drawn = [case[-1] for case in cases if case[:3] == key]
        values = [(runs[key[0]](each).log_prob - intact.log_prob)[own].mean() for each in drawn]
        row, mine = table.loc[key], table.loc[(key[0], cameras.OWN, right if key[0] == "steer" else "")]
        assert row["draws"] == 2 == len(values) and row["delta_log_prob"] == pytest.approx(np.mean(values), abs=1e-5)
        assert row["p"] == pytest.approx(single_case_p(mine["delta_log_prob"], values), rel=0.05)
        if key[1] == cameras.OTHER:
            assert all(len(some) == len(spatial) and not set(some) & set(spatial) for some in drawn)
        else:
            assert all(np.linalg.norm(some[head]) == pytest.approx(2 * np.linalg.norm(ahead[head]))
                       for some in drawn for head in spatial)  # fmt: skip
    assert len(table) == len(by_hand) + len(random)
