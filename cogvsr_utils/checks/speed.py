"""How long capture takes, as ratios in one run: beside the bare pass, beside peers, beside the way of predecessors.

finished_chats(vlm, items)      batches with the right answers in place, and the tokens to read in them
race(vlm, batches, ways)        the same capture by several ways, in turns: seconds, ratio, largest difference
one_by_one(vlm, items)          the predecessors' way: one step at a time, a hook on every token, all tokens kept
growth(vlm, items, store, ...)  seconds and memory for more and more items
probe_race(...)                 all heads' probes at once, and a scikit-learn loop over heads
permutation_minutes(...)        what a thousand permutations of all heads' probes take

nnsight and pyvene come with the extra ``peers``; each is used as its documentation shows.
"""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import torch

from .answering import MAIN, conversation
from .capture import capture, read_heads
from .items import Item, open_image
from .positions import encode_chats, group_steps


@dataclass(frozen=True)
class Batch:
    """Encoded chats, the places of tokens in the flattened batch, the row that each belongs to, how many rows."""

    inputs: dict
    flat: np.ndarray
    owner: np.ndarray
    n_rows: int

    def pool(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Means (rows, width) over each row's tokens, from every projection's whole input (batch, tokens, width)."""
        flat, owner = (torch.as_tensor(numbers, device=parts[0].device) for numbers in (self.flat, self.owner))
        rows = torch.cat([part.flatten(0, 1)[flat].float() for part in parts], dim=1)
        out = torch.zeros(self.n_rows, rows.shape[1], device=rows.device).index_add_(0, owner, rows)
        return out / torch.bincount(owner, minlength=self.n_rows)[:, None]


def finished_chats(vlm, items: list[Item], batch_size: int = 16) -> list[Batch]:
    """Batches of items with their right answers, to be read at the tokens that predict these."""
    batches = []
    for first in range(0, len(items), batch_size):
        some = items[first : first + batch_size]
        inputs, places = encode_chats(vlm, some, {item.uid: [step.answer for step in item.steps] for item in some})
        steps, owner = group_steps(places)
        flat = places[:, 0] * inputs["input_ids"].shape[1] + places[:, 1] - 1
        batches.append(Batch(inputs, flat, owner, len(steps)))
    return batches


def ways(vlm) -> dict[str, Callable[[Batch], torch.Tensor | None]]:
    """The bare pass, capture, and those peers that are installed, as functions of a batch."""
    found = {
        "bare forward pass": lambda batch: vlm.run(batch.inputs) and None,
        "capture": lambda batch: read_heads(vlm, batch.inputs, batch.flat, batch.owner, batch.n_rows),
    }
    peers = {"nnsight": _nnsight, "pyvene": _pyvene}
    return found | {name: make(vlm) for name, make in peers.items() if find_spec(name)}


def _nnsight(vlm):
    from nnsight import NNsight

    model = NNsight(vlm.model)

    def module(name):
        here = model
        for part in name.split("."):
            here = here[int(part)] if part.isdigit() else getattr(here, part)
        return here

    def read(batch):
        with model.trace(**batch.inputs, use_cache=False, logits_to_keep=1):
            kept = list().save()
            for name in vlm.heads.projections:
                kept.append(module(name).input)
        return batch.pool(kept)

    return read


def _pyvene(vlm):
    import pyvene

    kept: list[torch.Tensor] = []

    def keep(base, *_, **__):
        kept.append(base)
        return base

    places = [re.sub(r"\.(\d+)\.", r"[\1].", name) + ".input" for name in vlm.heads.projections]
    model = pyvene.IntervenableModel([{"component": p, "intervention": keep} for p in places], model=vlm.model)

    def read(batch):
        kept.clear()
        model({**batch.inputs, "use_cache": False, "logits_to_keep": 1})
        return batch.pool(kept)

    return read


@torch.inference_mode()
def race(vlm, batches: list[Batch], repeats: int = 5):
    """Every way over all batches, in turns batch by batch, each round beginning with another way; the first is not counted.

    Returns a DataFrame: way, median seconds, least, most, ratio (median of the rounds' ratios to the bare pass), and
    difference, the largest from what capture reads (NaN for the bare pass).
    """
    import pandas as pd

    runners = ways(vlm)
    names, seconds, got = (
        list(runners),
        {name: np.zeros(repeats + 1) for name in runners},
        {name: [] for name in runners},
    )
    for turn, batch in product(range(repeats + 1), batches):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            found = runners[name](batch)
            if vlm.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name][turn] += time.perf_counter() - start
            if turn == 0 and found is not None:
                got[name].append(found)
    seconds = {name: spent[1:] for name, spent in seconds.items()}
    read = {name: torch.cat(parts) for name, parts in got.items() if parts}
    bare = seconds["bare forward pass"]
    return pd.DataFrame(
        {"way": name, "median": np.median(t), "least": t.min(), "most": t.max(), "ratio": np.median(t / bare),
         "difference": float((read[name] - read["capture"]).abs().max()) if name in read else np.nan}
        for name, t in seconds.items()
    )  # fmt: skip


@torch.inference_mode()
def one_by_one(vlm, items: list[Item], max_new_tokens: int = 12):
    """Answer and keep as the predecessors do: each question alone, every head at every token in full precision.

    Returns (replies by uid, the main question's last; features (steps, width) at the tokens that predict the steps' replies;
    bytes kept of the steps; seconds of the steps, and of the main questions).
    """
    modules, replies, means, kept_bytes = dict(vlm.model.named_modules()), {}, [], 0
    start, main_seconds = time.perf_counter(), 0.0
    for item in items:
        said, image = [], open_image(item)
        for step in [*range(len(item.steps)), MAIN]:
            begun = time.perf_counter()
            seen = {name: [] for name in vlm.heads.projections}
            hooks = [
                modules[name].register_forward_pre_hook(lambda module, args, rows=rows: rows.append(args[0][0].float().cpu()))
                for name, rows in seen.items()
            ]  # fmt: skip
            inputs = vlm.encode([vlm.render(conversation(item, said, step), prompt=True)], [image])
            try:
                out = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
            finally:
                for hook in hooks:
                    hook.remove()
            new = out[0, inputs["input_ids"].shape[1] :]
            said.append(vlm.tokenizer.decode(new, skip_special_tokens=True).strip())
            if step == MAIN:
                main_seconds += time.perf_counter() - begun
                break
            whole = torch.cat([torch.cat(rows) for rows in seen.values()], dim=1)
            kept_bytes += whole.nelement() * whole.element_size()
            first = inputs["input_ids"].shape[1] - 1
            n_said = len(vlm.tokenizer(said[-1], add_special_tokens=False).input_ids)
            means.append(whole[first : first + n_said].mean(0))
        replies[item.uid] = said
    return replies, torch.stack(means).numpy(), kept_bytes, (time.perf_counter() - start - main_seconds, main_seconds)


def growth(vlm, items: list[Item], store: Path, sizes: list[int], answers):
    """Capture more and more items (the given ones, again and again): items, seconds, rows, peak memory in MB.

    ``answers`` are those to ``items``. The peak is the process's, so it can only rise; flat is what it should be.
    """
    import pandas as pd

    rows, numbers = [], {item.uid: i for i, item in enumerate(items)}
    answers = answers[answers["uid"].isin(numbers)]
    for size in sizes:
        many = [replace(items[i % len(items)], uid=f"{i}") for i in range(size)]
        again = range(-(-size // len(items)))
        said = pd.concat([answers.assign(uid=answers["uid"].map(numbers) + turn * len(items)) for turn in again])
        said = said[said["uid"] < size].astype({"uid": str})
        start = time.perf_counter()
        held = capture(vlm, many, store=Path(store) / str(size), answers=said, progress=False)
        rows.append({"items": size, "seconds": time.perf_counter() - start, "rows": len(held.features),
                     "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})  # fmt: skip
    return pd.DataFrame(rows)


def probe_race(n_steps: int = 2000, n_heads: int = 1024, head_dim: int = 128, looped: int = 4, repeats: int = 5):
    """Cross-validated probes of every head: all at once, and by logistic regressions of scikit-learn, one after the other.

    On drawn activations of a 7B model's shape with a signal of eight classes in every head. The loop runs on ``looped``
    heads only. Returns a DataFrame: way, heads, median, least and most seconds, ms_a_head, accuracy (mean over the looped
    heads).
    """
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from .probes import HeadProbes

    x, y, groups = _drawn(n_steps, n_heads, head_dim)
    folds = GroupKFold(5, shuffle=True, random_state=0)

    def at_once():
        return HeadProbes().fit(x, y, groups).accuracy_[:looped].mean()

    def one_by_one():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
        guesses = (
            cross_val_predict(model, x[:, head].astype(np.float32), y, groups=groups, cv=folds)
            for head in range(looped)
        )
        return np.mean([(guess == y).mean() for guess in guesses])

    rows = []
    for way, n, probe in (("all heads at once", n_heads, at_once), ("scikit-learn, head by head", looped, one_by_one)):
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            accuracy = probe()
            seconds.append(time.perf_counter() - start)
        rows.append({"way": way, "heads": n, "median": np.median(seconds), "least": min(seconds), "most": max(seconds),
                     "ms_a_head": 1e3 * np.median(seconds) / n, "accuracy": accuracy})  # fmt: skip
    return pd.DataFrame(rows)


def permutation_minutes(n_steps: int = 2000, n_heads: int = 1024, head_dim: int = 128, few: int = 8, more: int = 24):
    """CPU minutes of 1,000 permutations of the max-statistic over all heads and eight functions, at a 7B model's shape.

    ``few`` and ``more`` are run at the full size; what the further ones took is scaled, what all share is counted once.
    """
    from .probes import HeadProbes

    x, y, groups = _drawn(n_steps, n_heads, head_dim)

    def minutes(n):
        start = time.process_time()
        HeadProbes().permuted(x, y, groups, np.zeros(n_steps), n).max(axis=(1, 2))
        return (time.process_time() - start) / 60

    least, most = minutes(few), minutes(more)
    return least + (1000 - few) * (most - least) / (more - few)


def _drawn(n_steps: int, n_heads: int, head_dim: int):
    """Activations (steps, heads, head_dim) float16 with a signal of eight classes in every head, labels, groups."""
    rng = np.random.default_rng(0)
    y, groups = rng.integers(8, size=n_steps), np.arange(n_steps) // 4
    x = rng.standard_normal((n_steps, n_heads, head_dim), dtype=np.float32).astype(np.float16)
    x[:, :, :8] += np.eye(8, dtype=np.float16)[y][:, None] * np.float16(1.5)
    return x, y, groups
