import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvsr_utils.functions import FUNCTIONS, NAMES
from cogvsr_utils.scarcity import equalise, head_counts, removal_counts, scarcity, spatial_difference

CLASSES = sorted(NAMES)
SPATIAL = np.array([{f.name: f.spatial for f in FUNCTIONS}[name] for name in CLASSES])
LAYERS = np.repeat(np.arange(4), 10)


def importances(n, sharp, rng):
    """Draws (n, classes, heads) of noise, one head ten times the rest for the classes in ``sharp``."""
    draws = rng.random((n, 8, 40))
    draws[:, sharp, -1] += 10
    return draws


def test_a_sharp_function_is_told_from_noise():
    rng = np.random.default_rng(0)
    null, again = importances(30, [], rng), importances(50, SPATIAL, rng)
    table = scarcity(again[0], null, again, CLASSES, LAYERS).set_index(["statistic", "function"])
    for name, spatial in zip(CLASSES, SPATIAL, strict=True):
        row = table.loc[("hoyer", name)]
        assert (row["value"] > row["null_high"]) == spatial and row["low"] <= row["value"] <= row["high"]
        assert table.loc[("elbow", name), "value"] == 1 or not spatial
    depth = table.loc["depth"]["value"]
    assert depth[SPATIAL[[NAMES.index(n) for n in CLASSES]]].min() > 0 and depth.between(0, 1).all()


def test_spatial_difference_says_scarcer_only_where_all_resamples_agree():
    rng = np.random.default_rng(0)
    assert set(spatial_difference(importances(50, SPATIAL, rng), CLASSES)["scarcer"]) == {"yes"}
    assert set(spatial_difference(importances(50, ~SPATIAL, rng), CLASSES)["scarcer"]) == {"no"}
    assert set(spatial_difference(importances(50, [], rng), CLASSES)["scarcer"]) == {"open"}


def test_counts_of_noise_are_nought_and_of_strong_heads_are_theirs():
    rng = np.random.default_rng(0)
    null = rng.normal(0, 0.03, (100, 40, 8))
    strength = rng.normal(0, 0.03, (40, 8))
    strength[:5, 0] = 0.9
    again = strength + rng.normal(0, 0.03, (30, 40, 8))
    table = head_counts(strength, null, again, CLASSES).set_index(["statistic", "function"])["value"]
    for rule in ("n_fdr", "n_max_t"):
        assert table[rule][CLASSES[0]] == 5 and table[rule].sum() <= 6


def test_removal_counts_heads_that_cost_accuracy():
    rng = np.random.default_rng(0)
    function, group = np.tile(CLASSES, 60), np.repeat(np.arange(60), 8).astype(str)
    right = np.ones((41, 480), dtype=bool)
    right[3, (function == CLASSES[2]) & (rng.random(480) < 0.5)] = False  # head 2 breaks one function half the time
    table = removal_counts({"right": right, "function": function, "group": group}, CLASSES).set_index("function")
    assert table["value"].to_dict() == {name: float(name == CLASSES[2]) for name in CLASSES}
    assert (table["low"] <= table["value"]).all() and (table["null"] == 0).all()


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.booleans()), min_size=1, max_size=60))
def test_equalised_rows_differ_in_no_feature(rows):
    labels, one, other = map(np.array, zip(*rows, strict=True))
    if (
        not any({"a", "b"} <= set(labels[(one == i) & (other == j)]) for i in range(3) for j in (0, 1))
        and len(set(labels)) > 1
    ):
        with pytest.raises(ValueError, match="holds all labels"):
            equalise(labels, one, other)
        return
    kept = equalise(labels, one, other)
    assert len(set(kept.tolist())) == len(kept)
    cells = [
        sorted(zip(one[kept][labels[kept] == name], other[kept][labels[kept] == name], strict=True))
        for name in set(labels)
    ]
    assert all(cell == cells[0] for cell in cells)
