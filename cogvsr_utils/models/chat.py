"""The chat in which a model is asked: the main question opens it, each step is a turn.

conversation(item, replies, step)    the chat that asks one step, the earlier ones answered
step_replies(answers)                the replies to each item's steps, from a table of answers
right_answers(items)                 the right answers in place of replies
check_chats(vlm, items, replies)     refuses items that a model cannot be asked (BadChat); check_lengths, chats too long
"""

from collections import Counter
from collections.abc import Sequence

import pandas as pd
import torch

from cogvsr_utils.dataset.images import image_size
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.models.vlm import VLM

INSTRUCTION = "Answer in a few words."
CLOSING = "Answer the question."
MAIN = -1  # the step number of the main question


class BadChat(ValueError):
    """A chat that a model cannot be asked, with the uid of its item and what was expected."""


def conversation(item: Item, replies: Sequence[str], step: int) -> list[dict]:
    """The chat up to one step's question: ``replies`` to the steps before it, ``step`` its index or ``MAIN``.

    >>> from cogvsr_utils.dataset.items import Item
    >>> item = Item("1", "synth", "g", "Is it red?", "yes", "yesno", [])
    >>> conversation(item, [], MAIN)[0]["content"][-1]["text"]
    'Answer in a few words.\\nQuestion: Is it red?\\nAnswer the question.'
    """
    questions = [s.question for s in item.steps[: len(replies)]]
    questions.append(CLOSING if step == MAIN else item.steps[step].question)
    content = [] if item.image is None else [{"type": "image"}]
    opening = f"{INSTRUCTION}\nQuestion: {item.question}\n{questions[0]}"
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": opening}]}]
    for reply, question in zip(replies, questions[1:], strict=True):
        messages.append({"role": "assistant", "content": [{"type": "text", "text": reply}]})
        messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
    return messages


def step_replies(answers: pd.DataFrame) -> dict[str, list[str]]:
    """uid -> replies to its steps in order, from the columns uid, step and prediction; the main question left out."""
    steps = answers[answers["step"] != MAIN]
    return {uid: list(rows.sort_values("step")["prediction"]) for uid, rows in steps.groupby("uid", sort=False)}


def right_answers(items: Sequence[Item]) -> dict[str, list[str]]:
    """uid -> the right answers to its steps in order."""
    return {item.uid: [step.answer for step in item.steps] for item in items}


def check_chats(vlm: VLM, items: Sequence[Item], replies: dict[str, list[str]] | None = None) -> None:
    """Refuse, before anything is answered, what can be told from the items alone.

    Raises ValueError for a picture that is not there or is none; BadChat where there are no items, where two have one
    uid, where the questions of one alone are longer than the model reads, and where one of these or of the ``replies``
    by uid has a token in it that the model's template or pictures are marked with.
    """
    if not items:
        raise BadChat("no items; expected at least one")
    if twice := [uid for uid, n in Counter(item.uid for item in items).items() if n > 1]:
        raise BadChat(f"items {twice[:5]} are given more than once; expected every uid once")
    marks = [token.content for token in vlm.tokenizer.added_tokens_decoder.values() if token.special]
    for item in items:
        image_size(item)
    texts = [(item.question, *(step.question for step in item.steps)) for item in items]
    tokens = vlm.tokenizer([" ".join(each) for each in texts], add_special_tokens=False, verbose=False)["input_ids"]
    check_lengths(vlm, items, torch.tensor([len(each) for each in tokens]))
    for item, questions in zip(items, texts, strict=True):
        for text in (*questions, *(replies or {}).get(item.uid, ())):
            if found := next((mark for mark in marks if mark in text), None):
                raise BadChat(
                    f"item {item.uid!r}: the text {text!r:.100} has {found!r}, with which {vlm.name} marks chats or "
                    "pictures; expected a text without it"
                )


def check_lengths(vlm: VLM, items: Sequence[Item], n_tokens: torch.Tensor, reply: int = 0) -> None:
    """Raise BadChat for an item whose chat, of ``n_tokens`` (items,), is with a reply longer than the model reads."""
    if vlm.context is None:
        return
    for item, n in zip(items, n_tokens.tolist(), strict=True):
        if n + reply > vlm.context:
            more = f" and up to {reply} of a reply" if reply else ""
            raise BadChat(f"item {item.uid!r}: a chat of {n} tokens{more}; {vlm.name} reads at most {vlm.context}")
