"""The chain from answers to interventions, each stage kept under ``results/<model>/<profile>/`` and picked up again.

    run = Run("nano-internvl")      names the model, the profile and the folder; loads model and items when needed
    run.answers(split)              judged replies
    run.activations(split)          head features at the answers
    run.rehearsal(split, n)         some items of a split, for many teacher-forced runs

    choose                          stages that tell which heads serve a function, and how sure that is
    remove                          stages that remove, emphasise and steer them
    validate                        stages that ask whether the choosing can be believed

A stage is a function of the run; one that is asked for computes what it needs from earlier ones and says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ..items import Item, fingerprint, load_items, short_hash
from ..paths import results_folder


@dataclass(frozen=True)
class Profile:
    """How much of everything: null fits, permutations, resamples, random sets, items for each function's sets, items for
    the removal of single heads, and repeats with planted heads."""

    null_fits: int
    permutations: int
    resamples: int
    random_sets: int
    control_items: int
    effect_items: int
    planted: int


PROFILES = {
    "light": Profile(
        null_fits=4, permutations=200, resamples=500, random_sets=100, control_items=24, effect_items=96, planted=10
    ),
    "full": Profile(
        null_fits=25,
        permutations=1000,
        resamples=2000,
        random_sets=200,
        control_items=480,
        effect_items=480,
        planted=25,
    ),
}
TOP_SHARE = 0.10  # the heads of a function that are removed: the share that CogVision (arXiv 2512.10300) takes


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
        from ..models import load_vlm

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

    def answers(self, split: str, edits=None, name: str = "plain", steps: bool = True) -> pd.DataFrame:
        """Judged replies of a split, under ``edits`` if given; ``name`` and the edits tell such runs apart."""
        from ..answering import answer
        from ..judging import judge

        name += "" if edits is None else f"-{short_hash(edits.to_json())}"
        return self.table(
            f"answers/{split}-{name}", lambda: judge(answer(self.vlm, self.items[split], edits=edits, steps=steps))
        )

    def activations(self, split: str, answers_of: Run | None = None):
        """Features of every head at the answers of a split: its own, or those of another run of the same model."""
        from ..capture import capture

        said = answers_of or self
        place = split if said is self else f"{split}-{said.quantize or 'full'}"
        return capture(
            self.vlm, self.items[split], store=self.folder / "activations" / place, answers=said.answers(split)
        )

    def rehearsal(self, split: str, n: int, function: str | None = None):
        """``n`` items of a split, drawn at random, for many teacher-forced runs.

        With a function, items that ask for it, each up to the last step that does: what comes after cannot change it.
        """
        from ..evaluation import Rehearsal

        items = [self.items[split][i] for i in np.random.default_rng(0).permutation(len(self.items[split]))]
        if function:
            asked = [max((i for i, s in enumerate(x.steps) if s.function == function), default=-1) for x in items]
            items = [replace(x, steps=x.steps[: i + 1]) for x, i in zip(items, asked, strict=True) if i >= 0]
        return Rehearsal(self.vlm, items[:n])

    @property
    def n_top(self) -> int:
        """How many heads are taken for each function."""
        return max(1, round(TOP_SHARE * len(self.vlm.heads)))

    def quantized(self) -> Run:
        """The same run in 4-bit."""
        return replace(self, quantize="4bit")

    def table(self, name: str, compute) -> pd.DataFrame:
        """The table ``compute()``, or the one kept under ``name``."""
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            found = compute().assign(model=self.model, quantize=self.quantize or "none", benchmark=self.source)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            found.to_parquet(partial)
            partial.replace(path)
        return pd.read_parquet(path)

    def arrays(self, name: str, compute) -> dict[str, np.ndarray]:
        """The arrays ``compute()``, or those kept under ``name``."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            found = compute()
            partial = path.with_suffix(".part")
            with partial.open("wb") as file:
                np.savez(file, **found)
            partial.replace(path)
        with np.load(path) as saved:
            return dict(saved)
