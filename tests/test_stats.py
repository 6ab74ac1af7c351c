import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.api import OLS, add_constant

from cogvsr_utils.stats import (
    bootstrap_means,
    clustered_mean,
    clustered_wilson,
    elbow,
    false_discovery_rate,
    gini,
    hoyer,
    max_t_test,
    paired_difference,
    participation_ratio,
    ranking_stability,
    shuffle_within,
    sign_flip_test,
    single_case_p,
    wilson,
)


@given(st.lists(st.booleans(), min_size=1, max_size=80))
def test_wilson_is_scipys(correct):
    low, high = binomtest(sum(correct), len(correct)).proportion_ci(method="wilson")
    assert wilson(correct) == pytest.approx((np.mean(correct), low, high), abs=1e-9)


@given(st.lists(st.booleans(), min_size=2, max_size=60), st.integers(2, 5))
def test_wilson_over_groups_is_that_of_the_groups_where_rows_are_copies(correct, times):
    groups, plain = np.arange(len(correct)), wilson(correct)
    assert clustered_wilson(correct, groups) == pytest.approx(plain)
    share, low, high = clustered_wilson(np.repeat(correct, times), np.repeat(groups, times))
    assert share == pytest.approx(plain[0]) and low <= plain[1] + 1e-9 and high >= plain[2] - 1e-9
    fewer = wilson([True] * 500)[2] - wilson([True] * 500)[1]  # with many groups they are the same
    many = clustered_wilson(np.repeat([True] * 500, times), np.repeat(np.arange(500), times))
    assert many[2] - many[1] == pytest.approx(fewer)


def test_wilson_over_groups_covers_what_it_should():
    """In two hundred samples of 100 scenes with four like steps each, near the ceiling."""
    rng, covered, plain = np.random.default_rng(0), 0, 0
    for _ in range(200):
        chance = rng.beta(4.5, 0.5, size=100)  # 0.9 in the mean, scenes differ
        correct, groups = rng.random((100, 4)) < chance[:, None], np.repeat(np.arange(100), 4)
        _, low, high = clustered_wilson(correct.ravel(), groups)
        covered += low <= 0.9 <= high
        _, low, high = wilson(correct.ravel())
        plain += low <= 0.9 <= high
    assert covered >= 184 > plain  # 95 % less what 200 samples leave open


@given(st.lists(st.integers(-50, 50), min_size=3, max_size=30, unique=True), st.integers(-100, 100))
def test_one_case_beside_controls_is_a_regression_on_being_the_case(controls, case):
    values = np.array([*controls, case])
    is_case = np.arange(len(values)) == len(controls)
    fit = OLS(values, add_constant(is_case.astype(float))).fit()
    assert single_case_p(case, controls) == pytest.approx(fit.pvalues[1], rel=1e-4, abs=1e-9)


def test_one_control_is_too_few():
    with pytest.raises(ValueError, match="1 controls; expected at least 2"):
        single_case_p(1.0, [0.0])


def test_clustering_widens_what_repeats_within_groups():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=50), 8)
    together, apart = clustered_mean(values, np.repeat(np.arange(50), 8)), clustered_mean(values, np.arange(400))
    assert together[0] == pytest.approx(values.mean())
    assert together[2] - together[1] > 2 * (apart[2] - apart[1])


def test_paired_covers_the_truth_about_as_often_as_it_says():
    hits = small = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        before = rng.random(200) < 0.6
        after = rng.random(200) < 0.6
        _, low, high, p = paired_difference(after, before, np.arange(200), n_bootstrap=400, seed=seed)
        hits += low <= 0 <= high
        small += p < 0.05
    assert hits / 120 > 0.88 and small / 120 < 0.12


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=30))
def test_gini_is_the_mean_difference(x):
    x = np.array(x)
    brute = np.abs(x[:, None] - x).mean() / (2 * x.mean()) if x.sum() else 0
    assert gini(x) == pytest.approx(brute, abs=1e-9)


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=40, unique=True))
def test_elbow_is_the_point_farthest_from_the_chord(x):
    y = np.sort(np.array(x, dtype=float))[::-1]
    n = len(y)
    chord = np.array([n - 1, y[-1] - y[0]])
    off = [
        abs(chord[0] * (y[i] - y[0]) - chord[1] * i) if y[i] <= y[0] + chord[1] * i / (n - 1) else 0 for i in range(n)
    ]
    assert off[elbow(x)] == pytest.approx(max(off))


def test_an_elbow_is_found_in_noise_too():
    rng = np.random.default_rng(0)
    shares = [elbow(rng.normal(size=1024)) / 1024 for _ in range(50)]
    assert 0.1 < np.median(shares) < 0.3


def test_fdr_is_the_step_up_rule():
    p = np.array([[0.01, 0.02], [0.03, 0.5]])
    assert false_discovery_rate(p).ravel() == pytest.approx([0.04, 0.04, 0.04, 0.5])


@given(st.lists(st.floats(0.01, 1e3), min_size=2, max_size=30), st.floats(0.1, 10))
def test_sparseness_does_not_depend_on_scale_and_ends_where_it_should(x, factor):
    x = np.array(x)
    for measure in (hoyer, participation_ratio, gini):
        assert measure(x * factor) == pytest.approx(measure(x), abs=1e-6)
    assert participation_ratio(np.ones(len(x))) == pytest.approx(len(x)) and hoyer(np.eye(len(x))[0]) == pytest.approx(
        1
    )


def test_p_values_are_the_counts_by_hand():
    rng = np.random.default_rng(0)
    null, observed = rng.normal(size=(40, 2, 5)), rng.normal(size=(2, 5)) + 1
    test = max_t_test(observed, null)
    for f in range(2):
        for h in range(5):
            assert test.p[f, h] == (1 + (null[:, f] >= observed[f, h]).sum()) / 201
            assert test.p_max[f, h] == (1 + sum(draw.max() >= observed[f, h] for draw in null)) / 41


def test_max_t_holds_its_level_over_all_heads_and_finds_a_shift():
    rng, groups, labels = np.random.default_rng(0), np.repeat(np.arange(30), 4), np.tile(["a", "b"], 60)
    false = [sign_flip_test(rng.normal(size=(120, 20)), labels, groups, n=200).p_max.min() < 0.05 for _ in range(100)]
    assert np.mean(false) < 0.12
    values = rng.normal(size=(120, 20))
    values[labels == "b", 7] -= 2
    found = sign_flip_test(values, labels, groups)
    assert np.argwhere(found.p_max < 0.05).tolist() == [[1, 7]]
    assert found.null.sum(1).astype(bool).mean() < 0.08 and found.bootstrap[:, 1].mean() >= 1


def test_bootstrap_means_are_those_of_repeated_groups():
    rng = np.random.default_rng(0)
    values, labels, groups = rng.normal(size=(40, 3)), np.tile(["a", "b"], 20), np.repeat(np.arange(10), 4)
    draws = np.random.default_rng(5).integers(10, size=(3, 10))
    for found, draw in zip(bootstrap_means(values, labels, groups, 3, seed=5), draws, strict=True):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in draw])
        for label, mean in zip("ab", found, strict=True):
            np.testing.assert_allclose(mean, values[rows[labels[rows] == label]].mean(0))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 9))
def test_shuffling_stays_within_strata(strata, seed):
    labels = np.arange(len(strata))
    out = shuffle_within(labels, strata, np.random.default_rng(seed))
    for value in set(strata):
        mine = np.array(strata) == value
        assert sorted(out[mine]) == sorted(labels[mine])


def test_stability_is_one_for_one_order_and_chance_for_random_ones():
    rng = np.random.default_rng(0)
    same = ranking_stability(np.tile(np.arange(100.0), (10, 1, 1)), 10)
    assert same.jaccard == same.tau == 1 and same.selected[0, -10:].min() == 1
    random = ranking_stability(rng.random((60, 1, 100)), 10, n_pairs=400)
    assert random.jaccard[0] == pytest.approx(random.chance, abs=0.02) and abs(random.tau[0]) < 0.03
