"""Steps that get harder by where the camera stands, and what emphasis does where spatial ones are half right.

camera_accuracy       accuracy by how far aside the camera stands: the same questions, the same answers
half_right(...)       the camera from which spatial steps are nearest to 60 % right
camera_emphasis       emphasis and its controls from there
camera_gains          what emphasis does to right answers' probability there, beside many random heads and directions
"""

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.accuracy import compare
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.splits import SELECTION, TEST, TUNING
from cogvsr_utils.dataset.synth.cameras import SHIFTS, from_aside
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.emphasis import beside_controls, spatial_directions, spatial_heads, tuned_strength
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.recordings import activations
from cogvsr_utils.pipeline.selection import Rankings
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import clustered_mean, clustered_share, single_case_p, two_sided_p

OWN, OTHER, ALL, THIN = "spatial heads", "random heads", "all heads", "all heads, same total"
HALF_RIGHT = 0.6  # the middle of 50 to 70 %


@result(splits=(TUNING, TEST), gpu=True)
def camera_accuracy(experiment: Experiment) -> pd.DataFrame:
    """Steps and main questions of B and C as cameras further and further aside show their scenes.

    Columns: split, shift (board squares), function, n, accuracy with low and high (95 % over scenes), and the paired
    change from the camera in the middle with change_low, change_high and p.
    """
    from cogvsr_utils.models.answering import answer

    frames = []
    for split in (TUNING, TEST):
        seen = from_aside(experiment.items(split))
        replies = {shift: judge(answer(experiment.vlm, items)) for shift, items in seen.items()}
        for shift, judged in replies.items():
            changed = compare(judged, replies[SHIFTS[0]]).set_index("function")
            for function, part in judged.groupby("function"):
                accuracy, low, high = clustered_share(part["correct"].astype(float), part["group_id"], lowest=0)
                own = changed.loc[function]
                frames.append({
                    "split": split, "shift": shift, "function": function, "n": len(part),
                    "accuracy": accuracy, "low": low, "high": high, "change": own["change"],
                    "change_low": own["ci_low"], "change_high": own["ci_high"], "p": own["p"],
                })  # fmt: skip
    return pd.DataFrame(frames)


def half_right(accuracy: pd.DataFrame) -> float:
    """The shift at which steps of spatial perception on B are nearest to 60 % right, from ``camera_accuracy``."""
    tuning = accuracy[(accuracy["split"] == TUNING) & (accuracy["function"] == SPATIAL[0])]
    return float(tuning.set_index("shift")["accuracy"].sub(HALF_RIGHT).abs().idxmin())


@result(splits=(SELECTION, TUNING, TEST), needs={"activations": activations[SELECTION]}, gpu=True)
def camera_emphasis(
    experiment: Experiment,
    rankings: Rankings,
    activations: HeadActivations,
    scaled: pd.DataFrame,
    steered: pd.DataFrame,
    camera_accuracy: pd.DataFrame,
) -> pd.DataFrame:
    """Emphasis and its controls on C from the camera that ``half_right`` chooses on B; columns as in
    ``emphasis.emphasis_controls``."""
    from cogvsr_utils.models.answering import answer

    items = from_aside(experiment.items(TEST))[half_right(camera_accuracy)]
    before = judge(answer(experiment.vlm, items))
    return beside_controls(experiment, items, before, rankings, activations, scaled, steered)


@result(splits=(SELECTION, TUNING, TEST), needs={"activations": activations[SELECTION]}, gpu=True)
def camera_gains(
    experiment: Experiment,
    rankings: Rankings,
    activations: HeadActivations,
    scaled: pd.DataFrame,
    steered: pd.DataFrame,
    camera_accuracy: pd.DataFrame,
) -> pd.DataFrame:
    """Steps of C from the camera that ``half_right`` chooses on B, teacher-forced, with the spatial heads scaled at all
    tokens, and moved at those that predict answers, at the strengths tuned on B.

    Beside them, at the same strength: as many random heads that are not among them, and for steering random directions
    as long, as many draws as the profile has random sets; all heads; all heads at a strength so much smaller that its
    sum over heads is the same; and the opposite sign. Columns: method (scale, steer), heads, direction (towards right,
    random, back; nothing for scaling up), strength, draws, function, n, right (the share right without edits),
    delta_log_prob with low and high and the change of the share right with change_low and change_high (95 % over
    scenes; of random ones the means over draws), and for these, that the spatial heads are one of them, p
    (``stats.single_case_p``) and p_place (by their place among the draws, which cannot be small where these are few),
    both two-sided.
    """
    from cogvsr_utils.models.head_edits import scale
    from cogvsr_utils.models.patching import move_heads
    from cogvsr_utils.models.scorer import TeacherForcedScorer

    items = from_aside(experiment.items(TEST))[half_right(camera_accuracy)]
    every, spatial = experiment.vlm.heads.pairs, spatial_heads(rankings)
    ahead = dict(zip(every, spatial_directions(activations, every), strict=True)) if len(steered) else {}
    strengths = {"scale": tuned_strength(scaled)} | ({"steer": tuned_strength(steered)} if ahead else {})
    cases = list(_emphases(every, spatial, ahead, strengths, experiment.settings.random_sets))
    scorer = TeacherForcedScorer(experiment.vlm, items)
    scaling, moving = ([case for case in cases if case[0] == method] for method in ("scale", "steer"))
    intact, *after = scorer.score_each([None, *(scale(heads, factor) for *_, factor, heads in scaling)])
    after += move_heads(scorer, [vectors for *_, vectors in moving])
    function, group = (scorer.index[name].to_numpy().astype(str) for name in ("function", "group_id"))
    described = pd.DataFrame([case[:-1] for case in cases], columns=["method", "heads", "direction", "strength"])
    rows = []
    for key, some in described.groupby(list(described), sort=False):
        gains = np.array([after[number].log_prob - intact.log_prob for number in some.index])  # (draws, steps)
        right = np.array([after[number].correct.astype(float) - intact.correct for number in some.index])
        own_gains = after[_own_case(described, key[0])].log_prob - intact.log_prob
        for name in NAMES:
            steps = function == name
            if not steps.any():
                continue
            ends = (*clustered_mean(gains.mean(0)[steps], group[steps]),
                    *clustered_share(right.mean(0)[steps], group[steps], lowest=-1))  # fmt: skip
            row = dict(zip(described, key, strict=True)) | {"draws": len(some), "function": name, "n": int(steps.sum()),
                                                            "right": intact.correct[steps].mean()}  # fmt: skip
            columns = ("delta_log_prob", "low", "high", "change", "change_low", "change_high")
            row |= dict(zip(columns, ends, strict=True))
            if len(some) > 1:
                drawn, own = gains[:, steps].mean(1), own_gains[steps].mean()
                row |= {"p": single_case_p(own, drawn), "p_place": two_sided_p(own, drawn)}
            rows.append(row)
    return pd.DataFrame(rows, columns=[*rows[0], "p", "p_place"])


def _own_case(described: pd.DataFrame, method: str) -> int:
    """The number of the case that the others stand beside: the spatial heads, first of their method."""
    return int(described.index[described["method"] == method][0])


def _emphases(every: list, spatial: list, ahead: dict, strengths: dict[str, float], n_draws: int):
    """What ``camera_gains`` compares: (method, heads, direction, strength, and the heads to scale by it, or the vector
    of each head that is moved), scaling first, and the spatial heads first of each method."""
    from cogvsr_utils.models.steering import random_directions

    rest, rng = [head for head in every if head not in set(spatial)], np.random.default_rng(0)
    others = [[rest[i] for i in rng.permutation(len(rest))[: len(spatial)]] for _ in range(n_draws)]
    thin = len(spatial) / len(every)  # a head's part of the strength where all heads share the sum
    sets = [(OWN, spatial), *((OTHER, some) for some in others), (ALL, every)]
    factor = strengths["scale"]
    for name, heads in sets:
        yield "scale", name, "", factor, heads
    yield "scale", THIN, "", 1 + (factor - 1) * thin, every
    yield "scale", OWN, "back", 1 / factor, spatial
    if "steer" not in strengths:
        return
    strength, right, own = strengths["steer"], "towards right", [ahead[head] for head in spatial]
    for name, heads in sets:
        yield "steer", name, right, strength, {head: strength * ahead[head] for head in heads}
    yield "steer", THIN, right, strength * thin, {head: strength * thin * ahead[head] for head in every}
    yield "steer", OWN, "back", -strength, {head: -strength * ahead[head] for head in spatial}
    for draw in range(n_draws):
        vectors = [strength * vector for vector in random_directions(own, seed=draw)]
        yield "steer", OWN, "random", strength, dict(zip(spatial, vectors, strict=True))
