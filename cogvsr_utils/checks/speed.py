"""Benchmarks of speed, as ratios within one run: beside the bare pass, beside peers, beside a sequential baseline.

finished_chats(vlm, items)        batches with the right answers in place, and the tokens to read in them
compare_methods(vlm, batches)     the same reading by several methods, in turns: seconds, ratio, largest difference
sequential_baseline(vlm, items)   the predecessors' method: one step at a time, a hook on every token, all tokens kept
throughput(vlm, items, store)     steps a second of answering, reading and single-head sweeps, and their ratios to it
answering_parts(vlm, items)       where the time of answering goes
tower_benchmark(vlm, items)       the vision tower, its windows in one call and one by one
scaling(vlm, items, store, ...)   seconds and memory for more and more items
timed(call, ...)                  what a call returns, and its seconds

nnsight and pyvene come with the extra ``peers``; each is used as its documentation shows.
"""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.batching import batched
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.head_edits import mask
from cogvsr_utils.models.hooks import projection_hooks
from cogvsr_utils.models.positions import encode_chats, group_steps
from cogvsr_utils.models.recording import capture, read_heads
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.models.vlm import VLM
from cogvsr_utils.models.windows import IMPLEMENTATION

BARE, CAPTURE, BASELINE, A_HEAD = "bare forward pass", "capture", "sequential baseline", "one run a head"
FEW = 8  # heads of a sweep that are run one by one beside it


@dataclass(frozen=True)
class Batch:
    """Encoded chats, the places (tokens,) of tokens in the flattened batch, the row that each belongs to, how many
    rows."""

    inputs: dict
    flat: np.ndarray
    owner: np.ndarray
    n_rows: int

    def pool(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Means (rows, width) over each row's tokens, from every projection's whole input (batch, tokens, width)."""
        flat, owner = (torch.as_tensor(numbers, device=parts[0].device) for numbers in (self.flat, self.owner))
        rows = torch.cat([part.flatten(0, 1)[flat].float() for part in parts], dim=1)  # (tokens, width)
        out = torch.zeros(self.n_rows, rows.shape[1], device=rows.device).index_add_(0, owner, rows)
        return out / torch.bincount(owner, minlength=self.n_rows)[:, None]


def finished_chats(vlm: VLM, items: list[Item], batch_size: int = 16) -> list[Batch]:
    """Batches of items with their right answers, to be read at the tokens that predict these."""
    batches, items = [], [item for item in items if item.steps]
    for some in batched(items, batch_size, lambda item: item.image is None):
        inputs, places = encode_chats(vlm, some, {item.uid: [step.answer for step in item.steps] for item in some})
        steps, owner = group_steps(places)
        flat = places[:, 0] * inputs["input_ids"].shape[1] + places[:, 1] - 1
        batches.append(Batch(inputs, flat, owner, len(steps)))
    return batches


def methods(vlm: VLM) -> dict[str, Callable[[Batch], torch.Tensor | None]]:
    """The bare pass, capture, and those peers that are installed, as functions of a batch.

    pyvene takes all forward hooks off the model, transformers' own too: it hands over no attention maps afterwards.
    """
    found = {
        BARE: lambda batch: vlm.forward(batch.inputs) and None,
        CAPTURE: lambda batch: read_heads(vlm, batch.inputs, batch.flat, batch.owner, batch.n_rows),
    }
    peers = {"nnsight": _nnsight, "pyvene": _pyvene}
    return found | {name: make(vlm) for name, make in peers.items() if find_spec(name)}


@torch.inference_mode()
def compare_methods(vlm: VLM, batches: list[Batch], repeats: int = 5) -> pd.DataFrame:
    """Every method over all batches, in turns batch by batch, each round beginning with another; the first is not
    counted.

    Returns a DataFrame: method, median seconds, least, most, ratio (median of the rounds' ratios to the bare pass), and
    difference, the largest from what capture reads (NaN for the bare pass).
    """
    runners = methods(vlm)
    names = list(runners)
    seconds, parts = {name: np.zeros(repeats + 1) for name in names}, {name: [] for name in names}
    for turn, batch in product(range(repeats + 1), batches):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            features, spent = timed(runners[name], batch)
            seconds[name][turn] += spent
            if turn == 0 and features is not None:
                parts[name].append(features)
    seconds = {name: spent[1:] for name, spent in seconds.items()}
    read = {name: torch.cat(each) for name, each in parts.items() if each}
    return pd.DataFrame(
        {"method": name, "median": np.median(t), "least": t.min(), "most": t.max(),
         "ratio": np.median(t / seconds[BARE]),
         "difference": float((read[name] - read[CAPTURE]).abs().max()) if name in read else np.nan}
        for name, t in seconds.items()
    )  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """What ``sequential_baseline`` gave: ``replies`` by uid, the main question's last; ``features`` (steps, width) at
    the tokens that predict the steps' replies; seconds of steps and of main
    questions."""

    replies: dict[str, list[str]]
    features: np.ndarray
    step_seconds: float
    main_seconds: float


@torch.inference_mode()
def sequential_baseline(vlm: VLM, items: list[Item], max_new_tokens: int = 12) -> Baseline:
    """Answer and record as the predecessors do: each question alone, every head at every token in full precision.

    Source: the published code of Cognitive Mirrors (arXiv 2512.10978), as a lean loop of our own.
    """
    replies, means, seconds = {}, [], {True: 0.0, False: 0.0}
    for item in items:
        earlier, image = [], open_image(item)
        for step in [*range(len(item.steps)), MAIN]:
            start, rows = time.perf_counter(), {name: [] for name in vlm.heads.projections}

            def hook_for(name, columns, rows=rows):
                return lambda module, args: rows[name].append(args[0][0].float().cpu())

            inputs = vlm.encode([vlm.render(conversation(item, earlier, step), prompt=True)], [image])
            with projection_hooks(vlm, hook_for):
                out = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
            n_prompt = inputs["input_ids"].shape[1]
            reply = vlm.tokenizer.decode(out[0, n_prompt:], skip_special_tokens=True).strip()
            earlier.append(reply)
            whole = torch.cat([torch.cat(parts) for parts in rows.values()], dim=1)  # (tokens, width)
            seconds[step == MAIN] += time.perf_counter() - start
            if step != MAIN:
                n_reply = len(vlm.tokenizer(reply, add_special_tokens=False).input_ids)
                means.append(whole[n_prompt - 1 : n_prompt - 1 + n_reply].mean(0))
        replies[item.uid] = earlier
    return Baseline(replies, torch.stack(means).numpy(), seconds[False], seconds[True])


def throughput(
    vlm: VLM, items: list[Item], store: Path, repeats: int = 3, sweep: int = 48, alone: int | None = None
) -> pd.DataFrame:
    """Steps a second of three tasks by the sequential baseline and by this package, medians of ``repeats`` turns.

    Tasks: answering and reading (main questions answered too), reading with the replies known (the baseline has to
    generate the steps again), and a sweep over ``sweep`` single heads of all layers, teacher-forced (the baseline runs
    one item after the other, for the first of the heads; beside it all items in batches, one run a head, for a few of
    them). The baseline takes the first ``alone`` items, all by default, since its time grows in line with them. Returns
    a DataFrame: task, method, steps, seconds, steps_per_second, ratio (to the task's baseline).
    """
    n_steps, n_alone = (sum(len(item.steps) for item in some) for some in (items, items[:alone]))
    heads = vlm.heads.pairs[:: max(1, len(vlm.heads) // sweep)][:sweep]
    edits = [mask([head]) for head in heads]
    with_steps, a_few = [item for item in items[:alone] if item.steps], edits[:: max(1, len(edits) // FEW)]
    sweeps = {
        BASELINE: lambda: [TeacherForcedScorer(vlm, [item]).score(edits[0]) for item in with_steps],
        A_HEAD: lambda: [TeacherForcedScorer(vlm, items).score(edit) for edit in a_few],
        "batched": lambda: TeacherForcedScorer(vlm, items).score_each(edits, progress=False),
    }
    runs = {BASELINE: n_alone, A_HEAD: n_steps * len(a_few), "batched": n_steps * len(edits)}
    seconds: dict[tuple[str, str], list[float]] = {}
    for turn in range(repeats):
        folder, baseline = Path(store) / f"{turn}", sequential_baseline(vlm, items[:alone])
        answers, answering = timed(answer, vlm, items, progress=False)
        _, reading = timed(capture, vlm, items, store=folder, answers=answers, progress=False)
        spent = {
            ("answering and reading", BASELINE): baseline.step_seconds + baseline.main_seconds,
            ("answering and reading", "batched"): answering + reading,
            ("reading, the replies known", BASELINE): baseline.step_seconds,
            ("reading, the replies known", "batched"): reading,
        }
        for method, sweep_them in sweeps.items():
            spent["sweep over single heads", method] = timed(sweep_them)[1]
        for key, value in spent.items():
            seconds.setdefault(key, []).append(value)
    rows, first = [], {}
    for (task, method), spent in seconds.items():
        median = float(np.median(spent))
        steps = runs[method] if "sweep" in task else n_alone if method == BASELINE else n_steps
        rate = steps / median
        rows.append({"task": task, "method": method, "steps": steps, "seconds": median, "steps_per_second": rate,
                     "ratio": rate / first.setdefault(task, rate)})  # fmt: skip
    return pd.DataFrame(rows)


def answering_parts(vlm: VLM, items: list[Item]) -> pd.DataFrame:
    """Where the time of answering goes: a DataFrame with part, seconds and share of all, in [0, 1].

    The rest is pictures and texts prepared, word scores, and the loop around the passes.
    """
    tower, decoder = vlm.model.get_encoder(modality="image"), vlm.model.get_decoder()
    seconds, starts = {"vision tower": 0.0, "decoder over prompts": 0.0, "decoder over single tokens": 0.0}, []

    def stop(module, args, output):
        part = "vision tower"
        if module is decoder:
            part = "decoder over " + ("single tokens" if output[0].shape[1] == 1 else "prompts")
        seconds[part] += _now() - starts.pop()

    handles = []
    for module in (tower, decoder):
        handles.append(module.register_forward_pre_hook(lambda *_: starts.append(_now())))
        handles.append(module.register_forward_hook(stop))
    try:
        whole = timed(answer, vlm, items, progress=False)[1]
    finally:
        for handle in handles:
            handle.remove()
    seconds["the rest"] = whole - sum(seconds.values())
    return pd.DataFrame({"part": part, "seconds": spent, "share": spent / whole} for part, spent in seconds.items())


@torch.inference_mode()
def tower_benchmark(vlm: VLM, items: list[Item], repeats: int = 9) -> pd.DataFrame:
    """The vision tower on one batch of pictures: windows in one call, and one by one. A DataFrame: method, median
    seconds, ratio; ``equal`` whether all features are the same bits. Raises ValueError for a tower without windows."""
    tower = vlm.model.get_encoder(modality="image")
    config = tower.config
    if config._attn_implementation != IMPLEMENTATION:
        raise ValueError(f"the vision tower of {vlm.name} attends to no windows; expected one that does")
    items = [item for item in items if item.image is not None]
    texts = [vlm.render(conversation(item, [], MAIN), prompt=True) for item in items]
    inputs = vlm.encode(texts, [open_image(item) for item in items])
    taken = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
    seconds, features = {IMPLEMENTATION: [], "sdpa": []}, {}
    try:
        for name in [*seconds] * (repeats + 1):
            config._attn_implementation = name
            features[name], spent = timed(vlm.model.get_image_features, **taken)
            seconds[name].append(spent)
    finally:
        config._attn_implementation = IMPLEMENTATION
    median = {name: float(np.median(spent[1:])) for name, spent in seconds.items()}
    one, other = (_tensors(features[name]) for name in seconds)
    return pd.DataFrame(
        {"method": label, "median": median[name], "ratio": median["sdpa"] / median[name],
         "equal": all(map(torch.equal, one, other))}
        for label, name in (("one window after the other", "sdpa"), ("all windows at once", IMPLEMENTATION))
    )  # fmt: skip


def scaling(vlm: VLM, items: list[Item], store: Path, sizes: list[int], answers: pd.DataFrame) -> pd.DataFrame:
    """Capture more and more items (the given ones, repeated): items, seconds, rows, peak_mb.

    ``answers`` are those to ``items``. The peak is the process's memory, so it can only rise; flat is what it should
    be.
    """
    import resource  # which Windows lacks

    rows, numbers = [], {item.uid: i for i, item in enumerate(items)}
    answers = answers[answers["uid"].isin(numbers)]
    unit = 2**20 if sys.platform == "darwin" else 2**10  # the system's: bytes there, else kilobytes
    for size in sizes:
        many = [replace(items[i % len(items)], uid=f"{i}") for i in range(size)]
        rounds = range(-(-size // len(items)))
        repeated = pd.concat([answers.assign(uid=answers["uid"].map(numbers) + turn * len(items)) for turn in rounds])
        repeated = repeated[repeated["uid"] < size].astype({"uid": str})
        captured, seconds = timed(capture, vlm, many, store=Path(store) / str(size), answers=repeated, progress=False)
        rows.append({"items": size, "seconds": seconds, "rows": len(captured.features),
                     "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit})  # fmt: skip
    return pd.DataFrame(rows)


def _nnsight(vlm: VLM):
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


def _pyvene(vlm: VLM):
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


def _now() -> float:
    """The clock in seconds, read when a GPU has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(call: Callable, *args, **settings) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    start = _now()
    value = call(*args, **settings)
    return value, _now() - start


def _tensors(features) -> list[torch.Tensor]:
    """The image features of a model's output, whatever they come in."""
    if isinstance(features, torch.Tensor):
        return [features]
    pooled = getattr(features, "pooler_output", features)
    return [pooled] if isinstance(pooled, torch.Tensor) else list(pooled)
