"""How many heads serve a function, and is that few?

scarcity(table, null_importance)    per function: elbow count with its null, FDR and max-T counts, Gini
overlap(table, k)                   Jaccard of the top k of every two functions, beside what chance gives
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from .functions import NAMES, find_function
from .heads_table import top_heads
from .stats import elbow, gini


def scarcity(table, null_importance: np.ndarray, bootstrap_importance: np.ndarray, classes, level: float = 0.95):
    """Counts of functional heads by every rule, one row a function.

    ``table`` is head_table's; ``null_importance`` (permutations, classes, heads) the importance of probes fitted to
    shuffled labels; ``bootstrap_importance`` (resamples, classes, heads) the importance over resampled groups.
    Columns: function, spatial, n_heads, elbow with its interval over groups (elbow_low, elbow_high), null_elbow (its
    median in noise) with null_low and null_high, n_fdr (q below 1 - level), n_max_t, gini of the importances and
    null_gini.
    """
    import pandas as pd

    tail = [(1 - level) / 2, 0.5, (1 + level) / 2]
    rows = []
    for c, function in enumerate(classes):
        mine = table[table["function"] == function]
        boot = [elbow(x) for x in bootstrap_importance[:, c]]
        null = np.quantile([elbow(x) for x in null_importance[:, c]], tail)
        rows.append({
            "function": function, "spatial": find_function(function).spatial, "n_heads": len(mine),
            "elbow": elbow(mine["importance"]),
            "elbow_low": np.quantile(boot, tail[0]), "elbow_high": np.quantile(boot, tail[2]),
            "null_elbow": null[1], "null_low": null[0], "null_high": null[2],
            "n_fdr": int((mine["q"] < 1 - level).sum()), "n_max_t": int((mine["p_max"] < 1 - level).sum()),
            "gini": gini(mine["importance"]),
            "null_gini": float(np.median([gini(x) for x in null_importance[:, c]])),
        })  # fmt: skip
    return pd.DataFrame(rows).sort_values("function", key=lambda s: s.map(NAMES.index)).reset_index(drop=True)


def spatial_difference(bootstrap_importance: np.ndarray, classes, level: float = 0.95) -> dict[str, float]:
    """Mean elbow count of the spatial functions less that of the others, with its interval over resampled groups.

    Negative means that spatial heads are scarcer; an interval that holds 0 leaves it open.
    """
    spatial = np.array([find_function(name).spatial for name in classes])
    counts = np.array([[elbow(x) for x in sample] for sample in bootstrap_importance])
    difference = counts[:, spatial].mean(1) - counts[:, ~spatial].mean(1)
    low, high = np.quantile(difference, [(1 - level) / 2, (1 + level) / 2])
    return {"difference": float(difference.mean()), "low": float(low), "high": float(high)}


def overlap(table, k: int):
    """Jaccard of the top k heads of every two functions; ``chance`` is what two random sets of k share on average."""
    import pandas as pd

    n_heads = table.groupby("function").size().iloc[0]
    tops = {f: set(top_heads(table, f, k)) for f in table["function"].unique()}
    shared = k * k / n_heads
    rows = [{"one": a, "other": b, "jaccard": len(tops[a] & tops[b]) / len(tops[a] | tops[b])}
            for a, b in combinations(tops, 2)]  # fmt: skip
    return pd.DataFrame(rows).assign(k=k, chance=shared / (2 * k - shared))
