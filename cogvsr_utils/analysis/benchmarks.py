"""Scores on benchmarks, by both scorers, beside chance.

benchmark_scores(answers, items)    by benchmark, subset, scorer and protocol, with interval, chance and majority
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.accuracy import accuracy_table
from cogvsr_utils.dataset import scoring
from cogvsr_utils.dataset.benchmarks import official, threedsrbench
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.functions import MAIN
from cogvsr_utils.stats import clustered_mean, wilson

ALL = "all"


def benchmark_scores(answers: pd.DataFrame, items: Sequence[Item]) -> pd.DataFrame:
    """Accuracy on the main questions of benchmarks, of all and by subset.

    ``answers`` are what ``answer`` returned for the ``items``. Columns: benchmark, subset, scorer, version (of the
    scorer), protocol, n, n_unparsed, n_correct, accuracy, ci_low and ci_high (95 %, bootstrap over groups), chance (NaN
    where some answers have no options), majority and n_incomplete. Where the official rule of a benchmark is known
    there are rows for it beside the strict ones. 3DSRBench has a protocol for each of its settings, whose n counts what
    has to be right together and whose n_incomplete what had to be left out; the other benchmarks count single replies.
    """
    main = answers[answers["step"] == MAIN]
    main = main.assign(benchmark=main["uid"].map({item.uid: item.benchmark for item in items}))
    rows = []
    for benchmark, part in main.groupby("benchmark", sort=False):
        judged = {("strict", scoring.VERSION): scoring.judge(part)}
        if benchmark in official.OFFICIAL:
            own = [item for item in items if item.benchmark == benchmark]
            judged["official", official.VERSION] = official.judge_official(part, own)
        for (scorer, version), replies in judged.items():
            for protocol, scored, incomplete in _protocols(benchmark, replies):
                for subset, each in [(ALL, scored), *scored.groupby("subset")]:
                    rows.append({"benchmark": benchmark, "subset": subset, "scorer": scorer, "version": version,
                                 "protocol": protocol, **_row(each), "n_incomplete": len(incomplete)})  # fmt: skip
    return pd.DataFrame(rows)


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
