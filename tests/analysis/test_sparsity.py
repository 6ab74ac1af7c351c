from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t

from cogvsr_utils.analysis.ablations import HeadAblations
from cogvsr_utils.analysis.sparsity import (
    DIFFERENCE,
    ablation_counts,
    ablation_difference,
    head_counts,
    refitted_intervals,
    scarcity,
    smallest_detectable,
    spatial_difference,
    stratify,
    threshold_counts,
)
from cogvsr_utils.functions import NAMES
from cogvsr_utils.functions import SPATIAL as SPATIAL_NAMES
from cogvsr_utils.stats import gini, participation_ratio, percentile_interval

CLASSES = sorted(NAMES)
SPATIAL = np.isin(CLASSES, SPATIAL_NAMES)
LAYERS = np.repeat(np.arange(4), 10)


def importances(n, sharp, rng):
    """Draws (n, classes, heads) of noise, one head ten times the rest for the classes in ``sharp``."""
    draws = rng.random((n, 8, 40))
    draws[:, sharp, -1] += 10
    return draws


def test_a_sharp_function_is_told_from_noise():
    rng = np.random.default_rng(0)
    null, again = importances(30, [], rng), importances(50, SPATIAL, rng)
    table = scarcity(again[0], null, again, CLASSES, LAYERS).set_index(["statistic", "function"])
    for name, spatial in zip(CLASSES, SPATIAL, strict=True):
        row = table.loc[("hoyer", name)]
        assert (row["value"] > row["null_high"]) == spatial and row["low"] <= row["value"] <= row["high"]
        assert table.loc[("elbow", name), "value"] == 1 or not spatial
    depth = table.loc["depth"]["value"]
    assert depth[SPATIAL[[NAMES.index(n) for n in CLASSES]]].min() > 0 and depth.between(0, 1).all()


def test_spatial_difference_says_scarcer_only_where_all_resamples_agree():
    rng = np.random.default_rng(0)
    for sharp, verdict in ((SPATIAL, "yes"), (~SPATIAL, "no"), ([], "open")):
        draws = importances(50, sharp, rng)
        assert set(spatial_difference(draws[0], draws, CLASSES)["scarcer"]) == {verdict}


def test_the_difference_is_what_was_measured_and_not_the_mean_of_its_resamples():
    rng = np.random.default_rng(0)
    observed, draws = importances(1, SPATIAL, rng)[0], importances(50, [], rng)
    found = spatial_difference(observed, draws, CLASSES).set_index("statistic")["difference"]
    each = np.array([participation_ratio(row) for row in observed])
    assert found["participation"] == pytest.approx(each[SPATIAL].mean() - each[~SPATIAL].mean())


def test_intervals_over_refits_are_students_around_the_fitted_value():
    rng = np.random.default_rng(0)
    importance, refits = rng.random((8, 30)), rng.random((6, 8, 30))
    layers = np.repeat(np.arange(3), 10)
    table = refitted_intervals(importance, refits, refits, CLASSES, layers).set_index(["function", "statistic"])

    def ginis(fit):
        own = np.array([gini(heads) for heads in fit])
        return own[3], own[SPATIAL].mean() - own[~SPATIAL].mean()

    spreads = np.transpose([ginis(fit) for fit in refits])
    for name, value, spread in zip((CLASSES[3], DIFFERENCE), ginis(importance), spreads, strict=True):
        row = table.loc[(name, "gini")]
        expected = student_t.interval(0.95, len(refits) - 1, loc=value, scale=np.std(spread, ddof=1))
        np.testing.assert_allclose((row["value"], row["refit_low"], row["refit_high"]), (value, *expected))


def test_no_head_that_passes_is_no_proof_that_there_is_none():
    table = ablation_counts(broken({}), CLASSES)
    assert (table["value"] == 0).all() and (table["low"] == 0).all() and table["high"].isna().all()
    (row,) = ablation_difference(broken({}), CLASSES).itertuples()
    assert row.scarcer == "not tested" and np.isnan(row.low) and np.isnan(row.high)


def test_a_head_that_costs_what_is_detectable_is_counted_and_one_that_costs_less_is_not():
    function = np.tile(CLASSES, 60)
    group = np.repeat(np.arange(60), 8).astype(str)
    own = np.flatnonzero(function == CLASSES[3])
    right = np.ones((41, 480), dtype=bool)
    right[1:41] = np.random.default_rng(0).random((40, 480)) > 0.03  # other heads cost a little here and there
    right[1:, own] = True

    def counted(n_lost):
        lost = right.copy()
        lost[1, own[:n_lost]] = False
        ablations = HeadAblations(lost, np.zeros(lost.shape), function, group)
        count = ablation_counts(ablations, CLASSES).set_index("function").loc[CLASSES[3], "value"]
        table = smallest_detectable(ablations, CLASSES).set_index("function").loc[CLASSES[3]]
        return count, round(table["detectable"] * table["n"])

    needed = counted(30)[1]
    assert 4 < needed < 30 and counted(needed + 1)[0] == 1 and counted(needed - 2)[0] == 0


def test_counts_of_noise_are_none_and_of_strong_heads_are_theirs():
    rng = np.random.default_rng(0)
    null = rng.normal(0, 0.03, (100, 8, 40))
    strength = rng.normal(0, 0.03, (8, 40))
    strength[0, :5] = 0.9
    again = strength + rng.normal(0, 0.03, (30, 8, 40))
    table = head_counts(strength, null, again, CLASSES).set_index(["statistic", "function"])["value"]
    for rule in ("n_fdr", "n_max_t"):
        assert table[rule][CLASSES[0]] == 5 and table[rule].sum() <= 6


def broken(heads: dict):
    """Sixty chats of eight steps; ``heads`` maps a function's number to heads that break it half the time."""
    rng, function = np.random.default_rng(0), np.tile(CLASSES, 60)
    right = np.ones((41, 480), dtype=bool)
    for c, numbers in heads.items():
        for head in numbers:
            right[1 + head, (function == CLASSES[c]) & (rng.random(480) < 0.5)] = False
    return HeadAblations(right, np.zeros(right.shape), function, np.repeat(np.arange(60), 8).astype(str))


def test_ablation_counts_heads_that_cost_accuracy():
    table = ablation_counts(broken({2: [2]}), CLASSES).set_index("function")
    assert table["value"].to_dict() == {name: float(name == CLASSES[2]) for name in CLASSES}
    assert (table["low"] <= table["value"]).all() and (table["null"] == 0).all()
    assert table["high"].isna().to_dict() == {name: name != CLASSES[2] for name in CLASSES}


def test_ablation_shows_which_functions_have_more_heads():
    spatial, others = np.flatnonzero(SPATIAL), np.flatnonzero(~SPATIAL)
    for heads, verdict in (
        ({c: range(10) for c in spatial}, "no"),
        ({c: range(10) for c in others}, "yes"),
        ({c: [1] for c in range(8)}, "open"),
    ):
        (row,) = ablation_difference(broken(heads), CLASSES).itertuples()
        assert row.scarcer == verdict and row.low <= row.difference <= row.high and row.n == 60


def test_more_steps_do_not_make_more_heads():
    """Heads break every function alike, but spatial functions have twice the steps: all counted they pass more
    often."""
    rng, few, many = np.random.default_rng(0), 24, 160
    function = np.repeat(CLASSES, [many if spatial else few for spatial in SPATIAL])
    right = np.ones((41, len(function)), dtype=bool)
    right[1:11] = rng.random((10, len(function))) > 0.12
    ablations = HeadAblations(right, np.zeros(right.shape), function, np.arange(len(function)).astype(str))
    table = ablation_counts(ablations, CLASSES).set_index("function")["value"]
    spatial = [name for name, is_spatial in zip(CLASSES, SPATIAL, strict=True) if is_spatial]
    assert table[spatial].min() > table.drop(spatial).max()
    (row,) = ablation_difference(ablations, CLASSES).itertuples()
    assert row.scarcer == "open" and row.n == few


def test_fewer_heads_pass_a_stricter_threshold_and_all_that_should_pass_a_lax_one():
    importance = np.tile(np.r_[1.0, -0.6, np.full(38, 0.05)], (8, 1))
    null = np.tile(np.r_[1.0, np.full(39, 0.3)], (5, 8, 1))
    table = threshold_counts(importance, null, broken({2: [2, 3]}), CLASSES)
    paper = table[table["rule"] == "importance above"]
    assert (paper["heads"] == 40).all() and (paper["null"] == 40).all()
    assert table.set_index(["rule", "threshold"]).loc[("share of the strongest", 0.25), "null"].eq(40).all()
    share = table[table["rule"] == "share of the strongest"].pivot(
        index="function", columns="threshold", values="heads"
    )
    assert (share.to_numpy() == [2, 2, 2, 1]).all()
    p = table[table["rule"] == "ablation, p below"].pivot(index="function", columns="threshold", values="heads")
    assert (p.loc[CLASSES[2]] == 2).all() and not p.drop(CLASSES[2]).to_numpy().any()


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.booleans()), min_size=1, max_size=60))
def test_stratified_rows_differ_in_no_feature(rows):
    labels, one, other = map(np.array, zip(*rows, strict=True))
    names, kept = sorted(set(labels)), stratify(labels, one, other)
    counts = Counter(rows)  # in each cell as many rows of each label as the rarest has there
    least = sum(min(counts[name, i, j] for name in names) for i in range(3) for j in (False, True))
    assert len(kept) == len(set(kept.tolist())) == least * len(names)
    cells = [
        sorted(zip(one[kept][labels[kept] == name], other[kept][labels[kept] == name], strict=True)) for name in names
    ]
    assert all(cell == cells[0] for cell in cells)


@pytest.mark.parametrize("fits, either, one", [(10, 1 / 5, 1 / 10), (2, 2 / 3, 1 / 3)])
def test_few_null_fits_let_as_many_pass_as_the_limitations_say(fits, either, one):
    null, value = np.random.default_rng(fits).normal(size=(2, fits, 20_000))
    low, high = percentile_interval(null)
    assert np.mean((value[0] < low) | (value[0] > high)) == pytest.approx(either, abs=0.02)
    assert np.mean(value[0] > high) == pytest.approx(one, abs=0.02)
