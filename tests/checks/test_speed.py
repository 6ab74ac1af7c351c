"""Ratios belong to the page; here, that every method reads the same and that tables say what was asked."""

import numpy as np
import pytest
import torch

from cogvsr_utils.checks.probe_speed import probe_benchmark
from cogvsr_utils.checks.speed import (
    answering_parts,
    compare_methods,
    finished_chats,
    scaling,
    sequential_baseline,
    throughput,
    tower_benchmark,
)
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.recording import capture


def test_peers_read_what_capture_reads(items):
    for peer in ("nnsight", "pyvene"):
        pytest.importorskip(peer, reason=f"{peer} is not installed; the extra `peers` removes this skip")
    vlm = load_vlm("nano-internvl", dtype=torch.float32)  # of its own, since pyvene takes transformers' hooks off
    table = compare_methods(vlm, finished_chats(vlm, items[:4], batch_size=3), repeats=1).set_index("method")
    assert set(table.index) == {"bare forward pass", "capture", "nnsight", "pyvene"}
    assert (table["difference"].dropna() < 1e-5).all() and table["difference"].notna().sum() == 3


def test_the_sequential_baseline_replies_and_reads_the_same(vlm, items, answers, tmp_path):
    baseline = sequential_baseline(vlm, items[:4])
    batched = answers.set_index(["uid", "step"])["prediction"]
    for uid, replies in baseline.replies.items():
        assert replies == [batched[uid, step] for step in [*range(len(replies) - 1), MAIN]]
    captured = capture(vlm, items[:4], store=tmp_path, answers=answer(vlm, items[:4]))
    np.testing.assert_allclose(baseline.features, captured.features, rtol=3e-3, atol=3e-3)
    assert min(baseline.step_seconds, baseline.main_seconds) > 0


def test_scaling_captures_as_many_as_asked(vlm, items, answers, tmp_path):
    table = scaling(vlm, items[:3], tmp_path, [2, 5], answers)
    steps = [len(item.steps) for item in items[:3]]
    assert table["rows"].tolist() == [sum(steps[:2]), sum(steps) + sum(steps[:2])]


def test_the_parts_of_answering_add_up_and_each_takes_time(vlm, items):
    table = answering_parts(vlm, items[:3]).set_index("part")
    assert (table["seconds"] > 0).all() and table["share"].sum() == pytest.approx(1)
    assert not any(vlm.model.get_decoder()._forward_hooks.values())


def test_throughput_counts_steps_and_compares_within_each_task(vlm, items, tmp_path):
    table = throughput(vlm, items[:3], tmp_path, repeats=1, sweep=2)
    n_steps = sum(len(item.steps) for item in items[:3])
    assert len(table) == 7 and (table.groupby("task")["ratio"].first() == 1).all()
    twice = table["task"].str.contains("sweep") & (table["method"] != "sequential baseline")
    assert (table["steps"] == np.where(twice, 2 * n_steps, n_steps)).all()
    np.testing.assert_allclose(table["steps_per_second"], table["steps"] / table["seconds"])


def test_the_tower_benchmark_needs_windows(vlm, items):
    table = tower_benchmark(load_vlm("nano-qwen2_5_vl"), items[:3], repeats=1)
    assert table["equal"].all() and len(table) == 2
    with pytest.raises(ValueError, match="attends to no windows"):
        tower_benchmark(vlm, items[:2])


def test_probes_at_once_and_one_by_one_know_the_same():
    table = probe_benchmark(n_steps=400, n_heads=4, head_dim=16, looped=2, repeats=1).set_index("method")
    assert abs(table["accuracy"].diff().iloc[-1]) < 0.05 and table["accuracy"].min() > 2 / 8  # chance is 1/8
