"""Directions to steer along: those of made-up activations whose difference is known."""

import numpy as np
import pandas as pd
import pytest

from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.models.head_edits import steer
from cogvsr_utils.models.head_map import HeadMap
from cogvsr_utils.models.steering import mass_mean, probe_directions, random_directions

HEADS = [(0, 0), (0, 1)]


@pytest.fixture
def made():
    """400 steps in two heads 3 wide; in the second, positive steps are 2 further along the first axis, where all steps
    vary most along the second."""
    rng, positive = np.random.default_rng(0), np.arange(400) % 2 == 0
    features = rng.normal(size=(400, 6)) * [1, 1, 1, 0.5, 8, 0.5]
    features[positive, 3] += 2.0
    table = pd.DataFrame({"layer": 0, "head": [0, 1], "n_heads": 2, "head_dim": 3, "start": [0, 3], "stop": [3, 6],
                          "module": "m", "kind": "self", "key_head": [0, 1]})  # fmt: skip
    activations = HeadActivations.__new__(HeadActivations)
    for name, value in (("features", features), ("heads", HeadMap(table))):
        object.__setattr__(activations, name, value)
    return activations, features, positive


def test_mass_means_are_differences_of_means(made):
    activations, features, positive = made
    among = np.arange(400) < 100
    for vector, columns in zip(mass_mean(activations, HEADS, positive, among), (slice(0, 3), slice(3, 6)), strict=True):
        some = features[:100, columns]
        np.testing.assert_allclose(vector, some[::2].mean(0) - some[1::2].mean(0))


def test_a_probe_s_direction_goes_across_the_boundary_whatever_else_varies(made):
    activations, features, positive = made
    (vector,) = probe_directions(activations, HEADS[1:], positive)
    unit = vector / np.linalg.norm(vector)
    assert unit[0] > 0.98, "the axis that tells the two apart"
    assert np.linalg.norm(vector) == pytest.approx((features[:, 3:] @ unit).std())


def test_random_directions_are_as_long_and_differ_by_seed(made):
    vectors = mass_mean(*made[::2][:1], HEADS, made[2])
    one, same, other = (random_directions(vectors, seed) for seed in (0, 0, 1))
    for a, b, c, vector in zip(one, same, other, vectors, strict=True):
        assert np.linalg.norm(a) == pytest.approx(np.linalg.norm(vector))
        assert (a == b).all() and (a != c).any()
    assert steer(HEADS, one, 2.0).shift[0] == pytest.approx(tuple(2 * one[0]))


@pytest.mark.parametrize("positive, message", [
    (np.ones(400, bool), "400 positive steps and 0 others; expected some of both"),
    (np.ones(3, bool), r"positive is bool \(3,\); expected bool \(400,\)"),
    (np.ones(400), r"positive is float64 \(400,\); expected bool"),
])  # fmt: skip
def test_sides_that_are_none_are_refused(made, positive, message):
    with pytest.raises(ValueError, match=message):
        mass_mean(made[0], HEADS, positive)
