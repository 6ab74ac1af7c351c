"""Splits by whole groups: A selects heads, B tunes strengths, C tests.

SELECTION, TUNING, TEST     the names of the three splits; CROSSED, of the same in crossed wording
split_groups(groups, shares)    a split for every group
require_groups(labels, groups)  refuses data with too few groups for every label
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

SELECTION, TUNING, TEST = "A", "B", "C"
CROSSED = {split: f"crossed-{split}" for split in (SELECTION, TUNING, TEST)}
FOLDS = 5  # of a cross-validation by groups


def split_groups(groups: Iterable[str], shares: dict[str, float], seed: int = 0) -> dict[str, str]:
    """Give every group a split: shares by number of groups, drawn with ``seed``.

    >>> shares = {"A": 0.5, "C": 0.5}
    >>> split_groups(["a", "b", "c", "d"], shares) == split_groups(["d", "c", "b", "a"], shares)
    True
    """
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"shares {shares} add up to {sum(shares.values())}; expected 1")
    known = sorted(set(groups))
    order = [known[i] for i in np.random.default_rng(seed).permutation(len(known))]
    bounds = np.round(np.cumsum(list(shares.values())) * len(order)).astype(int)
    names = np.repeat(list(shares), np.diff(bounds, prepend=0))
    return {group: str(name) for group, name in zip(order, names, strict=True)}


def require_groups(labels: ArrayLike, groups: ArrayLike, names: Iterable[str], least: int = FOLDS) -> None:
    """Raise ValueError where the steps with one of the labels ``names`` are of fewer than ``least`` groups.

    >>> require_groups(["a", "a", "b"], ["1", "2", "1"], ["a", "b"], least=2)
    Traceback (most recent call last):
    ValueError: 'b' has steps of 1 groups; expected at least 2 for each of a, b
    """
    labels, groups, names = np.asarray(labels), np.asarray(groups), list(names)
    for name in names:
        if (n := len(np.unique(groups[labels == name]))) < least:
            wanted = f"at least {least} for each of {', '.join(names)}"
            raise ValueError(f"{name!r} has steps of {n} groups; expected {wanted}")
