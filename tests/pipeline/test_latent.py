"""Cues and latent heads: made-up replies, activations and patches whose answer is known; and a run on a model."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from own_data import FEW
from scipy.stats import binomtest, norm

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.dataset.synth.questions import CUED
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.models.head_edits import scale
from cogvsr_utils.models.head_map import HeadMap
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.models.vlm import attention_switched
from cogvsr_utils.pipeline import activation, cues, latent
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline.activation import BOTH
from cogvsr_utils.pipeline.cues import BOX, CONDITIONS, GREY, NONE
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.latent import PatchedHeads

N_LAYERS, N_HEADS, WIDTH = 3, 4, 4
# Heads: latent; with any cue; decodable with true cues alone; patched to effect alone; harmful, if less than its layer.
TRULY, ANY, READS, CARRIES, HARMS = 1, 5, 6, 7, 9


def test_conditions_differ_in_what_they_say(small_set):
    items = [item for item in load_items(small_set) if item.subset != "crossed"]
    shown = {condition: {item.uid: item for item in cues.cued(items, condition)} for condition in CONDITIONS}
    assert len(shown[NONE]) > 20
    for condition, (how, which, _) in CONDITIONS.items():
        whole, some = shown[NONE], shown[condition]
        assert set(some) == set(whole) or (which in (cues.OTHER, cues.SHUFFLED) and set(some) < set(whole))
        for uid, item in some.items():
            marked = cues.STYLES.get(how, ("", {}))[1]
            if marked:
                plain = shown[f"box, {which}"][uid]
                assert (np.asarray(open_image(item)) != np.asarray(open_image(plain))).any(), "another style"
            changed = (np.asarray(open_image(item)) != np.asarray(open_image(whole[uid]))).any()
            assert changed == (how not in ("", "words") or which == "grey")
            assert (item.question != whole[uid].question) == ("words" in how)
            assert item.steps == whole[uid].steps and item.answer == whole[uid].answer
    assert all((np.asarray(open_image(item)) == 128).all() for item in shown[GREY].values())
    true, misplaced = (shown[f"words, {which}"] for which in (cues.TRUE, cues.MISPLACED))
    assert all(true[uid].question != misplaced[uid].question for uid in true)
    exchanged = shown[f"words, {cues.SHUFFLED}"]
    for uid, item in exchanged.items():
        assert sorted(item.question) == sorted(true[uid].question) and item.question != true[uid].question
    assert exchanged
    with pytest.raises(KeyError):
        cues.cued(items, "arrows")


def test_further_questions_are_of_kinds_never_cued_about_scenes_of_their_own(small_set, tmp_path, monkeypatch):
    first = load_items(small_set)
    monkeypatch.setattr(cues, "MORE_SYNTH", tmp_path / "more")
    monkeypatch.setattr(cues, "N_MORE", 60)

    class Scope:
        source = "synth"

        @staticmethod
        def items(split):
            return [item for item in first if item.split == split]

    asked = cues.questions(Scope())
    plain = [item for item in first if item.subset != "crossed"]
    more = asked[len(plain) :]
    assert [item.uid for item in asked[: len(plain)]] == [
        item.uid for split in cues.ASKED for item in plain if item.split == split
    ]
    assert len({item.uid for item in asked}) == len(asked) and 20 < len(more) < 60
    assert not {item.subset for item in more} & {*CUED, "crossed"}
    assert not {item.group_id for item in more} & {item.group_id for item in first}
    scenes = [{str(item.meta["things"]) for item in some} for some in (plain, more)]
    assert not scenes[0] & scenes[1]


def replies(right, subset="closer"):
    """Judged replies to a question a picture, right where ``right`` is."""
    return pd.DataFrame({"uid": [str(n) for n in range(len(right))], "step": -1, "group_id": np.arange(len(right)),
                         "subset": subset, "function": "Main question", "parsed": "x", "correct": right})  # fmt: skip


def test_true_boxes_are_compared_with_misplaced_ones_and_those_with_none():
    rng, right = np.random.default_rng(0), np.arange(400) % 2 == 0
    tables = {condition: replies(right) for condition in CONDITIONS}
    tables["box, true"] = replies(right | (rng.random(400) < 0.4))  # helps wrong ones
    tables["point, true"] = tables["point, misplaced"] = replies(right & (rng.random(400) < 0.5))  # any mark confuses
    tables["mask, other things"] = replies(right)[:100]
    table = cues.cue_effects.make(None, **dict(zip(cues.ANSWERS, tables.values(), strict=True)))
    assert list(dict.fromkeys(table["condition"])) == list(CONDITIONS) and set(table["kinds"]) == {cues.TRAINED}
    table = table.fillna({"against": ""}).set_index(["condition", "against"])
    assert table.loc[("mask, other things", NONE), "n"] == 100
    for against in ("box, misplaced", NONE):
        box = table.loc[(BOX, against)]
        assert box["change"] == pytest.approx(0.2, abs=0.04) and box["low"] > 0.1 and box["q"] < 0.05
        assert box["kept"] == 1.0
    point, harm = table.loc[("point, true", "point, misplaced")], table.loc[("point, true", NONE)]
    assert point["change"] == 0 and point["q"] > 0.5 and point["kept"] == pytest.approx(0.5, abs=0.1)
    assert harm["high"] < -0.1, "as good as its placebo, and worse than no cue"
    assert np.isnan(table.loc[(NONE, ""), "change"]) and table["q"].notna().sum() == len(table) - 1


def test_kinds_that_training_cues_and_others_are_told_apart():
    wrong, right = np.zeros(100, bool), np.ones(100, bool)
    before = pd.concat([replies(wrong, "higher"), replies(right, "closer").assign(uid=[f"c{n}" for n in range(100)])])
    after = before.assign(correct=~before["correct"])  # helps the one, harms the other
    tables = {condition: after if condition == BOX else before for condition in CONDITIONS}
    table = cues.cue_effects.make(None, **dict(zip(cues.ANSWERS, tables.values(), strict=True)))
    box = table[(table["condition"] == BOX) & (table["against"] == NONE)].set_index("kinds")["change"]
    assert box.to_dict() == {cues.NEVER: 1.0, cues.TRAINED: -1.0}


@pytest.mark.parametrize("question, share", [("Which row is the red cube in?", 1.0), ("Is it left of the ball?", 0.0)])
def test_wordings_are_shared_where_a_cued_kind_has_the_same_step_about_another_thing(question, share):
    things = [{"color": "red", "shape": "cube", "box": [0.0, 0.0, 0.2, 0.2]}]
    steps = {"closer": "Which row is the blue cube in?", "higher": question}
    items = [
        Item(
            kind,
            "synth",
            kind,
            "Is the red cube high?",
            "yes",
            "yesno",
            [Step(step, color, "closed", None, SPATIAL[0])],
            subset=kind,
            image="0.png",
            meta={"things": things},
        )
        for (kind, step), color in zip(steps.items(), ("red", "blue"), strict=True)
    ]

    class Scope:
        @staticmethod
        def items(split):
            return items

    assert latent.shared_wordings(Scope()) == share


class Made(HeadActivations):
    """Activations without a store."""

    def __init__(self, features, index, heads):
        for name, value in (("features", features), ("index", index), ("header", {}), ("heads", heads)):
            object.__setattr__(self, name, value)

    def by_head(self):
        return self.features


def made(seed, real=True):
    """The table of ``latent_heads`` from 12 made-up heads, of which one is latent and four are so by halves; without
    ``real`` the three captures, and the patches, differ by noise alone. Wordings change what heads do."""
    rng = np.random.default_rng(seed)
    places = pd.MultiIndex.from_product([range(N_LAYERS), range(N_HEADS)], names=["layer", "head"])
    heads = places.to_frame(index=False).assign(n_heads=N_HEADS, head_dim=WIDTH)
    heads["start"] = WIDTH * np.arange(len(heads))
    names, words = list(NAMES), ("alpha", "beta", "gamma", "delta", "omega")
    items, rows = [], []
    for number in range(100):
        steps = [Step(f"{words[number % 5]} {i} which?", "7", "int", None, name) for i, name in enumerate(names)]
        items.append(Item(str(number), "mine", str(number), "?", "1", "int", steps, split="A"))
        rows += [(str(number), str(number), i, name) for i, name in enumerate(names)]
    index = pd.DataFrame(rows, columns=["uid", "group_id", "step", "function"])
    spatial = (index["function"] == SPATIAL[0]).to_numpy()
    by_wording = rng.normal(size=(5, len(names), len(heads), WIDTH))[np.arange(len(index)) // 8 % 5, index["step"]]

    def activations(readable):
        x = by_wording + rng.normal(size=(len(index), len(heads), WIDTH))
        for head in readable if real else ():
            x[spatial, head] += 2.0
        return Made(x.astype(np.float32), index, HeadMap(heads))

    def patched(moving):
        moved = rng.normal(scale=0.1, size=(len(heads), len(index)))
        for head, size in moving.items() if real else ():
            moved[head, spatial] += size
        return PatchedHeads(np.zeros(len(index)), moved, index["function"].to_numpy(), index["uid"].to_numpy())

    class Scope:
        settings = replace(FEW, permutations=400)

        @staticmethod
        def items(split):
            return items

    truly = {TRULY: 0.5, ANY: 0.5, CARRIES: 0.5, HARMS: -0.2} | dict.fromkeys((8, 10, 11), -1.0)
    given = {
        "without": activations([]), "with_true": activations([TRULY, ANY, READS, HARMS]),
        "with_placebo": activations([ANY]), "from_true": patched(truly), "from_placebo": patched({ANY: 0.5}),
    }  # fmt: skip
    return latent.latent_heads.make(Scope(), **given)


def test_a_head_is_latent_that_reads_and_carries_with_true_cues_alone():
    table = made(0)
    assert list(table.columns[:3]) == ["layer", "head", "function"] and (table["wordings"] == 5).all()
    found = table[table["latent"]]
    assert [(r.function, r.layer, r.head) for r in found.itertuples()] == [(SPATIAL[0], *divmod(TRULY, N_HEADS))]
    by_head = table[table["function"] == SPATIAL[0]].reset_index()
    assert by_head.loc[READS, "p_rise"] < 0.05 < by_head.loc[READS, "p_patch"]
    assert by_head.loc[CARRIES, "p_patch"] < 0.05 < by_head.loc[CARRIES, "p_rise"]
    assert (by_head.loc[ANY, ["p_rise", "p_patch"]] > 0.05).all()
    harms = by_head.loc[HARMS]
    assert harms["p_rise"] < 0.05 and harms["above"] > 0.5 > 0 > harms["patch"] and harms["p_patch"] > 0.05
    assert activation.chosen_heads(table) == ("latent", [divmod(TRULY, N_HEADS)])
    assert activation.chosen_heads(table.assign(latent=False)) == ("nearest", [divmod(TRULY, N_HEADS)])


def test_where_cues_do_nothing_few_heads_rise_and_none_is_latent():
    """24 made-up models: a family-wise 5 % may err in one or two, and neither test alone in more than five."""
    tables = [made(seed, real=False) for seed in range(24)]
    for column in ("p_rise", "p_patch"):
        assert sum((table[column] < 0.05).any() for table in tables) <= 5
    assert not any(table["latent"].any() for table in tables)


@pytest.mark.parametrize("n", [19, 99])
def test_the_swap_test_holds_its_level_with_few_draws(n):
    """Draws and the observed one are of one kind, heads of different spread."""
    rng, spread = np.random.default_rng(n), np.linspace(0.1, 3, 2 * 40).reshape(2, 40)
    passed = 0
    for _ in range(400):
        observed, *null = spread * rng.normal(size=(1 + n, 2, 40))
        passed += bool((latent._family_wise(observed, np.array(null))[0] <= 0.05).any())
    assert binomtest(passed, 400, 0.05, alternative="greater").pvalue > 0.001, passed
    found, _ = latent._family_wise(np.where(np.arange(40) == 3, 9.0, 0.0) * spread, np.array(null))
    assert (found[:, 3] <= 0.05).all() and (found <= 0.05).sum() == 2


def test_what_would_be_found_is_found_in_four_of_five_data_sets():
    rng, label, group = np.random.default_rng(0), np.tile(SPATIAL, 120), np.repeat(np.arange(60), 4)
    spread = np.linspace(0.5, 2, 20)

    def drawn():
        return spread * (rng.normal(size=(240, 20)) + 0.5 * rng.normal(size=(60, 20))[group])

    *_, least = latent._tested(drawn(), label, group)
    passed = 0
    for _ in range(200):
        values = drawn()
        values[label == SPATIAL[1], 7] += least[1, 7]
        passed += latent._tested(values, label, group)[1][1, 7] < 0.05
    assert passed / 200 == pytest.approx(0.8 ** (1 / 3), abs=0.05), "of three tests four of five pass all"
    _, by_swaps = latent._family_wise(np.zeros((2, 40)), rng.normal(size=(2000, 2, 40)))
    alone = norm.isf(0.05 / 80) + norm.ppf(0.8**0.5)  # of independent heads, about Bonferroni's threshold
    np.testing.assert_allclose(by_swaps, alone, rtol=0.1)


@pytest.mark.parametrize("n", [19, 20, 60, 100])
def test_with_few_draws_what_would_be_found_lies_beyond_what_is_rejected_from(n):
    """The least value that the test itself passes, found by trying."""
    null = np.random.default_rng(n).normal(size=(n, 2, 3))
    least = latent._family_wise(np.zeros((2, 3)), null)[1]
    passing = [size for size in np.linspace(0, 60, 6001)
               if latent._family_wise(np.full((2, 3), size), null)[0].max() < 0.05]  # fmt: skip
    assert np.isinf(least).all() == (not passing) == (n == 19)
    if passing:
        assert (least > passing[0]).all() or np.isinf(least).any()


def test_a_head_stands_beside_the_others_of_its_layer():
    rng = np.random.default_rng(0)
    values, layers = rng.normal(size=(5, 7)), np.array([0, 0, 0, 1, 1, 2, 2])
    found = latent._mean_of_others(values, layers)
    for head in range(7):
        others = [other for other in range(7) if other != head and layers[other] == layers[head]]
        np.testing.assert_allclose(found[:, head], values[:, others].mean(1))
    every = [(layer, head) for layer in range(3) for head in range(4)]
    others = activation.same_layers(every, [(0, 0), (2, 1), (2, 3)])
    assert sorted(layer for layer, _ in others) == [0, 2, 2] and not set(others) & {(0, 0), (2, 1), (2, 3)}
    assert activation.same_layers(every, [(0, 0), (0, 1), (0, 2)]) == [], "one is left, three are wanted"


@pytest.fixture
def experiment(small_set, vlm, monkeypatch):
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)
    return Experiment("nano-internvl", profile=FEW, source=str(small_set))


def test_gradients_and_patches_agree(experiment, vlm):
    exact = latent.patched[BOX].make(experiment, BOX)
    assert exact.patched.shape == (len(vlm.heads), len(exact.intact))
    beyond = latent.patched_beyond_placebo.make(experiment)
    check = latent.attribution_check.make(experiment, exact, beyond)
    by_run = check.groupby("patched_into")["spearman"].mean()
    assert set(by_run.index) == {NONE, "box, misplaced"} and (by_run > 0.3).all()
    assert check[["certain", "settled", "signs"]].stack().between(0, 1).all()
    assert check["signs"].mean() > 0.6, "the direction of what changes most is predicted better than by a coin"
    own = exact.function == SPATIAL[0]
    odds = [
        np.log(p / (1 - p)) for p in np.exp([exact.patched[:, own], np.tile(exact.intact[own], (len(vlm.heads), 1))])
    ]
    unsure = (exact.intact[own] < np.log(0.9999)) & (exact.patched[:, own] < np.log(0.9999)).all(0)
    found = latent._log_odds(exact.patched[:, own]) - latent._log_odds(exact.intact[own])
    np.testing.assert_allclose(found[:, unsure], (odds[0] - odds[1])[:, unsure], rtol=1e-3, atol=1e-3)


def test_how_much_of_what_gradients_predict_comes_is_told_in_their_own_unit(monkeypatch):
    """Made-up patching that changes log-odds by twice what is predicted."""
    rng, heads = np.random.default_rng(0), 20
    guess, intact = rng.normal(size=(len(NAMES), heads)) / 10, rng.uniform(-2, 2, 4 * len(NAMES))
    function = np.repeat(NAMES, 4)
    odds = intact + 2 * guess[np.repeat(np.arange(len(NAMES)), 4)].T  # (heads, steps)
    exact = PatchedHeads(-np.logaddexp(0, -intact), -np.logaddexp(0, -odds), function, function)
    monkeypatch.setattr(latent, "runs_of", lambda experiment, cue: (None, None))
    monkeypatch.setattr(latent, "_settled", lambda target: np.zeros(len(function)))
    monkeypatch.setattr("cogvsr_utils.models.patching.path_attribution", lambda *runs: guess)
    table = latent.attribution_check.make(None, exact, exact)
    assert table["slope"].to_numpy() == pytest.approx(2) and (table["signs"] == 1).all()


def test_settled_attention_is_counted_where_answers_are_predicted(vlm, items):
    scorer = TeacherForcedScorer(vlm, items[:2], batch_size=2)
    ((inputs, (row, token), owner),) = scorer.batches
    with torch.no_grad(), attention_switched(vlm, "eager"):
        maps = vlm.model.base_model(**vlm.on_device(inputs), use_cache=False, output_attentions=True).attentions
    by_hand = []
    for step in range(len(scorer.index)):
        places = [(int(r), int(t) - 1) for r, t, o in zip(row, token, owner, strict=True) if o == step]
        by_hand.append(
            np.mean(
                [float(layer[r, h, t].max()) > 0.99 for layer in maps for h in range(layer.shape[1]) for r, t in places]
            )
        )
    np.testing.assert_allclose(latent._settled(scorer), by_hand)
    assert 0 < np.mean(by_hand) < 1


def test_edits_of_latent_heads_are_those_of_the_table(experiment, vlm):
    table = pd.DataFrame(vlm.heads.pairs, columns=["layer", "head"]).assign(p_rise=1.0, p_patch=1.0, latent=False)
    table.loc[(table["layer"] == 6) & (table["head"] < 4), "latent"] = True
    heads = [(6, head) for head in range(4)]
    effects = activation.latent_activation.make(experiment, table).set_index(["method", "heads", "draw", "function"])
    assert set(effects.index.get_level_values("method")) == {BOX, "box, misplaced", "scale", "steer", "attend"}
    items = latent.items_with_boxes(experiment, "C")
    scorer = TeacherForcedScorer(vlm, items)
    spatial = scorer.index["function"].isin(SPATIAL).to_numpy()

    def change(scores):
        return (scores.log_prob - scorer.score().log_prob)[spatial].mean()

    expected = {"scale": change(scorer.score(scale(heads, activation.SCALE)))}
    expected[BOX] = change(TeacherForcedScorer(vlm, cues.cued(items, BOX)).score())
    for method, value in expected.items():
        kind = "latent" if method == "scale" else ""
        assert effects.loc[(method, kind, 0, BOTH), "delta_log_prob"] == pytest.approx(value, abs=1e-5)
    for method in ("scale", "steer", "attend"):
        own = effects.loc[(method, "latent", 0, BOTH)]
        random = [effects.loc[(method, "random", draw, BOTH), "delta_log_prob"] for draw in range(activation.DRAWS)]
        assert own["beyond"] == pytest.approx(own["delta_log_prob"] - np.mean(random), abs=1e-6)
    others = ~np.isin(scorer.index["function"], list(SPATIAL))
    change_there = (scorer.score(scale(heads, activation.SCALE)).log_prob - scorer.score().log_prob)[others].mean()
    elsewhere = effects.loc[("scale", "latent", 0, activation.ELSEWHERE)]
    assert elsewhere["delta_log_prob"] == pytest.approx(change_there, abs=1e-5) and elsewhere["n"] == others.sum()
    assert not vlm.active_edits
    assert items and not {item.subset for item in items} & set(CUED)
    seconds = activation.activation_seconds.make(experiment).set_index("method")
    assert list(seconds.index) == ["nothing", "scale", "steer", "attend"] and (seconds["n"] == len(items)).all()
    assert seconds.loc["nothing", "ratio"] == 1 and (seconds["seconds"] > 0).all()


def test_no_head_is_made_to_attend_to_a_picture_that_it_reads_through_cross_attention(vlm):
    crossing = load_vlm("nano-mllama")
    assert activation.reading_heads(crossing, crossing.heads.pairs) == []
    assert activation.reading_heads(vlm, vlm.heads.pairs[:3]) == vlm.heads.pairs[:3]


def test_a_whole_layer_leaves_no_random_heads_beside_it(experiment, vlm):
    table = pd.DataFrame(vlm.heads.pairs, columns=["layer", "head"]).assign(p_rise=1.0, p_patch=1.0, latent=False)
    table.loc[table["layer"] == 6, "latent"] = True
    effects = activation.latent_activation.make(experiment, table)
    assert set(effects["heads"]) == {"", "latent"} and "beyond" not in effects


def test_the_small_model_names_what_is_marked_and_guesses_where_nothing_is(experiment):
    table = cues.marked_objects.make(experiment).set_index("mark")
    assert list(table.index) == ["", *cues.STYLES] and table["n"].nunique() == 1
    assert table.loc["", "high"] < table.loc["box", "low"] and table.loc["", "low"] < table["chance"].iloc[0] + 0.2
