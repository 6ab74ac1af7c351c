"""Difficulty, by which the strict probe's steps are stratified, and what is said where the strata keep too little."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cogvsr_utils.analysis.ablations import HeadAblations
from cogvsr_utils.functions import NAMES
from cogvsr_utils.pipeline.selection import LEAST_STRATIFIED, predicted_together, strict_probe
from cogvsr_utils.pipeline.validation import spatial_differences


def weak_heads(counts, n_heads=60, seed=0):
    """Heads of which each knows little of the function: activations (steps, heads, 6) and functions (steps,)."""
    rng, y = np.random.default_rng(seed), np.repeat(list(counts), list(counts.values()))
    codes = rng.normal(size=(len(counts), n_heads, 6))
    return 0.35 * codes[np.unique(y, return_inverse=True)[1]] + rng.normal(size=(len(y), n_heads, 6)), y


def test_all_heads_together_name_rare_functions_too():
    x, y = weak_heads({"a": 300, "b": 60, "c": 40})
    right = pd.Series(predicted_together(x, y, np.arange(len(y)))).groupby(y).mean()
    assert (right > 0.6).all()  # added to the functions' shares, none of "b" and "c" would be


@pytest.mark.parametrize("alike", [16, LEAST_STRATIFIED - 1, 0])
def test_a_probe_is_fitted_to_strata_only_where_they_keep_enough(alike):
    """Of 16 steps a function, ``alike`` have answers of one length; that of the others tells half of the functions from
    the other half."""
    x, y = weak_heads(dict.fromkeys(sorted(NAMES), 16), n_heads=8)
    step, half = np.tile(np.arange(16), 8), np.unique(y, return_inverse=True)[1] % 2
    index = pd.DataFrame({"function": y, "group_id": step, "n_tokens": np.where(step < alike, 0, 1 + half)})
    heads = SimpleNamespace(table=pd.DataFrame({"layer": np.repeat([0, 1], 4)}))
    store = SimpleNamespace(index=index, heads=heads, by_head=lambda: x)
    probe = strict_probe.make(SimpleNamespace(settings=SimpleNamespace(bootstrap=10)), store)
    assert np.isfinite(probe.importance).all() and probe.importance.shape == (8, 8)
    enough = alike == 16
    assert np.isfinite(probe.stratified_importance).all() == np.isfinite(probe.stratified).all() == enough
    assert (probe.n_stratified >= 8 * LEAST_STRATIFIED) == enough and probe.n_stratified <= 8 * alike


def test_scarcity_by_strata_that_keep_too_little_is_not_tested():
    rng, names = np.random.default_rng(0), sorted(NAMES)
    network = SimpleNamespace(
        functions=np.array(names), importance=rng.normal(size=(8, 12)), bootstrap=rng.normal(size=(5, 8, 12))
    )
    nothing = {"stratified_importance": np.full((8, 12), np.nan), "stratified": np.full((5, 8, 12), np.nan)}
    right = np.ones((13, 80), bool)
    masked = HeadAblations(right, np.zeros(right.shape), np.tile(names, 10), np.repeat(np.arange(10), 8).astype(str))
    table = spatial_differences.make(None, network, SimpleNamespace(**nothing, n_stratified=np.array(24)), masked)
    by_reading = table.groupby("reading")["scarcer"].agg(set)
    assert by_reading["stratified"] == {"not tested"} and "not tested" not in by_reading["as it is"]
    stratified = table[table["reading"] == "stratified"]
    assert stratified[["difference", "low", "high"]].isna().all(axis=None) and (stratified["n"] == 3).all()
