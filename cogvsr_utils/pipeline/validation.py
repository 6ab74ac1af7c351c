"""Does the selection find the heads that matter, and what follows? Split A's selection beside split C's effects.

probe_accuracy          the joint probes on split C
head_table              one row a function and head: A's scores and C's effects, side by side
sparseness              how few heads, how sparse and where, with null and intervals
spatial_differences     spatial functions less the others, in counts of heads and sparseness
function_ranges         how far apart functions are, beside labels that mean nothing
thresholds              how many heads pass the paper's threshold and others; detectable, what a test can find
refitted_spread         how much wider intervals get where the probe is fitted anew
null_curves             sorted importance where labels are permuted
ranking_agreement       does importance agree with other measures of a head?
stability, overlaps     is a function's order of heads stable, and do functions share their first?
planted                 signals planted in known heads, every rule
null_models             the pipeline where there is nothing to find
quantization            heads and answers in 4-bit beside full precision
"""

import numpy as np
import pandas as pd

from cogvsr_utils import stats
from cogvsr_utils.analysis import head_scores, sparsity
from cogvsr_utils.analysis.ablations import HeadAblations
from cogvsr_utils.analysis.head_probes import HeadProbes
from cogvsr_utils.analysis.joint_probe import FunctionProbe
from cogvsr_utils.analysis.text_baselines import text_predictions
from cogvsr_utils.checks import planting
from cogvsr_utils.dataset.splits import SELECTION, TEST
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.ablation import ABLATIONS, MASKED
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import activations, answers, control_activations
from cogvsr_utils.pipeline.selection import JointProbe, Refits, SingleProbes, StrictProbe
from cogvsr_utils.pipeline.store import result

PLANTED_STRENGTHS = (0.25, 0.5, 1.0)
NULL_REPEATS = 25  # times as many repeats where nothing is planted, for the rate of false positives


@result(needs={"activations": activations[TEST]})
def probe_accuracy(
    experiment: Experiment, network_probe: JointProbe, strict_probe: StrictProbe, activations: HeadActivations
) -> pd.DataFrame:
    """Accuracy on split C, whose scenes the probes never saw. Columns: protocol, n, accuracy, ci_low, ci_high (over
    scenes)."""
    x, truth, rows = activations.by_head(), activations.index["function"].to_numpy(), []
    for protocol, fitted in (("paper", network_probe.fitted), ("strict", strict_probe.fitted)):
        right = FunctionProbe.from_arrays(fitted).predict(x) == truth
        accuracy, low, high = stats.clustered_wilson(right, activations.index["group_id"])
        rows.append({"protocol": protocol, "n": len(truth), "accuracy": accuracy, "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows)


@result(needs={"activations": activations[SELECTION], **ABLATIONS})
def head_table(
    experiment: Experiment,
    activations: HeadActivations,
    network_probe: JointProbe,
    strict_probe: StrictProbe,
    ridge_probes: SingleProbes,
    masked: HeadAblations,
    mean_ablated: HeadAblations,
) -> pd.DataFrame:
    """Every measure of every function and head; see ``head_scores.COLUMNS``. Scores are A's, effects C's."""
    functions, heads = network_probe.functions, activations.heads.table
    low, high = stats.percentile_interval(
        stats.bootstrap_means(masked.delta_log_prob.T, masked.function, masked.group, 1000)
    )
    test = stats.max_t_test(ridge_probes.strength, ridge_probes.null)
    stable = stats.ranking_stability(strict_probe.bootstrap, n_top(len(heads)), n_pairs=1)
    measures = {
        "importance": network_probe.importance, "auroc": ridge_probes.auroc, "gain": ridge_probes.gain,
        "selected": stable.selected, "binary_accuracy": ridge_probes.binary_accuracy,
        "selectivity": ridge_probes.accuracy - ridge_probes.control_accuracy,
        "p": test.p, "p_max": test.p_max, "q": test.q,
        "effect": masked.mean_delta_log_prob(functions), "effect_low": low, "effect_high": high,
        "effect_mean": mean_ablated.mean_delta_log_prob(functions),
        "effect_accuracy": masked.mean_delta_correct(functions),
        "effect_p_max": stats.sign_flip_test(masked.delta_correct.T, masked.function, masked.group).p_max,
    }  # fmt: skip
    return head_scores.head_table(heads, functions, measures)


@result(needs={"activations": activations[SELECTION], **MASKED})
def sparseness(
    experiment: Experiment,
    activations: HeadActivations,
    network_probe: JointProbe,
    ridge_probes: SingleProbes,
    masked: HeadAblations,
) -> pd.DataFrame:
    """Statistics and counts of each function's heads; see ``sparsity.scarcity``, ``head_counts``,
    ``ablation_counts``."""
    functions = network_probe.functions.tolist()
    layers = activations.heads.table["layer"].to_numpy()
    tables = [
        sparsity.scarcity(network_probe.importance, network_probe.null, network_probe.bootstrap, functions, layers),
        sparsity.head_counts(ridge_probes.strength, ridge_probes.null, ridge_probes.bootstrap, functions),
        sparsity.ablation_counts(masked, functions),
    ]
    return pd.concat(tables, ignore_index=True)


@result(needs={"activations": activations[SELECTION]})
def refitted_spread(
    experiment: Experiment, activations: HeadActivations, network_probe: JointProbe, refits: Refits
) -> pd.DataFrame:
    """Intervals of the paper's reading over scenes, with one fitted probe and with one fitted to each draw; see
    ``sparsity.refitted_intervals``."""
    layers = activations.heads.table["layer"].to_numpy()
    found = (network_probe.importance, network_probe.bootstrap, refits.importance)
    return sparsity.refitted_intervals(*found, network_probe.functions.tolist(), layers)


@result(needs={"activations": activations[SELECTION]})
def function_ranges(experiment: Experiment, activations: HeadActivations, network_probe: JointProbe) -> pd.DataFrame:
    """Do functions differ, by the paper's importance, by more than labels that mean nothing? See
    ``sparsity.function_ranges``."""
    layers = activations.heads.table["layer"].to_numpy()
    return sparsity.function_ranges(network_probe.importance, network_probe.null, layers)


@result()
def null_curves(experiment: Experiment, network_probe: JointProbe) -> pd.DataFrame:
    """The paper's importance of each function's heads, sorted, as shares of the strongest head's, where every wording
    has the function of another: columns function, place (from 1), fits, low and high (95 % of the fits)."""
    curves = -np.sort(-np.abs(network_probe.null), axis=2)  # (fits, functions, heads)
    low, high = stats.percentile_interval(curves / curves[:, :, :1])  # (functions, heads) each
    return pd.concat(
        [pd.DataFrame({"function": name, "place": np.arange(1, curves.shape[2] + 1), "fits": len(curves),
                       "low": low[f], "high": high[f]}) for f, name in enumerate(network_probe.functions)],
        ignore_index=True,
    )  # fmt: skip


@result(needs=MASKED)
def spatial_differences(
    experiment: Experiment, network_probe: JointProbe, strict_probe: StrictProbe, masked: HeadAblations
) -> pd.DataFrame:
    """Are spatial heads scarcer than others? By statistic and reading: "as it is" (the paper's probe), "stratified"
    (the strict probe on stratified steps) and "strict" (heads whose ablation costs accuracy); see
    ``spatial_difference``. ``n`` steps a function, where they are as many of each."""
    functions = network_probe.functions
    readings = {
        "as it is": (network_probe.importance, network_probe.bootstrap),
        "stratified": (strict_probe.stratified_importance, strict_probe.stratified),
    }
    tables = [sparsity.spatial_difference(*each, functions).assign(reading=name) for name, each in readings.items()]
    if np.isnan(strict_probe.stratified_importance).any():
        tables[1] = tables[1].assign(difference=np.nan, low=np.nan, high=np.nan, scarcer="not tested")
    tables[1]["n"] = int(strict_probe.n_stratified) // len(functions)
    tables.append(sparsity.ablation_difference(masked, functions).assign(reading="strict"))
    return pd.concat(tables, ignore_index=True)


@result(needs=MASKED)
def thresholds(experiment: Experiment, network_probe: JointProbe, masked: HeadAblations) -> pd.DataFrame:
    """How many heads pass under several thresholds; see ``sparsity.threshold_counts``."""
    return sparsity.threshold_counts(network_probe.importance, network_probe.null, masked, network_probe.functions)


@result(needs=MASKED)
def detectable(experiment: Experiment, network_probe: JointProbe, masked: HeadAblations) -> pd.DataFrame:
    """What a head's ablation has to cost at least to be counted; see ``sparsity.smallest_detectable``."""
    return sparsity.smallest_detectable(masked, network_probe.functions.tolist())


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
def stability(experiment: Experiment, network_probe: JointProbe, strict_probe: StrictProbe) -> pd.DataFrame:
    """How much two draws of seed and scenes agree on the heads of a function, by the strict probe; see
    ``stats.ranking_stability``. Columns: function, k, jaccard, tau, chance."""
    k = n_top(strict_probe.bootstrap.shape[2])
    found = stats.ranking_stability(strict_probe.bootstrap, k)
    table = pd.DataFrame({"function": network_probe.functions, "jaccard": found.jaccard, "tau": found.tau})
    return table.assign(k=k, chance=found.chance)


@result()
def overlaps(experiment: Experiment, network_probe: JointProbe, head_table: pd.DataFrame) -> pd.DataFrame:
    """How much the top heads of every two functions overlap; see ``sparsity.overlap``."""
    k = n_top(network_probe.importance.shape[1])
    return sparsity.overlap(head_table, k, network_probe.bootstrap, network_probe.functions.tolist())


@result(splits=(SELECTION,), needs={"activations": activations[SELECTION]})
def planted(experiment: Experiment, activations: HeadActivations) -> pd.DataFrame:
    """Trials with signals planted in the activations of split A, labels shuffled within the step index; see
    ``checks.planting.trials``."""
    n, index = experiment.settings.planted, activations.index
    return planting.trials(
        activations.by_head(),
        index["function"].to_numpy(),
        index["group_id"].to_numpy(),
        index["step"].to_numpy(),
        activations.heads.table["layer"].to_numpy(),
        {0.0: NULL_REPEATS * n} | dict.fromkeys(PLANTED_STRENGTHS, n),
    )


@result(
    splits=(SELECTION,),
    needs={"activations": activations[SELECTION], "untrained": control_activations["untrained"]},
)
def null_models(
    experiment: Experiment,
    activations: HeadActivations,
    untrained: HeadActivations,
    network_probe: JointProbe,
    ridge_probes: SingleProbes,
) -> pd.DataFrame:
    """How many pairs of function and head each rule selects here, in a model of random weights, and with labels
    shuffled within the step index; columns case, rule, selected, of."""
    index, rng = activations.index, np.random.default_rng(0)
    shuffled = index.assign(function=stats.shuffle_within(index["function"], index["step"], rng))
    items, n = experiment.items(SELECTION), experiment.settings.permutations
    cases = {
        "this model": (network_probe.importance, ridge_probes.strength, ridge_probes.null),
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
    ridge_probes: SingleProbes,
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
    pairs = zip(probes.auroc_, ridge_probes.auroc, strict=True)
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
