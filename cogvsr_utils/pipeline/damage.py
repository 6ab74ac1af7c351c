"""Is what a function's heads cost specific to its steps?

set_ablations           all of C, teacher-forced, with each function's set ablated
generated_and_forced    a function's own steps under its own set, generated and teacher-forced
specific_damage         function by function: its steps against other steps, its set against other sets
pooled_damage(matrix)   a summary over functions
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as tests

from cogvsr_utils.analysis.text_baselines import wordings
from cogvsr_utils.dataset.splits import TEST
from cogvsr_utils.functions import NAMES
from cogvsr_utils.pipeline.ablation import ABLATED, C
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import answers
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings, top_heads_by
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.pipeline.sweeps import scorer_of
from cogvsr_utils.stats import ALPHA, clustered_mean, false_discovery_rate

N_PAIRINGS = 10_000  # random pairings of head sets with functions, for the p of a summary over functions


@dataclass(frozen=True)
class SetAblations:
    """Teacher-forced scores of steps, intact and with each function's set of heads ablated.

    ``correct`` and ``log_prob`` (1 + functions, steps), the first row intact, the others in the order of ``NAMES``;
    ``uid``, ``step``, ``function`` and ``wording`` (steps,).
    """

    correct: np.ndarray
    log_prob: np.ndarray
    uid: np.ndarray
    step: np.ndarray
    function: np.ndarray
    wording: np.ndarray


@result(splits=C, gpu=True)
def set_ablations(experiment: Experiment, rankings: Rankings) -> SetAblations:
    """All of C, teacher-forced, with the top heads of each function by the paper's importance ablated (×0.001)."""
    from cogvsr_utils.models.interventions import mask

    items, sets = experiment.items(TEST), top_heads_by(rankings, IMPORTANCE, n_top(len(rankings.heads)))
    scorer = scorer_of(experiment, TEST, len(items))
    scores = [scorer.score(), *(scorer.score(mask(sets.of(name))) for name in NAMES)]
    uid, step, function = (scorer.index[column].to_numpy() for column in ("uid", "step", "function"))
    wording = wordings(items).loc[list(zip(uid, step, strict=True))].to_numpy()
    return SetAblations(
        np.array([each.correct for each in scores]), np.array([each.log_prob for each in scores]),
        uid.astype(str), step, function.astype(str), wording.astype(str),
    )  # fmt: skip


@result(needs={"answers": answers[TEST], **ABLATED})
def generated_and_forced(
    experiment: Experiment, set_ablations: SetAblations, answers: pd.DataFrame, **ablated: pd.DataFrame
) -> pd.DataFrame:
    """Each function's own steps under its own set, generated and teacher-forced, on the same steps of C.

    Generated answers follow the model's own earlier answers, teacher-forced ones the right ones, so the difference is
    inherited from earlier steps. Columns: function, n, generated, forced, inherited (changes of accuracy), each with
    low and high (95 % over scenes).
    """
    steps = pd.DataFrame({"uid": set_ablations.uid, "step": set_ablations.step})
    intact, *scored = set_ablations.correct.astype(float)
    rows = []
    for number, (function, correct) in enumerate(zip(NAMES, scored, strict=True)):
        both = answers.merge(ablated[f"ablated_{number}"][["uid", "step", "correct"]], on=["uid", "step"])
        both = both.merge(steps.assign(forced=correct - intact), on=["uid", "step"])
        both = both[both["function"] == function]
        change = both["correct_y"].astype(float) - both["correct_x"]
        row = {"function": function, "n": len(both)}
        for name, values in (("generated", change), ("forced", both["forced"]), ("inherited", change - both["forced"])):
            row[name], row[f"{name}_low"], row[f"{name}_high"] = clustered_mean(values, both["group_id"])
        rows.append(row)
    return pd.DataFrame(rows)


@result()
def specific_damage(experiment: Experiment, set_ablations: SetAblations) -> pd.DataFrame:
    """Is the damage of a function's set specific? Two differences in the change of log-probability of right answers:
    of its own steps less other functions' steps, both under its set (``steps``), and of its own steps under its set
    less under the other functions' sets (``sets``).

    Wordings are the units (a random effect): each difference is one of means by wording, tested by Welch's and
    Student's t. Damage is specific where both are below 0 beyond chance, so ``p`` is the larger of the two, two-sided
    each, and ``q`` it over functions. Columns: function, n (own steps), wordings, own, other_steps, other_sets (mean
    changes over wordings), steps and sets, each with low and high (95 %), p, q, specific (yes or no). With one wording
    alone nothing can be tested: p is 1.
    """
    delta, rows = set_ablations.log_prob[1:] - set_ablations.log_prob[0], []
    table = pd.DataFrame(delta.T, columns=NAMES).assign(wording=set_ablations.wording)  # (steps, sets)
    for function in NAMES:
        here = set_ablations.function == function
        own, others = (table[side].groupby("wording")[list(NAMES)].mean() for side in (here, ~here))
        other_sets = own.drop(columns=function).mean(axis=1)
        row = {"function": function, "n": int(here.sum()), "wordings": len(own), "own": own[function].mean(),
               "other_steps": others[function].mean(), "other_sets": other_sets.mean()}  # fmt: skip
        for name in ("steps", "sets"):
            row |= {name: row["own"] - row[f"other_{name}"], f"{name}_low": np.nan, f"{name}_high": np.nan}
        row["p"] = 1.0
        if len(own) > 1:
            by_steps = tests.ttest_ind(own[function], others[function], equal_var=False)
            by_sets = tests.ttest_1samp(own[function] - other_sets, 0)
            for name, test in (("steps", by_steps), ("sets", by_sets)):
                row[f"{name}_low"], row[f"{name}_high"] = test.confidence_interval(1 - ALPHA)
            row["p"] = float(max(by_steps.pvalue, by_sets.pvalue))
        rows.append(row)
    found = pd.DataFrame(rows)
    found["q"] = false_discovery_rate(found["p"])
    specific = (found["q"] < ALPHA) & (found["steps"] < 0) & (found["sets"] < 0)
    return found.assign(specific=np.where(specific, "yes", "no"))


def pooled_damage(matrix: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Is the damage specific? From ``ablation_matrix``: the mean change of each function's own steps (``own``), of
    other functions' (``other``), their ``difference``, and the one-sided ``p`` of it over random pairings of sets with
    functions.
    """
    names = [name for name in NAMES if name in set(matrix["head_set"])]
    change = matrix.pivot(index="head_set", columns="function", values="change").loc[names, names].to_numpy()
    rng, rows = np.random.default_rng(seed), np.arange(len(names))
    own, other = change.diagonal().mean(), change[~np.eye(len(names), dtype=bool)].mean()
    pairings = np.array([change[rows, rng.permutation(len(names))].mean() for _ in range(N_PAIRINGS)])
    p = (1 + (pairings <= own).sum()) / (1 + N_PAIRINGS)
    return {"own": float(own), "other": float(other), "difference": float(own - other), "p": float(p)}
