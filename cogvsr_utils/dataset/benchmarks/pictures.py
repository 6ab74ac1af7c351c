"""The pictures of a benchmark: in its table, or in the user's folders.

Pictures(folder)     finds a picture by its file's name, wherever below the folder or in a neighbour it lies; fetches
                     it by its address where that is asked for
"""

import base64
import binascii
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from cogvsr_utils.dataset.benchmarks.downloads import Downloader
from cogvsr_utils.dataset.benchmarks.tables import is_absent

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
NEIGHBOURS = ("images", "train2017", "val2017", "trainval2017", "coco_images")  # beside a folder of tables, or above it
LEVELS = 3


class Pictures:
    """Where the pictures are that a table in ``folder`` names: below it, or in a folder with one of the names in
    ``NEIGHBOURS`` up to three levels above; with ``download`` in ``images`` below it, fetched by their addresses."""

    def __init__(self, folder: Path, download: bool = False):
        self.folder = folder
        self.downloader = Downloader(folder / "images") if download else None

    def of(self, value: object, address: object = None) -> str | bytes:
        """The picture that a field means: embedded, as bytes or base64, or a path or an address, found by its name.

        Of several files of that name the one is meant whose folders are those of the field. ``address`` is where it is
        published, if not the field itself. Raises ValueError where there is none, where several different ones may be
        meant, and where it cannot be fetched.
        """
        if isinstance(value, dict):
            value = value.get("path") if is_absent(value.get("bytes")) else value["bytes"]
        if isinstance(value, bytes):
            return value
        if is_absent(value) or not isinstance(value, str):
            raise ValueError("no picture is named")
        parts = PurePosixPath(value.replace("\\", "/")).parts
        if Path(parts[-1]).suffix.lower() not in SUFFIXES:
            return _decoded(value)
        return self._found(parts, address if isinstance(address, str) else value)

    def _found(self, parts: tuple[str, ...], address: str) -> str:
        found = self._paths.get(parts[-1], [])
        if not found and self.downloader and address.startswith(("http://", "https://")):
            return str(self.downloader.fetch(address))
        if not found:
            raise ValueError(f"the picture {parts[-1]} is not below {self.folder} or in a folder beside it")
        shared = [_shared_end(path.parts, parts) for path in found]
        best = [path for path, n in zip(found, shared, strict=True) if n == max(shared)]
        if len(best) > 1 and len({path.read_bytes() for path in best}) > 1:
            raise ValueError(f"{len(best)} different pictures are named {parts[-1]}, such as {best[0]} and {best[1]}")
        return str(best[0])

    @cached_property
    def _paths(self) -> dict[str, list[Path]]:
        """Paths by name."""
        above = [self.folder, *self.folder.resolve().parents][: LEVELS + 1]
        roots = [self.folder, *(parent / name for parent in above[1:] for name in NEIGHBOURS)]
        found: dict[str, list[Path]] = {}
        for root in filter(Path.is_dir, roots):
            for path in sorted(root.rglob("*")):
                if path.suffix.lower() in SUFFIXES:
                    found.setdefault(path.name, []).append(path)
        return found


def _shared_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts two paths have in common, from their ends.

    >>> _shared_end(("data", "a", "0.png"), ("b", "a", "0.png"))
    2
    """
    ends = [a == b for a, b in zip(reversed(one), reversed(other), strict=False)]
    return ends.index(False) if False in ends else len(ends)


def _decoded(text: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
        with Image.open(BytesIO(content)):
            return content
    except (binascii.Error, UnidentifiedImageError):
        raise ValueError(f"{text!r:.60} is neither a picture's name nor a picture in base64") from None
