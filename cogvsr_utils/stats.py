"""Intervals and tests, thin over statsmodels and numpy.

wilson(correct)                          accuracy with its Wilson interval
clustered(values, groups)                mean with a bootstrap interval over whole groups
paired(after, before, groups)            mean difference, its interval, and a sign-flip p over groups
fdr(p)                                   Benjamini-Hochberg q values
significance(strength, null)             p of every head and class, family-wise p, and q
sign_flips(values, labels, groups)       family-wise p that a mean is below 0, by label and column
shuffle_within(labels, strata, rng)      labels shuffled among rows of one stratum
resampled_means(values, labels, groups)  means by label over resampled groups
stability(draws, k)                      do draws of a ranking agree on its order and its top k?
gini(x), hoyer(x), participation(x)      how unequal, how sparse, how many values carry the sum
elbow(x)                                 where the sorted curve bends
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


def significance(strength: np.ndarray, null: np.ndarray) -> dict[str, np.ndarray]:
    """How often noise does as well: ``p``, ``p_max`` and ``q``, each in the shape of ``strength`` (heads, classes).

    ``null`` (permutations, heads, classes). ``p`` is the share of all heads' permutations of the class that reach the
    strength, the heads taken as exchangeable; ``p_max`` the share of permutations whose best head over all classes does
    (Westfall and Young's max-T: holds for all heads and classes at once); ``q`` Benjamini and Hochberg's.
    """
    pooled = np.sort(null.reshape(-1, null.shape[2]), axis=0)
    above = [len(pooled) - np.searchsorted(pooled[:, c], strength[:, c]) for c in range(null.shape[2])]
    p = (1 + np.stack(above, axis=1)) / (1 + len(pooled))
    best = np.sort(null.max(axis=(1, 2)))
    p_max = (1 + len(best) - np.searchsorted(best, strength)) / (1 + len(best))
    return {"p": p, "p_max": p_max, "q": fdr(p)}


def sign_flips(values: np.ndarray, labels, groups, n: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    """Which means of ``values`` (rows, k) by label are below 0? A max-T test over all labels and columns at once.

    The statistic is the sum over its root mean square by group; the null flips the signs of whole groups, the same for all
    columns. Returns ``p_max`` (labels, k), labels sorted; and how many columns of each label pass at 5 %: ``null`` (n,
    labels) under each flip, ``resampled`` (n, labels) with groups drawn again.
    """
    rng, names = np.random.default_rng(seed), np.unique(np.asarray(labels))
    _, code = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), code.max() + 1, values.shape[1]))
    for number, name in enumerate(names):
        mine = np.asarray(labels) == name
        np.add.at(sums[number], code[mine], values[mine])
    scale = np.sqrt((sums**2).sum(1)) + 1e-12

    def statistic(weights):  # (n, groups) -> (n, labels, k), positive where the mean is below 0
        return -np.einsum("ng,lgk->nlk", weights, sums, optimize=True) / scale

    found = statistic(np.ones((1, sums.shape[1])))[0]
    flipped = statistic(rng.choice([-1.0, 1.0], size=(n, sums.shape[1])))
    drawn = rng.integers(sums.shape[1], size=(n, sums.shape[1]))
    again = statistic(np.stack([np.bincount(row, minlength=sums.shape[1]) for row in drawn]).astype(float))
    best = np.sort(flipped.max(axis=(1, 2)))
    bar = np.quantile(best, 0.95)
    p_max = (1 + n - np.searchsorted(best, found)) / (1 + n)
    return {"p_max": p_max, "null": (flipped > bar).sum(2), "resampled": (again > bar).sum(2)}


def shuffle_within(labels, strata, rng) -> np.ndarray:
    """Labels shuffled among rows of the same stratum."""
    out, strata = np.array(labels), np.asarray(strata)
    for value in np.unique(strata):
        rows = np.flatnonzero(strata == value)
        out[rows] = out[rng.permutation(rows)]
    return out


def resampled_means(values: np.ndarray, labels, groups, n_resamples: int, seed: int = 0) -> np.ndarray:
    """Means of ``values`` (rows, k) by label when whole groups are drawn again: (resamples, labels, k), labels sorted."""
    _, code = np.unique(np.asarray(groups), return_inverse=True)
    draws = np.random.default_rng(seed).integers(code.max() + 1, size=(n_resamples, code.max() + 1))
    weight = np.stack([np.bincount(draw, minlength=code.max() + 1) for draw in draws])[:, code].astype(float)
    labels, means = np.asarray(labels), []
    for label in np.unique(labels):
        mine = weight[:, labels == label]
        means.append(mine @ values[labels == label] / np.maximum(mine.sum(1), 1)[:, None])
    return np.stack(means, axis=1)


def stability(draws: np.ndarray, k: int, n_pairs: int = 200, seed: int = 0) -> dict[str, np.ndarray]:
    """How much draws of a ranking agree, by class; ``draws`` (draws, classes, heads), larger absolute values first.

    ``selected`` (classes, heads), the share of draws that have the head among their top k; ``jaccard`` and ``tau``
    (classes,), means over random pairs of draws of the overlap of their top k and of Kendall's rank correlation; and
    ``chance``, the Jaccard index of two random sets of k.
    """
    from scipy.stats import kendalltau

    size = np.abs(draws)
    top = (-size).argsort(axis=2, kind="stable").argsort(axis=2, kind="stable") < k
    rng, n_heads = np.random.default_rng(seed), draws.shape[2]
    pairs = [rng.choice(len(draws), 2, replace=False) for _ in range(n_pairs)]
    both, either = (np.array([op(top[a], top[b]).sum(1) for a, b in pairs]) for op in (np.logical_and, np.logical_or))
    tau = [[kendalltau(size[a, c], size[b, c]).statistic for c in range(draws.shape[1])] for a, b in pairs]
    return {"selected": top.mean(0), "jaccard": (both / either).mean(0), "tau": np.mean(tau, axis=0),
            "chance": chance_jaccard(k, n_heads)}  # fmt: skip


def chance_jaccard(k: int, n: int) -> float:
    """Jaccard index of two random sets of k out of n, by the size of their intersection that is expected.

    >>> round(chance_jaccard(30, 1024), 3)
    0.015
    """
    shared = k * k / n
    return shared / (2 * k - shared)


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


def hoyer(x) -> float:
    """Hoyer's sparseness: 0 all alike, 1 all in one (J. Machine Learning Research 5, 2004).

    >>> hoyer([1, 1, 1, 1]), hoyer([0, 0, 0, 1])
    (0.0, 1.0)
    """
    x = np.abs(np.asarray(x, dtype=float))
    if len(x) < 2 or not x.any():
        return 0.0
    root = np.sqrt(len(x))
    return float((root - x.sum() / np.sqrt(x @ x)) / (root - 1))


def participation(x) -> float:
    """Participation ratio, (sum |x|)^2 / sum x^2: how many equal values would be spread as these are.

    >>> participation([2, 2, 0, 0])
    2.0
    """
    x = np.abs(np.asarray(x, dtype=float))
    return float(x.sum() ** 2 / (x @ x)) if x.any() else 0.0


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
