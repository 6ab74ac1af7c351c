"""Is what a function's heads cost specific to its steps?

set_ablations[way]      C, teacher-forced, with each function's set ablated, as one of ``WAYS`` chooses it
generated_and_forced    a function's own steps under its own set, generated and teacher-forced
specific_damage[way]    function by function: its set on its steps, beyond what the set and the steps bring along
pooled_damage(matrix)   a summary over functions
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats as tests

from cogvsr_utils.analysis.text_baselines import wordings
from cogvsr_utils.checks.known_heads import planted_truth
from cogvsr_utils.dataset.splits import TEST
from cogvsr_utils.functions import NAMES
from cogvsr_utils.pipeline.ablation import ABLATED, C
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import answers
from cogvsr_utils.pipeline.selection import (
    ABLATION,
    IMPORTANCE,
    Rankings,
    StrictProbe,
    rankings,
    strict_probe,
    top_heads_by,
)
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.pipeline.sweeps import scorer_of
from cogvsr_utils.stats import ALPHA, clustered_mean, false_discovery_rate

STRICT, LOWEST, TRUTH = "importance (strict)", "lowest importance", "planted heads"
WAYS = (IMPORTANCE, STRICT, ABLATION, LOWEST, TRUTH)  # of choosing a function's set; the last for planted models alone
LEAST_WORDINGS = 4  # with three, the heads of a planted model were not told to be specific (page A3)
N_PAIRINGS = 10_000  # random pairings of head sets with functions, for the p of a summary over functions


@dataclass(frozen=True)
class SetAblations:
    """Teacher-forced scores of steps, intact and with each function's set of heads ablated.

    ``correct`` and ``log_prob`` (1 + functions, steps), the first row intact, the others in the order of ``NAMES``;
    ``sets`` (functions,), the heads of each as text, nothing for none; ``uid``, ``step``, ``function``, ``group`` and
    ``wording`` (steps,).
    """

    correct: np.ndarray
    log_prob: np.ndarray
    sets: np.ndarray
    uid: np.ndarray
    step: np.ndarray
    function: np.ndarray
    group: np.ndarray
    wording: np.ndarray


@result(
    variants=WAYS,
    splits=C,
    needs=lambda way: {TRUTH: {}, STRICT: {"ranked": rankings, "strict": strict_probe}}.get(way, {"ranked": rankings}),
    gpu=True,
)
def set_ablations(
    experiment: Experiment, way: str, ranked: Rankings | None = None, strict: StrictProbe | None = None
) -> SetAblations:
    """C, teacher-forced, with each function's set ablated (×0.001): the top heads by the paper's importance, by the
    strict probe's, or by ablation on A; the heads that are least by the paper's; or those that were planted. All items
    for the first, four times the profile's number for single heads for the others."""
    from cogvsr_utils.models.head_edits import mask

    items = experiment.items(TEST)
    scorer = scorer_of(experiment, TEST, len(items) if way == IMPORTANCE else 4 * experiment.settings.ablation_items)
    sets = _sets(experiment, way, ranked, strict)
    scores = scorer.score_each([None, *(mask(sets[name]) if sets[name] else None for name in NAMES)])
    uid, step, function = (scorer.index[column].to_numpy() for column in ("uid", "step", "function"))
    wording = wordings(items).loc[list(zip(uid, step, strict=True))].to_numpy()
    texts = [" ".join(f"{layer}.{head}" for layer, head in sorted(sets[name])) for name in NAMES]
    return SetAblations(
        np.array([each.correct for each in scores]),
        np.array([each.log_prob for each in scores]),
        np.array(texts),
        uid.astype(str),
        step,
        function.astype(str),
        scorer.index["group_id"].to_numpy().astype(str),
        wording.astype(str),
    )


def _sets(experiment: Experiment, way: str, ranked: Rankings | None, strict: StrictProbe | None) -> dict[str, list]:
    """The heads of each function, none where none are planted."""
    if way == TRUTH:
        return planted_truth(experiment.model).heads
    scores = ranked.scores | {LOWEST: -ranked.scores[IMPORTANCE]}
    scores |= {STRICT: np.abs(strict.importance)} if strict else {}
    sets = top_heads_by(replace(ranked, scores=scores), way, n_top(len(ranked.heads)))
    return {name: sets.of(name) for name in NAMES}


@result(needs={"answers": answers[TEST], "set_ablations": set_ablations[IMPORTANCE], **ABLATED})
def generated_and_forced(
    experiment: Experiment, set_ablations: SetAblations, answers: pd.DataFrame, **ablated: pd.DataFrame
) -> pd.DataFrame:
    """Each function's own steps under its own set, generated and teacher-forced, on the same steps of C.

    Generated answers follow the model's own earlier answers, teacher-forced ones the right ones. Generated ones are
    judged, of teacher-forced ones each token has to be the likeliest. Columns: function, n, before and before_forced
    (accuracy without ablation), generated, forced, and their difference (``inherited``), changes of accuracy, each with
    low and high (95 % over scenes); functions without steps are left out.
    """
    steps = pd.DataFrame({"uid": set_ablations.uid, "step": set_ablations.step})
    intact, *scored = set_ablations.correct.astype(float)
    rows = []
    for number, (function, correct) in enumerate(zip(NAMES, scored, strict=True)):
        both = answers.merge(ablated[f"ablated_{number}"][["uid", "step", "correct"]], on=["uid", "step"])
        both = both.merge(steps.assign(intact=intact, forced=correct - intact), on=["uid", "step"])
        both = both[both["function"] == function]
        if both.empty:
            continue
        change = both["correct_y"].astype(float) - both["correct_x"]
        row = {"function": function, "n": len(both), "before": both["correct_x"].mean(),
               "before_forced": both["intact"].mean()}  # fmt: skip
        for name, values in (("generated", change), ("forced", both["forced"]), ("inherited", change - both["forced"])):
            row[name], row[f"{name}_low"], row[f"{name}_high"] = clustered_mean(values, both["group_id"])
        rows.append(row)
    return pd.DataFrame(rows)


@result(variants=WAYS, needs=lambda way: {"set_ablations": set_ablations[way]})
def specific_damage(experiment: Experiment, way: str, set_ablations: SetAblations) -> pd.DataFrame:
    """Is the damage of a function's set specific? The interaction of sets and steps, in the change of log-probability:
    what the function's set does to its steps beyond what other functions' sets do to them, less the same of other
    functions' steps (under sets that are not their own). A set that hurts all steps, and steps that all sets hurt, give
    0. Functions that share a set are no others to each other, and an empty set is none. Since other sets that hurt
    other steps make an interaction too, the first part is asked for by itself as well: that the function's steps lose
    more under its own set than under the others.

    Wordings are a random effect, functions a fixed one: means by wording, then by function, Welch's t. Scenes are one
    too: the same difference within each scene that has both, Student's t. Both ways for the first part alone, against
    0. ``p`` is the largest of the four, two-sided, ``q`` it over the functions that can be tested.

    Columns: function, n (own steps), wordings, scenes; own, other_steps, other_sets (mean changes), the first with
    own_low and own_high (95 % over scenes); difference with low and high (95 % over wordings); p, q, and specific: yes,
    no, or "not tested" with fewer than four wordings or two scenes.
    """
    delta, rows = set_ablations.log_prob[1:] - set_ablations.log_prob[0], []  # (sets, steps)
    function = set_ablations.function
    # Sets that are empty, and those of functions that share theirs, are no others.
    own_set = set_ablations.sets[[NAMES.index(name) for name in function]]  # (steps,)
    foreign = np.where((set_ablations.sets[:, None] == own_set) | (set_ablations.sets[:, None] == ""), np.nan, delta)
    for number, name in enumerate(NAMES):
        here = function == name
        others = _mean(np.delete(foreign, number, axis=0))
        beyond = delta[number] - others  # its set less the others, (steps,)
        row = {"function": name, "n": int(here.sum()), "wordings": len(set(set_ablations.wording[here])),
               "scenes": len(set(set_ablations.group[here]))}  # fmt: skip
        counted = here | (own_set != set_ablations.sets[number])  # not the steps of functions with the same set
        if set_ablations.sets[number] and here.any() and (counted & ~here).any():
            row |= {"other_steps": delta[number, counted & ~here].mean(), "other_sets": others[here].mean()}
            ends = clustered_mean(delta[number, here], set_ablations.group[here])
            row |= dict(zip(("own", "own_low", "own_high"), ends, strict=True))
            parts = (beyond, here, function, set_ablations.wording, set_ablations.group)
            row |= _interaction(*(part[counted] for part in parts))
        rows.append(row)
    table = pd.DataFrame(rows, columns=["function", "n", "wordings", "scenes", "own", "own_low", "own_high",
                                        "other_steps", "other_sets", "difference", "low", "high", "p"])  # fmt: skip
    tested = table["p"].notna()
    table.loc[tested, "q"] = false_discovery_rate(table.loc[tested, "p"]) if tested.any() else np.nan
    worse = (table["difference"] < 0) & (table["own"] < table["other_sets"])
    verdict = np.where((table["q"] < ALPHA) & worse, "yes", "no")
    return table.assign(specific=np.where(tested, verdict, "not tested"))


COMPARED = tuple(specific_damage[way] for way in WAYS if way != TRUTH)  # of any model


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over rows of what is not NaN, 0 where nothing is: (columns,)."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)


def _interaction(beyond, here, function, wording, group) -> dict[str, float]:
    """The difference of ``specific_damage`` with its interval and p, where they can be had."""
    steps = pd.DataFrame({"beyond": beyond, "function": function, "wording": wording})
    means = steps.groupby(["function", "wording"])["beyond"].mean().groupby("function").agg(["mean", "var", "count"])
    own = means.loc[function[here][0]]
    others = means.drop(function[here][0])
    others = others[others["count"] > 1]
    by_scene = [pd.Series(beyond[side]).groupby(group[side]).mean() for side in (here, ~here)]
    within = (by_scene[0] - by_scene[1]).dropna()
    if own["count"] < LEAST_WORDINGS or others.empty or len(within) < 2:
        return {}
    difference = own["mean"] - others["mean"].mean()
    parts = np.array([own["var"] / own["count"], *(others["var"] / others["count"] / len(others) ** 2)])
    error, freedom = np.sqrt(parts.sum()), [own["count"] - 1, *(others["count"] - 1)]
    spread = tests.t(parts.sum() ** 2 / (parts**2 / freedom).sum())
    by_wordings = 2 * spread.sf(abs(difference) / error)
    first = [2 * tests.t.sf(abs(own["mean"]) / parts[0] ** 0.5, own["count"] - 1),
             tests.ttest_1samp(by_scene[0], 0).pvalue]  # fmt: skip
    return {"difference": difference, "low": difference + error * spread.ppf(ALPHA / 2),
            "high": difference - error * spread.ppf(ALPHA / 2),
            "p": float(max(by_wordings, tests.ttest_1samp(within, 0).pvalue, *first))}  # fmt: skip


def pooled_damage(matrix: pd.DataFrame) -> dict[str, float]:
    """Is the damage specific? From ``ablation_matrix``: the mean change of each function's own steps (``own``), of
    other functions' (``other``), their ``difference``, and the one-sided ``p`` of it over random pairings of sets with
    functions.
    """
    names = [name for name in NAMES if name in set(matrix["head_set"])]
    change = matrix.pivot(index="head_set", columns="function", values="change").loc[names, names].to_numpy()
    rng, rows = np.random.default_rng(0), np.arange(len(names))
    own, other = change.diagonal().mean(), change[~np.eye(len(names), dtype=bool)].mean()
    pairings = np.array([change[rows, rng.permutation(len(names))].mean() for _ in range(N_PAIRINGS)])
    p = (1 + (pairings <= own).sum()) / (1 + N_PAIRINGS)
    return {"own": float(own), "other": float(other), "difference": float(own - other), "p": float(p)}
