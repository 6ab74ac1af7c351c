"""What departs from the paper's protocol: cases against what is known of made-up activations and of edits by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from own_data import FEW
from scipy.stats import spearmanr

from cogvsr_utils import paper, paths
from cogvsr_utils.analysis.joint_probe import FunctionProbe
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.head_edits import mask
from cogvsr_utils.models.head_map import HeadMap
from cogvsr_utils.models.recording import capture
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline import protocol
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings
from cogvsr_utils.stats import elbow

FUNCTIONS = np.array(sorted(NAMES))


def made_up(seed):
    """Activations of 160 steps in 16 heads 4 wide; head f carries function f, head 8 + f nothing, on a large offset."""
    rng, function = np.random.default_rng(seed), np.tile(FUNCTIONS, 20)
    features = rng.normal(size=(160, 16, 4)) + 3.0
    for number, name in enumerate(FUNCTIONS):
        features[function == name, number] += 2.0
    heads = pd.DataFrame({"layer": np.repeat([0, 1], 8), "head": np.tile(np.arange(8), 2), "n_heads": 8, "head_dim": 4})
    heads["start"] = 4 * heads["head"]
    index = pd.DataFrame({"function": function, "group_id": np.arange(160).astype(str)})
    return Made(features.reshape(160, -1).astype(np.float16), index, heads)


class Made(HeadActivations):
    """Activations without a store."""

    def __init__(self, features, index, heads):
        for name, value in (("features", features), ("index", index), ("header", {})):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "heads", HeadMap(heads))

    def by_head(self):
        return self.features.reshape(len(self.features), 16, 4).astype(np.float32)


def fitted(made, **options):
    """A probe by hand: its importance's size and its accuracy on scenes that it did not see."""
    x, y = made.by_head(), made.index["function"].to_numpy()
    probe = FunctionProbe(**options).fit(x, y, made.index["group_id"], np.repeat([0, 1], 8))
    return np.abs(probe.importance_), probe.score(x[probe.read_], y[probe.read_])


def test_each_departure_is_undone_alone_and_measured_against_this_books_probe():
    here, other = made_up(0), made_up(1)
    given = protocol.Importance(FUNCTIONS, np.tile(np.eye(16)[0], (8, 1)), np.array(0.25))
    table = protocol.probe_deviations.make(
        Experiment("nano-internvl"), activations=here, paper_activations=other, paper_importance=given
    ).set_index("case")
    reference, accuracy = fitted(here)
    by_hand = {
        protocol.HERE: (reference, accuracy), "other scenes kept out": fitted(here, seed=1),
        "the paper's tokens": fitted(other), "inputs not standardised": fitted(here, standardize=False),
        "the paper's optimiser": fitted(here, lr=1e-4, batch_size=32),
    }  # fmt: skip
    for case, (size, reached) in by_hand.items():
        row = table.loc[case]
        assert row["accuracy"] == pytest.approx(reached)
        assert row["spearman"] == pytest.approx(
            np.mean([spearmanr(a, b).statistic for a, b in zip(size, reference, strict=True)])
        )
        tops = [[set(np.argsort(-each, kind="stable")[:2]) for each in both] for both in (size, reference)]
        assert row["shared"] == np.mean([len(a & b) / 2 for a, b in zip(*tops, strict=True)])
    start = table.loc["another start of the weights"]
    assert start["spearman"] < 0.999 and start["accuracy"] == pytest.approx(fitted(here, n_seeds=2)[1])
    together = table.loc[protocol.TOGETHER]
    assert together["accuracy"] == 0.25 and together["above"] == 1 / 16 and (table["chance"] == 2 / 16).all()
    assert accuracy > 0.8 > 1 / 8


def test_inputs_as_they_are_reach_the_probe():
    made = made_up(0)
    x, y = made.by_head(), made.index["function"].to_numpy()
    layers = np.repeat([0, 1], 8)
    plain, standard = (
        FunctionProbe(epochs=1, standardize=on).fit(x, y, made.index["group_id"], layers) for on in (False, True)
    )
    assert (plain.mean_ == 0).all() and (plain.std_ == 1).all()
    np.testing.assert_allclose(standard.mean_.numpy(), x[~standard.read_].mean(0), rtol=1e-4)


def test_the_papers_tokens_are_the_least_expected_ones_where_they_stand(vlm, items, answers, tmp_path):
    """Three at most; an answer of one token is read at it, whatever was expected."""
    store = capture(vlm, items, store=tmp_path / "paper", answers=answers, **paper.READING)
    every = capture(vlm, items, store=tmp_path / "all", answers=answers, at="reads", pool="token")
    assert (store.index["n_tokens"] <= 3).all()
    where = [pd.MultiIndex.from_frame(each.index[["uid", "step"]]) for each in (store, every)]
    single = where[1].drop_duplicates(keep=False)  # of one token
    assert len(single) > 5
    rows = [np.flatnonzero(each.isin(single)) for each in where]
    assert where[0][rows[0]].equals(where[1][rows[1]])
    np.testing.assert_allclose(store.features[rows[0]], every.features[rows[1]], rtol=2e-3, atol=2e-3)


def test_spatial_heads_are_ablated_as_each_case_says(small_set, vlm, monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    experiment = Experiment("nano-internvl", profile=replace(FEW, ablation_items=4), source=str(small_set))
    pairs, strength = vlm.heads.pairs, np.full((8, len(vlm.heads)), 1e-6)
    spatial = [list(FUNCTIONS).index(name) for name in SPATIAL]
    strength[spatial[0], 5], strength[spatial[1], 30] = 1.0, 1.0  # one head stands out in each
    rankings = Rankings(FUNCTIONS, np.array(pairs), {IMPORTANCE: strength})
    before = judge(answer(vlm, experiment.items("C")))
    found = protocol.Importance(FUNCTIONS, strength, np.array(0.5))
    table = protocol.ablation_deviations.make(experiment, rankings=rankings, answers=before, paper_importance=found)
    by_case = table.drop_duplicates("case").set_index("case")
    k = n_top(len(pairs))
    assert by_case.loc[protocol.HERE, "heads"] == 2 * k - len(set(range(k)) - {5, 30})  # ties are taken in order
    assert by_case.loc[protocol.HERE, "scope"] == by_case.loc["heads before the elbow", "scope"] == "all"
    beside = table[table["case"] == protocol.BESIDE].set_index("function")
    for case, column in ((protocol.HERE, "accuracy_before"), (protocol.LAST, "accuracy_after")):
        alone = table[table["case"] == case].set_index("function")["accuracy_after"]
        assert np.allclose(beside[column], alone[beside.index])
    few = by_case.loc[protocol.TOGETHER]
    tops = (np.argsort(-strength[f], kind="stable")[: elbow(strength[f])] for f in spatial)
    chosen = {pairs[i] for top in tops for i in top}
    assert few["scope"] == "answer" and few["heads"] == len(chosen)
    after = judge(answer(vlm, experiment.items("C"), edits=mask(sorted(chosen), scope="answer")))
    after = after.set_index(["uid", "step"])["correct"]
    own = before[before["function"] == SPATIAL[0]].set_index(["uid", "step"])["correct"]
    change = (after.loc[own.index].astype(float) - own).mean()
    row = table[(table["case"] == protocol.TOGETHER) & (table["function"] == SPATIAL[0])].iloc[0]
    assert row["change"] == pytest.approx(change)
