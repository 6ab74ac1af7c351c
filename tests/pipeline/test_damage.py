"""Specific damage on made-up scores, where what is specific is known, and the scores themselves against a scorer."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from own_data import FEW

from cogvsr_utils import paths
from cogvsr_utils.checks.known_heads import planted_truth
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.head_edits import mask
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.pipeline import damage, dissociation
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.selection import ABLATION, IMPORTANCE, Rankings

N_WORDINGS, N_SCENES = 8, 12


def made_up(delta):
    """Scores in which set s changes the log-probability of function f's wording w in scene g by ``delta(s, f, w, g)``,
    and a little."""
    rng = np.random.default_rng(0)
    rows = [(f, w, (w + turn) % N_SCENES) for f in range(8) for w in range(N_WORDINGS) for turn in range(6)]
    change = np.array([[delta(s, *row) for row in rows] for s in range(8)]) + rng.normal(0, 0.05, (8, len(rows)))
    log_prob = np.concatenate([np.zeros((1, len(rows))), change]) - 1.0
    return damage.SetAblations(
        np.ones_like(log_prob, dtype=bool),
        log_prob,
        np.array(NAMES),
        np.arange(len(rows)).astype(str),
        np.zeros(len(rows), dtype=int),
        np.array([NAMES[f] for f, *_ in rows]),
        np.array([str(g) for *_, g in rows]),
        np.array([f"{f} {w}" for f, w, _ in rows]),
    )


def specific(scores):
    return damage.specific_damage[IMPORTANCE].make(Experiment("nano-internvl"), IMPORTANCE, set_ablations=scores)


def test_what_is_specific_is_found_and_what_only_looks_so_is_not():
    def delta(s, f, w, g):
        own = s == f
        return (
            -1.0 * (own and f < 4)  # specific
            + -2.0 * (s == 4)
            - 2.0 * (f == 4)  # a set that hurts all, on steps that all sets hurt
            + -8.0 * (own and f == 5 and w == 0)  # one wording, though on all of its steps
            + -8.0 * (own and f == 6 and g == 0)  # one scene, though in all of its wordings
            + 1.0 * (own and f == 7)  # helps
        )

    table = specific(made_up(delta))
    assert table["function"].tolist() == list(NAMES) and (table["wordings"] == N_WORDINGS).all()
    assert table["specific"].tolist() == ["yes"] * 4 + ["no"] * 4
    assert table["own"][4] == pytest.approx(-4, abs=0.1) and table["q"][7] < 0.05 < table["difference"][7]
    assert table["difference"][:4].tolist() == pytest.approx([-1] * 4, abs=0.2)
    assert (table["own_low"] < table["own"]).all() and (table["own"] < table["own_high"]).all()
    assert (table["low"] < table["difference"]).all() and (table["difference"] < table["high"]).all()


def test_the_difference_is_that_of_means_by_wording_then_by_function():
    scores = made_up(lambda s, f, w, g: -(s + 1) * 0.1 * (w + 1) * (1 + (s == f)))
    row = specific(scores).iloc[2]
    change = scores.log_prob[1:] - scores.log_prob[0]

    def by_wording(f):
        beyond = change[2] - np.mean([change[s] for s in range(8) if s not in (2, f)], axis=0)
        return np.array([beyond[scores.wording == f"{f} {w}"].mean() for w in range(N_WORDINGS)])

    others = [by_wording(f).mean() for f in range(8) if f != 2]
    assert row["difference"] == pytest.approx(by_wording(2).mean() - np.mean(others))
    parts = [by_wording(2).var(ddof=1) / 8, *(by_wording(f).var(ddof=1) / 8 / 49 for f in range(8) if f != 2)]
    assert row["high"] - row["low"] > 2 * 1.96 * np.sqrt(sum(parts))  # Student's t has wider ends than the normal
    assert row["high"] - row["low"] < 2 * 2.37 * np.sqrt(sum(parts))  # at least 7 degrees of freedom


def test_one_wording_alone_settles_nothing_and_is_no_evidence_against():
    scores = made_up(lambda s, f, w, g: -1.0 * (s == f))
    assert (specific(replace(scores, wording=scores.function))["specific"] == "not tested").all()
    one = replace(scores, wording=np.where(scores.function == NAMES[3], "always", scores.wording))
    table = specific(one)
    assert table["specific"].tolist() == ["yes"] * 3 + ["not tested"] + ["yes"] * 4
    absent = replace(one, function=np.where(one.function == NAMES[3], NAMES[0], one.function))
    assert specific(absent)["specific"][3] == "not tested" and specific(absent)["n"][3] == 0


def test_sets_are_ablated_and_generated_answers_told_from_forced_ones(small_set, vlm, monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    experiment = Experiment("nano-internvl", profile=FEW, source=str(small_set))
    functions = np.array(sorted(NAMES))
    strength = np.random.default_rng(0).random((8, len(vlm.heads)))
    rankings = Rankings(functions, np.array(vlm.heads.pairs), {IMPORTANCE: strength})
    strict = SimpleNamespace(importance=-strength)
    found = damage.set_ablations[IMPORTANCE].make(experiment, IMPORTANCE, ranked=rankings, strict=strict)
    scorer = TeacherForcedScorer(vlm, experiment.items("C"))
    number, name = 3, NAMES[3]
    order = np.argsort(-strength[list(functions).index(name)])[: n_top(len(vlm.heads))]
    by_hand = scorer.index.assign(log_prob=scorer.score(mask([vlm.heads.pairs[i] for i in order])).log_prob)
    both = pd.DataFrame({"uid": found.uid, "step": found.step, "given": found.log_prob[1 + number]})
    both = both.merge(by_hand, on=["uid", "step"])
    assert len(both) == len(scorer.index)
    np.testing.assert_allclose(both["given"], both["log_prob"], atol=1e-4)
    replies = pd.DataFrame({"uid": found.uid, "step": found.step, "function": found.function, "group_id": found.uid,
                            "correct": True})  # fmt: skip
    ablated = {f"ablated_{i}": replies.assign(correct=False) for i in range(8)}
    table = damage.generated_and_forced.make(experiment, set_ablations=found, answers=replies, **ablated)
    row, own = table.set_index("function").loc[name], found.function == name
    forced = found.correct[1 + number][own].mean() - found.correct[0][own].mean()
    assert row["n"] == own.sum() and row["generated"] == -1 and row["forced"] == pytest.approx(forced)
    assert row["inherited"] == pytest.approx(-1 - forced)
    assert row["before"] == 1 and row["before_forced"] == pytest.approx(found.correct[0][own].mean())
    few = found.function != NAMES[0]
    fewer = replies[few]
    table = damage.generated_and_forced.make(
        experiment, set_ablations=found, answers=fewer, **{name: each[few] for name, each in ablated.items()}
    )
    assert table["function"].tolist() == list(NAMES[1:])


def test_each_way_of_choosing_a_set_is_its_own(vlm, monkeypatch):
    strength = np.random.default_rng(0).random((8, len(vlm.heads)))
    functions, pairs = np.array(sorted(NAMES)), vlm.heads.pairs
    rankings = Rankings(functions, np.array(pairs), {IMPORTANCE: strength, ABLATION: strength[::-1]})
    strict = SimpleNamespace(importance=np.where(np.arange(len(pairs)) == 7, -9.0, strength))
    k, row = n_top(len(pairs)), list(functions).index(NAMES[2])

    def chosen(way):
        return damage._sets(Experiment("planted-joint"), way, rankings, strict)[NAMES[2]]

    assert chosen(IMPORTANCE) == [pairs[i] for i in np.argsort(-strength[row])[:k]]
    assert chosen(ABLATION) == [pairs[i] for i in np.argsort(-strength[::-1][row])[:k]]
    assert chosen(damage.LOWEST) == [pairs[i] for i in np.argsort(strength[row])[:k]]
    assert chosen(damage.STRICT)[0] == pairs[7]  # strong in the other direction
    assert chosen(damage.TRUTH) == planted_truth("planted-joint").heads[NAMES[2]]


def test_functions_that_share_a_set_are_not_compared_and_an_empty_set_is_not_tested():
    """Sets 0 and 1 are one: it does the same to the steps of both functions, and that is as specific as it can be."""
    scores = made_up(lambda s, f, w, g: -1.0 * (s in (0, 1) and f in (0, 1)) - 1.0 * (s == f == 2))
    assert specific(scores)["difference"][0] > -0.9, "as if the other function's set were another"
    shared = replace(scores, sets=np.array(["0.1 0.2", "0.1 0.2", *NAMES[2:7], ""]))
    table = specific(shared)
    assert table["specific"].tolist() == ["yes"] * 3 + ["no"] * 4 + ["not tested"]
    assert table["difference"][:2].tolist() == pytest.approx([-1, -1], abs=0.1) and np.isnan(table["own"][7])


def test_sets_that_hurt_others_do_not_make_a_harmless_one_specific():
    """Set 0 does nothing. The other sets hurt all steps but those of function 0: an interaction, and no damage."""
    table = specific(made_up(lambda s, f, w, g: -1.0 * (s > 0 and f > 0))).set_index("function")
    assert table.loc[NAMES[0], "difference"] < -0.5 and table.loc[NAMES[0], "specific"] == "no"


def test_pairs_are_doubly_dissociated_where_both_sides_are():
    def delta(s, f, w, g):
        return (
            -1.0 * (s == f and f < 2)  # 0 and 1: each its own
            + -2.0 * (s == 2)  # hurts all, its own no more than others
            + -8.0 * (s == f == 3 and w == 0)  # one wording
            + -8.0 * (s == f == 4 and g == 0)  # one scene
        )

    scores = made_up(delta)
    table = dissociation.double_dissociations.make(Experiment("nano-internvl"), set_ablations=scores)
    assert len(table) == 28
    found = {(r.first, r.second) for r in table.itertuples() if r.dissociated == "yes"}
    assert found == {(NAMES[0], NAMES[1])}
    first = table.iloc[0]
    change = scores.log_prob[1:] - scores.log_prob[0]
    for column, own, other in (("on_first", 0, 1), ("on_second", 1, 0)):
        steps = [i for i, name in enumerate(scores.function) if name == NAMES[own]]
        assert first[column] == pytest.approx(np.mean([change[own, i] - change[other, i] for i in steps]))
    assert first["low"] < first["interaction"] < first["high"] < 0
    assert first["interaction"] == pytest.approx(first["on_first"] + first["on_second"])


def test_pairs_that_share_a_set_or_have_none_are_not_tested():
    scores = made_up(lambda s, f, w, g: -1.0 * (s == f))
    sets = scores.sets.copy()
    sets[1], sets[2] = sets[0], ""
    scores = replace(scores, sets=sets)
    table = dissociation.double_dissociations.make(Experiment("nano-internvl"), set_ablations=scores)
    table = table.set_index(["first", "second"])["dissociated"]
    assert table[NAMES[0], NAMES[1]] == "not tested" and table[NAMES[0], NAMES[2]] == "not tested"
    assert table[NAMES[0], NAMES[3]] == "yes" and (table == "not tested").sum() == 1 + 7
