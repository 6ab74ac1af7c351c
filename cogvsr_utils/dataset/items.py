"""Main questions and their steps: the records, and their JSON Lines files.

Item, Step                     the records
read_items, write_items        JSON Lines, every line checked against the schema that the package ships
steps_table(items)             one row a step
"""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path

import pandas as pd

from cogvsr_utils.files import replacing
from cogvsr_utils.functions import find_function


@dataclass(frozen=True)
class Step:
    """One subquestion: its answer, the answer's type, its options if any, and the function that it needs."""

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


class BadRow(ValueError):
    """A line of a data file that breaks its contract, with file, line and what was expected."""


@cache
def _validator():
    from jsonschema import Draft202012Validator

    text = (resources.files("cogvsr_utils.dataset") / "schemas" / "item.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


def read_items(path: str | Path) -> list[Item]:
    """Read a CogVSR JSON Lines file; every bad line is refused with file, line and what was expected (BadRow)."""
    path = Path(path)
    items, seen = [], {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue

        def refuse(problem, number=number):
            return BadRow(f"{path}, line {number}: {problem}")

        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise refuse(f"not valid JSON ({error}); expected one object a line") from None
        for error in _validator().iter_errors(row):
            place = "/".join(str(part) for part in error.absolute_path) or "row"
            raise refuse(f"{place}: {error.message}")
        if row["uid"] in seen:
            raise refuse(f"uid {row['uid']!r} is on line {seen[row['uid']]} already; expected it once")
        seen[row["uid"]] = number
        try:
            steps = [replace(_step(s), function=find_function(s["function"]).name) for s in row["steps"]]
            _check_answer(row["answer"], row["answer_type"], row.get("options"), "answer")
            for i, step in enumerate(steps):
                _check_answer(step.answer, step.answer_type, step.options, f"steps/{i}/answer")
            image = _resolve_image(row.get("image"), path.parent)
        except ValueError as error:
            raise refuse(str(error)) from None
        items.append(Item(**{**row, "steps": steps, "image": image}))
    if not items:
        raise BadRow(f"{path}: no rows; expected one JSON object a line")
    return items


def write_items(path: str | Path, items: list[Item]) -> Path:
    """Write items as JSON Lines, image paths relative to the file, whole or not at all."""
    path = Path(path)
    lines = []
    for item in items:
        row = asdict(item)
        if isinstance(row["image"], bytes):
            raise ValueError(f"item {item.uid!r} has the bytes of a picture; expected the path of a saved one")
        if row["image"] and "://" not in row["image"]:
            row["image"] = Path(os.path.relpath(row["image"], path.parent)).as_posix()
        lines.append(json.dumps(row, ensure_ascii=False))
    with replacing(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def steps_table(items: list[Item]) -> pd.DataFrame:
    """One row a step: uid, group_id, subset, step, function, question, answer, answer_type."""
    return pd.DataFrame(
        {"uid": item.uid, "group_id": item.group_id, "subset": item.subset, "step": i, "function": s.function,
         "question": s.question, "answer": s.answer, "answer_type": s.answer_type}
        for item in items for i, s in enumerate(item.steps)
    )  # fmt: skip


def _step(row: dict) -> Step:
    return Step(row["question"], row["answer"], row["answer_type"], row.get("options"), row["function"])


def _check_answer(answer: str, answer_type: str, options, place: str):
    expected = {"yesno": ("yes", "no")}.get(answer_type) or (tuple(options) if options else None)
    if answer_type == "int" and not answer.lstrip("-").isdigit():
        raise ValueError(f"{place}: {answer!r} is not a whole number, but answer_type is 'int'")
    if answer_type == "choice" and not options:
        raise ValueError(f"{place}: answer_type is 'choice', but no options are given")
    if answer_type in ("yesno", "choice") and answer.lower() not in {o.lower() for o in expected}:
        raise ValueError(f"{place}: {answer!r} is not among {list(expected)}")


def _resolve_image(image: str | None, folder: Path) -> str | None:
    if image is None or image.startswith(("http://", "https://")):
        return image
    path = (folder / image).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"image {image!r} leaves the folder {folder}; expected a path inside it")
    if not path.is_file():
        raise ValueError(f"image {image!r} is not there; expected a file under {folder}")
    return str(path)
