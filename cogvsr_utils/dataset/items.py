"""Main questions and their steps: the records.

Item, Step             the records
steps_table(items)     one row a step
"""

from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Step:
    """One subquestion: its answer, the answer's type, its options if any, and the function that it needs.

    >>> step = Step("How many cubes are there?", "2", "int", None, "Math Reasoning")
    >>> step.answer, step.function
    ('2', 'Math Reasoning')
    """

    question: str
    answer: str
    answer_type: str
    options: list[str] | None
    function: str


@dataclass(frozen=True)
class Item:
    """A main question about one picture, with its steps.

    ``image`` is a path, an http(s) address, the bytes of a picture, or None; with ``mirror`` it has to be
    flipped. Items that share a ``group_id`` (a picture, a main question) never stand on both sides of a split.

    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> item = Item("1", "mine", "picture 1", "Is the ball red?", "yes", "yesno", [step], image="pictures/1.png")
    >>> item.group_id, len(item.steps), item.options is None
    ('picture 1', 1, True)
    """

    uid: str
    benchmark: str
    group_id: str
    question: str
    answer: str
    answer_type: str
    steps: list[Step]
    options: list[str] | None = None
    subset: str = ""
    image: str | bytes | None = None
    mirror: bool = False
    split: str = ""
    meta: dict = field(default_factory=dict)


def steps_table(items: list[Item]) -> pd.DataFrame:
    """One row a step: uid, group_id, subset, step, function, question, answer, answer_type."""
    return pd.DataFrame(
        {"uid": item.uid, "group_id": item.group_id, "subset": item.subset, "step": i, "function": s.function,
         "question": s.question, "answer": s.answer, "answer_type": s.answer_type}
        for item in items for i, s in enumerate(item.steps)
    )  # fmt: skip
