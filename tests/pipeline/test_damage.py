"""Specific damage on made-up scores, where what is specific is known, and the scores themselves against a scorer."""

import numpy as np
import pandas as pd
import pytest
from own_data import FEW

from cogvsr_utils import paths
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.interventions import mask
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.pipeline import damage
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings

N_WORDINGS, N_STEPS = 8, 6


def made_up(delta):
    """Scores in which set s changes the log-probability of function f's wording w by ``delta(s, f, w)``, and a
    little."""
    rng = np.random.default_rng(0)
    rows = [(f, w) for f in range(8) for w in range(N_WORDINGS) for _ in range(N_STEPS)]
    change = np.array([[delta(s, f, w) for f, w in rows] for s in range(8)]) + rng.normal(0, 0.05, (8, len(rows)))
    log_prob = np.concatenate([np.zeros((1, len(rows))), change]) - 1.0
    return damage.SetAblations(
        np.ones_like(log_prob, dtype=bool), log_prob, np.arange(len(rows)).astype(str), np.zeros(len(rows), dtype=int),
        np.array([NAMES[f] for f, _ in rows]), np.array([f"{f} {w}" for f, w in rows]),
    )  # fmt: skip


def test_what_is_specific_is_found_and_what_only_looks_so_is_not():
    def delta(s, f, w):
        if f == 5:
            return -1.0  # hurt by all sets alike
        if s < 4:
            return -1.0 * (s == f)  # specific
        if s == 4:
            return -1.0  # hurts all steps alike
        if s == 6:
            return -8.0 * (f == 6 and w == 0)  # one wording, though on all of its steps
        return 1.0 * (s == f)  # helps

    table = damage.specific_damage.make(Experiment("nano-internvl"), set_ablations=made_up(delta))
    assert table["function"].tolist() == list(NAMES) and (table["wordings"] == N_WORDINGS).all()
    assert table["specific"].tolist() == ["yes"] * 4 + ["no"] * 4
    assert table["own"].tolist() == pytest.approx([-1, -1, -1, -1, -1, -1, -1, 1], abs=0.1)
    assert table["other_steps"][4] == pytest.approx(-1, abs=0.1) and table["other_sets"][5] == pytest.approx(
        -1, abs=0.1
    )
    assert (table["steps_low"] <= table["steps"]).all() and (table["sets"] <= table["sets_high"]).all()


def test_the_differences_are_those_of_means_by_wording():
    scores = made_up(lambda s, f, w: -(s + 1) * 0.1 * (w + 1) * (1 + (s == f)))
    row = damage.specific_damage.make(Experiment("nano-internvl"), set_ablations=scores).iloc[2]
    change = scores.log_prob[1:] - scores.log_prob[0]

    def by_wording(s, functions):
        return [change[s, scores.wording == f"{f} {w}"].mean() for f in functions for w in range(N_WORDINGS)]

    own, others = by_wording(2, [2]), by_wording(2, [f for f in range(8) if f != 2])
    other_sets = np.mean([by_wording(s, [2]) for s in range(8) if s != 2], axis=0)
    assert row["steps"] == pytest.approx(np.mean(own) - np.mean(others))
    assert row["sets"] == pytest.approx(np.mean(own) - np.mean(other_sets))
    half = 2.3646 * np.std(np.array(own) - other_sets, ddof=1) / np.sqrt(N_WORDINGS)  # Student's t of 7 degrees
    assert row["sets_high"] - row["sets"] == pytest.approx(half, rel=1e-3)


def test_one_wording_alone_settles_nothing():
    scores = made_up(lambda s, f, w: -1.0 * (s == f))
    alone = damage.SetAblations(**vars(scores) | {"wording": scores.function})
    table = damage.specific_damage.make(Experiment("nano-internvl"), set_ablations=alone)
    assert (table["p"] == 1).all() and (table["specific"] == "no").all()


def test_sets_are_ablated_and_generated_answers_told_from_forced_ones(small_set, vlm, monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    experiment = Experiment("nano-internvl", profile=FEW, source=str(small_set))
    functions = np.array(sorted(NAMES))
    strength = np.random.default_rng(0).random((8, len(vlm.heads)))
    rankings = Rankings(functions, np.array(vlm.heads.pairs), {IMPORTANCE: strength})
    found = damage.set_ablations.make(experiment, rankings=rankings)
    scorer = TeacherForcedScorer(vlm, experiment.items("C"))
    number, name = 3, NAMES[3]
    order = np.argsort(-strength[list(functions).index(name)])[: n_top(len(vlm.heads))]
    by_hand = scorer.index.assign(log_prob=scorer.score(mask([vlm.heads.pairs[i] for i in order])).log_prob)
    both = pd.DataFrame({"uid": found.uid, "step": found.step, "given": found.log_prob[1 + number]})
    both = both.merge(by_hand, on=["uid", "step"])
    assert len(both) == len(scorer.index)
    np.testing.assert_allclose(both["given"], both["log_prob"], atol=1e-4)
    replies = pd.DataFrame({"uid": found.uid, "step": found.step, "function": found.function, "group_id": found.uid,
                            "correct": True})  # fmt: skip
    ablated = {f"ablated_{i}": replies.assign(correct=False) for i in range(8)}
    table = damage.generated_and_forced.make(experiment, set_ablations=found, answers=replies, **ablated)
    row, own = table.set_index("function").loc[name], found.function == name
    forced = found.correct[1 + number][own].mean() - found.correct[0][own].mean()
    assert row["n"] == own.sum() and row["generated"] == -1 and row["forced"] == pytest.approx(forced)
    assert row["inherited"] == pytest.approx(-1 - forced)
