import numpy as np

from cogvsr_utils.checks.planting import plant, power, selections_of_nothing, trials

N, HEADS, DIM = 600, 10, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, HEADS, DIM)).astype(np.float32)
LABELS, GROUPS = np.array(list("abcdef"))[RNG.integers(6, size=N)], np.arange(N) // 2
LAYERS, STRATA = np.repeat([0, 1], 5), np.arange(N) % 3


def test_planting_moves_the_right_rows_by_the_strength():
    moved = plant(X, LABELS, {"a": [3]}, 2.0, np.random.default_rng(1)) - X
    assert not moved[LABELS != "a"].any() and not moved[:, [h for h in range(HEADS) if h != 3]].any()
    shift = moved[LABELS == "a", 3] / X[:, 3].std(0)
    np.testing.assert_allclose(np.linalg.norm(shift, axis=1), 2.0, rtol=1e-5)
    assert np.array_equal(plant(X, LABELS, {"a": [3]}, 0.0, RNG), X)


def test_strong_signals_are_found_and_nothing_else_and_noise_mostly_not():
    table = trials(X, LABELS, GROUPS, STRATA, LAYERS, {0.0: 30, 1.0: 2}, permutations=60, n_heads=1)
    result = power(table).set_index(["rule", "strength"])
    for rule in ("max-T", "FDR"):
        assert result.loc[(rule, 1.0), "power"] > 0.9 and result.loc[(rule, 0.0), "any_false"] < 0.2
    assert result.loc[("max-T", 1.0), "false_share"] < 0.1 and result.loc[("FDR", 1.0), "false_share"] < 0.1
    assert ((table["found"] + table["crossed"] + table["false"]) == table["selected"]).all()
    # A head planted for one function tells a little of the others too: that it is none of them.
    assert result.loc[("FDR", 1.0), "crossed_share"] > result.loc[("FDR", 1.0), "false_share"]
    assert result.loc[("elbow, joint probe", 0.0), "any_false"] == 1  # an elbow always finds some
    nothing = selections_of_nothing(table).set_index("rule")
    assert nothing.loc["elbow, joint probe", "any_selected"] == 1 and (nothing["repeats"] > 0).all()
    counted = table[(table["strength"] == 0) & (table["rule"] == "FDR")]
    assert nothing.loc["FDR", "any_selected"] == (counted["false"] > 0).mean() < nothing.loc["FDR", "ci_high"]
