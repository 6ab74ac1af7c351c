"""The strict rule on benchmarks: that of ``scoring.judge``, and letters where a question lists its options by letters.

judge_strict(answers, items)       adds parsed and correct
parse_letter(reply, options)       the option that a reply names by its letter
"""

import re
from collections.abc import Sequence

import pandas as pd

from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.scoring import judge, normalise

VERSION = 1  # of these rules
# A letter, after what may introduce it, alone or marked as a letter and followed by more.
LETTER = re.compile(
    r"\W*(?i:(?:the )?(?:correct )?(?:answer|option)(?: is)?:?\W*)?([A-Za-z])(?:\W*$|[.):\]*]+\s*(.*))", re.DOTALL
)


def judge_strict(answers: pd.DataFrame, items: Sequence[Item]) -> pd.DataFrame:
    """``scoring.judge``, which a letter also answers where the item's question lists its options by letters.

    >>> options = ["left", "right"]
    >>> item = Item("1", "mine", "1", "A. left\\nB. right", "right", "choice", [], options, meta={"lettered": True})
    >>> answers = pd.DataFrame({"uid": ["1"], "answer": "right", "answer_type": "choice", "options": [options]})
    >>> judge_strict(answers.assign(prediction="B."), [item])["parsed"].tolist()
    ['right']
    """
    lettered = {item.uid: item.options for item in items if item.meta.get("lettered")}
    judged = judge(answers)
    named = [
        parse_letter(reply, lettered[uid]) if uid in lettered else ""
        for uid, reply in zip(judged["uid"], judged["prediction"], strict=True)
    ]
    parsed = [own if name == "" else name for name, own in zip(named, judged["parsed"], strict=True)]
    truth = [normalise(answer) for answer in judged["answer"]]
    return judged.assign(parsed=parsed, correct=[p == t for p, t in zip(parsed, truth, strict=True)])


def parse_letter(reply: str, options: Sequence[str]) -> str | None:
    """The option, in the form of ``scoring.normalise``, whose letter a reply names; None for a letter that no option
    has, or beside the text of another option; "" for a reply that names no letter, as "A man" does not.

    >>> parse_letter("The answer is **B**.", ["left", "right"]), parse_letter("A. right", ["left", "right"])
    ('right', None)
    >>> parse_letter("A man on the left", ["man", "dog"])
    ''
    """
    found = LETTER.match(reply) if isinstance(reply, str) else None
    if found is None or reply.strip() in options:
        return ""
    known = [normalise(option) for option in options]
    number, rest = ord(found[1].upper()) - ord("A"), normalise(found[2] or "")
    if number >= len(known):
        return None
    own = known[number]
    # What follows may be cut off where the reply had to end, or be a sentence, but not name another option.
    others = [text for text in known if text != own and f" {text} " in f" {rest} " and text not in own]
    return own if own.startswith(rest) or not others else None
