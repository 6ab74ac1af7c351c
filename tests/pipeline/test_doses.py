"""Doses on made-up scores, where the slope is known, and the scores themselves against a scorer."""

import numpy as np
import pandas as pd
import pytest
from own_data import FEW

from cogvsr_utils import paths
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.collateral import PICTURES, TEXT, side_effects
from cogvsr_utils.models.head_edits import mask, scale
from cogvsr_utils.models.recording import capture
from cogvsr_utils.pipeline import doses
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline.emphasis import spatial_heads
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings
from cogvsr_utils.pipeline.sweeps import scorer_of, some_items

N_SCENES, FACTORS = 30, (0.0, 0.5, 2.0, 4.0)


def made_up(change, draws=19):
    """``change(heads, draw, dose)`` is what scaling does to spatial steps, and a little."""
    rng, rows = np.random.default_rng(0), []
    for heads, n in ((doses.SPATIAL_HEADS, 1), (doses.OTHER_HEADS, draws)):
        rows += [("scale", heads, draw, factor, change(heads, draw, factor)) for draw in range(n) for factor in FACTORS]
    table = pd.DataFrame(rows, columns=["method", "heads", "draw", "dose", "change"])
    function = np.repeat([SPATIAL[0], NAMES[3]], 4 * N_SCENES)
    group = np.tile(np.repeat(np.arange(N_SCENES), 4), 2).astype(str)
    own = np.isin(function, SPATIAL)
    moved = table["change"].to_numpy()[:, None] * own + rng.normal(0, 0.01, (len(table), len(own)))
    log_prob = np.concatenate([np.zeros((1, len(own))), moved])
    return doses.DosedScores(
        log_prob > -0.5, log_prob, table["method"].to_numpy(), table["heads"].to_numpy(), table["draw"].to_numpy(),
        table["dose"].to_numpy(), function, group,
    )  # fmt: skip


def trends(change, draws=19):
    return doses.dose_trends.make(Experiment("nano-internvl"), dosed=made_up(change, draws)).set_index("side")


def test_a_trend_is_the_slope_over_doses_and_its_place_among_random_ones():
    up, down = doses.SIDES["scale", 1], doses.SIDES["scale", -1]
    strong = trends(lambda heads, draw, dose: -(0.3 if heads == doses.SPATIAL_HEADS else 0.01 * draw) * (dose - 1))
    assert strong.loc[up, "slope"] == pytest.approx(-0.3, abs=0.01) and strong.loc[up, "p_slope"] < 0.01
    assert strong.loc[down, "slope"] == pytest.approx(0.3, abs=0.02), "smaller factors have larger doses"
    assert strong.loc[up, "random"] == pytest.approx(-0.09, abs=0.01) and strong.loc[up, "draws"] == 19
    assert (
        strong.loc[up, "p_place"] == pytest.approx(2 / 20)
        and strong.loc[up, "p"] < 0.01
        and (strong["low"] < strong["slope"]).all()
    )


def test_one_effect_at_every_dose_is_no_trend_and_one_of_many_sets_is_nothing_special():
    constant = trends(lambda heads, draw, dose: -0.5)
    assert (constant["slope"].abs() < 0.01).all() and (constant["p_slope"] > 0.01).all()
    middle = trends(lambda heads, draw, dose: -(0.1 if heads == doses.SPATIAL_HEADS else 0.0105 * draw) * (dose - 1))
    assert middle.loc[doses.SIDES["scale", 1], "p_slope"] < 0.01 and (middle[["p", "p_place"]] > 0.5).all(axis=None)


def test_responses_are_means_over_steps_and_draws():
    by = {doses.SPATIAL_HEADS: -0.3, doses.OTHER_HEADS: -0.1}
    found = made_up(lambda heads, draw, dose: by[heads] * (dose - 1))
    table = doses.dose_response.make(Experiment("nano-internvl"), dosed=found)
    assert len(table) == 2 * 2 * len(FACTORS) and set(table["draws"]) == {1, 19}
    cell = table.set_index(["heads", "dose", "steps"])
    row = cell.loc[(doses.SPATIAL_HEADS, 4.0, "spatial steps")]
    assert row["delta_log_prob"] == pytest.approx(-0.9, abs=0.01) and row["change"] == -1 and row["n"] == 120
    assert cell.loc[(doses.OTHER_HEADS, 4.0, "spatial steps"), "delta_log_prob"] == pytest.approx(-0.3, abs=0.01)
    assert abs(cell.loc[(doses.SPATIAL_HEADS, 4.0, "other steps"), "delta_log_prob"]) < 0.01


def test_doses_are_run_as_they_are_named(small_set, vlm, monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    monkeypatch.setattr(doses, "SHARES", (0.01, 0.1))
    monkeypatch.setattr(doses, "FACTORS", (0.5, 2.0))
    monkeypatch.setattr(doses, "STRENGTHS", (-1.0, 1.0))
    experiment = Experiment("nano-internvl", profile=FEW, source=str(small_set))
    rankings = Rankings(np.array(sorted(NAMES)), np.array(vlm.heads.pairs),
                        {IMPORTANCE: np.random.default_rng(0).random((8, len(vlm.heads)))})  # fmt: skip
    items = experiment.items("A")[:6]
    replies = judge(answer(vlm, items, progress=False))
    kept = capture(vlm, items, store=tmp_path / "store", answers=replies, progress=False)
    kept.index["correct"] = np.arange(len(kept.index)) % 2 == 0
    found = doses.dosed.make(experiment, rankings=rankings, activations=kept)
    case = pd.DataFrame({"method": found.method, "heads": found.heads, "dose": found.dose})
    n = FEW.random_sets
    assert case.groupby(["method", "heads"]).size().to_dict() == {
        ("ablate", doses.SPATIAL_HEADS): 2, ("ablate", doses.OTHER_HEADS): 2 * n,
        ("scale", doses.SPATIAL_HEADS): 2, ("scale", doses.OTHER_HEADS): 2 * n,
        ("steer", doses.SPATIAL_HEADS): 2, ("steer", doses.OTHER_HEADS): 2 * n, ("steer", doses.RANDOM): 2 * n,
    }  # fmt: skip
    sizes = case[case["method"] == "ablate"].groupby("heads")["dose"].apply(lambda each: sorted(set(each)))
    assert sizes[doses.SPATIAL_HEADS] == sizes[doses.OTHER_HEADS], "as many random heads at every dose"
    scorer = scorer_of(experiment, "C", 2 * experiment.settings.control_items)
    heads = spatial_heads(rankings)
    at = case.query("method == 'scale' and heads == @doses.SPATIAL_HEADS and dose == 2").index[0]
    np.testing.assert_allclose(found.log_prob[1 + at], scorer.score(scale(heads, 2.0)).log_prob, atol=1e-4)
    most = case.query("method == 'ablate' and heads == @doses.SPATIAL_HEADS")["dose"].idxmax()
    assert case.loc[most, "dose"] == len(heads)
    np.testing.assert_allclose(found.log_prob[1 + most], scorer.score(mask(heads)).log_prob, atol=1e-4)
    one_sided = capture(vlm, items, store=tmp_path / "again", answers=replies, progress=False)
    one_sided.index["correct"] = True
    assert set(doses.dosed.make(experiment, rankings=rankings, activations=one_sided).method) == {"ablate", "scale"}


def test_side_effects_of_a_set_are_those_of_its_heads(small_set, vlm, monkeypatch):
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)
    experiment = Experiment("nano-internvl", profile=FEW, source=str(small_set))
    strength = np.random.default_rng(0).random((8, len(vlm.heads)))
    rankings = Rankings(np.array(sorted(NAMES)), np.array(vlm.heads.pairs), {IMPORTANCE: strength})
    table = doses.set_side_effects.make(experiment, rankings)
    assert set(table["edit"]) == set(NAMES) and set(table["prompts"]) == {PICTURES, TEXT}
    best = np.argsort(-strength[sorted(NAMES).index(NAMES[2])])[: round(0.1 * len(vlm.heads))]
    some = some_items(experiment, "C", experiment.settings.ablation_items)
    by_hand = side_effects(vlm, some, {NAMES[2]: mask([vlm.heads.pairs[at] for at in best])}, progress=False)
    found = table[table["edit"] == NAMES[2]].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, by_hand, rtol=1e-4, atol=1e-6)


def test_own_divergence_is_what_is_left_beside_heads_and_steps():
    """Of a table of sums nothing is left, whatever moves more; what is added on the diagonal is."""
    rng = np.random.default_rng(0)
    heads, steps, extra = rng.random(8), rng.random(8), rng.random(8)
    rows = [
        {"edit": a, "function": b, "prompts": PICTURES, "kl": heads[i] + steps[j] + extra[i] * (a == b)}
        for i, a in enumerate(NAMES) for j, b in enumerate(NAMES)
    ]  # fmt: skip
    found = doses.own_divergence(pd.DataFrame(rows).sample(frac=1, random_state=0))
    assert found.index.tolist() == list(NAMES)
    np.testing.assert_allclose(found["own"], heads + steps + extra)
    others = [heads[[j for j in range(8) if j != i]].mean() + steps[i] for i in range(8)]
    np.testing.assert_allclose(found["other heads"], others)
    left = pd.DataFrame(rows).assign(kl=[heads[i] + steps[j] for i in range(8) for j in range(8)])
    plain = doses.own_divergence(left)["beyond"]
    np.testing.assert_allclose(found["beyond"] - plain, extra)
