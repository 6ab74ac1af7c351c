"""Scores of heads beside a truth that the test makes up, against counts by hand and scikit-learn's."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvsr_utils import score_method
from cogvsr_utils.checks.known_heads import PlantedTruth, planted_truth, score_heads
from cogvsr_utils.functions import NAMES
from cogvsr_utils.paths import NANO

PAIRS = [(layer, head) for layer in range(4) for head in range(5)]


def truth_of(n, seed=0):
    order = np.random.default_rng(seed).permutation(len(PAIRS))
    return PlantedTruth("joint", {name: [PAIRS[i] for i in order[f * n : f * n + n]] for f, name in enumerate(NAMES)})


def test_scores_that_are_the_truth_find_all_and_the_opposite_none():
    truth = truth_of(2)
    right = score_heads(truth.carries(PAIRS).astype(float), truth, PAIRS)
    assert (right[["precision", "recall", "auroc", "average_precision"]] == 1).all(axis=None)
    assert (right["rank"] == 0.5).all()  # two heads share the places 0 and 1
    wrong = score_heads(-truth.carries(PAIRS).astype(float), truth, PAIRS)
    assert (wrong[["precision", "recall", "auroc"]] == 0).all(axis=None) and (wrong["rank"] == 18.5).all()


@given(st.integers(0, 1000), st.integers(1, 2))
def test_rank_and_precision_are_counts_by_hand(seed, n):
    truth, scores = truth_of(n, seed), np.random.default_rng(seed).normal(size=(len(NAMES), len(PAIRS)))
    table = score_heads(scores, truth, PAIRS)
    for name, row, each in zip(NAMES, table.itertuples(), scores, strict=True):
        places = [sum(each > each[PAIRS.index(head)]) for head in truth.heads[name]]
        assert row.rank == pytest.approx(np.mean(places))
        assert row.precision == pytest.approx(np.mean([place < n for place in places]))


def test_random_scores_are_at_chance():
    tables = [
        score_heads(np.random.default_rng(seed).normal(size=(8, 20)), truth_of(2, seed), PAIRS) for seed in range(60)
    ]
    assert np.mean([t["auroc"].mean() for t in tables]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([t["rank"].mean() for t in tables]) == pytest.approx(tables[0]["chance_rank"][0], abs=0.6)
    assert np.mean([t["precision"].mean() for t in tables]) == pytest.approx(0.1, abs=0.03)


def test_a_selection_is_counted():
    truth = truth_of(2)
    chosen = truth.carries(PAIRS)
    chosen[:, PAIRS.index(truth.heads[NAMES[0]][0])] = True  # carries the first function only
    table = score_heads(chosen, truth, PAIRS)
    assert table["selected"].tolist() == [2] + [3] * 7 and table["false"].tolist() == [0] + [1] * 7


def test_shapes_and_numbers_that_are_wrong_are_refused():
    with pytest.raises(ValueError, match=r"scores have shape \(3, 20\); expected finite numbers .* \(8, 20\)"):
        score_heads(np.zeros((3, 20)), truth_of(1), PAIRS)
    with pytest.raises(ValueError, match="finite"):
        score_heads(np.full((8, 20), np.nan), truth_of(1), PAIRS)


def test_score_method_asks_each_model_for_scores_of_its_heads(tmp_path):
    folder = tmp_path / "known"
    shutil.copytree(NANO / "nano-internvl", folder)
    heads = {name: [[1, number]] for number, name in enumerate(NAMES)}
    (folder / "planted.json").write_text(json.dumps({"variant": "one", "heads": heads}))
    asked = []

    def method(vlm, items):
        asked.append((vlm.name, items))
        return planted_truth(str(folder)).carries(vlm.heads.pairs)

    table = score_method(method, [str(folder)], ["an item"])
    assert asked == [(str(folder), ["an item"])]
    assert table["variant"].unique() == ["one"] and (table["precision"] == 1).all() and not table["false"].any()


def test_a_model_without_truth_is_refused():
    with pytest.raises(ValueError, match=r"no planted\.json; expected a planted model"):
        planted_truth("nano-internvl")
