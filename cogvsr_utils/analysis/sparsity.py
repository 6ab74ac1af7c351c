"""How few heads serve a function, how sparse they are and where, each number beside its null.

Intervals are 95 % over resampled groups: percentiles for statistics of importances; for counts of heads that pass a
test the basic bootstrap, reflected at the count, since a resampled test has the sampling error twice and passes too
often.

scarcity(importance, null, bootstrap, ...)  by function and statistic: value, interval over groups, null
head_counts(strength, null, bootstrap)      heads that pass the false discovery rate and max-T, with the same
ablation_counts(ablations, functions)       heads whose ablation costs accuracy, with the same
smallest_detectable(ablations, functions)   what a head has to cost at least to be among them
threshold_counts(importance, null, ...)     how many heads pass under stricter and laxer thresholds
spatial_difference(importance, bootstrap, functions)    are spatial heads scarcer? the difference with its interval
refitted_intervals(importance, bootstrap, refits, functions)   how much wider intervals get where the probe is refitted
sparser_than_noise(table)   for how many functions scarcity is beyond that of labels that mean nothing
function_ranges(importance, null, layers)   do functions differ by more than labels that mean nothing?
ablation_difference(ablations, functions)   the same of the heads whose ablation costs accuracy
stratify(labels, *features)                 rows in which no label differs from another in these features
overlap(table, k, bootstrap, functions)     Jaccard of the top k of every two functions, beside chance within layers
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import t as student_t

from cogvsr_utils import paper
from cogvsr_utils.analysis.ablations import HeadAblations
from cogvsr_utils.analysis.head_scores import top_heads
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.stats import (
    ALPHA,
    SignFlipTest,
    elbow,
    gini,
    hoyer,
    max_t_test,
    participation_ratio,
    percentile_interval,
    sign_flip_test,
    top_mask,
)

STATISTICS = {"elbow": elbow, "gini": gini, "hoyer": hoyer, "participation": participation_ratio}
DIFFERENCE = "spatial less others"
FEWER_IS_SCARCER = ("elbow", "participation", "n_ablation")
SHARES, LEVELS = (0.1, 0.25, 0.5, 0.75), (0.01, 0.05, 0.1)  # thresholds to try


def scarcity(
    importance: np.ndarray, null: np.ndarray, bootstrap: np.ndarray, functions: Sequence[str], layers: np.ndarray
) -> pd.DataFrame:
    """Statistics of each function's importances, one row a function and statistic.

    ``importance`` (functions, heads); ``null`` (fits, functions, heads) that of probes fitted to permuted labels;
    ``bootstrap`` (draws, functions, heads) over resampled groups; ``layers`` (heads,). Statistics: elbow (a count),
    gini, hoyer, participation (a count), and depth, the mean layer weighted by importance, from 0 (first) to 1 (last).
    Columns: function, spatial, statistic, value, low, high (95 % over groups), null (its median), null_low, null_high.
    The null is that of the function's own fits: with permuted labels functions still differ in wordings and steps.

    >>> rng, functions = np.random.default_rng(0), ["Spatial Perception", "Math Reasoning"]
    >>> importance = np.array([[5.0, 0, 0, 0], [1, 1, 1, 1]])  # one head of four, and all alike
    >>> null, bootstrap = rng.random((20, 2, 4)), importance + rng.random((20, 2, 4))
    >>> table = scarcity(importance, null, bootstrap, functions, layers=np.array([0, 0, 1, 1]))
    >>> table.loc[table["statistic"] == "participation", "value"].tolist()
    [1.0, 4.0]
    """
    rows = []
    for name, measure in _measures(layers).items():
        observed, of_null, resampled = (
            np.apply_along_axis(measure, -1, part) for part in (importance[None], null, bootstrap)
        )  # each (draws, functions)
        rows += _rows(name, observed[0], of_null, resampled, functions)
    return _table(rows)


def head_counts(
    strength: np.ndarray, null: np.ndarray, bootstrap: np.ndarray, functions: Sequence[str]
) -> pd.DataFrame:
    """How many heads of each function pass, one row a function and rule, in the columns of ``scarcity``.

    ``strength`` (functions, heads), ``null`` (permutations, functions, heads) and ``bootstrap`` (draws, functions,
    heads) are HeadProbes'. Rules at 5 %: n_fdr (q over heads and functions), n_max_t (family-wise). The null counts are
    those of the permutations themselves.
    """

    def counts(draws):
        tests = [max_t_test(draw, null) for draw in draws]
        return {"n_fdr": np.array([(test.q < ALPHA).sum(1) for test in tests]),
                "n_max_t": np.array([(test.p_max < ALPHA).sum(1) for test in tests])}  # fmt: skip

    observed, of_null, resampled = counts(strength[None]), counts(null[:100]), counts(bootstrap)
    return _table(
        row
        for name in observed
        for row in _rows(name, observed[name][0], of_null[name], resampled[name], functions, counts=True)
    )


def ablation_counts(ablations: HeadAblations, functions: Sequence[str]) -> pd.DataFrame:
    """How many heads' ablation costs a function accuracy, family-wise at 5 % (``n_ablation``), as in ``scarcity``."""
    test = _ablation_test(ablations)
    observed = (test.p_max < ALPHA).sum(1)
    return _table(_rows("n_ablation", observed, test.null, test.bootstrap, functions, counts=True))


def smallest_detectable(ablations: HeadAblations, functions: Sequence[str]) -> pd.DataFrame:
    """What ablating a head has to cost a function at least to be counted by ``ablation_counts``.

    The test's statistic is the sum of changes over their root mean square by group, which is the root of their number
    where each of some groups loses one step. Columns: function, n (steps), groups, detectable (share of its steps that
    have to be lost, at most 1).
    """
    lost, rows = int(_ablation_test(ablations).threshold ** 2) + 1, []
    for function in functions:
        own = ablations.function == function
        n, n_groups = int(own.sum()), len(np.unique(ablations.group[own]))
        rows.append({"function": function, "n": n, "groups": n_groups,
                     "detectable": min(1.0, lost / n) if lost <= n_groups else 1.0})  # fmt: skip
    return pd.DataFrame(rows)


def threshold_counts(
    importance: np.ndarray, null: np.ndarray, ablations: HeadAblations, functions: Sequence[str]
) -> pd.DataFrame:
    """How many heads of each function pass, under several thresholds of the paper's kind and of the strict one.

    ``importance`` (functions, heads); ``null`` (fits, functions, heads) that of permuted labels. Columns: function,
    spatial, rule (the importance is above the paper's threshold, or above a share of the function's strongest; or the
    family-wise p that ablation costs accuracy is below a level), threshold, heads, null (the median of how many pass
    with permuted labels, of all functions together; missing for p).
    """

    def shares(values):
        return np.abs(values) / np.abs(values).max(-1, keepdims=True)

    share = "share of the strongest"
    passed = {("importance above", t): (np.abs(importance) > t, np.abs(null) > t) for t in (paper.THRESHOLD,)}
    passed |= {(share, t): (shares(importance) > t, shares(null) > t) for t in SHARES}
    p, rows = _ablation_test(ablations).p_max, []
    counts = {key: (own.sum(1), np.median(of_null.sum(2))) for key, (own, of_null) in passed.items()}
    counts |= {("ablation, p below", t): ((p < t).sum(1), np.nan) for t in LEVELS}
    for f, function in enumerate(functions):
        common = {"function": function, "spatial": function in SPATIAL}
        rows += [
            common | {"rule": rule, "threshold": threshold, "heads": int(n[f]), "null": of_null}
            for (rule, threshold), (n, of_null) in counts.items()
        ]
    return pd.DataFrame(rows)


def spatial_difference(importance: np.ndarray, bootstrap: np.ndarray, functions: Sequence[str]) -> pd.DataFrame:
    """Each statistic's mean over the spatial functions less that over the others, with its interval over groups.

    ``importance`` (functions, heads) as measured, ``bootstrap`` (draws, functions, heads) over resampled groups.
    Columns: statistic, difference, low, high, and ``scarcer``: does the whole interval mean that spatial heads are
    scarcer (fewer, or Gini and Hoyer higher): yes, no or open.
    """
    rows = []
    for name, measure in STATISTICS.items():
        observed, resampled = (
            _spatial_less_others(np.apply_along_axis(measure, -1, draws), functions)
            for draws in (importance[None], bootstrap)
        )
        rows.append(_verdict(name, observed[0], *percentile_interval(resampled)))
    return pd.DataFrame(rows)


def refitted_intervals(
    importance: np.ndarray, bootstrap: np.ndarray, refits: np.ndarray, functions: Sequence[str], layers: np.ndarray
) -> pd.DataFrame:
    """Intervals of each function's statistics, and of the spatial functions' less the others', over groups on which one
    fitted probe is read, and over probes fitted anew.

    ``importance`` (functions, heads); ``bootstrap`` (draws, functions, heads) over resampled groups; ``refits`` (fits,
    functions, heads) are ``joint_probe.refitted_importance``'s; ``layers`` (heads,). Statistics are ``scarcity``'s. Few
    fits have no percentiles worth the name, so theirs is the value, plus or minus Student's t times their standard
    deviation, the bootstrap estimate of its standard error. Columns: function (or ``DIFFERENCE``), statistic, value,
    low, high, refit_low, refit_high, fits, and for the differences but depth's ``scarcer``, by the refitted interval:
    yes, no or open.

    >>> functions = ["Spatial Perception", "Math Reasoning"]
    >>> importance, rng = np.array([[5.0, 0, 0, 0], [1, 1, 1, 1]]), np.random.default_rng(0)
    >>> near, far = (importance + size * rng.random((9, 2, 4)) for size in (0.1, 1))
    >>> table = refitted_intervals(importance, near, far, functions, np.arange(4)).set_index(["function", "statistic"])
    >>> row = table.loc[("Spatial Perception", "gini")]
    >>> bool(row["refit_high"] - row["refit_low"] > row["high"] - row["low"])
    True
    """
    rows, spread = [], student_t.ppf(1 - ALPHA / 2, len(refits) - 1)
    for name, measure in _measures(layers).items():
        value, resampled, refitted = (
            np.apply_along_axis(measure, -1, part) for part in (importance[None], bootstrap, refits)
        )  # each (draws, functions)
        value, resampled, refitted = (
            np.column_stack([part, _spatial_less_others(part, functions)]) for part in (value, resampled, refitted)
        )
        low, high = percentile_interval(resampled)
        error = spread * refitted.std(0, ddof=1)
        for f, function in enumerate([*functions, DIFFERENCE]):
            row = _verdict(name, value[0, f], value[0, f] - error[f], value[0, f] + error[f])
            judged = function == DIFFERENCE and name in STATISTICS
            rows.append({"function": function, "statistic": name, "value": value[0, f], "low": low[f], "high": high[f],
                         "refit_low": row["low"], "refit_high": row["high"], "fits": len(refits),
                         "scarcer": row["scarcer"] if judged else ""})  # fmt: skip
    return pd.DataFrame(rows)


def sparser_than_noise(table: pd.DataFrame) -> dict[str, int]:
    """For how many functions the elbow, Gini's index and the participation ratio in a table of ``scarcity`` are beyond
    those of labels that mean nothing, on the side of few heads."""
    fewer, unequal = table["value"] < table["null_low"], table["value"] > table["null_high"]
    beyond = {"elbow": fewer, "gini": unequal, "participation": fewer}
    return {name: int((on_side & (table["statistic"] == name)).sum()) for name, on_side in beyond.items()}


def function_ranges(importance: np.ndarray, null: np.ndarray, layers: np.ndarray) -> pd.DataFrame:
    """How far apart functions are, from the least to the largest, beside labels that mean nothing.

    ``importance`` (functions, heads), ``null`` (fits, functions, heads) that of permuted labels, ``layers`` (heads,).
    Columns: statistic (``scarcity``'s), range, null (its median), null_high (the largest), p (of as large a range with
    permuted labels), fits.

    >>> rng = np.random.default_rng(0)
    >>> importance = np.array([[9.0, 0, 0, 0], [1, 1, 1, 1]])  # one head, and all alike
    >>> table = function_ranges(importance, rng.random((19, 2, 4)), np.arange(4)).set_index("statistic")
    >>> float(table.loc["participation", "range"]), float(table.loc["participation", "p"])
    (3.0, 0.05)
    """
    rows = []
    for name, measure in _measures(layers).items():
        value, of_null = (np.ptp(np.apply_along_axis(measure, -1, part), axis=-1) for part in (importance, null))
        rows.append({"statistic": name, "range": value, "null": np.median(of_null), "null_high": of_null.max(),
                     "p": (1 + (of_null >= value).sum()) / (1 + len(of_null)), "fits": len(of_null)})  # fmt: skip
    return pd.DataFrame(rows)


def ablation_difference(ablations: HeadAblations, functions: Sequence[str], n_draws: int = 20) -> pd.DataFrame:
    """``spatial_difference`` of the count of heads whose ablation costs accuracy, at equally many steps a function.

    A test passes more heads the more steps it has, so of every function as many steps are drawn as the rarest has,
    ``n_draws`` times; the interval is over these draws and scenes. One more column, n: steps a function. Where no head
    passes for any function on all steps, there is nothing to compare: ``scarcer`` is "not tested", without an interval.
    """
    observed, resampled, passed = [], [], (_ablation_test(ablations).p_max < ALPHA).any()
    for seed in range(n_draws):
        rows = stratify(ablations.function, np.zeros(len(ablations.function)), seed=seed)
        test = _ablation_test(ablations.rows(rows))
        observed += list(_spatial_less_others((test.p_max < ALPHA).sum(1)[None], functions))
        resampled.append(2 * observed[-1] - _spatial_less_others(test.bootstrap, functions))
    row = _verdict("n_ablation", np.mean(observed), *percentile_interval(np.concatenate(resampled)))
    row |= {} if passed else {"low": np.nan, "high": np.nan, "scarcer": "not tested"}
    return pd.DataFrame([row]).assign(n=len(rows) // len(functions))


def stratify(labels: ArrayLike, *features, seed: int = 0) -> np.ndarray:
    """Rows (numbers, sorted) in which every label is as frequent as any other within each cell of ``features``.

    A cell is a combination of the features' values; of each label as many rows are kept there, at random, as the rarest
    label has: none where no cell has all labels.

    >>> stratify(["a", "a", "a", "b", "b"], [1, 1, 2, 1, 1]).tolist()
    [0, 1, 3, 4]
    """
    rng, labels = np.random.default_rng(seed), np.asarray(labels)
    names, kept = np.unique(labels), [np.zeros(0, int)]
    codes = np.stack([np.unique(feature, return_inverse=True)[1] for feature in features])
    _, cells = np.unique(codes, axis=1, return_inverse=True)
    for cell in np.unique(cells):
        members = [np.flatnonzero((cells == cell) & (labels == name)) for name in names]
        least = min(map(len, members))
        kept += [rng.choice(rows, least, replace=False) for rows in members if least]
    return np.sort(np.concatenate(kept))


def overlap(table: pd.DataFrame, k: int, bootstrap: np.ndarray, functions: Sequence[str]) -> pd.DataFrame:
    """How much the top k heads of every two functions overlap.

    ``table`` is head_table's; ``bootstrap`` (draws, functions, heads) importances over resampled groups. Functions of
    one depth share heads by that alone, so chance is what is shared where each function's heads change places within
    their layers. Columns: one, other, jaccard, low, high (95 % over groups), k, chance (the mean of such draws),
    chance_high (97.5 % of them share no more), p_chance (how many do).
    """
    heads = table[table["function"] == functions[0]].sort_values(["layer", "head"])[["layer", "head"]]
    sets = [set(top_heads(table, name, k)) for name in functions]
    tops = np.array([[head in own for head in heads.itertuples(index=False, name=None)] for own in sets])
    moved = _within_layers(tops, heads["layer"].to_numpy())  # (draws, functions, heads)
    resampled, rows = top_mask(np.abs(bootstrap), k), []
    for (i, one), (j, other) in combinations(enumerate(functions), 2):
        shared, by_chance = ((draws[:, i] & draws[:, j]).sum(1) for draws in (resampled, moved))
        low, high = percentile_interval(shared / (2 * k - shared))
        by_chance = by_chance / (2 * k - by_chance)
        most = np.quantile(by_chance, 1 - ALPHA / 2, method="higher")
        rows.append({"one": one, "other": other, "jaccard": (tops[i] & tops[j]).sum() / (tops[i] | tops[j]).sum(),
                     "low": low, "high": high, "k": k, "chance": by_chance.mean(), "chance_high": most,
                     "p_chance": (by_chance > most).mean()})  # fmt: skip
    return pd.DataFrame(rows)


def _within_layers(tops: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Sets of heads ``tops`` (functions, heads), each moved at random within its layers, 2,000 times: (n, functions,
    heads). ``layers`` (heads,) do not fall."""
    keys = layers + np.random.default_rng(0).random((2000, *tops.shape), dtype=np.float32)
    return np.take_along_axis(tops[None], keys.argsort(2), axis=2)


def _measures(layers: np.ndarray) -> dict[str, Callable[[np.ndarray], float]]:
    """Every statistic of the importances (heads,) of one function."""
    depth = (layers - layers.min()) / max(layers.max() - layers.min(), 1)
    return STATISTICS | {"depth": lambda x: float(np.abs(x) @ depth / max(np.abs(x).sum(), 1e-12))}


def _ablation_test(ablations: HeadAblations) -> SignFlipTest:
    return sign_flip_test(ablations.delta_correct.T, ablations.function, ablations.group)


def _spatial_less_others(values: np.ndarray, functions) -> np.ndarray:
    """(draws, functions) -> (draws,)."""
    spatial = np.isin(functions, SPATIAL)
    return values[:, spatial].mean(1) - values[:, ~spatial].mean(1)


def _verdict(name: str, difference: float, low: float, high: float) -> dict:
    below, above = (high < 0, low > 0) if name in FEWER_IS_SCARCER else (low > 0, high < 0)
    scarcer = "yes" if below else "no" if above else "open"
    return {"statistic": name, "difference": difference, "low": low, "high": high, "scarcer": scarcer}


def _rows(name: str, observed, null, bootstrap, functions, counts: bool = False) -> Iterable[dict]:
    """One row a function from a statistic's value (functions,), its null and its bootstrap (draws, functions).

    ``counts`` of heads that pass have a reflected interval. Where none passes it has no upper end: how many there are
    whose effect is too small to pass the data cannot tell (see ``smallest_detectable``).
    """
    for f, function in enumerate(functions):
        low, high = percentile_interval(bootstrap[:, f])
        if counts:
            low, high = np.clip([2 * observed[f] - high, 2 * observed[f] - low], 0, None)
            high = high if observed[f] else np.nan
        null_low, null_high = percentile_interval(null[:, f])
        yield {"function": function, "spatial": function in SPATIAL, "statistic": name,
               "value": float(observed[f]), "low": low, "high": high,
               "null": float(np.median(null[:, f])), "null_low": null_low, "null_high": null_high}  # fmt: skip


def _table(rows: Iterable[dict]):
    table = pd.DataFrame(rows)
    order = table["function"].map(NAMES.index)
    return table.assign(order=order).sort_values(["statistic", "order"]).drop(columns="order").reset_index(drop=True)
