"""Let a model answer main questions step by step, in batches.

    answer(vlm, items)                 -> DataFrame uid, step, function, answer, prediction; step -1 = main question
    conversation(item, answers, step)  the chat that asks one step, the earlier ones answered

The main question opens the chat; each step is a turn, and the model reads its own earlier answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from .interventions import intervene
from .items import Item, open_image
from .models import in_halves

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
    order = sorted(items, key=lambda item: (len(item.steps), item.uid))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    said: dict[str, list[str]] = {}
    for batch in tqdm(batches, desc="answering", disable=not progress):
        images = [open_image(item) for item in batch]
        for item in batch:
            said[item.uid] = []
        rounds = max(len(item.steps) for item in batch) if steps else 0
        for number in [*range(rounds), MAIN]:
            live = [i for i, item in enumerate(batch) if number == MAIN or number < len(item.steps)]
            chats = [conversation(batch[i], said[batch[i].uid], number) for i in live]
            replies = generate(vlm, chats, [images[i] for i in live], edits=edits, max_new_tokens=max_new_tokens)
            for i, reply in zip(live, replies, strict=True):
                said[batch[i].uid].append(reply)
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


@torch.inference_mode()
def generate(vlm, chats: list[list[dict]], images: list, *, edits=None, max_new_tokens: int = 12) -> list[str]:
    """Greedy replies to a batch of chats, left-padded; out of memory halves the batch and goes on, saying so."""

    def some(batch):
        inputs = vlm.encode([vlm.render(chat, prompt=True) for chat, _ in batch], [image for _, image in batch])
        with intervene(vlm, edits):
            out = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        new = out[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in vlm.tokenizer.batch_decode(new, skip_special_tokens=True)]

    return in_halves(some, list(zip(chats, images, strict=True)))
