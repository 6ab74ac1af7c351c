"""What do a function's heads do? Remove them, emphasise them, steer them; tuned on B, reported on C.

masked(run)                     a function's heads removed, all of C answered again
random_sets(run, tops)          the same against random heads of the same layers and like output norm
against_random(sets)            what comes of it, by function; all_against_random, over all of them
emphasised(run)                 spatial heads scaled up
steered(run)                    spatial heads pushed towards right answers
"""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
from tqdm import tqdm

from ..attribution import output_norms
from ..evaluation import compare
from ..functions import NAMES
from ..heads_table import top_heads
from ..interventions import directions, mask, random_heads, scale, steer
from ..items import short_hash
from . import Run
from .choose import heads_table

SCALES = (1.25, 1.5, 2.0)
STRENGTHS = (0.5, 1.0, 2.0)


def top(run: Run, function: str) -> list[tuple[int, int]]:
    return top_heads(heads_table(run), function, run.n_top)


def masked(run: Run) -> pd.DataFrame:
    """Paired change of every function's accuracy on C when one function's heads are removed; generated answers."""

    def compute():
        before = run.answers("C")
        frames = []
        for name in tqdm(NAMES, desc="masking"):
            after = run.answers("C", edits=mask(top(run, name)), name=f"mask-{NAMES.index(name)}")
            frames.append(compare(after, before).assign(head_set=name, k=run.n_top, method="mask"))
        return pd.concat(frames, ignore_index=True)

    return run.table("masked", compute)


def random_sets(run: Run, tops: dict[str, list[tuple[int, int]]]) -> pd.DataFrame:
    """Teacher-forced change of each function's own steps on C: its heads in ``tops`` (set -1), and matched random sets.

    These are ``interventions.random_heads``'s, of like output norm. Columns: function, set, n, k, norm, same_layer (share of
    the heads in layers as the function's heads have them), change, nats.
    """

    def compute():
        places, rows, norms = run.vlm.heads, [], output_norms(run.vlm, run.activations("A"))
        norm = dict(zip(places.pairs, norms, strict=True))
        for function, heads in tqdm(tops.items(), desc="random sets"):
            rehearsal = run.rehearsal("C", run.settings.control_items, function)
            own = (rehearsal.index["function"] == function).to_numpy()
            right, told = rehearsal.run()
            sets = random_heads(places.table, heads, run.settings.random_sets, NAMES.index(function), norms)
            wanted = Counter(layer for layer, _ in heads)
            for number, drawn in enumerate([heads, *sets]):
                after, after_told = rehearsal.run(mask(drawn))
                same = (wanted & Counter(layer for layer, _ in drawn)).total()
                rows.append({"function": function, "set": number - 1, "n": int(own.sum()), "k": len(drawn),
                             "norm": sum(norm[head] for head in drawn), "same_layer": same / len(drawn),
                             "change": after[own].mean() - right[own].mean(),
                             "nats": (after_told - told)[own].mean()})  # fmt: skip
        return pd.DataFrame(rows)

    tops = {function: [tuple(map(int, head)) for head in heads] for function, heads in sorted(tops.items())}
    return run.table(f"random_sets-{short_hash(json.dumps(tops))}", compute)


def against_random(sets: pd.DataFrame) -> pd.DataFrame:
    """Each function's heads beside its random sets, from ``random_sets``, in the order of ``NAMES``.

    Columns: function, n, k, change, random_mean, random_low, random_high (95 % of the sets), sets, norm, random_norm,
    same_layer, p (one-sided: that a random set costs as much).
    """
    rows = []
    for function, part in sets.groupby("function"):
        own, random = part[part["set"] == -1].iloc[0], part[part["set"] >= 0]
        low, high = random["change"].quantile([0.025, 0.975])
        rows.append({"function": function, "n": own["n"], "k": own["k"], "change": own["change"],
                     "random_mean": random["change"].mean(), "random_low": low, "random_high": high, "sets": len(random),
                     "norm": own["norm"], "random_norm": random["norm"].mean(), "same_layer": random["same_layer"].mean(),
                     "p": (1 + (random["change"] <= own["change"]).sum()) / (1 + len(random))})  # fmt: skip
    return pd.DataFrame(rows).set_index("function").loc[[n for n in NAMES if n in set(sets["function"])]].reset_index()


def all_against_random(sets: pd.DataFrame, column: str = "change", n: int = 2000) -> dict[str, float]:
    """The mean over functions of ``random_sets``'s ``column``: of the functions' heads (``own``), of random sets (``mean``,
    ``low``, ``high``: 95 % when one is drawn for each function), and ``p`` that these cost as much. Functions for which no
    matched set was found are left out."""
    rng, parts = np.random.default_rng(0), [part.set_index("set")[column] for _, part in sets.groupby("function")]
    parts = [part for part in parts if len(part) > 1]
    own = np.mean([part[-1] for part in parts])
    draws = np.mean([rng.choice(part.drop(-1), n) for part in parts], axis=0)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"own": own, "mean": draws.mean(), "low": low, "high": high, "p": (1 + (draws <= own).sum()) / (1 + n)}


def emphasised(run: Run) -> pd.DataFrame:
    """Spatial heads scaled up: the factor is chosen on B, its effect reported on C."""

    def compute():
        heads = _spatial(run)
        return _tuned(run, "scale", {factor: scale(heads, factor) for factor in SCALES})

    return run.table("emphasised", compute)


def steered(run: Run) -> pd.DataFrame:
    """Spatial heads pushed from wrong towards right answers (directions from A): chosen on B, reported on C."""

    def compute():
        held, heads = run.activations("A"), _spatial(run)
        rows = held.index["function"].isin(NAMES[:2]).to_numpy()
        ways = directions(held, heads, rows, held.index["correct"].to_numpy())
        return _tuned(run, "steer", {s: steer(heads, ways, s) for s in STRENGTHS})

    return run.table("steered", compute)


def _spatial(run: Run) -> list[tuple[int, int]]:
    return list(dict.fromkeys([*top(run, NAMES[0]), *top(run, NAMES[1])]))


def _tuned(run: Run, method: str, edits: dict) -> pd.DataFrame:
    """Try each strength on B by spatial steps, then run the best on C."""
    frames = []
    for strength, edit in edits.items():
        after = run.answers("B", edits=edit, name=f"{method}-{strength}")
        frames.append(compare(after, run.answers("B")).assign(split="B", strength=strength))
    spatial = {s: f.loc[f["function"].isin(NAMES[:2]), "change"].mean() for s, f in zip(edits, frames, strict=True)}
    best = max(spatial, key=spatial.get)
    after = run.answers("C", edits=edits[best], name=f"{method}-{best}")
    frames.append(compare(after, run.answers("C")).assign(split="C", strength=best))
    return pd.concat(frames, ignore_index=True).assign(method=method)
