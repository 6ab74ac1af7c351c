"""The chat in which a model is asked: the main question opens it, each step is a turn.

conversation(item, replies, step)    the chat that asks one step, the earlier ones answered
step_replies(answers)                the replies to each item's steps, from a table of answers
"""

from collections.abc import Sequence

import pandas as pd

from cogvsr_utils.dataset.items import Item

INSTRUCTION = "Answer in a few words."
CLOSING = "Answer the question."
MAIN = -1  # the step number of the main question


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
