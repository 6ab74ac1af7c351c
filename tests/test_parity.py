"""The parity table passes where capture is right and fails where it is made wrong."""

import numpy as np
import pytest

from cogvsr_utils import check_parity, load_vlm
from cogvsr_utils.models import nano_names


@pytest.mark.parametrize("name", nano_names())
@pytest.mark.parametrize("quantize", [None, "4bit"])
def test_shipped_models_pass(name, quantize, items, capsys):
    table = check_parity(load_vlm(name, quantize=quantize), items[:5])
    assert table["passed"].all(), table
    assert len(table) == 6 and "ragged batch" in capsys.readouterr().out


def test_a_wrong_token_is_noticed(vlm, items, monkeypatch):
    """Reading one token too far to the left in padded batches only, as peers did."""
    import cogvsr_utils.parity as parity

    right = parity.read_heads

    def shifted(vlm, inputs, flat, *args):
        padded = len(inputs["input_ids"]) > 1
        return right(vlm, inputs, np.asarray(flat) - padded, *args)

    monkeypatch.setattr(parity, "read_heads", shifted)
    table = check_parity(vlm, items[:4]).set_index("check")
    assert not table.loc["one item at a time = ragged batch", "passed"]


def test_one_item_is_not_enough(vlm, items):
    with pytest.raises(ValueError, match="1 items; expected at least two"):
        check_parity(vlm, items[:1])
