"""How the benchmarks' own code scores a reply, its faults included, so that scores can be compared with published ones.

judge_official(answers, items)     adds parsed and correct, as ``scoring.judge`` does by the strict rule
OFFICIAL                           the rule of each benchmark

What is right by these rules is not always right: an unread reply to a yes-or-no question about a maze counts where the
answer is no, "10" has the answer 1 in it, any car is the right car. ``strict`` stands beside them for that reason. Of
SpatialEval's rules, those for names of things on maps are not described anywhere; there the whole reply is taken.
"""

import re
from collections.abc import Callable, Sequence

import pandas as pd

from cogvsr_utils.dataset.benchmarks.spatial457 import CLASSES
from cogvsr_utils.dataset.benchmarks.threedsrbench import LETTERS
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.scoring import NUMBERS, require_columns
from cogvsr_utils.functions import MAIN

ANIMALS = ("giraffe", "cat", "dog", "elephant", "rabbit")
DIRECTIONS = ("northeast", "northwest", "southeast", "southwest")
VERSION = 1  # of these rules
NOTHING = "none"  # what the code takes for an answer where it finds none
# By the first word of a shape, or the class itself.
CLASS = {name.split()[0]: group for group, names in CLASSES.items() for name in (*names, group)} | {"regular": "bus"}


def judge_official(answers: pd.DataFrame, items: Sequence[Item]) -> pd.DataFrame:
    """Score replies to main questions by the rule of each item's benchmark.

    Returns the rows of the main questions with ``parsed`` (missing where the rule reads nothing) and ``correct``.
    Raises ValueError for items of a benchmark whose rule is not known, and for replies to other items.
    """
    require_columns(answers, ("uid", "step", "prediction"), "what answer() returns")
    by_uid = {item.uid: item for item in items}
    if unknown := sorted({item.benchmark for item in items} - set(OFFICIAL)):
        raise ValueError(f"no official scorer is known for {unknown}; expected one of {tuple(OFFICIAL)}")
    rows = answers[answers["step"] == MAIN]
    if other := sorted(set(rows["uid"]) - set(by_uid)):
        raise ValueError(f"{len(other)} replies are to other items, such as {other[0]!r}; expected the items answered")
    judged = [
        OFFICIAL[by_uid[uid].benchmark](str(reply), by_uid[uid])
        for uid, reply in zip(rows["uid"], rows["prediction"], strict=True)
    ]
    return rows.assign(parsed=[parsed for parsed, _ in judged], correct=[correct for _, correct in judged])


def _vsr(reply: str, item: Item) -> tuple[str | None, bool]:
    """Yes where the word is there and no is not, and the other way round (VLMEvalKit, utils/yorn.py)."""
    words = re.sub(r"[^\w\s]", " ", reply.lower()).split()
    found = [word for word in ("yes", "no") if word in words]
    parsed = found[0] if len(found) == 1 else None
    return parsed, parsed == item.answer


def _spatialeval(reply: str, item: Item) -> tuple[str | None, bool]:
    """A pattern for each task and family, then whether the answer is a part of what was found (evals/evaluation.py)."""
    found = _extracted(reply.lower(), f"{item.meta['task']} {item.meta['family']}")
    return (None if found == NOTHING else found), item.answer.lower() in found


def _extracted(reply: str, kind: str) -> str:
    if kind == "spatialmap 0":
        return _first(DIRECTIONS, reply)
    if kind in ("spatialgrid 1", "spatialgrid 2"):
        return _first(ANIMALS, reply)
    if kind == "mazenav 2":
        if re.search(r"\byes\b|is the shortest path", reply):
            return "yes"
        return "no" if re.search(r"\bno\b|\bnot\b", reply) else NOTHING
    if kind.startswith("mazenav"):  # number words first, and "no" is one of them
        word = _first(("no", *NUMBERS), reply)
        if word != NOTHING:
            return NUMBERS.get(word, "0")
    if kind in ("spatialmap 2", "spatialgrid 0", "mazenav 0", "mazenav 1"):
        digits = re.search(r"\d+", reply)
        return digits[0] if digits else NUMBERS.get(_first(tuple(NUMBERS), reply), NOTHING)
    return reply or NOTHING


def _first(words: Sequence[str], text: str) -> str:
    found = re.search(rf"\b({'|'.join(words)})\b", text)
    return found[1] if found else NOTHING


def _spatial457(reply: str, item: Item) -> tuple[str | None, bool]:
    """The field "Answer" of the form that is asked for, else the whole reply (VLMEvalKit, spatial457.py)."""
    patterns = (r"Answer': '(.*?)'", r'Answer": "(.*?)"', r"Answer': (\d)")
    found = next((match[1] for pattern in patterns if (match := re.search(pattern, reply))), None)
    predicted, gold = reply if found is None else found, item.meta["gold"]
    low = "no" if predicted.lower() == "none" else predicted.lower()
    one, other = (CLASS.get(text.lower().split(" ")[0]) for text in (low, gold))
    correct = (
        low == gold.lower()
        or (low == "0" and gold == "No")
        or NUMBERS.get(low) == gold
        or (gold.lower() == "yes" and low in tuple("123456789"))
        or (one is not None and one == other)
    )
    return found, correct


def _threedsrbench(reply: str, item: Item) -> tuple[str | None, bool]:
    """One option's letter among the last four words, else "answer is X", else one option's text (VLMEvalKit,
    utils/matching_util.py; its guard against the article "A" is off unless it logs)."""
    options = dict(zip(LETTERS, item.options, strict=False))
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", reply).split()
    letters = [letter for letter in options if letter in words]
    named = re.search(rf"answer is ([{''.join(options)}])\b", reply)
    texts = [text for text in item.options if text.lower() in reply.lower()]
    if len(letters) == 1 and letters[0] in words[-4:]:
        parsed = options[letters[0]]
    elif named:
        parsed = options[named[1]]
    else:
        parsed = texts[0] if len(texts) == 1 else None
    return parsed, parsed == item.answer


OFFICIAL: dict[str, Callable[[str, Item], tuple[str | None, bool]]] = {
    "vsr": _vsr, "spatialeval": _spatialeval, "spatial457": _spatial457, "3dsrbench": _threedsrbench,
}  # fmt: skip
