"""What do the selected heads do? Ablate them, on split C.

single_ablations[edit]           each head ablated (mask) or mean-ablated (mean) alone, on some items of C
ablated_answers[function]        all of C answered with a function's heads ablated
ablation_matrix                  paired change of every function's accuracy under every function's set
without_strongest                its set without the head that costs most
matched_controls[ranking]        the same of a function's own steps, beside three kinds of random sets; teacher-forced
against_controls(sets)           what comes of it, by kind and function; all_against_controls, over all functions
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.ablations import HeadAblations
from cogvsr_utils.analysis.accuracy import compare
from cogvsr_utils.analysis.matching import KINDS, control_sets, inclusion
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.splits import TEST
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.head_map import HeadMap
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import answers
from cogvsr_utils.pipeline.selection import (
    ABLATION,
    IMPORTANCE,
    Attributions,
    HeadMeans,
    Rankings,
    head_means,
    top_heads_by,
)
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.pipeline.sweeps import ablate_each_head, scorer_of
from cogvsr_utils.stats import clustered_mean, false_discovery_rate, percentile_interval, two_sided_p

C = (TEST,)
EDITS = ("mask", "mean")
PRIMARY = "delta_log_prob"  # the primary outcome: log-probability of the right answer; accuracy beside it


def mean_edits(heads_of: HeadMap, means: HeadMeans) -> Callable:
    """A function of heads that gives the edits which replace each by its mean; ``heads_of`` is a HeadMap."""
    from cogvsr_utils.models.head_edits import mean_ablate

    def edits(heads):
        columns = heads_of.columns(heads)
        return [mean_ablate(heads, [mean[at] for at in columns], scope) for scope, mean in means.by_scope.items()]

    return edits


@result(variants=EDITS, splits=C, needs=lambda edit: {"means": head_means} if edit == "mean" else {}, gpu=True)
def single_ablations(experiment: Experiment, edit: str, means: HeadMeans | None = None) -> HeadAblations:
    """Each head ablated alone on some items of C: masked (×0.001) or replaced by its mean over split A."""
    edits = mean_edits(experiment.vlm.heads, means) if means else None
    return ablate_each_head(experiment, TEST, edits)


MASKED = {"masked": single_ablations["mask"]}
ABLATIONS = MASKED | {"mean_ablated": single_ablations["mean"]}


@result(variants=NAMES, splits=C, gpu=True)
def ablated_answers(experiment: Experiment, function: str, rankings: Rankings, resume: Path) -> pd.DataFrame:
    """Judged replies to all of C with the function's top heads by the paper's importance ablated."""
    from cogvsr_utils.models.answering import answer
    from cogvsr_utils.models.head_edits import mask

    heads = top_heads_by(rankings, IMPORTANCE, n_top(len(rankings.heads))).of(function)
    return judge(answer(experiment.vlm, experiment.items(TEST), edits=mask(heads), resume=resume))


ABLATED = {f"ablated_{number}": ablated_answers[name] for number, name in enumerate(NAMES)}


@result(needs={"answers": answers[TEST], **ABLATED})
def ablation_matrix(experiment: Experiment, answers: pd.DataFrame, rankings: Rankings, **ablated) -> pd.DataFrame:
    """Paired change of every function's accuracy on C with one function's heads ablated; generated answers.

    Columns: those of ``accuracy.compare``, head_set (whose heads), k, method, and q over the whole matrix.
    """
    k = n_top(len(rankings.heads))
    frames = [
        compare(ablated[f"ablated_{number}"], answers).assign(head_set=name, k=k, method="mask")
        for number, name in enumerate(NAMES)
    ]
    matrix = pd.concat(frames, ignore_index=True)
    return matrix.assign(q=false_discovery_rate(matrix["p"]))


@result(splits=C, needs=MASKED, gpu=True)
def without_strongest(
    experiment: Experiment, rankings: Rankings, selection_ablations: HeadAblations, masked: HeadAblations
) -> pd.DataFrame:
    """Is a set's effect that of one head? Teacher-forced change of each function's own steps on C under its whole set,
    under the one head of it that cost most log-probability on A, and under the others.

    Columns: function, n, layer, head (the strongest), whole, strongest, others, each with low and high (95 % over
    scenes).
    """
    from cogvsr_utils.models.head_edits import mask

    sets = top_heads_by(rankings, IMPORTANCE, n_top(len(rankings.heads)))
    scorer, rows = scorer_of(experiment, TEST, experiment.settings.ablation_items), []
    cost = dict(zip(NAMES, selection_ablations.mean_delta_log_prob(np.array(NAMES)), strict=True))  # (heads,) each
    place = {head: number for number, head in enumerate(map(tuple, rankings.heads.tolist()))}
    intact, *alone = masked.correct.astype(float)  # (steps,) each, a head's in the order of the model
    for function in NAMES:
        heads, own = sets.of(function), masked.function == function
        strongest = min(heads, key=lambda head: cost[function][place[head]])
        row = {"function": function, "n": int(own.sum()), "layer": strongest[0], "head": strongest[1]}
        replies = {
            "whole": scorer.score(mask(heads)).correct, "strongest": alone[place[strongest]],
            "others": scorer.score(mask([head for head in heads if head != strongest])).correct,
        }  # fmt: skip
        for name, correct in replies.items():
            row[name], row[f"{name}_low"], row[f"{name}_high"] = clustered_mean(
                (correct - intact)[own], masked.group[own]
            )
        rows.append(row)
    return pd.DataFrame(rows)


@result(variants=(IMPORTANCE, ABLATION), splits=C, gpu=True)
def matched_controls(
    experiment: Experiment, ranking: str, rankings: Rankings, attributions: Attributions
) -> pd.DataFrame:
    """Teacher-forced change of each function's own steps on C: under its top heads (kind "own", set -1), and under
    random sets of the three kinds of ``matching.KINDS``, drawn for all functions at once.

    Columns: kind, function, set, n, k, heads ("layer.head" each), norm (summed output norm), change, delta_log_prob.
    """
    from cogvsr_utils.models.head_edits import mask

    pairs, rows = experiment.vlm.heads.pairs, []
    norm = dict(zip(pairs, attributions.norms, strict=True))
    top = top_heads_by(rankings, ranking, n_top(len(pairs)))
    chosen = {function: top.of(function) for function in NAMES}
    draws = [("own", -1, chosen)]
    for seed, kind in enumerate(KINDS):
        drawn = control_sets(pairs, chosen, experiment.settings.matched_controls, kind, attributions.norms, seed)
        draws += [(kind, number, sets) for number, sets in enumerate(drawn)]
    for function in NAMES:
        scorer = scorer_of(experiment, TEST, experiment.settings.control_items, function)
        own = (scorer.index["function"] == function).to_numpy()
        intact, *scores = scorer.score_each([None, *(mask(sets[function]) for *_, sets in draws)])
        for (kind, number, sets), ablated in zip(draws, scores, strict=True):
            heads = sets[function]
            rows.append({"kind": kind, "function": function, "set": number, "n": int(own.sum()), "k": len(heads),
                         "heads": " ".join(f"{layer}.{head}" for layer, head in heads),
                         "norm": sum(norm[head] for head in heads),
                         "change": ablated.correct[own].mean() - intact.correct[own].mean(),
                         "delta_log_prob": (ablated.log_prob - intact.log_prob)[own].mean()})  # fmt: skip
    return pd.DataFrame(rows)


def against_controls(sets: pd.DataFrame, outcome: str = PRIMARY) -> pd.DataFrame:
    """Each function's heads beside random sets of each kind, from ``matched_controls``, functions in the order of
    ``NAMES``.

    Columns: kind, function, n, k, own (the ``outcome`` under the function's heads), control_mean, control_low,
    control_high (95 % of the controls), sets, p (two-sided: that a control is as far off), distinct, most_frequent,
    overlap (see ``matching.Inclusion``), norm, control_norm. Raises KeyError for another outcome than change and
    delta_log_prob.
    """
    mine, rows = sets[sets["kind"] == "own"].set_index("function"), []
    for kind in KINDS:
        for function in [name for name in NAMES if name in mine.index]:
            controls = sets[(sets["kind"] == kind) & (sets["function"] == function)]
            own, (low, high) = mine.loc[function], percentile_interval(controls[outcome])
            found = inclusion(own["heads"].split(), [each.split() for each in controls["heads"]])
            rows.append({"kind": kind, "function": function, "n": own["n"], "k": own["k"], "own": own[outcome],
                         "control_mean": controls[outcome].mean(), "control_low": low, "control_high": high,
                         "sets": len(controls), "p": two_sided_p(own[outcome], controls[outcome]), **asdict(found),
                         "norm": own["norm"], "control_norm": controls["norm"].mean()})  # fmt: skip
    return pd.DataFrame(rows)


def all_against_controls(sets: pd.DataFrame, outcome: str = PRIMARY) -> pd.DataFrame:
    """The mean over functions of an outcome of ``matched_controls``, one row a kind of control.

    Columns: kind, own (under the functions' heads), mean, low, high (95 % of the draws), sets, p (two-sided). The kind
    that is hardest to tell from the functions' heads comes first: of the largest p, the one whose mean is nearest to
    theirs. A draw replaces all functions' sets at once, so that their overlap counts.
    """
    own, rows = sets.loc[sets["kind"] == "own", outcome].mean(), []
    for kind in KINDS:
        draws = sets[sets["kind"] == kind].groupby("set")[outcome].mean()
        low, high = percentile_interval(draws)
        rows.append({"kind": kind, "own": own, "mean": draws.mean(), "low": low, "high": high, "sets": len(draws),
                     "p": two_sided_p(own, draws)})  # fmt: skip
    table = pd.DataFrame(rows)
    order = table.assign(gap=(table["mean"] - table["own"]).abs()).sort_values(["p", "gap"], ascending=[False, True])
    return table.loc[order.index].reset_index(drop=True)
