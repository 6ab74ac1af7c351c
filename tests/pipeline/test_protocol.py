"""What departs from the paper's protocol: cases against what is known of made-up activations and of edits by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from own_data import FEW

from cogvsr_utils import paper, paths
from cogvsr_utils.analysis.joint_probe import FunctionProbe
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.head_map import HeadMap
from cogvsr_utils.models.interventions import mask
from cogvsr_utils.models.recording import capture
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline import protocol
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings

FUNCTIONS = np.array(sorted(NAMES))


@pytest.fixture(scope="module")
def made_up():
    """Activations of 160 steps in 16 heads 4 wide; head f carries function f, head 8 + f nothing, on a large offset."""
    rng, function = np.random.default_rng(0), np.tile(FUNCTIONS, 20)
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


def test_departures_are_measured_against_this_books_probe(made_up):
    given = protocol.Importance(FUNCTIONS, np.tile(np.eye(16)[0], (8, 1)), np.array(0.25))
    table = protocol.probe_deviations.make(
        Experiment("nano-internvl"), activations=made_up, paper_activations=made_up, paper_importance=given
    ).set_index("case")
    here, seed, tokens = (table.loc[name] for name in (protocol.HERE, "another seed", "the paper's tokens"))
    assert here["spearman"] == pytest.approx(1) and here["shared"] == 1
    assert 0.2 < seed["spearman"] < 0.999  # chance changes something, though not all
    pd.testing.assert_series_equal(tokens, here, check_names=False)  # the same activations were given for both
    undone = table.loc["all of the paper's"]
    assert undone["accuracy"] == 0.25 and undone["above"] == 1 / 16 and here["chance"] == 2 / 16
    assert here["accuracy"] > 0.8 > 1 / 8


def test_inputs_as_they_are_reach_the_probe(made_up):
    x, y = made_up.by_head(), made_up.index["function"].to_numpy()
    layers = np.repeat([0, 1], 8)
    plain, standard = (
        FunctionProbe(epochs=1, standardize=on).fit(x, y, made_up.index["group_id"], layers) for on in (False, True)
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
    few = by_case.loc["all of the paper's"]
    assert few["scope"] == "answer" and few["heads"] <= 4
    strongest = mask([pairs[5], pairs[30]], scope="answer")
    after = judge(answer(vlm, experiment.items("C"), edits=strongest)).set_index(["uid", "step"])["correct"]
    own = before[before["function"] == SPATIAL[0]].set_index(["uid", "step"])["correct"]
    change = (after.loc[own.index].astype(float) - own).mean()
    row = table[(table["case"] == "all of the paper's") & (table["function"] == SPATIAL[0])].iloc[0]
    assert few["heads"] > 2 or row["change"] == pytest.approx(change)
