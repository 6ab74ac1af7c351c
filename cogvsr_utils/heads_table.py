"""One row per function and head: what the head holds, how much the paper's probe leans on it, where it ranks.

head_table(heads, classes, importance, auroc, null)    -> DataFrame
top_heads(table, function, k)                           the k heads that serve a function most
"""

from __future__ import annotations

import numpy as np


def head_table(heads, classes, importance: np.ndarray, auroc: np.ndarray, null: np.ndarray):
    """Bring importance and decodability of every (function, head) together.

    ``importance`` (classes, heads) is the joint probe's, signed; ``auroc`` (heads, classes) HeadProbes'; ``null``
    (permutations, heads, classes) the same under shuffled labels. Columns: function, layer, head, importance,
    rank (1 = most important by absolute value), auroc, p_max (family-wise: share of permutations whose best head over
    all functions reaches this AUROC, Westfall and Young's max-T), q (Benjamini-Hochberg over heads and functions of
    one-sided p values).
    """
    import pandas as pd

    from .stats import fdr

    n = len(null)
    p = (1 + (null >= auroc).sum(0)) / (1 + n)
    best = null.max(axis=(1, 2))
    p_max = (1 + (best[:, None, None] >= auroc).sum(0)) / (1 + n)
    q = fdr(p)
    frames = []
    for c, function in enumerate(classes):
        frame = heads.table[["layer", "head"]].copy()
        frame.insert(0, "function", function)
        strength = np.abs(importance[c])
        frame["importance"] = importance[c]
        frame["rank"] = (-strength).argsort().argsort() + 1
        frame["auroc"], frame["p"], frame["p_max"], frame["q"] = auroc[:, c], p[:, c], p_max[:, c], q[:, c]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def top_heads(table, function: str, k: int, by: str = "importance") -> list[tuple[int, int]]:
    """The k heads with the largest absolute ``by`` for a function, best first; raises ValueError for a name not there.

    >>> import pandas as pd
    >>> t = pd.DataFrame({"function": ["f"] * 3, "layer": [0, 0, 1], "head": [0, 1, 0], "importance": [1, -5, 2]})
    >>> top_heads(t, "f", 2)
    [(0, 1), (1, 0)]
    """
    rows = table[table["function"] == function]
    if rows.empty:
        raise ValueError(f"no function {function!r} in the table; it has {sorted(table['function'].unique())}")
    order = rows[by].abs().sort_values(ascending=False, kind="stable").index[:k]
    return [(int(layer), int(head)) for layer, head in rows.loc[order, ["layer", "head"]].to_numpy()]
