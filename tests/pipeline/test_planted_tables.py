"""What planted heads do, against a scorer called by hand, for a truth that is made up."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from own_data import FEW

from cogvsr_utils.checks.known_heads import PlantedTruth
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.head_edits import mask
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline import planted
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.protocol import Importance
from cogvsr_utils.pipeline.sweeps import scorer_of

TRUTH = PlantedTruth("joint", {NAMES[0]: [(3, 1), (5, 2), (6, 0)], NAMES[1]: [(4, 4)]} | {n: [] for n in NAMES[2:]})


@pytest.fixture
def experiment(small_set, vlm, monkeypatch):
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)
    monkeypatch.setattr(planted, "planted_truth", lambda name: TRUTH)
    return Experiment("nano-internvl", profile=FEW, source=str(small_set))


def test_parts_of_a_set_are_ablated_alone_and_spared_alone(experiment):
    table = planted.planted_parts.make(experiment)
    assert table.groupby(["function", "parts"]).size().to_dict() == {
        (NAMES[0], "all"): 1, (NAMES[0], "one"): 3, (NAMES[0], "all but one"): 3, (NAMES[1], "all"): 1,
    }  # fmt: skip
    scorer = scorer_of(experiment, "C", 4 * experiment.settings.ablation_items)
    own = (scorer.index["function"] == NAMES[0]).to_numpy()
    intact, spared = scorer.score(), scorer.score(mask([(3, 1), (6, 0)]))
    row = table[(table["parts"] == "all but one") & (table["head"] == "5.2")].iloc[0]
    assert row["delta_log_prob"] == pytest.approx((spared.log_prob - intact.log_prob)[own].mean(), abs=1e-4)
    assert row["after"] == spared.correct[own].mean() and row["k"] == 2 and row["n"] == own.sum()
    answers = [
        item.steps[step].answer
        for item in experiment.items("C")
        for uid, step in scorer.index.loc[own, ["uid", "step"]].itertuples(index=False)
        if uid == item.uid
    ]
    assert row["majority"] == pytest.approx(Counter(answers).most_common(1)[0][1] / len(answers))


def test_effects_have_every_function_under_every_set_and_under_heads_that_carry_nothing(experiment, vlm):
    table = planted.planted_effects.make(experiment)
    assert set(table["ablated"]) == {NAMES[0], NAMES[1], "other heads"}
    assert table.groupby("ablated")["set"].nunique().to_dict() == {
        NAMES[0]: 1, NAMES[1]: 1, "other heads": planted.RANDOM_SETS,
    }  # fmt: skip
    scorer = scorer_of(experiment, "C", 4 * experiment.settings.ablation_items)
    change = scorer.score(mask(TRUTH.heads[NAMES[1]])).log_prob - scorer.score().log_prob
    for name, rows in table[table["ablated"] == NAMES[1]].groupby("function"):
        own = (scorer.index["function"] == name).to_numpy()
        assert rows["delta_log_prob"].iloc[0] == pytest.approx(change[own].mean(), abs=1e-4)
    assert np.isfinite(table["delta_log_prob"]).all() and (table["low"] <= table["change"]).all()


def test_the_papers_preset_is_scored_by_the_size_of_its_importance(experiment, vlm):
    """Whatever the order of its functions and the sign of importance."""
    pairs, functions = vlm.heads.pairs, np.array(sorted(NAMES))
    importance = np.random.default_rng(0).uniform(-1, 1, (len(NAMES), len(pairs)))
    for sign, head in zip((-3, 2, 4), TRUTH.heads[NAMES[0]], strict=True):
        importance[sorted(NAMES).index(NAMES[0]), pairs.index(head)] = sign
    importance[sorted(NAMES).index(NAMES[1]), pairs.index((4, 4))] = 0.0
    captured = SimpleNamespace(heads=vlm.heads)
    table = planted.preset_scores.make(experiment, captured, Importance(functions, importance, np.array(0.5)))
    by_function = table.set_index("function")
    assert by_function.loc[NAMES[0], "precision"] == 1 and by_function.loc[NAMES[0], "rank"] == 1.0
    assert by_function.loc[NAMES[1], "rank"] == len(pairs) - 1 and set(table["method"]) == {planted.PRESET}
