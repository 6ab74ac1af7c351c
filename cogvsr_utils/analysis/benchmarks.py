"""Scores on benchmarks, by both scorers, beside chance.

benchmark_scores(answers, items)    by benchmark, subset, scorer and protocol, with interval, chance and majority
forced_scores(chosen, items)        the same of forced choices
undetermined_shares(answers, ...)   how often a reply is that the answer cannot be determined
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.accuracy import accuracy_table
from cogvsr_utils.dataset.benchmarks import lettered, official, threedsrbench
from cogvsr_utils.dataset.benchmarks.cogvsr import COGVSR
from cogvsr_utils.dataset.benchmarks.controls import UNDETERMINED, undetermined
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.functions import MAIN, SPATIAL
from cogvsr_utils.stats import clustered_share, paired_difference

ALL = "all"
FORCED = "forced choice"
SPATIAL_SCORE = "Spatial Score"  # the protocol of CogVSR
KEY = ("benchmark", "subset", "scorer", "version", "protocol")


def benchmark_scores(answers: pd.DataFrame, items: Sequence[Item], before: pd.DataFrame | None = None) -> pd.DataFrame:
    """Accuracy on the main questions of benchmarks, of all and by subset.

    ``answers`` are what ``answer`` returned for the ``items``, ``before`` what it returned without an edit. Columns:
    benchmark, subset, scorer, version (of the scorer), protocol, n, n_unparsed, n_correct, accuracy, ci_low and ci_high
    (95 %, bootstrap over groups), chance (NaN where some answers have no options), majority (NaN where replies count
    together), n_incomplete, and with ``before`` the paired change, change_low, change_high and p (sign flips over
    groups). Where the official rule of a benchmark is known there are rows for it beside the strict ones. 3DSRBench has
    a protocol for each of its settings, whose n counts what has to be right together and whose n_incomplete what had to
    be left out; CogVSR has, beside its main questions, the ``SPATIAL_SCORE``, which counts the answered steps of the
    two spatial functions; the other benchmarks count single replies. Raises ValueError for replies to other items, and
    to other questions than before.

    >>> from cogvsr_utils.models.answering import answer_table
    >>> items = [Item(str(n), "vsr", str(n), "Is it red?", "yes", "yesno", [], subset="Proximity") for n in range(2)]
    >>> scores = benchmark_scores(answer_table(items, {"0": ["yes"], "1": ["no"]}), items)
    >>> scores.loc[scores["subset"] == "all", ["scorer", "n", "accuracy"]].values.tolist()
    [['strict', 2, 0.5], ['official', 2, 0.5]]
    """
    earlier = None if before is None else dict(_scored(before, items))
    rows = []
    for key, (judged, n_incomplete) in _scored(answers, items):
        row = dict(zip(KEY, key, strict=True)) | _row(judged, key[-1]) | {"n_incomplete": n_incomplete}
        rows.append(row if earlier is None else row | _change(judged, earlier.get(key)))
    return pd.DataFrame(rows)


def _scored(answers: pd.DataFrame, items: Sequence[Item]) -> Iterator[tuple[tuple, tuple[pd.DataFrame, int]]]:
    """Judged rows and how many groups were left out, by what ``KEY`` names."""
    main = answers[answers["step"] == MAIN]
    main = main.assign(benchmark=main["uid"].map({item.uid: item.benchmark for item in items}))
    if main["benchmark"].isna().any():
        other = main.loc[main["benchmark"].isna(), "uid"]
        raise ValueError(f"{len(other)} replies are to other items, such as {other.iloc[0]!r}; expected those answered")
    for benchmark, part in main.groupby("benchmark", sort=False):
        own = [item for item in items if item.benchmark == benchmark]
        judged = {("strict", lettered.VERSION): lettered.judge_strict(part, own)}
        if benchmark in official.OFFICIAL:
            judged["official", official.VERSION] = official.judge_official(part, own)
        for (scorer, version), replies in judged.items():
            for protocol, scored, incomplete in _protocols(benchmark, replies):
                for subset in (ALL, *sorted(set(replies["subset"]))):
                    rows, out = (x if subset == ALL else x[x["subset"] == subset] for x in (scored, incomplete))
                    yield (benchmark, subset, scorer, version, protocol), (rows, len(out))
        steps = answers[answers["step"] != MAIN]
        if benchmark == COGVSR.name and len(steps):
            steps = steps[steps["function"].isin(SPATIAL)]
            named = judge(steps).assign(uid=steps["uid"] + "#" + steps["step"].astype(str))
            yield (benchmark, ALL, "strict", lettered.VERSION, SPATIAL_SCORE), (named, 0)


def _protocols(benchmark: str, judged: pd.DataFrame):
    if benchmark != threedsrbench.THREEDSRBENCH.name:
        return [("single", judged, judged[:0])]
    return [(setting, *threedsrbench.right_together(judged, setting)) for setting in threedsrbench.SETTINGS]


def _row(judged: pd.DataFrame, protocol: str) -> dict:
    """One row of ``accuracy_table``, its interval over groups; where replies count together, so does chance, and no
    single answer is the commonest."""
    if not len(judged):
        counts = {"n": 0, "n_unparsed": 0, "n_correct": 0}
        return counts | dict.fromkeys(("accuracy", "ci_low", "ci_high", "chance", "majority"), np.nan)
    row = accuracy_table(judged.assign(subset=ALL), by="subset").iloc[0].drop("subset").to_dict()
    _, low, high = clustered_share(judged["correct"], judged["group_id"], lowest=0)
    chance = judged["chance"].mean() if "chance" in judged else row["chance"]
    majority = row["majority"] if protocol in ("single", "vanilla") else np.nan
    return row | {"ci_low": low, "ci_high": high, "chance": float(np.round(chance, 6)), "majority": majority}


def forced_scores(chosen: pd.DataFrame, items: Sequence[Item], before: pd.DataFrame | None = None) -> pd.DataFrame:
    """``benchmark_scores`` of what ``forced_choice`` returned, of the scorer ``FORCED`` alone, with ``covered``, the
    mean share of probability that the options had."""
    scores = benchmark_scores(chosen, items, before)
    covered = chosen.groupby("subset")["covered"].mean().to_dict() | {ALL: chosen["covered"].mean()}
    scores = scores[scores["scorer"] == "strict"]
    return scores.assign(scorer=FORCED, covered=scores["subset"].map(covered))


def undetermined_shares(answers: pd.DataFrame, items: Sequence[Item], scorer: str) -> pd.DataFrame:
    """How often replies to ``controls.undetermined`` of ``items`` say that the answer cannot be determined.

    A row a benchmark: benchmark, subset, scorer, version, protocol, n, n_unparsed, n_correct, accuracy, ci_low and
    ci_high, chance, and undetermined with undetermined_low and undetermined_high; intervals are 95 %, bootstrap over
    groups. ``scorer`` names what the replies were read by.
    """
    opened = undetermined(items)
    judged = lettered.judge_strict(answers, opened)
    benchmark = judged["uid"].map({item.uid: item.benchmark for item in opened})
    rows = []
    for name, part in judged.groupby(benchmark, sort=False):
        row = dict(zip(KEY, (name, ALL, scorer, lettered.VERSION, "single"), strict=True))
        row |= {"n": len(part), "n_unparsed": int(part["parsed"].isna().sum()), "n_correct": int(part["correct"].sum()),
                "chance": float((1 / part["options"].map(len)).mean())}  # fmt: skip
        for columns, hits in (
            (("accuracy", "ci_low", "ci_high"), part["correct"]),
            (("undetermined", "undetermined_low", "undetermined_high"), part["parsed"] == UNDETERMINED),
        ):
            share = clustered_share(hits.astype(float), part["group_id"], lowest=0)
            row |= dict(zip(columns, share, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def _change(judged: pd.DataFrame, earlier: tuple[pd.DataFrame, int] | None) -> dict:
    if earlier is None or set(earlier[0]["uid"]) != set(judged["uid"]):
        raise ValueError("the replies before are to other questions; expected the same")
    if not len(judged):
        return dict.fromkeys(("change", "change_low", "change_high", "p"), np.nan)
    was = earlier[0].set_index("uid")["correct"].loc[judged["uid"]].to_numpy()
    change, _, _, p = paired_difference(judged["correct"], was, judged["group_id"])
    _, low, high = clustered_share(judged["correct"].astype(int) - was.astype(int), judged["group_id"], lowest=-1)
    return {"change": change, "change_low": low, "change_high": high, "p": p}
