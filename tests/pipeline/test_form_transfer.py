"""The second form of crossed wording: made-up activations whose answer is known, and pairs counted one by one."""

import numpy as np
import pandas as pd
import pytest

from cogvsr_utils.dataset.jsonl import read_items
from cogvsr_utils.dataset.synth.comparisons import FUNCTIONS, build_comparisons
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.models.head_edits import mask
from cogvsr_utils.models.head_map import HeadMap
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.pipeline import comparisons
from cogvsr_utils.pipeline.crossed import effects_in_pairs
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.measured import measured_models
from cogvsr_utils.pipeline.selection import ABLATION, IMPORTANCE, Rankings

N_LAYERS, N_HEADS, WIDTH, N = 2, 2, 8, 400


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return read_items(build_comparisons(tmp_path_factory.mktemp("comparisons"), n_pairs=8))


def recorded(seed, names, coded):
    """Activations of ``N`` steps of random functions, which the first head codes as ``coded`` says, amid noise."""
    rng = np.random.default_rng(seed)
    functions = rng.choice(names, size=N)
    x = rng.normal(size=(N, N_LAYERS * N_HEADS, WIDTH))
    x[:, 0] += 6 * np.eye(WIDTH)[[coded.index(name) for name in functions]]
    index = pd.DataFrame({"uid": np.arange(N).astype(str), "group_id": np.arange(N) // 4, "step": 0,
                          "function": functions})  # fmt: skip
    numbers = np.arange(N_LAYERS * N_HEADS)
    table = pd.DataFrame({"layer": numbers // N_HEADS, "head": numbers % N_HEADS, "start": WIDTH * numbers,
                          "stop": WIDTH * (numbers + 1), "head_dim": WIDTH})  # fmt: skip
    return HeadActivations(x.reshape(N, -1).astype(np.float16), index, HeadMap(table), {})


def test_a_probe_moves_between_forms_where_heads_code_a_function_alike_and_only_there():
    here = list(NAMES)
    elsewhere = here[1:] + here[:1]  # the code of each function is another's
    table = comparisons.form_transfer.make(
        Experiment("nano-internvl"), plain=recorded(0, NAMES, here), plans=recorded(1, NAMES, here),
        compared=recorded(2, FUNCTIONS, elsewhere), on_plans=recorded(3, NAMES, here),
        on_compared=recorded(4, FUNCTIONS, elsewhere),
    ).set_index(["trained_on", "tested_on"])  # fmt: skip
    assert (table["n"]["majority"]["comparison"], len(table)) == (N, 8)
    assert table["n"]["plain"]["plan"] < 0.65 * N  # steps of the four functions alone
    for trained_on, tested_on, moves in (("plain", "plan", True), ("plan", "plan", True), ("plan", "comparison", False),
                                         ("comparison", "comparison", True),
                                         ("comparison", "plan", False)):  # fmt: skip
        reached = table["accuracy"][trained_on][tested_on]
        assert reached > 0.97 if moves else reached < 0.4


def test_effects_in_pairs_are_those_of_own_steps_less_their_partners_counted_one_by_one(items):
    vlm = load_vlm("nano-internvl")
    scorer, rng = TeacherForcedScorer(vlm, items), np.random.default_rng(0)
    scores = {name: rng.random((len(NAMES), len(vlm.heads))) for name in (IMPORTANCE, ABLATION)}
    table = effects_in_pairs(scorer, Rankings(np.array(NAMES), np.array(vlm.heads.pairs), scores), FUNCTIONS)
    assert [*table["function"]] == 2 * [*FUNCTIONS]
    intact, index = scorer.score(), scorer.index.reset_index(drop=True)
    rows = {(row.uid, row.step): number for number, row in enumerate(index.itertuples())}
    for row in table.itertuples():
        best = np.argsort(-scores[row.ranking][NAMES.index(row.function)])[: n_top(len(vlm.heads))]
        after = scorer.score(mask([vlm.heads.pairs[number] for number in best]))
        mine, theirs = [], []
        for (uid, step), number in rows.items():
            if index["function"][number] == row.function:
                partner = rows[uid[:-1] + ("1" if uid.endswith("0") else "0"), step]
                mine.append(after.log_prob[number] - intact.log_prob[number])
                theirs.append(after.log_prob[partner] - intact.log_prob[partner])
        assert row.n == len(mine) > 0
        assert row.own == pytest.approx(np.mean(mine), abs=1e-4)
        assert row.same_words == pytest.approx(np.mean(theirs), abs=1e-4)
        assert row.difference == pytest.approx(np.mean(mine) - np.mean(theirs), abs=1e-4)


def test_accuracy_stands_by_form_and_function(items, monkeypatch):
    monkeypatch.setattr(comparisons, "comparison_items", lambda split: items)
    rng, rows = np.random.default_rng(0), []
    for item in items:
        for number, step in enumerate(item.steps):
            rows.append({"uid": item.uid, "group_id": item.group_id, "step": number, "function": step.function,
                         "answer": step.answer, "answer_type": step.answer_type, "options": step.options,
                         "parsed": "", "correct": bool(rng.integers(2)),
                         "form": "alike" if "like" in step.question else "differs"})  # fmt: skip
    answers = pd.DataFrame(rows)
    main = answers.iloc[:1].assign(step=-1, function="Main question")
    other = answers.assign(function="Math Reasoning")
    table = comparisons.comparison_accuracy.make(
        Experiment("nano-internvl"), answers=pd.concat([answers, main]), plain=other, plans=answers.head(9)
    )
    by_hand = answers.assign(form=[f for i in items for f in i.meta["forms"][:-1]]).groupby(["form", "function"])
    shares = by_hand["correct"].mean()
    found = table[table["form"].isin(["alike", "differs"])].set_index(["form", "function"])["accuracy"]
    assert found.to_dict() == pytest.approx(shares.to_dict()) and set(table["form"]) == {"alike", "differs", "plan"}


def test_a_nano_model_stands_back_for_the_one_that_was_taught_and_others_are_asked_themselves():
    taught = comparisons.with_comparisons(Experiment("nano-mllama", "4bit", "full"))
    assert (taught.model, taught.quantize, taught.profile) == (comparisons.TAUGHT, None, "light")
    other = Experiment("some/model", "4bit", "full")
    assert comparisons.with_comparisons(other) == other
    assert comparisons.TAUGHT not in measured_models()
