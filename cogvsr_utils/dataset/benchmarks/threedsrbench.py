"""3DSRBench (arXiv 2412.07825): photographs, two or four options; mirrored, and with the options turned round.

THREEDSRBENCH                      the benchmark
with_letters(question, options)    how a question is asked
right_together(judged, setting)    replies put together as vanilla, circular, flip or flip-circular accuracy has them
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cogvsr_utils.dataset.benchmarks.benchmark import Benchmark
from cogvsr_utils.dataset.benchmarks.pictures import Pictures
from cogvsr_utils.dataset.benchmarks.tables import is_absent
from cogvsr_utils.dataset.items import Item

LETTERS = "ABCD"
# What has to be right together, by the parts of an item's uid: all rotations of its options, it and its mirror image.
SETTINGS = {
    "vanilla": ("base", "flip", "rotation"),
    "circular": ("base", "flip"),
    "flip": ("base", "rotation"),
    "flip-circular": ("base",),
}


def right_together(judged: pd.DataFrame, setting: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judged replies to the main questions, put together to a row for what has to be right at once (``SETTINGS``).

    ``judged`` needs uid, correct and parsed, with all rotations; vanilla and flip take the first rotation alone.
    Returns the rows, correct where all are and parsed where all are, with ``chance`` that guesses are right together;
    and the first rows of the groups left out, since a rotation or the mirror image of them is missing. Raises
    ValueError for another setting, for replies given twice, and for replies to items of another benchmark.
    """
    if judged["uid"].duplicated().any():
        raise ValueError(f"replies to {judged['uid'][judged['uid'].duplicated()].iloc[0]!r} twice; expected one")
    if setting not in SETTINGS:
        raise ValueError(f"setting is {setting!r}; expected one of {tuple(SETTINGS)}")
    parts = judged["uid"].str.extract(r"^(?P<base>.+?)(?P<flip>-flip)?#(?P<rotation>\d+)/(?P<n>\d+)$")
    if parts["base"].isna().any():
        raise ValueError(f"uid {judged['uid'][parts['base'].isna()].iloc[0]!r} is not of 3DSRBench; expected its items")
    rows = judged.assign(base=parts["base"], flip=parts["flip"].notna(), rotation=parts["rotation"],
                         n=parts["n"].astype(int))  # fmt: skip
    if "circular" not in setting:
        rows = rows[rows["rotation"] == "0"]
    groups = rows.groupby(list(SETTINGS[setting]), sort=False)
    size = groups["uid"].transform("size")
    expected = (rows["n"] if "circular" in setting else 1) * (2 if "flip" in setting else 1)
    together = rows.assign(
        correct=groups["correct"].transform("all"),
        parsed=rows["parsed"].where(groups["parsed"].transform("count") == size),
        chance=(1 / rows["n"]) ** size,
    )
    whole, first = size == expected, ~rows.duplicated(list(SETTINGS[setting]))
    return together[whole & first], together[~whole & first]


def with_letters(question: str, options: Sequence[str]) -> str:
    """A question with its options listed by letters.

    >>> with_letters("Where?", ["up", "down"])
    'Where?\\nA. up\\nB. down'
    """
    return "\n".join([question, *(f"{mark}. {option}" for mark, option in zip(LETTERS, options, strict=False))])


def _make(row: dict, file: Path, pictures: Pictures) -> list[Item]:
    name = str(row["qid"] if not is_absent(row.get("qid")) else row["index"])
    found = re.fullmatch(r"(.+?)(-flip)?(-\d+)?", name)
    base, flip, rotation = found.groups()
    if rotation and file.suffix == ".tsv":
        return []  # rotations are made here, of the unturned row
    lettered = {letter: str(row[letter]) for letter in LETTERS if not is_absent(row.get(letter))}
    letter, options = str(row["answer"]).strip(), list(lettered.values())
    if letter not in lettered:
        raise ValueError(f"the answer is {letter!r}; expected one of the letters of {lettered}")
    answer = lettered[letter]
    embedded = not is_absent(row.get("image"))
    image = pictures.of(row["image"] if embedded else row["image_url"])
    address = row.get("image_url")
    # Pictures inside a table have no name in common with their mirror image; a question has.
    group = base if is_absent(address) else Path(str(address)).name
    items = []
    for turn in range(len(options)):
        turned = options[turn:] + options[:turn]
        items.append(Item(
            uid=f"{base}{flip or ''}#{turn}/{len(options)}", benchmark="3dsrbench", group_id=group,
            subset=str(row["category"]), question=with_letters(str(row["question"]), turned), answer=answer,
            answer_type="choice", options=turned, steps=[], image=image, mirror=bool(flip) and not embedded,
            meta={"base": base, "flip": bool(flip), "rotation": turn, "lettered": True},
        ))  # fmt: skip
    return items


THREEDSRBENCH = Benchmark(
    name="3dsrbench", title="3DSRBench", paper="arXiv 2412.07825", licence="CC BY 4.0; pictures under COCO's terms",
    fields=("question", "A", "B", "answer", "category", ("image_url", "image"), ("index", "qid")), make=_make,
)  # fmt: skip
