"""CogVSR's Spatial Score as a language model judges it.

step_replies(experiment, root)       the items of CogVSR and the replies to their steps, of a copy or of the look-alike
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
from cogvsr_utils.pipeline.benchmarks import ABLATED, BASE, REPLY, lookalike, lookalike_replies
from cogvsr_utils.pipeline.copies import copies_in, shard_replies
from cogvsr_utils.pipeline.experiment import Experiment

log = logging.getLogger(__name__)


def step_replies(experiment: Experiment, root: str | Path = "") -> tuple[list[Item], pd.DataFrame]:
    """CogVSR's items and the replies to their steps, without an edit and with the spatial heads ablated: of the copy in
    ``root``, none where it has no copy of CogVSR; of the look-alike without ``root``."""
    if root and COGVSR.name not in copies_in(root):
        return [], pd.DataFrame()
    if root:
        items, replies = shard_replies(experiment, COGVSR.name, root)
    else:
        replies = lookalike_replies[COGVSR.name](experiment)
        with lookalike(COGVSR.name) as (items, _):
            pass  # their texts are asked about, not their pictures
    wanted = replies["condition"].isin([BASE, ABLATED]) & (replies["how"] == REPLY) & (replies["step"] != MAIN)
    return items, replies[wanted]


def judged_scores(replies: pd.DataFrame, items: list[Item], name: str, url: str, folder: Path) -> pd.DataFrame:
    """The Spatial Score by the language model ``name`` at ``url``, or in this process without one, and by the strict
    scorer: a row for each and each ``condition``, with n, score, low, high (95 % over groups); agree and kappa between
    the two, and no_verdict, how many replies the judge gave none to, which count as wrong.

    What it will cost is logged before. Verdicts are kept in ``folder``, and ``disagreements of CONDITION.csv`` there
    lists the replies on which the two differ. Raises as ``judge_with`` does.
    """
    model = Endpoint(name, url) if url else LocalModel(name)
    spatial = replies[replies["function"].isin(SPATIAL)].reset_index(drop=True)
    folder.mkdir(parents=True, exist_ok=True)
    log.warning("%s: %s", model.name, estimate(model, judge_prompts(spatial, items), folder))
    rows = []
    for condition, own in spatial.groupby("condition", sort=False):
        judged, strict = judge_with(own, items, model, folder), judge_strictly(own)
        write_disagreements(judged, strict, folder / f"disagreements of {condition}.csv")
        agreement = judge_agreement(judged, strict).iloc[0]
        shared = {"condition": condition, **agreement[["agree", "kappa", "no_verdict"]]}
        rows += [{"scorer": f"judge: {model.name}", **spatial_score(judged), **shared},
                 {"scorer": "strict", **spatial_score(strict), **shared}]  # fmt: skip
    return pd.DataFrame(rows)
