"""How many rows go through a model at once: as many as the memory of its device takes.

batched(rows, size, kind)            batches of rows of one kind
require_count(name, value)           refuses a number of rows or tokens that is none
measure_batch(run, batch, device)    run one batch, and how many rows like its own would fit
in_halves(run, batch)                run a batch; where memory does not suffice, half by half
"""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import groupby

import torch

FIRST = 16  # rows of the batch by which memory is measured
LARGEST = 256  # more rows gain nothing on any device measured
SHARE = 0.8  # of the free memory that a batch may take, since chats differ in length

log = logging.getLogger(__name__)


def require_count(name: str, value: int) -> None:
    """Raise ValueError for what is not a whole number from 1, TypeError for what is not a number."""
    if value < 1 or value != int(value):
        raise ValueError(f"{name} is {value}; expected a whole number, at least 1")


def batched(rows: Sequence, size: int, kind: Callable[..., Hashable]) -> Iterator[list]:
    """Batches of at most ``size`` neighbouring rows of one ``kind``.

    >>> list(batched([1, 3, 5, 2, 7], 2, kind=lambda row: row % 2))
    [[1, 3], [5], [2], [7]]
    """
    for _, group in groupby(rows, key=kind):
        alike = list(group)
        yield from (alike[first : first + size] for first in range(0, len(alike), size))


def measure_batch(run: Callable[[list], list], batch: list, device: torch.device) -> tuple[list, int | None]:
    """``run(batch)``, and how many rows like these the device's memory takes; None on a CPU, which has no such
    limit."""
    if device.type != "cuda":
        return run(batch), None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = in_halves(run, batch)
    used = torch.cuda.max_memory_allocated(device) - before
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return result, rows_that_fit(used, len(batch), free)


def rows_that_fit(used: int, rows: int, free: int) -> int:
    """How many rows fit into ``free`` bytes where ``rows`` of them used ``used`` bytes; at least 1, at most
    ``LARGEST``.

    >>> rows_that_fit(used=2_000, rows=16, free=16_000)
    102
    """
    return max(1, min(LARGEST, int(SHARE * free * rows / max(used, 1))))


def in_halves(run: Callable[[list], list], batch: list) -> list:
    """``run(batch)``, a list; where the GPU's memory does not suffice, half by half, with a warning in the log.

    Raises torch.cuda.OutOfMemoryError where one row alone is too much.
    """
    try:
        return run(batch)
    except torch.cuda.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Outside the except clause, so that the failed pass is let go before the next.
    torch.cuda.empty_cache()
    half = len(batch) // 2
    log.warning("out of memory at a batch of %d: continuing with %d", len(batch), half)
    return [*in_halves(run, batch[:half]), *in_halves(run, batch[half:])]
