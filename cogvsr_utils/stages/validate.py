"""Does the choosing find the heads that matter?

rankings(run)           every way of ranking heads, from split A
ranking_quality(run)    how well each foretells what removing a head does on split C
set_effects(run)        whole sets removed: each ranking's, a greedy one, random ones
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
from .remove import random_sets

PLANTED_STRENGTHS = (0.25, 0.5, 1.0)
NULL_REPEATS = 125  # times as many repeats where nothing is planted, for the rate of false positives
CANDIDATES, GREEDY_STEPS = 10, 5
ABLATIONS = ("mask", "mean")
MATCHED = {
    "importance (paper)": "paper",
    "removal on split A": "measured",
}  # rankings whose first heads have random sets
TAILS = [0.025, 0.975]


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


def set_effects(run: Run) -> pd.DataFrame:
    """Change of the function's own steps on C when whole sets of heads are ablated, all chosen on A.

    Sets: the first k of each ranking; a greedy one, to which the head is added that costs most beside those before; and
    random ones with the layers and output norms of the paper's and of the measured. Columns: set, ablation, k, change
    (accuracy, mean over functions), low and high (95 %: over scenes, for random sets over these), elsewhere (change of other
    functions' steps in the same chats), nats (log-probability), and singles, the nats of the set's heads ablated one by
    one, added up.
    """

    def compute():
        classes, beliefs, n = probe(run)["classes"], rankings(run), run.settings.control_items
        pairs = list(run.vlm.heads.table[["layer", "head"]].itertuples(index=False, name=None))
        edits = {"mask": mask, "mean": mean_edits(run)}
        alone = {ablation: mean_effects(effects(run, "C", ablation), classes) for ablation in ABLATIONS}
        tops, frames = {name: {} for name in MATCHED}, []
        for c, function in enumerate(tqdm(classes, desc="whole sets")):
            order = {name: np.argsort(-belief[c], kind="stable") for name, belief in beliefs.items()}
            sets = {name: [pairs[i] for i in rows[: run.n_top]] for name, rows in order.items()}
            for name in MATCHED:
                tops[name][str(function)] = sets[name]
            measured = [pairs[i] for i in order["removal on split A"]]
            sets["greedy on split A"] = _greedy(run.rehearsal("A", n, function), function, measured)[: run.n_top]
            rehearsal = run.rehearsal("C", n, function)
            own = (rehearsal.index["function"] == function).to_numpy()
            right, told = rehearsal.run()
            for (name, heads), ablation in product(sets.items(), ABLATIONS):
                after, after_told = rehearsal.run(edits[ablation](heads))
                changed = after.astype(float) - right
                frames.append(pd.DataFrame({
                    "set": name, "ablation": ablation, "function": function, "group": rehearsal.index["group_id"][own],
                    "change": changed[own], "elsewhere": changed[~own].mean(), "nats": (after_told - told)[own],
                    "singles": sum(alone[ablation][c, pairs.index(head)] for head in heads)}))  # fmt: skip
        rows = []
        for (name, ablation), part in pd.concat(frames).groupby(["set", "ablation"], sort=False):
            means = part.groupby("function")[["change", "elsewhere", "nats", "singles"]].mean().mean()
            again = resampled_means(part[["change"]].to_numpy(), part["function"], part["group"], 1000)
            low, high = np.quantile(again.mean((1, 2)), TAILS)
            rows.append({"set": name, "ablation": ablation, "k": run.n_top, **means, "low": low, "high": high})
        for name, key in MATCHED.items():
            drawn = random_sets(run, key, tops[name])
            drawn = drawn[drawn["set"] >= 0].groupby("set")[["change", "elsewhere", "nats"]].mean()
            low, high = np.quantile(drawn["change"], TAILS)
            rows.append({"set": f"random, matched to: {name}", "ablation": "mask", "k": run.n_top, **drawn.mean(),
                         "low": low, "high": high})  # fmt: skip
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


def _greedy(rehearsal, function, order) -> list[tuple[int, int]]:
    """Of the strongest candidates, one after the other the head whose removal costs the function's steps on A most."""
    mine = (rehearsal.index["function"] == function).to_numpy()
    chosen, left = order[:1], order[1:CANDIDATES]
    while len(chosen) < GREEDY_STEPS:
        cost = [rehearsal.run(mask([*chosen, head]))[1][mine].mean() for head in left]
        chosen.append(left.pop(int(np.argmin(cost))))
    return chosen + [head for head in order if head not in chosen]


def _interval(name: str, draws) -> dict[str, float]:
    low, high = np.quantile(draws[1:], TAILS)
    return {name: float(draws[0]), f"{name}_low": low, f"{name}_high": high}
