"""Record the activations of every head while a model answers.

capture(vlm, items, store=folder)      answers step by step, then reads all heads at the answers -> HeadActivations
estimate_capture(vlm, items)           rows, bytes and seconds of it, from one batch
read_heads(vlm, inputs, ...)           one pass: the mean of every head over the tokens of each row

First the model answers on its own (batched, greedy). Then one teacher-forced pass over each finished chat reads every
head of the text decoder at all its steps at once: for a causal model the same activations as during generation.
"""

import logging
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from cogvsr_utils.dataset.images import image_size
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.scoring import judge, require_columns
from cogvsr_utils.files import digest
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models.activations import HeadActivations, ShardedStore
from cogvsr_utils.models.answering import answer, answer_table
from cogvsr_utils.models.batching import FIRST, batched, in_halves, measure_batch, require_count
from cogvsr_utils.models.chat import chat_settings, check_items, check_lengths, right_answers, step_replies
from cogvsr_utils.models.hooks import projection_hooks
from cogvsr_utils.models.positions import POSITIONS, encode_chats, group_steps
from cogvsr_utils.models.vlm import VLM

AT = ("predicts", "reads")
POOLS = ("mean", "token")
CPU_BATCH = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """Which tokens of a step are read, and what becomes of them; see ``capture``. Raises ValueError for other
    values."""

    position: str = "answer"
    at: str = "predicts"
    pool: str = "mean"
    content_tokens: int = 3

    def __post_init__(self):
        for name, known in (("position", POSITIONS), ("at", AT), ("pool", POOLS)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {known}")
        require_count("content_tokens", self.content_tokens)

    @property
    def shift(self) -> int:
        """How many tokens to the left of its own place a token is read: 1 where it is to be predicted, else 0."""
        return int(self.at == "predicts" and self.position.startswith("answer"))


@dataclass(frozen=True)
class CaptureEstimate:
    """Rows and bytes that a capture keeps, and the seconds of its passes."""

    rows: int
    bytes: int
    seconds: float


def capture(
    vlm: VLM,
    items: list[Item],
    *,
    store: str | Path,
    position: str = "answer",
    at: str = "predicts",
    pool: str = "mean",
    content_tokens: int = 3,
    answers: pd.DataFrame = None,
    batch_size: int | None = None,
    shard: int = 256,
    progress: bool = True,
) -> HeadActivations:
    """Capture every head at every step of every item, and keep it in the folder ``store``.

    ``position`` is one of ``positions.POSITIONS``; ``answer_content`` takes the ``content_tokens`` most surprising
    tokens of an answer (the paper's k is 3). At answers, ``at="predicts"`` reads the tokens one to the left, whose
    output is the answer, ``"reads"`` the answer's own; other positions are read where they are. ``pool="mean"``
    averages a step's tokens, ``"token"`` keeps a row for each. ``answers`` may be what ``answer`` returned for these
    items; else the model answers first. Without a ``batch_size`` the first batch on a GPU measures how many chats fit.

    A killed run resumes at its last batch of answers or shard and gives the same bytes. Steps that cannot be located
    are left out, listed in the header as ``not_located`` and counted in the log. Raises ValueError for a store made
    from other settings, for answers that do not cover every step once, and for activations that are not finite; BadChat
    where ``answer`` does; OSError where the disk is or would be full and where another process writes to the store.

    >>> import tempfile
    >>> from cogvsr_utils import Item, Step, load_vlm
    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [step])
    >>> capture(load_vlm("nano-internvl"), [item], store=tempfile.mkdtemp()).by_head().shape
    (1, 192, 24)
    """
    reading = Reading(position, at, pool, content_tokens)
    require_count("shard", shard)
    if batch_size is not None:
        require_count("batch_size", batch_size)
    n_rows = sum(len(item.steps) for item in items)
    check_items(vlm, items)
    if not n_rows:
        raise ValueError("no item has steps; expected some to capture")
    if answers is not None:
        answers = _of_all_steps(answers, items)
        check_lengths(vlm, items, step_replies(answers))
    making = {"batch_size": batch_size, "shard": shard}
    with ShardedStore(store, _header(vlm, items, answers, reading), making) as shards:
        if shards.finished:
            return HeadActivations.open(shards.folder)
        needed, free = 2 * n_rows * vlm.heads.width * 2, shutil.disk_usage(shards.folder).free
        if needed > free:
            raise OSError(
                f"{shards.folder} needs {needed / 1e9:.1f} GB (shards and the whole); {free / 1e9:.1f} GB are free"
            )
        if answers is None:
            found = answer(vlm, items, progress=progress, resume=shards.folder / "replies.json")
            answers = _of_all_steps(found, items)
        reader = _Reader(vlm, items, step_replies(answers), reading)
        size = batch_size or shards.remember("batch_size", reader.measured_batch_size)
        for first in tqdm(range(0, len(items), shard), desc="capture", disable=not progress):
            stop = min(first + shard, len(items))
            shards.add(first, stop, lambda first=first, stop=stop: reader.read(range(first, stop), size))
        judged = judge(answers)
        found = shards.join(len(items), lambda place: _index(items, judged, place, pool), vlm.heads)
    if missing := found.header["not_located"]:
        log.warning(
            "%d of %d steps could not be located and have no activations: %s%s",
            len(missing),
            len(judged),
            ", ".join(missing[:5]),
            " …" if len(missing) > 5 else "",
        )
    return found


def estimate_capture(vlm: VLM, items: list[Item], *, batch_size: int = FIRST, **reading) -> CaptureEstimate:
    """What ``capture`` of these items will keep and take; ``reading`` are its position, at, pool and content_tokens.

    Seconds, and with ``pool="token"`` rows, come from one batch with the right answers in place of the model's;
    answering comes on top.

    >>> from cogvsr_utils import Step, load_vlm
    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [step])
    >>> found = estimate_capture(load_vlm("nano-internvl"), [item])
    >>> found.rows, found.bytes  # two bytes for each of 192 * 24 numbers
    (1, 9216)
    """
    reader = _Reader(vlm, items, right_answers(items), Reading(**reading))
    some = range(min(batch_size, len(items)))
    start = time.perf_counter()
    read, _ = reader.read(some, batch_size)
    seconds = (time.perf_counter() - start) * len(items) / max(len(some), 1)
    n_rows, n_read = (sum(len(item.steps) for item in each) for each in (items, items[: len(some)]))
    if reader.reading.pool == "token":
        n_rows = round(n_rows * len(read) / max(n_read, 1))
    return CaptureEstimate(n_rows, n_rows * vlm.heads.width * 2, seconds)


def read_heads(vlm: VLM, inputs: dict, flat: np.ndarray, owner: np.ndarray, n_rows: int) -> torch.Tensor:
    """One forward pass; the mean of every head over the tokens of each row, (rows, width) float32 on the device.

    ``flat`` (tokens,) are places in the flattened batch, ``owner`` (tokens,) the row that each belongs to. Selection
    and mean happen on the device, projection by projection; nothing else is kept.
    """
    place, owner = torch.as_tensor(flat, device=vlm.device), torch.as_tensor(owner, device=vlm.device)
    out = torch.zeros(n_rows, vlm.heads.width, device=vlm.device)

    def hook_for(name, columns):
        def hook(module, args):
            rows = args[0].flatten(0, 1).index_select(0, place).float()  # (tokens, width of the projection)
            out[:, columns].index_add_(0, owner, rows)

        return hook

    with projection_hooks(vlm, hook_for):
        vlm.forward(inputs)
    return out / torch.bincount(owner, minlength=n_rows).clamp(min=1)[:, None]


@dataclass(frozen=True)
class _Reader:
    """What one capture reads: the items, the replies to them, and which tokens of them."""

    vlm: VLM
    items: list[Item]
    replies: dict[str, list[str]]
    reading: Reading

    def measured_batch_size(self) -> int:
        """How many of the longest chats fit into a GPU's memory; 16 elsewhere."""
        if self.vlm.device.type != "cuda":
            return CPU_BATCH
        ordered = sorted((i for i in range(len(self.items)) if self.items[i].steps), key=self._order)
        bare = self.items[ordered[-1]].image is None
        alike = [i for i in ordered if (self.items[i].image is None) == bare]
        return measure_batch(self._batch, alike[-FIRST:], self.vlm.device)[1]

    def read(self, numbers: range, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Features (rows, width) float16 of some items and where they come from: (rows, [item, step, tokens,
        token])."""
        ordered = sorted((i for i in numbers if self.items[i].steps), key=self._order)
        blocks, places = [np.zeros((0, self.vlm.heads.width), np.float16)], [np.zeros((0, 4), int)]
        for batch in batched(ordered, batch_size, lambda i: self.items[i].image is None):
            for features, place in in_halves(self._batch, batch):
                blocks.append(features)
                places.append(place)
        return np.concatenate(blocks), np.concatenate(places)

    def _order(self, i: int) -> tuple:
        """Pictures of one size together, and chats of like length, so that little of a batch is padding."""
        item = self.items[i]
        replies = self.replies.get(item.uid, ())
        length = len(item.question) + sum(map(len, replies)) + sum(len(s.question) for s in item.steps)
        return image_size(item), length, i

    @torch.inference_mode()
    def _batch(self, numbers: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        items = [self.items[i] for i in numbers]
        inputs, places = encode_chats(self.vlm, items, self.replies, self.reading.position)
        owner = group_steps(places)[1]
        count = np.bincount(owner)[owner]  # tokens of the step, before any are chosen
        if self.reading.position == "answer_content" and len(places):
            keep = self._surprising(inputs, places)
            places, count = places[keep], count[keep]
        steps, owner = group_steps(places)
        flat = places[:, 0] * inputs["input_ids"].shape[1] + places[:, 1] - self.reading.shift
        if self.reading.pool == "mean":
            count, within = np.bincount(owner, minlength=len(steps)), np.zeros(len(steps), int)
        else:
            steps, within, owner = places[:, [0, 2]], places[:, 3], np.arange(len(places))
        place = np.column_stack([np.array(numbers)[steps[:, 0]], steps[:, 1], count, within])
        pooled = read_heads(self.vlm, inputs, flat, owner, len(place))
        return [(pooled.to(torch.float16).cpu().numpy(), place)]

    def _surprising(self, inputs: dict, places: np.ndarray) -> np.ndarray:
        """Which tokens (tokens,) are among the most surprising of their answer: -log p given all before."""
        row, token = (torch.as_tensor(column, device=self.vlm.device) for column in places[:, :2].T)
        logits, targets = self.vlm.next_logits(inputs, row, token - 1), inputs["input_ids"][row, token]
        surprisal = torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu().numpy()
        keep, (steps, owner) = np.zeros(len(places), dtype=bool), group_steps(places)
        for step in range(len(steps)):
            own = np.flatnonzero(owner == step)
            keep[own[np.argsort(-surprisal[own], kind="stable")[: self.reading.content_tokens]]] = True
        return keep


def _index(items, judged, place: np.ndarray, pool: str):
    """The table of rows, and the steps, as "uid:step", that have none; ``place`` (rows, [item, step, tokens,
    token])."""
    rows = pd.DataFrame({"uid": [items[i].uid for i in place[:, 0]], "step": place[:, 1], "n_tokens": place[:, 2]})
    rows = rows.assign(token=place[:, 3]) if pool == "token" else rows
    rows = rows.merge(judged, on=["uid", "step"], how="left", validate="many_to_one")
    known = set(zip(rows["uid"], rows["step"], strict=True))
    return rows, [f"{u}:{s}" for u, s in zip(judged["uid"], judged["step"], strict=True) if (u, s) not in known]


def _of_all_steps(answers: pd.DataFrame, items: list[Item]) -> pd.DataFrame:
    """The items' own steps with the replies that ``answers`` has to them; raises ValueError where they are not one for
    each, or a reply is not a text."""
    require_columns(answers, ("uid", "step", "prediction"), "what answer() returns")
    steps = answers[(answers["step"] != MAIN) & answers["uid"].isin([item.uid for item in items])]
    wanted = pd.MultiIndex.from_tuples([(item.uid, step) for item in items for step in range(len(item.steps))])
    given = pd.MultiIndex.from_frame(steps[["uid", "step"]])
    for what, wrong in (("have no", wanted.difference(given)), ("have two", given[given.duplicated()]),
                        ("have an unknown", given.difference(wanted))):  # fmt: skip
        if len(wrong):
            raise ValueError(f"{len(wrong)} steps {what} answer, such as {wrong[0]}; expected one for every step")
    for row in steps.itertuples():
        if not isinstance(row.prediction, str):
            raise ValueError(f"the reply to {row.uid!r}, step {row.step}, is {row.prediction!r}; expected a text")
    table = answer_table(items, step_replies(steps))
    return table[table["step"] != MAIN]


def _header(vlm: VLM, items: list[Item], answers, reading: Reading) -> dict:
    given = None if answers is None else answers[["uid", "step", "prediction"]].sort_values(["uid", "step"])
    content_tokens = reading.content_tokens if reading.position == "answer_content" else None
    return {
        **chat_settings(vlm, items),
        "answers": "the model's own" if given is None else digest(given.to_csv(index=False)),
        "modules": list(vlm.heads.projections), **asdict(reading), "content_tokens": content_tokens,
    }  # fmt: skip
