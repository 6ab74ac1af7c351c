"""Models in which known heads carry each function: the yardstick for every way of finding heads.

PlantedTruth                 which heads carry which function
planted_truth(name)          that of a model, from the planted.json of its folder
score_heads(scores, ...)     how well scores of (function, head) find them
score_method(method, ...)    the same of a method, on planted models
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.dataset.splits import SELECTION
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.weights import find_weights, planted_names
from cogvsr_utils.paths import MEASURED
from cogvsr_utils.stats import descending_places

if TYPE_CHECKING:
    from cogvsr_utils.dataset.items import Item
    from cogvsr_utils.models.vlm import VLM


@dataclass(frozen=True)
class PlantedTruth:
    """``heads`` maps each function to the heads (layer, head) that carry it; ``variant`` tells how: one head, several
    each of which is enough (redundant), several that are all needed (joint), shared with another function, or none."""

    variant: str
    heads: dict[str, list[tuple[int, int]]]

    def carries(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Whether each head of ``pairs`` carries each function: (functions in the order of ``NAMES``, heads)."""
        return np.array([[tuple(pair) in self.heads[name] for pair in pairs] for name in NAMES])


def planted_truth(name: str) -> PlantedTruth:
    """The truth of a planted model, by its name or folder, or by the name of one whose tables alone are kept; raises
    ValueError for a model without one.

    >>> planted_truth("nano-internvl")
    Traceback (most recent call last):
    ValueError: 'nano-internvl' has no planted.json; expected a planted model
    """
    places = (Path(find_weights(name)) / "planted.json", MEASURED / name / "planted.json")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(f"{name!r} has no planted.json; expected a planted model")
    saved = json.loads(path.read_text())
    heads = {function: [(int(layer), int(head)) for layer, head in each] for function, each in saved["heads"].items()}
    return PlantedTruth(saved["variant"], heads)


def score_heads(scores: np.ndarray, truth: PlantedTruth, pairs: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """How well ``scores`` (functions in the order of ``NAMES``, heads as in ``pairs``) find the planted heads.

    Columns: function, planted (heads), precision (of the first as many as are planted), recall (of them, in the first
    tenth), rank (mean place of the planted heads, from 0), chance_precision, chance_rank, auroc, average_precision; for
    a selection (boolean scores) also selected and false (heads selected that do not carry the function). Higher scores
    come first; of equal ones the earlier head, but for rank, where they share their mean place. Raises ValueError for
    other shapes and numbers that are not finite.

    >>> pairs = [(0, head) for head in range(20)]
    >>> truth = PlantedTruth("one head", {name: [(0, number)] for number, name in enumerate(NAMES)})
    >>> table = score_heads(truth.carries(pairs), truth, pairs)  # a method that selects just the planted heads
    >>> bool((table["precision"] == 1).all()), int(table["false"].sum())
    (True, 0)
    """
    scores, carries = np.asarray(scores), truth.carries(pairs)
    if scores.shape != carries.shape or not np.isfinite(scores.astype(float)).all():
        raise ValueError(
            f"scores have shape {scores.shape}; expected finite numbers (functions, heads) {carries.shape}"
        )
    rows = []
    for name, each, real in zip(NAMES, scores, carries, strict=True):
        row = {"function": name, "planted": int(real.sum())}
        if real.any():
            places, n = descending_places(each.astype(float)), int(real.sum())
            row |= {
                "precision": (places < n)[real].sum() / n, "chance_precision": n / len(real),
                "recall": (places < round(0.1 * len(real)))[real].mean(),
                "rank": rankdata(-each.astype(float))[real].mean() - 1, "chance_rank": (len(real) - 1) / 2,
                "auroc": roc_auc_score(real, each), "average_precision": average_precision_score(real, each),
            }  # fmt: skip
        if scores.dtype == bool:
            row |= {"selected": int(each.sum()), "false": int((each & ~real).sum())}
        rows.append(row)
    return pd.DataFrame(rows)


def score_method(
    method: Callable[[VLM, list[Item]], np.ndarray],
    models: Sequence[str] | None = None,
    items: list[Item] | None = None,
) -> pd.DataFrame:
    """How well a way of finding heads finds those that were planted.

    ``method(vlm, items)`` gives a score, or whether it selects, for each (function in the order of ``NAMES``, head);
    ``models`` are planted models, all shipped ones if none are named; ``items`` those of CogVSR-Synth's split A unless
    others are given. Returns ``score_heads``'s columns after model and variant.

    >>> from cogvsr_utils import score_method
    >>> def first_heads(vlm, items):
    ...     return -np.tile(np.arange(len(vlm.heads.pairs)), (8, 1))
    >>> table = score_method(first_heads, items=[])
    >>> bool(table["recall"].between(0, 1).all())
    True
    """
    from cogvsr_utils.models.loading import load_vlm

    items = load_items("synth", split=SELECTION) if items is None else items
    tables = []
    for name in planted_names() if models is None else models:
        vlm, truth = load_vlm(name), planted_truth(name)
        table = score_heads(method(vlm, items), truth, vlm.heads.pairs)
        table.insert(0, "model", name)
        table.insert(1, "variant", truth.variant)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
