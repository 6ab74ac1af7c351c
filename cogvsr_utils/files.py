"""Files written whole or not at all, and short hashes of their content.

replacing(path)        a partial file that takes the place of ``path`` when all of it is written
digest(*parts)         sixteen characters that differ between texts or file contents
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
