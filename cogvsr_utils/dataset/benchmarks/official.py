"""How the benchmarks' own code scores a reply, its faults included, so that scores compare with published ones.

judge_official(answers, items)     adds parsed and correct, as ``scoring.judge`` does by the strict rule
OFFICIAL                           the rule of each benchmark

What is right by these rules is not always right: an unread reply to a yes-or-no question about a maze counts where the
answer is no, "10" has the answer 1 in it, any car is the right car. Prompts and length of replies are this package's,
so scores are comparable in how they are counted, not in how they were asked.
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
# The number words of SpatialEval's rules, in the order in which they are tried; ten is none of them.
WORDS = {"zero": "0", "no": "0"} | {word: number for word, number in NUMBERS.items() if word not in ("zero", "ten")}
ASKED = (r"answer is:?\s*(\d+)", r"from S to E is\s+(\d+)", r"answer:\*\*\s*(\d+)\b")
TURNS = {
    "0": (r"there (?:are|is)\s*(\d+)\s*right turn", r"\b(\d+)\s+right turn", *ASKED),
    "1": (r"there (?:are|is)\s*(\d+)\s*(?:total )?turn", *ASKED, r"total of\s+(\d+)\s+turn",
          r"(\d+)\s+total turn", r"\b(\d+)\s+turn"),
}  # fmt: skip
# By the first word of a shape, or the class itself.
CLASS = {name.split()[0]: group for group, names in CLASSES.items() for name in (*names, group)} | {"regular": "bus"}


def judge_official(answers: pd.DataFrame, items: Sequence[Item]) -> pd.DataFrame:
    """Score replies to main questions by the rule of each item's benchmark.

    Returns the rows of the main questions with ``parsed`` (missing where the rule reads nothing) and ``correct``.
    Raises ValueError for items of a benchmark whose rule is not known, and for replies to other items.

    >>> item = Item("1", "vsr", "1", "Is the cat on the mat?", "yes", "yesno", [])
    >>> answers = pd.DataFrame({"uid": ["1"], "step": [MAIN], "prediction": ["Yes, it is."]})
    >>> judge_official(answers, [item])["correct"].tolist()
    [True]
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
    """A pattern for each task and family, then whether the answer is a part of what was found (evals/evaluation.py, as
    a public fork has it, without its branches for single models). Photographs have no rule; the whole reply is taken.
    """
    task, family = item.meta["task"], item.meta["family"]
    if task == "mazenav":
        found = _of_maze(reply, family)
    elif task == "spatialreal":
        found = reply
    elif task == "spatialgrid":
        found = _earliest_number(reply) if family == "0" else _first(ANIMALS, reply)
    else:
        found = _of_map(reply, family)
    found = str(found or NOTHING).lower()
    return (None if found == NOTHING else found), item.answer.lower() in found


def _of_maze(reply: str, family: str) -> str | None:
    if family == "2":
        if re.search(r"\byes\b|is the shortest path", reply, re.IGNORECASE):
            return "yes"
        return "no" if re.search(r"\bno\b|\bnot\b", reply, re.IGNORECASE) else None
    for word, number in WORDS.items():  # any number word anywhere goes before all digits
        if re.search(rf"\b{word}\b", reply, re.IGNORECASE):
            return number
    matches = (re.search(pattern, reply, re.IGNORECASE) for pattern in (*TURNS[family], r"(\d+)"))
    return next((str(int(match[1])) for match in matches if match), None)


def _of_map(reply: str, family: str) -> str | None:
    names = "|".join(DIRECTIONS)
    if family == "0":
        lettered = re.search(rf"\b[A-D]\.\s*({names})\b", reply, re.IGNORECASE)
        return lettered[1] if lettered else _first(DIRECTIONS, reply)
    if family == "2":
        lettered = re.search(r"\b[A-D]\.\s*(\d+)", reply)
        return str(int(lettered[1])) if lettered else _earliest_number(reply)
    located = re.match(
        rf"([\w\s'’]+?)\s+is\s+(?:located\s+|in\s+the\s+|located\s+to\s+the\s+)\b(?:{names})\b", reply, re.I
    )
    if located:
        return located[1]
    if lettered := re.search(r"\b[A-D]\.\s*(.*)", reply):
        return lettered[1].replace("**", "").replace(".", "").split(" is", 1)[0].strip()
    if named := re.search(r"\bis\b\s+(.*?)(?=\.|,|<|$)", reply):
        return named[1].strip()
    return None


def _earliest_number(reply: str) -> str | None:
    """Of the number words and digits the one that stands first."""
    found = re.search(rf"\b({'|'.join(WORDS)})\b|\d+", reply, re.IGNORECASE)
    return None if found is None else WORDS.get(found[0].lower(), found[0])


def _first(words: Sequence[str], text: str) -> str | None:
    found = re.search(rf"\b({'|'.join(words)})\b", text, re.IGNORECASE)
    return found[1] if found else None


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
    return predicted or None, correct


def _threedsrbench(reply: str, item: Item) -> tuple[str | None, bool]:
    """One option's letter, first seen among the last four words; else "answer is X"; else one option's text, in a reply
    at most twice as long as all options (VLMEvalKit, utils/matching_util.py; its guard against the article "A" is off
    unless it logs)."""
    options = dict(zip(LETTERS, item.options, strict=False))
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", reply).split()
    letters = [letter for letter in options if letter in words]
    named = re.search(r"answer\s+is\s+\**([A-D])\**", reply, re.IGNORECASE)
    texts = [text for text in item.options if text.lower() in reply.lower()]
    if len(letters) == 1 and words.index(letters[0]) > len(words) - 5:
        parsed = options[letters[0]]
    elif named and named[1].upper() in options:
        parsed = options[named[1].upper()]
    elif len(texts) == 1 and len(reply) <= 2 * sum(map(len, item.options)):
        parsed = texts[0]
    else:
        parsed = None
    return parsed, parsed == item.answer


OFFICIAL: dict[str, Callable[[str, Item], tuple[str | None, bool]]] = {
    "vsr": _vsr, "spatialeval": _spatialeval, "spatial457": _spatial457, "3dsrbench": _threedsrbench,
}  # fmt: skip
