"""Let a model answer main questions step by step, in batches.

    answer(vlm, items)                 -> DataFrame uid, step, function, answer, prediction; step -1 = main question
    conversation(item, answers, step)  the chat that asks one step, the earlier ones answered

The main question opens the chat; each step is a turn, and the model reads its own earlier answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from tqdm import tqdm

from .interventions import intervene
from .items import Item, open_image
from .models import in_halves
from .turns import Turns

INSTRUCTION = "Answer in a few words."
CLOSING = "Answer the question."
MAIN = -1  # the step number of the main question


def conversation(item: Item, answers: Sequence[str], step: int) -> list[dict]:
    """The chat up to one step's question: ``answers`` of the steps before it, ``step`` its index or ``MAIN``.

    >>> from cogvsr_utils.items import Item
    >>> item = Item("1", "synth", "g", "Is it red?", "yes", "yesno", [])
    >>> conversation(item, [], MAIN)[0]["content"][-1]["text"]
    'Answer in a few words.\\nQuestion: Is it red?\\nAnswer the question.'
    """
    questions = [s.question for s in item.steps[: len(answers)]]
    questions.append(CLOSING if step == MAIN else item.steps[step].question)
    content = [] if item.image is None else [{"type": "image"}]
    opening = f"{INSTRUCTION}\nQuestion: {item.question}\n{questions[0]}"
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": opening}]}]
    for said, question in zip(answers, questions[1:], strict=True):
        messages.append({"role": "assistant", "content": [{"type": "text", "text": said}]})
        messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
    return messages


def answer(
    vlm,
    items: list[Item],
    *,
    edits=None,
    steps: bool = True,
    batch_size: int | None = None,
    max_new_tokens: int = 12,
    progress: bool = True,
):
    """Answer every step of every item, then its main question, greedily.

    ``edits`` are interventions on heads that hold while answering; ``steps=False`` asks the main question alone.
    Returns a DataFrame with one row a step: uid, group_id, subset, step, function, answer_type, options, answer,
    prediction. Raises ValueError for an empty list.
    """
    import pandas as pd

    if not items:
        raise ValueError("no items to answer; expected at least one")
    batch_size = batch_size or (64 if vlm.device.type == "cpu" else 16)
    said: dict[str, list[str]] = {}
    for batch in tqdm(_batches(items, steps, batch_size), desc="answering", disable=not progress):
        with intervene(vlm, edits):
            replies = in_halves(lambda some: _converse(vlm, some, steps, max_new_tokens), batch)
        said.update(zip([item.uid for item in batch], replies, strict=True))
    rows = []
    for item in items:
        asked = [*enumerate(item.steps)] if steps else []
        for (number, step), reply in zip([*asked, (MAIN, None)], said[item.uid], strict=True):
            source = item if step is None else step
            rows.append({"uid": item.uid, "group_id": item.group_id, "subset": item.subset, "step": number,
                         "function": "Main question" if step is None else step.function,
                         "answer_type": source.answer_type, "options": source.options,
                         "answer": source.answer, "prediction": reply})  # fmt: skip
    return pd.DataFrame(rows)


def _batches(items: list[Item], steps: bool, size: int) -> list[list[Item]]:
    """Batches of items with equally many turns, and with questions of like length, so that little is padding."""

    def turns(item):
        return len(item.steps) if steps else 0

    order = sorted(items, key=lambda item: (turns(item), len(item.question), item.uid))
    alike = [list(group) for _, group in groupby(order, key=turns)]
    return [group[i : i + size] for group in alike for i in range(0, len(group), size)]


def _converse(vlm, items: list[Item], steps: bool, max_new_tokens: int) -> list[list[str]]:
    """All replies to each of a batch of items with equally many steps."""
    turns = Turns(vlm, [open_image(item) for item in items], max_new_tokens)
    said: list[list[str]] = [[] for _ in items]
    for number in [*range(len(items[0].steps) if steps else 0), MAIN]:
        chats = [conversation(item, replies, number) for item, replies in zip(items, said, strict=True)]
        for replies, reply in zip(said, turns.reply(chats), strict=True):
            replies.append(reply)
    return said
