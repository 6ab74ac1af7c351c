"""Ratios belong to the page; here, that every way reads the same."""

import numpy as np
import pytest

from cogvsr_utils import answer, capture
from cogvsr_utils.answering import MAIN
from cogvsr_utils.speed import finished_chats, growth, one_by_one, race


def test_peers_read_what_capture_reads(vlm, items):
    for peer in ("nnsight", "pyvene"):
        pytest.importorskip(peer, reason=f"{peer} is not installed; the extra `peers` removes this skip")
    contest = race(vlm, finished_chats(vlm, items[:4], batch_size=3), repeats=1).set_index("way")
    assert set(contest.index) == {"bare forward pass", "capture", "nnsight", "pyvene"}
    assert (contest["difference"].dropna() < 1e-5).all() and contest["difference"].notna().sum() == 3


def test_one_step_at_a_time_says_and_holds_the_same(vlm, items, answers, tmp_path):
    replies, means, kept, seconds = one_by_one(vlm, items[:4])
    said = answers.set_index(["uid", "step"])["prediction"]
    for uid, texts in replies.items():
        assert texts == [said[uid, step] for step in [*range(len(texts) - 1), MAIN]]
    held = capture(vlm, items[:4], store=tmp_path, answers=answer(vlm, items[:4]))
    np.testing.assert_allclose(means, held.features, rtol=3e-3, atol=3e-3)
    assert kept > 50 * held.features.nbytes and min(seconds) > 0


def test_growth_captures_as_many_as_asked(vlm, items, answers, tmp_path):
    table = growth(vlm, items[:3], tmp_path, [2, 5], answers)
    steps = [len(item.steps) for item in items[:3]]
    assert table["rows"].tolist() == [sum(steps[:2]), sum(steps) + sum(steps[:2])]
