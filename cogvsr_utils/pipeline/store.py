"""Results: declared once, made once, valid only for what made them.

@result(...)                  declares a function of an experiment as a result
name(experiment)              its value: the kept one where it is valid, else made now, with what it needs
name.key(experiment)          what it is valid for: code, settings, data, weights, arguments and the results it needs
name.stamp_path(experiment)   the file that marks it whole; written last

A key is part of the file's name, so that a result of other code, settings, data or weights is never taken for it.
Tables are kept as parquet, dataclasses of arrays as npz, activations as a store of their own; nothing is pickled.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pandas as pd
from filelock import FileLock

from cogvsr_utils.files import OtherSettings, digest, read_whole, replacing
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.source_code import code_digest

# What enters a key by its value, or concerns where and by whom a result is kept, does not count as code.
BY_THEMSELVES = frozenset({"PROFILES", "built_stamp", "load_items", "weights_digest", "results_folder", "environment"})

log = logging.getLogger(__name__)
DECLARED: dict[str, Result] = {}  # every result by name, in the order of declaration


@dataclass(frozen=True, eq=False)
class Result:
    """One result: ``make(experiment, [variant,] **needs)``, its ``needs`` by argument name, and the ``splits`` that it
    may read; ``gpu`` where it runs a model."""

    name: str
    make: Callable
    needs: dict[str, Result] = field(default_factory=dict)
    splits: tuple[str, ...] = ()
    gpu: bool = False
    variant: tuple[str, ...] = ()

    def key(self, experiment: Experiment) -> str:
        """Sixteen characters that change with the code, the settings, the data, the weights, the arguments or a
        need."""
        return experiment.cached(self.name, lambda: digest(json.dumps(self._parts(experiment), sort_keys=True)))

    def stamp_path(self, experiment: Experiment) -> Path:
        """The JSON file beside the data, written last, which records what made it."""
        return experiment.folder / f"{self.name}.{self.key(experiment)}.json"

    def data_path(self, experiment: Experiment) -> Path:
        """The kept data: a parquet or npz file, or the folder of activations."""
        kind = get_type_hints(self.make)["return"]
        suffix = ".parquet" if kind is pd.DataFrame else "" if hasattr(kind, "open") else ".npz"
        return experiment.folder / f"{self.name}.{self.key(experiment)}{suffix}"

    def is_kept(self, experiment: Experiment) -> bool:
        """Whether a valid result is there."""
        return self.stamp_path(experiment).is_file() and self.data_path(experiment).exists()

    def all_needs(self) -> Iterator[Result]:
        """Every result that this one rests on, the deepest first, possibly more than once."""
        for need in self.needs.values():
            yield from need.all_needs()
            yield need

    def __call__(self, experiment: Experiment) -> Any:
        if not self.is_kept(experiment):
            needed = {name: need(experiment) for name, need in self.needs.items()}
            experiment.folder.mkdir(parents=True, exist_ok=True)
            # One maker at a time; who waits takes what the other made. A killed process leaves no lock behind.
            with FileLock(experiment.folder / f".{self.name}.lock"):
                if not self.is_kept(experiment):
                    self._make(experiment, needed)
        path, kind = self.data_path(experiment), get_type_hints(self.make)["return"]

        def read(path):
            if kind is pd.DataFrame:
                return pd.read_parquet(path)
            if hasattr(kind, "open"):
                return kind.open(path)
            with np.load(path) as saved:
                return _from_arrays(kind, dict(saved))

        return read_whole(path, read, f"take {path} away to have {self.name} made anew")

    def _make(self, experiment: Experiment, needed: dict[str, Any]):
        log.info("making %s for %s", self.name, experiment.title)
        path, start = self.data_path(experiment), time.perf_counter()
        scope = experiment.restricted(self.splits)
        # Where what is made keeps itself, and where what took long before it was whole is kept meanwhile.
        resume = path.with_name(f"{self.name}.{self.key(experiment)}.begun.json")
        beside = {"store": path, "resume": resume}
        needed |= {name: beside[name] for name in inspect.signature(self.make).parameters if name in beside}
        try:
            value = self.make(scope, *self.variant, **needed)
        except OtherSettings as error:  # such as other versions of libraries; what was begun with them is no result
            log.warning("%s is begun anew: %s", self.name, error)
            resume.unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
            value = self.make(scope, *self.variant, **needed)
        if isinstance(value, pd.DataFrame):
            with replacing(path) as partial:
                value.to_parquet(partial)
        elif not hasattr(value, "open"):
            with replacing(path) as partial:
                np.savez(partial, **_to_arrays(value))
        stamp = {"result": self.name, "key": self.key(experiment), **self._parts(experiment), **experiment.made_on(),
                 "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip
        with replacing(self.stamp_path(experiment)) as partial:
            partial.write_text(json.dumps(stamp, indent=1))
        resume.unlink(missing_ok=True)
        self._remove_older(experiment)

    def _parts(self, experiment: Experiment) -> dict:
        """What the result is valid for."""
        return {
            "code": code_digest(self.make, BY_THEMSELVES),
            "settings": asdict(experiment.settings),
            "data": experiment.data_digest(self.splits),
            "weights": experiment.weights_digest,
            "arguments": list(self.variant),
            "needs": {name: need.key(experiment) for name, need in self.needs.items()},
        }

    def _remove_older(self, experiment: Experiment):
        """Delete what was kept under the same name for other keys, and what killed makers left half written."""
        current = self.key(experiment)
        for partial in experiment.folder.glob(f".{self.name}.*.part*"):
            partial.unlink()
        for path in experiment.folder.glob(f"{self.name}.*"):
            if path.name.split(".")[1] != current:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Variants:
    """Results of one function for several arguments: ``answers["C"]``."""

    results: dict[str, Result]

    def __getitem__(self, variant: str) -> Result:
        if variant not in self.results:
            raise KeyError(f"no variant {variant!r}; expected one of {list(self.results)}")
        return self.results[variant]


def result(
    *,
    needs: dict[str, Result] | Callable | None = None,
    splits: tuple[str, ...] = (),
    gpu: bool = False,
    variants: tuple[str, ...] = (),
) -> Callable:
    """Declare ``make(experiment, **needs)`` as a result, or ``make(experiment, variant, **needs)`` as one for each
    variant.

    An argument named as a result declared before is that result; ``needs`` maps other argument names to results, and
    ``splits`` are those whose items may be read; both may be functions of the variant. The type that ``make`` returns
    decides how it is kept; a function with an argument ``store`` is given the path to keep its data at, one with
    ``resume`` a file to keep what it has done until it is whole.
    """

    def declare(make: Callable):
        arguments = list(inspect.signature(make).parameters.values())[2 if variants else 1 :]
        named = {each.name: DECLARED[each.name] for each in arguments if each.name in DECLARED}

        def one(name, *variant):
            more, may_read = (value(*variant) if callable(value) else value for value in (needs, splits))
            for each in arguments:
                optional = each.default is not each.empty or each.kind is each.VAR_KEYWORD
                if not (optional or each.name in named or each.name in ("store", "resume", *(more or ()))):
                    raise TypeError(f"{name} takes {each.name!r}; expected a result declared before, or in needs")
            if name in DECLARED:
                raise ValueError(f"two results are named {name!r}; expected one")
            DECLARED[name] = Result(name, make, named | (more or {}), may_read, gpu, variant)
            return DECLARED[name]

        if not variants:
            return one(make.__name__)
        return Variants({each: one(f"{make.__name__}-{_slug(each)}", each) for each in variants})

    return declare


def _slug(text: str) -> str:
    """A variant as a part of a file's name.

    >>> _slug("importance (paper)")
    'importance_paper'
    """
    return re.sub(r"\W+", "_", text).strip("_")


def _to_arrays(value) -> dict[str, np.ndarray]:
    """A dataclass of arrays, strings and dictionaries of arrays as the entries of one npz file."""
    arrays = {}
    for each in fields(value):
        content = getattr(value, each.name)
        if isinstance(content, dict):
            arrays |= {f"{each.name}/{key}": np.asarray(array) for key, array in content.items()}
        else:
            array = np.asarray(content)
            arrays[each.name] = array.astype(str) if array.dtype == object else array
    return arrays


def _from_arrays(kind: type, arrays: dict[str, np.ndarray]):
    """The dataclass that ``_to_arrays`` took apart."""
    given: dict[str, Any] = {}
    for key, array in arrays.items():
        name, _, inner = key.partition("/")
        if inner:
            given.setdefault(name, {})[inner] = array
        else:
            given[name] = array
    return kind(**given)
