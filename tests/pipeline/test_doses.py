"""Doses on made-up scores, where the slope is known, and the scores themselves against a scorer."""

import numpy as np
import pandas as pd
import pytest
from own_data import FEW

from cogvsr_utils import paths
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.head_edits import mask, scale
from cogvsr_utils.models.recording import capture
from cogvsr_utils.pipeline import doses
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline.emphasis import spatial_heads
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings
from cogvsr_utils.pipeline.sweeps import scorer_of

N_SCENES = 30


def made_up(slope, beside):
    """Spatial steps lose ``slope`` for each unit of dose under spatial heads, ``beside`` under random ones."""
    rng, rows = np.random.default_rng(0), []
    for heads, draws, by in ((doses.SPATIAL_HEADS, 1, slope), (doses.OTHER_HEADS, 3, beside)):
        rows += [("scale", heads, draw, factor, by) for factor in doses.FACTORS for draw in range(draws)]
    table = pd.DataFrame(rows, columns=["method", "heads", "draw", "dose", "by"])
    function = np.repeat([SPATIAL[0], NAMES[3]], 4 * N_SCENES)
    group = np.tile(np.repeat(np.arange(N_SCENES), 4), 2).astype(str)
    own = np.isin(function, SPATIAL)
    change = ((table["dose"] - 1) * table["by"]).to_numpy()[:, None] * own + rng.normal(0, 0.01, (len(table), len(own)))
    log_prob = np.concatenate([np.zeros((1, len(own))), change])
    return doses.DosedScores(
        log_prob > -0.5, log_prob, table["method"].to_numpy(), table["heads"].to_numpy(), table["draw"].to_numpy(),
        table["dose"].to_numpy(), function, group,
    )  # fmt: skip


def test_trends_find_the_slope_that_is_there_and_none_where_there_is_none():
    table = doses.dose_trends.make(Experiment("nano-internvl"), dosed=made_up(-0.3, -0.1)).set_index("against")
    assert table.loc["nothing", "slope"] == pytest.approx(-0.3, abs=0.01)
    assert table.loc[doses.OTHER_HEADS, "slope"] == pytest.approx(-0.2, abs=0.01) and (table["p"] < 0.01).all()
    assert (table["low"] < table["slope"]).all() and (table["high"] > table["slope"]).all()
    flat = doses.dose_trends.make(Experiment("nano-internvl"), dosed=made_up(-0.1, -0.1)).set_index("against")
    assert flat.loc[doses.OTHER_HEADS, "p"] > 0.01 and abs(flat.loc[doses.OTHER_HEADS, "slope"]) < 0.01


def test_responses_are_means_over_steps_and_draws():
    table = doses.dose_response.make(Experiment("nano-internvl"), dosed=made_up(-0.3, -0.1))
    assert len(table) == 2 * 2 * len(doses.FACTORS)
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
    assert case.groupby(["method", "heads"]).size().to_dict() == {
        ("ablate", doses.SPATIAL_HEADS): 2, ("ablate", doses.OTHER_HEADS): 6,
        ("scale", doses.SPATIAL_HEADS): 2, ("scale", doses.OTHER_HEADS): 6,
        ("steer", doses.SPATIAL_HEADS): 2, ("steer", doses.OTHER_HEADS): 6, ("steer", doses.RANDOM): 6,
    }  # fmt: skip
    scorer = scorer_of(experiment, "C", experiment.settings.ablation_items)
    heads = spatial_heads(rankings)
    at = case.query("method == 'scale' and heads == @doses.SPATIAL_HEADS and dose == 2").index[0]
    np.testing.assert_allclose(found.log_prob[1 + at], scorer.score(scale(heads, 2.0)).log_prob, atol=1e-4)
    most = case.query("method == 'ablate' and heads == @doses.SPATIAL_HEADS")["dose"].idxmax()
    assert case.loc[most, "dose"] == len(heads)
    np.testing.assert_allclose(found.log_prob[1 + most], scorer.score(mask(heads)).log_prob, atol=1e-4)
    one_sided = capture(vlm, items, store=tmp_path / "again", answers=replies, progress=False)
    one_sided.index["correct"] = True
    assert set(doses.dosed.make(experiment, rankings=rankings, activations=one_sided).method) == {"ablate", "scale"}
