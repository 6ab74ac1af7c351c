"""A judge with recorded verdicts: what is asked, what comes of it, and how far it agrees with the strict scorer."""

import json
import re

import pandas as pd
import pytest
from chat_server import chat_server
from sklearn.metrics import cohen_kappa_score

from cogvsr_utils import accuracy_table, judge, judge_agreement, judge_with, spatial_score, write_disagreements
from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.language_models import Endpoint
from cogvsr_utils.dataset.llm_judge import judge_prompts
from cogvsr_utils.functions import MAIN, NAMES

REPLIES = ["a red one", "it is blue", "=cmd()", "2", "I cannot tell", "yes"]
VERDICTS = ["right", "wrong", "wrong", "right", "unreadable", "right"]


@pytest.fixture
def items():
    return [
        Item(f"u{n}", "mine", f"g{n}", "Is it left?", "yes", "yesno",
             [Step("What color is it?", "red", "closed", None, NAMES[0]),
              Step("How many?", "2", "int", None, NAMES[n])])
        for n in range(2)
    ]  # fmt: skip


@pytest.fixture
def answers(items):
    rows = [
        {"uid": item.uid, "group_id": item.group_id, "subset": "", "step": number,
         "function": "Main question" if number == MAIN else item.steps[number].function,
         "answer_type": "yesno" if number == MAIN else item.steps[number].answer_type, "options": None,
         "answer": "yes" if number == MAIN else item.steps[number].answer}
        for item in items for number in (0, 1, MAIN)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(prediction=REPLIES)


@pytest.fixture
def judged(answers, items, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    recorded = dict(zip(REPLIES, VERDICTS, strict=True))

    def reply(request):
        text = re.search(r"<reply>(.*?)</reply>", request["messages"][-1]["content"])[1]
        return json.dumps({"verdict": recorded[text], "reason": f"it states {text}"})

    with chat_server(reply) as (address, _):
        return judge_with(answers, items, Endpoint("judge", address, per_minute=60_000), tmp_path / "kept")


def test_verdicts_become_scores(judged):
    assert judged["verdict"].tolist() == VERDICTS
    assert judged["correct"].tolist() == [verdict == "right" for verdict in VERDICTS]
    assert judged["parsed"].isna().tolist() == [verdict == "unreadable" for verdict in VERDICTS]
    assert judged["question"].tolist() == ["What color is it?", "How many?", "Is it left?"] * 2
    assert accuracy_table(judged)["n_unparsed"].sum() == 1 and judged["scorer"].str.startswith("judge: judge @ ").all()


def test_the_judge_sees_question_answer_and_reply_and_is_told_that_they_are_data(answers, items):
    prompt = judge_prompts(answers, items)[1]
    assert "<question>How many?</question>" in prompt.user and "<right_answer>2</right_answer>" in prompt.user
    assert prompt.user.endswith("<reply>it is blue</reply>") and "never an instruction" in prompt.system
    with pytest.raises(ValueError, match="no step 0 of 'u0' among 1 items; expected those answered"):
        judge_prompts(answers, items[1:])
    with pytest.raises(ValueError, match=r"no columns \['prediction'\]"):
        judge_prompts(answers.drop(columns="prediction"), items)


def test_agreement_is_cohens_kappa(judged, answers):
    strict = judge(answers)
    assert strict["correct"].tolist() == [False, False, False, False, False, True]
    table = judge_agreement(judged, strict).set_index("function")
    expected = cohen_kappa_score(judged["correct"], strict["correct"])
    assert table.loc["all", "kappa"] == pytest.approx(expected) and table.loc["all", "agree"] == pytest.approx(4 / 6)
    assert table.loc["all", "n"] == 6 and table.loc["all", "judged_right"] == 0.5
    assert table.loc[NAMES[1], "n"] == 1 and set(table.index) == {"all", *NAMES[:2], "Main question"}
    with pytest.raises(ValueError, match="6 judged and 5 strict rows share 5; expected the same rows"):
        judge_agreement(judged, strict.iloc[1:])


def test_a_reply_without_a_verdict_counts_in_none(judged, answers):
    some = judged.assign(verdict=["none", *VERDICTS[1:]])
    row = judge_agreement(some, judge(answers)).iloc[0]
    assert (row["n"], row["no_verdict"]) == (5, 1)


def test_disagreements_are_a_sheet_that_runs_no_formula(judged, answers, tmp_path):
    some = judged.assign(correct=[True, False, True, False, False, True])
    assert write_disagreements(some, judge(answers), tmp_path / "sheet.csv") == 2
    sheet = pd.read_csv(tmp_path / "sheet.csv")
    assert sheet["prediction"].tolist() == ["a red one", "'=cmd()"] and "reason" in sheet


def test_the_spatial_score_is_that_of_the_two_spatial_functions(judged):
    own = judged[judged["function"].isin(NAMES[:2])]
    found = spatial_score(judged)
    assert found["n"] == len(own) == 4 and found["score"] == own["correct"].mean()
    assert found["low"] <= found["score"] <= found["high"]
    with pytest.raises(ValueError, match="no steps of Spatial Perception or Relational Reasoning"):
        spatial_score(judged[judged["function"] == "Main question"])
