"""Rows of a file, whatever container a benchmark was published in.

read_rows(path)      JSON, JSON Lines, csv, TSV or parquet -> list of dicts
is_absent(value)     whether a field is empty in any of the ways in which the containers write it
"""

import json
from pathlib import Path

import pandas as pd

from cogvsr_utils.files import read_whole

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
WRAPPED = ("questions", "data")  # names of a list of rows within an object


def read_rows(path: Path) -> list[dict]:
    """The rows of a table; those of JSON may be a list, one object a line under either name, or a list in an object.

    Raises ValueError that names the file where it is of another kind, is damaged or has no rows.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is no table; expected one of {SUFFIXES}")
    rows = read_whole(path, _read, "bring it back from a copy")
    if not rows:
        raise ValueError(f"{path} has no rows; expected at least one")
    return rows


def is_absent(value: object) -> bool:
    """Whether a field is None, a missing number, blank, or the text "nan".

    >>> is_absent(None), is_absent(float("nan")), is_absent("nan"), is_absent("no")
    (True, True, True, False)
    """
    return value is None or value != value or (isinstance(value, str) and value.strip().lower() in ("", "nan"))


def _read(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return pd.read_parquet(path).to_dict("records")
    if path.suffix in (".csv", ".tsv"):
        separator = "," if path.suffix == ".csv" else "\t"
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False).to_dict("records")
    text = path.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except json.JSONDecodeError:  # one object a line, also under the name .json
        content = [json.loads(line) for line in text.split("\n") if line.strip()]
    if isinstance(content, dict):
        content = next((content[name] for name in WRAPPED if isinstance(content.get(name), list)), [content])
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("its content is not rows; expected a list of objects, or an object a line")
    return content
