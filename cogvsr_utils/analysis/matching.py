"""Random sets of heads that are like a given set.

matched_controls(table, heads, n)    sets of the same layers, none of the given heads; of like output norm too
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

CALIPER = 0.05  # share by which the summed norm of a control may differ
Head = tuple[int, int]


def matched_controls(
    table: pd.DataFrame, heads: Iterable[Head], n_sets: int, seed: int = 0, norms: np.ndarray | None = None
) -> list[tuple[Head, ...]]:
    """``n_sets`` random sets, as large as ``heads`` and without any of them, a head of the same layer for each.

    ``table`` is a HeadMap's table. With ``norms`` (heads,), such as ``attribution.output_norms``, the sets are distinct
    and their summed norm differs from that of ``heads`` by no more than ``CALIPER``. Where a layer has too few heads
    left, or too few sets are within the caliper, heads come from neighbouring layers too, from as few as will do; where
    all layers do not give so many, the sets are fewer. Raises ValueError where fewer heads are left than wanted, for
    heads that the table does not have, and for fewer than one set.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"layer": [0, 0, 0, 1, 1, 1], "head": [0, 1, 2, 0, 1, 2]})
    >>> [layer for layer, _ in matched_controls(table, [(0, 0), (1, 2)], n_sets=1)[0]]
    [0, 1]
    """
    rng, pairs = np.random.default_rng(seed), list(table[["layer", "head"]].itertuples(index=False, name=None))
    heads = [tuple(head) for head in heads]
    chosen, layers = set(heads), table["layer"].to_numpy()
    if len(chosen) < len(heads):
        raise ValueError(f"{len(heads) - len(chosen)} heads are given more than once; expected each once")
    if norms is not None and (np.shape(norms) != (len(pairs),) or not np.isfinite(norms).all()):
        raise ValueError(f"norms of shape {np.shape(norms)}; expected {len(pairs)} finite numbers, one a head")
    if unknown := sorted(chosen - set(pairs)):
        raise ValueError(f"no such heads: {unknown[:5]}; expected some of the table's {len(pairs)}")
    if n_sets < 1 or not chosen:
        raise ValueError(f"{n_sets} sets like {len(chosen)} heads; expected at least one of both")
    inside = np.array([pair in chosen for pair in pairs])
    if 2 * inside.sum() > len(pairs):
        raise ValueError(
            f"{inside.sum()} of {len(pairs)} heads are in the set; expected at most half, or no control can be drawn"
        )
    found: list[tuple[int, ...]] = []
    for window in range(layers.max() + 1):
        drawn = _draw(rng, layers, inside, window, n_sets if norms is None else 100 * n_sets)
        if norms is not None:
            wanted = norms[inside].sum()
            drawn = drawn[np.abs(norms[drawn].sum(1) - wanted) <= CALIPER * wanted]
            drawn = np.array(list(dict.fromkeys(map(tuple, drawn)))[:n_sets])
        if len(drawn) > len(found):
            found = [tuple(rows) for rows in drawn]
        if len(found) == n_sets:
            break
    return [tuple((int(pairs[row][0]), int(pairs[row][1])) for row in rows) for rows in found]


def _draw(rng, layers, inside, window: int, n: int) -> np.ndarray:
    """Up to ``n`` sets of row numbers, sorted: for each row inside another one outside, at most ``window`` layers
    off."""
    keys = rng.random((n, len(layers)), dtype=np.float32)
    keys[:, inside] = np.inf
    picked = []
    for row in np.flatnonzero(inside):
        near = np.flatnonzero(np.abs(layers - layers[row]) <= window)
        taken = near[keys[:, near].argmin(1)]
        picked.append(np.where(np.isfinite(keys[np.arange(n), taken]), taken, -1))
        keys[np.arange(n), taken] = np.inf
    drawn = np.stack(picked, axis=1)
    return np.sort(drawn[(drawn >= 0).all(1)], axis=1)
