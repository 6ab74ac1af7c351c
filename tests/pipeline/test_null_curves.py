"""The band of permuted labels, against one loop over fits and functions."""

from types import SimpleNamespace

import numpy as np
import pytest

from cogvsr_utils.functions import NAMES
from cogvsr_utils.pipeline import validation


def test_a_band_holds_the_middle_of_the_sorted_shares_of_all_fits():
    null, names = np.random.default_rng(0).normal(size=(5, 8, 6)), np.array(sorted(NAMES))
    table = validation.null_curves.make(None, network_probe=SimpleNamespace(null=null, functions=names))
    assert len(table) == 8 * 6 and set(table["fits"]) == {5}
    for f, name in enumerate(names):
        curves = [sorted(np.abs(fit[f]) / np.abs(fit[f]).max(), reverse=True) for fit in null]
        band = table[table["function"] == name].sort_values("place")
        for place, shares in enumerate(zip(*curves, strict=True)):
            low, high = np.percentile(shares, [2.5, 97.5])
            assert band.iloc[place][["low", "high"]].tolist() == pytest.approx([low, high])
