"""From a reply to correct or not.

judge(answers, scorer="strict")    adds parsed (missing where nothing can be read) and correct
parse(reply, answer_type)          the answer that a reply states
check_scorer, require_columns      refuse an unknown scorer, and a table without what is needed

``strict`` reads the reply by the type of its answer and accepts exactly that: an unreadable reply is wrong and is
counted as unparsed, never guessed at.
"""

import unicodedata
from collections.abc import Iterable, Sequence

import pandas as pd

SCORERS = ("strict",)
NUMBERS = {
    w: str(i)
    for i, w in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
}


def judge(answers: pd.DataFrame, scorer: str = "strict") -> pd.DataFrame:
    """Score a table of replies.

    ``answers`` needs the columns answer, answer_type, options and prediction. Returns a copy with ``parsed`` (the
    answer that the reply states, missing where none can be read) and ``correct``. Raises ValueError for an unknown
    scorer, for columns that are missing and for options that are text, as a csv file makes of lists; a reply that is
    missing is unparsed.

    >>> answers = pd.DataFrame({"answer": ["yes", "3"], "answer_type": ["yesno", "int"], "options": [None, None]})
    >>> judged = judge(answers.assign(prediction=["Yes, it is.", "maybe"]))
    >>> judged["parsed"].isna().tolist(), judged["correct"].tolist()
    ([False, True], [True, False])
    """
    check_scorer(scorer)
    require_columns(answers, ("answer", "answer_type", "options", "prediction"), "what answer() returns")
    if any(isinstance(options, str) for options in answers["options"]):
        raise ValueError("some options are a text; expected lists: keep tables of answers as parquet, not as csv")
    columns = zip(answers["prediction"], answers["answer_type"], answers["options"], strict=True)
    parsed = [parse(*row) for row in columns]
    truth = [normalise(answer) for answer in answers["answer"]]
    return answers.assign(parsed=parsed, correct=[p == t for p, t in zip(parsed, truth, strict=True)])


def check_scorer(scorer: str) -> None:
    """Raise ValueError for a scorer that is not one of ``SCORERS``."""
    if scorer not in SCORERS:
        raise ValueError(f"scorer is {scorer!r}; expected one of {SCORERS}")


def require_columns(table: pd.DataFrame, names: Iterable[str], expected: str) -> None:
    """Raise ValueError that says what was ``expected`` where a table lacks a column."""
    if absent := [name for name in names if name not in table.columns]:
        raise ValueError(f"no columns {absent} in a table with {list(table.columns)}; expected {expected}")


def parse(reply: str, answer_type: str, options: Sequence[str] | None = None) -> str | None:
    """The answer of its type that a reply states; None where it states none or more than one.

    >>> parse("Yes, it is.", "yesno"), parse("There are three.", "int"), parse("maybe", "yesno")
    ('yes', '3', None)
    """
    if not isinstance(reply, str):
        return None
    text = normalise(reply)
    words = text.split()
    if answer_type == "yesno":
        found = {w for w in words if w in ("yes", "no")}
        return found.pop() if len(found) == 1 else None
    if answer_type == "int":
        found = [NUMBERS.get(w, w) for w in words if w in NUMBERS or w.lstrip("-").isdigit()]
        return found[0] if len(found) == 1 else None
    if answer_type == "choice" and options is not None:
        known = [normalise(option) for option in options]
        if text in known:
            return text
        found = [o for o in known if f" {o} " in f" {text} "]
        return found[0] if len(found) == 1 else None
    return text or None


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and doubled blanks.

    >>> normalise("The Red  cube.")
    'red cube'
    """
    letters = unicodedata.normalize("NFC", str(text).lower())
    words = "".join(
        c if c in "_-" or c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in letters
    ).split()
    return " ".join([w for w in words if w not in ("a", "an", "the")] or words)  # "A" alone is the name of an option
