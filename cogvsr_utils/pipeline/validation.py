"""Does the selection find the heads that matter, and what follows? Split A's selection beside split C's
effects.

probe_accuracy          the joint probes on split C
head_table              one row a function and head: A's scores and C's effects, side by side
sparsity                how few heads, how sparse and where, with null and intervals
ranking_quality         how well each ranking predicts what ablating a head does on split C
ranking_tests           is that more than chance, for all rankings at once?
ranking_agreement       does importance agree with other measures of a head?
stability, overlaps     is a function's order of heads stable, and do functions share their first?
set_effects             whole sets ablated: each ranking's, and greedy ones
planted                 signals planted in known heads, every rule
null_models             the pipeline where there is nothing to find
quantization            heads and answers in 4-bit beside full precision
"""

from itertools import product

import numpy as np
import pandas as pd
from tqdm import tqdm

from cogvsr_utils import stats
from cogvsr_utils.analysis import head_scores
from cogvsr_utils.analysis import sparsity as sparsities
from cogvsr_utils.analysis.ablations import HeadAblations
from cogvsr_utils.analysis.head_probes import HeadProbes
from cogvsr_utils.analysis.joint_probe import FunctionProbe
from cogvsr_utils.analysis.text_baselines import text_predictions
from cogvsr_utils.checks import planted as planting
from cogvsr_utils.dataset.splits import SELECTION, TEST
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.ablation import mean_edits
from cogvsr_utils.pipeline.ablation import single_ablations as tested
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import (
    activations,
    answers,
    control_activations,
)
from cogvsr_utils.pipeline.selection import (
    HeadMeans,
    HeadSets,
    JointProbe,
    Rankings,
    SingleProbes,
    StrictProbe,
    top_heads_by,
)
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.pipeline.sweeps import scorer_of

PLANTED_STRENGTHS = (0.25, 0.5, 1.0)
NULL_REPEATS = 25  # times as many repeats where nothing is planted, for the rate of false positives
MASKED = {"masked": tested["mask"]}
ABLATIONS = MASKED | {"mean_ablated": tested["mean"]}


@result(needs={"activations": activations[TEST]})
def probe_accuracy(
    experiment: Experiment, joint_probe: JointProbe, strict_probe: StrictProbe, activations: HeadActivations
) -> pd.DataFrame:
    """Accuracy on split C, whose scenes the probes never saw. Columns: protocol, n, accuracy, ci_low, ci_high
    (Wilson)."""
    x, truth, rows = activations.by_head(), activations.index["function"].to_numpy(), []
    for protocol, fitted in (("paper", joint_probe.fitted), ("strict", strict_probe.fitted)):
        accuracy, low, high = stats.wilson(FunctionProbe.from_arrays(fitted).predict(x) == truth)
        rows.append({"protocol": protocol, "n": len(truth), "accuracy": accuracy, "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows)


@result(needs={"activations": activations[SELECTION], **ABLATIONS})
def head_table(
    experiment: Experiment,
    activations: HeadActivations,
    joint_probe: JointProbe,
    strict_probe: StrictProbe,
    head_probes: SingleProbes,
    masked: HeadAblations,
    mean_ablated: HeadAblations,
) -> pd.DataFrame:
    """Every measure of every function and head; see ``head_scores.COLUMNS``. Scores are A's, effects C's."""
    functions, heads = joint_probe.functions, activations.heads.table
    low, high = stats.percentile_interval(
        stats.bootstrap_means(masked.delta_log_prob.T, masked.function, masked.group, 1000)
    )
    test = stats.max_t_test(head_probes.strength, head_probes.null)
    stable = stats.ranking_stability(strict_probe.bootstrap, n_top(len(heads)), n_pairs=1)
    measures = {
        "importance": joint_probe.importance, "auroc": head_probes.auroc, "gain": head_probes.gain,
        "selected": stable.selected, "binary_accuracy": head_probes.binary_accuracy,
        "selectivity": head_probes.accuracy - head_probes.control_accuracy,
        "p": test.p, "p_max": test.p_max, "q": test.q,
        "effect": masked.mean_delta_log_prob(functions), "effect_low": low, "effect_high": high,
        "effect_mean": mean_ablated.mean_delta_log_prob(functions),
        "effect_accuracy": masked.mean_delta_correct(functions),
        "effect_p_max": stats.sign_flip_test(masked.delta_correct.T, masked.function, masked.group).p_max,
    }  # fmt: skip
    return head_scores.head_table(heads, functions, measures)


@result(needs={"activations": activations[SELECTION], **MASKED})
def sparsity(
    experiment: Experiment,
    activations: HeadActivations,
    joint_probe: JointProbe,
    head_probes: SingleProbes,
    masked: HeadAblations,
) -> pd.DataFrame:
    """Statistics and counts of each function's heads; see ``sparsity.scarcity``, ``head_counts``,
    ``ablation_counts``."""
    functions = joint_probe.functions.tolist()
    layers = activations.heads.table["layer"].to_numpy()
    tables = [
        sparsities.scarcity(joint_probe.importance, joint_probe.null, joint_probe.bootstrap, functions, layers),
        sparsities.head_counts(head_probes.strength, head_probes.null, head_probes.bootstrap, functions),
        sparsities.ablation_counts(masked, functions),
    ]
    return pd.concat(tables, ignore_index=True)


@result(needs=MASKED)
def spatial_differences(
    experiment: Experiment, joint_probe: JointProbe, strict_probe: StrictProbe, masked: HeadAblations
) -> pd.DataFrame:
    """Are spatial heads scarcer than others? By statistic and reading: "as it is" (the paper's probe), "stratified"
    (the strict probe on stratified steps) and "strict" (heads whose ablation costs accuracy); see
    ``spatial_difference``."""
    functions = joint_probe.functions
    readings = {"as it is": joint_probe.bootstrap, "stratified": strict_probe.stratified}
    tables = [sparsities.spatial_difference(draws, functions).assign(reading=name) for name, draws in readings.items()]
    tables[1]["n"] = int(strict_probe.n_stratified)
    tables.append(sparsities.ablation_difference(masked, functions).assign(reading="strict"))
    return pd.concat(tables, ignore_index=True)


@result(needs=MASKED)
def thresholds(experiment: Experiment, joint_probe: JointProbe, masked: HeadAblations) -> pd.DataFrame:
    """How many heads pass under several thresholds; see ``sparsity.threshold_counts``."""
    return sparsities.threshold_counts(joint_probe.importance, masked, joint_probe.functions)


@result(needs=ABLATIONS)
def ranking_quality(
    experiment: Experiment, rankings: Rankings, masked: HeadAblations, mean_ablated: HeadAblations
) -> pd.DataFrame:
    """Each ranking against the measured effect of ablating each head on C, by function, with intervals over scenes.

    Columns: ranking, function, edit (``mask`` or ``mean``), k, precision (of the ranking's top k heads, the share among
    the k whose ablation costs most), its low and high, chance (k over the number of heads), spearman with low and high.
    """
    functions, top, rows = rankings.functions, n_top(len(rankings.heads)), []
    for edit, ablations in (("mask", masked), ("mean", mean_ablated)):
        cost = -ablations.mean_delta_log_prob(functions)  # (functions, heads)
        resampled = stats.bootstrap_means(-ablations.delta_log_prob.T, ablations.function, ablations.group, 500)
        places = stats.descending_places(np.concatenate([cost[None], resampled]))  # (1 + draws, functions, heads)
        for name, scores in rankings.scores.items():
            for f, function in enumerate(functions):
                order, ranks = np.argsort(-scores[f], kind="stable"), pd.Series(scores[f]).rank().to_numpy()
                spearman = [np.corrcoef(ranks, -draw)[0, 1] if ranks.std() else np.nan for draw in places[:, f]]
                for k in (max(1, top // 2), top, 2 * top):
                    precision = (places[:, f, order[:k]] < k).mean(1)
                    rows.append({"ranking": name, "function": function, "edit": edit, "k": k,
                                 "chance": k / len(order), **_interval("precision", precision),
                                 **_interval("spearman", spearman)})  # fmt: skip
    return pd.DataFrame(rows)


@result(needs=MASKED)
def ranking_tests(experiment: Experiment, rankings: Rankings, masked: HeadAblations, n: int = 2000) -> pd.DataFrame:
    """Does a ranking predict more than chance, in the mean over functions? Columns: ranking, precision and spearman
    (top ``n_top`` heads, masked on C), and p_precision and p_spearman.

    The null shuffles the heads of all rankings and functions alike, so that what functions share stays shared; a p is
    the share of shuffles in which the best of all rankings does as well, so it covers all of them at once.
    """
    cost = -masked.mean_delta_log_prob(rankings.functions)
    k, n_heads, rng = n_top(cost.shape[1]), cost.shape[1], np.random.default_rng(0)
    best, order = stats.top_mask(cost, k), _standard_ranks(cost)
    shuffles = np.stack([np.arange(n_heads), *(rng.permutation(n_heads) for _ in range(n))])
    table = pd.DataFrame({"ranking": list(rankings.scores)})
    tops = [stats.top_mask(scores, k).astype(float) for scores in rankings.scores.values()]
    ranks = [_standard_ranks(scores) for scores in rankings.scores.values()]
    for measure, values, truth in (("precision", tops, best * n_heads / k), ("spearman", ranks, order)):
        draws = np.array([[(own[:, to] * truth).mean() for to in shuffles] for own in values])
        table[measure] = draws[:, 0]
        highest = draws[:, 1:].max(0)
        table[f"p_{measure}"] = (1 + (highest >= draws[:, :1] - 1e-9).sum(1)) / (1 + n)
    return table


@result()
def ranking_agreement(experiment: Experiment, head_table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation over heads of the paper's importance (absolute value) with each head's own AUROC
    (``with_auroc``), and with what ablating it costs on C (``with_cost``), by function."""
    return pd.DataFrame(
        {"function": name, "with_auroc": part["importance"].abs().corr(part["auroc"], method="spearman"),
         "with_cost": part["importance"].abs().corr(-part["effect"], method="spearman")}
        for name, part in head_table.groupby("function")
    )  # fmt: skip


@result()
def stability(experiment: Experiment, joint_probe: JointProbe, strict_probe: StrictProbe) -> pd.DataFrame:
    """How much two draws of seed and scenes agree on the heads of a function, by the strict probe; see
    ``stats.ranking_stability``. Columns: function, k, jaccard, tau, chance."""
    k = n_top(strict_probe.bootstrap.shape[2])
    found = stats.ranking_stability(strict_probe.bootstrap, k)
    table = pd.DataFrame({"function": joint_probe.functions, "jaccard": found.jaccard, "tau": found.tau})
    return table.assign(k=k, chance=found.chance)


@result()
def overlaps(experiment: Experiment, joint_probe: JointProbe, head_table: pd.DataFrame) -> pd.DataFrame:
    """How much the top heads of every two functions overlap; see ``sparsity.overlap``."""
    k = n_top(joint_probe.importance.shape[1])
    return sparsities.overlap(head_table, k, joint_probe.bootstrap, joint_probe.functions.tolist())


@result(splits=(TEST,), needs=ABLATIONS, gpu=True)
def set_effects(
    experiment: Experiment,
    rankings: Rankings,
    greedy_sets: HeadSets,
    head_means: HeadMeans,
    masked: HeadAblations,
    mean_ablated: HeadAblations,
) -> pd.DataFrame:
    """Change on C when whole sets of heads are ablated, all selected on A: the first k of each ranking, and greedy
    sets.

    Columns: set, edit, k; change (accuracy of each function's steps under its own set), elsewhere (of the same steps
    under the other functions' sets), specific (their difference: 0 for a set that is the same for all), each a mean
    over functions; low and high of change and specific (95 % over scenes); delta_log_prob (own set) and singles (the
    same heads ablated one by one, added up).
    """
    from cogvsr_utils.models.interventions import mask

    vlm, functions = experiment.vlm, rankings.functions.tolist()
    k, number = n_top(len(vlm.heads)), {head: i for i, head in enumerate(vlm.heads.pairs)}
    edits = {"mask": mask, "mean": mean_edits(vlm.heads, head_means)}
    alone = {"mask": masked.mean_delta_log_prob(functions), "mean": mean_ablated.mean_delta_log_prob(functions)}
    sets = {name: top_heads_by(rankings, name, k) for name in rankings.scores} | {"greedy on split A": greedy_sets}
    scorer = scorer_of(experiment, TEST, experiment.settings.ablation_items)
    label, groups = scorer.index["function"].to_numpy(), scorer.index["group_id"]
    intact, diagonal, rows = scorer.score(), np.eye(len(functions), dtype=bool), []
    for (name, chosen), edit in tqdm(list(product(sets.items(), edits)), desc="whole sets"):
        scores = [scorer.score(edits[edit](chosen.of(function))) for function in functions]
        change = np.array([each.correct.astype(float) - intact.correct for each in scores]).T  # (steps, sets)
        delta = np.array([each.log_prob - intact.log_prob for each in scores]).T
        resampled = stats.bootstrap_means(change, label, groups, 1000)  # (draws, functions, sets)
        own, other = resampled[:, diagonal].mean(1), resampled[:, ~diagonal].mean(1)
        means_of, deltas = (np.stack([x[label == f].mean(0) for f in functions]) for x in (change, delta))
        singles = [alone[edit][f, [number[h] for h in chosen.of(name)]].sum() for f, name in enumerate(functions)]
        rows.append({
            "set": name, "edit": edit, "change": means_of[diagonal].mean(), "elsewhere": means_of[~diagonal].mean(),
            "delta_log_prob": deltas[diagonal].mean(), **_ends(own), **_ends(own - other, "specific_"),
            "singles": np.mean(singles),
        })  # fmt: skip
    table = pd.DataFrame(rows).assign(k=k)
    return table.assign(specific=table["change"] - table["elsewhere"])


@result(splits=(SELECTION,), needs={"activations": activations[SELECTION]})
def planted(experiment: Experiment, activations: HeadActivations) -> pd.DataFrame:
    """Trials with signals planted in the activations of split A, labels shuffled within the step index; see
    ``checks.planted.trials``."""
    n, index = experiment.settings.planted, activations.index
    return planting.trials(
        activations.by_head(), index["function"].to_numpy(), index["group_id"].to_numpy(), index["step"].to_numpy(),
        activations.heads.table["layer"].to_numpy(), {0.0: NULL_REPEATS * n} | dict.fromkeys(PLANTED_STRENGTHS, n),
    )  # fmt: skip


@result(
    splits=(SELECTION,),
    needs={"activations": activations[SELECTION], "untrained": control_activations["untrained"]},
)
def null_models(
    experiment: Experiment,
    activations: HeadActivations,
    untrained: HeadActivations,
    joint_probe: JointProbe,
    head_probes: SingleProbes,
) -> pd.DataFrame:
    """How many pairs of function and head each rule selects here, in a model of random weights, and with labels
    shuffled within the step index; columns case, rule, selected, of."""
    index, rng = activations.index, np.random.default_rng(0)
    shuffled = index.assign(function=stats.shuffle_within(index["function"], index["step"], rng))
    items, n = experiment.items(SELECTION), experiment.settings.permutations
    cases = {
        "this model": (joint_probe.importance, head_probes.strength, head_probes.null),
        "untrained model": _scores(items, n, untrained, untrained.index),
        "shuffled labels": _scores(items, n, activations, shuffled),
    }
    rows = []
    for case, (importance, strength, null) in cases.items():
        test = stats.max_t_test(strength, null)
        counts = {
            "elbow (paper)": sum(stats.elbow(row) for row in importance),
            "FDR": int((test.q < stats.ALPHA).sum()),
            "max-T (strict)": int((test.p_max < stats.ALPHA).sum()),
        }
        rows += [{"case": case, "rule": rule, "selected": n, "of": importance.size} for rule, n in counts.items()]
    return pd.DataFrame(rows)


@result(needs={"activations": activations[SELECTION], "answers": answers[TEST]})
def quantization(
    experiment: Experiment,
    activations: HeadActivations,
    four_bit_activations: HeadActivations,
    head_probes: SingleProbes,
    answers: pd.DataFrame,
    four_bit_answers: pd.DataFrame,
) -> pd.DataFrame:
    """The same weights in 4-bit beside full precision: heads on the same chats of A, answers to C. Columns: measure,
    value.

    Cosines are over the steps of A, of each head's features less their mean; rank correlations over heads, of AUROC.
    """
    index, packed = four_bit_activations.index, four_bit_activations.by_head()
    x, y = (each - each.mean(0) for each in (activations.by_head(), packed))
    cosine = (x * y).sum((0, 2)) / np.sqrt((x**2).sum((0, 2)) * (y**2).sum((0, 2)))  # (heads,)
    probes = HeadProbes().fit(packed, index["function"], index["group_id"])
    pairs = zip(probes.auroc_, head_probes.auroc, strict=True)
    order = [pd.Series(one).corr(pd.Series(other), method="spearman") for one, other in pairs]
    rows = [
        ("cosine of a head, least", cosine.min()),
        ("cosine of a head, median", np.median(cosine)),
        ("rank correlation of heads, least of the functions", min(order)),
        ("rank correlation of heads, median", np.median(order)),
        ("share of answers that differ", (answers["prediction"] != four_bit_answers["prediction"]).mean()),
        ("accuracy of all answers", answers["correct"].mean()),
        ("accuracy of all answers in 4-bit", four_bit_answers["correct"].mean()),
    ]
    return pd.DataFrame(rows, columns=["measure", "value"])


def _scores(items, permutations: int, activations: HeadActivations, index):
    """The joint probe's importance, and each head's strength above the text with its null."""
    x, y, groups = activations.by_head(), index["function"].to_numpy(), index["group_id"].to_numpy()
    offset = text_predictions(items, index)
    above = HeadProbes().fit(x, y, groups, offset=offset)
    null = above.permuted(x, y, groups, index["step"], permutations, offset=offset)
    importance = FunctionProbe("paper").fit(x, y, groups, activations.heads.table["layer"].to_numpy()).importance_
    return importance, above.strength_, null


def _standard_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks in each row, less their mean, over their spread; 0 where all are alike."""
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=1) - (values.shape[1] + 1) / 2
    return ranks / np.maximum(ranks.std(1, keepdims=True), 1e-9)


def _interval(name: str, draws) -> dict[str, float]:
    return {name: float(draws[0]), **_ends(draws[1:], f"{name}_")}


def _ends(draws, prefix: str = "") -> dict[str, float]:
    low, high = stats.percentile_interval(draws)
    return {f"{prefix}low": low, f"{prefix}high": high}
