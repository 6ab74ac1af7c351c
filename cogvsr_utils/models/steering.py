"""Directions to steer heads along.

directions(activations, heads, rows, correct)     from wrong towards correct answers
mass_mean(activations, heads, positive)           from the mean of some steps to that of others
probe_directions(activations, heads, positive)    across the boundary that a probe of the head finds between them
random_directions(vectors, seed)                  of the same lengths, a control
"""

from collections.abc import Iterable, Sequence

import numpy as np

from cogvsr_utils.models.activations import HeadActivations


def directions(
    activations: HeadActivations, heads: Iterable[tuple[int, int]], rows: np.ndarray, correct: np.ndarray
) -> list[np.ndarray]:
    """From wrong towards correct answers, one vector (head_dim,) a head, as long as one standard deviation.

    Unit(mean correct - mean wrong) times the standard deviation of the projections on it, over the steps ``rows``
    (steps,), with ``correct`` (steps,), both boolean. Raises ValueError where all are correct or all wrong, or where
    there is not one value a step. Source: Cognitive Mirrors (arXiv 2512.10978).

    >>> from cogvsr_utils import load_vlm
    >>> heads, correct = load_vlm("nano-internvl").heads, np.array([True, False])
    >>> activations = HeadActivations(np.stack([np.ones(heads.width), np.zeros(heads.width)]), None, heads, {})
    >>> vector = directions(activations, [(5, 0)], np.array([True, True]), correct)[0]
    >>> vector.shape, bool((vector > 0).all())
    ((24,), True)
    """
    rows, correct = np.asarray(rows), np.asarray(correct)
    for name, given in (("rows", rows), ("correct", correct)):
        if given.dtype != bool or given.shape != (len(activations.features),):
            raise ValueError(f"{name} is {given.dtype} {given.shape}; expected bool ({len(activations.features)},)")
    right, wrong = rows & correct, rows & ~correct
    if not right.any() or not wrong.any():
        raise ValueError(f"{right.sum()} correct and {wrong.sum()} wrong rows; expected some of both")
    out = []
    for x in _slices(activations, heads):
        unit = x[right].mean(0) - x[wrong].mean(0)
        unit /= max(np.linalg.norm(unit), 1e-12)
        out.append(unit * (x[rows] @ unit).std())
    return out


def mass_mean(
    activations: HeadActivations,
    heads: Iterable[tuple[int, int]],
    positive: np.ndarray,
    among: np.ndarray | None = None,
) -> list[np.ndarray]:
    """The mean of the ``positive`` steps (steps,) less that of the others, all or those ``among`` some (steps,), both
    boolean: (head_dim,) a head. Raises ValueError where either has no steps, or there is not one value a step.

    Source: Marks and Tegmark (arXiv 2310.06824).

    >>> from cogvsr_utils import load_vlm
    >>> heads, positive = load_vlm("nano-internvl").heads, np.array([True, False])
    >>> activations = HeadActivations(np.stack([np.full(heads.width, 3.0), np.ones(heads.width)]), None, heads, {})
    >>> set(mass_mean(activations, [(5, 0)], positive)[0].tolist())
    {2.0}
    """
    positive, others = _sides(activations, positive, among)
    return [x[positive].mean(0) - x[others].mean(0) for x in _slices(activations, heads)]


def probe_directions(
    activations: HeadActivations,
    heads: Iterable[tuple[int, int]],
    positive: np.ndarray,
    among: np.ndarray | None = None,
) -> list[np.ndarray]:
    """The normal of a logistic regression between the ``positive`` steps and the others, (head_dim,) a head, as long as
    one standard deviation of the steps' projections on it; arguments and errors as in ``mass_mean``.

    Source: inference-time intervention (Li et al., arXiv 2306.03341).

    >>> from cogvsr_utils import load_vlm
    >>> heads, positive = load_vlm("nano-internvl").heads, np.array([True, False])
    >>> activations = HeadActivations(np.stack([np.ones(heads.width), np.zeros(heads.width)]), None, heads, {})
    >>> vector = probe_directions(activations, [(5, 0)], positive)[0]
    >>> vector.shape, bool((vector > 0).all())
    ((24,), True)
    """
    from sklearn.linear_model import LogisticRegression

    positive, others = _sides(activations, positive, among)
    both, found = positive | others, []
    for x in _slices(activations, heads):
        unit = LogisticRegression(max_iter=1000).fit(x[both], positive[both]).coef_[0]
        unit /= max(np.linalg.norm(unit), 1e-12)
        found.append(unit * (x[both] @ unit).std())
    return found


def random_directions(vectors: Sequence[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    """Random directions as long as the given ones, each of its width.

    >>> [float(np.linalg.norm(vector).round(6)) for vector in random_directions([np.array([3.0, 4.0]), np.zeros(3)])]
    [5.0, 0.0]
    """
    rng, found = np.random.default_rng(seed), []
    for vector in vectors:
        drawn = rng.normal(size=np.shape(vector))
        found.append(drawn * np.linalg.norm(vector) / np.linalg.norm(drawn))
    return found


def _slices(activations: HeadActivations, heads: Iterable[tuple[int, int]]) -> Iterable[np.ndarray]:
    for columns in activations.heads.columns(heads):
        yield np.asarray(activations.features[:, columns], dtype=np.float64)


def _sides(activations: HeadActivations, positive, among) -> tuple[np.ndarray, np.ndarray]:
    """The positive steps and the others, (steps,) each."""
    n = len(activations.features)
    among = np.ones(n, bool) if among is None else np.asarray(among)
    positive = np.asarray(positive)
    for name, given in (("positive", positive), ("among", among)):
        if given.dtype != bool or given.shape != (n,):
            raise ValueError(f"{name} is {given.dtype} {given.shape}; expected bool ({n},)")
    sides = positive & among, ~positive & among
    if not all(side.any() for side in sides):
        raise ValueError(f"{sides[0].sum()} positive steps and {sides[1].sum()} others; expected some of both")
    return sides
