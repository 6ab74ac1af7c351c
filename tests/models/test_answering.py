import pytest
import torch

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.chat import MAIN, conversation


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
