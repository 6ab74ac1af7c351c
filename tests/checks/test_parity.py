"""The parity table passes where capture is right and fails where it is made wrong, in low precision too."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cogvsr_utils.checks import parity
from cogvsr_utils.checks.parity import check_parity
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.weights import nano_names


@pytest.mark.parametrize("name", nano_names())
@pytest.mark.parametrize("quantize", [None, "4bit"])
def test_shipped_models_pass(name, quantize, items, capsys):
    table = check_parity(load_vlm(name, quantize=quantize), items[:5])
    assert table["passed"].all(), table
    assert len(table) == 6 and not capsys.readouterr().out


def off_by_one(monkeypatch, wrong):
    """Reading one token too far to the left where ``wrong(inputs)``, as peers did in padded batches."""
    right = parity.read_heads

    def shifted(vlm, inputs, flat, *args):
        return right(vlm, inputs, np.asarray(flat) - bool(wrong(inputs)), *args)

    monkeypatch.setattr(parity, "read_heads", shifted)


@pytest.mark.parametrize("quantize", [None, "4bit"])
def test_a_wrong_token_fails(items, monkeypatch, quantize):
    vlm = load_vlm("nano-internvl", quantize=quantize)
    off_by_one(monkeypatch, lambda inputs: inputs["input_ids"].shape[0] > 1 and inputs["attention_mask"][0, 0] == 0)
    table = check_parity(vlm, items[:4]).set_index("check")
    assert not table.loc["left padding = right padding", "passed"], table
    assert table.loc["eager attention = sdpa", "passed"], table


def test_one_wrong_layer_fails_in_low_precision(items, monkeypatch):
    """The median over all heads would hide it."""
    vlm, right = load_vlm("nano-internvl", quantize="4bit"), parity.read_heads

    def broken(vlm, inputs, *args):
        out = right(vlm, inputs, *args)
        if vlm.model.config._attn_implementation == "eager":
            start, stop = list(vlm.heads.projections.values())[3]
            out[:, start:stop] = out[:, start:stop].roll(24, dims=1)
        return out

    monkeypatch.setattr(parity, "read_heads", broken)
    table = check_parity(vlm, items[:4]).set_index("check")
    assert not table.loc["eager attention = sdpa", "passed"] and table["passed"].sum() == 5, table


def test_one_item_is_not_enough(vlm, items):
    with pytest.raises(ValueError, match="1 items with steps; expected at least two"):
        check_parity(vlm, [items[0], replace(items[1], steps=[])])


def test_of_a_mixed_file_items_with_steps_and_pictures_are_read(vlm, items):
    mixed = [replace(items[0], steps=[]), replace(items[1], image=None), *items[2:4]]
    pd.testing.assert_frame_equal(check_parity(vlm, mixed), check_parity(vlm, items[2:4]))


def test_replies_that_cannot_be_located_are_an_error(vlm, items, monkeypatch):
    silent = parity.answer
    monkeypatch.setattr(parity, "answer", lambda *args, **kwargs: silent(*args, **kwargs).assign(prediction=""))
    with pytest.raises(ValueError, match="none of the steps of 3 items could be located in nano-internvl's chats"):
        check_parity(vlm, items[:3])
