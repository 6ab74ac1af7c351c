"""Random sets of heads in the place of given ones.

KINDS                                      what random sets may share with the given ones
control_sets(heads, sets, n_draws, kind)   random sets in the place of several functions' sets at once
inclusion(own, drawn)                      how much random sets repeat themselves and the given one
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cogvsr_utils.stats import shuffle_within

KINDS = ("any heads", "same layers", "same output norms")
IN_A_BIN = 12  # heads of like output norm that are exchanged
Head = tuple[int, int]


def control_sets(
    heads: Sequence[Head],
    sets: Mapping[str, Sequence[Head]],
    n_draws: int,
    kind: str = "same layers",
    norms: ArrayLike | None = None,
    seed: int = 0,
) -> list[dict[str, list[Head]]]:
    """``n_draws`` times random sets in the place of all ``sets``, each as large as the one it stands for.

    In every draw the ``heads`` of a model change places at random: all of them, those of one layer, or those of like
    output norm (the ``IN_A_BIN`` next to each other in the order of ``norms`` (heads,)); ``kind`` is one of ``KINDS``.
    So sets that share heads go on sharing as many, and a test against the draws is a permutation test: if the given
    sets were nothing special among such sets, they would rank anywhere among them. A drawn set may have heads of the
    given one; ``inclusion`` counts them. Raises ValueError for an unknown kind, heads that are not among ``heads`` or
    given twice, norms that are missing or not finite, and fewer than one draw.

    >>> heads = [(layer, head) for layer in range(2) for head in range(3)]
    >>> drawn = control_sets(heads, {"Math Reasoning": [(0, 0), (1, 2)]}, n_draws=1)
    >>> [layer for layer, _ in drawn[0]["Math Reasoning"]]
    [0, 1]
    """
    place, n = {tuple(head): number for number, head in enumerate(heads)}, len(heads)
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {KINDS}")
    if n_draws < 1:
        raise ValueError(f"{n_draws} draws; expected at least one")
    for name, own in sets.items():
        if unknown := [head for head in own if tuple(head) not in place]:
            raise ValueError(f"no such heads: {unknown[:5]} in the set of {name!r}; expected some of {n}")
        if len({tuple(head) for head in own}) < len(own):
            raise ValueError(f"the set of {name!r} has heads more than once; expected each once")
    if kind == "same output norms":
        if norms is None or np.shape(norms) != (n,) or not np.isfinite(norms).all():
            raise ValueError(f"norms of shape {np.shape(norms)}; expected {n} finite numbers, one a head")
        strata = np.argsort(np.argsort(norms)) * max(n // IN_A_BIN, 1) // n
    else:
        strata = [layer if kind == "same layers" else 0 for layer, _ in heads]
    draws = []
    for number in range(n_draws):
        moved = shuffle_within(np.arange(n), strata, np.random.default_rng([seed, number]))
        draws.append({name: [tuple(heads[moved[place[tuple(head)]]]) for head in own] for name, own in sets.items()})
    return draws


@dataclass(frozen=True)
class Inclusion:
    """``distinct`` sets among those drawn; ``most_frequent``, the share of them that have the head that is in most;
    ``overlap``, the mean share of the given heads in a drawn set."""

    distinct: int
    most_frequent: float
    overlap: float


def inclusion(own: Sequence[Head], drawn: Sequence[Sequence[Head]]) -> Inclusion:
    """How much the ``drawn`` sets repeat themselves and ``own``; raises ValueError without any.

    >>> inclusion([(0, 0), (0, 1)], [[(0, 1), (0, 2)], [(0, 2), (0, 3)]])
    Inclusion(distinct=2, most_frequent=1.0, overlap=0.25)
    """
    if not drawn:
        raise ValueError("no drawn sets; expected at least one")
    counts = Counter(head for each in drawn for head in each)
    shared = [len(set(own) & set(each)) / len(own) for each in drawn]
    return Inclusion(
        len({frozenset(each) for each in drawn}), max(counts.values()) / len(drawn), float(np.mean(shared))
    )
