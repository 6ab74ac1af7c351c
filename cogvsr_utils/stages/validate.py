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
NULL_REPEATS = 25  # times as many repeats where nothing is planted, for the rate of false positives
CANDIDATES, GREEDY_STEPS = 10, 5
ABLATIONS = ("mask", "mean")
MATCHED = {
    "importance (paper)": "paper",
    "removal on split A": "measured",
}  # rankings whose first heads have random sets


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
    (accuracy), elsewhere (that of other functions' steps in the same chats), specific (their difference), nats
    (log-probability), singles (nats of the set's heads ablated one by one, added up), all means over functions; low and high
    of change and of specific: 95 % over scenes, for random sets over these.
    """

    def compute():
        classes, edits, frames = probe(run)["classes"].tolist(), {"mask": mask, "mean": mean_edits(run)}, []
        alone = {ablation: mean_effects(effects(run, "C", ablation), classes) for ablation in ABLATIONS}
        number = {head: i for i, head in enumerate(run.vlm.heads.pairs)}
        chosen = {function: _sets(run, c, function) for c, function in enumerate(tqdm(classes, desc="greedy sets"))}
        for c, function in enumerate(tqdm(classes, desc="whole sets")):
            rehearsal = run.rehearsal("C", run.settings.control_items, function)
            right, told = rehearsal.run()
            for (name, heads), ablation in product(chosen[function].items(), ABLATIONS):
                after, after_told = rehearsal.run(edits[ablation](heads))
                frames.append(pd.DataFrame({
                    "set": name, "ablation": ablation, "function": function, "group": rehearsal.index["group_id"],
                    "own": rehearsal.index["function"] == function, "change": after.astype(float) - right,
                    "nats": after_told - told, "singles": alone[ablation][c, [number[head] for head in heads]].sum(),
                }))  # fmt: skip
        rows = [{"set": name, "ablation": ablation, **_set_row(part)}
                for (name, ablation), part in pd.concat(frames).groupby(["set", "ablation"], sort=False)]  # fmt: skip
        for name, key in MATCHED.items():
            drawn = random_sets(run, key, {function: sets[name] for function, sets in chosen.items()})
            drawn = drawn[drawn["set"] >= 0].groupby("set")[["change", "elsewhere", "nats"]].mean()
            drawn["specific"] = drawn["change"] - drawn["elsewhere"]
            rows.append({"set": f"random, matched to: {name}", "ablation": "mask", **drawn.mean(),
                         **_tails(drawn["change"]), **_tails(drawn["specific"], "specific_")})  # fmt: skip
        return pd.DataFrame(rows).assign(k=run.n_top)

    return run.table("set_effects", compute)


def _sets(run: Run, c: int, function: str) -> dict[str, list[tuple[int, int]]]:
    """The first heads of every ranking of a function, the ``c``-th, and a greedy set."""
    pairs, k = run.vlm.heads.pairs, run.n_top
    order = {name: [pairs[i] for i in np.argsort(-belief[c], kind="stable")] for name, belief in rankings(run).items()}
    greedy = _greedy(run.rehearsal("A", run.settings.control_items, function), function, order["removal on split A"])
    return {name: heads[:k] for name, heads in order.items()} | {"greedy on split A": greedy[:k]}


def _set_row(part) -> dict[str, float]:
    """Means over functions, and intervals over scenes, of one set's steps."""
    means = part.groupby(["own", "function"])[["change", "nats", "singles"]].mean().groupby("own").mean()
    place = part["own"].map({True: "1 own ", False: "0 elsewhere "}) + part["function"]
    again = resampled_means(part[["change"]].to_numpy(), place, part["group"], 1000)[..., 0]
    elsewhere, own = (half.mean(1) for half in np.split(again, 2, axis=1))
    row = {**means.loc[True], "elsewhere": means.loc[False, "change"]}
    row["specific"] = row["change"] - row["elsewhere"]
    return {**row, **_tails(own), **_tails(own - elsewhere, "specific_")}


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
