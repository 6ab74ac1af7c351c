"""CogVSR's Spatial Score through the chapter's function, judged by a server of the test's own."""

import json
import re
import shutil

import pandas as pd
import pytest
from chat_server import chat_server

from cogvsr_utils import load_items
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes
from cogvsr_utils.functions import SPATIAL
from cogvsr_utils.models.answering import answer_table
from cogvsr_utils.models.chat import right_answers
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.judging import judged_scores, step_replies


@pytest.fixture
def copies(small_set, tmp_path):
    return write_lookalikes(load_items(small_set), tmp_path / "copies")


def test_the_judge_s_score_stands_beside_the_strict_one(copies, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    items = load_items(f"cogvsr:{copies['cogvsr']}")[:4]
    replies = answer_table(items, right_answers(items))
    replies = replies[replies["function"].isin(SPATIAL)].head(8).reset_index(drop=True).assign(condition="base")
    replies.loc[0, "prediction"] = "nothing at all"  # the one that is not right
    replies.loc[1, "prediction"] = f"I think it is {replies.loc[1, 'answer']}, or so it seems"

    def reply(request):
        text = request["messages"][-1]["content"]
        right, said = (re.search(rf"<{tag}>(.*?)</{tag}>", text)[1] for tag in ("right_answer", "reply"))
        return json.dumps({"verdict": "right" if right in said else "wrong", "reason": "as it says"})

    with chat_server(reply) as (address, asked):
        table = judged_scores(replies, items, "judge", address, tmp_path / "judged").set_index("scorer")
        again = judged_scores(replies, items, "judge", address, tmp_path / "judged").set_index("scorer")
    assert len(asked) <= len(replies), "kept by content"
    pd.testing.assert_frame_equal(table, again)
    assert table.loc[f"judge: judge @ {address}", "score"] == pytest.approx(7 / 8)
    assert (table["condition"] == "base").all() and (table["no_verdict"] == 0).all()
    assert (table["n"] == 8).all() and table["agree"].between(6 / 8, 1).all()
    assert (tmp_path / "judged" / "disagreements of base.csv").is_file()


def test_a_folder_without_cogvsr_has_nothing_to_judge(copies):
    root = copies["vsr"].parents[1]
    shutil.rmtree(root / "cogvsr")
    items, replies = step_replies(Experiment("nano-internvl"), root)
    assert items == [] and replies.empty
