"""JSON Lines files of items: one main question a line.

read_items(path)             the items, or the first thing that is wrong (BadRow)
check_items(path)            all that is wrong, pictures decoded too; ``python -m cogvsr_utils.dataset`` prints it
write_items(path, items)     a file that ``read_items`` reads back

Lines are checked against the schema that the package ships, and then for what a schema cannot tell.
"""

import json
import os
import re
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.scoring import normalise
from cogvsr_utils.dataset.splits import SELECTION, TEST, TUNING
from cogvsr_utils.files import replacing
from cogvsr_utils.functions import find_function


class BadRow(ValueError):
    """A line of a data file that breaks its contract, with file, line and what was expected.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_items(f"{folder}/items.jsonl", [Item("1", "mine", "1", "Is it red?", "red", "yesno", [])])
    Traceback (most recent call last):
    cogvsr_utils.dataset.jsonl.BadRow: ...items.jsonl would have, line 1: answer: 'red' is not among ['yes', 'no']
    """


def read_items(path: str | Path) -> list[Item]:
    """Read a CogVSR JSON Lines file; raises BadRow with file, line and what was expected for the first bad line."""
    path = Path(path)
    items, problems = _read(path.read_bytes(), path.parent)
    if problems:
        more = (
            f" ({len(problems)} problems; `python -m cogvsr_utils.dataset {path}` lists them)" if problems[1:] else ""
        )
        raise BadRow(f"{path}, {problems[0]}{more}")
    return list(items.values())


def check_items(path: str | Path) -> list[str]:
    """All that is wrong with a file, pictures included: one text each, with the number of its line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "items.jsonl")
    ...     _ = path.write_text("Is it red?")
    ...     check_items(path)
    ['line 1: not valid JSON (...); expected one object a line']
    """
    path = Path(path)
    items, problems = _read(path.read_bytes(), path.parent)
    for number, item in items.items():
        try:
            open_image(item)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    return problems


def write_items(path: str | Path, items: list[Item]) -> Path:
    """Write items as JSON Lines, image paths relative to the file, whole or not at all.

    Raises ValueError for a picture that is bytes or stands outside the file's folder, and BadRow for what else
    ``read_items`` would refuse.

    >>> import tempfile
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_items(write_items(f"{folder}/items.jsonl", [item])) == [item]
    True
    """
    path = Path(path)
    lines = []
    for item in items:
        row = asdict(item)
        if isinstance(row["image"], bytes):
            raise ValueError(f"item {item.uid!r} has the bytes of a picture; expected the path of a saved one")
        if row["image"] and "://" not in row["image"]:
            row["image"] = Path(os.path.relpath(row["image"], path.parent)).as_posix()
            if row["image"].startswith("../"):
                raise ValueError(
                    f"item {item.uid!r}: {item.image} is outside {path.parent}; expected a picture inside it"
                )
        lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False))
    content = ("\n".join(lines) + "\n").encode("utf-8")
    if problems := _read(content, path.parent)[1]:
        raise BadRow(f"{path} would have, {problems[0]}")
    with replacing(path) as partial:
        partial.write_bytes(content)
    return path


def _read(content: bytes, folder: Path) -> tuple[dict[int, Item], list[str]]:
    """The good items by the number of their line, and what is wrong with the others."""
    items, problems, lines_of_uids, splits_of_groups = {}, [], {}, {}
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return {}, ["line 1: the file is UTF-16 or UTF-32; expected UTF-8"]
    # Only a line feed ends a line: other characters that end one for Python may stand within a text.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
            wrong = [_message(error) for error in _validator().iter_errors(row)]
            if not wrong:
                wrong = _faults(row, folder)
                group, uid = row["group_id"], row["uid"]
                if uid in lines_of_uids:
                    wrong.append(f"uid {uid!r} is on line {lines_of_uids[uid]} already; expected it once")
                lines_of_uids.setdefault(uid, number)
                if row.get("split") in (SELECTION, TUNING, TEST):
                    split = splits_of_groups.setdefault(group, row["split"])
                    if split != row["split"]:
                        wrong.append(f"group {group!r} is in split {split!r} too; expected all its items in one split")
        except ValueError as error:
            wrong = [str(error)]
        problems += [f"line {number}: {each}" for each in wrong]
        if not wrong:
            items[number] = _item(row, folder)
    if not items and not problems:
        problems.append("no rows; expected one JSON object a line")
    return items, problems


def _parse(line: bytes) -> object:
    """The JSON of a line; raises ValueError for what is not UTF-8 or not JSON, and for a field given twice."""

    def fields(pairs):
        names = [name for name, _ in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"fields {twice} are given more than once; expected each once")
        return dict(pairs)

    def constant(text):
        raise ValueError(f"{text} is not JSON; expected a number or null")

    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=fields, parse_constant=constant)
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise ValueError(f"not UTF-8 ({error}); expected a file saved as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error}); expected one object a line") from None
    except RecursionError:
        raise ValueError("too many brackets within each other; expected an object as in the schema") from None
    return row


@cache
def _validator():
    from jsonschema import Draft202012Validator

    text = (resources.files("cogvsr_utils.dataset") / "schemas" / "item.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


def _message(error) -> str:
    place = "/".join(str(part) for part in error.absolute_path) or "row"
    problem = f"{error.instance!r:.100} is blank; expected a text" if error.validator == "pattern" else error.message
    return f"{place}: {problem:.300}"


def _faults(row: dict, folder: Path) -> list[str]:
    """What is wrong with a row that fits the schema."""
    wrong = []
    for place, part in (("", row), *((f"steps/{i}/", step) for i, step in enumerate(row["steps"]))):
        try:
            _check_answer(part["answer"], part["answer_type"], part.get("options"))
            if place:
                find_function(part["function"])
        except ValueError as error:
            wrong.append(f"{place}answer: {error}" if "function" not in str(error) else f"{place}function: {error}")
    try:
        _resolve(row.get("image"), folder)
    except ValueError as error:
        wrong.append(f"image: {error}")
    return wrong


def _check_answer(answer: str, answer_type: str, options: list[str] | None):
    known = [normalise(option) for option in options or ()]
    if not any(map(str.isalnum, answer)):
        raise ValueError(f"{answer!r} has no letter or digit; expected an answer that a reply can state")
    if len(set(known)) < len(known) or "" in known:
        raise ValueError(f"options {options} are alike or blank; expected options that replies can tell apart")
    if answer_type == "int" and not re.fullmatch("0|-?[1-9][0-9]*", answer):
        raise ValueError(f"{answer!r} is not a whole number in digits, such as 7, but answer_type is 'int'")
    if answer_type == "choice" and not options:
        raise ValueError("answer_type is 'choice', but no options are given")
    if answer_type == "yesno" and answer.lower() not in ("yes", "no"):
        raise ValueError(f"{answer!r} is not among ['yes', 'no']")
    if answer_type in ("choice", "closed") and known and normalise(answer) not in known:
        raise ValueError(f"{answer!r} is not among {options}")


def _resolve(image: str | None, folder: Path) -> str | None:
    if image is None or image.startswith(("http://", "https://")):
        return image
    try:
        path = (folder / image).resolve()
        there = path.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, a link to itself
        raise ValueError(f"{image!r:.100} is not a path ({error!s:.100}); expected a file under {folder}") from None
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"image {image!r} leaves the folder {folder}; expected a path inside it")
    if not there:
        raise ValueError(f"image {image!r} is not there; expected a file under {folder}")
    return str(path)


def _item(row: dict, folder: Path) -> Item:
    steps = [
        Step(s["question"], s["answer"], s["answer_type"], s.get("options"), find_function(s["function"]).name)
        for s in row["steps"]
    ]
    return Item(**{**row, "steps": steps, "image": _resolve(row.get("image"), folder)})
