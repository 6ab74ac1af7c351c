import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models import answering
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.chat import BadChat, conversation
from cogvsr_utils.models.generation import CachedGeneration
from cogvsr_utils.models.head_edits import mask
from cogvsr_utils.models.recording import capture


def test_one_row_a_step_and_one_for_the_main_question(items, answers):
    assert len(answers) == sum(len(item.steps) + 1 for item in items)
    assert (answers["step"] == MAIN).sum() == len(items)
    assert answers["prediction"].str.len().min() > 0


def test_batched_is_single(vlm, items, answers):
    alone = answer(vlm, items, batch_size=1)
    assert alone["prediction"].tolist() == answers["prediction"].tolist()


def test_greedy_by_hand_gives_the_same(vlm, items, answers):
    """Token by token with the bare model, no cache, no padding, no generate()."""
    item = items[3]
    said = answers[answers["uid"] == item.uid].sort_values("step")
    said = said[said["step"] != MAIN]["prediction"].tolist()
    text = vlm.render(conversation(item, said, MAIN), prompt=True)
    inputs = vlm.encode([text], [open_image(item)])
    ids, out = inputs["input_ids"], []
    with torch.no_grad():
        for _ in range(12):
            logits = vlm.model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
            token = int(logits[0, -1].argmax())
            if token == vlm.tokenizer.eos_token_id:
                break
            out.append(token)
            ids = torch.cat([ids, torch.tensor([[token]], device=ids.device)], dim=1)
    row = answers[(answers["uid"] == item.uid) & (answers["step"] == MAIN)].iloc[0]
    assert vlm.tokenizer.decode(out) == row["prediction"]


def test_chat_carries_earlier_answers_and_not_later_ones(items):
    item = items[0]
    chat = conversation(item, ["first", "second"], 2)
    said = [m["content"][0]["text"] for m in chat if m["role"] == "assistant"]
    assert said == ["first", "second"] and chat[-1]["content"][0]["text"] == item.steps[2].question
    assert sum(part["type"] == "image" for m in chat for part in m["content"]) == 1


def test_no_items_is_an_error(vlm):
    with pytest.raises(ValueError, match="no items; expected at least one"):
        answer(vlm, [])


@pytest.fixture
def asks(monkeypatch):
    """The uids of each batch that the model is asked, and a way to stop it at one."""
    converse, batches = answering._converse, []

    def recorded(vlm, batch, *settings):
        batches.append([item.uid for item in batch])
        if len(batches) == asks.stop:
            raise KeyboardInterrupt
        return converse(vlm, batch, *settings)

    def asks():
        return batches

    asks.stop = None
    monkeypatch.setattr(answering, "_converse", recorded)
    return asks


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_what_was_stopped_goes_on_at_its_batch_and_is_the_same(vlm, items, answers, asks, tmp_path, stop):
    whole = answer(vlm, items, batch_size=2)
    undisturbed, asks.stop = list(asks()), stop
    asks().clear()
    with pytest.raises(KeyboardInterrupt):
        answer(vlm, items, batch_size=2, resume=tmp_path / "r.json")
    assert (tmp_path / "r.json").exists() == (stop > 1)
    asks.stop = None
    again = answer(vlm, items, batch_size=2, resume=tmp_path / "r.json")
    assert again.equals(whole)
    assert asks() == [*undisturbed[:stop], *undisturbed[stop - 1 :]], "what was answered is not asked again"
    answer(vlm, items, batch_size=2, resume=tmp_path / "r.json")
    assert len(asks()) == len(undisturbed) + 1


@pytest.mark.parametrize("other, differs", [
    ({"edits": mask([(0, 0)])}, "edits: there 'none', now"), ({"max_new_tokens": 3}, "max_new_tokens: there 12, now 3"),
    ({"steps": False}, "data: there"), ({"batch_size": 3}, "batch_size: there 2, now 3"),
])  # fmt: skip
def test_replies_of_other_settings_are_refused(vlm, items, tmp_path, other, differs):
    path = tmp_path / "r.json"
    kept = answer(vlm, items[:2], batch_size=2, resume=path)
    with pytest.raises(ValueError, match=rf"r\.json was made from other settings \({differs}.*or take the file"):
        answer(vlm, items[:2], resume=path, **{"batch_size": 2} | other)
    with pytest.raises(ValueError, match="data: there"):
        answer(vlm, items[:3], batch_size=2, resume=path)
    assert answer(vlm, items[:2], batch_size=2, resume=path).equals(kept)


def test_what_would_stop_it_later_is_refused_before_anything_is_asked(vlm, asked, answers, tmp_path, monkeypatch):
    """A picture torn behind its first bytes, and a chat that is too long only with the replies to come."""
    monkeypatch.setattr(CachedGeneration, "__init__", lambda *_: pytest.fail("the model was asked"))
    torn = tmp_path / "torn.png"
    torn.write_bytes(Path(asked[3].image).read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"item '3': cannot read the picture .*torn\.png"):
        answer(vlm, [*asked[:3], replace(asked[3], image=str(torn))])
    bare = vlm.encode([vlm.render(conversation(asked[2], ["", ""], MAIN), prompt=True)], [open_image(asked[2])])
    words = vlm.context - bare["input_ids"].shape[1] - 20
    long = replace(asked[2], question=f"{asked[2].question} {'red ' * words}")
    with pytest.raises(BadChat, match=r"item '2': a chat of 10\d\d tokens, with 3 replies of up to 12; .* 1024"):
        answer(vlm, [*asked[:2], long])
    said = [{"uid": long.uid, "step": step, "prediction": "red " * 40} for step in range(2)]
    with pytest.raises(BadChat, match=r"item '2': a chat of 1\d\d\d tokens; nano-internvl reads at most 1024"):
        capture(vlm, [long], store=tmp_path / "s", answers=pd.DataFrame(said))


def test_an_edit_that_fired_before_the_stop_need_not_fire_after_it(vlm, asked, asks, tmp_path):
    """Items with a picture come first; those without have no token in the scope."""
    items = [*asked[:2], *(replace(item, image=None) for item in asked[2:])]
    edit = mask([(0, 0)], scope="image")
    whole = answer(vlm, items, edits=edit, batch_size=1)
    first = [batch[0] for batch in asks()]
    asks().clear()
    asks.stop = 1 + max(n for n, uid in enumerate(first) if uid in ("0", "1"))  # all with a picture before it
    asks.stop += 1
    with pytest.raises(KeyboardInterrupt):
        answer(vlm, items, edits=edit, batch_size=1, resume=tmp_path / "r.json")
    asks.stop = None
    assert answer(vlm, items, edits=edit, batch_size=1, resume=tmp_path / "r.json").equals(whole)
    assert answer(vlm, items, edits=edit, batch_size=1, resume=tmp_path / "r.json").equals(whole)


def test_kept_replies_that_are_damaged_are_named(vlm, asked, tmp_path):
    path = tmp_path / "r.json"
    answer(vlm, asked, resume=path, batch_size=np.int64(2))
    content = json.loads(path.read_text())
    for harm in (lambda c: c["replies"].update({"0": []}), lambda c: c["replies"].update({"else": ["x"]}),
                 lambda c: c.pop("size")):  # fmt: skip
        harmed = json.loads(json.dumps(content))
        harm(harmed)
        path.write_text(json.dumps(harmed))
        with pytest.raises(ValueError, match=r"r\.json is damaged .*take this one file away and run again"):
            answer(vlm, asked, resume=path, batch_size=2)
