"""What activating latent heads does, without any cue, and what it costs.

latent_activation     scaling, steering, attention on these heads, beside random heads and the cues themselves, on C
activation_seconds    seconds a question
reading_heads(...)    those of some heads whose attention to pictures can be edited
LATENT                the tables of cues and latent heads that a page shows
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cogvsr_utils.dataset.splits import SELECTION, TEST
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.pipeline import latent
from cogvsr_utils.pipeline.cues import BOX, cue_effects, cued, marked_objects
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.latent import CUES, attribution_check, items_with_boxes, runs_of
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import clustered_mean

if TYPE_CHECKING:
    from cogvsr_utils.models.vlm import VLM

SCALE, ATTEND = 1.5, float(np.log(2))
METHOD = "steer"  # of the three, the one that a claim rests on; named before any was run on the first model
DRAWS = 40  # of random heads: none of them as far off is a two-sided p of 2/41
TURNS = 5  # of timed answers
BOTH, ELSEWHERE = "both spatial functions", "the other functions"


@result(splits=(SELECTION, TEST), gpu=True)
def latent_activation(experiment: Experiment, latent_heads: pd.DataFrame) -> pd.DataFrame:
    """What helps steps of C, teacher-forced: the true and the misplaced boxes, and without any cue the latent heads
    scaled, steered towards the cued run (by the mean difference of spatial steps on A, at the tokens that predict
    answers), or attending more to the picture; beside ``DRAWS`` sets of as many random heads of the same layers. Where
    no head is latent, the heads that come nearest, as many as are taken for a function.

    Columns: method, heads (latent, nearest or random; none for cues), k, draw, function (or ``BOTH``, or ``ELSEWHERE``,
    the steps of the other six), n, change of
    log-probability with low and high (95 % over scenes); for the chosen heads also ``beyond`` the mean of the random
    ones, step by step, with its own interval. No random rows where a layer has too few other heads, no attention where
    no head reads the picture in line.
    """
    from cogvsr_utils.models.attention_edits import attend
    from cogvsr_utils.models.head_edits import scale
    from cogvsr_utils.models.patching import mean_difference, move_heads
    from cogvsr_utils.models.scorer import TeacherForcedScorer

    vlm, (kind, heads) = experiment.vlm, chosen_heads(latent_heads)
    every = vlm.heads.pairs
    towards = dict(zip(every, mean_difference(*runs_of(experiment, BOX), every, SPATIAL), strict=True))
    items = items_with_boxes(experiment, TEST)
    scorer = TeacherForcedScorer(vlm, items)
    intact, index = scorer.score().log_prob, scorer.index

    def attended(some):
        reading = reading_heads(vlm, some)
        return scorer.score(attend(reading, "add", ATTEND)).log_prob if reading else None

    methods = {
        "scale": lambda some: scorer.score(scale(some, SCALE)).log_prob,
        "steer": lambda some: move_heads(scorer, [{h: towards[h] for h in some}], progress=False)[0].log_prob,
        "attend": attended,
    }
    rows = []
    for cue in CUES[1:]:
        cued_scorer = TeacherForcedScorer(vlm, cued(items, cue))
        pd.testing.assert_frame_equal(cued_scorer.index, index)
        rows += _effects(cued_scorer.score().log_prob - intact, index, method=cue, heads="", k=0, draw=0)
    draws = [same_layers(every, heads, seed) for seed in range(DRAWS)]
    for method, run in methods.items():
        own = run(heads)
        if own is None:
            continue
        random = [run(some) for some in draws if some]
        beside = np.mean(random, axis=0) if random and all(each is not None for each in random) else None
        rows += _effects(own - intact, index, beside=None if beside is None else own - beside, method=method,
                         heads=kind, k=len(heads), draw=0)  # fmt: skip
        for number, each in enumerate(random if beside is not None else ()):
            rows += _effects(each - intact, index, method=method, heads="random", k=len(heads), draw=number)
    return pd.DataFrame(rows)


@result(splits=(TEST,), gpu=True)
def activation_seconds(experiment: Experiment) -> pd.DataFrame:
    """What activating heads costs: main questions of C asked alone, without an edit and with each, in turns. As many
    heads as are taken for a function, evenly spread: which they are makes no difference to the time.

    Columns: method (nothing, scale, steer, attend), n, seconds (median a question), ratio (median over the turns of the
    ratio to nothing's). The first turn is not counted.
    """
    from cogvsr_utils.checks.speed import timed
    from cogvsr_utils.models.answering import answer
    from cogvsr_utils.models.attention_edits import attend
    from cogvsr_utils.models.head_edits import scale, steer

    vlm = experiment.vlm
    heads = vlm.heads.pairs[:: len(vlm.heads) // n_top(len(vlm.heads))][: n_top(len(vlm.heads))]
    nowhere = [np.zeros(columns.stop - columns.start) for columns in vlm.heads.columns(heads)]
    edits = {"nothing": None, "scale": scale(heads, SCALE), "steer": steer(heads, nowhere, 1.0)}
    if reading := reading_heads(vlm, heads):
        edits["attend"] = attend(reading, "add", ATTEND)
    items, seconds = items_with_boxes(experiment, TEST), {name: [] for name in edits}
    for _ in range(1 + TURNS):
        for name, edit in edits.items():
            seconds[name].append(timed(answer, vlm, items, edits=edit, steps=False, progress=False)[1])
    table = pd.DataFrame(seconds).iloc[1:]
    return pd.DataFrame(
        {"method": name, "n": len(items), "seconds": table[name].median() / len(items),
         "ratio": (table[name] / table["nothing"]).median()}
        for name in edits
    )  # fmt: skip


LATENT = (marked_objects, cue_effects, latent.latent_heads, attribution_check, latent_activation, activation_seconds)


def chosen_heads(table: pd.DataFrame) -> tuple[str, list[tuple[int, int]]]:
    """``latent`` and the heads that are latent for a spatial function, or, where there are none, ``nearest`` and those
    whose worse p, in their better function, is smallest; of equal ones those with the best ranks of rise and patch."""
    found = table[table["latent"]]
    if len(found):
        return "latent", list(dict.fromkeys(found[["layer", "head"]].itertuples(index=False, name=None)))
    by_function = table.groupby("function")
    ranks = by_function["rise"].rank() + by_function["beyond"].rank()
    worse = table.assign(p=table[["p_rise", "p_patch"]].max(axis=1), rank=-ranks)
    best = worse.groupby(["layer", "head"])[["p", "rank"]].min().sort_values(["p", "rank"], kind="stable")
    return "nearest", list(best.index[: n_top(len(best))])


def reading_heads(vlm: VLM, heads: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The heads, where the model reads pictures in line with the text. None where it does so through cross-attention:
    other heads have a single placeholder to attend to there, and no score in those of cross-attention is another
    column's than the picture's, so that adding to all of them changes nothing."""
    return [] if vlm.image_token_id is None or vlm.heads.cross else list(heads)


def _effects(change: np.ndarray, index: pd.DataFrame, beside: np.ndarray | None = None, **row) -> list[dict]:
    """A row a function, one of both spatial ones and one of the others: the mean ``change`` (steps,), and beyond what
    it is beside."""
    group, rows = index["group_id"].to_numpy(), []
    several = ((BOTH, list(SPATIAL)), (ELSEWHERE, [name for name in NAMES if name not in SPATIAL]))
    for name, functions in (*((name, [name]) for name in NAMES), *several):
        own = index["function"].isin(functions).to_numpy()
        if own.any():
            cell = dict(zip(("delta_log_prob", "low", "high"), clustered_mean(change[own], group[own]), strict=True))
            if beside is not None:
                ends = clustered_mean(beside[own], group[own])
                cell |= dict(zip(("beyond", "beyond_low", "beyond_high"), ends, strict=True))
            rows.append({**row, "function": name, "n": int(own.sum()), **cell})
    return rows


def same_layers(
    every: Sequence[tuple[int, int]], heads: Sequence[tuple[int, int]], seed: int = 0
) -> list[tuple[int, int]]:
    """As many random heads of each layer as ``heads`` has there, none of them; nothing where a layer has too few."""
    rng, found = np.random.default_rng(seed), []
    for layer in dict.fromkeys(layer for layer, _ in heads):
        free = [head for head in every if head[0] == layer and head not in set(heads)]
        n = sum(each == layer for each, _ in heads)
        if len(free) < n:
            return []
        found += [free[i] for i in rng.permutation(len(free))[:n]]
    return found
