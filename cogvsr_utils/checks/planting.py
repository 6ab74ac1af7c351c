"""Plant a function's signal in known heads and measure which rule finds it, and what else it finds.

plant(x, labels, heads, strength, rng)        activations with a signal of known strength in known heads
trial(x, labels, groups, strata, ...)         one planted truth, every rule: found, false, missed
trials(x, labels, groups, strata, ...)        many of them, a DataFrame
power(table)                                  power, false discoveries and bias of every rule
selections_of_nothing(table)                  how often a rule selects any head where nothing is planted

Labels are shuffled first, so that nothing but what is planted depends on a function.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from tqdm import tqdm

from cogvsr_utils.analysis.head_probes import HeadProbes
from cogvsr_utils.analysis.joint_probe import FunctionProbe
from cogvsr_utils.stats import ALPHA, elbow, max_t_test, shuffle_within, wilson


def plant(
    x: np.ndarray, labels: ArrayLike, heads: dict[str, list[int]], strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Activations (steps, heads, head_dim) in which a function's steps stand apart in its heads.

    ``heads`` maps a function to the numbers of its heads. In each a direction is drawn; the function's steps are moved
    along it by ``strength`` standard deviations of the head's columns. Nothing is moved where the strength is 0.
    """
    x, labels = x.copy(), np.asarray(labels)
    for function, numbers in heads.items():
        for head in numbers:
            direction = rng.normal(size=x.shape[2])
            x[labels == function, head] += strength * x[:, head].std(0) * direction / np.linalg.norm(direction)
    return x


def trial(
    x: np.ndarray,
    labels: ArrayLike,
    groups: ArrayLike,
    strata: ArrayLike,
    layers: np.ndarray,
    strength: float,
    n_heads: int,
    permutations: int,
    joint: bool,
    seed: int,
) -> list[dict]:
    """One truth of ``n_heads`` heads a function, and what each rule selects.

    Rules: ``max-T`` and ``FDR`` of each head's strength at 5 %; ``elbow, single heads`` of the same strengths; and,
    where ``joint``, ``elbow, joint probe``, the paper's. Returns rows: strength, seed, rule, functions, planted,
    selected (pairs of head and function), of these found (planted), crossed (the head is planted for another function,
    so it carries a little of this one) and false (the head is planted for none).
    """
    rng = np.random.default_rng(seed)
    labels = shuffle_within(labels, strata, rng)
    functions = np.unique(labels)
    truth = {name: list(rng.choice(x.shape[1], n_heads, replace=False)) for name in functions} if strength else {}
    planted = plant(x, labels, truth, strength, rng)
    probes = HeadProbes(seed=seed)
    probes.fit(planted, labels, groups)
    null = probes.permuted(planted, labels, groups, strata, permutations)
    test = max_t_test(probes.strength_, null)
    selected = {"max-T": test.p_max < ALPHA, "FDR": test.q < ALPHA}  # each (functions, heads)
    selected["elbow, single heads"] = np.stack([_before_elbow(row.clip(min=0)) for row in probes.strength_])
    if joint:
        importance = FunctionProbe("paper", seed=seed).fit(planted, labels, groups, layers).importance_
        selected["elbow, joint probe"] = np.stack([_before_elbow(np.abs(row)) for row in importance])
    real = np.zeros((len(functions), x.shape[1]), dtype=bool)
    for f, name in enumerate(functions):
        real[f, truth.get(name, [])] = True
    anywhere = real.any(0)  # heads planted for some function
    return [
        {"strength": strength, "seed": seed, "rule": rule, "functions": len(functions), "planted": int(real.sum()),
         "selected": int(chosen.sum()), "found": int((chosen & real).sum()),
         "crossed": int((chosen & ~real)[:, anywhere].sum()), "false": int(chosen[:, ~anywhere].sum())}
        for rule, chosen in selected.items()
    ]  # fmt: skip


def trials(
    x: np.ndarray,
    labels: ArrayLike,
    groups: ArrayLike,
    strata: ArrayLike,
    layers: np.ndarray,
    repeats: dict[float, int],
    permutations: int = 60,
    n_heads: int = 3,
) -> pd.DataFrame:
    """Each strength ``repeats`` times; see ``trial``. A DataFrame.

    The joint probe, which takes long, is fitted in the first repeat of each strength.
    """
    plans = [(strength, repeat) for strength, n in repeats.items() for repeat in range(n)]
    rows = []
    for strength, repeat in tqdm(plans, desc="planted heads"):
        rows += trial(x, labels, groups, strata, layers, strength, n_heads, permutations, repeat == 0, seed=repeat)
    return pd.DataFrame(rows)


def power(table: pd.DataFrame) -> pd.DataFrame:
    """Power, false discoveries and bias of counts of each rule at each strength.

    Columns: rule, strength, repeats, power (planted pairs that are found), crossed_share and false_share (of the
    selected, those in heads planted for another function, and for none; 0 where none is selected), any_false (share of
    repeats with a false one), bias (selected less planted, heads a function).
    """
    rows = []
    for (rule, strength), part in table.groupby(["rule", "strength"], sort=False):
        share = part[["crossed", "false"]].div(part["selected"].clip(lower=1), axis=0).mean()
        rows.append({"rule": rule, "strength": strength, "repeats": len(part),
                     "power": part["found"].sum() / part["planted"].sum() if part["planted"].any() else np.nan,
                     "crossed_share": share["crossed"], "false_share": share["false"],
                     "any_false": (part["false"] > 0).mean(),
                     "bias": ((part["selected"] - part["planted"]) / part["functions"]).mean()})  # fmt: skip
    return pd.DataFrame(rows)


def selections_of_nothing(table: pd.DataFrame) -> pd.DataFrame:
    """How often each rule selects any head where nothing is planted. Columns: rule, repeats, any_selected, ci_low,
    ci_high (Wilson), heads_a_function."""
    rows = []
    for rule, part in table[table["strength"] == 0].groupby("rule", sort=False):
        share, low, high = wilson(part["false"] > 0)
        rows.append({"rule": rule, "repeats": len(part), "any_selected": share, "ci_low": low, "ci_high": high,
                     "heads_a_function": (part["selected"] / part["functions"]).mean()})  # fmt: skip
    return pd.DataFrame(rows)


def _before_elbow(values: np.ndarray) -> np.ndarray:
    """The values before the elbow, boolean (heads,)."""
    chosen = np.zeros(len(values), dtype=bool)
    chosen[np.argsort(-values)[: elbow(values)]] = True
    return chosen
