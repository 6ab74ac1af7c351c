"""Head features on disk: shards while they are made, one memory-mapped array when they are whole.

    HeadActivations.open(folder)    the stored features with their index and header
    ShardedStore(folder, header)    writes shards and joins them; a killed run resumes at the last

Plain numpy, parquet and JSON; nothing is pickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cogvsr_utils.files import replacing
from cogvsr_utils.models.head_map import HeadMap


@dataclass(frozen=True)
class HeadActivations:
    """Head features of many steps.

    ``features`` (rows, width) float16, memory-mapped; ``index`` one row each (uid, group_id, subset, step, function,
    answer, prediction, correct, n_tokens, and token where every token has a row); ``heads`` the map from heads to
    columns; ``header`` records what made them.
    """

    features: np.ndarray
    index: object
    heads: HeadMap
    header: dict

    @classmethod
    def open(cls, folder: str | Path) -> HeadActivations:
        """Open a finished store; raises FileNotFoundError where there is none."""
        folder = Path(folder)
        if not (folder / "header.json").is_file():
            raise FileNotFoundError(f"no finished activations in {folder}; expected what capture() writes there")
        header = json.loads((folder / "header.json").read_text())
        heads = HeadMap(pd.read_parquet(folder / "heads.parquet"))
        features = np.load(folder / "features.npy", mmap_mode="r")
        return cls(features, pd.read_parquet(folder / "index.parquet"), heads, header)

    def by_head(self) -> np.ndarray:
        """Features as (rows, heads, head_dim) float32; where heads differ in width, the narrower end in zeros."""
        width = int(self.heads.table["head_dim"].max())
        out = np.zeros((len(self.features), len(self.heads), width), dtype=np.float32)
        for dim, part in self.heads.table.groupby("head_dim"):
            columns = part["start"].to_numpy()[:, None] + np.arange(dim)
            out[:, part.index, : int(dim)] = self.features[:, columns]
        return out


class ShardedStore:
    """A folder of shards; raises ValueError where it was begun from other settings than ``header``."""

    def __init__(self, folder: str | Path, header: dict):
        self.folder, self.header, self.shards = Path(folder), json.loads(json.dumps(header)), []
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "settings.json"
        if not path.exists():
            self._write(path, lambda file: file.write_text(json.dumps(self.header, indent=1)))
        theirs = json.loads(path.read_text())
        differing = [k for k in self.header if self.header[k] != theirs.get(k)]
        if differing:
            pairs = "; ".join(f"{k}: there {theirs.get(k)!r}, now {self.header[k]!r}" for k in differing)
            raise ValueError(f"{folder} was made from other settings ({pairs}); give another store or delete this one")

    @property
    def finished(self) -> bool:
        """Whether all shards were joined."""
        return (self.folder / "header.json").exists()

    def add(self, number: int, make: Callable) -> None:
        """Keep shard ``number``: what ``make()`` returns, (features, place), unless it is there already.

        Raises ValueError for activations that are not finite in float16, OSError where the disk is full.
        """
        path = self.folder / f"shard-{number:07d}.npz"
        if not path.exists():
            features, place = make()
            bad = np.flatnonzero(~np.isfinite(features).all(1))
            if len(bad):
                item, step = place[bad[0], :2]
                raise ValueError(
                    f"{len(bad)} rows of {path.stem} have activations that are not finite in float16, first item "
                    f"{item}, step {step}; expected none: load the model with another dtype"
                )
            self._write(path, lambda file: np.savez(file, features=features, place=place))
        self.shards.append(path)

    def remember(self, name: str, measure: Callable[[], int]) -> int:
        """A setting that was measured when the store was begun, so that a resumed run takes the same."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            value = measure()
            self._write(path, lambda file: file.write_text(json.dumps(value)))
        return json.loads(path.read_text())

    def join(self, index: Callable, heads: HeadMap) -> HeadActivations:
        """All shards in one array, rows ordered by item and step; the header is written last and marks it whole.

        ``index(place)`` makes, from (rows, [item, step, tokens, token]), the table of rows and the list of steps that
        have none.
        """
        # Shards are runs of items, one after the other, so what is in order within each is in order in all.
        places = [np.load(path)["place"] for path in self.shards]
        orders = [np.lexsort(place.T[[3, 1, 0]]) for place in places]
        place = np.concatenate([place[order] for place, order in zip(places, orders, strict=True)])

        def write_features(path):
            shape = {"descr": "<f2", "fortran_order": False, "shape": (len(place), heads.width)}
            with path.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, shape)
                for shard, order in zip(self.shards, orders, strict=True):
                    file.write(np.load(shard)["features"][order].tobytes())

        self._write(self.folder / "features.npy", write_features)
        rows, not_located = index(place)
        self._write(self.folder / "index.parquet", rows.to_parquet)
        self._write(self.folder / "heads.parquet", heads.table.to_parquet)
        header = json.dumps({**self.header, "not_located": not_located}, indent=1)
        self._write(self.folder / "header.json", lambda path: path.write_text(header))
        for path in self.shards:
            path.unlink()
        return HeadActivations.open(self.folder)

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
