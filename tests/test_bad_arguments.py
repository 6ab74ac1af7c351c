"""What a user may get wrong: each error says what was given and what was expected.

Files and lines are in ``dataset/test_jsonl.py``, pictures in ``dataset/test_images.py``, edits in
``models/test_interventions.py``, stores in ``models/test_stores.py``.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvsr_utils.analysis.accuracy import accuracy_table, compare
from cogvsr_utils.analysis.head_probes import HeadProbes, binary_accuracy
from cogvsr_utils.analysis.head_scores import head_table, top_heads
from cogvsr_utils.analysis.joint_probe import FunctionProbe
from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.synth.build import build_synth
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.chat import BadChat
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.recording import capture
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.pipeline.evaluation import evaluate
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.selection import probe_arrays

STEP = Step("is it red?", "yes", "yesno", None, "Knowledge Recall")
X, Y, GROUPS = np.random.default_rng(0).normal(size=(40, 3, 4)), np.array(["a", "b"] * 20), np.arange(40) // 2


def spoilt(**changes):
    return {"x": X, "y": Y, "groups": GROUPS} | changes


@pytest.mark.parametrize("probe", [HeadProbes(), FunctionProbe(epochs=1)])
@pytest.mark.parametrize("data, message", [
    (spoilt(x=X[:, :, 0]), r"x has shape \(40, 3\), y 40 .*; expected \(steps, heads, head_dim\)"),
    (spoilt(y=Y[:-1]), "y 39 and groups 40 rows"),
    (spoilt(groups=GROUPS[:-1]), "y 40 and groups 39 rows"),
    (spoilt(x=np.where(X > 2, np.nan, X)), "some activations are not finite"),
    (spoilt(x=np.where(X > 2, np.inf, X)), "some activations are not finite"),
    (spoilt(y=np.array(["a"] * 40)), "one label in 40 steps; expected at least two"),
    (spoilt(groups=np.zeros(40, int)), "1 groups; expected at least 5"),
    (spoilt(groups=np.arange(40) % 4), "4 groups; expected at least 5"),
    (spoilt(x=X[:0], y=Y[:0], groups=GROUPS[:0]), "one label in 0 steps|0 groups"),
])  # fmt: skip
def test_probes_refuse_data_that_they_cannot_use(probe, data, message):
    more = {"layers": np.zeros(3, int)} if isinstance(probe, FunctionProbe) else {}
    with pytest.raises(ValueError, match=message):
        probe.fit(**data, **more)


def test_more_of_probes():
    with pytest.raises(ValueError, match="2 layers for 3 heads; expected one each"):
        FunctionProbe().fit(X, Y, GROUPS, np.zeros(2, int))
    with pytest.raises(ValueError, match=r"^'rare' has no steps on one side of the split by groups"):
        FunctionProbe().fit(X, np.array(["rare", *Y[1:]]), GROUPS, np.zeros(3, int))
    with pytest.raises(ValueError, match="1 groups; expected at least 5"):
        binary_accuracy(X, Y, np.zeros(40, int))
    with pytest.raises(ValueError, match="protocol is 'lax'; expected one of"):
        FunctionProbe("lax")
    for name in ("epochs", "n_seeds", "batch_size"):
        with pytest.raises(ValueError, match=f"{name} is 0; expected at least 1"):
            FunctionProbe(**{name: 0})
    for offset in (np.zeros((40, 3)), np.zeros((9, 2)), np.full((40, 2), np.nan)):
        with pytest.raises(ValueError, match=r"offset has shape .*; expected finite numbers \(40, 2\)"):
            HeadProbes().fit(X, Y, GROUPS, offset=offset)


def test_a_function_of_too_few_groups_is_named(items, vlm):
    class Activations:
        index = pd.DataFrame({"function": ["Knowledge Recall"] * 9, "group_id": range(9)})

    with pytest.raises(ValueError, match="'Spatial Perception' has steps of 0 groups; expected at least 5 for each of"):
        probe_arrays(Activations)


def test_missing_values_have_no_rank_and_are_not_taken():
    heads = pd.DataFrame({"layer": [0, 0, 1], "head": [0, 1, 0]})
    table = head_table(heads, ["f"], {"auroc": np.array([[np.nan, 0.5, 0.9]])})
    assert table["rank_auroc"].isna().tolist() == [True, False, False] and table["rank_auroc"].tolist()[1:] == [2, 1]
    assert top_heads(table, "f", 2, by="auroc") == [(1, 0), (0, 1)]
    for k in (0, -1, 3):
        with pytest.raises(ValueError, match=rf"k is {k}; expected 1 to 2, the heads of f with a value of auroc"):
            top_heads(table, "f", k, by="auroc")
    for by in ("importance", "nonsense"):
        with pytest.raises(ValueError, match=rf"by is {by!r}; expected one of \['auroc'\]"):
            top_heads(table, "f", 1, by=by)
    with pytest.raises(ValueError, match=r"no function 'g' in the table; it has \['f'\]"):
        top_heads(table, "g", 1, by="auroc")
    some = head_table(heads.iloc[[2, 0]], ["f"], {"auroc": np.array([[0.1, 0.4]])})
    assert some["rank_auroc"].tolist() == [2, 1]  # by place, whatever the index of the heads
    with pytest.raises(KeyError, match=r"no columns \['luck'\]; expected some of"):
        head_table(heads, ["f"], {"luck": np.zeros((1, 3))})
    with pytest.raises(ValueError, match=r"auroc has shape \(1, 2\); expected \(functions, heads\) = \(1, 3\)"):
        head_table(heads, ["f"], {"auroc": np.zeros((1, 2))})


def test_tables_of_replies(answers):
    judged = judge(answers)
    with pytest.raises(ValueError, match=r"no columns \['correct'\] in a table .*; expected what judge\(\) returns"):
        compare(answers, judged)
    with pytest.raises(ValueError, match=r"no columns \['correct', 'parsed'\]"):
        accuracy_table(answers)
    with pytest.raises(ValueError, match=r"no columns \['luck'\]"):
        accuracy_table(judged, by="luck")
    with pytest.raises(ValueError, match=r"no columns \['prediction'\] .*; expected what answer\(\) returns"):
        judge(answers.drop(columns="prediction"))
    with pytest.raises(ValueError, match="some options are a text; expected lists"):
        judge(answers.assign(options="['red', 'blue']"))
    assert not judge(answers.assign(prediction=np.nan, answer="nan"))["correct"].any()
    with pytest.raises(ValueError, match="scorer is 'lenient'; expected one of"):
        judge(answers, "lenient")
    with pytest.raises(ValueError, match=r"replies before, .* in common; expected the same"):
        compare(judged, judged.iloc[1:])
    with pytest.raises(ValueError, match="stand in a table twice"):
        compare(judged, judged.iloc[[0, *range(len(judged))]])


@pytest.mark.parametrize("changes, message", [
    ({"quantize": "2bit"}, "quantize is '2bit'; expected one of"), ({"profile": "heavy"}, "profile is 'heavy'"),
    ({"profile": None}, "profile is None"), ({"model": ""}, "model is ''; expected a nano name"),
    ({"model": 12}, "model is 12; expected"), ({"source": "none.jsonl"}, "no data at 'none.jsonl'; expected"),
    ({"source": "/tmp"}, "no data at '/tmp'"),
])  # fmt: skip
def test_experiments_are_checked_when_they_are_named(changes, message):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        Experiment(**{"model": "nano-internvl"} | changes)


def test_a_file_that_was_changed_is_read_anew(small_set, tmp_path):
    lines = [line for line in small_set.read_text().splitlines() if '"split": "A"' in line]
    lines = [json.dumps(json.loads(line) | {"image": None}) for line in lines]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines))
    before = Experiment("nano-internvl", source=path)
    older = before.data_digest(("A",))
    assert len(before.items("A")) == len(lines)
    path.write_text("\n".join(lines[:3]))
    after = Experiment("nano-internvl", source=path)
    assert len(after.items("A")) == 3 and after.data_digest(("A",)) == before.data_digest(("A",)) != older
    with pytest.raises(ValueError, match=r"mine\.jsonl has no split 'C'; it has \['A'\]"):
        after.items("C")


@pytest.mark.parametrize("name, settings, message", [
    ("nano-none", {}, "no nano model 'nano-none'; shipped"),
    ("nano-internvl", {"quantize": "3bit"}, "quantize is '3bit'"),
])  # fmt: skip
def test_models_that_there_are_not(name, settings, message):
    with pytest.raises((OSError, ValueError), match=message):
        load_vlm(name, **settings)


@pytest.mark.parametrize("option, message", [
    ("--quantize=2bit", "quantize is '2bit'"), ("--profile=heavy", "profile is 'heavy'"), ("--model=nano-x", "no nano"),
    ("--source=none.jsonl", "no data at 'none.jsonl'"), ("--modle=x", "No such option"),
])  # fmt: skip
def test_the_command_for_one_result_refuses_what_it_cannot_use(option, message):
    call = [sys.executable, "-m", "cogvsr_utils.pipeline", "head_table", option]
    done = subprocess.run(call, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("settings, message", [
    ({"n_items": 0}, "n_items is 0; expected 1 to 100000"), ({"size": 8}, "size is 8; expected 16 to 2048"),
    ({"size": 10_000}, "size is 10000; expected 16 to 2048"), ({"n_items": 10**9}, "n_items is 1000000000; expected"),
])  # fmt: skip
def test_a_set_out_of_range_is_refused_before_anything_is_drawn(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        build_synth(tmp_path, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(small_set, limit):
    with pytest.raises(ValueError, match=rf"limit is {limit}; expected at least 1"):
        load_items(small_set, limit=limit)


@pytest.fixture(params=["answer", "capture", "score"])
def asking(request, vlm, tmp_path):
    return {"answer": lambda items: answer(vlm, items), "capture": lambda items: capture(vlm, items, store=tmp_path),
            "score": lambda items: TeacherForcedScorer(vlm, items)}[request.param]  # fmt: skip


def test_what_a_model_cannot_be_asked_names_its_item(asking, asked):
    with pytest.raises(BadChat, match="no items; expected at least one"):
        asking([])
    with pytest.raises(BadChat, match=r"items \['0'\] are given more than once"):
        asking([*asked, asked[0]])
    with pytest.raises(ValueError, match="item '3': cannot read the picture b'none'"):
        asking([*asked[:3], replace(asked[3], image=b"none")])
    for mark in ("<IMG_CONTEXT>", "<|assistant|>"):
        marked = replace(
            asked[1], steps=[replace(asked[1].steps[0], question=f"what is {mark} here?"), *asked[1].steps[1:]]
        )
        with pytest.raises(BadChat, match=r"item '1': the text .* has '.*', with which nano-internvl marks chats"):
            asking([asked[0], marked])
    long = replace(asked[2], steps=[replace(asked[2].steps[0], question="is it red " * 500)])
    with pytest.raises(BadChat, match=r"item '2': a chat of 1\d\d\d tokens.*; nano-internvl reads at most 1024"):
        asking([asked[0], long])


def test_items_without_steps(vlm, asked, tmp_path):
    bare = [replace(item, steps=[]) for item in asked]
    assert answer(vlm, bare)["step"].tolist() == [-1] * 4
    with pytest.raises(ValueError, match="no item has steps; expected some to capture"):
        capture(vlm, bare, store=tmp_path / "s")
    with pytest.raises(ValueError, match="no item has steps; expected some to score"):
        TeacherForcedScorer(vlm, bare)
    mixed = [asked[0], bare[1]]
    assert len(capture(vlm, mixed, store=tmp_path / "t").index) == len(TeacherForcedScorer(vlm, mixed).index) == 2


@pytest.mark.parametrize("name", ["batch_size", "max_new_tokens"])
def test_counts_below_one_are_refused_in_answering(vlm, asked, name):
    with pytest.raises(ValueError, match=rf"{name} is 0; expected a whole number, at least 1"):
        answer(vlm, asked, **{name: 0})


@pytest.mark.parametrize("name", ["batch_size", "shard"])
def test_counts_below_one_are_refused_in_capture(vlm, asked, tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name} is -1; expected a whole number, at least 1"):
        capture(vlm, asked, store=tmp_path, **{name: -1})


def test_an_unknown_scorer_is_refused_before_anything_is_answered(vlm, asked, monkeypatch):
    monkeypatch.setattr("cogvsr_utils.pipeline.evaluation.answer", lambda *_, **__: 1 / 0)
    with pytest.raises(ValueError, match="scorer is 'lenient'"):
        evaluate(vlm, asked, scorer="lenient")


def test_with_and_without_pictures_in_one_set_is_as_each_alone(vlm, asked, tmp_path):
    items = [asked[0], replace(asked[1], image=None), asked[2], replace(asked[3], image=None)]
    together = answer(vlm, items).set_index(["uid", "step"])["prediction"]
    alone = pd.concat([answer(vlm, [item]) for item in items]).set_index(["uid", "step"])["prediction"]
    assert together.to_dict() == alone.to_dict()
    whole = capture(
        vlm,
        items,
        store=tmp_path / "whole",
        answers=together.reset_index().merge(answer(vlm, items).drop(columns="prediction"), on=["uid", "step"]),
    )
    for number, item in enumerate(items):
        one = capture(vlm, [item], store=tmp_path / str(number))
        own = whole.features[(whole.index["uid"] == item.uid).to_numpy()]
        np.testing.assert_allclose(own, one.features, rtol=5e-3, atol=5e-3)
    scorer = TeacherForcedScorer(vlm, items)
    log_prob = dict(zip(scorer.index["uid"], scorer.score().log_prob, strict=True))
    for item in items:
        own = TeacherForcedScorer(vlm, [item])
        assert own.score().log_prob[-1] == pytest.approx(log_prob[item.uid], abs=2e-3)


@settings(max_examples=25, deadline=None)
@given(question=st.text(max_size=40), step=st.text(max_size=40))
def test_any_text_is_answered_or_refused_as_a_chat(vlm, question, step):
    """Texts that a file would not hold, such as blank ones, too: a reply, or BadChat."""
    item = Item("1", "mine", "1", question, "yes", "yesno", [replace(STEP, question=step)])
    try:
        assert len(answer(vlm, [item])) == 2
    except BadChat as error:
        assert "item '1'" in str(error)
