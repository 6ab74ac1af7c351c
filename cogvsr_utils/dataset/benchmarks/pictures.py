"""The pictures of a benchmark: in its table, or in the user's folders.

Pictures(folder)     finds a picture by its file's name, wherever below the folder or in a neighbour it lies
"""

import base64
import binascii
from functools import cached_property
from pathlib import Path, PurePosixPath

from cogvsr_utils.dataset.benchmarks.tables import is_absent

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
NEIGHBOURS = ("images", "train2017", "val2017", "trainval2017", "coco_images")  # beside a folder of tables, or above it
LEVELS = 3


class Pictures:
    """Where the pictures are that a table in ``folder`` names: below it, or in a folder with one of the names in
    ``NEIGHBOURS`` up to three levels above."""

    def __init__(self, folder: Path):
        self.folder = folder

    def of(self, value: object) -> str | bytes:
        """The picture that a field means: embedded, as bytes or base64, or a path or an address, found by its name.

        Raises ValueError where there is none.
        """
        if isinstance(value, dict):
            value = value.get("path") if is_absent(value.get("bytes")) else value["bytes"]
        if isinstance(value, bytes):
            return value
        if is_absent(value) or not isinstance(value, str):
            raise ValueError("no picture is named")
        name = PurePosixPath(value.replace("\\", "/")).name
        if Path(name).suffix.lower() in SUFFIXES:
            found = self._paths.get(name)
            if found is None:
                raise ValueError(f"the picture {name} is not below {self.folder} or in a folder beside it")
            return found
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            raise ValueError(f"{value!r:.60} is neither a picture's name nor base64") from None

    @cached_property
    def _paths(self) -> dict[str, str]:
        """Path by name; of two pictures of one name the first in order of their paths."""
        above = [self.folder, *self.folder.resolve().parents][: LEVELS + 1]
        roots = [self.folder, *(parent / name for parent in above[1:] for name in NEIGHBOURS)]
        found: dict[str, str] = {}
        for root in filter(Path.is_dir, roots):
            for path in sorted(root.rglob("*")):
                if path.suffix.lower() in SUFFIXES:
                    found.setdefault(path.name, str(path))
        return found
