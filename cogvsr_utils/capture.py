"""Record what every head holds while a model answers.

    capture(vlm, items, store=folder)   answers step by step, then reads all heads at the answers -> HeadActivations

First the model answers on its own (batched, greedy). Then one teacher-forced pass over each finished chat reads every
head of the text decoder at all its steps at once: for a causal model the same as watching it generate.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .activations import HeadActivations, ShardedStore
from .answering import CLOSING, INSTRUCTION, MAIN, answer
from .items import Item, fingerprint, image_size, short_hash
from .judging import judge
from .models import in_halves
from .positions import POSITIONS, encode_chats, group_steps

AT = ("predicts", "reads")
POOLS = ("mean", "token")


def capture(
    vlm,
    items: list[Item],
    *,
    store: str | Path,
    position: str = "answer",
    at: str = "predicts",
    pool: str = "mean",
    content_tokens: int = 3,
    dry_run: bool = False,
    answers=None,
    batch_size: int = 16,
    shard: int = 256,
    progress: bool = True,
) -> HeadActivations | dict:
    """Capture every head at every step of every item, and keep it in the folder ``store``.

    ``position`` is one of ``positions.POSITIONS``; ``answer_content`` takes the ``content_tokens`` most surprising
    tokens of an answer (the paper's k is 3). At answers, ``at="predicts"`` reads the tokens one to the left, whose
    output is the answer, ``"reads"`` the answer's own; other positions are read where they stand. ``pool="mean"``
    averages a step's tokens, ``"token"`` keeps a row for each. ``answers`` may hold what ``answer`` returned for these
    items; else the model answers first. ``dry_run`` returns the rows, bytes, passes and seconds to come instead, the
    seconds by running one batch with the right answers in place of the model's.

    A killed run goes on at its last shard and gives the same bytes. Raises ValueError for a store made from other
    settings and for activations that are not finite, OSError where the disk is or would be full.
    """
    for name, value, known in (("position", position, POSITIONS), ("at", at, AT), ("pool", pool, POOLS)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {known}")
    at = at if position.startswith("answer") else "reads"
    reader = _Reader(vlm, items, position, at, pool, content_tokens, batch_size)
    n_rows = sum(len(item.steps) for item in items)
    if dry_run:
        return {"rows": n_rows, "bytes": n_rows * vlm.heads.width * 2, "passes": len(items), **reader.rehearse()}
    store = ShardedStore(store, _header(vlm, items, answers, position, at, pool, content_tokens))
    if store.finished:
        return HeadActivations.open(store.folder)
    needed, free = 2 * n_rows * vlm.heads.width * 2, shutil.disk_usage(store.folder).free
    if needed > free:
        raise OSError(
            f"{store.folder} needs {needed / 1e9:.1f} GB (shards and the whole); {free / 1e9:.1f} GB are free"
        )
    if answers is None:
        answers = _kept_answers(vlm, items, store.folder, progress)
    answers = answers[answers["step"] != MAIN]
    reader.said = {uid: list(rows.sort_values("step")["prediction"]) for uid, rows in answers.groupby("uid")}
    for first in tqdm(range(0, len(items), shard), desc="capture", disable=not progress):
        store.add(first, lambda first=first: reader.read(range(first, min(first + shard, len(items)))))
    judged = judge(answers)

    def index(place):
        import pandas as pd

        rows = pd.DataFrame({"uid": [items[i].uid for i in place[:, 0]], "step": place[:, 1], "n_tokens": place[:, 2]})
        rows = rows.assign(token=place[:, 3]) if pool == "token" else rows
        rows = rows.merge(judged, on=["uid", "step"], how="left", validate="many_to_one")
        known = set(zip(rows["uid"], rows["step"], strict=True))
        missing.extend(f"{u}:{s}" for u, s in zip(judged["uid"], judged["step"], strict=True) if (u, s) not in known)
        return rows

    missing: list[str] = []
    store.join(index, vlm.heads, not_located=missing)
    if missing:
        print(f"{len(missing)} of {len(judged)} steps could not be located and hold no activations: "
              f"{', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}")  # fmt: skip
    return HeadActivations.open(store.folder)


class _Reader:
    """What one capture reads: the items, the replies to them (``said``), and which tokens of them."""

    def __init__(self, vlm, items, position, at, pool, content_tokens, batch_size):
        self.vlm, self.items, self.position, self.at, self.pool = vlm, items, position, at, pool
        self.content_tokens, self.batch_size = content_tokens, batch_size
        self.said = {item.uid: [step.answer for step in item.steps] for item in items}

    def rehearse(self) -> dict[str, float]:
        """Seconds that all passes would take, from one batch; answering comes on top where it is still to be done."""
        some = range(min(self.batch_size, len(self.items)))
        start = time.perf_counter()
        self.read(some)
        return {"seconds": (time.perf_counter() - start) * len(self.items) / max(len(some), 1)}

    def read(self, numbers: range) -> tuple[np.ndarray, np.ndarray]:
        """Features (rows, width) float16 of some items and where they come from: (rows, [item, step, tokens, token]).

        Pictures of one size go together, and chats of like length, so that little of a batch is padding.
        """

        def length(i):
            item = self.items[i]
            return len(item.question) + sum(map(len, self.said[item.uid])) + sum(len(s.question) for s in item.steps)

        ordered = [i for i in numbers if self.items[i].steps]
        ordered.sort(key=lambda i: (image_size(self.items[i]), length(i), i))
        blocks, places = [], []
        for first in range(0, len(ordered), self.batch_size):
            for features, place in in_halves(self._batch, ordered[first : first + self.batch_size]):
                blocks.append(features)
                places.append(place)
        if not blocks:
            return np.zeros((0, self.vlm.heads.width), np.float16), np.zeros((0, 4), int)
        return np.concatenate(blocks), np.concatenate(places)

    @torch.inference_mode()
    def _batch(self, numbers: list[int]):
        inputs, places = encode_chats(self.vlm, [self.items[i] for i in numbers], self.said, self.position)
        owner = group_steps(places)[1]
        count = np.bincount(owner)[owner]  # tokens of the step, before any are chosen
        if self.position == "answer_content" and len(places):
            keep = self._surprising(inputs, places)
            places, count = places[keep], count[keep]
        steps, owner = group_steps(places)
        flat = places[:, 0] * inputs["input_ids"].shape[1] + places[:, 1] - (self.at == "predicts")
        if self.pool == "mean":
            count, within = np.bincount(owner, minlength=len(steps)), np.zeros(len(steps), int)
        else:
            steps, within, owner = places[:, [0, 2]], places[:, 3], np.arange(len(places))
        place = np.column_stack([np.array(numbers)[steps[:, 0]], steps[:, 1], count, within])
        pooled = read_heads(self.vlm, inputs, flat, owner, len(place))
        return [(pooled.to(torch.float16).cpu().numpy(), place)]

    def _surprising(self, inputs, places) -> np.ndarray:
        """Which tokens are among the most surprising of their answer: -log p given all before."""
        row, token = places[:, 0], places[:, 1]
        logits, said = self.vlm.scores(inputs, row, token - 1), inputs["input_ids"][row, token]
        surprisal = torch.nn.functional.cross_entropy(logits, said, reduction="none").cpu().numpy()
        keep, (steps, owner) = np.zeros(len(places), dtype=bool), group_steps(places)
        for step in range(len(steps)):
            mine = np.flatnonzero(owner == step)
            keep[mine[np.argsort(-surprisal[mine], kind="stable")[: self.content_tokens]]] = True
        return keep


def read_heads(vlm, inputs, flat, owner, n_rows: int) -> torch.Tensor:
    """One forward pass; the mean of every head over the tokens of each row, (rows, width) float32 on the device.

    ``flat`` are token places in the flattened batch, ``owner`` the row that each belongs to. Selection and mean
    happen on the device, projection by projection; nothing else is kept.
    """
    device = vlm.device
    place, owner = torch.as_tensor(flat, device=device), torch.as_tensor(owner, device=device)
    out = torch.zeros(n_rows, vlm.heads.width, device=device)
    modules = dict(vlm.model.named_modules())

    def hook_for(start, stop):
        def hook(module, args):
            rows = args[0].flatten(0, 1).index_select(0, place).float()
            out[:, start:stop].index_add_(0, owner, rows)

        return hook

    places = vlm.heads.projections.items()
    handles = [modules[name].register_forward_pre_hook(hook_for(*span)) for name, span in places]
    try:
        vlm.run(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return out / torch.bincount(owner, minlength=n_rows).clamp(min=1)[:, None]


def _kept_answers(vlm, items, store, progress):
    """The model's answers, kept beside the shards so that a killed run does not ask again."""
    import pandas as pd

    path = store / "answers.parquet"
    if not path.exists():
        found = answer(vlm, items, progress=progress)
        partial = path.with_suffix(".part")
        found.to_parquet(partial)
        partial.replace(path)
    return pd.read_parquet(path)


def _header(vlm, items, answers, position, at, pool, content_tokens) -> dict:
    import transformers

    said = answers
    if said is not None:
        said = said[(said["step"] != MAIN) & said["uid"].isin([item.uid for item in items])]
        said = said[["uid", "step", "prediction"]].sort_values(["uid", "step"])
    return {
        "model": vlm.name, "revision": vlm.revision, "quantize": vlm.quantize, "dtype": str(vlm.model.dtype),
        "weights": vlm.fingerprint, "data": fingerprint(items),
        "prompt": short_hash(f"{INSTRUCTION}|{CLOSING}|{vlm.processor.chat_template}"),
        "answers": "the model's own" if said is None else short_hash(said.to_csv(index=False)),
        "position": position, "at": at, "pool": pool, "modules": list(vlm.heads.projections),
        "content_tokens": content_tokens if position == "answer_content" else None,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }  # fmt: skip
