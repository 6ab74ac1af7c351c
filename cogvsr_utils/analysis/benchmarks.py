"""Scores on benchmarks, by both scorers, beside chance.

benchmark_scores(answers, items)    by benchmark, subset, scorer and protocol, with interval, chance and majority
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.accuracy import accuracy_table
from cogvsr_utils.dataset import scoring
from cogvsr_utils.dataset.benchmarks import official, threedsrbench
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.functions import MAIN
from cogvsr_utils.stats import clustered_mean, paired_difference, wilson

ALL = "all"
KEY = ("benchmark", "subset", "scorer", "version", "protocol")


def benchmark_scores(answers: pd.DataFrame, items: Sequence[Item], before: pd.DataFrame | None = None) -> pd.DataFrame:
    """Accuracy on the main questions of benchmarks, of all and by subset.

    ``answers`` are what ``answer`` returned for the ``items``, ``before`` what it returned without an edit. Columns:
    benchmark, subset, scorer, version (of the scorer), protocol, n, n_unparsed, n_correct, accuracy, ci_low and ci_high
    (95 %, bootstrap over groups), chance (NaN where some answers have no options), majority, n_incomplete, and with
    ``before`` the paired change, change_low, change_high and p (sign flips over groups). Where the official rule of a
    benchmark is known there are rows for it beside the strict ones. 3DSRBench has a protocol for each of its settings,
    whose n counts what has to be right together and whose n_incomplete what had to be left out; the other benchmarks
    count single replies. Raises ValueError for replies to other questions than before.
    """
    earlier = None if before is None else dict(_scored(before, items))
    rows = []
    for key, (judged, n_incomplete) in _scored(answers, items):
        row = dict(zip(KEY, key, strict=True)) | _row(judged) | {"n_incomplete": n_incomplete}
        rows.append(row if earlier is None else row | _change(judged, earlier.get(key)))
    return pd.DataFrame(rows)


def _scored(answers: pd.DataFrame, items: Sequence[Item]) -> Iterator[tuple[tuple, tuple[pd.DataFrame, int]]]:
    """Judged rows and how many groups were left out, by what ``KEY`` names."""
    main = answers[answers["step"] == MAIN]
    main = main.assign(benchmark=main["uid"].map({item.uid: item.benchmark for item in items}))
    for benchmark, part in main.groupby("benchmark", sort=False):
        judged = {("strict", scoring.VERSION): scoring.judge(part)}
        if benchmark in official.OFFICIAL:
            own = [item for item in items if item.benchmark == benchmark]
            judged["official", official.VERSION] = official.judge_official(part, own)
        for (scorer, version), replies in judged.items():
            for protocol, scored, incomplete in _protocols(benchmark, replies):
                for subset, each in [(ALL, scored), *scored.groupby("subset")]:
                    yield (benchmark, subset, scorer, version, protocol), (each, len(incomplete))


def _protocols(benchmark: str, judged: pd.DataFrame):
    if benchmark != threedsrbench.THREEDSRBENCH.name:
        return [("single", judged, [])]
    return [(setting, *threedsrbench.right_together(judged, setting)) for setting in threedsrbench.SETTINGS]


def _row(judged: pd.DataFrame) -> dict:
    """One row of ``accuracy_table``, its interval over groups; where replies count together, so does chance."""
    row = accuracy_table(judged.assign(subset=ALL), by="subset").iloc[0].drop("subset").to_dict()
    mean, low, high = clustered_mean(judged["correct"], judged["group_id"])
    if low == high:  # groups all alike, of which draws give no interval: Wilson's, with groups as trials
        n = judged["group_id"].nunique()
        _, low, high = wilson(np.arange(n) < round(mean * n))
    chance = judged["chance"].mean() if "chance" in judged else row["chance"]
    return row | {"ci_low": low, "ci_high": high, "chance": float(np.round(chance, 6))}


def _change(judged: pd.DataFrame, earlier: tuple[pd.DataFrame, int] | None) -> dict:
    if earlier is None or set(earlier[0]["uid"]) != set(judged["uid"]):
        raise ValueError("the replies before are to other questions; expected the same")
    was = earlier[0].set_index("uid")["correct"].loc[judged["uid"]].to_numpy()
    values = paired_difference(judged["correct"], was, judged["group_id"])
    return dict(zip(("change", "change_low", "change_high", "p"), values, strict=True))
