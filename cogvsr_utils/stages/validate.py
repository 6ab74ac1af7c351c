"""Does the choosing find the heads that matter?

rankings(run)           every way of ranking heads, from split A
ranking_quality(run)    how well each foretells what removing a head does on split C
ranking_tests(run)      is that more than chance, for all rankings at once?
set_effects(run)        whole sets removed: each ranking's, and a greedy one
tops(run, ranking)      the first heads of each function by a ranking
planted(run)            signals planted in known heads, every rule
null_models(run)        the pipeline where there is nothing to find
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
from tqdm import tqdm

from .. import planted as planting
from ..activations import HeadActivations
from ..attribution import gradients, image_attention, output_norms
from ..controls import text_guesses
from ..interventions import mask
from ..probes import FunctionProbe, HeadProbes
from ..stats import elbow, resampled_means, shuffle_within, significance
from . import Run
from .choose import controls, effects, head_probes, mean_edits, mean_effects, probe

PLANTED_STRENGTHS = (0.25, 0.5, 1.0)
NULL_REPEATS = 25  # times as many repeats where nothing is planted, for the rate of false positives
CANDIDATES, GREEDY_STEPS = 8, 5
ABLATIONS = ("mask", "mean")


def rankings(run: Run) -> dict[str, np.ndarray]:
    """How strongly each way of choosing holds each head to serve each function: (classes, heads), larger is stronger."""

    def compute():
        joint, single = probe(run), head_probes(run)
        rehearsal = run.rehearsal("A", run.settings.effect_items)
        norms = output_norms(run.vlm, run.activations("A"))
        return {
            "importance (paper)": np.abs(joint["importance"]),
            "probe of the head alone": single["auroc"].T,
            "CogVision's probe": single["binary_accuracy"].T,
            "gain over text": single["gain"].T,
            "one backward pass": -gradients(rehearsal, joint["classes"]),
            "attention to the picture": image_attention(rehearsal, joint["classes"]),
            "output norm": np.tile(norms, (len(joint["classes"]), 1)),
            "removal on split A": -mean_effects(effects(run, "A"), joint["classes"]),
        }

    return run.arrays("rankings", compute)


def ranking_quality(run: Run) -> pd.DataFrame:
    """Each ranking against the measured effect of ablating each head on C, by function, with intervals over scenes.

    Columns: ranking, function, ablation (``mask`` or ``mean``), k, precision (of the ranking's top k heads, the share among
    the k whose ablation costs most), its low and high, chance (k over the number of heads), spearman with low and high.
    """

    def compute():
        classes, top, rows = probe(run)["classes"], run.n_top, []
        for ablation in ABLATIONS:
            removed = effects(run, "C", ablation)
            change = (removed["log_probability"][0] - removed["log_probability"][1:]).T
            again = resampled_means(change, removed["function"], removed["group"], 500)
            found = np.concatenate(
                [-mean_effects(removed, classes)[None], again]
            )  # the first draw is what was measured
            places = (-found).argsort(2, kind="stable").argsort(2, kind="stable")
            for name, belief in rankings(run).items():
                for c, function in enumerate(classes):
                    mine, order = np.argsort(-belief[c], kind="stable"), pd.Series(belief[c]).rank().to_numpy()
                    spearman = [np.corrcoef(order, -each)[0, 1] if order.std() else np.nan for each in places[:, c]]
                    for k in (max(1, top // 2), top, 2 * top):
                        precision = (places[:, c, mine[:k]] < k).mean(1)
                        rows.append({"ranking": name, "function": function, "ablation": ablation, "k": k,
                                     "chance": k / len(order), **_interval("precision", precision),
                                     **_interval("spearman", spearman)})  # fmt: skip
        return pd.DataFrame(rows)

    return run.table("ranking_quality", compute)


def ranking_tests(run: Run, n: int = 2000) -> pd.DataFrame:
    """Does a ranking foretell more than chance, in the mean over functions? Columns: ranking, precision and spearman (top
    ``n_top`` heads, removed on C), and p_precision and p_spearman.

    The null shuffles the heads of all rankings and functions alike, so that what functions share stays shared; a p is the
    share of shuffles in which the best of all rankings does as well, so it holds for all of them at once.
    """

    def compute():
        beliefs, k, rng = rankings(run), run.n_top, np.random.default_rng(0)
        cost = -mean_effects(effects(run, "C"), probe(run)["classes"])
        best, order, n_heads = _places(cost) < k, _standard(cost), cost.shape[1]
        shuffles = np.stack([np.arange(n_heads), *(rng.permutation(n_heads) for _ in range(n))])
        table = pd.DataFrame({"ranking": list(beliefs)})
        tops = {name: (_places(belief) < k).astype(float) for name, belief in beliefs.items()}
        ranks = {name: _standard(belief) for name, belief in beliefs.items()}
        for measure, values, truth in (("precision", tops, best * n_heads / k), ("spearman", ranks, order)):
            draws = np.array([[(mine[:, to] * truth).mean() for to in shuffles] for mine in values.values()])
            table[measure] = draws[:, 0]
            highest = draws[:, 1:].max(0)
            table[f"p_{measure}"] = (1 + (highest >= draws[:, :1] - 1e-9).sum(1)) / (1 + n)
        return table

    return run.table("ranking_tests", compute)


def set_effects(run: Run) -> pd.DataFrame:
    """Change on C when whole sets of heads are ablated, all chosen on A: the first k of each ranking, and a greedy set.

    Columns: set, ablation, k; change (accuracy of each function's steps under its own set), elsewhere (of the same steps under
    the other functions' sets), specific (their difference: 0 for a set that is the same for all), each a mean over
    functions; low and high of change and specific (95 % over scenes); nats (log-probability, own set) and singles (the
    same heads ablated one by one, added up).
    """

    def compute():
        classes, edits = probe(run)["classes"].tolist(), {"mask": mask, "mean": mean_edits(run)}
        number = {head: i for i, head in enumerate(run.vlm.heads.pairs)}
        rehearsal = run.rehearsal("C", run.settings.effect_items)
        label, groups = rehearsal.index["function"].to_numpy(), rehearsal.index["group_id"]
        right, told = rehearsal.run()
        diagonal, rows = np.eye(len(classes), dtype=bool), []
        for (name, chosen), ablation in tqdm(list(product(_sets(run).items(), ABLATIONS)), desc="whole sets"):
            runs = [rehearsal.run(edits[ablation](chosen[function])) for function in classes]
            change = np.array([after.astype(float) - right for after, _ in runs]).T  # (steps, sets)
            nats = np.array([after - told for _, after in runs]).T
            again = resampled_means(change, label, groups, 1000)  # (resamples, functions, sets)
            own, other = again[:, diagonal].mean(1), again[:, ~diagonal].mean(1)
            means, less = (np.stack([x[label == f].mean(0) for f in classes]) for x in (change, nats))
            alone = mean_effects(effects(run, "C", ablation), classes)
            rows.append({
                "set": name, "ablation": ablation, "change": means[diagonal].mean(), "elsewhere": means[~diagonal].mean(),
                "nats": less[diagonal].mean(), **_tails(own), **_tails(own - other, "specific_"),
                "singles": np.mean([alone[c, [number[h] for h in chosen[f]]].sum() for c, f in enumerate(classes)]),
            })  # fmt: skip
        table = pd.DataFrame(rows).assign(k=run.n_top)
        return table.assign(specific=table["change"] - table["elsewhere"])

    return run.table("set_effects", compute)


def tops(run: Run, ranking: str) -> dict[str, list[tuple[int, int]]]:
    """The first heads of each function by one of ``rankings``."""
    pairs, belief = run.vlm.heads.pairs, rankings(run)[ranking]
    return {
        function: [pairs[i] for i in np.argsort(-belief[c], kind="stable")[: run.n_top]]
        for c, function in enumerate(probe(run)["classes"].tolist())
    }


def _sets(run: Run) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """For each ranking, and for a greedy choice, the heads of each function."""
    pairs, belief, greedy = run.vlm.heads.pairs, rankings(run)["removal on split A"], {}
    for c, function in enumerate(tqdm(probe(run)["classes"].tolist(), desc="greedy sets")):
        order = [pairs[i] for i in np.argsort(-belief[c], kind="stable")]
        rehearsal = run.rehearsal("A", run.settings.effect_items, function)
        greedy[function] = _greedy(rehearsal, function, order)[: run.n_top]
    return {ranking: tops(run, ranking) for ranking in rankings(run)} | {"greedy on split A": greedy}


def _places(values: np.ndarray) -> np.ndarray:
    """Place of each head in its row, 0 for the largest value."""
    return (-values).argsort(1, kind="stable").argsort(1, kind="stable")


def _standard(values: np.ndarray) -> np.ndarray:
    """Ranks in each row, less their mean, over their spread; 0 where all are alike."""
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=1) - (values.shape[1] + 1) / 2
    return ranks / np.maximum(ranks.std(1, keepdims=True), 1e-9)


def planted(run: Run) -> pd.DataFrame:
    """Trials with planted heads in the activations of split A, labels shuffled within the step index."""

    def compute():
        held = run.activations("A")
        repeats = {0.0: NULL_REPEATS * run.settings.planted} | dict.fromkeys(PLANTED_STRENGTHS, run.settings.planted)
        return planting.trials(
            held.by_head(), held.index["function"].to_numpy(), held.index["group_id"].to_numpy(),
            held.index["step"].to_numpy(), held.heads.table["layer"].to_numpy(), repeats,
        )  # fmt: skip

    return run.table("planted", compute)


def null_models(run: Run) -> pd.DataFrame:
    """How many pairs of function and head each rule selects here, in a model of random weights, and with labels shuffled
    within the step index; columns case, rule, selected, of."""

    def compute():
        controls(run)  # which keeps the untrained model's activations
        held, joint, single = run.activations("A"), probe(run), head_probes(run)
        untrained = HeadActivations.open(run.folder / "controls" / "untrained")
        rng = np.random.default_rng(0)
        shuffled = held.index.assign(function=shuffle_within(held.index["function"], held.index["step"], rng))
        items, n = run.items["A"], run.settings.permutations
        nothing = [_choose(items, n, *case) for case in ((untrained, untrained.index), (held, shuffled))]
        cases = {"this model": (joint["importance"], single["strength"], single["null"]),
                 "untrained model": nothing[0], "shuffled labels": nothing[1]}  # fmt: skip
        rows = []
        for case, (importance, strength, null) in cases.items():
            tests = significance(strength, null)
            counts = {"elbow (paper)": sum(elbow(row) for row in importance), "FDR": int((tests["q"] < 0.05).sum()),
                      "max-T (strict)": int((tests["p_max"] < 0.05).sum())}  # fmt: skip
            rows += [{"case": case, "rule": rule, "selected": n, "of": importance.size} for rule, n in counts.items()]
        return pd.DataFrame(rows)

    return run.table("null_models", compute)


def _choose(items, permutations: int, held, index):
    """The joint probe's importance, and each head's strength above the text with its null."""
    x, y, groups = held.by_head(), index["function"].to_numpy(), index["group_id"].to_numpy()
    offset = text_guesses(items, index)
    above = HeadProbes().fit(x, y, groups, offset=offset)
    null = above.permuted(x, y, groups, index["step"], permutations, offset=offset)
    importance = FunctionProbe("paper").fit(x, y, groups, held.heads.table["layer"].to_numpy()).importance_
    return importance, above.strength_, null


def _greedy(rehearsal, function, order) -> list[tuple[int, int]]:
    """Of the strongest candidates, one after the other the head whose removal costs the function's steps on A most."""
    mine = (rehearsal.index["function"] == function).to_numpy()
    chosen, left = order[:1], order[1:CANDIDATES]
    while len(chosen) < GREEDY_STEPS:
        cost = [rehearsal.run(mask([*chosen, head]))[1][mine].mean() for head in left]
        chosen.append(left.pop(int(np.argmin(cost))))
    return chosen + [head for head in order if head not in chosen]


def _interval(name: str, draws) -> dict[str, float]:
    return {name: float(draws[0]), **_tails(draws[1:], f"{name}_")}


def _tails(draws, prefix: str = "") -> dict[str, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return {f"{prefix}low": low, f"{prefix}high": high}
