"""How much of an edit does how much, and at what cost elsewhere.

dosed           C, teacher-forced, with more and more heads ablated, scaled by more, steered further
dose_response   what comes of it, dose by dose
dose_trends     whether the effect grows with the dose, within scenes
side_effects    the edits of other pages on all functions' steps, with pictures and without
DOSES           the tables that a page shows
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cogvsr_utils.dataset.splits import SELECTION, TEST
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.emphasis import spatial_directions, spatial_heads, tuned_strength
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.recordings import activations
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings, top_heads_by
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.pipeline.sweeps import scorer_of, some_items
from cogvsr_utils.stats import clustered_mean, clustered_share, paired_difference

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)  # of all heads, ablated for each of the two spatial functions
FACTORS = (-1.0, 0.0, 0.5, 1.5, 2.0, 4.0)
STRENGTHS = (-4.0, -2.0, -1.0, 1.0, 2.0, 4.0)
SPATIAL_HEADS, OTHER_HEADS, RANDOM = "spatial heads", "random heads", "random directions"
DRAWS = 3  # of random heads and of random directions
GROUPS = {"spatial steps": SPATIAL, "other steps": tuple(name for name in NAMES if name not in SPATIAL)}


@dataclass(frozen=True)
class DosedScores:
    """Teacher-forced scores without edits and under every dose: ``correct`` and ``log_prob`` (1 + doses, steps), the
    first row intact; of each dose its ``method`` (ablate, scale, steer), ``heads``, ``draw`` and ``dose`` (doses,); the
    steps' ``function`` and ``group`` (steps,)."""

    correct: np.ndarray
    log_prob: np.ndarray
    method: np.ndarray
    heads: np.ndarray
    draw: np.ndarray
    dose: np.ndarray
    function: np.ndarray
    group: np.ndarray


@result(splits=(SELECTION, TEST), needs={"activations": activations[SELECTION]}, gpu=True)
def dosed(experiment: Experiment, rankings: Rankings, activations: HeadActivations) -> DosedScores:
    """Some items of C with the spatial functions' heads edited: ablated (×0.001), the first of each function by the
    paper's importance, up to ``SHARES`` of all heads; the top tenth scaled by ``FACTORS``; and moved by ``STRENGTHS``
    along the direction from wrong to right answers (of A), at all tokens. Beside them as many random heads that are not
    among them, and random directions as long. Nothing is steered where spatial answers of A are all right, or wrong."""
    from cogvsr_utils.models.head_edits import mask, scale, steer
    from cogvsr_utils.models.steering import random_directions

    every, rng = experiment.vlm.heads.pairs, np.random.default_rng(0)
    order = [rng.permutation(len(every)) for _ in range(DRAWS)]

    def beside(heads):  # the random heads of each draw, those of a smaller set among those of a larger one
        others = [[every[i] for i in draw if every[i] not in set(heads)][: len(heads)] for draw in order]
        return [(SPATIAL_HEADS, 0, heads), *((OTHER_HEADS, n, some) for n, some in enumerate(others) if some)]

    cases = []
    for share in SHARES:
        sets = top_heads_by(rankings, IMPORTANCE, max(1, round(share * len(every))))
        heads = list(dict.fromkeys(head for name in SPATIAL for head in sets.of(name)))
        cases += [("ablate", kind, draw, len(some), mask(some)) for kind, draw, some in beside(heads)]
    spatial = spatial_heads(rankings)
    for factor in FACTORS:
        cases += [("scale", kind, draw, factor, scale(some, factor)) for kind, draw, some in beside(spatial)]
    own = activations.index["function"].isin(SPATIAL)
    if activations.index.loc[own, "correct"].nunique() == 2:
        ahead = dict(zip(every, spatial_directions(activations, every), strict=True))
        for strength in STRENGTHS:
            for kind, draw, some in beside(spatial):
                edit = steer(some, [ahead[head] for head in some], strength, "all")
                cases.append(("steer", kind, draw, strength, edit))
            for draw in range(DRAWS):
                vectors = random_directions([ahead[head] for head in spatial], seed=draw)
                cases.append(("steer", RANDOM, draw, strength, steer(spatial, vectors, strength, "all")))
    scorer = scorer_of(experiment, TEST, experiment.settings.ablation_items)
    scores = scorer.score_each([None, *(edit for *_, edit in cases)])
    method, heads, draw, dose, _ = zip(*cases, strict=True)
    return DosedScores(
        np.array([each.correct for each in scores]), np.array([each.log_prob for each in scores]),
        np.array(method), np.array(heads), np.array(draw), np.array(dose, dtype=float),
        scorer.index["function"].to_numpy().astype(str), scorer.index["group_id"].to_numpy().astype(str),
    )  # fmt: skip


@result()
def dose_response(experiment: Experiment, dosed: DosedScores) -> pd.DataFrame:
    """Change of spatial and of other steps at every dose, random heads and directions a mean over their draws.

    Columns: method, heads, dose (how many heads are ablated, the factor, the strength), steps, n, delta_log_prob with
    low and high, change of accuracy with change_low and change_high (95 % over scenes).
    """
    rows = []
    for (method, heads, dose), cases in _cases(dosed).groupby(["method", "heads", "dose"], sort=False):
        numbers = cases.index.to_numpy() + 1
        delta = (dosed.log_prob[numbers] - dosed.log_prob[0]).mean(0)
        gained = (dosed.correct[numbers].astype(float) - dosed.correct[0]).mean(0)
        for steps, names in GROUPS.items():
            own = np.isin(dosed.function, names)
            ends = clustered_mean(delta[own], dosed.group[own]), clustered_share(gained[own], dosed.group[own], -1)
            columns = ("delta_log_prob", "low", "high", "change", "change_low", "change_high")
            row = {"method": method, "heads": heads, "dose": dose, "steps": steps, "n": int(own.sum())}
            rows.append(row | dict(zip(columns, sum(ends, ()), strict=True)))
    return pd.DataFrame(rows)


@result()
def dose_trends(experiment: Experiment, dosed: DosedScores) -> pd.DataFrame:
    """Does the effect on spatial steps grow with the dose? The slope of the change of log-probability against the dose
    (the logarithm to base 2 of how many heads are ablated, the factor less 1, the strength), through nothing at no
    edit, within each scene; and how it differs from that of random heads and directions, scene by scene.

    Columns: method, against (nothing, or what is random), slope with low, high and p (sign flips over scenes), scenes.
    """
    cases, own = _cases(dosed), np.isin(dosed.function, SPATIAL)
    scenes, code = np.unique(dosed.group[own], return_inverse=True)
    delta = (dosed.log_prob[1:] - dosed.log_prob[0])[:, own]  # (doses, steps)
    by_scene = np.array([np.bincount(code, row) for row in delta]) / np.bincount(code)  # (doses, scenes)
    rows = []
    for method, some in cases.groupby("method", sort=False):
        slopes = {}
        for heads, part in some.groupby("heads", sort=False):
            x = {"ablate": np.log2(1 + part["dose"]), "scale": part["dose"] - 1, "steer": part["dose"]}[method]
            x = x.to_numpy()[:, None]
            slopes[heads] = (x * by_scene[part.index]).sum(0) / (x**2).sum()  # (scenes,)
        nothing = np.zeros(len(scenes))
        for heads, other in (("nothing", nothing), *((h, s) for h, s in slopes.items() if h != SPATIAL_HEADS)):
            slope, low, high, p = paired_difference(slopes[SPATIAL_HEADS], other, scenes)
            rows.append({"method": method, "against": heads, "slope": slope, "low": low, "high": high, "p": p,
                         "scenes": len(scenes)})  # fmt: skip
    return pd.DataFrame(rows)


@result(splits=(SELECTION, TEST), needs={"activations": activations[SELECTION]}, gpu=True)
def side_effects(
    experiment: Experiment,
    rankings: Rankings,
    activations: HeadActivations,
    scaled: pd.DataFrame,
    steered: pd.DataFrame,
) -> pd.DataFrame:
    """What ablating the spatial heads, and emphasising them at the strengths tuned on B, does to all functions' steps
    on some items of C, with pictures and without; see ``models.collateral.side_effects``."""
    from cogvsr_utils.models import collateral
    from cogvsr_utils.models.head_edits import mask, scale, steer

    heads = spatial_heads(rankings)
    edits = {"ablate": mask(heads), "scale": scale(heads, tuned_strength(scaled))}
    if len(steered):
        edits["steer"] = steer(heads, spatial_directions(activations, heads), tuned_strength(steered))
    some = some_items(experiment, TEST, experiment.settings.ablation_items)
    return collateral.side_effects(experiment.vlm, some, edits)


DOSES = (dose_response, dose_trends, side_effects)


def _cases(dosed: DosedScores) -> pd.DataFrame:
    return pd.DataFrame({"method": dosed.method, "heads": dosed.heads, "draw": dosed.draw, "dose": dosed.dose})
