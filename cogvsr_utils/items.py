"""Main questions and their steps: records, reading, writing, splits and the label audit.

Item, Step                     the records
load_items(source, ...)        "synth" or the path of a CogVSR .jsonl file -> list of Item
read_items / write_items       JSON Lines, every line checked against the schema that the package ships
split_groups(items, shares)    names of splits, whole groups at a time
audit_labels(items)            how well a step's function can be guessed without any model
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from .functions import find_function


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

    ``image`` is a path, an http(s) address, the bytes of a picture, or None; ``mirror`` says that it has to be
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
    """A line of a data file that breaks its contract: says which file, which line and what was expected."""


@cache
def _validator():
    from jsonschema import Draft202012Validator

    text = (resources.files("cogvsr_utils") / "schemas" / "item.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


def load_items(source, *, split: str | None = None, limit: int | None = None, seed: int = 0) -> list[Item]:
    """Load main questions.

    ``source`` is ``"synth"`` (CogVSR-Synth, built if it is not there yet) or the path of a CogVSR ``.jsonl`` file.
    ``split`` keeps one split; ``limit`` keeps that many items, drawn by whole groups with ``seed``. Raises
    FileNotFoundError, BadRow, or ValueError where a split holds nothing.

    >>> items = load_items("synth", split="C", limit=5)  # doctest: +SKIP
    """
    if source == "synth":
        from .synth import build_synth

        path = build_synth()
    else:
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f'no data at {source!r}: expected "synth" or the path of a .jsonl file')
    items = read_items(path)
    if split is not None:
        present = sorted({item.split for item in items})
        items = [item for item in items if item.split == split]
        if not items:
            raise ValueError(f"split {split!r} holds no item; splits in {path.name}: {present}")
    if limit is not None and limit < len(items):
        known = sorted({item.group_id for item in items})
        rank = dict(zip(known, np.random.default_rng(seed).permutation(len(known)), strict=True))
        items = sorted(sorted(items, key=lambda item: rank[item.group_id])[:limit], key=lambda item: item.uid)
    return items


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
            raise refuse(f"uid {row['uid']!r} stands on line {seen[row['uid']]} already; expected it once")
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
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for item in items:
        row = asdict(item)
        if isinstance(row["image"], bytes):
            raise ValueError(f"item {item.uid!r} holds the bytes of a picture; save it and give its path")
        if row["image"] and "://" not in row["image"]:
            row["image"] = Path(os.path.relpath(row["image"], path.parent)).as_posix()
        lines.append(json.dumps(row, ensure_ascii=False))
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def image_size(item: Item) -> tuple[int, int]:
    """Width and height of the item's picture, (0, 0) without one, read from its head alone; raises as ``open_image``."""
    return (0, 0) if item.image is None else _read_image(item, lambda picture: picture.size)


def open_image(item: Item):
    """The item's picture as an RGB PIL image, or None; raises ValueError where it cannot be read."""
    from PIL import ImageOps

    if item.image is None:
        return None
    picture = _read_image(item, lambda picture: picture.convert("RGB"))
    return ImageOps.mirror(picture) if item.mirror else picture


def _read_image(item: Item, take):
    from io import BytesIO

    from PIL import Image

    if isinstance(item.image, str) and "://" in item.image:
        raise ValueError(f"item {item.uid!r} names the address {item.image}; download the picture and give its path")
    try:
        with Image.open(BytesIO(item.image) if isinstance(item.image, bytes) else item.image) as picture:
            return take(picture)
    except OSError as error:
        raise ValueError(f"item {item.uid!r}: cannot read the picture {item.image!r:.200} ({error})") from None


def split_groups(groups, shares: dict[str, float], seed: int = 0) -> dict[str, str]:
    """Give every group a split: shares by number of groups, drawn with ``seed``.

    >>> split_groups(["a", "b", "c", "d"], {"A": 0.5, "C": 0.5}) == split_groups(["d", "c", "b", "a"], {"A": 0.5, "C": 0.5})
    True
    """
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"shares {shares} add up to {sum(shares.values())}; expected 1")
    known = sorted(set(groups))
    order = [known[i] for i in np.random.default_rng(seed).permutation(len(known))]
    bounds = np.round(np.cumsum(list(shares.values())) * len(order)).astype(int)
    names = np.repeat(list(shares), np.diff(bounds, prepend=0))
    return {group: str(name) for group, name in zip(order, names, strict=True)}


def short_hash(text: str) -> str:
    """Sixteen characters that tell one text from another."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(items: list[Item]) -> str:
    """Short hash of the questions, their steps and which pictures they are about: tells one data set from another."""
    digest = hashlib.sha256()
    for item in items:
        steps = [[step.question, step.answer, step.function] for step in item.steps]
        digest.update(json.dumps([item.uid, item.question, item.answer, item.mirror, steps]).encode())
        digest.update(item.image if isinstance(item.image, bytes) else Path(item.image or "").name.encode())
    return digest.hexdigest()[:16]


def steps_table(items: list[Item]):
    """One row a step: uid, group_id, step, position (0 first to 1 last), function, question, answer, answer_type."""
    import pandas as pd

    return pd.DataFrame(
        {"uid": item.uid, "group_id": item.group_id, "subset": item.subset, "step": i,
         "position": i / max(len(item.steps) - 1, 1), "function": s.function, "question": s.question,
         "answer": s.answer, "answer_type": s.answer_type}
        for item in items for i, s in enumerate(item.steps)
    )  # fmt: skip


def audit_labels(items: list[Item], n_splits: int = 5, seed: int = 0):
    """How well each step's function is guessed without seeing or running any model; see ``guess_functions``."""
    return guess_functions(steps_table(items), n_splits, seed)


def guess_functions(table, n_splits: int = 5, seed: int = 0):
    """Guess the function of steps from their text or place alone, by naive Bayes in grouped cross-validation.

    ``table`` needs the columns function, group_id, step, question and answer. Returns a DataFrame: predictor,
    accuracy, balanced_accuracy (both in [0, 1]), n. What a probe of activations reaches counts only above these rows.
    """
    import pandas as pd
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.metrics import accuracy_score, balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    label, groups = table["function"].to_numpy(), table["group_id"].to_numpy()
    folds = list(StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed).split(table, label, groups))
    position = " position" + table["step"].astype(str)
    texts = {
        "step index": position,
        "answer words": table["answer"],
        "first three words of the question": table["question"].str.split().str[:3].str.join(" "),
        "question words": table["question"],
        "question words and step index": table["question"] + position,
    }
    shares = table["function"].value_counts(normalize=True)
    rows = [{"predictor": "majority", "accuracy": shares.iloc[0], "balanced_accuracy": 1 / len(shares)}]
    for name, text in texts.items():
        model = make_pipeline(CountVectorizer(token_pattern=r"\w+"), MultinomialNB(alpha=0.1))
        guess = cross_val_predict(model, text, label, cv=folds)
        rows.append({"predictor": name, "accuracy": accuracy_score(label, guess),
                     "balanced_accuracy": balanced_accuracy_score(label, guess)})  # fmt: skip
    return pd.DataFrame(rows).assign(n=len(table))


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
