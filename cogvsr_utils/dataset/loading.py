"""From a name or a path to items.

load_items(source, ...)    "synth", the path of a CogVSR .jsonl file, or a benchmark and its path -> list of Item
BENCHMARKS                 the benchmarks by their names
"""

from multiprocessing import current_process
from pathlib import Path

import numpy as np

from cogvsr_utils.dataset.benchmarks.benchmark import load_benchmark
from cogvsr_utils.dataset.benchmarks.cogvsr import COGVSR
from cogvsr_utils.dataset.benchmarks.spatial457 import SPATIAL457
from cogvsr_utils.dataset.benchmarks.spatialeval import SPATIALEVAL
from cogvsr_utils.dataset.benchmarks.threedsrbench import THREEDSRBENCH
from cogvsr_utils.dataset.benchmarks.vsr import VSR
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.jsonl import read_items
from cogvsr_utils.dataset.synth.build import build_synth, built_stamp

BENCHMARKS = {each.name: each for each in (VSR, SPATIALEVAL, SPATIAL457, THREEDSRBENCH, COGVSR)}


def load_items(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> list[Item]:
    """Load main questions.

    ``source`` is ``"synth"`` (CogVSR-Synth, built if it is not there yet), the path of a CogVSR ``.jsonl`` file, or a
    benchmark and the path of your copy of it, a table or a folder of tables: ``"vsr:PATH"``, ``"spatialeval:PATH"``,
    ``"spatial457:PATH"``, ``"3dsrbench:PATH"``, ``"cogvsr:PATH"``. Its rows that cannot be used are counted in the log
    (``load_benchmark`` names them). With ``download`` a benchmark may be fetched from the hub (``"vsr:OWNER/NAME"`` or
    ``"vsr:OWNER/NAME@REVISION"``) and pictures by their addresses; without it nothing is. ``split`` keeps one split;
    ``limit`` keeps that many items, drawn by whole groups with ``seed``. Raises FileNotFoundError, BadRow,
    ValueError where a split is empty, the limit below 1, or a table is not of the benchmark, and RuntimeError in a
    worker that is about to start, where the set is not built yet.

    >>> items = load_items("synth", split="C", limit=5)  # doctest: +SKIP
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected at least 1")
    name, _, place = str(source).partition(":")
    # Where workers are not forked, each imports the script that called this, and would wait for the set, whose builder
    # waits for the workers. Multiprocessing itself asks this of a process that is about to start.
    if source == "synth" and getattr(current_process(), "_inheriting", False) and not built_stamp().exists():
        raise RuntimeError(
            "CogVSR-Synth is not built yet, and each worker that builds it imports the script that asked for it; "
            'expected what that script does under `if __name__ == "__main__":`'
        )
    path = build_synth() if source == "synth" else Path(place if name in BENCHMARKS else source)
    if name in BENCHMARKS:
        items = load_benchmark(BENCHMARKS[name], path, download).items
    elif path.is_file():
        items = read_items(path)
    else:
        known = ", ".join(f'"{each}:PATH"' for each in BENCHMARKS)
        raise FileNotFoundError(
            f'no data at {source!r}; expected "synth", the path of a .jsonl file, or one of {known}'
        )
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
