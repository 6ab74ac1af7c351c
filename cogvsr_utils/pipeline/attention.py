"""What the first heads of a function attend to, in one picture.

attention_example     attention of some spatial heads before a spatial step of split A
"""

from dataclasses import dataclass

import numpy as np

from cogvsr_utils.dataset.splits import SELECTION
from cogvsr_utils.functions import SPATIAL
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings, top_heads_by
from cogvsr_utils.pipeline.store import result

N_HEADS = 4


@dataclass(frozen=True)
class AttentionExample:
    """``uid`` and ``step`` of what is asked; ``heads`` (heads, [layer, head]), ``weights``, ``without_sinks`` (heads,
    rows, columns) as in ``models.attention.AttentionMap``. Without a step to show, or a grid to show it on, there are
    no heads."""

    uid: np.ndarray
    step: np.ndarray
    heads: np.ndarray
    weights: np.ndarray
    without_sinks: np.ndarray


@result(splits=(SELECTION,), gpu=True)
def attention_example(experiment: Experiment, rankings: Rankings) -> AttentionExample:
    """Of the top heads for spatial perception by the paper's importance, the four that attend to the picture most,
    before its first step with a picture."""
    from cogvsr_utils.models.attention import NoGrid, attention_map

    asked = (
        (item, number) for item in experiment.items(SELECTION) if item.image is not None
        for number, step in enumerate(item.steps) if step.function == SPATIAL[0]
    )  # fmt: skip
    item, step = next(asked, (None, -1))
    nothing = AttentionExample(np.array(""), np.array(step), *(np.zeros((0, n, n)) for n in (2, 0, 0)))
    if item is None:
        return nothing
    try:
        found = attention_map(experiment.vlm, item, step)
    except NoGrid:
        return nothing
    top = set(top_heads_by(rankings, IMPORTANCE, n_top(len(rankings.heads))).of(SPATIAL[0]))
    most = [i for i in np.argsort(-found.weights.sum((1, 2))) if found.heads[i] in top][:N_HEADS]
    heads = np.array([found.heads[i] for i in most]).reshape(-1, 2)
    return AttentionExample(np.array(item.uid), np.array(step), heads, found.weights[most], found.without_sinks[most])
