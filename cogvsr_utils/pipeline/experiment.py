"""An experiment: one model, on one data set, under one profile.

Experiment("nano-internvl")            names them, and the folder of their results; loads model and items when needed
experiment.items(split)                the items of a split
n_top(n_heads)                         how many heads are taken for each function
PROFILES                               how much of everything

Results are functions of an experiment: see ``store`` for how they are kept, and the other modules for what they are.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cogvsr_utils.dataset.images import items_digest
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.dataset.splits import CROSSED, SELECTION, TEST, TUNING
from cogvsr_utils.dataset.synth.build import built_stamp
from cogvsr_utils.files import digest
from cogvsr_utils.models.weights import QUANTIZE, weights_digest
from cogvsr_utils.paths import results_folder
from cogvsr_utils.pipeline.provenance import environment

if TYPE_CHECKING:
    from cogvsr_utils.models.vlm import VLM

ALL_SPLITS = (SELECTION, TUNING, TEST, "hard", *CROSSED.values())
TOP_SHARE = 0.10  # the share of all heads that is taken for a function, CogVision's (arXiv 2512.10300)


@dataclass(frozen=True)
class Profile:
    """How much of everything: fits to permuted labels and as many to resampled scenes, permutations, bootstrap draws,
    random sets of each kind, items for each function's controls, items for the ablation of single heads, repeats with
    planted heads, and random sets of heads on benchmarks."""

    null_fits: int
    permutations: int
    bootstrap: int
    matched_controls: int
    control_items: int
    ablation_items: int
    planted: int
    random_sets: int


PROFILES = {
    "light": Profile(
        null_fits=2, permutations=200, bootstrap=500, matched_controls=40, control_items=12, ablation_items=48,
        planted=1, random_sets=5,
    ),
    "full": Profile(
        null_fits=10, permutations=1000, bootstrap=2000, matched_controls=100, control_items=32, ablation_items=128,
        planted=10, random_sets=40,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """One model, quantized or not, on one data set under one profile, named or given.

    Raises ValueError for a quantization or profile that there is not, FileNotFoundError for a file of data that is not
    there, TypeError where a name is not text.

    ``splits`` are those whose items may be read, all of them but inside a result.

    >>> Experiment("Qwen/Qwen2.5-VL-7B-Instruct", "4bit").folder.parts[-3:]
    ('Qwen--Qwen2.5-VL-7B-Instruct-4bit', 'synth', 'light')
    """

    model: str
    quantize: str | None = None
    profile: str | Profile = "light"
    source: str = "synth"
    splits: tuple[str, ...] = ALL_SPLITS
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        for name, value in (("quantize", self.quantize or None), ("source", str(self.source))):
            object.__setattr__(self, name, value)
        if not self.model or not isinstance(self.model, str):
            raise TypeError(f"model is {self.model!r}; expected a nano name, a folder or a hub id")
        if self.quantize not in QUANTIZE:
            raise ValueError(f"quantize is {self.quantize!r}; expected one of {QUANTIZE}")
        if not isinstance(self.profile, Profile) and self.profile not in PROFILES:
            raise ValueError(f"profile is {self.profile!r}; expected one of {tuple(PROFILES)}")
        if self.source != "synth" and not Path(self.source).is_file():
            raise FileNotFoundError(f'no data at {self.source!r}; expected "synth" or the path of a .jsonl file')

    @property
    def settings(self) -> Profile:
        """How much of everything."""
        return self.profile if isinstance(self.profile, Profile) else PROFILES[self.profile]

    @property
    def title(self) -> str:
        """The model, and its quantization where there is one."""
        return f"{self.model} in {self.quantize}" if self.quantize else self.model

    @property
    def options(self) -> str:
        """The options that name this experiment on the command line of ``python -m cogvsr_utils.pipeline``."""
        given = {"model": self.model, "quantize": self.quantize, "profile": self.profile, "source": self.source}
        return " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in given.items() if value)

    @property
    def folder(self) -> Path:
        """Where results are kept."""
        profile = self.profile if isinstance(self.profile, str) else digest(repr(self.profile))
        return results_folder(self.model, self.quantize, self.source, profile)

    @property
    def vlm(self) -> VLM:
        """The loaded model."""
        return _load_vlm(self.model, self.quantize)

    def items(self, split: str) -> list[Item]:
        """The items of a split; raises PermissionError for one that may not be read here, ValueError for one not
        there."""
        if split not in self.splits:
            raise PermissionError(f"split {split!r} may not be read here; this result declares {self.splits}")
        by_split = _items_by_split(*self._data)
        if split not in by_split:
            raise ValueError(f"{self.source} has no split {split!r}; it has {sorted(by_split)}")
        return by_split[split]

    @property
    def present_splits(self) -> list[str]:
        """The splits that the data set has."""
        if self.source == "synth":  # known without building it
            return list(ALL_SPLITS)
        return list(_items_by_split(*self._data))

    @property
    def _data(self) -> tuple[str, str]:
        """The source, and what tells one state of its file from another."""
        if self.source == "synth":
            return self.source, ""
        path = Path(self.source).resolve()
        return str(path), digest(path.read_bytes())

    def quantized(self) -> Experiment:
        """The same in 4-bit."""
        return replace(self, quantize="4bit", _cache={})

    def restricted(self, splits: tuple[str, ...]) -> Experiment:
        """The same, reading only some splits."""
        return replace(self, splits=splits)

    def cached(self, name: str, compute: Callable[[], str]) -> str:
        """``compute()``, once for each name and state of the data's file."""
        file = None if self.source == "synth" else Path(self.source).stat()
        state = file and (file.st_mtime_ns, file.st_size)
        if (name, state) not in self._cache:
            self._cache[name, state] = compute()
        return self._cache[name, state]

    def data_digest(self, splits: tuple[str, ...]) -> str:
        """A hash that changes with the items of these splits."""
        if not splits:
            return ""
        if self.source == "synth":  # by what builds it, so that a plan can be made before it is built
            return digest(built_stamp().name, *splits)
        return self.cached(
            f"data {splits}", lambda: digest(*(items_digest(_items_by_split(*self._data).get(s, [])) for s in splits))
        )

    @property
    def weights_digest(self) -> str:
        """A hash that changes with the weights, without loading them."""
        return self.cached("weights", lambda: digest(weights_digest(self.model), self.quantize or ""))

    def made_on(self) -> dict[str, str]:
        """What a stamp records of the machine: commit, versions, device, model, profile."""
        return environment(self.title) | {"profile": self.folder.name, "source": self.source}


def n_top(n_heads: int) -> int:
    """How many of a model's heads are taken for each function.

    >>> n_top(48)
    5
    """
    return max(1, round(TOP_SHARE * n_heads))


@lru_cache(maxsize=2)
def _load_vlm(model: str, quantize: str | None):
    from cogvsr_utils.models.loading import load_vlm

    return load_vlm(model, quantize=quantize)


@lru_cache(maxsize=2)
def _items_by_split(source: str, state: str) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for item in load_items(source):
        found.setdefault(item.split, []).append(item)
    return found
