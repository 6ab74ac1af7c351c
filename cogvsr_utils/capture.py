"""Record what every head holds while a model answers.

    capture(vlm, items, store=folder)   answers step by step, then reads all heads at the answers -> HeadActivations
    HeadActivations.open(folder)        the stored features, memory-mapped, with their index and header

First the model answers on its own (batched, greedy). Then one teacher-forced pass over each finished chat reads every
head of the text decoder at every answer at once: for a causal model the same as watching it generate.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .answering import CLOSING, INSTRUCTION, MAIN, answer, conversation
from .heads import HeadMap
from .items import Item, fingerprint, open_image
from .judging import judge

POSITIONS = ("answer",)
AT = ("predicts", "reads")


@dataclass(frozen=True)
class HeadActivations:
    """Head features of many steps.

    ``features`` (steps, width) float16, memory-mapped; ``index`` one row a step (uid, group_id, subset, step,
    function, answer, prediction, correct, n_tokens); ``heads`` the map from heads to columns; ``header`` says what
    made them.
    """

    features: np.ndarray
    index: object
    heads: HeadMap
    header: dict

    @classmethod
    def open(cls, folder: str | Path) -> HeadActivations:
        """Open a finished store; raises FileNotFoundError where there is none."""
        import pandas as pd

        folder = Path(folder)
        if not (folder / "header.json").is_file():
            raise FileNotFoundError(f"no finished activations in {folder}; expected what capture() writes there")
        header = json.loads((folder / "header.json").read_text())
        heads = HeadMap(pd.read_parquet(folder / "heads.parquet"))
        features = np.load(folder / "features.npy", mmap_mode="r")
        return cls(features, pd.read_parquet(folder / "index.parquet"), heads, header)

    def by_head(self, rows=None) -> np.ndarray:
        """Features as (steps, heads, head_dim) float32; raises ValueError where heads differ in width."""
        widths = self.heads.table["head_dim"].unique()
        if len(widths) > 1:
            raise ValueError(f"heads have widths {sorted(widths)}; read them by their columns instead")
        x = self.features if rows is None else self.features[rows]
        return np.asarray(x, dtype=np.float32).reshape(len(x), len(self.heads), int(widths[0]))


def capture(
    vlm,
    items: list[Item],
    *,
    store: str | Path,
    position: str = "answer",
    at: str = "predicts",
    pool: str = "mean",
    dry_run: bool = False,
    answers=None,
    batch_size: int = 32,
    shard: int = 256,
    progress: bool = True,
) -> HeadActivations | dict:
    """Capture every head at the answers of every step, and keep it in the folder ``store``.

    ``at="predicts"`` reads the tokens one to the left of the answer's, whose output is the answer; ``"reads"`` the
    answer's own. Tokens of one answer are averaged (``pool="mean"``). ``answers`` may hold what ``answer`` returned
    for these items; else the model answers first. ``dry_run`` returns the bytes, rows and passes to come instead.
    A killed run goes on at its last shard; a store made from other settings is refused (ValueError).
    """
    for name, value, known in (("position", position, POSITIONS), ("at", at, AT), ("pool", pool, ("mean",))):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {known}")
    store = Path(store)
    n_rows = sum(len(item.steps) for item in items)
    if dry_run:
        return {"rows": n_rows, "bytes": n_rows * vlm.heads.width * 2, "passes": len(items)}
    header = _header(vlm, items, position, at, pool)
    store.mkdir(parents=True, exist_ok=True)
    _check_store(store, header)
    if (store / "header.json").exists():
        return HeadActivations.open(store)
    if answers is None:
        answers = _kept_answers(vlm, items, store, progress)
    said = {uid: rows.sort_values("step") for uid, rows in answers[answers.step != MAIN].groupby("uid")}
    paths = []
    for first in tqdm(range(0, len(items), shard), desc="capture", disable=not progress):
        paths.append(store / f"shard-{first:07d}.npz")
        if not paths[-1].exists():
            starts = range(first, min(first + shard, len(items)), batch_size)
            found = [
                _read(vlm, items, range(i, min(i + batch_size, first + shard, len(items))), said, at) for i in starts
            ]
            _write(paths[-1], *(np.concatenate(column) for column in zip(*found, strict=True)))
    _join(store, paths, items, judge(answers[answers.step != MAIN]), vlm.heads, header)
    return HeadActivations.open(store)


def chat_spans(vlm, item: Item, replies: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """The finished chat as text, and the characters (start, stop) that each reply takes in it.

    Raises ValueError where the template rewrites earlier turns, so that a reply stands elsewhere in the whole chat
    than it was given.
    """
    last = len(replies) - 1
    whole = vlm.render(conversation(item, replies[:last], last), prompt=True) + replies[last]
    spans = []
    for step, reply in enumerate(replies):
        prompt = vlm.render(conversation(item, replies[:step], step), prompt=True)
        if not whole.startswith(prompt + reply):
            raise ValueError(
                f"item {item.uid!r}, step {step}: the chat template does not keep earlier turns as they were"
            )
        spans.append((len(prompt), len(prompt) + len(reply)))
    return whole, spans


def token_spans(vlm, text: str, spans: list[tuple[int, int]], n_tokens: int) -> list[list[int]]:
    """Tokens of each character span, counted in a sequence of ``n_tokens`` whose image marks have been expanded."""
    encoded = vlm.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    offsets = np.asarray(encoded["offset_mapping"])
    grown = n_tokens - len(offsets)  # image marks stand before every answer, so what they add shifts all alike
    found = []
    for start, stop in spans:
        inside = (offsets[:, 0] < stop) & (offsets[:, 1] > start) & (offsets[:, 1] > offsets[:, 0])
        found.append([int(i) + grown for i in np.flatnonzero(inside)])
    return found


@torch.inference_mode()
def _read(vlm, items, numbers: range, said, at):
    """Features (steps, width) float16 of some items, and (item, step, tokens) of each located answer."""
    texts, spans = zip(*(chat_spans(vlm, items[i], list(said[items[i].uid].prediction)) for i in numbers), strict=True)
    inputs = vlm.encode(list(texts), [open_image(items[i]) for i in numbers], side="right")
    width = inputs["input_ids"].shape[1]
    lengths = inputs["attention_mask"].sum(1).tolist()
    flat, segment, place = [], [], []
    for row, (number, text, places, length) in enumerate(zip(numbers, texts, spans, lengths, strict=True)):
        for step, tokens in enumerate(token_spans(vlm, text, places, length)):
            if tokens:
                flat += [row * width + t - (at == "predicts") for t in tokens]
                segment += [len(place)] * len(tokens)
                place.append((number, step, len(tokens)))
    pooled = read_heads(vlm, inputs, flat, segment, [n for *_, n in place])
    return pooled.to(torch.float16).cpu().numpy(), np.array(place)


def read_heads(vlm, inputs, flat: list[int], segment: list[int], count: list[int]) -> torch.Tensor:
    """One forward pass; the mean of every head over each segment of tokens, (segments, width) float32.

    ``flat`` are token places in the flattened batch, ``segment`` says which mean each belongs to, ``count`` how many
    each mean has. Selection and mean happen on the device, layer by layer; nothing else is kept.
    """
    device = vlm.device
    place, owner = torch.tensor(flat, device=device), torch.tensor(segment, device=device)
    out = torch.zeros(len(count), vlm.heads.width, device=device)
    modules = dict(vlm.model.named_modules())

    def hook_for(start, stop):
        def hook(module, args):
            rows = args[0].flatten(0, 1).index_select(0, place).float()
            out[:, start:stop].index_add_(0, owner, rows)

        return hook

    places = vlm.heads.projections.items()
    handles = [modules[name].register_forward_pre_hook(hook_for(*span)) for name, span in places]
    try:
        vlm.model.model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return out / torch.tensor(count, device=device)[:, None]


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


def _header(vlm, items, position, at, pool) -> dict:
    import transformers

    return {
        "model": vlm.name, "revision": vlm.revision, "quantize": vlm.quantize, "dtype": str(vlm.model.dtype),
        "weights": vlm.fingerprint, "data": fingerprint(items), "prompt": hashlib.sha256(
            f"{INSTRUCTION}|{CLOSING}|{vlm.processor.chat_template}".encode()).hexdigest()[:16],
        "position": position, "at": at, "pool": pool, "modules": list(vlm.heads.projections),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }  # fmt: skip


def _check_store(store: Path, header: dict):
    """Note whose store this is before the first shard; refuse one that was made from anything else."""
    path = store / "settings.json"
    mine = json.loads(json.dumps(header))
    if not path.exists():
        path.write_text(json.dumps(mine, indent=1))
        return
    theirs = json.loads(path.read_text())
    differing = [k for k in mine if mine[k] != theirs.get(k)]
    if differing:
        pairs = "; ".join(f"{k}: there {theirs.get(k)!r}, now {mine[k]!r}" for k in differing)
        raise ValueError(f"{store} was made from other settings ({pairs}); give another store or delete this one")


def _write(path: Path, features, place):
    bad = np.count_nonzero(~np.isfinite(features))
    if bad:
        raise ValueError(f"{path.stem}: {bad} activations are not finite in float16; expected none")
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez(file, features=features, place=place)
    partial.replace(path)


def _join(store, paths, items, judged, heads, header):
    """All shards in one file to be memory-mapped; the header is written last and says that all is there."""
    import pandas as pd

    place = np.concatenate([np.load(path)["place"] for path in paths])
    partial, row = store / "features.part", 0
    out = np.lib.format.open_memmap(partial, "w+", np.float16, (len(place), heads.width))
    for path in paths:
        block = np.load(path)["features"]
        out[row : row + len(block)] = block
        row += len(block)
    out.flush()
    partial.replace(store / "features.npy")
    keys = pd.DataFrame({"uid": [items[i].uid for i in place[:, 0]], "step": place[:, 1], "n_tokens": place[:, 2]})
    keys.merge(judged, on=["uid", "step"], how="left", validate="one_to_one").to_parquet(store / "index.parquet")
    heads.table.to_parquet(store / "heads.parquet")
    not_located = len(judged) - len(keys)
    if not_located:
        print(f"{not_located} of {len(judged)} answers were empty and hold no activations")
    (store / "header.json").write_text(json.dumps({**header, "not_located": not_located}, indent=1))
    for path in paths:
        path.unlink()
