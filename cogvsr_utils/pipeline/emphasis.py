"""Do spatial steps gain where spatial heads are emphasised? Scaled up, or steered towards right answers.

scaled, steered       the spatial heads: strength tuned on B, its effect on C
emphasis_controls     the same strength on harder questions, beside other heads, random directions, the opposite sign
beside_controls(...)  the same on any items
"""

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.accuracy import compare
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.splits import SELECTION, TEST, TUNING
from cogvsr_utils.functions import SPATIAL
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import activations, answers
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings, top_heads_by
from cogvsr_utils.pipeline.store import result

SCALES = (1.25, 1.5, 2.0)
STRENGTHS = (0.5, 1.0, 2.0)
TUNED = {"tuning": answers[TUNING], "test": answers[TEST]}
HARD = "hard"
DRAWS = 3  # of random heads and random directions


@result(splits=(TUNING, TEST), needs=TUNED, gpu=True)
def scaled(experiment: Experiment, rankings: Rankings, tuning: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Spatial heads scaled up: the factor is tuned on B, its effect tested on C; see ``_tuned`` for the columns."""
    from cogvsr_utils.models.head_edits import scale

    heads = spatial_heads(rankings)
    return _tuned(experiment, "scale", {factor: scale(heads, factor) for factor in SCALES}, tuning, test)


@result(splits=(TUNING, TEST), needs={"activations": activations[SELECTION], **TUNED}, gpu=True)
def steered(
    experiment: Experiment,
    rankings: Rankings,
    activations: HeadActivations,
    scaled: pd.DataFrame,
    tuning: pd.DataFrame,
    test: pd.DataFrame,
) -> pd.DataFrame:
    """Spatial heads shifted from wrong towards correct answers (directions from A): strength tuned on B, tested on C;
    no row where spatial answers on A are all right or all wrong. Columns as in ``scaled``."""
    from cogvsr_utils.models.head_edits import steer

    heads = spatial_heads(rankings)
    spatial = activations.index["function"].isin(SPATIAL)
    if activations.index.loc[spatial, "correct"].nunique() < 2:  # all right, or all wrong: there is no direction
        return pd.DataFrame(columns=list(scaled.columns))
    vectors = spatial_directions(activations, heads)
    return _tuned(experiment, "steer", {s: steer(heads, vectors, s) for s in STRENGTHS}, tuning, test)


@result(
    splits=(SELECTION, TUNING, HARD), needs={"activations": activations[SELECTION], "answers": answers[HARD]}, gpu=True
)
def emphasis_controls(
    experiment: Experiment,
    rankings: Rankings,
    activations: HeadActivations,
    answers: pd.DataFrame,
    scaled: pd.DataFrame,
    steered: pd.DataFrame,
) -> pd.DataFrame:
    """Emphasis where there is room for it, on the questions that the models find hard, at the strengths tuned on B.

    Only questions about scenes that neither A nor B has. Beside the spatial heads: as many random heads that are not
    among them, and for steering random directions as long as the real ones, of each ``DRAWS`` draws; all heads; and the
    opposite sign (a factor of one over it, or the direction turned round). Columns: those of ``accuracy.compare``,
    method, heads (spatial, other, all), direction (towards right answers, or random; nothing for scaling), strength,
    draw. Where nothing could be steered, nothing is; where no question is left, there are no rows.
    """
    seen = {item.group_id for split in (SELECTION, TUNING) for item in experiment.items(split)}
    items = [item for item in experiment.items(HARD) if item.group_id not in seen]
    before = answers[answers["uid"].isin({item.uid for item in items})]
    return beside_controls(experiment, items, before, rankings, activations, scaled, steered)


def beside_controls(
    experiment: Experiment,
    items: list[Item],
    before: pd.DataFrame,
    rankings: Rankings,
    activations: HeadActivations,
    scaled: pd.DataFrame,
    steered: pd.DataFrame,
) -> pd.DataFrame:
    """Emphasis of the spatial heads and its controls on some items, ``before`` being the judged replies without any; as
    ``emphasis_controls``."""
    from cogvsr_utils.models.answering import answer
    from cogvsr_utils.models.head_edits import scale, steer

    if not items:
        return pd.DataFrame(columns=[*scaled.columns, "heads", "direction", "draw"])
    every, spatial, rng = experiment.vlm.heads.pairs, spatial_heads(rankings), np.random.default_rng(0)
    others = [head for head in every if head not in set(spatial)]
    draws = [("other", n, [others[i] for i in rng.permutation(len(others))[: len(spatial)]]) for n in range(DRAWS)]
    sets = [("spatial", 0, spatial), *draws, ("all", 0, every)]
    factor = tuned_strength(scaled)
    cases = [("scale", name, "", factor, n, scale(heads, factor)) for name, n, heads in sets]
    cases += [("scale", "spatial", "", 1 / factor, 0, scale(spatial, 1 / factor))]
    if len(steered):
        strength = tuned_strength(steered)
        ahead = dict(zip(every, spatial_directions(activations, every), strict=True))
        for name, n, heads in sets:
            edit = steer(heads, [ahead[head] for head in heads], strength)
            cases.append(("steer", name, "towards right", strength, n, edit))
        back = steer(spatial, [ahead[head] for head in spatial], -strength)
        cases.append(("steer", "spatial", "towards right", -strength, 0, back))
        for n in range(DRAWS):
            vectors = [_as_long(rng.normal(size=len(ahead[head])), ahead[head]) for head in spatial]
            cases.append(("steer", "spatial", "random", strength, n, steer(spatial, vectors, strength)))
    frames = []
    for method, name, direction, size, n, edit in cases:
        replies = judge(answer(experiment.vlm, items, edits=edit))
        row = {"method": method, "heads": name, "direction": direction, "strength": size, "draw": n}
        frames.append(compare(replies, before).assign(**row))
    return pd.concat(frames, ignore_index=True)


def spatial_heads(rankings: Rankings, k: int | None = None) -> list[tuple[int, int]]:
    """The first ``k`` heads of both spatial functions by the paper's importance, by default the top tenth, each
    once."""
    sets = top_heads_by(rankings, IMPORTANCE, k or n_top(len(rankings.heads)))
    return list(dict.fromkeys(head for name in SPATIAL for head in sets.of(name)))


def spatial_directions(activations: HeadActivations, heads: list[tuple[int, int]]) -> list[np.ndarray]:
    """From wrong to right answers to spatial steps, (head_dim,) a head; see ``steering.directions``."""
    from cogvsr_utils.models.steering import directions

    index = activations.index
    return directions(activations, heads, index["function"].isin(SPATIAL).to_numpy(), index["correct"].to_numpy())


def tuned_strength(table: pd.DataFrame) -> float:
    """The strength that was best on B."""
    return float(table.loc[table["split"] == TEST, "strength"].iloc[0])


def _as_long(vector: np.ndarray, as_this: np.ndarray) -> np.ndarray:
    return vector * np.linalg.norm(as_this) / np.linalg.norm(vector)


def _tuned(experiment: Experiment, method: str, edits: dict, tuning: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Try each strength on B by spatial steps, then the best on C. Columns: ``accuracy.compare``'s, split, strength,
    method."""
    from cogvsr_utils.models.answering import answer

    def changed(split, edit, before):
        return compare(judge(answer(experiment.vlm, experiment.items(split), edits=edit)), before)

    frames = {s: changed(TUNING, edit, tuning).assign(split=TUNING, strength=s) for s, edit in edits.items()}
    spatial = {s: frame.loc[frame["function"].isin(SPATIAL), "change"].mean() for s, frame in frames.items()}
    if any(np.isnan(change) for change in spatial.values()):
        raise ValueError("split B has no spatial steps; expected some to tune a strength by")
    best = max(spatial, key=spatial.get)
    tested = changed(TEST, edits[best], test).assign(split=TEST, strength=best)
    return pd.concat([*frames.values(), tested], ignore_index=True).assign(method=method)
