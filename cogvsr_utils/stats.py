"""Intervals and tests, thin over statsmodels and numpy; group-wise wherever steps share a scene.

wilson(correct)                                a proportion with its Wilson interval
clustered_wilson(correct, groups)              the same where rows of one group are alike
clustered_mean(values, groups)                 a mean with its bootstrap interval over groups
clustered_share(values, groups, lowest)        the same of shares and their differences, where groups do not vary too
paired_difference(after, before, groups)       a mean difference, its interval, and a sign-flip p over groups
percentile_interval(draws)                     the middle 95 % of bootstrap draws
two_sided_p(observed, draws)                   p that a value is another of some draws, on either side
single_case_p(observed, controls)              p that one value is another draw of a few normal ones
false_discovery_rate(p)                        Benjamini and Hochberg's q values
max_t_test(observed, null)                     p, family-wise p and q of every function and head
sign_flip_test(values, labels, groups)         family-wise p that a mean is below 0, by label and column
shuffle_within(labels, strata, rng)            labels shuffled among rows of one stratum
bootstrap_means(values, labels, groups, n)     means by label over resampled groups
ranking_stability(draws, k)                    do draws of a ranking agree on its order and its top k?
gini, hoyer, participation_ratio               how unequal, how sparse, how many values carry the sum
elbow(x)                                       where the sorted curve bends
top_mask, descending_places                    which values are among the largest, and in which order
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

ALPHA = 0.05  # two-sided intervals leave half of it at each end; tests reject below it
N_BOOTSTRAP = 2000


def wilson(correct: ArrayLike) -> tuple[float, float, float]:
    """Proportion and its 95 % Wilson interval, all in [0, 1]; NaN for no items.

    >>> [round(v, 3) for v in wilson([1, 1, 0, 1])]
    [0.75, 0.301, 0.954]
    """
    return clustered_wilson(correct, np.arange(len(correct)))


def clustered_wilson(correct: ArrayLike, groups: ArrayLike) -> tuple[float, float, float]:
    """Proportion of ``correct`` (rows,) and its 95 % Wilson interval at the effective number of rows, all in [0, 1];
    NaN for no rows.

    That is the number of rows over the design effect, how many times larger the variance over ``groups`` (rows,) is
    than that of as many independent rows, but never under 1 (Korn and Graubard, Survey Methodology 24, 1998). Where all
    rows are right, or none, nothing tells it, and the effective number is that of the groups.

    >>> [[round(v, 2) for v in clustered_wilson([1, 1, 0, 0] * 9, groups)] for groups in (range(36), list("aabb") * 9)]
    [[0.5, 0.34, 0.66], [0.5, 0.06, 0.94]]
    """
    from statsmodels.stats.proportion import proportion_confint

    correct = np.asarray(correct, dtype=float)
    if not len(correct):
        return float("nan"), float("nan"), float("nan")
    sums, counts = _sums_by_group(correct, groups)
    n, n_groups, share = len(correct), len(sums), correct.mean()
    effective = n_groups
    if n_groups > 1 and 0 < share < 1:
        variance = n_groups / (n_groups - 1) * ((sums - share * counts) ** 2).sum() / n**2
        effective = n / max(1, variance / (share * (1 - share) / (n - 1)))
    low, high = proportion_confint(share * effective, effective, alpha=ALPHA, method="wilson")
    return float(share), float(low), float(high)


def percentile_interval(draws: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the middle 95 % of ``draws`` (draws, ...).

    >>> [float(end) for end in percentile_interval(np.arange(101.0))]
    [2.5, 97.5]
    """
    low, high = np.quantile(np.asarray(draws, dtype=float), [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    return low, high


def clustered_mean(
    values: ArrayLike, groups: ArrayLike, n_bootstrap: int = N_BOOTSTRAP, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of ``values`` (rows,) and its percentile interval, resampling whole groups (rows,)."""
    sums, counts = _sums_by_group(np.asarray(values, dtype=float), groups)
    draws = np.random.default_rng(seed).integers(len(sums), size=(n_bootstrap, len(sums)))
    low, high = percentile_interval(sums[draws].sum(1) / counts[draws].sum(1))
    return float(sums.sum() / counts.sum()), float(low), float(high)


def clustered_share(
    values: ArrayLike, groups: ArrayLike, lowest: int, n_bootstrap: int = N_BOOTSTRAP, seed: int = 0
) -> tuple[float, float, float]:
    """``clustered_mean`` of ``values`` (rows,) from ``lowest`` (0, or -1 for differences) to 1, with an interval also
    where all groups have one mean, of which no draw differs.

    There it is how far the mean would be off if as large a share of groups were at either end as may have gone unseen:
    Clopper and Pearson's upper limit for none of n groups, 1 - 0.025 ** (1 / n).

    >>> [round(end, 2) for end in clustered_share([0, 0, 0], ["a", "b", "c"], lowest=0)]
    [0.0, 0.0, 0.71]
    """
    mean, low, high = clustered_mean(values, groups, n_bootstrap, seed)
    if low == high:
        unseen = 1 - (ALPHA / 2) ** (1 / len(set(groups)))
        low, high = mean - unseen * (mean - lowest), mean + unseen * (1 - mean)
    return mean, low, high


def paired_difference(
    after: ArrayLike, before: ArrayLike, groups: ArrayLike, n_bootstrap: int = N_BOOTSTRAP, seed: int = 0
) -> tuple[float, float, float, float]:
    """Mean of ``after - before`` (rows,), its interval over groups, and a two-sided sign-flip p: four floats.

    The p value flips the sign of whole groups at random (Good, Permutation Tests); it is at least
    1 / (n_bootstrap + 1).
    """
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    mean, low, high = clustered_mean(difference, groups, n_bootstrap, seed)
    sums, _ = _sums_by_group(difference, groups)
    flips = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_bootstrap, len(sums)))
    extreme = np.abs(flips @ sums) >= abs(sums.sum()) - 1e-12
    return mean, low, high, float((1 + extreme.sum()) / (1 + n_bootstrap))


def two_sided_p(observed: float, null: ArrayLike) -> float:
    """Twice the smaller share of ``null`` (draws,) at or beyond ``observed`` on one side, the observed one counted in.

    So a result in the other direction shows as well. At most 1; at least 2 / (1 + draws).

    >>> [two_sided_p(observed, np.arange(1, 200)) for observed in (0.0, 200.0, 100.0)]
    [0.01, 0.01, 1.0]
    """
    null = np.asarray(null, dtype=float)
    sides = (null <= observed).sum(), (null >= observed).sum()
    return float(min(1.0, 2 * (1 + min(sides)) / (1 + len(null))))


def single_case_p(observed: float, controls: ArrayLike) -> float:
    """Two-sided p that ``observed`` is one more of ``controls`` (draws,), which are taken to be normally distributed.

    Crawford and Howell's t (1998, doi:10.1076/clin.12.4.482.7241). Unlike a place among few draws it can be small.
    Raises ValueError for fewer than two controls.

    >>> round(single_case_p(5.0, [0.0, 1.0, -1.0, 0.5, -0.5]), 4)
    0.0045
    """
    from scipy.stats import t

    controls = np.asarray(controls, dtype=float)
    if len(controls) < 2:
        raise ValueError(f"{len(controls)} controls; expected at least 2")
    scale = controls.std(ddof=1) * np.sqrt(1 + 1 / len(controls))
    return float(2 * t.sf(abs(observed - controls.mean()) / scale, len(controls) - 1))


def false_discovery_rate(p: ArrayLike) -> np.ndarray:
    """Benjamini and Hochberg's q value of every p value, in its shape."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p, dtype=float)
    return multipletests(p.ravel(), method="fdr_bh")[1].reshape(p.shape)


@dataclass(frozen=True)
class MaxTTest:
    """``p``, family-wise ``p_max`` and ``q``, each (functions, heads); see ``max_t_test``."""

    p: np.ndarray
    p_max: np.ndarray
    q: np.ndarray


def max_t_test(observed: np.ndarray, null: np.ndarray) -> MaxTTest:
    """How often a permuted statistic is at least as large as the observed one.

    ``observed`` (functions, heads); ``null`` (permutations, functions, heads). ``p`` is the share of all heads'
    permutations of the function that reach the observed value, the heads taken as exchangeable; ``p_max`` the share of
    permutations whose largest value over all heads and functions does (Westfall and Young's max-T, which covers all
    of them at once); ``q`` Benjamini and Hochberg's of ``p``.
    """
    pooled = np.sort(null.swapaxes(0, 1).reshape(len(observed), -1), axis=1)  # (functions, permutations * heads)
    above = [len(row) - np.searchsorted(row, values) for row, values in zip(pooled, observed, strict=True)]
    p = (1 + np.stack(above)) / (1 + pooled.shape[1])
    largest = np.sort(null.max(axis=(1, 2)))
    p_max = (1 + len(largest) - np.searchsorted(largest, observed)) / (1 + len(largest))
    return MaxTTest(p, p_max, false_discovery_rate(p))


@dataclass(frozen=True)
class SignFlipTest:
    """``p_max`` (labels, columns); how many columns of each label pass at 5 % in the ``null`` and in the ``bootstrap``,
    both (draws, labels); the ``threshold`` that the statistic has to pass; see ``sign_flip_test``."""

    p_max: np.ndarray
    null: np.ndarray
    bootstrap: np.ndarray
    threshold: float


def sign_flip_test(
    values: np.ndarray, labels: ArrayLike, groups: ArrayLike, n: int = 1000, seed: int = 0
) -> SignFlipTest:
    """Which means of ``values`` (rows, columns) by label are below 0? A max-T test over all labels and columns.

    The statistic is the sum over its root mean square by group; the null flips the signs of whole groups, the same for
    all columns. Labels come sorted. Counts are under ``n`` sign flips and with groups resampled ``n`` times.
    """
    rng, labels = np.random.default_rng(seed), np.asarray(labels)
    names = np.unique(labels)
    _, code = np.unique(np.asarray(groups), return_inverse=True)
    n_groups = code.max() + 1
    sums = np.zeros((len(names), n_groups, values.shape[1]))
    for number, name in enumerate(names):
        rows = labels == name
        np.add.at(sums[number], code[rows], values[rows])
    scale = np.sqrt((sums**2).sum(1)) + 1e-12

    def statistic(weights):  # (n, groups) -> (n, labels, columns), positive where the mean is below 0
        return -np.einsum("ng,lgk->nlk", weights, sums, optimize=True) / scale

    observed = statistic(np.ones((1, n_groups)))[0]
    flipped = statistic(rng.choice([-1.0, 1.0], size=(n, n_groups)))
    drawn = rng.integers(n_groups, size=(n, n_groups))
    resampled = statistic(np.stack([np.bincount(row, minlength=n_groups) for row in drawn]).astype(float))
    largest = np.sort(flipped.max(axis=(1, 2)))
    threshold = np.quantile(largest, 1 - ALPHA)
    p_max = (1 + n - np.searchsorted(largest, observed)) / (1 + n)
    return SignFlipTest(p_max, (flipped > threshold).sum(2), (resampled > threshold).sum(2), float(threshold))


def shuffle_within(labels: ArrayLike, strata: ArrayLike, rng: np.random.Generator) -> np.ndarray:
    """Labels (rows,) shuffled among rows of the same stratum."""
    out, strata = np.array(labels), np.asarray(strata)
    for value in np.unique(strata):
        rows = np.flatnonzero(strata == value)
        out[rows] = out[rng.permutation(rows)]
    return out


def bootstrap_means(values: np.ndarray, labels: ArrayLike, groups: ArrayLike, n: int, seed: int = 0) -> np.ndarray:
    """Means of ``values`` (rows, columns) by label with whole groups resampled: (n, labels, columns), labels sorted."""
    _, code = np.unique(np.asarray(groups), return_inverse=True)
    n_groups = code.max() + 1
    draws = np.random.default_rng(seed).integers(n_groups, size=(n, n_groups))
    weight = np.stack([np.bincount(draw, minlength=n_groups) for draw in draws])[:, code].astype(float)  # (n, rows)
    labels, means = np.asarray(labels), []
    for label in np.unique(labels):
        rows = labels == label
        means.append(weight[:, rows] @ values[rows] / np.maximum(weight[:, rows].sum(1), 1)[:, None])
    return np.stack(means, axis=1)


@dataclass(frozen=True)
class RankingStability:
    """``selected`` (functions, heads), ``jaccard`` and ``tau`` (functions,), ``chance``; see ``ranking_stability``."""

    selected: np.ndarray
    jaccard: np.ndarray
    tau: np.ndarray
    chance: float


def ranking_stability(draws: np.ndarray, k: int, n_pairs: int = 200, seed: int = 0) -> RankingStability:
    """How much draws of a ranking agree; ``draws`` (draws, functions, heads), larger absolute values first.

    ``selected`` is the share of draws with the head among their top k; ``jaccard`` and ``tau`` are means over random
    pairs of draws of the overlap of their top k and of Kendall's rank correlation; ``chance`` is the Jaccard index of
    two random sets of k.
    """
    from scipy.stats import kendalltau

    size = np.abs(draws)
    top = top_mask(size, k)
    rng = np.random.default_rng(seed)
    pairs = [rng.choice(len(draws), 2, replace=False) for _ in range(n_pairs)]
    both = np.array([(top[a] & top[b]).sum(1) for a, b in pairs])
    either = np.array([(top[a] | top[b]).sum(1) for a, b in pairs])
    tau = [[kendalltau(size[a, f], size[b, f]).statistic for f in range(draws.shape[1])] for a, b in pairs]
    return RankingStability(
        top.mean(0), (both / either).mean(0), np.mean(tau, axis=0), chance_jaccard(k, draws.shape[2])
    )


def top_mask(values: np.ndarray, k: int) -> np.ndarray:
    """Which values are among the k largest of their last axis; the earlier of equal ones first.

    >>> top_mask(np.array([3, 1, 3, 2]), 2).tolist()
    [True, False, True, False]
    """
    return descending_places(values) < k


def descending_places(values: np.ndarray) -> np.ndarray:
    """Place of each value along the last axis, 0 for the largest, the earlier of equal ones first.

    >>> descending_places(np.array([0.5, 2.0, 1.0])).tolist()
    [2, 0, 1]
    """
    return (-np.asarray(values)).argsort(-1, kind="stable").argsort(-1, kind="stable")


def chance_jaccard(k: int, n: int) -> float:
    """Jaccard index of two random sets of k out of n, by the size of their intersection that is expected.

    >>> round(chance_jaccard(30, 1024), 3)
    0.015
    """
    shared = k * k / n
    return shared / (2 * k - shared)


def gini(x: ArrayLike) -> float:
    """Gini coefficient of absolute values: 0 all alike, towards 1 all in one.

    >>> gini([1, 1, 1, 1]), gini([0, 0, 0, 1])
    (0.0, 0.75)
    """
    x = np.sort(np.abs(np.asarray(x, dtype=float)))
    if x.sum() == 0:
        return 0.0
    n = len(x)
    return float((2 * np.arange(1, n + 1) - n - 1) @ x / (n * x.sum()))


def hoyer(x: ArrayLike) -> float:
    """Hoyer's sparseness: 0 all alike, 1 all in one (J. Machine Learning Research 5, 2004).

    >>> hoyer([1, 1, 1, 1]), hoyer([0, 0, 0, 1])
    (0.0, 1.0)
    """
    x = np.abs(np.asarray(x, dtype=float))
    if len(x) < 2 or not x.any():
        return 0.0
    root = np.sqrt(len(x))
    return float((root - x.sum() / np.sqrt(x @ x)) / (root - 1))


def participation_ratio(x: ArrayLike) -> float:
    """Participation ratio, (sum |x|)^2 / sum x^2: how many equal values would be spread as these are.

    >>> participation_ratio([2, 2, 0, 0])
    2.0
    """
    x = np.abs(np.asarray(x, dtype=float))
    return float(x.sum() ** 2 / (x @ x)) if x.any() else 0.0


def elbow(x: ArrayLike) -> int:
    """How many values stand before the bend of the sorted curve of absolute values.

    The bend is the point farthest from the chord between the largest and the smallest value. It always finds one, in
    shuffled labels too: never read it without its null.

    >>> elbow([10, 9, 1, 0.5, 0.2, 0.1])
    2
    """
    y = np.sort(np.abs(np.asarray(x, dtype=float)))[::-1]
    if len(y) < 3 or y[0] == y[-1]:
        return 0
    chord = np.linspace(y[0], y[-1], len(y))
    return int(np.argmax(chord - y))


def _sums_by_group(values: np.ndarray, groups) -> tuple[np.ndarray, np.ndarray]:
    _, code = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(code, weights=values), np.bincount(code).astype(float)
