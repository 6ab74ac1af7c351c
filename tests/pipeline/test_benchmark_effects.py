"""Benchmarks under conditions: what does nothing changes nothing, and what is compared is the same questions."""

import numpy as np
import pytest

from cogvsr_utils import load_items, mask, scale
from cogvsr_utils.analysis.benchmarks import FORCED, SPATIAL_SCORE
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes
from cogvsr_utils.dataset.cues import BOXES, read_boxes
from cogvsr_utils.functions import SPATIAL
from cogvsr_utils.pipeline import benchmarks
from cogvsr_utils.pipeline.benchmarks import (
    BASE,
    GREY_PICTURE,
    MARGIN,
    RANDOM,
    TRUE_PICTURE,
    Condition,
    beside_random,
    condition_replies,
    condition_scores,
    conditions,
    reply_room,
)

KEY = ["benchmark", "subset", "scorer", "protocol"]


@pytest.fixture(scope="module")
def copies(small_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    write_lookalikes(load_items(small_set), folder)
    return folder


def replies_to(vlm, items, some):
    import pandas as pd

    return pd.concat([condition_replies(vlm, items, each, reply_room(vlm, items)) for each in some], ignore_index=True)


@pytest.fixture(scope="module")
def heads(vlm):
    return [(int(layer), int(head)) for layer, head in vlm.heads.table[["layer", "head"]].to_numpy()]


def test_edits_that_do_nothing_change_nothing_and_others_do(vlm, copies, heads):
    items = [item for name in ("vsr", "3dsrbench") for item in load_items(f"{name}:{copies / name}")[:16]]
    edits = [Condition(BASE), Condition("same", (scale(heads[:1], 1.0),)), Condition("ablated", (mask(heads),))]
    scores = condition_scores(replies_to(vlm, items, edits), items)
    by_condition = dict(iter(scores.groupby("condition")))
    assert set(by_condition) == {BASE, "same", "ablated"}
    assert set(scores["scorer"]) == {"strict", "official", FORCED}
    assert scores.loc[scores["scorer"] == FORCED, "covered"].between(0, 1).all()
    assert (scores.loc[scores["scorer"] == FORCED, "n_unparsed"] == 0).all()
    columns = [*KEY, "n", "n_correct", "accuracy"]
    base = by_condition[BASE][columns].reset_index(drop=True)
    assert by_condition["same"][columns].reset_index(drop=True).equals(base)
    assert (by_condition["same"]["change"] == 0).all() and (by_condition["same"]["same"] == 1).all()
    assert by_condition[BASE]["change"].isna().all() and by_condition[BASE]["against"].isna().all()
    ablated = by_condition["ablated"].set_index(KEY)
    np.testing.assert_allclose(ablated["accuracy"] - base.set_index(KEY)["accuracy"], ablated["change"], atol=1e-12)
    assert ablated.loc[("3dsrbench", "all", "strict", "vanilla"), "change"] < 0


def test_boxes_are_compared_with_misplaced_ones_and_steps_with_none(vlm, copies, heads, monkeypatch):
    monkeypatch.setattr(benchmarks, "THOUGHT", 4)
    items = load_items(f"vsr:{copies / 'vsr'}")
    boxes = read_boxes(copies / "vsr" / BOXES)
    asked = [each for each in conditions(heads, heads[:4], 2.0, 0, boxes) if not each.edits]
    replies = replies_to(vlm, items, asked)
    scores = condition_scores(replies, items)
    against = scores.dropna(subset="against").set_index("condition")["against"].to_dict()
    assert against["boxes drawn"] == "misplaced boxes drawn" and against["misplaced boxes drawn"] == BASE
    assert "without steps" not in set(scores["condition"]), "VSR has none"
    thought = scores[scores["condition"] == "after thinking"]
    assert set(thought["scorer"]) == {"strict", "official"}, "a forced choice has no thought"
    opened = scores[scores["condition"].isin([TRUE_PICTURE, GREY_PICTURE])]
    assert len(opened) == 4 and opened["undetermined"].between(0, 1).all()
    np.testing.assert_allclose(opened["chance"], 1 / 3)
    eager = scores[(scores["condition"] == "eager attention") & (scores["scorer"] == "strict")]
    assert (eager["same"] > 0.9).all() and vlm.model.config._attn_implementation == "sdpa", "and given back"
    grey = replies[(replies["condition"] == GREY_PICTURE) & (replies["how"] == FORCED)].set_index("uid")["covered"]
    true = replies[(replies["condition"] == TRUE_PICTURE) & (replies["how"] == FORCED)].set_index("uid")["covered"]
    assert (grey != true[grey.index]).any(), "the picture is another"


def test_cogvsr_has_a_spatial_score_of_its_steps_alone(vlm, copies, heads):
    items = load_items(f"cogvsr:{copies / 'cogvsr'}")[:10]
    asked = [each for each in conditions(heads, heads[:4], 2.0, 0) if each.name in (BASE, "ablated", "without steps")]
    scores = condition_scores(replies_to(vlm, items, asked), items)
    spatial = scores[scores["protocol"] == SPATIAL_SCORE].set_index("condition")
    n_steps = sum(step.function in SPATIAL for item in items for step in item.steps)
    assert set(spatial.index) == {BASE, "ablated"} and (spatial["n"] == n_steps).all()
    without = scores[(scores["condition"] == "without steps") & (scores["protocol"] == "single")]
    assert (without.loc[without["scorer"] == "strict", "n"].max() == len(items)) and without["change"].notna().any()


def test_random_sets_stand_beside_the_ablation(vlm, copies, heads):
    items = load_items(f"3dsrbench:{copies / '3dsrbench'}")[:24]
    asked = [
        each for each in conditions(heads, heads[-8:], 2.0, 3) if each.name in (BASE, "ablated") or RANDOM in each.name
    ]
    sets = [set(each.edits[0].heads) for each in asked if RANDOM in each.name]
    layers = sorted(layer for layer, _ in heads[-8:])
    assert len(sets) == 3 and all(sorted(layer for layer, _ in each) == layers for each in sets)
    scores = condition_scores(replies_to(vlm, items, asked), items)
    table = beside_random(scores).set_index(KEY)
    row = ("3dsrbench", "all", "strict", "vanilla")
    changes = scores[scores["condition"].str.startswith(RANDOM)].set_index(KEY).loc[[row], "change"]
    assert table.loc[row, "n_random"] == 3 and table.loc[row, "random"] == pytest.approx(changes.mean())
    assert (table.loc[row, "random_low"], table.loc[row, "random_high"]) == (changes.min(), changes.max())
    assert 0.5 <= table.loc[row, "p_random"] <= 1, "three draws cannot give less"


def test_replies_have_room_for_the_longest_answer_of_all_items(vlm, copies):
    items = load_items(f"cogvsr:{copies / 'cogvsr'}")
    texts = [step.answer for item in items for step in (*item.steps, item)]
    longest = max(len(vlm.tokenizer(text)["input_ids"]) for text in [*texts, "cannot be determined"])
    assert reply_room(vlm, items) == longest + MARGIN
