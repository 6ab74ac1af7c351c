import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cogvsr_utils.stats import clustered, elbow, fdr, gini, paired, wilson


@given(st.lists(st.booleans(), min_size=1, max_size=80))
def test_wilson_is_scipys(correct):
    low, high = binomtest(sum(correct), len(correct)).proportion_ci(method="wilson")
    assert wilson(correct) == pytest.approx((np.mean(correct), low, high), abs=1e-9)


def test_clustering_widens_what_repeats_within_groups():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=50), 8)
    together, apart = clustered(values, np.repeat(np.arange(50), 8)), clustered(values, np.arange(400))
    assert together[0] == pytest.approx(values.mean())
    assert together[2] - together[1] > 2 * (apart[2] - apart[1])


def test_paired_covers_the_truth_about_as_often_as_it_says():
    hits = small = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        before = rng.random(200) < 0.6
        after = rng.random(200) < 0.6
        _, low, high, p = paired(after, before, np.arange(200), n_resamples=400, seed=seed)
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
    assert fdr(p).ravel() == pytest.approx([0.04, 0.04, 0.04, 0.5])
