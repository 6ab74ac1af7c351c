"""CogVSR's Spatial Score as a language model judges it.

base_replies(experiment, root)       the items of CogVSR and the replies to them, of a copy or of the look-alike
judged_scores(replies, items, ...)   the Spatial Score, judged and strict, and how far the two agree
"""

import logging
from pathlib import Path

import pandas as pd

from cogvsr_utils.dataset.benchmarks.cogvsr import COGVSR
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.language_models import Endpoint, LocalModel, estimate
from cogvsr_utils.dataset.llm_judge import (
    judge_agreement,
    judge_prompts,
    judge_with,
    spatial_score,
    write_disagreements,
)
from cogvsr_utils.dataset.scoring import judge as judge_strictly
from cogvsr_utils.functions import MAIN, SPATIAL
from cogvsr_utils.pipeline.benchmarks import BASE, REPLY, lookalike, lookalike_replies
from cogvsr_utils.pipeline.copies import copies_in, shard_replies
from cogvsr_utils.pipeline.experiment import Experiment

log = logging.getLogger(__name__)


def base_replies(experiment: Experiment, root: str | Path = "") -> tuple[list[Item], pd.DataFrame]:
    """CogVSR's items and the replies to their steps without an edit: of the copy in ``root``, none where it has no copy
    of CogVSR; of the look-alike without ``root``."""
    if root and COGVSR.name not in copies_in(root):
        return [], pd.DataFrame()
    if root:
        items, replies = shard_replies(experiment, COGVSR.name, root)
    else:
        replies = lookalike_replies[COGVSR.name](experiment)
        with lookalike(COGVSR.name) as (items, _):
            pass
    return items, replies[(replies["condition"] == BASE) & (replies["how"] == REPLY) & (replies["step"] != MAIN)]


def judged_scores(replies: pd.DataFrame, items: list[Item], name: str, url: str, folder: Path) -> pd.DataFrame:
    """The Spatial Score by the language model ``name`` at ``url``, or in this process without one, and by the strict
    scorer: a row each, with n, score, low, high (95 % over groups), agree and kappa between the two.

    What it will cost is logged before. Verdicts are kept in ``folder``, and ``disagreements.csv`` there lists the
    replies on which the two differ. Raises as ``judge_with`` does.
    """
    model = Endpoint(name, url) if url else LocalModel(name)
    spatial = replies[replies["function"].isin(SPATIAL)].reset_index(drop=True)
    folder.mkdir(parents=True, exist_ok=True)
    log.warning("%s: %s", model.name, estimate(model, judge_prompts(spatial, items), folder))
    judged, strict = judge_with(spatial, items, model, folder), judge_strictly(spatial)
    write_disagreements(judged, strict, folder / "disagreements.csv")
    agreement = judge_agreement(judged, strict).iloc[0]
    rows = [{"scorer": scorer, **spatial_score(table), "agree": agreement["agree"], "kappa": agreement["kappa"]}
            for scorer, table in ((f"judge: {model.name}", judged), ("strict", strict))]  # fmt: skip
    return pd.DataFrame(rows)
