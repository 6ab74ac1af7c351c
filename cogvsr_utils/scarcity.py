"""How few heads serve a function, how sparse they are and where, each number beside what noise gives.

Intervals are 95 % over resampled groups: percentiles for statistics of importances; for counts of heads that pass a test the
basic bootstrap, reflected at the count, since a resampled test carries the noise twice and passes too often.

scarcity(importance, null, resampled, ...)  per function and statistic: value, interval over groups, null
head_counts(strength, null, resampled)      heads that pass the false discovery rate and max-T, with the same
removal_counts(removed, classes)            heads whose removal costs accuracy, with the same
threshold_counts(importance, removed, ...)  how many heads pass under stricter and laxer thresholds
spatial_difference(resampled, classes)      are spatial heads scarcer? the difference with its interval
removal_difference(removed, classes)        the same of the heads whose removal costs accuracy
equalise(labels, *features)                 rows in which no function differs from another in these features
overlap(table, k, resampled, classes)       Jaccard of the top k of every two functions, beside what chance gives
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from .functions import NAMES, find_function
from .heads_table import top_heads
from .stats import chance_jaccard, elbow, gini, hoyer, participation, sign_flips, significance

STATISTICS = {"elbow": elbow, "gini": gini, "hoyer": hoyer, "participation": participation}
LEVEL = 0.95
TAILS = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
SHARES, LEVELS = (0.1, 0.25, 0.5, 0.75), (0.01, 0.05, 0.1)  # thresholds to try


def scarcity(importance: np.ndarray, null: np.ndarray, resampled: np.ndarray, classes, layers: np.ndarray):
    """Statistics of each function's importances, one row a function and statistic.

    ``importance`` (classes, heads); ``null`` (fits, classes, heads) that of probes fitted to shuffled labels;
    ``resampled`` (resamples, classes, heads) over resampled groups; ``layers`` (heads,). Statistics: elbow (a count), gini,
    hoyer, participation (a count), and depth, the mean layer weighted by importance, from 0 (first) to 1 (last).
    Columns: function, spatial, statistic, value, low, high (95 % over groups), null (median in noise), null_low, null_high.
    The null is that of all functions together: with shuffled labels they differ in name and size alone.
    """
    depth = (layers - layers.min()) / max(layers.max() - layers.min(), 1)
    measures = STATISTICS | {"depth": lambda x: float(np.abs(x) @ depth / max(np.abs(x).sum(), 1e-12))}
    rows = []
    for name, measure in measures.items():
        found, noise, again = (
            np.apply_along_axis(measure, -1, part) for part in (importance[None], null, resampled)
        )  # (draws, classes)
        noise = np.repeat(noise.reshape(-1, 1), len(classes), axis=1)
        rows += _rows(name, found[0], noise, again, classes)
    return _table(rows)


def head_counts(strength: np.ndarray, null: np.ndarray, resampled: np.ndarray, classes):
    """How many heads of each function pass, one row a function and rule, in the columns of ``scarcity``.

    ``strength`` (heads, classes), ``null`` (permutations, heads, classes) and ``resampled`` (resamples, heads, classes) are
    HeadProbes'. Rules at 5 %: n_fdr (q over heads and functions), n_max_t (family-wise). The null counts are those of
    the permutations themselves.
    """

    def count(draws):
        tests = [significance(draw, null) for draw in draws]
        return {"n_fdr": np.array([(t["q"] < 1 - LEVEL).sum(0) for t in tests]),
                "n_max_t": np.array([(t["p_max"] < 1 - LEVEL).sum(0) for t in tests])}  # fmt: skip

    found, noise, again = count(strength[None]), count(null[:100]), count(resampled)
    return _table(row for name in found for row in _rows(name, found[name][0], noise[name], again[name], classes, True))


def removal_counts(removed: dict[str, np.ndarray], classes):
    """How many heads' removal costs a function accuracy, family-wise at 5 % (``n_removal``), in the columns of ``scarcity``.

    ``removed`` holds ``right`` (1 + heads, steps), the first row untouched, ``function`` and ``group`` (steps,).
    """
    tests = _removal_tests(removed)
    found = (tests["p_max"] < 1 - LEVEL).sum(1)
    return _table(_rows("n_removal", found, tests["null"], tests["resampled"], classes, True))


def threshold_counts(importance: np.ndarray, removed: dict[str, np.ndarray], classes):
    """How many heads of each function pass, under several thresholds of the paper's kind and of the strict one.

    ``importance`` (classes, heads), ``removed`` as in ``removal_counts``. Columns: function, spatial, rule (the importance is
    above a share of the function's strongest, or the family-wise p that removal costs accuracy is below a level),
    threshold, heads.
    """
    import pandas as pd

    share = np.abs(importance) / np.abs(importance).max(1, keepdims=True)
    p, rows = _removal_tests(removed)["p_max"], []
    for c, function in enumerate(classes):
        counts = {("share of the strongest", t): (share[c] > t).sum() for t in SHARES}
        counts |= {("removal, p below", t): (p[c] < t).sum() for t in LEVELS}
        rows += [{"function": function, "spatial": find_function(function).spatial, "rule": rule, "threshold": threshold,
                  "heads": int(n)} for (rule, threshold), n in counts.items()]  # fmt: skip
    return pd.DataFrame(rows)


def spatial_difference(resampled: np.ndarray, classes):
    """Each statistic's mean over the spatial functions less that over the others, with its interval over groups.

    ``resampled`` (resamples, classes, heads) are importances. Columns: statistic, difference, low, high, and ``scarcer``:
    whether the whole interval says that spatial heads are scarcer (fewer, or Gini and Hoyer higher): yes, no or open.
    """
    import pandas as pd

    rows = []
    for name, measure in STATISTICS.items():
        difference = _spatial_less_others(np.apply_along_axis(measure, -1, resampled), classes)
        low, high = np.quantile(difference, TAILS)
        rows.append(_verdict(name, difference.mean(), low, high, name in ("elbow", "participation")))
    return pd.DataFrame(rows)


def removal_difference(removed: dict[str, np.ndarray], classes, n_draws: int = 20):
    """``spatial_difference`` of the count of heads whose removal costs accuracy, at equally many steps of each function.

    A test passes more heads the more steps it has, so of every function as many steps are drawn as the rarest has, ``n_draws``
    times; the interval holds these draws and scenes. ``removed`` as in ``removal_counts``. One more column, n: steps a function.
    """
    import pandas as pd

    found, again = [], []
    for seed in range(n_draws):
        rows = equalise(removed["function"], np.zeros(len(removed["function"])), seed=seed)
        part = {
            "right": removed["right"][:, rows],
            "function": removed["function"][rows],
            "group": removed["group"][rows],
        }
        tests = _removal_tests(part)
        found += list(_spatial_less_others((tests["p_max"] < 1 - LEVEL).sum(1)[None], classes))
        again.append(2 * found[-1] - _spatial_less_others(tests["resampled"], classes))
    low, high = np.quantile(np.concatenate(again), TAILS)
    return pd.DataFrame([_verdict("n_removal", np.mean(found), low, high, True)]).assign(n=len(rows) // len(classes))


def equalise(labels, *features, seed: int = 0) -> np.ndarray:
    """Rows (numbers, sorted) in which every label is as frequent as any other within each cell of ``features``.

    A cell is a combination of the features' values; of each label as many rows are kept there, at random, as the rarest
    label has. Raises ValueError where no cell holds all labels.

    >>> equalise(["a", "a", "a", "b", "b"], [1, 1, 2, 1, 1]).tolist()
    [0, 1, 3, 4]
    """
    rng, labels = np.random.default_rng(seed), np.asarray(labels)
    names, kept = np.unique(labels), []
    codes = np.stack([np.unique(feature, return_inverse=True)[1] for feature in features])
    _, cells = np.unique(codes, axis=1, return_inverse=True)
    for cell in np.unique(cells):
        members = [np.flatnonzero((cells == cell) & (labels == name)) for name in names]
        least = min(map(len, members))
        kept += [rng.choice(rows, least, replace=False) for rows in members if least]
    if not kept:
        raise ValueError(f"no combination of the {len(features)} features holds all labels {list(names)}")
    return np.sort(np.concatenate(kept))


def overlap(table, k: int, resampled: np.ndarray, classes):
    """How much the top k heads of every two functions overlap.

    ``table`` is head_table's; ``resampled`` (resamples, classes, heads) importances over resampled groups. Columns: one,
    other, jaccard, low, high (95 % over groups), k, chance (what two random sets of k share), chance_high (97.5 % of random
    pairs share no more), p_chance (how many do).
    """
    import pandas as pd
    from scipy.stats import hypergeom

    tops = {name: set(top_heads(table, name, k)) for name in classes}
    again = (-np.abs(resampled)).argsort(axis=2, kind="stable").argsort(axis=2, kind="stable") < k
    rows = []
    for (i, one), (j, other) in combinations(enumerate(classes), 2):
        shared = (again[:, i] & again[:, j]).sum(1)
        low, high = np.quantile(shared / (2 * k - shared), TAILS)
        jaccard = len(tops[one] & tops[other]) / len(tops[one] | tops[other])
        rows.append({"one": one, "other": other, "jaccard": jaccard, "low": low, "high": high})
    random = hypergeom(resampled.shape[2], k, k)
    most = random.ppf(TAILS[1])
    return pd.DataFrame(rows).assign(k=k, chance=chance_jaccard(k, resampled.shape[2]), chance_high=most / (2 * k - most),
                                     p_chance=random.sf(most))  # fmt: skip


def _removal_tests(removed) -> dict[str, np.ndarray]:
    change = (removed["right"][1:].astype(float) - removed["right"][0]).T
    return sign_flips(change, removed["function"], removed["group"])


def _spatial_less_others(values: np.ndarray, classes) -> np.ndarray:
    """(draws, classes) -> (draws,)."""
    spatial = np.array([find_function(name).spatial for name in classes])
    return values[:, spatial].mean(1) - values[:, ~spatial].mean(1)


def _verdict(name, difference, low, high, fewer: bool) -> dict:
    """``fewer`` says that scarcer is a lower value."""
    below, above = high < 0, low > 0
    scarcer = "yes" if (below if fewer else above) else "no" if (above if fewer else below) else "open"
    return {"statistic": name, "difference": difference, "low": low, "high": high, "scarcer": scarcer}


def _rows(name, found, noise, again, classes, reflected: bool = False):
    """One row a class from a statistic's value (classes,), its null and its resamples (draws, classes)."""
    for c, function in enumerate(classes):
        low, high = np.quantile(again[:, c], TAILS)
        if reflected:
            low, high = np.clip([2 * found[c] - high, 2 * found[c] - low], 0, None)
        null_low, null_high = np.quantile(noise[:, c], TAILS)
        yield {"function": function, "spatial": find_function(function).spatial, "statistic": name,
               "value": float(found[c]), "low": low, "high": high,
               "null": float(np.median(noise[:, c])), "null_low": null_low, "null_high": null_high}  # fmt: skip


def _table(rows):
    import pandas as pd

    table = pd.DataFrame(rows)
    order = table["function"].map(NAMES.index)
    return table.assign(order=order).sort_values(["statistic", "order"]).drop(columns="order").reset_index(drop=True)
