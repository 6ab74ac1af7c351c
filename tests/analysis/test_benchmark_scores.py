"""Scores on benchmarks against sums by hand, and the documented example against what it prints."""

import runpy

import numpy as np
import pandas as pd
import pytest

from cogvsr_utils import Item, benchmark_scores, load_items
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes
from cogvsr_utils.functions import MAIN
from cogvsr_utils.paths import ROOT

SNIPPETS = ROOT / "book" / "snippets"


@pytest.fixture
def answered(small_set, tmp_path):
    """Items of two look-alikes, and replies to them: right ones, wrong ones and none."""
    copies = write_lookalikes(load_items(small_set), tmp_path)
    items = [item for name in ("vsr", "3dsrbench") for item in load_items(f"{name}:{copies[name]}")]
    rng, rows = np.random.default_rng(0), []
    for item in items:
        wrong = next(o for o in item.options or ["yes", "no"] if o != item.answer)
        reply = str(rng.choice([item.answer, wrong, "who knows"], p=[0.7, 0.2, 0.1]))
        rows.append({"uid": item.uid, "group_id": item.group_id, "subset": item.subset, "step": MAIN,
                     "answer_type": item.answer_type, "options": item.options, "answer": item.answer,
                     "prediction": reply})  # fmt: skip
    return pd.DataFrame(rows), items


def test_every_row_stands_beside_n_chance_and_majority(answered):
    answers, items = answered
    scores = benchmark_scores(answers, items).set_index(["benchmark", "subset", "scorer", "protocol"])
    vsr = answers[answers["uid"].isin([i.uid for i in items if i.benchmark == "vsr"])]
    row = scores.loc[("vsr", "all", "strict", "single")]
    assert row["n"] == len(vsr) and row["n_unparsed"] == (vsr["prediction"] == "who knows").sum()
    assert row["accuracy"] == (vsr["prediction"] == vsr["answer"]).mean() and row["chance"] == 0.5
    assert row["majority"] == max((vsr["answer"] == a).mean() for a in ("yes", "no"))
    turned = answers.drop(vsr.index)
    right = (turned["prediction"] == turned["answer"]).groupby(turned["uid"].str.split("#").str[0]).all()
    circular = scores.loc[("3dsrbench", "all", "strict", "circular")]
    assert circular["accuracy"] == right.mean() and circular["n"] == len(right)
    assert circular["chance"] == pytest.approx(0.25) and circular["n_incomplete"] == 0
    assert (scores["ci_low"] <= scores["accuracy"]).all() and (scores["accuracy"] <= scores["ci_high"]).all()
    assert (scores["ci_low"] < scores["ci_high"]).all(), "no interval is empty for want of variation"
    assert set(scores.index.get_level_values("scorer")) == {"strict", "official"}


def test_what_is_not_whole_costs_its_own_rows_alone(answered):
    answers, items = answered
    bare = answers[~answers["uid"].str.contains("-flip")]
    scores = benchmark_scores(bare, items, bare).set_index(["benchmark", "subset", "scorer", "protocol"])
    flip = scores.loc[("3dsrbench", "all", "strict", "flip")]
    assert flip["n"] == 0 and np.isnan(flip["accuracy"]) and np.isnan(flip["change"]) and flip["n_incomplete"] > 0
    assert scores.loc[("3dsrbench", "all", "strict", "vanilla"), "n"] > 0
    by_subset = scores.xs("flip", level="protocol").drop(index="all", level="subset").xs("strict", level="scorer")
    assert by_subset["n_incomplete"].sum() == flip["n_incomplete"]
    with pytest.raises(ValueError, match="1 replies are to other items, such as 'else'"):
        benchmark_scores(pd.concat([answers, answers[:1].assign(uid="else")]), items)


@pytest.mark.parametrize("before, after, low, high", [
    ("yes", "yes", -0.52, 0.52), ("yes", "no", -1, -1 + 2 * 0.52), ("no", "yes", 1 - 2 * 0.52, 1),
])  # fmt: skip
def test_a_change_alike_in_all_groups_has_the_interval_of_what_may_have_gone_unseen(before, after, low, high):
    """Of five groups without an exception, up to 52 % of all groups may be exceptions (Clopper and Pearson)."""
    items = [Item(str(n), "vsr", str(n), "?", "yes", "yesno", []) for n in range(5)]
    tables = [pd.DataFrame({"uid": [i.uid for i in items], "group_id": [i.group_id for i in items], "subset": "x",
                            "step": MAIN, "answer_type": "yesno", "options": None, "answer": "yes", "prediction": said})
              for said in (before, after)]  # fmt: skip
    row = benchmark_scores(tables[1], items, tables[0]).iloc[0]
    assert (row["change_low"], row["change_high"]) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_the_documented_example_prints_what_the_page_shows(capsys):
    table = runpy.run_path(str(SNIPPETS / "benchmarks.py"))["table"].reset_index(drop=True)
    shown = pd.read_csv(SNIPPETS / "benchmarks_output.txt", sep=r"\s+")
    assert list(shown) == capsys.readouterr().out.splitlines()[0].split()
    assert shown[["benchmark", "protocol", "scorer", "n"]].equals(table[["benchmark", "protocol", "scorer", "n"]])
    np.testing.assert_allclose(shown["accuracy"], table["accuracy"], atol=0.05)  # another device may answer otherwise
