"""Forced choice against the bare model, token by token."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.head_edits import mask, scale
from cogvsr_utils.models.interventions import intervene
from cogvsr_utils.models.options import choices, forced_choice

OPTIONS = {
    "yes or no": (None, "yesno", "yes"),
    "of one word": (["red", "blue", "green"], "choice", "blue"),
    "of two words": (["red cube", "red sphere", "blue cube"], "choice", "red cube"),
    "one begins another": (["red", "red cube", "blue"], "choice", "red"),
}


@pytest.fixture(params=list(OPTIONS))
def items(request, asked):
    options, answer_type, answer = OPTIONS[request.param]
    pictures = [asked[0], asked[1], replace(asked[2], image=None)]
    return [replace(item, options=options, answer_type=answer_type, answer=answer) for item in pictures]


def by_hand(vlm, item, edits=None, prompt=None):
    """The probability of each option: of all beginnings of a reply of up to three tokens, those that are a spelling of
    it, one token at a time, and not a spelling of an option that is longer."""
    prompt = prompt or vlm.render(conversation(item, [], MAIN), prompt=True)
    prompt_ids = vlm.encode([prompt], [open_image(item)])
    own = vlm.tokenizer(prompt, add_special_tokens=False)["input_ids"]

    def tail(spelling):
        return tuple(vlm.tokenizer(prompt + spelling, add_special_tokens=False)["input_ids"][len(own) :])

    def probability(tokens):
        total, ids = 1.0, prompt_ids["input_ids"]
        for token in tokens:
            inputs = {**prompt_ids, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            with torch.no_grad(), intervene(vlm, edits):
                total *= vlm.model(**inputs).logits[0, -1].double().softmax(0)[token].item()
            ids = torch.cat([ids, torch.tensor([[token]], device=ids.device)], dim=1)
        return total

    ways = {option: {tail(reply) for reply in replies} for option, replies in choices(item).items()}
    out = {}
    for option, own_ways in ways.items():
        longer = {
            w
            for other, others in ways.items()
            if other != option
            for w in others
            if any(len(w) > len(o) and w[: len(o)] == o for o in own_ways)
        }
        out[option] = sum(map(probability, own_ways)) - sum(map(probability, longer))
    return out


@pytest.mark.parametrize("edits", [None, mask([(2, 1), (3, 4)])])
def test_probabilities_are_those_of_the_bare_model(vlm, items, edits):
    found = forced_choice(vlm, items, edits=edits, batch_size=2)
    for row, item in zip(found.itertuples(), items, strict=True):
        expected = by_hand(vlm, item, edits)
        assert row.covered == pytest.approx(sum(expected.values()), rel=1e-3)
        assert row.prediction == max(expected, key=expected.get)
        by_option = dict(zip(choices(item), np.exp(row.log_probs), strict=True))
        assert by_option == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert judge(found)["parsed"].notna().all(), "every choice can be read"


@pytest.mark.parametrize("edits", [None, mask([(2, 1), (3, 4)])])
def test_steps_are_chosen_after_the_right_answers_to_those_before(vlm, asked, edits):
    colors = [replace(asked[1].steps[0], options=["red", "blue", "green"]), *asked[1].steps[1:]]
    with_steps = [asked[0], replace(asked[1], steps=colors), replace(asked[3], image=None)]
    found = forced_choice(vlm, with_steps, steps=True, edits=edits, batch_size=2)
    assert list(zip(found["uid"], found["step"], strict=True)) == [("1", 0), ("1", 2), ("3", 2)], "those with options"
    assert found["answer"].tolist() == ["red", "yes", "yes"] and judge(found)["parsed"].notna().all()
    for row in found.itertuples():
        item = next(item for item in with_steps if item.uid == row.uid)
        step, before = item.steps[row.step], [step.answer for step in item.steps[: row.step]]
        prompt = vlm.render(conversation(item, before, row.step), prompt=True)
        alone = replace(item, options=step.options, answer_type=step.answer_type)
        expected = by_hand(vlm, alone, edits, prompt)
        assert dict(zip(choices(alone), np.exp(row.log_probs), strict=True)) == pytest.approx(
            expected, rel=1e-3, abs=1e-9
        )
        assert row.prediction == max(expected, key=expected.get)
    with pytest.raises(ValueError, match="no step has options; expected some to choose from"):
        forced_choice(vlm, [asked[0]], steps=True)


def test_batches_of_any_size_choose_the_same(vlm, items):
    alone = forced_choice(vlm, items, batch_size=1)
    together = forced_choice(vlm, items, batch_size=64)
    assert alone["prediction"].equals(together["prediction"])
    np.testing.assert_allclose(alone["covered"], together["covered"], rtol=1e-3)


def test_letters_stand_for_their_options_and_ablation_changes_the_choice(vlm, asked):
    item = replace(asked[0], question=f"{asked[0].question}\nA. red\nB. blue", options=["red", "blue"],
                   answer_type="choice", answer="red", meta={"lettered": True})  # fmt: skip
    row = forced_choice(vlm, [item]).iloc[0]
    expected = by_hand(vlm, item)
    assert row["prediction"] == max(expected, key=expected.get) and row["step"] == MAIN
    assert row["covered"] == pytest.approx(sum(expected.values()), rel=1e-3)
    assert set(choices(item)["blue"]) - set(choices(replace(item, meta={}))["blue"]) == {"B", " B"}
    every = [(int(layer), int(head)) for layer, head in vlm.heads.table[["layer", "head"]].to_numpy()]
    before, after = (forced_choice(vlm, asked, edits=e)["covered"] for e in (scale(every[:1], 1.0), mask(every)))
    assert not np.allclose(before, after) and np.allclose(before, forced_choice(vlm, asked)["covered"])


def test_options_that_the_tokenizer_writes_alike_are_not_chosen(vlm, asked):
    """Words that it does not know are one token to it."""
    strange = replace(asked[0], options=["xylophone", "zeppelin"], answer_type="choice", answer="zeppelin")
    row = forced_choice(vlm, [strange, asked[1]]).iloc[0]
    assert row["prediction"] == "" and row["covered"] == 0


def test_what_cannot_be_chosen_from_is_refused(vlm, asked):
    with pytest.raises(ValueError, match="item '1' has no options; expected some to choose from"):
        forced_choice(vlm, [asked[0], replace(asked[1], answer_type="text", options=None)])
    with pytest.raises(ValueError, match=r"edits of scope \['answer'\]"):
        forced_choice(vlm, asked, edits=mask([(0, 0)], scope="answer"))
