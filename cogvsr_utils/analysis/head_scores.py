"""One row a function and head: how it was scored, how certain that is, what ablating it does, where it ranks.

head_table(heads, functions, measures)    -> DataFrame
top_heads(table, function, k)             the k heads that serve a function most
placement(one, other, k)                  whether two models of one shape have a function's heads in the same places
COLUMNS                                   what each column means
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

COLUMNS = {
    "function": "the cognitive function of the steps",
    "layer": "layer of the text decoder, from 0",
    "head": "query head of the layer, from 0; heads of cross-attention are numbered on",
    "importance": "the paper's: gradient × activation of the joint probe, mean over held-out steps, signed",
    "selected": "share of probe seeds and resampled scenes with the head among the function's top tenth by the "
    "importance of the probe that stops early",
    "auroc": "how well a linear probe on this head alone tells the function's steps from all others; 0.5 is chance",
    "binary_accuracy": "accuracy of CogVision's probe: the function's steps against as many of others; 0.5 is chance",
    "gain": "AUROC of the text's prediction and the head together less that of the text's alone "
    "(words of step, question and answer, step index)",
    "selectivity": "accuracy of the head's probe less its accuracy with a random function for every wording "
    "(one value a head)",
    "p": "share of heads and permutations, within the function, whose correlation with the text's errors is as large "
    "when these are shuffled within the step index",
    "p_max": "share of permutations in which the largest over all heads and functions is (Westfall and Young's max-T)",
    "q": "Benjamini and Hochberg's q of p over all heads and functions",
    "effect": "change of the log-probability of the right answer to the function's steps when this head alone is "
    "ablated; below 0: ablation hurts",
    "effect_low": "lower end of the effect's 95 % interval over scenes",
    "effect_high": "upper end of it",
    "effect_mean": "the effect where the head is replaced by its mean over other scenes (mean-ablated)",
    "effect_accuracy": "change of accuracy by the same ablation, in [-1, 1]",
    "effect_p_max": "family-wise p, over all heads and functions, that ablation lowers accuracy: signs of scenes "
    "flipped, max-T",
}
RANKED = {"importance": np.abs, "auroc": np.positive, "binary_accuracy": np.positive, "gain": np.positive,
          "effect": np.negative}  # larger is stronger  # fmt: skip


def head_table(heads: pd.DataFrame, functions: Sequence[str], measures: dict[str, np.ndarray]) -> pd.DataFrame:
    """Bring what was measured of every (function, head) together, with ranks.

    ``heads`` is a HeadMap's table; ``measures`` maps names of ``COLUMNS`` to arrays (functions, heads), or (heads,) for
    what is the same for all functions. Each of ``RANKED`` that is there gets a column ``rank_...``, 1 for the
    strongest, missing where the value is. Raises KeyError for a name that ``COLUMNS`` does not explain, ValueError for
    another shape.

    >>> import pandas as pd
    >>> heads = pd.DataFrame({"layer": [0, 0], "head": [0, 1]})
    >>> head_table(heads, ["Math Reasoning"], {"auroc": np.array([[0.5, 0.9]])})["rank_auroc"].tolist()
    [2, 1]
    """
    unknown = sorted(set(measures) - set(COLUMNS))
    if unknown:
        raise KeyError(f"no columns {unknown}; expected some of {list(COLUMNS)[3:]}")
    shape, frames = (len(functions), len(heads)), []
    full = {}
    for name in (name for name in COLUMNS if name in measures):
        values = np.asarray(measures[name])
        if values.shape not in (shape, shape[1:]):
            raise ValueError(f"{name} has shape {values.shape}; expected (functions, heads) = {shape}")
        full[name] = np.broadcast_to(values, shape)
    for f, function in enumerate(functions):
        frame = heads[["layer", "head"]].copy()
        frame.insert(0, "function", function)
        for name, values in full.items():
            frame[name] = values[f]
        for name in (name for name in RANKED if name in full):
            ranks = pd.Series(RANKED[name](full[name][f])).rank(ascending=False, method="first")
            frame[f"rank_{name}"] = ranks.astype("Int64").array  # by place, whatever the index of the heads
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def top_heads(table: pd.DataFrame, function: str, k: int, by: str = "importance") -> list[tuple[int, int]]:
    """The k strongest heads of a function by a ranked column, best first.

    Raises ValueError for a function or column that is not there, and where fewer than k heads have a value.

    >>> import pandas as pd
    >>> t = pd.DataFrame({"function": ["f"] * 3, "layer": [0, 0, 1], "head": [0, 1, 0], "importance": [1, -5, 2]})
    >>> top_heads(t, "f", 2)
    [(0, 1), (1, 0)]
    """
    rows = table[table["function"] == function]
    if rows.empty:
        raise ValueError(f"no function {function!r} in the table; it has {sorted(table['function'].unique())}")
    known = [name for name in RANKED if name in table.columns]
    if by not in known:
        raise ValueError(f"by is {by!r}; expected one of {known}")
    n = int(rows[by].notna().sum())
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; expected 1 to {n}, the heads of {function} with a value of {by}")
    order = np.argsort(-RANKED[by](rows[by].to_numpy()), kind="stable")[:k]
    return [(int(layer), int(head)) for layer, head in rows[["layer", "head"]].to_numpy()[order]]


def placement(one: pd.DataFrame, other: pd.DataFrame, k: int) -> pd.DataFrame:
    """Whether the k heads that serve a function most, by importance, are in the same places in two models of one shape.

    ``one`` and ``other`` are head tables. Columns: function, shared (share of these heads that both have), due (what is
    expected if each model had as many in every layer, but any of the layer's), layers (Spearman correlation, over
    layers, of the mean importance of their heads; missing where either is the same in all layers), depth and
    other_depth (the mean layer of the k heads). Raises ValueError where the tables are not of the same heads.

    >>> import pandas as pd
    >>> t = pd.DataFrame({"function": "f", "layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "importance": [9, 1, 2, 3]})
    >>> placement(t, t.assign(importance=[1, 9, 3, 2]), 1).round(1).to_dict("records")
    [{'function': 'f', 'shared': 0.0, 'due': 0.5, 'layers': 1.0, 'depth': 0.0, 'other_depth': 0.0}]
    """
    keys = ["function", "layer", "head"]
    if not one[keys].equals(other[keys]):
        raise ValueError(f"the tables are of {len(one)} and {len(other)} rows, or in another order; expected the same")
    n_heads, rows = one.groupby("layer").size() / one["function"].nunique(), []
    for function in one["function"].unique():
        top = [top_heads(each, function, k) for each in (one, other)]
        layers = [pd.Series([layer for layer, _ in heads]) for heads in top]
        due = (layers[0].value_counts() * layers[1].value_counts() / n_heads).sum() / k
        means = [
            each[each["function"] == function].groupby("layer")["importance"].agg(lambda part: part.abs().mean())
            for each in (one, other)
        ]
        rows.append({"function": function, "shared": len({*top[0]} & {*top[1]}) / k, "due": due,
                     "layers": means[0].corr(means[1], method="spearman"), "depth": layers[0].mean(),
                     "other_depth": layers[1].mean()})  # fmt: skip
    return pd.DataFrame(rows)
