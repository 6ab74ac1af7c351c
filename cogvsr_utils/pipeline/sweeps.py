"""Some items of a split, scored teacher-forced under many edits.

some_items(experiment, split, n)              some items of a split
scorer_of(experiment, split, n)               a scorer of them
ablate_each_head(experiment, split, edits)    its scores, intact and with each head ablated
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cogvsr_utils.analysis.ablations import HeadAblations
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.splits import require_groups
from cogvsr_utils.functions import NAMES
from cogvsr_utils.pipeline.experiment import Experiment

if TYPE_CHECKING:
    from cogvsr_utils.models.scorer import TeacherForcedScorer


def scorer_of(experiment: Experiment, split: str, n: int, function: str | None = None) -> TeacherForcedScorer:
    """A teacher-forced scorer of ``n`` items of a split, drawn at random, and of one more for each function that they
    lack.

    With a function, of items that ask for it, each up to the last step that does: what comes after cannot change it.
    """
    from cogvsr_utils.models.scorer import TeacherForcedScorer

    items = some_items(experiment, split)
    if function:
        last = [max((i for i, s in enumerate(x.steps) if s.function == function), default=-1) for x in items]
        items = [replace(x, steps=x.steps[: i + 1]) for x, i in zip(items, last, strict=True) if i >= 0]
        return TeacherForcedScorer(experiment.vlm, items[:n])
    return TeacherForcedScorer(experiment.vlm, with_every_function(items, n))


def some_items(experiment: Experiment, split: str, n: int | None = None) -> list[Item]:
    """``n`` items of a split, drawn at random; all of them, in random order, where no number is given."""
    items = experiment.items(split)
    return [items[i] for i in np.random.default_rng(0).permutation(len(items))[:n]]


def with_every_function(items: list[Item], n: int) -> list[Item]:
    """The first ``n`` items, and of each function that none of them asks for the first item that does."""
    asked = [{step.function for step in item.steps} for item in items]
    missing = set(NAMES) - set().union(*asked[:n])
    first = {name: next((i for i, each in enumerate(asked) if name in each), None) for name in missing}
    return items[:n] + [items[i] for i in sorted(set(first.values()) - {None})]


def ablate_each_head(experiment: Experiment, split: str, edits: Callable | None = None) -> HeadAblations:
    """Teacher-forced scores of the profile's number of items of a split, intact and with each head ablated.

    ``edits`` makes the edits of a list of heads; without it heads are masked (×0.001). Raises ValueError where a
    function has no step among these items.
    """
    from cogvsr_utils.models.head_edits import mask

    edits, scorer = edits or mask, scorer_of(experiment, split, experiment.settings.ablation_items)
    require_groups(scorer.index["function"], scorer.index["group_id"], NAMES, least=1)
    scores = scorer.score_each([None, *(edits([head]) for head in experiment.vlm.heads.pairs)])
    return HeadAblations(
        np.array([each.correct for each in scores]),
        np.array([each.log_prob for each in scores]),
        scorer.index["function"].to_numpy().astype(str),
        scorer.index["group_id"].to_numpy().astype(str),
    )
