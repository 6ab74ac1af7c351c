"""Pairs of functions: does each one's set hurt its own steps more than the other's set does?

double_dissociations     every pair, from both sides
"""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats as tests

from cogvsr_utils.functions import NAMES
from cogvsr_utils.pipeline.damage import SetAblations, set_ablations
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.selection import IMPORTANCE
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import ALPHA, false_discovery_rate


@result(needs={"set_ablations": set_ablations[IMPORTANCE]})
def double_dissociations(experiment: Experiment, set_ablations: SetAblations) -> pd.DataFrame:
    """Every pair of functions, in the change of log-probability: on each one's steps its own set less the other's. A
    pair is doubly dissociated (Shallice, From Neuropsychology to Mental Structure, 1988) where both are below 0; one
    below 0 alone may be an easier task or a larger set.

    Each side is a t test over scenes and over wordings, whichever p is larger, one-sided; ``p`` of a pair is the larger
    of its sides' (both have to hold), ``q`` it over all pairs. Columns: first, second, on_first, on_second (the means
    over steps), interaction (their sum) with low and high (95 %, from the larger of each side's standard errors over
    scenes and over wordings, added in squares), p, q, and dissociated: yes, no, or "not tested" with fewer than
    two scenes or wordings on a side, or sets that are empty or the same.
    """
    delta, rows = set_ablations.log_prob[1:] - set_ablations.log_prob[0], []  # (sets, steps)
    for a, b in combinations(range(len(NAMES)), 2):
        row, sides = {"first": NAMES[a], "second": NAMES[b]}, []
        if "" not in set_ablations.sets[[a, b]] and set_ablations.sets[a] != set_ablations.sets[b]:
            for own, other in ((a, b), (b, a)):
                here = set_ablations.function == NAMES[own]
                less = delta[own, here] - delta[other, here]
                sides.append(_side(less, set_ablations.group[here], set_ablations.wording[here]))
        if all(sides) and sides:
            (first, error_a, freedom_a, p_a), (second, error_b, freedom_b, p_b) = sides
            error = np.hypot(error_a, error_b)
            reach = error * tests.t.ppf(1 - ALPHA / 2, min(freedom_a, freedom_b))
            row |= {"on_first": first, "on_second": second, "interaction": first + second,
                    "low": first + second - reach, "high": first + second + reach, "p": max(p_a, p_b)}  # fmt: skip
        rows.append(row)
    columns = ["first", "second", "on_first", "on_second", "interaction", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=columns)
    tested = table["p"].notna()
    table.loc[tested, "q"] = false_discovery_rate(table.loc[tested, "p"]) if tested.any() else np.nan
    return table.assign(dissociated=np.where(tested, np.where(table["q"] < ALPHA, "yes", "no"), "not tested"))


def _side(less: np.ndarray, scenes: np.ndarray, wordings: np.ndarray) -> tuple[float, float, int, float] | None:
    """The mean over steps; the larger standard error, its degrees of freedom and the larger one-sided p of means by
    scene and by wording; None with fewer than two of either."""
    means = [pd.Series(less).groupby(units).mean() for units in (scenes, wordings)]
    if min(map(len, means)) < 2:
        return None
    errors = [each.std(ddof=1) / len(each) ** 0.5 for each in means]
    wider = int(np.argmax(errors))
    p = max(tests.ttest_1samp(each, 0, alternative="less").pvalue for each in means)
    return float(less.mean()), float(errors[wider]), len(means[wider]) - 1, float(p)
