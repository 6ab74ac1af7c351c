"""Where this book departs from the paper's protocol, and what each departure changes here.

paper_activations      head features at the answers of A, read as the paper reads them
paper_importance       the joint probe of them, trained as the paper trains it
probe_deviations       the probe with one departure at a time undone
ablation_deviations    spatial heads counted and ablated as the paper does, or as this book does
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from tqdm import tqdm

from cogvsr_utils import paper
from cogvsr_utils.analysis.accuracy import compare
from cogvsr_utils.analysis.joint_probe import FunctionProbe
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.splits import SELECTION, TEST
from cogvsr_utils.functions import SPATIAL
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import activations, answers
from cogvsr_utils.pipeline.selection import IMPORTANCE, A, Rankings, probe_arrays
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import elbow, top_mask

STEPS_AT_ONCE = 32  # of the paper's probe, where its predecessor's code takes one: that would take hours
OPTIMIZER = paper.PROBE | {"standardize": True, "batch_size": STEPS_AT_ONCE}
HERE, LAST, TOGETHER = "as in this book", "at the last position", "these together"  # three cases
BESIDE = f"{LAST}, beside all tokens"


@dataclass(frozen=True)
class Importance:
    """A joint probe's ``functions`` (functions,), its ``importance`` (functions, heads), signed, and its ``accuracy``
    on the steps that it was not fitted on."""

    functions: np.ndarray
    importance: np.ndarray
    accuracy: np.ndarray


@result(splits=A, needs={"answers": answers[SELECTION]}, gpu=True)
def paper_activations(experiment: Experiment, answers: pd.DataFrame, store: Path) -> HeadActivations:
    """Features of every head at the three least expected tokens of each answer of A, where they stand."""
    from cogvsr_utils.models.recording import capture

    return capture(experiment.vlm, experiment.items(SELECTION), store=store, answers=answers, **paper.READING)


@result(splits=A)
def paper_importance(experiment: Experiment, paper_activations: HeadActivations) -> Importance:
    """The joint probe with the paper's tokens, inputs and optimiser, but for steps taken 32 at a time."""
    return _importance(paper_activations, **paper.PROBE | {"batch_size": STEPS_AT_ONCE})


@result(splits=A, needs={"activations": activations[SELECTION]})
def probe_deviations(
    experiment: Experiment,
    activations: HeadActivations,
    paper_activations: HeadActivations,
    paper_importance: Importance,
) -> pd.DataFrame:
    """The joint probe with one departure at a time undone, beside what chance alone changes: another start of the
    network's weights, and other scenes kept out of fitting.

    Columns: case, accuracy (on scenes of A that it was not fitted on), spearman (of its importance with that of this
    book, mean over functions), shared (of the top tenth of the heads, the share that is this book's too), chance (of
    it), elbow_spatial and elbow_others (heads before the elbow, mean over functions), above (share of heads above the
    paper's threshold).
    """
    here = _importance(activations)
    cases = {
        HERE: lambda: here,
        "another start of the weights": lambda: _importance(activations, start=1),
        "other scenes kept out": lambda: _importance(activations, seed=1),
        "the paper's tokens": lambda: _importance(paper_activations),
        "inputs not standardised": lambda: _importance(activations, standardize=False),
        "the paper's optimiser": lambda: _importance(activations, **OPTIMIZER),
        TOGETHER: lambda: paper_importance,
    }
    k, rows = n_top(here.importance.shape[1]), []
    spatial, reference = np.isin(here.functions, SPATIAL), np.abs(here.importance)
    for case, fit in tqdm(cases.items(), desc="deviations"):
        found = fit()
        size = np.abs(found.importance)
        counts = np.apply_along_axis(elbow, 1, size)
        both = top_mask(size, k) & top_mask(reference, k)
        rows.append({
            "case": case, "accuracy": float(found.accuracy),
            "spearman": np.mean([spearmanr(a, b).statistic for a, b in zip(size, reference, strict=True)]),
            "shared": both.sum(1).mean() / k, "chance": k / size.shape[1],
            "elbow_spatial": counts[spatial].mean(), "elbow_others": counts[~spatial].mean(),
            "above": (size > paper.THRESHOLD).mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)


@result(splits=(TEST,), needs={"answers": answers[TEST]}, gpu=True)
def ablation_deviations(
    experiment: Experiment, rankings: Rankings, answers: pd.DataFrame, paper_importance: Importance
) -> pd.DataFrame:
    """All of C answered with the spatial heads ablated: which they are, how many, and at which tokens.

    Columns: those of ``accuracy.compare`` with no ablation, case, heads (how many are ablated), scope (of the edit).
    In the case ``BESIDE`` the same heads are compared in two scopes, ``accuracy_before`` being that with the edit at
    all tokens.
    """
    from cogvsr_utils.models.answering import answer
    from cogvsr_utils.models.head_edits import mask

    here, frames = Importance(rankings.functions, rankings.scores[IMPORTANCE], np.array(np.nan)), []
    tenth, replies = _spatial_heads(here, rankings.heads, n_top(len(rankings.heads))), {}
    cases = {
        HERE: (tenth, "all"),
        "heads before the elbow": (_spatial_heads(here, rankings.heads), "all"),
        LAST: (tenth, paper.SCOPE),
        TOGETHER: (_spatial_heads(paper_importance, rankings.heads), paper.SCOPE),
    }
    for case, (heads, scope) in cases.items():
        replies[case] = judge(answer(experiment.vlm, experiment.items(TEST), edits=mask(heads, scope=scope)))
        frames.append(compare(replies[case], answers).assign(case=case, heads=len(heads), scope=scope))
    frames.append(compare(replies[LAST], replies[HERE]).assign(case=BESIDE, heads=len(tenth), scope=paper.SCOPE))
    return pd.concat(frames, ignore_index=True)


def _importance(activations: HeadActivations, start: int = 0, **options) -> Importance:
    """Importance by the network of start number ``start``, all of which are fitted to the same steps."""
    x, y, groups, layers = probe_arrays(activations)
    probe = FunctionProbe("paper", n_seeds=start + 1, **options).fit(x, y, groups, layers)
    unseen = probe.read_
    return Importance(probe.classes_, probe.importance_by_seed_[start], np.array(probe.score(x[unseen], y[unseen])))


def _spatial_heads(found: Importance, heads: np.ndarray, k: int | None = None) -> list[tuple[int, int]]:
    """The strongest heads of both spatial functions, each once: k of each, or those before its elbow."""
    chosen = {}
    for name in SPATIAL:
        strength = np.abs(found.importance[list(found.functions).index(name)])
        first = np.argsort(-strength, kind="stable")[: k or elbow(strength)]
        chosen |= dict.fromkeys((int(layer), int(head)) for layer, head in heads[first])
    return list(chosen)
