"""The chat in which a model is asked: the main question opens it, each step is a turn.

conversation(item, replies, step)    the chat that asks one step, the earlier ones answered
step_replies(answers)                the replies to each item's steps, from a table of answers
right_answers(items)                 the right answers in place of replies
check_items(vlm, items)              refuses items that a model cannot be asked (BadChat)
check_lengths(vlm, items, replies)   refuses chats longer than the model reads
chat_settings(vlm, items)            what of a model and of items determines replies and activations
"""

import json
from collections import Counter
from collections.abc import Sequence

import pandas as pd
import torch
import transformers

from cogvsr_utils.dataset.images import image_size, items_digest, open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.files import digest
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models.vlm import VLM

INSTRUCTION = "Answer in a few words."
CLOSING = "Answer the question."


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


def check_items(vlm: VLM, items: Sequence[Item]) -> None:
    """Refuse, before anything is answered, items that a model cannot be asked.

    Raises ValueError for a picture that cannot be read; BadChat where there are no items, where two have one uid, and
    where a question has a token in it that the model's template or pictures are marked with.
    """
    if not items:
        raise BadChat("no items; expected at least one")
    if twice := [uid for uid, n in Counter(item.uid for item in items).items() if n > 1]:
        raise BadChat(f"items {twice[:5]} are given more than once; expected every uid once")
    for item in items:
        open_image(item)
    _refuse_marks(vlm, items, [(item.question, *(step.question for step in item.steps)) for item in items])


def check_lengths(
    vlm: VLM, items: Sequence[Item], replies: dict[str, list[str]] | None = None, reply_tokens: int = 0
) -> None:
    """Refuse, before anything is answered, what does not fit: chats with the ``replies`` by uid to their steps, or with
    any of up to ``reply_tokens`` each.

    Raises BadChat with the item's uid where such a chat is longer than the model reads, or where a reply has one of its
    marks in it.
    """
    _refuse_marks(vlm, items, [(replies or {}).get(item.uid, ()) for item in items])
    if vlm.context is None:
        return
    known = replies or {item.uid: [""] * len(item.steps) for item in items}
    chats = [vlm.render(conversation(item, known.get(item.uid, ()), MAIN), prompt=True) for item in items]
    tokens = vlm.tokenizer(chats, add_special_tokens=False, verbose=False)["input_ids"]
    for item, own in zip(items, tokens, strict=True):
        picture = 0 if item.image is None else vlm.picture_tokens(image_size(item))
        if (n := len(own) + picture + reply_tokens * (len(item.steps) + 1)) > vlm.context:
            replied = f", with {len(item.steps) + 1} replies of up to {reply_tokens}" if reply_tokens else ""
            raise BadChat(f"item {item.uid!r}: a chat of {n} tokens{replied}; {vlm.name} reads at most {vlm.context}")


def chat_settings(vlm: VLM, items: Sequence[Item], edits: Sequence = ()) -> dict:
    """What of a model, of the edits that run and of ``edits``, and of items determines its replies and activations, as
    short texts to compare."""
    edits = [*vlm.active_edits, *edits]
    return {
        "model": vlm.name, "revision": vlm.revision, "quantize": vlm.quantize, "dtype": str(vlm.model.dtype),
        "weights": vlm.weights_digest, "data": items_digest(items),
        "edits": digest(*map(str, edits)) if edits else "none",
        "pictures": digest(json.dumps(vlm.processor.image_processor.to_dict(), sort_keys=True, default=str)),
        "prompt": digest(INSTRUCTION, CLOSING, str(vlm.processor.chat_template)),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }  # fmt: skip


def _refuse_marks(vlm: VLM, items: Sequence[Item], texts: Sequence[Sequence[str]]):
    """Refuse texts, some of each item, with a mark of the model in them."""
    marks = [token.content for token in vlm.tokenizer.added_tokens_decoder.values() if token.special]
    for item, own in zip(items, texts, strict=True):
        for text in own:
            if found := next((mark for mark in marks if mark in text), None):
                raise BadChat(
                    f"item {item.uid!r}: the text {text!r:.100} has {found!r}, with which {vlm.name} marks chats or "
                    "pictures; expected a text without it"
                )
