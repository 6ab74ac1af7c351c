"""Edits behind the projection: slices of the output written out here, and that they are not edits of heads."""

import numpy as np
import torch
from own_data import FEW

from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.hooks import projection_hooks
from cogvsr_utils.models.recording import capture
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline import mistakes
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings


def test_slices_of_the_output_are_cut_by_the_number_of_heads(vlm):
    """24 heads of 24 numbers, an output of 192: slice h is 8 numbers, from 8 h on."""
    name = next(iter(vlm.heads.projections))
    module, given = vlm.model.get_submodule(name), torch.randn(2, 3, 24 * 24, device=vlm.device)
    whole = module(given)
    with torch.no_grad(), projection_hooks(vlm, mistakes.output_slices(vlm.heads, [(0, 5)]), after=True):
        cut = module(given)
    expected = whole.clone()
    expected[..., 40:48] *= 0.001
    torch.testing.assert_close(cut, expected)
    shift = [np.arange(24.0)]
    with torch.no_grad(), projection_hooks(vlm, mistakes.output_slices(vlm.heads, [(0, 5)], shift), after=True):
        moved = module(given)
    there = torch.zeros(192, device=vlm.device)
    there[40:48] = torch.arange(8.0, device=vlm.device)
    torch.testing.assert_close(moved, whole + there)
    torch.testing.assert_close(module(given), whole)


def test_both_places_have_a_row_for_every_edit_and_function(small_set, vlm, items, answers, monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)
    experiment = Experiment("nano-internvl", profile=FEW, source=str(small_set))
    strength = np.random.default_rng(0).random((8, len(vlm.heads)))
    rankings = Rankings(np.array(sorted(NAMES)), np.array(vlm.heads.pairs), {IMPORTANCE: strength})
    store = capture(vlm, items, store=tmp_path / "store", answers=answers)
    table = mistakes.output_edits.make(experiment, rankings, store)
    assert table.groupby(["edit", "place"])["function"].nunique().nunique() == 1 and len(table) >= 4
    wide = table.pivot(index=["edit", "function"], columns="place", values="change")
    assert (wide["input"] - wide["output"]).abs().min() > 0, "two different edits"
