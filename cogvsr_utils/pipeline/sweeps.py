"""Each head ablated alone.

ablate_each_head(experiment, split, edits)    scores of some items of a split, intact and with each head ablated
"""

from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from cogvsr_utils.analysis.ablations import HeadAblations
from cogvsr_utils.dataset.splits import require_groups
from cogvsr_utils.functions import NAMES
from cogvsr_utils.pipeline.experiment import Experiment


def ablate_each_head(experiment: Experiment, split: str, edits: Callable | None = None) -> HeadAblations:
    """Teacher-forced scores of the profile's number of items of a split, intact and with each head ablated.

    ``edits`` makes the edits of a list of heads; without it heads are masked (×0.001). Raises ValueError where a
    function has no step among these items.
    """
    from cogvsr_utils.models.interventions import mask

    edits, scorer = edits or mask, experiment.scorer(split, experiment.settings.ablation_items)
    require_groups(scorer.index["function"], scorer.index["group_id"], NAMES, least=1)
    heads = tqdm(experiment.vlm.heads.pairs, desc="single heads")
    scores = [scorer.score(), *(scorer.score(edits([head])) for head in heads)]
    return HeadAblations(
        np.array([each.correct for each in scores]), np.array([each.log_prob for each in scores]),
        scorer.index["function"].to_numpy().astype(str), scorer.index["group_id"].to_numpy().astype(str),
    )  # fmt: skip
