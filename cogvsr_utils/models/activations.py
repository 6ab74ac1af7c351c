"""Head features on disk: shards while they are made, one memory-mapped array when they are whole.

    HeadActivations.open(folder)    the stored features with their index and header
    ShardedStore(folder, header)    writes shards and joins them; a killed run resumes at the last

Plain numpy, parquet and JSON; nothing is pickled. One process writes to a store at a time.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from cogvsr_utils.files import digest, read_json, read_whole, replacing, require_same
from cogvsr_utils.models.head_map import HeadMap

COPY = "bring it back from a copy, or give another store"
AGAIN = "take this one file away and run again: only it is made anew"


@dataclass(frozen=True)
class HeadActivations:
    """Head features of many steps.

    ``features`` (rows, width) float16, memory-mapped; ``index`` one row each (uid, group_id, subset, step, function,
    answer, prediction, correct, n_tokens, and token where every token has a row); ``heads`` the map from heads to
    columns; ``header`` records what made them.

    >>> import tempfile
    >>> from cogvsr_utils import Item, Step, capture, load_vlm
    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [step])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = capture(load_vlm("nano-internvl"), [item], store=folder)
    ...     HeadActivations.open(folder).by_head().shape
    (1, 192, 24)
    """

    features: np.ndarray
    index: object
    heads: HeadMap
    header: dict

    @classmethod
    def open(cls, folder: str | Path) -> HeadActivations:
        """Open a finished store; raises FileNotFoundError where there is none or a file of it is missing, ValueError
        naming a file that is damaged."""
        folder = Path(folder)
        if not (folder / "header.json").is_file():
            raise FileNotFoundError(f"no finished activations in {folder}; expected what capture() writes there")
        header = read_whole(folder / "header.json", read_json, COPY)
        heads = HeadMap(read_whole(folder / "heads.parquet", _read_table(header), COPY))
        index = read_whole(folder / "index.parquet", _read_table(header), COPY)

        def read(path):
            features = np.load(path, mmap_mode="r")
            expected = (len(index), heads.width)
            if features.shape != expected or features.dtype != np.float16:
                raise ValueError(f"{features.dtype} of shape {features.shape}; expected float16 of {expected}")
            if path.stat().st_size != features.offset + features.nbytes:
                raise ValueError(f"{path.stat().st_size} bytes; expected {features.offset + features.nbytes}")
            return features

        return cls(read_whole(folder / "features.npy", read, COPY), index, heads, header)

    def by_head(self) -> np.ndarray:
        """Features as (rows, heads, head_dim) float32; where heads differ in width, the narrower end in zeros."""
        width = int(self.heads.table["head_dim"].max())
        out = np.zeros((len(self.features), len(self.heads), width), dtype=np.float32)
        for dim, part in self.heads.table.groupby("head_dim"):
            columns = part["start"].to_numpy()[:, None] + np.arange(dim)
            out[:, part.index, : int(dim)] = self.features[:, columns]
        return out


class ShardedStore:
    """A folder in which shards of features are kept until all are there and are joined.

    ``header`` records what makes the features, ``making`` how they are made in parts, such as the size of a batch.
    Whoever goes on with a store that is not whole has to have the same of both, for the same bytes; a whole one is
    opened whatever its making. Raises ValueError where they differ, and where a file is damaged or is not of this
    store; OSError where another process writes to it. Use it in a ``with`` block: it is locked inside.
    """

    def __init__(self, folder: str | Path, header: dict, making: dict):
        self.folder = Path(folder)
        self.header, self.making = json.loads(json.dumps(header)), json.loads(json.dumps(making))
        self.shards: list[tuple[Path, int, int]] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / ".lock")

    def __enter__(self) -> ShardedStore:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise OSError(f"another process writes to {self.folder}; wait for it, or give another store") from None
        try:
            self._compare()
        except BaseException:
            self.lock.release()
            raise
        return self

    def __exit__(self, *error):
        self.lock.release()

    @property
    def finished(self) -> bool:
        """Whether all shards were joined."""
        return (self.folder / "header.json").exists()

    def add(self, first: int, stop: int, make: Callable) -> None:
        """Keep the shard of the items ``first`` to ``stop``: what ``make()`` returns, (features, place), unless it is
        there already.

        Raises ValueError for activations that are not finite in float16 and for a damaged shard, OSError where the disk
        is full.
        """
        path = self.folder / f"shard-{first:07d}-{stop:07d}.npz"
        if path.exists():
            _, place = self._read(path, first, stop)
        else:
            features, place = make()
            bad = np.flatnonzero(~np.isfinite(features).all(1))
            if len(bad):
                item, step = place[bad[0], :2]
                raise ValueError(
                    f"{len(bad)} rows of {path.stem} have activations that are not finite in float16, first item "
                    f"{item}, step {step}; expected none: load the model with another dtype"
                )
            self._write(path, lambda file: np.savez(file, features=features, place=place, items=(first, stop)))
        self.shards.append((path, first, stop))

    def remember(self, name: str, measure: Callable[[], int]) -> int:
        """A setting that was measured when the store was begun, so that a resumed run takes the same."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            value = measure()
            self._write(path, lambda file: file.write_text(json.dumps(value)))
        return read_whole(path, lambda path: read_json(path, int), COPY)

    def join(self, n_items: int, index: Callable, heads: HeadMap) -> HeadActivations:
        """All shards in one array, rows ordered by item and step; the header is written last and marks it whole.

        ``index(place)`` makes, from (rows, [item, step, tokens, token]), the table of rows and the list of steps that
        have none. Raises ValueError where the shards do not hold each of ``n_items`` items once.
        """
        ends = [0, *(stop for *_, stop in self.shards)]
        if [first for _, first, _ in self.shards] != ends[:-1] or ends[-1] != n_items:
            raise ValueError(f"the shards in {self.folder} do not hold each of {n_items} items once")
        # Shards are runs of items, one after the other, so what is in order within each is in order in all.
        places = [self._read(*shard)[1] for shard in self.shards]
        orders = [np.lexsort(place.T[[3, 1, 0]]) for place in places]
        place = np.concatenate([place[order] for place, order in zip(places, orders, strict=True)])

        def write_features(path):
            shape = {"descr": "<f2", "fortran_order": False, "shape": (len(place), heads.width)}
            with path.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, shape)
                for shard, order in zip(self.shards, orders, strict=True):
                    file.write(self._read(*shard)[0][order].tobytes())

        self._write(self.folder / "features.npy", write_features)
        rows, not_located = index(place)
        self._write(self.folder / "index.parquet", rows.to_parquet)
        self._write(self.folder / "heads.parquet", heads.table.to_parquet)
        tables = {name: digest((self.folder / name).read_bytes()) for name in ("index.parquet", "heads.parquet")}
        header = json.dumps({**self.header, "not_located": not_located, "tables": tables}, indent=1)
        self._write(self.folder / "header.json", lambda path: path.write_text(header))
        for path, *_ in self.shards:
            path.unlink()
        return HeadActivations.open(self.folder)

    def _compare(self):
        """Refuse a store of other settings, and files that are not of this store."""
        path, here = self.folder / "settings.json", {**self.header, **self.making}
        if not path.exists():
            left = [each for each in self.folder.iterdir() if each.name != ".lock" and not _is_partial(each)]
            if other := sorted(each.name for each in left):
                raise ValueError(f"{self.folder} has other files ({', '.join(other[:3])}); give another store")
            self._write(path, lambda file: file.write_text(json.dumps(here, indent=1)))
        there = read_whole(path, read_json, COPY)
        # How it was made in parts does not matter any more for what is whole.
        require_same(self.folder, there, self.header if self.finished else here, "give those, or another store")
        for partial in filter(_is_partial, self.folder.iterdir()):  # what a killed writer left
            partial.unlink()

    def _read(self, path: Path, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Features and places of a shard."""

        def read(path):
            with np.load(path) as saved:
                features, place, items = saved["features"], saved["place"], saved["items"]
            inside = place.ndim == 2 and place.shape[1] == 4 and ((place[:, 0] >= first) & (place[:, 0] < stop)).all()
            once = len(np.unique(place[:, [0, 1, 3]], axis=0)) == len(place)
            if not (inside and once and tuple(items) == (first, stop) and features.shape[0] == len(place)):
                raise ValueError(f"it does not hold the rows of items {first} to {stop}, each once")
            return features, place

        return read_whole(path, read, AGAIN)

    def _write(self, path: Path, write):
        """``write(path)``, whole or not at all; a full disk leaves what was there."""
        try:
            with replacing(path) as partial:
                write(partial)
        except OSError as error:
            free = shutil.disk_usage(self.folder).free
            raise OSError(
                f"cannot write {path} ({error}; {free / 1e6:.0f} MB free); the {len(self.shards)} shards before it are "
                "kept: make room and run again"
            ) from error


def _is_partial(path: Path) -> bool:
    """Whether ``replacing`` was writing this file when it was killed."""
    return path.is_file() and re.fullmatch(r"\.[\w-]+\.\d+\.part\.\w+", path.name) is not None


def _read_table(header: dict) -> Callable[[Path], pd.DataFrame]:
    """How a table of a whole store is read: as it was when the header was written."""

    def read(path):
        known = header.get("tables", {}).get(path.name)
        if known is not None and digest(path.read_bytes()) != known:
            raise ValueError("its content is not what the header records")
        return pd.read_parquet(path)

    return read
