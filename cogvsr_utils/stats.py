"""Intervals and tests, thin over statsmodels and numpy.

wilson(correct)                          accuracy with its Wilson interval
clustered(values, groups)                mean with a bootstrap interval over whole groups
paired(after, before, groups)            mean difference, its interval, and a sign-flip p over groups
fdr(p)                                   Benjamini-Hochberg q values
gini(x), elbow(x)                        how unequal, and where the sorted curve bends
"""

from __future__ import annotations

import numpy as np

N_RESAMPLES = 2000


def wilson(correct, level: float = 0.95) -> tuple[float, float, float]:
    """Accuracy and its Wilson interval in [0, 1]; NaN for no items.

    >>> [round(v, 3) for v in wilson([1, 1, 0, 1])]
    [0.75, 0.301, 0.954]
    """
    from statsmodels.stats.proportion import proportion_confint

    correct = np.asarray(correct, dtype=bool)
    if not len(correct):
        return float("nan"), float("nan"), float("nan")
    low, high = proportion_confint(correct.sum(), len(correct), alpha=1 - level, method="wilson")
    return float(correct.mean()), float(low), float(high)


def clustered(values, groups, n_resamples: int = N_RESAMPLES, seed: int = 0, level: float = 0.95):
    """Mean of ``values`` and its percentile interval, resampling whole groups."""
    sums, counts = _by_group(np.asarray(values, dtype=float), groups)
    means = _resample(sums, counts, n_resamples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def paired(after, before, groups, n_resamples: int = N_RESAMPLES, seed: int = 0):
    """Mean of ``after - before`` on the same items, its interval over groups, and a two-sided sign-flip p.

    The p value flips the sign of whole groups at random (Good, Permutation Tests); it is at least 1 / (n + 1).
    """
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    mean, low, high = clustered(difference, groups, n_resamples, seed)
    sums, _ = _by_group(difference, groups)
    flips = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_resamples, len(sums)))
    extreme = np.abs(flips @ sums) >= abs(sums.sum()) - 1e-12
    return mean, low, high, float((1 + extreme.sum()) / (1 + n_resamples))


def fdr(p) -> np.ndarray:
    """Benjamini-Hochberg q value of every p value, in its shape."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p, dtype=float)
    return multipletests(p.ravel(), method="fdr_bh")[1].reshape(p.shape)


def gini(x) -> float:
    """Gini coefficient of non-negative values: 0 all alike, towards 1 all in one.

    >>> gini([1, 1, 1, 1]), gini([0, 0, 0, 1])
    (0.0, 0.75)
    """
    x = np.sort(np.abs(np.asarray(x, dtype=float)))
    if x.sum() == 0:
        return 0.0
    n = len(x)
    return float((2 * np.arange(1, n + 1) - n - 1) @ x / (n * x.sum()))


def elbow(x) -> int:
    """How many values stand before the bend of the sorted curve.

    The bend is the point farthest from the chord between the largest and the smallest value. It always finds one, in
    pure noise too: never read it without its null.

    >>> elbow([10, 9, 1, 0.5, 0.2, 0.1])
    2
    """
    y = np.sort(np.abs(np.asarray(x, dtype=float)))[::-1]
    if len(y) < 3 or y[0] == y[-1]:
        return 0
    line = np.linspace(y[0], y[-1], len(y))
    return int(np.argmax(line - y))


def _by_group(values: np.ndarray, groups) -> tuple[np.ndarray, np.ndarray]:
    _, code = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(code, weights=values), np.bincount(code).astype(float)


def _resample(sums, counts, n_resamples, seed):
    draws = np.random.default_rng(seed).integers(len(sums), size=(n_resamples, len(sums)))
    return sums[draws].sum(1) / counts[draws].sum(1)
