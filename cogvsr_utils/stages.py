"""The chain from answers to interventions, each stage kept under ``results/<model>/<profile>/`` and picked up again.

    run = Run("nano-internvl")      names the model, the profile and the folder; loads model and items when needed
    run.answers(split)              judged replies
    run.activations(split)          head features at the answers
    run.probe()                     the joint probe, its importance, its null and its spread over groups
    run.heads_table()               one row a function and head
    run.masked() ...                what removing, emphasising and steering heads does

A stage that is asked for computes what it needs from earlier ones and says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from .functions import NAMES
from .heads_table import head_table, top_heads
from .items import Item, fingerprint, load_items
from .paths import results_folder


@dataclass(frozen=True)
class Profile:
    """How much of everything: null fits, permutations, resamples, random sets, and items for each function's sets."""

    null_fits: int
    permutations: int
    resamples: int
    random_sets: int
    control_items: int


PROFILES = {
    "light": Profile(null_fits=5, permutations=200, resamples=500, random_sets=100, control_items=32),
    "full": Profile(null_fits=25, permutations=1000, resamples=2000, random_sets=200, control_items=480),
}
TOP_SHARE = 0.10  # the heads of a function that are removed: the share that CogVision (arXiv 2512.10300) takes
SCALES = (1.25, 1.5, 2.0)
STRENGTHS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Run:
    """One model under one profile; raises ValueError for an unknown profile or a folder made by other weights or data."""

    model: str
    quantize: str | None = None
    profile: str = "light"
    source: str = "synth"

    def __post_init__(self):
        object.__setattr__(self, "quantize", self.quantize or None)
        if self.profile not in PROFILES:
            raise ValueError(f"profile is {self.profile!r}; expected one of {tuple(PROFILES)}")

    @property
    def settings(self) -> Profile:
        return PROFILES[self.profile]

    @cached_property
    def folder(self) -> Path:
        return results_folder(self.model, self.quantize, self.profile)

    @cached_property
    def vlm(self):
        from .models import load_vlm

        vlm = load_vlm(self.model, quantize=self.quantize)
        items = [item for part in self.items.values() for item in part]
        made = {"weights": vlm.fingerprint, "data": fingerprint(items)}
        note = self.folder / "made_by.json"
        note.parent.mkdir(parents=True, exist_ok=True)
        if not note.exists():
            note.write_text(json.dumps(made))
        there = json.loads(note.read_text())
        if there != made:
            raise ValueError(f"{self.folder} was made by {there}, now {made}; delete it to run again")
        return vlm

    @cached_property
    def items(self) -> dict[str, list[Item]]:
        """Items by split: A to choose, B to tune, C to report, hard kept apart."""
        found = {}
        for item in load_items(self.source):
            found.setdefault(item.split, []).append(item)
        return found

    # ------------------------------------------------------------ answers and activations

    def answers(self, split: str, edits=None, name: str = "plain", steps: bool = True) -> pd.DataFrame:
        """Judged replies of a split, under ``edits`` if given; ``name`` tells such runs apart."""
        from .answering import answer
        from .judging import judge

        return self._table(
            f"answers/{split}-{name}", lambda: judge(answer(self.vlm, self.items[split], edits=edits, steps=steps))
        )

    def activations(self, split: str, answers_of: Run | None = None):
        """Features of every head at the answers of a split: its own, or those of another run of the same model."""
        from .capture import capture

        said = answers_of or self
        place = split if said is self else f"{split}-{said.quantize or 'full'}"
        return capture(
            self.vlm, self.items[split], store=self.folder / "activations" / place, answers=said.answers(split)
        )

    # ------------------------------------------------------------ which heads

    @cached_property
    def choosing(self):
        """Activations of split A, halves by group: the probe is fitted on one and its importance read on the other."""
        from .items import split_groups

        held = self.activations("A")
        half = split_groups(held.index["group_id"], {"fit": 0.6, "read": 0.4}, seed=0)
        return held, held.index["group_id"].map(half).to_numpy() == "fit"

    def probe(self) -> dict[str, np.ndarray]:
        """The joint probe: accuracy, importance (classes, heads), its null and its resamples over groups."""
        return self._arrays("probe", self._fit_probe)

    def _fit_probe(self):
        from .probes import FunctionProbe

        held, fit = self.choosing
        x, y = held.by_head(), held.index["function"].to_numpy()
        layers = held.heads.table["layer"].to_numpy()
        probe = FunctionProbe().fit(x[fit], y[fit], layers)
        report = self.activations("C")
        rng = np.random.default_rng(0)
        null = []
        for _ in tqdm(range(self.settings.null_fits), desc="null probes"):
            shuffled = rng.permutation(y)
            null.append(FunctionProbe().fit(x[fit], shuffled[fit], layers).importance(x[~fit], shuffled[~fit]))
        groups = held.index["group_id"].to_numpy()[~fit]
        names = np.unique(groups)
        each, code = probe.importance_by_item(x[~fit], y[~fit]), np.searchsorted(names, groups)
        label = np.searchsorted(probe.classes_, y[~fit])
        resampled = []
        for _ in range(self.settings.resamples):
            weight = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[code]
            resampled.append([(each[label == c] * weight[label == c, None]).sum(0) / max(weight[label == c].sum(), 1)
                              for c in range(len(probe.classes_))])  # fmt: skip
        return {
            "classes": probe.classes_.astype(str), "loss": np.array(probe.loss_),
            "predicted": probe.predict(report.by_head()).astype(str),
            "truth": report.index["function"].to_numpy().astype(str),
            "importance": probe.importance(x[~fit], y[~fit]), "null": np.array(null), "resampled": np.array(resampled),
        }  # fmt: skip

    def head_probes(self) -> dict[str, np.ndarray]:
        """Per-head ridge probes on A: AUROC, accuracy and the AUROC under labels shuffled within the step index."""

        def compute():
            from .probes import HeadProbes

            held = self.activations("A")
            probes = HeadProbes()
            given = held.by_head(), held.index["function"], held.index["group_id"]
            probes.fit(*given)
            null = probes.permuted(*given, held.index["step"], n=self.settings.permutations)
            return {"auroc": probes.auroc_, "accuracy": probes.accuracy_, "null": null,
                    "balanced_accuracy": probes.balanced_accuracy_}  # fmt: skip

        return self._arrays("head_probes", compute)

    def heads_table(self) -> pd.DataFrame:
        """One row a function and head; see ``heads_table.head_table``."""

        def compute():
            probe, single = self.probe(), self.head_probes()
            return head_table(self.vlm.heads, probe["classes"], probe["importance"], single["auroc"], single["null"])

        return self._table("heads", compute)

    # ------------------------------------------------------------ what they do

    @property
    def n_top(self) -> int:
        """How many heads are removed for each function."""
        return max(1, round(TOP_SHARE * len(self.vlm.heads)))

    def top(self, function: str) -> list[tuple[int, int]]:
        return top_heads(self.heads_table(), function, self.n_top)

    def masked(self) -> pd.DataFrame:
        """Paired change of every function's accuracy on C when one function's heads are removed; generated answers."""

        def compute():
            from .evaluation import compare
            from .interventions import mask

            before = self.answers("C")
            frames = []
            for name in tqdm(NAMES, desc="masking"):
                after = self.answers("C", edits=mask(self.top(name)), name=f"mask-{NAMES.index(name)}")
                frames.append(compare(after, before).assign(head_set=name, k=self.n_top, method="mask"))
            return pd.concat(frames, ignore_index=True)

        return self._table("masked", compute)

    def controls(self) -> pd.DataFrame:
        """Teacher-forced change of each function's own steps: its heads (set -1), and layer-matched random sets."""

        def compute():
            from .evaluation import Rehearsal
            from .interventions import mask, random_heads

            rng = np.random.default_rng(0)
            shuffled = [self.items["C"][i] for i in rng.permutation(len(self.items["C"]))]
            rows = []
            for name in tqdm(NAMES, desc="random sets"):
                asked = [item for item in shuffled if any(step.function == name for step in item.steps)]
                rehearsal = Rehearsal(self.vlm, asked[: self.settings.control_items])
                own = (rehearsal.index["function"] == name).to_numpy()
                plain = rehearsal.score()
                heads = self.top(name)
                sets = random_heads(self.vlm.heads.table, heads, self.settings.random_sets, seed=NAMES.index(name))
                for number, chosen in enumerate([heads, *sets]):
                    right = rehearsal.score(mask(chosen))
                    rows.append({"function": name, "set": number - 1, "n": int(own.sum()), "k": len(chosen),
                                 "accuracy_before": plain[own].mean(), "accuracy_after": right[own].mean(),
                                 "change": right[own].mean() - plain[own].mean()})  # fmt: skip
            return pd.DataFrame(rows)

        return self._table("controls", compute)

    def emphasised(self) -> pd.DataFrame:
        """Spatial heads scaled up: the factor is chosen on B, its effect reported on C."""

        def compute():
            from .interventions import scale

            heads = self._spatial()
            return self._tuned("scale", {factor: scale(heads, factor) for factor in SCALES})

        return self._table("emphasised", compute)

    def steered(self) -> pd.DataFrame:
        """Spatial heads pushed from wrong towards right answers (directions from A): chosen on B, reported on C."""

        def compute():
            from .interventions import directions, steer

            held, heads = self.activations("A"), self._spatial()
            rows = held.index["function"].isin(NAMES[:2]).to_numpy()
            ways = directions(held, heads, rows, held.index["correct"].to_numpy())
            return self._tuned("steer", {s: steer(heads, ways, s) for s in STRENGTHS})

        return self._table("steered", compute)

    def _spatial(self) -> list[tuple[int, int]]:
        return list(dict.fromkeys([*self.top(NAMES[0]), *self.top(NAMES[1])]))

    def _tuned(self, method: str, edits: dict) -> pd.DataFrame:
        """Try each strength on B by spatial steps and main questions, then run the best on C."""
        from .evaluation import compare

        frames = []
        for strength, edit in edits.items():
            after = self.answers("B", edits=edit, name=f"{method}-{strength}")
            frames.append(compare(after, self.answers("B")).assign(split="B", strength=strength))
        spatial = {s: f.loc[f["function"].isin(NAMES[:2]), "change"].mean() for s, f in zip(edits, frames, strict=True)}
        best = max(spatial, key=spatial.get)
        after = self.answers("C", edits=edits[best], name=f"{method}-{best}")
        frames.append(compare(after, self.answers("C")).assign(split="C", strength=best))
        return pd.concat(frames, ignore_index=True).assign(method=method)

    def quantized(self) -> Run:
        """The same run in 4-bit."""
        return replace(self, quantize="4bit")

    # ------------------------------------------------------------ keeping

    def _table(self, name: str, compute) -> pd.DataFrame:
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            found = compute().assign(model=self.model, quantize=self.quantize or "none", benchmark=self.source)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            found.to_parquet(partial)
            partial.replace(path)
        return pd.read_parquet(path)

    def _arrays(self, name: str, compute) -> dict[str, np.ndarray]:
        path = self.folder / f"{name}.npz"
        if not path.exists():
            found = compute()
            partial = path.with_suffix(".part")
            with partial.open("wb") as file:
                np.savez(file, **found)
            partial.replace(path)
        with np.load(path) as saved:
            return dict(saved)
