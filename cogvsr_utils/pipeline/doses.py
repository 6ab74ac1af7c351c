"""How much of an edit does how much, and at what cost elsewhere.

dosed               C, teacher-forced, with more and more heads ablated, scaled by more, steered further
dose_response       what comes of it, dose by dose
dose_trends         whether more of an edit does more, beside what is random
side_effects        the edits of other pages on all functions' steps, with pictures and without
set_side_effects    each function's heads ablated, on the same
own_divergence      what they do to its own steps beside what others do
DOSES               the tables that a page shows
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.matching import control_sets
from cogvsr_utils.dataset.splits import SELECTION, TEST
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.activation import ATTEND, reading_heads
from cogvsr_utils.pipeline.emphasis import spatial_directions, spatial_heads, tuned_strength
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import activations
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings, top_heads_by
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.pipeline.sweeps import scorer_of, some_items
from cogvsr_utils.stats import (
    clustered_mean,
    clustered_share,
    false_discovery_rate,
    paired_difference,
    single_case_p,
    two_sided_p,
)

SHARES = (0.02, 0.05, 0.1, 0.2)  # of all heads, ablated for each of the two spatial functions
FACTORS = (0.0, 0.5, 2.0, 4.0)
STRENGTHS = (-2.0, -1.0, 1.0, 2.0)
SPATIAL_HEADS, OTHER_HEADS, RANDOM = "spatial heads", "random heads", "random directions"
GROUPS = {"spatial steps": SPATIAL, "other steps": tuple(name for name in NAMES if name not in SPATIAL)}
SIDES = {("ablate", 1): "more heads ablated", ("scale", 1): "scaled up more", ("scale", -1): "scaled down more",
         ("steer", 1): "steered further towards right", ("steer", -1): "steered further away"}  # fmt: skip


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
    along the direction from wrong to right answers (of A), at all tokens. Beside them random heads, as many of each
    layer (``matching.control_sets``, one draw for all doses), and random directions as long; as many draws as the
    profile has random sets. Nothing is steered where spatial answers of A are all right, or wrong."""
    from cogvsr_utils.models.head_edits import mask, scale, steer
    from cogvsr_utils.models.steering import random_directions

    every, spatial = experiment.vlm.heads.pairs, spatial_heads(rankings)
    n_draws = experiment.settings.random_sets
    sizes = dict.fromkeys(max(1, round(share * len(every))) for share in SHARES)
    sets = {f"{k}": spatial_heads(rankings, k) for k in sizes} | {"top": spatial}
    drawn = [(SPATIAL_HEADS, 0, sets)]
    drawn += [(OTHER_HEADS, n, each) for n, each in enumerate(control_sets(every, sets, n_draws, "same layers"))]
    own, ahead = activations.index["function"].isin(SPATIAL), {}
    if activations.index.loc[own, "correct"].nunique() == 2:
        ahead = dict(zip(every, spatial_directions(activations, every), strict=True))
    cases = []
    for kind, draw, each in drawn:
        top = each["top"]
        cases += [("ablate", kind, draw, len(each[f"{k}"]), mask(each[f"{k}"])) for k in sizes]
        cases += [("scale", kind, draw, factor, scale(top, factor)) for factor in FACTORS]
        vectors = [ahead[head] for head in top] if ahead else []
        cases += [("steer", kind, draw, s, steer(top, vectors, s, "all")) for s in STRENGTHS if ahead]
    for draw in range(n_draws if ahead else 0):
        vectors = random_directions([ahead[head] for head in spatial], seed=draw)
        cases += [("steer", RANDOM, draw, s, steer(spatial, vectors, s, "all")) for s in STRENGTHS]
    scorer = scorer_of(experiment, TEST, 2 * experiment.settings.control_items)
    scores = scorer.score_each([None, *(edit for *_, edit in cases)])
    method, heads, draw, dose, _ = zip(*cases, strict=True)
    return DosedScores(
        np.array([each.correct for each in scores]),
        np.array([each.log_prob for each in scores]),
        np.array(method),
        np.array(heads),
        np.array(draw),
        np.array(dose, dtype=float),
        scorer.index["function"].to_numpy().astype(str),
        scorer.index["group_id"].to_numpy().astype(str),
    )


@result()
def dose_response(experiment: Experiment, dosed: DosedScores) -> pd.DataFrame:
    """Change of spatial and of other steps at every dose, random heads and directions a mean over their draws.

    Columns: method, heads, dose (how many heads are ablated, the factor, the strength), steps, draws, n,
    delta_log_prob with low and high, change of accuracy with change_low and change_high (95 % over scenes).
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
            row = {"method": method, "heads": heads, "dose": dose, "steps": steps, "draws": len(cases),
                   "n": int(own.sum())}  # fmt: skip
            rows.append(row | dict(zip(columns, sum(ends, ()), strict=True)))
    return pd.DataFrame(rows)


@result()
def dose_trends(experiment: Experiment, dosed: DosedScores) -> pd.DataFrame:
    """Does more of an edit do more? The slope of the change of spatial steps' log-probability over the doses on one
    side of no edit, with an intercept, so that an effect which is the same at every dose has none: per doubling of the
    heads ablated, per unit of the factor, per standard deviation of the step. Its mean over scenes; and its place
    among the slopes of random heads, and of random directions.

    Columns: side, slope with low, high and p_slope (sign flips over scenes, two-sided, that it is 0), scenes, against
    (what is random), draws, random (the mean of their slopes), p_place (two-sided, that a random one is as far off;
    with few draws it cannot be small), p (that it is one of them, by ``stats.single_case_p``) and q, p's over all rows.
    """
    cases, own = _cases(dosed), np.isin(dosed.function, SPATIAL)
    scenes, code = np.unique(dosed.group[own], return_inverse=True)
    delta = (dosed.log_prob[1:] - dosed.log_prob[0])[:, own]  # (doses, steps)
    by_scene = np.array([np.bincount(code, row) for row in delta]) / np.bincount(code)  # (doses, scenes)
    neutral = cases["method"].map({"ablate": 0.0, "scale": 1.0, "steer": 0.0})
    cases["side"] = np.sign(cases["dose"] - neutral).astype(int)
    cases["x"] = (cases["dose"] - neutral).abs()
    cases.loc[cases["method"] == "ablate", "x"] = np.log2(cases["dose"].where(cases["method"] == "ablate"))
    rows = []
    for key, name in SIDES.items():
        part = cases[(cases["method"] == key[0]) & (cases["side"] == key[1])]
        slopes = {
            each: _slope(some["x"].to_numpy(), by_scene[some.index])
            for each, some in part.groupby(["heads", "draw"], sort=False)
        }
        if (SPATIAL_HEADS, 0) not in slopes:
            continue
        mine = slopes[SPATIAL_HEADS, 0]
        found = dict(
            zip(
                ("slope", "low", "high", "p_slope"), paired_difference(mine, np.zeros(len(scenes)), scenes), strict=True
            )
        )
        for kind in (OTHER_HEADS, RANDOM):
            others = [slope.mean() for (heads, _), slope in slopes.items() if heads == kind]
            if others:
                rows.append({"side": name, **found, "scenes": len(scenes), "against": kind, "draws": len(others),
                             "random": np.mean(others), "p_place": two_sided_p(mine.mean(), others),
                             "p": single_case_p(mine.mean(), others)})  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(q=false_discovery_rate(table["p"]))


def _slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares' slope of each column of ``y`` (doses, scenes) over ``x`` (doses,): (scenes,)."""
    x = x - x.mean()
    return (x[:, None] * y).sum(0) / (x**2).sum()


@result(splits=(SELECTION, TEST), needs={"activations": activations[SELECTION]}, gpu=True)
def side_effects(
    experiment: Experiment,
    rankings: Rankings,
    activations: HeadActivations,
    scaled: pd.DataFrame,
    steered: pd.DataFrame,
) -> pd.DataFrame:
    """What ablating the spatial heads, and emphasising them at the strengths tuned on B, does to all functions' steps
    on some items of C, with pictures and without; see ``models.collateral.side_effects``. Beside them the odds of their
    attention to the picture doubled, where they read it in line with the text, and as many random heads of the same
    layers ablated, one draw (edit ``OTHER_HEADS``)."""
    from cogvsr_utils.models import collateral
    from cogvsr_utils.models.attention_edits import attend
    from cogvsr_utils.models.head_edits import mask, scale, steer

    heads, every = spatial_heads(rankings), experiment.vlm.heads.pairs
    edits = {"ablate": mask(heads), "scale": scale(heads, tuned_strength(scaled))}
    (other,) = control_sets(every, {"spatial": heads}, 1, "same layers")
    edits[OTHER_HEADS] = mask(other["spatial"])
    if len(steered):
        edits["steer"] = steer(heads, spatial_directions(activations, heads), tuned_strength(steered))
    if reading := reading_heads(experiment.vlm, heads):
        edits["attend"] = attend(reading, "add", ATTEND)
    some = some_items(experiment, TEST, experiment.settings.ablation_items)
    return collateral.side_effects(experiment.vlm, some, edits)


@result(splits=(TEST,), gpu=True)
def set_side_effects(experiment: Experiment, rankings: Rankings) -> pd.DataFrame:
    """What ablating each function's top heads by the paper's importance does to all functions' steps on some items of
    C, with pictures and without: columns of ``models.collateral.side_effects``, ``edit`` being the function."""
    from cogvsr_utils.models import collateral
    from cogvsr_utils.models.head_edits import mask

    sets = top_heads_by(rankings, IMPORTANCE, n_top(len(rankings.heads)))
    some = some_items(experiment, TEST, experiment.settings.ablation_items)
    return collateral.side_effects(experiment.vlm, some, {name: mask(sets.of(name)) for name in NAMES})


def own_divergence(table: pd.DataFrame) -> pd.DataFrame:
    """What a function's heads do to its own steps beside what others do, from ``set_side_effects``, with pictures.

    Columns, by function: the divergence ``own`` (own heads, own steps), that of ``other heads`` on own steps and of own
    heads on ``other steps`` (means), and ``beyond``, how much larger the first is than both give together.
    """
    from cogvsr_utils.models.collateral import PICTURES

    asked = table[table["prompts"] == PICTURES].pivot(index="edit", columns="function", values="kl")
    cells = asked.reindex(index=list(NAMES), columns=list(NAMES)).to_numpy().copy()  # (heads of, steps of)
    own = np.diag(cells).copy()
    np.fill_diagonal(cells, np.nan)
    heads, steps, rest = np.nanmean(cells, axis=0), np.nanmean(cells, axis=1), np.nanmean(cells)
    return pd.DataFrame({"own": own, "other heads": heads, "other steps": steps, "beyond": own - heads - steps + rest},
                        index=list(NAMES))  # fmt: skip


DOSES = (dose_response, dose_trends, side_effects, set_side_effects)


def _cases(dosed: DosedScores) -> pd.DataFrame:
    return pd.DataFrame({"method": dosed.method, "heads": dosed.heads, "draw": dosed.draw, "dose": dosed.dose})
