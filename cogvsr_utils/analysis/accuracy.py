"""Accuracy as tidy tables with intervals.

accuracy_table(judged)              by function or another column: n, unparsed, accuracy, interval, chance, majority
compare(after, before)              paired differences by function, with interval, p and n
"""

import numpy as np
import pandas as pd

from cogvsr_utils.dataset.scoring import require_columns
from cogvsr_utils.stats import clustered_share, clustered_wilson, paired_difference

JUDGED = "what judge() returns"


def accuracy_table(judged: pd.DataFrame, by: str = "function") -> pd.DataFrame:
    """Accuracy by function (or another column), the main question as a row of its own.

    Columns: the ``by`` column, n, n_unparsed, n_correct, accuracy, ci_low, ci_high (over groups, see
    ``stats.clustered_wilson``), chance (one in the number of options, where every answer has options) and majority (the
    commonest answer's share). Raises ValueError for a table that was not judged.

    >>> judged = pd.DataFrame({"group_id": ["1", "2"], "function": "Math Reasoning", "answer": ["3", "2"],
    ...                        "answer_type": "int", "options": None, "parsed": ["3", None], "correct": [True, False]})
    >>> table = accuracy_table(judged)
    >>> table["n_unparsed"].tolist(), table["accuracy"].tolist()
    ([1], [0.5])
    """
    require_columns(judged, (by, "group_id", "correct", "parsed"), JUDGED)
    rows = []
    for name, part in judged.groupby(by, sort=False):
        accuracy, low, high = clustered_wilson(part["correct"], part["group_id"])
        sizes = [
            2 if t == "yesno" else len(o) if o is not None else np.nan
            for t, o in zip(part["answer_type"], part["options"], strict=True)
        ]
        rows.append({by: name, "n": len(part), "n_unparsed": int(part["parsed"].isna().sum()),
                     "n_correct": int(part["correct"].sum()), "accuracy": accuracy, "ci_low": low, "ci_high": high,
                     "chance": float(np.mean(1 / np.array(sizes))),
                     "majority": part["answer"].value_counts(normalize=True).iloc[0]})  # fmt: skip
    return pd.DataFrame(rows)


def compare(after: pd.DataFrame, before: pd.DataFrame, by: str = "function") -> pd.DataFrame:
    """Paired change of accuracy, clustered by group. Both tables are judged replies to the same questions.

    An interval has width also where nothing changed: see ``stats.clustered_share``. Columns: the ``by`` column, n,
    accuracy_before, accuracy_after, change, ci_low, ci_high, p. Raises ValueError where the two do not have the same
    questions, each once, or were not judged.

    >>> before = pd.DataFrame({"uid": ["1", "2"], "step": -1, "function": "Main question", "group_id": ["1", "2"],
    ...                        "correct": [True, True]})
    >>> after = before.assign(correct=[True, False])
    >>> compare(after, before)[["n", "accuracy_before", "accuracy_after", "change"]].iloc[0].tolist()
    [2.0, 1.0, 0.5, -0.5]
    """
    for table in (after, before):
        require_columns(table, (by, "uid", "step", "group_id", "correct"), JUDGED)
        if table.duplicated(["uid", "step"]).any():
            raise ValueError("some replies stand in a table twice; expected every uid and step once")
    both = before.merge(after[["uid", "step", "correct"]], on=["uid", "step"], suffixes=("_before", "_after"))
    if len(both) != len(before) or len(both) != len(after):
        raise ValueError(f"{len(before)} replies before, {len(after)} after, {len(both)} in common; expected the same")
    rows = []
    for name, part in both.groupby(by, sort=False):
        *_, p = paired_difference(part["correct_after"], part["correct_before"], part["group_id"])
        change, low, high = clustered_share(
            part["correct_after"].astype(float) - part["correct_before"], part["group_id"], lowest=-1
        )
        rows.append({by: name, "n": len(part), "accuracy_before": part["correct_before"].mean(),
                     "accuracy_after": part["correct_after"].mean(), "change": change, "ci_low": low, "ci_high": high,
                     "p": p})  # fmt: skip
    return pd.DataFrame(rows)
