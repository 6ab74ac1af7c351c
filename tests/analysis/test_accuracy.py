"""Paired changes of accuracy, counted by hand."""

import pandas as pd
import pytest

from cogvsr_utils.analysis.accuracy import compare


def replies(correct):
    return pd.DataFrame({"uid": [str(n) for n in range(len(correct))], "step": 0, "function": "a",
                         "group_id": [str(n // 2) for n in range(len(correct))], "correct": correct})  # fmt: skip


def test_a_change_is_paired_by_question_whatever_the_order():
    before, after = replies([True, True, False, False, True, True]), replies([False, True, True, False, False, False])
    row = compare(after.iloc[::-1], before).iloc[0]
    assert (row["n"], row["accuracy_before"], row["accuracy_after"]) == (6, 4 / 6, 2 / 6)
    assert row["change"] == pytest.approx(-2 / 6) and row["ci_low"] < -2 / 6 < row["ci_high"]


def test_where_nothing_changed_the_interval_is_of_what_may_have_gone_unseen():
    """Three groups without a change: up to 1 - 0.025 ** (1 / 3) of all groups may have one, whole and either way."""
    row = compare(replies([True] * 6), replies([True] * 6)).iloc[0]
    assert row["change"] == 0 and row["p"] == 1
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(0.025 ** (1 / 3) - 1), pytest.approx(1 - 0.025 ** (1 / 3)))
