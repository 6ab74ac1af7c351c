"""What mixed precision does to a model that trains, what steps learn from, and how a stopped stage goes on."""

import os

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.nano import internvl
from cogvsr_utils.nano.optimization import drawn, mixed_precision, run_stage


class Watch(TorchFunctionMode):
    """Keeps the precision of what attention is computed from."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is scaled_dot_product_attention:
            self.seen |= {each.dtype for each in args}
        return func(*args, **(kwargs or {}))


def test_matrices_are_multiplied_in_half_precision_and_gradients_stay_close():
    vlm = load_vlm("nano-internvl", device="cpu")
    model, gradients = vlm.model.float().requires_grad_(), []
    ids = torch.randint(50, 200, (3, 40), generator=torch.Generator().manual_seed(0))
    seen = torch.zeros(3, 0, model.get_input_embeddings().weight.shape[1])
    for precision in (torch.autocast("cpu", enabled=False), mixed_precision(model.device)):
        model.zero_grad()
        with Watch() as watch, precision:
            logits = model.lm_head(internvl.decode(model, ids, seen))
        logits.float().logsumexp(-1).mean().backward()
        assert watch.seen == {torch.float32}
        gradients.append((logits.dtype, [p.grad for p in model.model.language_model.layers.parameters()]))
    (exact, right), (half, rounded) = gradients
    assert (exact, half) == (torch.float32, torch.bfloat16)
    for a, b in zip(right, rounded, strict=True):
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_steps_are_drawn_in_order_here_and_by_other_processes(device):
    """Those of "cuda" are drawn by other processes, which needs no such device."""
    draws = drawn(lambda step: (step, os.getpid()), range(3, 40), torch.device(device))
    steps, processes = zip(*draws, strict=True)
    assert steps == tuple(range(3, 40)) and (os.getpid() in processes) == (device == "cpu")


def test_a_stage_that_was_stopped_goes_on_with_the_steps_that_were_left(tmp_path):
    seen = []

    def stage(n_steps, fails_at=None):
        torch.manual_seed(0)
        layer = torch.nn.Linear(2, 1)

        def loss_of(step):
            if step == fails_at:
                raise KeyboardInterrupt
            seen.append(step)
            loss = layer(torch.tensor([float(step), 1.0])).sum()
            loss.backward()
            return loss.item(), {}

        log = run_stage("stage", tmp_path, {"layer": layer}, 0.01, 0.01, 0.0, n_steps, lambda s: s, loss_of, every=2)
        return layer, log

    with pytest.raises(KeyboardInterrupt):
        stage(7, fails_at=5)
    stopped, log = stage(7)
    assert seen == [0, 1, 2, 3, 4, 4, 5, 6] and [row["step"] for row in log] == [2, 4, 6, 7]
    (tmp_path / "stage.pt").unlink()
    at_once, _ = stage(7)
    assert torch.equal(stopped.weight, at_once.weight)
