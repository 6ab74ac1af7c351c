"""Let a model answer main questions step by step, in batches.

answer(vlm, items)              -> DataFrame uid, step, function, answer, prediction; step -1 = main question
answer_table(items, replies)    the same of replies that are there

The main question opens the chat; each step is a turn, and the model reads its own earlier answers.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from cogvsr_utils.dataset.items import Item
from cogvsr_utils.files import read_json, read_whole, replacing, require_same
from cogvsr_utils.functions import MAIN, MAIN_NAME
from cogvsr_utils.models.batching import FIRST, in_halves, measure_batch, require_count
from cogvsr_utils.models.chat import chat_settings, check_items, check_lengths, conversation
from cogvsr_utils.models.generation import CachedGeneration
from cogvsr_utils.models.interventions import AnyEdit, Fired, as_list, intervene, needs_picture
from cogvsr_utils.models.vlm import VLM

CPU_BATCH = 64


def answer(
    vlm: VLM,
    items: list[Item],
    *,
    edits: AnyEdit | Sequence[AnyEdit] | Mapping[str, AnyEdit | Sequence[AnyEdit]] | None = None,
    steps: bool = True,
    batch_size: int | None = None,
    max_new_tokens: int = 12,
    progress: bool = True,
    resume: str | Path | None = None,
) -> pd.DataFrame:
    """Answer every step of every item, then its main question, greedily.

    ``edits`` are interventions on heads while answering, of activations or of attention: those of every item, or by uid
    each item's own (none where it has none); ``steps=False`` asks the main question alone. Without a ``batch_size`` the
    first batch on a GPU measures how many chats fit. ``resume`` is a file in which replies are kept batch by batch: a
    run that was stopped goes on from it, to the same replies. Returns a DataFrame with one row a step: uid, group_id,
    subset, step, function, answer_type, options, answer, prediction. Raises BadChat, a ValueError, for an empty list,
    items given twice, chats longer than the model reads and marks of the model in a text; ValueError for edits of items
    that are not asked or have no picture to edit, and for a file of other settings.

    >>> from cogvsr_utils import Item, Step, load_vlm
    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [step])
    >>> answer(load_vlm("nano-internvl"), [item])["step"].tolist()
    [0, -1]
    """
    require_count("max_new_tokens", max_new_tokens)
    if batch_size is not None:
        require_count("batch_size", batch_size)
    items = items if steps else [replace(item, steps=[]) for item in items]
    check_items(vlm, items)
    check_lengths(vlm, items, reply_tokens=max_new_tokens)

    own = {uid: as_list(each) for uid, each in edits.items()} if isinstance(edits, Mapping) else {}
    if absent := sorted(set(own) - {item.uid for item in items}):
        raise ValueError(f"edits of items {absent[:5]}, which are not asked; expected uids of the items")
    for item in items:
        if item.image is None and any(needs_picture(vlm, edit) for edit in own.get(item.uid, ())):
            raise ValueError(f"item {item.uid!r} has no picture; expected edits that do not need one")
    given = [] if own or isinstance(edits, Mapping) else as_list(edits)
    given_as = given or [f"{uid}: {each}" for uid, each in sorted(own.items())]
    making = {"batch_size": batch_size and int(batch_size), "max_new_tokens": int(max_new_tokens)}
    settings = chat_settings(vlm, items, given_as) | making if resume else {}
    replies, size, counts = _read_replies(resume, settings, items)
    size = size or (batch_size and int(batch_size)) or (CPU_BATCH if vlm.device.type == "cpu" else None)
    # Replies come batch by batch in this order, so what is left of it makes the same batches again.
    left = [[item for item in alike if item.uid not in replies] for alike in _alike(items)]
    if not any(left):  # edits that have nothing to do would be an error
        return answer_table(items, replies)

    def converse(batch):
        rows = [own.get(item.uid, []) for item in batch] if own else []
        with intervene(vlm, None, rows=rows):
            return _converse(vlm, batch, max_new_tokens)

    with (
        intervene(vlm, given) as fired,
        tqdm(total=len(items), initial=len(replies), desc="answering", disable=not progress) as bar,
    ):
        for counter, kept in zip(_counters(fired), counts, strict=True):
            counter.update(kept)
        for group in left:
            while group:
                batch, group = group[: size or FIRST], group[size or FIRST :]
                if size:
                    found = in_halves(converse, batch)
                else:
                    found, size = measure_batch(converse, batch, vlm.device)
                replies.update(zip([item.uid for item in batch], found, strict=True))
                if resume:
                    kept = {"settings": settings, "size": size, "counts": _counters(fired), "replies": replies}
                    with replacing(resume) as partial:
                        partial.write_text(json.dumps(kept))
                bar.update(len(batch))
    return answer_table(items, replies)


def answer_table(items: list[Item], replies: dict[str, list[str]]) -> pd.DataFrame:
    """A row a step and reply, as ``answer`` returns them: ``replies`` to an item's steps, then to its main question, of
    which the last may be missing."""
    rows = []
    for item in items:
        for (number, step), reply in zip(
            [*enumerate(item.steps), (MAIN, None)], replies.get(item.uid, ()), strict=False
        ):
            source = item if step is None else step
            rows.append({"uid": item.uid, "group_id": item.group_id, "subset": item.subset, "step": number,
                         "function": MAIN_NAME if step is None else step.function,
                         "answer_type": source.answer_type, "options": source.options,
                         "answer": source.answer, "prediction": reply})  # fmt: skip
    return pd.DataFrame(rows)


def _counters(fired: Fired) -> list[Counter]:
    """How often edits fired, in how many chats they could not, how many chats carried them, and how often edits of
    attention fired."""
    return [fired, fired.without, fired.chats, fired.attention]


def _read_replies(path: str | Path | None, settings: dict, items: list[Item]) -> tuple[dict, int | None, list[dict]]:
    """The replies that a file keeps by uid, the size of batch that was found, and the counts of what edits did; none
    where there is no file."""
    if path is None or not Path(path).exists():
        return {}, None, [{}, {}, {}, {}]
    n_replies = {item.uid: len(item.steps) + 1 for item in items}

    def read(path):
        kept = read_json(path)
        require_same(path, kept["settings"], settings, "give those, or take the file away to have all answered anew")
        if wrong := [uid for uid, replies in kept["replies"].items() if len(replies) != n_replies[uid]]:
            raise KeyError(f"replies to {wrong[:3]}")
        return kept["replies"], kept["size"], kept["counts"]

    return read_whole(Path(path), read, "take this one file away and run again: all is answered anew")


def _alike(items: list[Item]) -> list[list[Item]]:
    """Items with equally many turns together, with pictures or without, the longest chats first; questions of like
    length side by side."""

    def kind(item):
        return -len(item.steps), item.image is None

    order = sorted(items, key=lambda item: (*kind(item), len(item.question), item.uid))
    return [list(group) for _, group in groupby(order, key=kind)]


def _converse(vlm: VLM, items: list[Item], max_new_tokens: int) -> list[list[str]]:
    """All replies to each of a batch of items with equally many steps."""
    generation = CachedGeneration(vlm, items, max_new_tokens)
    replies: list[list[str]] = [[] for _ in items]
    for number in [*range(len(items[0].steps)), MAIN]:
        chats = [conversation(item, earlier, number) for item, earlier in zip(items, replies, strict=True)]
        for earlier, reply in zip(replies, generation.reply(chats), strict=True):
            earlier.append(reply)
    return replies
