"""Files written whole or not at all, and short hashes of their content.

replacing(path)        a partial file that takes the place of ``path`` when all of it is written
read_whole(path, ...)  what a file holds; a damaged one is named, with what to do; read_json, as a way to read it
require_same(...)      refuses what was made from other settings, with what differs
spreadsheet_text(x)    text that no spreadsheet takes for a formula
digest(*parts)         sixteen characters that differ between texts or file contents
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; renamed to ``path`` at the end of the block, deleted where the block raises.

    The folder is made where it is missing. The suffix stays, since some writers choose a format by it; the number of
    the process keeps two writers apart.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_whole(path: Path, read: Callable[[Path], Any], advice: str) -> Any:
    """``read(path)``; raises ValueError that names the file, with ``advice``, where its content is damaged."""
    try:
        return read(path)
    except (FileNotFoundError, PermissionError, OtherSettings):
        raise
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); {advice}") from None


def read_json(path: Path, kind: type = dict) -> Any:
    """The JSON in a file; raises ValueError where it is not of a kind."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, kind) or not content:
        raise ValueError(f"it has {content!r:.40}; expected {kind.__name__}")
    return content


class OtherSettings(ValueError):
    """What is kept was made from other settings than those of this run."""


def require_same(path: Path, there: dict, here: dict, advice: str) -> None:
    """Raise OtherSettings, a ValueError with the entries that differ and ``advice``, unless all settings of ``here``
    are those ``there``, which made what ``path`` has."""
    if differing := [name for name in here if here[name] != there.get(name)]:
        pairs = "; ".join(f"{name}: there {there.get(name)!r}, now {here[name]!r}" for name in differing)
        raise OtherSettings(f"{path} was made from other settings ({pairs}); {advice}")


def spreadsheet_text(value: object) -> str:
    """Text that no spreadsheet takes for a formula.

    >>> spreadsheet_text("=1+1")
    "'=1+1"
    """
    text = str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def digest(*parts: str | bytes) -> str:
    """Sixteen hexadecimal characters of the SHA-256 of the parts, each marked with its length.

    >>> digest("ab", "c") != digest("a", "bc")
    True
    """
    hashed = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        hashed.update(f"{len(content)}:".encode() + content)
    return hashed.hexdigest()[:16]
