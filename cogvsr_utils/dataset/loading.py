"""From a name or a path to items.

load_items(source, ...)    "synth" or the path of a CogVSR .jsonl file -> list of Item
"""

from pathlib import Path

import numpy as np

from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.jsonl import read_items
from cogvsr_utils.dataset.synth.build import build_synth


def load_items(source: str | Path, *, split: str | None = None, limit: int | None = None, seed: int = 0) -> list[Item]:
    """Load main questions.

    ``source`` is ``"synth"`` (CogVSR-Synth, built if it is not there yet) or the path of a CogVSR ``.jsonl`` file.
    ``split`` keeps one split; ``limit`` keeps that many items, drawn by whole groups with ``seed``. Raises
    FileNotFoundError, BadRow, or ValueError where a split is empty or the limit below 1.

    >>> items = load_items("synth", split="C", limit=5)  # doctest: +SKIP
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected at least 1")
    if source == "synth":
        path = build_synth()
    else:
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f'no data at {source!r}; expected "synth" or the path of a .jsonl file')
    items = read_items(path)
    if split is not None:
        present = sorted({item.split for item in items})
        items = [item for item in items if item.split == split]
        if not items:
            raise ValueError(f"split {split!r} has no items; splits in {path.name}: {present}")
    if limit is not None and limit < len(items):
        known = sorted({item.group_id for item in items})
        rank = dict(zip(known, np.random.default_rng(seed).permutation(len(known)), strict=True))
        items = sorted(sorted(items, key=lambda item: rank[item.group_id])[:limit], key=lambda item: item.uid)
    return items
