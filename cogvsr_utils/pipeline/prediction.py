"""How well do split A's rankings predict what ablating heads does on split C?

ranking_quality         each ranking beside the measured effect of each head, by function
ranking_tests           is that more than chance, for all rankings at once?
set_effects             whole sets ablated: each ranking's, and greedy ones
"""

from itertools import product

import numpy as np
import pandas as pd

from cogvsr_utils import stats
from cogvsr_utils.analysis.ablations import HeadAblations
from cogvsr_utils.dataset.splits import TEST
from cogvsr_utils.pipeline.ablation import ABLATIONS, MASKED, mean_edits
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.selection import ABLATION, HeadMeans, HeadSets, Rankings, top_heads_by
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.pipeline.sweeps import scorer_of


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

    The null shuffles heads within their layers, so that a ranking by depth alone is no better than chance, and those of
    all rankings and functions alike, so that what functions share stays shared; a p is the share of shuffles in which
    the best of all rankings does as well, so it covers all of them at once.
    """
    cost = -masked.mean_delta_log_prob(rankings.functions)
    k, n_heads, rng = n_top(cost.shape[1]), cost.shape[1], np.random.default_rng(0)
    best, order = stats.top_mask(cost, k), _standard_ranks(cost)
    numbers, layers = np.arange(n_heads), rankings.heads[:, 0]
    shuffles = np.stack([numbers, *(stats.shuffle_within(numbers, layers, rng) for _ in range(n))])
    table = pd.DataFrame({"ranking": list(rankings.scores)})
    tops = [stats.top_mask(scores, k).astype(float) for scores in rankings.scores.values()]
    ranks = [_standard_ranks(scores) for scores in rankings.scores.values()]
    for measure, values, truth in (("precision", tops, best * n_heads / k), ("spearman", ranks, order)):
        draws = np.array([[(own[:, to] * truth).mean() for to in shuffles] for own in values])
        table[measure] = draws[:, 0]
        expected = draws[:, 1:].mean(1, keepdims=True)  # what depth alone gives
        draws -= expected
        highest = draws[:, 1:].max(0)
        table[f"p_{measure}"] = (1 + (highest >= draws[:, :1] - 1e-9).sum(1)) / (1 + n)
    return table


@result(splits=(TEST,), needs=ABLATIONS, gpu=True)
def set_effects(
    experiment: Experiment,
    rankings: Rankings,
    greedy_sets: HeadSets,
    head_means: HeadMeans,
    masked: HeadAblations,
    mean_ablated: HeadAblations,
) -> pd.DataFrame:
    """Change on C when whole sets of heads are ablated, all selected on A: the first tenth of each ranking; greedy
    sets, which are smaller, and as many of the first by single ablation beside them.

    Columns: set, edit, k; change (accuracy of each function's steps under its own set), elsewhere (of the same steps
    under the other functions' sets), specific (their difference: 0 for a set that is the same for all), each a mean
    over functions; low and high of change and specific (95 % over scenes); delta_log_prob (own set) and singles (the
    same heads ablated one by one, added up).
    """
    from cogvsr_utils.models.head_edits import mask

    vlm, functions = experiment.vlm, rankings.functions.tolist()
    k, number = n_top(len(vlm.heads)), {head: i for i, head in enumerate(vlm.heads.pairs)}
    edits = {"mask": mask, "mean": mean_edits(vlm.heads, head_means)}
    alone = {"mask": masked.mean_delta_log_prob(functions), "mean": mean_ablated.mean_delta_log_prob(functions)}
    sets = {name: top_heads_by(rankings, name, k) for name in rankings.scores}
    few = greedy_sets.heads.shape[1]
    sets |= {f"greedy on split A, {few}": greedy_sets, f"{ABLATION}, {few}": top_heads_by(rankings, ABLATION, few)}
    scorer = scorer_of(experiment, TEST, experiment.settings.ablation_items)
    label, groups = scorer.index["function"].to_numpy(), scorer.index["group_id"]
    diagonal, rows = np.eye(len(functions), dtype=bool), []
    for (name, chosen), edit in product(sets.items(), edits):
        intact, *scores = scorer.score_each([None, *(edits[edit](chosen.of(function)) for function in functions)])
        change = np.array([each.correct.astype(float) - intact.correct for each in scores]).T  # (steps, sets)
        delta = np.array([each.log_prob - intact.log_prob for each in scores]).T
        resampled = stats.bootstrap_means(change, label, groups, 1000)  # (draws, functions, sets)
        own, other = resampled[:, diagonal].mean(1), resampled[:, ~diagonal].mean(1)
        means_of, deltas = (np.stack([x[label == f].mean(0) for f in functions]) for x in (change, delta))
        singles = [alone[edit][f, [number[h] for h in chosen.of(name)]].sum() for f, name in enumerate(functions)]
        rows.append({
            "set": name, "edit": edit, "k": chosen.heads.shape[1],
            "change": means_of[diagonal].mean(), "elsewhere": means_of[~diagonal].mean(),
            "delta_log_prob": deltas[diagonal].mean(), **_ends(own), **_ends(own - other, "specific_"),
            "singles": np.mean(singles),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(specific=table["change"] - table["elsewhere"])


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
