"""Does the choosing find the heads that matter?

rankings(run)           every way of ranking heads, from split A
ranking_quality(run)    how well each foretells what removing a head does on split C
set_effects(run)        whole sets removed: each ranking's, a greedy one, random ones
planted(run)            signals planted in known heads, every rule
null_models(run)        the pipeline where there is nothing to find
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from tqdm import tqdm

from .. import planted as planting
from ..activations import HeadActivations
from ..attribution import gradients, image_attention
from ..controls import text_guesses
from ..interventions import mask, random_heads
from ..probes import FunctionProbe, HeadProbes
from ..stats import elbow, resampled_means, shuffle_within, significance
from . import Run
from .choose import controls, effects, head_probes, probe

PLANTED_STRENGTHS = (0.25, 0.5, 1.0)
NULL_REPEATS = 50  # times as many repeats where nothing is planted, for the rate of false positives
CANDIDATES, GREEDY_STEPS, RANDOM_SETS = 6, 3, 5
MATCHED = ("importance (paper)", "removal on split A")  # whose layers the random sets have


def rankings(run: Run) -> dict[str, np.ndarray]:
    """How strongly each way of choosing holds each head to serve each function: (classes, heads), larger is stronger."""

    def compute():
        joint, single, rehearsal = probe(run), head_probes(run), run.rehearsal("A")
        return {
            "importance (paper)": np.abs(joint["importance"]),
            "probe of the head alone": single["auroc"].T,
            "CogVision's probe": single["binary_accuracy"].T,
            "gain over text": single["gain"].T,
            "one backward pass": -gradients(rehearsal, joint["classes"]),
            "attention to the picture": image_attention(rehearsal, joint["classes"]),
            "removal on split A": -_mean_effects(effects(run, "A"), joint["classes"]),
        }

    return run.arrays("rankings", compute)


def ranking_quality(run: Run) -> pd.DataFrame:
    """Each ranking against the measured effect of removing each head on C, by function, with intervals over scenes.

    Columns: ranking, function, precision (of the ranking's top k heads, the share among the k whose removal costs most),
    its low and high, chance (k over the number of heads), spearman with low and high, and k.
    """

    def compute():
        classes, removed, k = probe(run)["classes"], effects(run, "C"), run.n_top
        change = (removed["log_probability"][0] - removed["log_probability"][1:]).T
        again = resampled_means(change, removed["function"], removed["group"], 500)
        found = np.concatenate([-_mean_effects(removed, classes)[None], again])  # the first draw is what was measured
        rows = []
        for name, belief in rankings(run).items():
            for c, function in enumerate(classes):
                mine = np.argsort(-belief[c], kind="stable")[:k]
                best = np.argsort(-found[:, c], axis=1, kind="stable")[:, :k]
                precision = np.isin(best, mine).mean(1)
                orders = found[:, c].argsort(1).argsort(1)
                order = pd.Series(belief[c]).rank().to_numpy()
                spearman = [np.corrcoef(order, each)[0, 1] if order.std() else np.nan for each in orders]
                rows.append({"ranking": name, "function": function, "k": k, "chance": k / len(order),
                             **_interval("precision", precision), **_interval("spearman", spearman)})  # fmt: skip
        return pd.DataFrame(rows)

    return run.table("ranking_quality", compute)


def set_effects(run: Run) -> pd.DataFrame:
    """Change of the function's own steps on C when whole sets of heads are removed, all chosen on A.

    Sets: the first k of each ranking; a greedy one, to which the head is added that costs most beside those before; and
    random ones of the same layers as the paper's and as the measured. Columns: set, k, change (accuracy, mean over functions),
    low and high (95 % over scenes), nats (log-probability).
    """

    def compute():
        classes, beliefs, table = probe(run)["classes"], rankings(run), run.vlm.heads.table
        pairs = list(table[["layer", "head"]].itertuples(index=False, name=None))
        chosen, trying = [], run.rehearsal("A")  # (function number, name of the set, its heads)
        for c, function in enumerate(tqdm(classes, desc="greedy sets")):
            first = {name: [pairs[i] for i in np.argsort(-belief[c], kind="stable")[: run.n_top]]
                     for name, belief in beliefs.items()}  # fmt: skip
            chosen += [(c, name, heads) for name, heads in first.items()]
            greedy = _greedy(trying, function, beliefs["removal on split A"][c], pairs)
            chosen.append((c, "greedy on split A", greedy[: run.n_top]))
            for name in MATCHED:
                drawn = random_heads(table, first[name], RANDOM_SETS, seed=c)
                chosen += [(c, f"random, layers as: {name}", heads) for heads in drawn]
        rehearsal = run.rehearsal("C")
        label, groups = rehearsal.index["function"], rehearsal.index["group_id"]
        right, told = rehearsal.run()
        runs = [rehearsal.run(mask(heads)) for *_, heads in tqdm(chosen, desc="whole sets")]
        change = np.array([after.astype(float) - right for after, _ in runs]).T
        nats = np.array([after - told for _, after in runs]).T
        again = resampled_means(change, label, groups, run.settings.resamples)
        rows = []
        for name in dict.fromkeys(name for _, name, _ in chosen):
            mine = [(c, i) for i, (c, other, _) in enumerate(chosen) if other == name]
            own = [(label == classes[c]).to_numpy() for c, _ in mine]
            low, high = np.quantile(np.mean([again[:, c, i] for c, i in mine], axis=0), [0.025, 0.975])
            rows.append({"set": name, "k": run.n_top, "low": low, "high": high,
                         "change": np.mean([change[rows, i].mean() for rows, (_, i) in zip(own, mine, strict=True)]),
                         "nats": np.mean([nats[rows, i].mean() for rows, (_, i) in zip(own, mine, strict=True)])})  # fmt: skip
        return pd.DataFrame(rows)

    return run.table("set_effects", compute)


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


def _mean_effects(removed, classes) -> np.ndarray:
    """Mean change of the log-probability of the right answer by function and head: (classes, heads)."""
    change = removed["log_probability"][1:] - removed["log_probability"][0]
    return np.stack([change[:, removed["function"] == name].mean(1) for name in classes])


def _greedy(rehearsal, function, belief, pairs) -> list[tuple[int, int]]:
    """Of the strongest candidates, one after the other the head whose removal costs the function's steps on A most."""
    mine = (rehearsal.index["function"] == function).to_numpy()
    order = [pairs[i] for i in np.argsort(-belief, kind="stable")]
    chosen, left = order[:1], order[1:CANDIDATES]
    while len(chosen) < GREEDY_STEPS:
        cost = [rehearsal.run(mask([*chosen, head]))[1][mine].mean() for head in left]
        chosen.append(left.pop(int(np.argmin(cost))))
    return chosen + [head for head in order if head not in chosen]


def _interval(name: str, draws) -> dict[str, float]:
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return {name: float(draws[0]), f"{name}_low": low, f"{name}_high": high}
