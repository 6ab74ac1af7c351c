"""What do a function's heads do? Remove them, emphasise them, steer them; tuned on B, reported on C.

masked(run)                     a function's heads removed, all of C answered again
random_sets(run, name, tops)    the same against random heads of the same layers and output norms
emphasised(run)                 spatial heads scaled up
steered(run)                    spatial heads pushed towards right answers
"""

from __future__ import annotations

import pandas as pd
from tqdm import tqdm

from ..attribution import output_norms
from ..evaluation import compare
from ..functions import NAMES
from ..heads_table import top_heads
from ..interventions import directions, mask, random_heads, scale, steer
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


def random_sets(run: Run, name: str, tops: dict[str, list[tuple[int, int]]]) -> pd.DataFrame:
    """Teacher-forced change of each function's own steps on C: its heads in ``tops`` (set -1), and random sets.

    These have as many heads in each layer, none of them chosen, and of all such draws the nearest summed output norms.
    Columns: function, set, n, k, norm, accuracy_before, change, elsewhere (change of other functions' steps in the same
    chats), nats. ``name`` tells such runs apart.
    """

    def compute():
        heads_of, rows, norms = run.vlm.heads, [], output_norms(run.vlm, run.activations("A"))
        norm = dict(zip(heads_of.pairs, norms, strict=True))
        for function, heads in tqdm(tops.items(), desc="random sets"):
            rehearsal = run.rehearsal("C", run.settings.control_items, function)
            own = (rehearsal.index["function"] == function).to_numpy()
            right, told = rehearsal.run()
            sets = random_heads(heads_of.table, heads, run.settings.random_sets, NAMES.index(function), norms)
            for number, drawn in enumerate([heads, *sets]):
                after, after_told = rehearsal.run(mask(drawn))
                changed = after.astype(float) - right
                rows.append({"function": function, "set": number - 1, "n": int(own.sum()), "k": len(drawn),
                             "norm": sum(norm[head] for head in drawn), "accuracy_before": right[own].mean(),
                             "change": changed[own].mean(), "elsewhere": changed[~own].mean(),
                             "nats": (after_told - told)[own].mean()})  # fmt: skip
        return pd.DataFrame(rows)

    return run.table(f"random_sets-{name}", compute)


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
    """Try each strength on B by spatial steps and main questions, then run the best on C."""
    frames = []
    for strength, edit in edits.items():
        after = run.answers("B", edits=edit, name=f"{method}-{strength}")
        frames.append(compare(after, run.answers("B")).assign(split="B", strength=strength))
    spatial = {s: f.loc[f["function"].isin(NAMES[:2]), "change"].mean() for s, f in zip(edits, frames, strict=True)}
    best = max(spatial, key=spatial.get)
    after = run.answers("C", edits=edits[best], name=f"{method}-{best}")
    frames.append(compare(after, run.answers("C")).assign(split="C", strength=best))
    return pd.concat(frames, ignore_index=True).assign(method=method)
