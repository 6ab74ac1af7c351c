"""What a head knows in another run of the same chats: carried over, and what that changes.

patch_heads(target, source, sets)              log-probability of right answers with sets of heads as in the other run
move_heads(target, moves)                      scores with heads moved along directions
path_attribution(target, source, functions)    what that would change head by head, from a few gradients
mean_difference(target, source, heads)         from one run to the other, a direction of each head to steer by

Two runs have the same steps and right answers, and differ in their pictures or in what stands before a step. They are
aligned at the tokens that predict the answers, which both have.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from cogvsr_utils.models.attribution import head_gradients
from cogvsr_utils.models.hooks import projection_hooks
from cogvsr_utils.models.recording import read_heads
from cogvsr_utils.models.scorer import StepScores, TeacherForcedScorer

Head = tuple[int, int]


@torch.inference_mode()
def patch_heads(
    target: TeacherForcedScorer,
    source: TeacherForcedScorer,
    sets: Sequence[Sequence[Head]],
    together: int | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Log-probability of every step's right answer in ``target``, with each set of heads as in ``source`` at the tokens
    that predict answers: (sets, steps of ``target.index``).

    An empty set gives the target as it is. Blocks before the first patched one are computed once a batch, and
    ``together`` sets run as one larger batch, as in ``TeacherForcedScorer.score_each``. Raises KeyError for a head that
    the model does not have, ValueError where the runs are not of one model or do not have the same steps with the same
    answers.

    >>> from cogvsr_utils import load_items, load_vlm
    >>> from cogvsr_utils.dataset.images import grey_pictures
    >>> vlm, items = load_vlm("nano-internvl"), load_items("synth", limit=2)
    >>> bare, seen = TeacherForcedScorer(vlm, grey_pictures(items)), TeacherForcedScorer(vlm, items)
    >>> patch_heads(bare, seen, [[], [(4, 0)]], progress=False).shape[0]
    2
    """
    vlm, given = target.vlm, _aligned(target, source)
    columns = [vlm.heads.columns(heads) for heads in sets]

    def edited(numbers, batch, row, place):
        parts = zip(numbers, row.split(len(given[batch])), place.split(len(given[batch])), strict=True)
        return projection_hooks(
            vlm, _writing([(*where, columns[n], lambda here, x: given[batch][:, here]) for n, *where in parts])
        )

    first = [min((layer for layer, _ in heads), default=None) for heads in sets]
    return np.array([each.log_prob for each in target.sweep(first, edited, together, progress)])


@torch.inference_mode()
def move_heads(
    target: TeacherForcedScorer, moves: Sequence[Mapping[Head, np.ndarray]], progress: bool = True
) -> list[StepScores]:
    """Scores of every step's right answer under each of several moves: heads shifted by their vectors (head_dim,) at
    the tokens that predict answers. Raises KeyError for a head that the model does not have, ValueError for a move of
    none."""
    if not all(moves):
        raise ValueError("no heads to move; expected at least one")
    vlm, columns = target.vlm, [target.vlm.heads.columns(vectors) for vectors in moves]
    shifts = [
        {here.start: torch.as_tensor(np.asarray(vector), device=vlm.device)
         for here, vector in zip(own, vectors.values(), strict=True)}
        for own, vectors in zip(columns, moves, strict=True)
    ]  # fmt: skip

    def edited(numbers, batch, row, place):
        size = len(row) // len(numbers)
        parts = zip(numbers, row.split(size), place.split(size), strict=True)
        return projection_hooks(
            vlm, _writing([(*where, columns[n], lambda here, x, n=n: x + shifts[n][here.start].to(x))
                           for n, *where in parts])
        )  # fmt: skip

    first = [min(layer for layer, _ in vectors) for vectors in moves]
    return target.sweep(first, edited, progress=progress)


def path_attribution(
    target: TeacherForcedScorer, source: TeacherForcedScorer, functions: Sequence[str], n_points: int = 5
) -> np.ndarray:
    """What patching each head alone would change in the log-odds of right answers, were the model linear between the
    two runs: (functions, heads), a step's mean, signed.

    The difference of a head between the runs, at the tokens that predict answers, times its gradient there; the
    gradient is the mean over ``n_points`` pictures between the two, evenly spaced (integrated gradients on the input,
    as in Hanna et al., arXiv 2403.17806). Log-odds, because the log-probability of an answer that is certain has no
    gradient left. Raises ValueError where the runs' texts differ, and as ``patch_heads`` does.

    >>> from cogvsr_utils import load_items, load_vlm
    >>> from cogvsr_utils.dataset.images import grey_pictures
    >>> vlm, items = load_vlm("nano-internvl"), load_items("synth", limit=1)
    >>> bare, seen = TeacherForcedScorer(vlm, grey_pictures(items)), TeacherForcedScorer(vlm, items)
    >>> path_attribution(bare, seen, ["Spatial Perception", "Decision-Making"], n_points=1).shape
    (2, 192)
    """
    vlm, label = target.vlm, target.index["function"].to_numpy()
    change = torch.cat(_aligned(target, source)) - torch.cat(_aligned(target, target))  # (answer tokens, width)
    heads = torch.as_tensor(vlm.heads.of_column)
    sizes = [len(owner) for *_, owner in target.batches_for_gradients()]
    total = np.zeros((len(functions), len(vlm.heads)))
    runs = (run.batches_for_gradients() for run in (target, source))
    for (inputs, (row, token), owner), (others, *_), moved in zip(*runs, change.split(sizes), strict=True):
        if not torch.equal(inputs["input_ids"], others["input_ids"]):
            raise ValueError("the two runs' texts differ; expected the same texts about different pictures")
        gradient = torch.zeros(len(functions), *moved.shape)
        for point in (np.arange(n_points) + 0.5) / n_points:
            between = {
                name: torch.lerp(value, others[name], float(point)) if torch.is_floating_point(value) else value
                for name, value in inputs.items()
            }
            where = torch.stack([row, token])
            for number, name, _, found in head_gradients(vlm, between, where, label[owner], functions):
                here = found[row, token - 1].float().cpu()  # (answer tokens, width of the projection)
                gradient[number, :, slice(*vlm.heads.projections[name])] += here / n_points
        by_column = (gradient * moved.cpu()).sum(1).double()  # (functions, width)
        total += torch.zeros(total.shape, dtype=torch.float64).index_add_(1, heads, by_column).numpy()
    return total / np.array([[max((label == function).sum(), 1)] for function in functions])


@torch.inference_mode()
def mean_difference(
    target: TeacherForcedScorer, source: TeacherForcedScorer, heads: Sequence[Head], functions: Sequence[str]
) -> list[np.ndarray]:
    """From ``target`` to ``source``, the mean over the tokens that predict answers to steps of some functions:
    (head_dim,) a head. Raises ValueError where there are no such steps."""
    there, here = (torch.cat(_aligned(target, run)) for run in (source, target))  # (answer tokens, width)
    own = target.index["function"].isin(functions).to_numpy()[np.concatenate([owner for *_, owner in target.batches])]
    if not own.any():
        raise ValueError(f"no steps of {', '.join(functions)}; expected some")
    change = (there - here)[torch.as_tensor(own, device=there.device)].mean(0).cpu().numpy()
    return [change[columns] for columns in target.vlm.heads.columns(heads)]


def _aligned(target: TeacherForcedScorer, run: TeacherForcedScorer) -> list[torch.Tensor]:
    """All heads of a run at the tokens that predict answers, for each batch of ``target`` and in its order: (answer
    tokens, width) each, float32."""
    if run.vlm is not target.vlm:
        raise ValueError(f"runs of {target.vlm.name} and {run.vlm.name}; expected two of one loaded model")
    found: dict[tuple, list[tuple[int, torch.Tensor]]] = {}  # of each step: its answer's tokens and heads at them
    index = list(run.index[["uid", "step"]].itertuples(index=False, name=None))
    for inputs, (row, token), owner in run.batches:
        flat = (row * inputs["input_ids"].shape[1] + token - 1).cpu().numpy()
        with torch.inference_mode():
            heads = read_heads(run.vlm, inputs, flat, np.arange(len(flat)), len(flat))
        for number, right, values in zip(owner, inputs["input_ids"][row, token].tolist(), heads, strict=True):
            found.setdefault(index[number], []).append((right, values))
    aligned = []
    steps = list(target.index[["uid", "step"]].itertuples(index=False, name=None))
    for inputs, (row, token), owner in target.batches:
        answers = inputs["input_ids"][row, token].tolist()
        values = [found.get(steps[number], []) for number in dict.fromkeys(owner)]
        tokens = [right for step in values for right, _ in step]
        if tokens != answers:
            raise ValueError("the runs do not have the same steps with the same answers; expected the same")
        aligned.append(torch.stack([heads for step in values for _, heads in step]))
    return aligned


def _writing(changes: Sequence[tuple[torch.Tensor, torch.Tensor, Sequence[slice], Callable]]):
    """What ``projection_hooks`` takes: for each change (rows, places, columns, value), heads have
    ``value(columns, what they had)`` at tokens (rows, places)."""

    def hook_for(name, own):
        inside = [
            (row, place, here, value)
            for row, place, columns, value in changes
            for here in columns
            if own.start <= here.start < own.stop
        ]

        def hook(module, args):
            x = args[0].clone()
            for row, place, here, value in inside:
                there = slice(here.start - own.start, here.stop - own.start)
                rows, places = row.to(x.device), place.to(x.device)
                x[rows, places, there] = value(here, x[rows, places, there]).to(x)
            return (x, *args[1:])

        return hook if inside else None

    return hook_for
