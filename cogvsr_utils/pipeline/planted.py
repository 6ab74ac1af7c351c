"""Models whose heads are known: is the truth what training made it, and which ways of finding heads find it?

planted_effects      what ablating each function's planted heads does, beside as many other heads
planted_parts        what ablating one of them, all but one, and all does to the function's own steps
finder_scores        every way of finding heads beside the truth
preset_scores        importance by the paper's own tokens, inputs and optimiser beside it
planted_sparsity     how sparse the paper's importance says that they are
planted_pairs        which pairs of functions their planted heads tell apart
PLANTED              the results that only a planted model has
"""

import numpy as np
import pandas as pd

from cogvsr_utils import paper
from cogvsr_utils.analysis.sparsity import scarcity
from cogvsr_utils.checks.known_heads import planted_truth, score_heads
from cogvsr_utils.dataset.splits import SELECTION, TEST
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.damage import TRUTH, SetAblations, set_ablations
from cogvsr_utils.pipeline.dissociation import double_dissociations
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.protocol import Importance
from cogvsr_utils.pipeline.recordings import activations
from cogvsr_utils.pipeline.selection import HeadSets, JointProbe, Rankings, SingleProbes, greedy_sets
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.pipeline.sweeps import scorer_of
from cogvsr_utils.stats import ALPHA, clustered_mean, clustered_share, elbow, max_t_test

RANDOM_SETS = 10
PRESET = "importance (paper's preset)"


@result(splits=(TEST,), gpu=True)
def planted_effects(experiment: Experiment) -> pd.DataFrame:
    """Change of every function's steps on C, teacher-forced, with one function's planted heads ablated, and with random
    sets of as many heads that carry nothing.

    Columns: ablated (a function, or "other heads"), set (0, or the number of the random set), k, function, n, change
    of accuracy with low and high (95 % over scenes), delta_log_prob with its own, accuracy before.
    """
    from cogvsr_utils.models.head_edits import mask

    truth = planted_truth(experiment.model)
    scorer = scorer_of(experiment, TEST, 4 * experiment.settings.ablation_items)
    index = scorer.index
    planted = {head for each in truth.heads.values() for head in each}
    free = [head for head in experiment.vlm.heads.pairs if head not in planted]
    k = max(1, max(len(each) for each in truth.heads.values()))
    sets = [(name, 0, heads) for name, heads in truth.heads.items() if heads]
    for number in range(RANDOM_SETS):
        drawn = np.random.default_rng([7, number]).permutation(len(free))[:k]
        sets.append(("other heads", number, [free[i] for i in drawn]))
    rows = []
    intact, *scored = scorer.score_each([None, *(mask(heads) for *_, heads in sets)])
    for (ablated, number, heads), scores in zip(sets, scored, strict=True):
        for function in NAMES:
            own = (index["function"] == function).to_numpy()
            groups = index["group_id"].to_numpy()[own]
            change, low, high = clustered_share(
                scores.correct[own].astype(float) - intact.correct[own], groups, lowest=-1
            )
            delta, delta_low, delta_high = clustered_mean((scores.log_prob - intact.log_prob)[own], groups)
            rows.append({"ablated": ablated, "set": number, "k": len(heads), "function": function, "n": int(own.sum()),
                         "before": intact.correct[own].mean(), "change": change, "low": low, "high": high,
                         "delta_log_prob": delta, "delta_low": delta_low, "delta_high": delta_high})  # fmt: skip
    return pd.DataFrame(rows)


@result(splits=(TEST,), gpu=True)
def planted_parts(experiment: Experiment) -> pd.DataFrame:
    """A function's own steps on C, teacher-forced, with all of its planted heads ablated, with each of them alone, and
    with all but one: whether all are needed (one alone does what all do), or each is enough (all but one do nothing).

    Columns: function, parts ("all", "one", "all but one"), head (the one ablated or spared, as layer.head), k (heads
    ablated), n, before and after (accuracy), majority (the share of the commonest right answer, which is right without
    any knowledge), delta_log_prob with low and high (95 % over scenes). Functions with one head have "all" only.
    """
    from cogvsr_utils.models.head_edits import mask

    truth = planted_truth(experiment.model)
    scorer = scorer_of(experiment, TEST, 4 * experiment.settings.ablation_items)
    sets = []
    for name, heads in truth.heads.items():
        sets += [(name, "all", "", heads)] if heads else []
        for head in heads if len(heads) > 1 else ():
            text = f"{head[0]}.{head[1]}"
            sets += [(name, "one", text, [head]), (name, "all but one", text, [each for each in heads if each != head])]
    right = {(item.uid, n): step.answer for item in experiment.items(TEST) for n, step in enumerate(item.steps)}
    rows = []
    intact, *scored = scorer.score_each([None, *(mask(heads) for *_, heads in sets)])
    for (name, parts, head, heads), scores in zip(sets, scored, strict=True):
        own = (scorer.index["function"] == name).to_numpy()
        part = scorer.index[own]
        found = clustered_mean((scores.log_prob - intact.log_prob)[own], part["group_id"].to_numpy())
        rows.append({"function": name, "parts": parts, "head": head, "k": len(heads), "n": len(part),
                     "before": intact.correct[own].mean(), "after": scores.correct[own].mean(),
                     "majority": pd.Series(zip(part["uid"], part["step"], strict=True)).map(right)
                     .value_counts(normalize=True).max(),
                     **dict(zip(("delta_log_prob", "low", "high"), found, strict=True))})  # fmt: skip
    return pd.DataFrame(rows)


@result(splits=(SELECTION,), needs={"activations": activations[SELECTION], "greedy": greedy_sets})
def finder_scores(
    experiment: Experiment,
    rankings: Rankings,
    network_probe: JointProbe,
    ridge_probes: SingleProbes,
    activations: HeadActivations,
    greedy: HeadSets,
) -> pd.DataFrame:
    """Every way of finding heads beside the planted truth: ``score_heads``'s columns after method.

    Rankings score every head; rules select some: the elbow of the sorted importance, the paper's threshold on it, and
    heads that add to the text (max-T at 5 %).
    """
    truth, pairs = planted_truth(experiment.model), [tuple(map(int, pair)) for pair in rankings.heads]
    order = [list(rankings.functions).index(name) for name in NAMES]
    found = {name: scores[order] for name, scores in rankings.scores.items()}
    importance = np.abs(network_probe.importance)[order]
    found["greedy sets"] = np.array([[pair in greedy.of(name) for pair in pairs] for name in NAMES])
    found["elbow of importance"] = np.stack([_first(row, elbow(row)) for row in importance])
    found["importance above the paper's threshold"] = importance > paper.THRESHOLD
    found["gain over text, max-T"] = (max_t_test(ridge_probes.strength, ridge_probes.null).p_max < ALPHA)[order]
    tables = [score_heads(scores, truth, pairs).assign(method=name) for name, scores in found.items()]
    return pd.concat(tables, ignore_index=True).assign(variant=truth.variant)


@result()
def preset_scores(
    experiment: Experiment, paper_activations: HeadActivations, paper_importance: Importance
) -> pd.DataFrame:
    """Importance by the paper's preset (its tokens, inputs and optimiser; see ``protocol.paper_importance``) beside the
    planted truth; columns as in ``finder_scores``."""
    truth = planted_truth(experiment.model)
    order = [list(paper_importance.functions).index(name) for name in NAMES]
    scores = np.abs(paper_importance.importance)[order]
    return score_heads(scores, truth, paper_activations.heads.pairs).assign(method=PRESET, variant=truth.variant)


@result(needs={"activations": activations[SELECTION]})
def planted_sparsity(experiment: Experiment, activations: HeadActivations, network_probe: JointProbe) -> pd.DataFrame:
    """How sparse the paper's importance is where few heads are known to carry each function; see
    ``sparsity.scarcity``."""
    layers, functions = activations.heads.table["layer"].to_numpy(), network_probe.functions.tolist()
    return scarcity(network_probe.importance, network_probe.null, network_probe.bootstrap, functions, layers)


@result(needs={"set_ablations": set_ablations[TRUTH]})
def planted_pairs(experiment: Experiment, set_ablations: SetAblations) -> pd.DataFrame:
    """``dissociation.double_dissociations`` of the planted heads: every pair of functions, from both sides."""
    return double_dissociations.make(experiment, set_ablations)


PLANTED = (planted_effects, planted_parts, finder_scores, preset_scores, planted_sparsity, planted_pairs)


def _first(values: np.ndarray, n: int) -> np.ndarray:
    """The n largest, boolean."""
    chosen = np.zeros(len(values), dtype=bool)
    chosen[np.argsort(-values)[:n]] = True
    return chosen
