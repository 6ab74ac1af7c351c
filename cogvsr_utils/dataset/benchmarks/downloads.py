"""Copies of benchmarks from where they are published; nothing is fetched unless it is asked for.

hub_id(place)                  the id and revision that "owner/name@revision" names
hub_copy(title, ..., place)    the folder of a data set of the hub, at one revision
Downloader(folder)             fetches pictures by their addresses into a folder
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Lock
from urllib.parse import urlsplit

from PIL import Image, UnidentifiedImageError

from cogvsr_utils.files import replacing

log = logging.getLogger(__name__)
WANTED = ("*.json", "*.jsonl", "*.csv", "*.tsv", "*.parquet", "*.jpg", "*.jpeg", "*.png", "*.webp")  # no programs
SUMS = "SHA256SUMS"


def hub_id(place: str) -> tuple[str, str | None] | None:
    """The id and revision of a data set of the hub; None for what can be neither.

    >>> hub_id("MilaWang/SpatialEval@main"), hub_id("data/vsr/test.jsonl")
    (('MilaWang/SpatialEval', 'main'), None)
    """
    found = re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*?)(?:@([\w./-]+))?", place)
    return None if found is None or Path(found[1]).suffix in (".json", ".jsonl", ".csv", ".tsv") else found.groups()


def hub_copy(title: str, licence: str, place: str) -> Path:
    """The folder of a copy of the data set ``place``, "owner/name" or "owner/name@revision", in the hub's own cache.

    Tables and pictures alone are fetched, never programs; what is there already is not fetched again, and a stopped run
    goes on. The licence and the exact revision are logged: name it to get the same files another time. Raises OSError
    where the hub does not answer or has no such data set or revision.
    """
    from huggingface_hub import HfApi, snapshot_download

    name, revision = hub_id(place)
    exact = HfApi().dataset_info(name, revision=revision).sha
    log.warning("%s from the hub: %s@%s; licence: %s", title, name, exact, licence)
    return Path(snapshot_download(name, repo_type="dataset", revision=exact, allow_patterns=list(WANTED)))


@dataclass(frozen=True)
class Downloader:
    """Fetches pictures into ``folder``, each once, also where several threads ask for them; their SHA-256 are kept
    there, and a file that no longer has its own is fetched again."""

    folder: Path
    _one_at_a_time: Callable[[str], Lock] = field(default_factory=lambda: defaultdict(Lock).__getitem__, repr=False)

    def fetch(self, address: str) -> Path:
        """The picture at an address. Raises ValueError where it is no http(s) address, cannot be fetched, or is no
        picture."""
        import pooch
        import requests

        parts = urlsplit(address)
        name = PurePosixPath(parts.path).name
        if parts.scheme not in ("http", "https") or not name:
            raise ValueError(f"{address!r} is no address of a picture; expected http(s)")
        with self._one_at_a_time(name):
            known = self._sums().get(name)
            try:
                path = Path(pooch.retrieve(address, known_hash=known, fname=name, path=self.folder))
                with Image.open(path) as picture:
                    picture.verify()
            except requests.RequestException as error:
                raise ValueError(f"{address} cannot be fetched: {error}") from None
            except (UnidentifiedImageError, SyntaxError):
                (self.folder / name).unlink(missing_ok=True)
                raise ValueError(f"{address} is no picture") from None
            if known is None:
                self._keep_sum(name, pooch.file_hash(str(path)))
        return path

    def _keep_sum(self, name: str, sha: str) -> None:
        with self._one_at_a_time(SUMS), replacing(self.folder / SUMS) as partial:
            lines = {**self._sums(), name: sha}.items()
            partial.write_text("".join(f"{sha}  {each}\n" for each, sha in lines))

    def _sums(self) -> dict[str, str]:
        """SHA-256 by name."""
        path = self.folder / SUMS
        lines = path.read_text().splitlines() if path.is_file() else []
        return {name: sha for sha, name in (line.split("  ", 1) for line in lines)}
