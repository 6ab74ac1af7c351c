"""Results on a small data set, with rankings made up, so that what comes out can be computed by hand."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from own_data import FEW
from scipy.stats import spearmanr

from cogvsr_utils import paths
from cogvsr_utils.analysis.ablations import HeadAblations
from cogvsr_utils.analysis.matching import KINDS
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.head_edits import mask
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.pipeline import ablation, damage, measured, prediction, selection, validation
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.selection import Attributions, HeadMeans, HeadSets, Rankings
from cogvsr_utils.pipeline.sweeps import scorer_of

FUNCTIONS = np.array(sorted(NAMES))
SOME = replace(FEW, control_items=3, ablation_items=6)
MEASURED = "what was measured"


@pytest.fixture(scope="module")
def experiment(small_set, tmp_path_factory, vlm):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)  # at full precision on every device
        patch.setattr(paths, "RESULTS", tmp_path_factory.mktemp("results"))
        yield Experiment("nano-internvl", profile=SOME, source=str(small_set))


@pytest.fixture(scope="module")
def ablations(experiment):
    return dict.fromkeys(("mask", "mean"), ablation.single_ablations["mask"].make(experiment, "mask"))


@pytest.fixture(scope="module")
def rankings(experiment, ablations):
    heads = experiment.vlm.heads
    rng, shape = np.random.default_rng(0), (8, len(heads))
    scores = {
        "the same for all": np.tile(rng.random(shape[1]), (8, 1)),
        "all alike": np.ones(shape),
        MEASURED: -ablations["mask"].mean_delta_log_prob(FUNCTIONS),
        selection.IMPORTANCE: rng.random(shape),
    }
    return Rankings(FUNCTIONS, np.array(heads.pairs), scores)


def test_steps_asked_for_alone_are_those_of_the_whole_chats(experiment):
    """What comes after a function's last step is cut off and changes nothing."""
    function = NAMES[0]
    short = scorer_of(experiment, "C", 4, function)
    whole = TeacherForcedScorer(
        experiment.vlm, [item for item in experiment.items("C") if item.uid in set(short.index["uid"])]
    )
    log_prob = [
        dict(zip(zip(s.index["uid"], s.index["step"], strict=True), s.score(mask([(1, 2)])).log_prob, strict=True))
        for s in (short, whole)
    ]
    assert 0 < len(log_prob[0]) <= len(log_prob[1]) and (short.index["function"] == function).sum() >= 4
    assert [log_prob[1][key] for key in log_prob[0]] == pytest.approx(list(log_prob[0].values()), abs=1e-4)


def test_sets_are_measured_as_by_hand(experiment, rankings, ablations):
    k = n_top(len(rankings.heads))
    rankings = replace(rankings, scores=rankings.scores | {selection.ABLATION: rankings.scores[MEASURED]})
    first, greedy = (selection.top_heads_by(rankings, MEASURED, n) for n in (k, 2))
    means = HeadMeans({"all": np.zeros(experiment.vlm.heads.width, dtype=np.float32)})
    table = prediction.set_effects.make(
        experiment, rankings=rankings, greedy_sets=greedy, head_means=means, masked=ablations["mask"],
        mean_ablated=ablations["mean"],
    ).set_index(["set", "edit"])  # fmt: skip
    same = table.loc["the same for all"]
    np.testing.assert_allclose(same[["specific", "specific_low", "specific_high"]], 0, atol=1e-12)
    np.testing.assert_allclose(same["change"], same["elsewhere"])
    scorer = scorer_of(experiment, "C", SOME.ablation_items)
    label, intact = scorer.index["function"].to_numpy(), scorer.score()
    own, other, deltas = [], [], []
    for function in FUNCTIONS:
        ablated = scorer.score(mask(first.of(function)))
        deltas.append((ablated.log_prob - intact.log_prob)[label == function].mean())
        for name in FUNCTIONS:
            change = ablated.correct[label == name].mean() - intact.correct[label == name].mean()
            (own if name == function else other).append(change)
    row = table.loc[(MEASURED, "mask")]
    assert row["change"] == pytest.approx(np.mean(own)) and row["elsewhere"] == pytest.approx(np.mean(other))
    assert row["delta_log_prob"] == pytest.approx(np.mean(deltas), abs=1e-5)
    few = table.loc[("greedy on split A, 2", "mask")]
    assert few["k"] == 2 and few.equals(table.loc[(f"{selection.ABLATION}, 2", "mask")]) and row["k"] == k
    expected = [scorer.score(mask(greedy.of(name))).log_prob - intact.log_prob for name in FUNCTIONS]
    expected = [change[label == name].mean() for change, name in zip(expected, FUNCTIONS, strict=True)]
    assert few["delta_log_prob"] == pytest.approx(np.mean(expected), abs=1e-5)
    cost = np.sort(ablations["mask"].mean_delta_log_prob(FUNCTIONS), axis=1)[:, :k]
    assert row["singles"] == pytest.approx(cost.sum(1).mean())


def test_a_ranking_that_is_the_measure_itself_is_told_from_chance_and_no_other(experiment, rankings, ablations):
    tests = prediction.ranking_tests.make(experiment, rankings=rankings, masked=ablations["mask"], n=200)
    tests = tests.set_index("ranking")
    assert tests.loc[MEASURED, "precision"] == 1 and tests.loc[MEASURED, "spearman"] == pytest.approx(1)
    assert (tests.loc[MEASURED, ["p_precision", "p_spearman"]] == 1 / 201).all()
    assert (tests.drop(MEASURED)["p_spearman"] > 0.01).all() and tests.loc["all alike", "spearman"] == 0


def test_a_ranking_by_depth_alone_is_no_better_than_chance(experiment, rankings, ablations):
    """Late heads cost most, and a ranking that knows no more than that; among the heads of a layer it is blind."""
    rng, layers = np.random.default_rng(0), rankings.heads[:, 0]
    masked = ablations["mask"]
    cost = np.concatenate([[0.0], -layers - rng.random(len(layers))])
    deep = replace(masked, log_prob=np.tile(cost[:, None], len(masked.function)))
    scores = layers + rng.random((8, len(layers)))
    by_depth = replace(rankings, scores={"depth": scores})
    found = prediction.ranking_tests.make(experiment, rankings=by_depth, masked=deep, n=200).iloc[0]
    assert found["spearman"] > 0.8 and found["p_spearman"] > 0.01


def control_table(own, controls):
    """What ``matched_controls`` gives, of made-up changes by function, the same for each kind."""
    rows = [{"kind": "own", "function": name, "set": -1, "change": change} for name, change in own.items()]
    rows += [
        {"kind": kind, "function": name, "set": number, "change": change}
        for kind in KINDS
        for name, each in controls.items()
        for number, change in enumerate(each)
    ]
    return pd.DataFrame(rows).assign(n=9, k=2, norm=1.0, heads="0.0 0.1")


def test_controls_that_cost_more_show_as_well_as_those_that_cost_less():
    def one(change):
        sets = control_table({NAMES[0]: change}, {NAMES[0]: np.linspace(-0.2, 0.0, 99)})
        return ablation.against_controls(sets, "change")["p"].iloc[0]

    assert one(-0.5) == one(0.3) == pytest.approx(2 / 100) and one(-0.1) > 0.9


def test_quality_of_a_ranking_is_counted_by_hand(experiment, rankings, ablations):
    table = prediction.ranking_quality.make(
        experiment, rankings=rankings, masked=ablations["mask"], mean_ablated=ablations["mean"]
    ).set_index(["ranking", "edit", "function", "k"])
    k, name = n_top(len(rankings.heads)), FUNCTIONS[3]
    cost = -ablations["mask"].mean_delta_log_prob([name])[0]
    top = [set(np.argsort(-x, kind="stable")[:k]) for x in (rankings.scores["the same for all"][3], cost)]
    row = table.loc["the same for all", "mask", name, k]
    assert row["precision"] == len(top[0] & top[1]) / k and row["chance"] == k / 192
    assert table.loc[MEASURED, "mask", name, k]["precision"] == 1


def test_agreement_of_rankings_is_that_of_ranks(experiment):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"function": ["a"] * 20 + ["b"] * 20, "importance": rng.normal(size=40),
                          "auroc": rng.random(40), "effect": rng.normal(size=40)})  # fmt: skip
    found = validation.ranking_agreement.make(experiment, head_table=table).set_index("function")
    part = table.iloc[20:]
    assert found.loc["b", "with_auroc"] == pytest.approx(spearmanr(part["importance"].abs(), part["auroc"]).statistic)
    assert found.loc["b", "with_cost"] == pytest.approx(spearmanr(part["importance"].abs(), -part["effect"]).statistic)


def test_matched_controls_are_as_large_and_measured_on_own_steps(experiment, rankings):
    norms = np.random.default_rng(1).uniform(1, 1.05, len(rankings.heads))
    attributions = Attributions(FUNCTIONS, *np.zeros((2, 8, 192)), norms)
    sets = ablation.matched_controls[selection.IMPORTANCE].make(
        experiment, selection.IMPORTANCE, rankings=rankings, attributions=attributions
    )
    assert set(sets["k"]) == {n_top(192)} and set(sets["function"]) == set(NAMES)
    table = ablation.against_controls(sets)
    assert table["function"].tolist() == 3 * list(NAMES) and (table["sets"] == SOME.matched_controls).all()
    assert (table.groupby("kind")["distinct"].min() == SOME.matched_controls).all()
    row = sets[(sets["kind"] == KINDS[1]) & (sets["function"] == NAMES[2])].iloc[0]
    heads = [tuple(map(int, each.split("."))) for each in row["heads"].split()]
    scorer = scorer_of(experiment, "C", SOME.control_items, NAMES[2])
    own = (scorer.index["function"] == NAMES[2]).to_numpy()
    change = (scorer.score(mask(heads)).log_prob - scorer.score().log_prob)[own].mean()
    assert row["delta_log_prob"] == pytest.approx(change) and row["n"] == own.sum()


def test_over_all_functions_a_draw_counts_whole():
    """Two functions whose controls move together: their mean has the spread of one, not of independent draws."""
    draws = np.linspace(-1, 1, 101)
    found = ablation.all_against_controls(control_table({"a": -0.9, "b": -0.9}, {"a": draws, "b": draws}), "change")
    assert found["kind"].tolist() == list(KINDS) and found["own"].tolist() == pytest.approx([-0.9] * 3)
    assert found["low"].tolist() == pytest.approx([-0.95] * 3) and (found["p"] > 0.05).all()


def test_specificity_is_the_diagonal_less_the_rest_and_its_p_that_of_pairings():
    rng = np.random.default_rng(0)
    square = rng.normal(0, 0.01, (8, 8)) - 0.1 - 0.3 * np.eye(8)
    matrix = pd.DataFrame(
        {"head_set": one, "function": other, "change": square[i, j]}
        for i, one in enumerate(NAMES)
        for j, other in enumerate(NAMES)
    )
    found = damage.pooled_damage(matrix)
    assert found["own"] == pytest.approx(square.diagonal().mean())
    assert found["other"] == pytest.approx(square[~np.eye(8, dtype=bool)].mean())
    assert found["difference"] == pytest.approx(found["own"] - found["other"]) and found["p"] < 0.002
    flat = damage.pooled_damage(matrix.assign(change=rng.permutation(matrix["change"].to_numpy())))
    assert flat["p"] > 0.02


def test_the_strongest_head_is_taken_out_of_its_set(experiment, rankings, ablations):
    on_a = ablations["mask"]
    worst = np.random.default_rng(1).permutation(192)  # another order than that of C
    on_a = replace(on_a, log_prob=np.r_[on_a.log_prob[:1], on_a.log_prob[:1] - worst[:, None]])
    made = ablation.without_strongest.make(
        experiment, rankings=rankings, masked=ablations["mask"], selection_ablations=on_a
    )
    table = made.set_index("function")
    scorer = scorer_of(experiment, "C", SOME.ablation_items)
    name = NAMES[4]
    own = (scorer.index["function"] == name).to_numpy()
    heads = selection.top_heads_by(rankings, selection.IMPORTANCE, n_top(192)).of(name)
    intact = scorer.score().correct[own]

    def change(chosen):
        return (scorer.score(mask(chosen)).correct[own].astype(float) - intact).mean()

    alone = {head: change([head]) for head in heads}
    row = table.loc[name]
    place = {head: number for number, head in enumerate(experiment.vlm.heads.pairs)}
    strongest = max(heads, key=lambda head: worst[place[head]])
    assert (row["layer"], row["head"]) == strongest and row["strongest"] == pytest.approx(alone[strongest])
    assert row["whole"] == pytest.approx(change(heads)) and row["n"] == own.sum()
    assert row["others"] == pytest.approx(change([h for h in heads if h != (row["layer"], row["head"])]))


def test_measured_tables_stand_in_for_light_results_and_say_what_has_changed(experiment, monkeypatch, tmp_path):
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    monkeypatch.setattr(measured, "MEASURED", (validation.null_models,))
    light = Experiment("nano-internvl", source=experiment.source)
    assert not measured.is_measured(light, validation.null_models)
    with pytest.raises(FileNotFoundError, match="no measured tables of nano-internvl"):
        measured.stamp(light)
    table = pd.DataFrame({"case": ["a"], "selected": [3]})
    full = Experiment("nano-internvl", profile="full", source=experiment.source)
    with pytest.raises(FileNotFoundError, match="no full results of nano-internvl; expected some under"):
        measured.publish(full)
    monkeypatch.setattr(type(validation.null_models), "__call__", lambda self, given: table)
    monkeypatch.setattr(type(validation.null_models), "is_kept", lambda self, given: True)
    measured.publish(full)
    assert measured.table(light, validation.null_models).equals(table)
    assert not measured.is_measured(full, validation.null_models)
    assert measured.stamp(light)["changed"] == [] and measured.stamp(light)["profile"] == "full"
    shutil.copytree(tmp_path / "nano-internvl", tmp_path / "tables-alone")  # without weights
    alone = Experiment("tables-alone", source=experiment.source)
    assert measured.stamp(alone)["changed"] == []
    monkeypatch.setattr(type(validation.null_models), "key", lambda self, given: "another")
    assert measured.stamp(light)["changed"] == measured.stamp(alone)["changed"] == ["null_models"]


def test_tables_that_would_be_made_the_same_stay_when_others_are_published(experiment, monkeypatch, tmp_path):
    results = (validation.null_models, validation.planted, validation.overlaps)
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    monkeypatch.setattr(measured, "MEASURED", results)
    full = Experiment("nano-internvl", profile="full", source=experiment.source)
    kind, made, keys = type(results[0]), {}, {}
    monkeypatch.setattr(kind, "__call__", lambda self, given: made[self.name])
    monkeypatch.setattr(kind, "is_kept", lambda self, given: self.name in made)
    monkeypatch.setattr(kind, "key", lambda self, given: keys.get(self.name, "as before"))

    def publish(commit, *names):
        made.clear()
        made.update({name: pd.DataFrame({"by": [commit]}) for name in names})
        monkeypatch.setattr(Experiment, "made_on", lambda self: {"commit": commit, "profile": "full"})
        measured.publish(full)
        stamp = measured.stamp(full)
        tables = {path.stem: pd.read_csv(path)["by"][0] for path in (tmp_path / "nano-internvl").glob("*.csv")}
        by_run = {name: run["commit"] for run, names in measured.runs(stamp) for name in names}
        assert tables == by_run and set(stamp["keys"]) == set(tables)
        return tables

    publish("a", "null_models", "planted")
    measured.renew(full, ["planted", "null_models"], {})
    assert publish("b", "overlaps", "planted") == {"null_models": "a", "overlaps": "b", "planted": "b"}
    assert [each["tables"] for each in measured.stamp(full)["unchanged"]] == [["null_models"]]
    keys["overlaps"] = "by other code"
    assert publish("c", "planted") == {"null_models": "a", "planted": "c"}
    monkeypatch.setattr(Experiment, "weights_digest", "of another model")
    assert publish("d", "planted") == {"planted": "d"}


def test_a_set_of_heads_is_named_by_its_function():
    sets = HeadSets(np.array(["a", "b"]), np.array([[[0, 1]], [[2, 3]]]))
    assert sets.of("b") == [(2, 3)]


def test_ablations_by_function_are_means_over_its_steps():
    rng = np.random.default_rng(0)
    log_prob, correct = rng.normal(size=(4, 6)), rng.random((4, 6)) < 0.5
    ablations = HeadAblations(correct, log_prob, np.array(list("aabbab")), np.arange(6))
    expected = [(log_prob[1:] - log_prob[0])[:, [0, 1, 4]].mean(1), (log_prob[1:] - log_prob[0])[:, [2, 3, 5]].mean(1)]
    np.testing.assert_allclose(ablations.mean_delta_log_prob(["a", "b"]), expected)
    changed = correct[1:].astype(int) - correct[0]
    np.testing.assert_allclose(ablations.mean_delta_correct(["a"])[0], changed[:, [0, 1, 4]].mean(1))
    assert ablations.rows(np.array([2, 3])).function.tolist() == ["b", "b"]


def test_greedy_sets_take_what_costs_most_beside_what_is_already_ablated():
    """Heads a and b are worth 2 each but stand in for each other; c is worth 1.5 always, the others nearly nothing."""

    class Made:
        index = pd.DataFrame({"function": ["here", "there"]})

        def score_each(self, edits, progress):
            return [SimpleNamespace(log_prob=np.array([-self.cost(set(edit.heads)), 9.0])) for edit in edits]

        def cost(self, off):
            alone = {(0, 2): 1.5, (0, 3): 0.3, (0, 4): 0.2, (0, 5): 0.1}
            return 2.0 * bool(off & {(0, 0), (0, 1)}) + sum(alone.get(head, 0) for head in off)

    order = [(0, head) for head in range(8)]
    assert selection._greedy(Made(), "here", order) == [(0, 0), (0, 2), (0, 3), (0, 4)]
