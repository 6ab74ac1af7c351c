"""Benchmarks without and with edits: what does nothing changes nothing, and what was answered is not asked again."""

import numpy as np
import pytest

from cogvsr_utils import load_items, mask, scale
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes
from cogvsr_utils.models import answering
from cogvsr_utils.pipeline.benchmarks import BASE, FORCED, benchmark_effects


@pytest.fixture(scope="module")
def asked(small_set, tmp_path_factory):
    copies = write_lookalikes(load_items(small_set), tmp_path_factory.mktemp("copies"))
    return [item for name in ("vsr", "3dsrbench") for item in load_items(f"{name}:{copies[name]}")[:16]]


def test_edits_that_do_nothing_change_nothing_and_others_do(vlm, asked, tmp_path, monkeypatch):
    every = [(int(layer), int(head)) for layer, head in vlm.heads.table[["layer", "head"]].to_numpy()]
    edits = {"same": scale(every[:1], 1.0), "ablated": mask(every)}
    scores = benchmark_effects(vlm, asked, edits, tmp_path)
    by_condition = dict(iter(scores.groupby("condition")))
    assert set(by_condition) == {BASE, "same", "ablated"}
    assert set(scores["scorer"]) == {"strict", "official", FORCED}
    assert scores.loc[scores["scorer"] == FORCED, "covered"].between(0, 1).all()
    assert (scores.loc[scores["scorer"] == FORCED, "n_unparsed"] == 0).all()
    columns = ["benchmark", "subset", "scorer", "protocol", "n", "n_correct", "accuracy"]
    base = by_condition[BASE][columns].reset_index(drop=True)
    assert by_condition["same"][columns].reset_index(drop=True).equals(base)
    assert (by_condition["same"]["change"] == 0).all()
    assert by_condition[BASE]["change"].isna().all()
    ablated = by_condition["ablated"].set_index(columns[:4])
    np.testing.assert_allclose(
        ablated["accuracy"] - base.set_index(columns[:4])["accuracy"], ablated["change"], atol=1e-12
    )
    assert ablated.loc[("3dsrbench", "all", "strict", "vanilla"), "change"] < 0
    monkeypatch.setattr(answering, "_converse", lambda *_: pytest.fail("asked again"))
    assert benchmark_effects(vlm, asked, edits, tmp_path).equals(scores)
