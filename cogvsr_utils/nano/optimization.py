"""How a stage of training runs: optimizers, learning rates, checkpoints.

mixed_precision(device)                  matrices in bfloat16, attention on a CPU in float32
drawn(draw, steps, device)               what each step learns from, drawn ahead beside a GPU
run_stage(name, folder, modules, ...)    the loop of a stage, resumed from its checkpoint

Hidden matrices are trained with Muon (https://kellerjordan.github.io/posts/muon/), the rest with AdamW.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cogvsr_utils.files import replacing

logger = logging.getLogger(__name__)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal, in the weights' own precision.

    ``torch.optim.Muon`` does the same in bfloat16, which is several times slower on a CPU.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                updates = []
                for p in params:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buffer, group["momentum"]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, _orthogonal(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)


def _orthogonal(x: torch.Tensor) -> torch.Tensor:
    """Nearest semi-orthogonal matrices of a stack (n, rows, columns), by Newton-Schulz iteration."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def optimizers(modules: dict, muon: float, adam: float, decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embeddings, norms, biases and everything of another rank."""
    named = [(f"{key}.{n}", p) for key, module in modules.items() for n, p in module.named_parameters()]
    hidden = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    rest = [p for n, p in named if not any(p is h for h in hidden)]
    return [
        Muon(hidden, lr=muon, weight_decay=decay),
        torch.optim.AdamW(rest, lr=adam, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def schedule(step: int, n_steps: int, warm: int = 50, decay: float = 0.4) -> float:
    """Share of the full learning rate: a short rise, a plateau, a linear fall over the last part."""
    return min(1.0, (step + 1) / warm, (n_steps - step) / (decay * n_steps))


class _FloatAttention(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        with torch.autocast(args[0].device.type, enabled=False):
            return func(*map(_in_full, args), **{name: _in_full(value) for name, value in kwargs.items()})


def _in_full(value):
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """Products of matrices in bfloat16; on a CPU attention in float32, whose gradient takes a quarter of the time that
    it takes in bfloat16 there."""
    attention = _FloatAttention() if device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, dtype=torch.bfloat16), attention:
        yield


@dataclass(frozen=True)
class Draws(Dataset):
    """What a stage learns from, by step."""

    draw: Callable[[int], Any]

    def __getitem__(self, step: int) -> Any:
        """What ``step`` learns from."""
        return self.draw(step)


def drawn(draw: Callable[[int], Any], steps: range, device: torch.device) -> Iterable:
    """``draw`` of every step, in order. Beside a GPU other processes draw ahead, since it would wait for them; on a CPU
    they would take its cores."""
    n_workers = 2 if device.type == "cuda" else 0
    context = "fork" if n_workers else None  # so that scenes are shared, not sent
    return DataLoader(Draws(draw), batch_size=None, sampler=steps, num_workers=n_workers,
                      multiprocessing_context=context, collate_fn=_as_drawn)  # fmt: skip


def _as_drawn(value):
    return value


class Checkpoint:
    """Everything a stage needs to go on where it stopped, written by write-then-rename."""

    def __init__(self, path: Path, modules: dict, optimizers):
        self.path, self.modules, self.optimizers = path, list(modules.values()), optimizers

    def load(self) -> tuple[int, list]:
        """Restore what was saved; returns the step to go on with and the log so far."""
        if not self.path.exists():
            return 0, []
        saved = torch.load(self.path, weights_only=True)
        for module, state in zip(self.modules, saved["modules"], strict=True):
            module.load_state_dict(state)
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        return saved["step"], saved["log"]

    def save(self, step: int, log: list) -> None:
        """Keep weights, optimizers and log."""
        state = {"step": step, "log": log, "modules": [m.state_dict() for m in self.modules],
                 "optimizers": [o.state_dict() for o in self.optimizers]}  # fmt: skip
        with replacing(self.path) as partial:
            torch.save(state, partial)


def run_stage(
    name: str,
    folder: Path,
    modules: dict[str, torch.nn.Module],
    muon: float,
    adam: float,
    decay: float,
    n_steps: int,
    draw: Callable[[int], Any],
    loss_of: Callable[[Any], tuple[float, dict[str, float]]],
    every: int = 100,
) -> list[dict]:
    """The loop that all stages share: schedule, update, log, checkpoint. ``draw`` gives what a step learns from, and
    runs elsewhere beside a GPU; ``loss_of`` takes it, and leaves the gradients."""
    path = folder / f"{name}.pt"
    opts = optimizers(modules, muon, adam, decay)
    checkpoint = Checkpoint(path, modules, opts)
    start, log = checkpoint.load()
    window, clock = [], time.time()
    steps = range(start, n_steps)
    device = next(parameter.device for module in modules.values() for parameter in module.parameters())
    batches = zip(steps, drawn(draw, steps, device), strict=True)
    for step, batch in tqdm(batches, initial=start, total=n_steps, desc=name):
        for opt, rate in zip(opts, (muon, adam), strict=True):
            opt.param_groups[0]["lr"] = rate * schedule(step, n_steps)
        for opt in opts:
            opt.zero_grad()
        loss, figures = loss_of(batch)
        for opt in opts:
            opt.step()
        window.append({"loss": loss, **figures})
        if (step + 1) % every == 0 or step + 1 == n_steps:
            keys = sorted({k for row in window for k in row})
            row = {k: round(float(np.mean([r[k] for r in window if k in r])), 4) for k in keys}
            log.append({"stage": name, "step": step + 1, "seconds": round(time.time() - clock, 1), **row})
            logger.info(json.dumps(log[-1]))
            window, clock = [], time.time()
            checkpoint.save(step + 1, log)
    return log
