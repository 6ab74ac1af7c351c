"""Cues and latent heads: made-up replies, activations and patches whose answer is known; and a run on a model."""

import numpy as np
import pandas as pd
import pytest
from own_data import FEW

from cogvsr_utils import paths
from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.models.head_map import HeadMap
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline import latent
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.latent import CONDITIONS, CUES, GREY, NONE, PatchedHeads

N_LAYERS, N_HEADS, WIDTH = 3, 4, 4
TRULY, BOTH, READS, CARRIES = 1, 5, 6, 10  # heads: latent; with any cue; decodable with true cues alone; carries alone


def test_conditions_differ_in_what_they_say(small_set):
    items = [item for item in load_items(small_set) if item.subset != "crossed"]
    shown = {condition: {item.uid: item for item in latent.cued(items, condition)} for condition in CONDITIONS}
    assert len(shown[NONE]) > 20
    for condition, (how, which, _) in CONDITIONS.items():
        whole, some = shown[NONE], shown[condition]
        assert set(some) == set(whole) or (which == latent.OTHER and set(some) < set(whole))
        for uid, item in some.items():
            changed = (np.asarray(open_image(item)) != np.asarray(open_image(whole[uid]))).any()
            assert changed == (how not in ("", "words") or which == "grey")
            assert (item.question != whole[uid].question) == ("words" in how)
            assert item.steps == whole[uid].steps and item.answer == whole[uid].answer
    assert all((np.asarray(open_image(item)) == 128).all() for item in shown[GREY].values())
    true, misplaced = (shown[f"words, {which}"] for which in (latent.TRUE, latent.MISPLACED))
    assert all(true[uid].question != misplaced[uid].question for uid in true)
    with pytest.raises(KeyError):
        latent.cued(items, "arrows")


def replies(right):
    """Judged replies to a question a picture, right where ``right`` is."""
    return pd.DataFrame({"uid": [str(n) for n in range(len(right))], "step": -1, "group_id": np.arange(len(right)),
                         "subset": "", "function": "Main question", "parsed": "x", "correct": right})  # fmt: skip


def test_true_boxes_are_compared_with_misplaced_ones_and_those_with_none():
    rng, right = np.random.default_rng(0), np.arange(400) % 2 == 0
    tables = {condition: replies(right) for condition in CONDITIONS}
    tables["box, true"] = replies(right | (rng.random(400) < 0.4))  # helps wrong ones
    tables["point, true"] = tables["point, misplaced"] = replies(right & (rng.random(400) < 0.5))  # any mark confuses
    tables["mask, other things"] = replies(right)[:100]
    table = latent.cue_effects.make(None, **dict(zip(latent.ANSWERS, tables.values(), strict=True)))
    table = table.set_index("condition")
    assert list(table.index) == list(CONDITIONS) and table.loc["mask, other things", "n"] == 100
    box, point = table.loc["box, true"], table.loc["point, true"]
    assert box["against"] == "box, misplaced" and box["change"] == pytest.approx(0.2, abs=0.04) and box["low"] > 0.1
    assert box["q"] < 0.05 and box["kept"] == 1.0
    assert point["change"] == 0 and point["q"] > 0.5 and point["kept"] == pytest.approx(0.5, abs=0.1)
    assert table.loc["point, misplaced", "against"] == NONE and table.loc["point, misplaced", "high"] < -0.1
    assert np.isnan(table.loc[NONE, "change"]) and table["q"].notna().sum() == len(table) - 1


class Made(HeadActivations):
    """Activations without a store."""

    def __init__(self, features, index, heads):
        for name, value in (("features", features), ("index", index), ("header", {}), ("heads", heads)):
            object.__setattr__(self, name, value)

    def by_head(self):
        return self.features


@pytest.fixture
def made(monkeypatch):
    """What ``latent_heads`` takes: 12 heads, of which one is latent and three are so by halves."""
    rng = np.random.default_rng(0)
    places = pd.MultiIndex.from_product([range(N_LAYERS), range(N_HEADS)], names=["layer", "head"])
    heads = places.to_frame(index=False).assign(n_heads=N_HEADS, head_dim=WIDTH)
    heads["start"] = WIDTH * np.arange(len(heads))
    names, words = list(NAMES), ("alpha", "beta", "gamma", "delta", "omega", "sigma", "kappa", "theta", "lamda", "zeta")
    items, rows = [], []
    for number in range(120):
        steps = [Step(f"{words[number % 10]} {i} which?", "7", "int", None, name) for i, name in enumerate(names)]
        items.append(Item(str(number), "mine", str(number), "?", "1", "int", steps, split="A"))
        rows += [(str(number), i, name) for i, name in enumerate(names)]
    index = pd.DataFrame(rows, columns=["uid", "step", "function"])
    spatial = (index["function"] == SPATIAL[0]).to_numpy()

    def activations(readable):
        x = rng.normal(size=(len(index), len(heads), WIDTH)).astype(np.float32)
        for head in readable:
            x[spatial, head] += 1.5
        return Made(x, index, HeadMap(heads))

    def patched(carrying):
        moved = rng.normal(scale=0.1, size=(len(heads), len(index)))
        for head in carrying:
            moved[head, spatial] += 0.5
        return PatchedHeads(np.zeros(len(index)), moved, index["function"].to_numpy(), index["uid"].to_numpy())

    class Scope:
        settings = FEW.__class__(**vars(FEW) | {"bootstrap": 300})

        @staticmethod
        def items(split):
            return items

    given = {
        "without": activations([]), "with_true": activations([TRULY, BOTH, READS]), "with_placebo": activations([BOTH]),
        "from_true": patched([TRULY, BOTH, CARRIES]), "from_placebo": patched([BOTH]),
    }  # fmt: skip
    return latent.latent_heads.make(Scope(), **given), heads


def test_a_head_is_latent_that_reads_and_carries_with_true_cues_alone(made):
    table, heads = made
    assert list(table.columns[:3]) == ["layer", "head", "function"] and len(table) == 2 * len(heads)
    found = table[table["latent"]]
    assert [(r.function, r.layer, r.head) for r in found.itertuples()] == [(SPATIAL[0], *divmod(TRULY, N_HEADS))]
    by_head = table[table["function"] == SPATIAL[0]].reset_index()
    assert by_head.loc[READS, "p_rise"] < 0.05 < by_head.loc[READS, "p_patch"]
    assert by_head.loc[CARRIES, "p_patch"] < 0.05 < by_head.loc[CARRIES, "p_rise"]
    assert (by_head.loc[BOTH, ["p_rise", "p_patch"]] > 0.05).all()
    assert latent.chosen_heads(table) == ("latent", [divmod(TRULY, N_HEADS)])


def test_where_no_head_is_latent_the_nearest_stand_in(made):
    table, _ = made
    kind, heads = latent.chosen_heads(table.assign(latent=False))
    assert kind == "nearest" and heads == [divmod(TRULY, N_HEADS)]


def test_a_head_stands_beside_the_others_of_its_layer():
    rng = np.random.default_rng(0)
    values, layers = rng.normal(size=(5, 7)), np.array([0, 0, 0, 1, 1, 2, 2])
    found = latent._mean_of_others(values, layers)
    for head in range(7):
        others = [other for other in range(7) if other != head and layers[other] == layers[head]]
        np.testing.assert_allclose(found[:, head], values[:, others].mean(1))
    every = [(layer, head) for layer in range(3) for head in range(4)]
    others = latent._same_layers(every, [(0, 0), (2, 1), (2, 3)])
    assert sorted(layer for layer, _ in others) == [0, 2, 2] and not set(others) & {(0, 0), (2, 1), (2, 3)}


def test_cues_patches_and_edits_run_on_a_model(small_set, vlm, monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    experiment = Experiment("nano-internvl", profile=FEW, source=str(small_set))
    by_hand = latent.patched[CUES[1]].make(experiment, CUES[1])
    assert by_hand.patched.shape == (len(vlm.heads), len(by_hand.intact))
    check = latent.attribution_check.make(experiment, by_hand)
    assert check["spearman"].mean() > 0.3, "gradients and patches agree"
    table = pd.DataFrame(vlm.heads.pairs, columns=["layer", "head"]).assign(p_rise=1.0, p_patch=1.0, latent=False)
    table.loc[table["layer"] == 6, "latent"] = True
    effects = latent.latent_activation.make(experiment, table)
    assert set(effects["method"]) == {"box, true", "box, misplaced", "scale", "steer", "attend"}
    edited = effects[effects["heads"] != ""]
    assert set(edited["heads"]) == {"latent"}, "a whole layer leaves none of the same layer for random heads"
    assert (effects["low"] <= effects["delta_log_prob"]).all() and (effects["high"] >= effects["delta_log_prob"]).all()
    assert not vlm.active_edits
