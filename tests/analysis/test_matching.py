"""Random sets in the place of given ones: what they keep, what they leave to chance, and how they repeat themselves."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvsr_utils.analysis.matching import IN_A_BIN, KINDS, control_sets, inclusion

HEADS = [(layer, head) for layer in range(4) for head in range(24)]
NORMS = np.random.default_rng(0).permutation(len(HEADS)).astype(float)
SETS = st.lists(st.sampled_from(HEADS), min_size=1, max_size=20, unique=True)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), SETS, SETS, st.integers(0, 99))
def test_sets_keep_their_size_their_overlap_and_their_strata(kind, one, other, seed):
    norm = dict(zip(HEADS, NORMS, strict=True))
    for drawn in control_sets(HEADS, {"one": one, "other": other}, 3, kind, NORMS, seed):
        for name, own in (("one", one), ("other", other)):
            assert len(set(drawn[name])) == len(own) and set(drawn[name]) <= set(HEADS)
        assert len(set(drawn["one"]) & set(drawn["other"])) == len(set(one) & set(other))
        if kind == "same layers":
            assert [layer for layer, _ in drawn["one"]] == [layer for layer, _ in one]
        if kind == "same output norms":  # ranks within the same dozen
            assert all(norm[a] // IN_A_BIN == norm[b] // IN_A_BIN for a, b in zip(one, drawn["one"], strict=True))


def test_every_set_of_a_stratum_comes_as_often_as_any_other():
    """By writing out all pairs of four heads: a permutation test needs them equally likely."""
    heads = [(0, head) for head in range(4)]
    draws = control_sets(heads, {"a": [(0, 0), (0, 1)]}, 3000)
    counts = {pair: 0 for pair in combinations(heads, 2)}
    for drawn in draws:
        counts[tuple(sorted(drawn["a"]))] += 1
    assert all(430 < n < 570 for n in counts.values())


def test_a_set_that_is_nothing_special_is_called_so_as_often_as_it_should():
    """Made-up effects by layer and head: of sets drawn at random 1 in 40 is below 39 draws, whatever the layers do."""
    rng, low = np.random.default_rng(1), []
    effect = {head: -head[0] + rng.normal() for head in HEADS}
    for number in range(300):
        layers = rng.integers(1, 4, size=4)
        own = [(int(layer), int(head)) for layer, head in zip(layers, rng.permutation(24)[:4], strict=True)]
        draws = control_sets(HEADS, {"a": own}, 39, "same layers", seed=number)
        null = [sum(effect[head] for head in drawn["a"]) for drawn in draws]
        low.append(sum(effect[head] for head in own) < min(null))
    assert 0.5 / 40 < np.mean(low) < 2 / 40


def test_inclusion_is_counted_by_hand():
    drawn = [[(0, 0), (0, 1)], [(0, 1), (0, 0)], [(0, 0), (1, 1)], [(2, 0), (2, 1)]]
    found = inclusion([(0, 0), (2, 0)], drawn)
    assert (found.distinct, found.most_frequent, found.overlap) == (3, 0.75, 0.5)


@pytest.mark.parametrize("changed, message", [
    ({"kind": "luck"}, "kind is 'luck'; expected one of"), ({"n_draws": 0}, "0 draws; expected at least one"),
    ({"sets": {"a": [(9, 9)]}}, r"no such heads: \[\(9, 9\)\] in the set of 'a'"),
    ({"sets": {"a": [(0, 0), (0, 0)]}}, "has heads more than once"),
    ({"kind": "same output norms"}, r"norms of shape \(\); expected 96 finite numbers"),
    ({"kind": "same output norms", "norms": np.full(96, np.nan)}, "expected 96 finite numbers"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(changed, message):
    given = {"heads": HEADS, "sets": {"a": [(0, 0)]}, "n_draws": 1} | changed
    with pytest.raises(ValueError, match=message):
        control_sets(**given)
    with pytest.raises(ValueError, match="no drawn sets"):
        inclusion([(0, 0)], [])
