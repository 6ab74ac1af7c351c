"""Right, wrong and unreadable replies by hand; choices against the calls that they are made of."""

import numpy as np
import pandas as pd
import pytest
from own_data import FEW

from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.head_edits import mask
from cogvsr_utils.models.options import forced_choice
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline import replies
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings


def judged(parsed, correct):
    n = len(parsed)
    return pd.DataFrame({"uid": [str(i) for i in range(n)], "step": 0, "function": NAMES[0], "group_id": range(n),
                         "parsed": parsed, "correct": correct})  # fmt: skip


def test_what_cannot_be_read_is_told_from_what_is_wrong():
    before = judged(["red", "red", "blue", None], [True, True, False, False])
    after = judged(["red", None, "blue", None], [True, False, False, False])
    ablated = {f"ablated_{number}": after.sample(frac=1, random_state=number) for number in range(8)}
    table = replies.reply_kinds.make(Experiment("nano-internvl"), before, **ablated).set_index("head_set")
    assert list(table.index) == [replies.INTACT, NAMES[0]], "functions without steps are left out"
    assert table.loc[replies.INTACT, ["right", "wrong", "unread"]].tolist() == [0.5, 0.25, 0.25]
    assert table.loc[NAMES[0], ["right", "wrong", "unread", "change"]].tolist() == [0.25, 0.25, 0.5, 0.25]
    assert table.loc[NAMES[0], "low"] <= 0.25 <= table.loc[NAMES[0], "high"]


@pytest.fixture
def experiment(small_set, vlm, monkeypatch):
    monkeypatch.setattr(experiments, "_load_vlm", lambda model, quantize: vlm)
    return Experiment("nano-internvl", profile=FEW, source=str(small_set))


def test_replies_and_choices_are_those_of_the_model_with_each_set(experiment, vlm):
    strength = np.random.default_rng(0).random((8, len(vlm.heads)))
    rankings = Rankings(np.array(sorted(NAMES)), np.array(vlm.heads.pairs), {IMPORTANCE: strength})
    table = replies.chosen_mains.make(experiment, rankings).set_index("head_set")
    assert list(table.index) == [replies.INTACT, *NAMES]
    asked = [item for item in experiment.items("C") if item.options or item.answer_type == "yesno"]
    order = sorted(NAMES).index(NAMES[3])
    heads = [vlm.heads.pairs[at] for at in np.argsort(-strength[order])[: round(0.1 * len(vlm.heads))]]
    right = [
        np.array([row.prediction == item.answer for row, item in zip(chosen.itertuples(), asked, strict=True)])
        for chosen in (forced_choice(vlm, asked), forced_choice(vlm, asked, edits=mask(heads)))
    ]
    assert table.loc[replies.INTACT, "chosen"] == pytest.approx(right[0].mean())
    assert table.loc[NAMES[3], "chosen_change"] == pytest.approx(right[1].mean() - right[0].mean())
    assert (table["n"] == len(asked)).all() and table["covered"].between(0, 1).all()
    assert table["chance"].iloc[0] == pytest.approx(np.mean([1 / len(item.options or "12") for item in asked]))


def test_chosen_steps_are_those_of_the_model_with_each_functions_own_set(experiment, vlm):
    strength = np.random.default_rng(0).random((8, len(vlm.heads)))
    rankings = Rankings(np.array(sorted(NAMES)), np.array(vlm.heads.pairs), {IMPORTANCE: strength})
    table = replies.chosen_steps.make(experiment, rankings)
    assert set(table["function"]) == set(NAMES) and table["covered"].between(0, 1).all()
    table = table.set_index(["function", "head_set"])
    name = NAMES[0]
    heads = [vlm.heads.pairs[at] for at in np.argsort(-strength[sorted(NAMES).index(name)])[: round(0.1 * 192)]]
    offered = replies.with_options(experiment.items("C"))
    right, possible = {}, None
    for head_set, edits in ((replies.INTACT, None), (name, mask(heads))):
        chosen = forced_choice(vlm, offered, steps=True, edits=edits)
        own = chosen[chosen["function"] == name]
        right[head_set], possible = (own["prediction"] == own["answer"]).mean(), own["log_probs"].map(len)
        assert table.loc[(name, head_set), "chosen"] == pytest.approx(right[head_set])
        assert table.loc[(name, head_set), "n"] == len(own)
    assert table.loc[(name, name), "change"] == pytest.approx(right[name] - right[replies.INTACT])
    assert table.loc[(name, name), "chance"] == pytest.approx((1 / possible).mean())


def test_what_is_offered_are_the_answers_to_steps_of_one_wording():
    def item(uid, *steps):
        return Item(uid, "mine", uid, "Where?", "up", "closed", [Step(*step, NAMES[0]) for step in steps])

    row, few = ("Which row is the {} cube in?", "int"), ("How often?", "int")
    items = [item("0", (row[0].format("red"), "2", row[1], None), ("Is it red?", "yes", "yesno", None)),
             item("1", (row[0].format("blue"), "4", row[1], None), ("Which?", "red", "choice", ["red", "blue"])),
             item("2", ("What color is it?", "blue", "closed", None), (few[0], "3", few[1], None))]  # fmt: skip
    offered = [[step.options for step in each.steps] for each in replies.with_options(items)]
    assert offered == [[["2", "4"], None], [["2", "4"], ["red", "blue"]], [None, None]]
