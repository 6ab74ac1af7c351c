"""Stages on a small data set, with rankings made up, so that what comes out can be reckoned by hand."""

import numpy as np
import pandas as pd
import pytest

from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.interventions import mask
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.pipeline.experiment import PROFILES, Profile

CLASSES = np.array(sorted(NAMES))


@pytest.fixture(scope="module")
def run(small_set, tmp_path_factory):
    few = Profile(null_fits=1, permutations=5, resamples=10, random_sets=4, control_items=3, effect_items=6, planted=1)
    kept, PROFILES["few"] = PROFILES.get("few"), few
    made = Run("nano-internvl", profile="few", source=str(small_set))
    made.__dict__["folder"] = tmp_path_factory.mktemp("run")
    rng, shape = np.random.default_rng(0), (8, len(made.vlm.heads))
    removed = choose.effects(made, "C")
    beliefs = {
        "the same for all": np.tile(rng.random(shape[1]), (8, 1)),
        "all alike": np.ones(shape),
        "what was measured": -choose.mean_effects(removed, CLASSES),
        "removal on split A": rng.random(shape),
    }
    made.arrays("rankings", lambda: beliefs)
    made.arrays("probe", lambda: {"classes": CLASSES})
    yield made
    PROFILES.pop("few")
    assert kept is None


def test_steps_asked_for_alone_are_those_of_the_whole_chats(run):
    """What comes after a function's last step is cut off and changes nothing."""
    function = NAMES[0]
    short = run.rehearsal("C", 4, function)
    whole = TeacherForcedScorer(run.vlm, [item for item in run.items["C"] if item.uid in set(short.index["uid"])])
    told = [
        dict(zip(zip(r.index["uid"], r.index["step"], strict=True), r.run(mask([(1, 2)]))[1], strict=True))
        for r in (short, whole)
    ]
    assert 0 < len(told[0]) <= len(told[1]) and (short.index["function"] == function).sum() >= 4
    assert [told[1][key] for key in told[0]] == pytest.approx(list(told[0].values()), abs=1e-4)


def test_sets_are_measured_as_by_hand(run):
    table = validate.set_effects(run).set_index(["set", "ablation"])
    same = table.loc["the same for all"]
    np.testing.assert_allclose(same[["specific", "specific_low", "specific_high"]], 0, atol=1e-12)
    np.testing.assert_allclose(same["change"], same["elsewhere"])
    rehearsal, tops = run.rehearsal("C", 6), validate.tops(run, "what was measured")
    label, (right, told) = rehearsal.index["function"].to_numpy(), rehearsal.run()
    own, other, nats = [], [], []
    for function in CLASSES:
        after, after_told = rehearsal.run(mask(tops[function]))
        nats.append((after_told - told)[label == function].mean())
        for name in CLASSES:
            change = after[label == name].mean() - right[label == name].mean()
            (own if name == function else other).append(change)
    row = table.loc[("what was measured", "mask")]
    assert row["change"] == pytest.approx(np.mean(own)) and row["elsewhere"] == pytest.approx(np.mean(other))
    assert row["nats"] == pytest.approx(np.mean(nats), abs=1e-5)
    cost = np.sort(choose.mean_effects(choose.effects(run, "C"), CLASSES), axis=1)[:, : run.n_top]
    assert row["singles"] == pytest.approx(cost.sum(1).mean())


def test_a_ranking_that_is_the_measure_itself_is_told_from_chance_and_no_other(run):
    tests = validate.ranking_tests(run, n=200).set_index("ranking")
    assert tests.loc["what was measured", "precision"] == 1 and tests.loc[
        "what was measured", "spearman"
    ] == pytest.approx(1)
    assert (tests.loc["what was measured", ["p_precision", "p_spearman"]] == 1 / 201).all()
    assert (tests.drop("what was measured")["p_spearman"] > 0.01).all() and tests.loc["all alike", "spearman"] == 0


def test_random_sets_are_kept_by_the_heads_that_they_match(run):
    tops = {name: heads for name, heads in validate.tops(run, "what was measured").items() if name in CLASSES[:2]}
    sets = remove.random_sets(run, tops)
    again = remove.random_sets(run, {name: [tuple(np.array(head)) for head in heads] for name, heads in tops.items()})
    pd.testing.assert_frame_equal(sets, again)
    other = remove.random_sets(run, {name: heads[:2] for name, heads in tops.items()})
    assert set(other["k"]) == {2} and set(sets["k"]) == {run.n_top}
    assert len(list(run.folder.glob("random_sets-*.parquet"))) == 2
    for name in tops:
        part = sets[sets["function"] == name]
        own = part[part["set"] == -1].iloc[0]
        assert (np.abs(part["norm"] - own["norm"]) <= 0.05 * own["norm"]).all() and part["same_layer"].between(
            0, 1
        ).all()
    table = remove.against_random(sets)
    assert table["function"].tolist() == [name for name in NAMES if name in tops] and (table["sets"] == 4).all()


def test_every_function_weighs_alike_however_many_sets_it_has():
    sets = pd.DataFrame(
        {"function": ["a"] * 3 + ["b"] * 101, "set": [*range(-1, 2), *range(-1, 100)],
         "change": [-0.5, -0.4, -0.2, *[-0.3], *np.linspace(-0.2, 0, 100)]}
    )  # fmt: skip
    found = remove.all_against_random(sets)
    assert found["own"] == pytest.approx(-0.4) and found["p"] == 1 / 2001
    assert found["mean"] == pytest.approx((-0.3 - 0.1) / 2, abs=0.01)
