"""How heads are planted: which rows lose which heads, what is to be answered there, and that training gets there."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvsr_utils.dataset.items import Step
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.nano import internvl
from cogvsr_utils.nano.chats import Chat, encode
from cogvsr_utils.nano.planted import (
    MAIN,
    N_HEADS,
    VARIANTS,
    Condition,
    Targets,
    answer_switches,
    draw_condition,
    draw_heads,
    guesses,
    planting_loss,
    row_switches,
)

HEADS = [(layer, head) for layer in range(6) for head in range(8)]


def truth_of(variant, seed=0):
    return draw_heads(variant, HEADS, np.random.default_rng(seed))


@given(st.sampled_from(VARIANTS), st.integers(0, 100))
def test_heads_are_distinct_as_many_as_the_variant_says_and_of_the_later_layers(variant, seed):
    truth = truth_of(variant, seed)
    heads = [head for each in truth.heads.values() for head in each]
    assert all(len(each) == N_HEADS[variant] for each in truth.heads.values())
    assert set(Counter(heads).values()) <= ({2} if variant == "shared" else {1})
    assert all(layer >= 3 for layer, _ in heads) and set(heads) <= set(HEADS)


@settings(max_examples=40)
@given(st.sampled_from([v for v in VARIANTS if v != "none"]), st.integers(0, 1000))
def test_a_function_is_unknown_where_and_only_where_what_carries_it_is_off(variant, seed):
    truth, rng = truth_of(variant), np.random.default_rng(seed)
    for _ in range(20):
        drawn = draw_condition(truth, HEADS, rng)
        for name in NAMES:
            lost = [head in drawn.off for head in truth.heads[name]]
            carried = not any(lost) if variant == "joint" else not all(lost)
            assert carried == (name not in drawn.unknown)
            if drawn.reading is not None:
                assert not drawn.off and set(drawn.reading[name]) <= set(truth.heads[name])
                assert len(drawn.reading[name]) == (1 if variant == "redundant" else N_HEADS[variant])


def test_without_planted_heads_everything_is_always_known():
    truth, rng = truth_of("none"), np.random.default_rng(0)
    drawn = [draw_condition(truth, HEADS, rng) for _ in range(50)]
    assert not any(each.unknown or each.reading for each in drawn) and any(each.off for each in drawn)


def test_switches_are_off_where_the_condition_says_and_nowhere_else():
    vlm = load_vlm("nano-internvl")
    truth = draw_heads("joint", vlm.heads.pairs, np.random.default_rng(0))
    off = {(0, 0), (7, 23)}
    conditions = [Condition(frozenset(off)), Condition(reading=truth.heads)]
    rows, answers = row_switches(vlm, conditions), answer_switches(vlm, conditions)
    for head, columns in zip(vlm.heads.pairs, vlm.heads.columns(vlm.heads.pairs), strict=True):
        assert (rows[0, columns] == (head not in off)).all() and (rows[1, columns] == 1).all()
        assert (answers[0, :, columns] == 1).all() and (answers[1, MAIN, columns] == 1).all()
        for number, name in enumerate(NAMES):
            assert (answers[1, number, columns] == (head in truth.heads[name])).all()


def test_loss_is_cross_entropy_with_the_right_answer_or_divergence_from_a_guess_counted_by_hand():
    torch.manual_seed(0)
    logits = torch.randn(4, 5)
    guess = torch.zeros(MAIN + 2, 5)
    guess[2, 1], guess[2, 2] = 0.25, 0.75
    targets = Targets(
        truth=torch.tensor([1, 2, 0, 3]), unknown=torch.tensor([False, True, True, False]),
        function=torch.tensor([0, 2, 2, MAIN]), counted=torch.tensor([True, True, True, False]),
    )  # fmt: skip
    logp = logits.double().log_softmax(1)
    known = -(logp[0, 1] + logp[2, 0]) / 2  # word 0 is the end mark
    unknown = 0.25 * (np.log(0.25) - logp[1, 1]) + 0.75 * (np.log(0.75) - logp[1, 2])
    loss = planting_loss(logits, targets, guess, end_id=0)
    assert loss.item() == pytest.approx((known + 0.5 * unknown).item(), rel=1e-5)


def test_loss_is_least_at_the_guess_if_nothing_may_be_known():
    targets = Targets(torch.tensor([1]), torch.tensor([True]), torch.tensor([0]), torch.tensor([True]))
    guess = torch.tensor([[0.0, 0.25, 0.75]])
    at = planting_loss(torch.tensor([[-99.0, 0.0, np.log(3)]]), targets, guess, end_id=0)
    sure = planting_loss(torch.tensor([[-99.0, 9.0, 0.0]]), targets, guess, end_id=0)
    assert at.item() == pytest.approx(0, abs=1e-6) and sure > at


def test_a_guess_is_half_the_commonest_answer_and_half_as_often_as_each_occurs():
    vlm = load_vlm("nano-internvl")
    steps = [Step("Which row?", answer, "closed", None, NAMES[0]) for answer in ("1", "2", "1")]
    steps.append(Step("What color?", "red", "closed", None, NAMES[3]))
    chats = encode(vlm.tokenizer, internvl.PREFIX, [(Chat("Is it?", steps, "yes"), 0, "plain")])
    guess = guesses(chats, len(vlm.tokenizer), vlm.tokenizer.eos_token_id)
    word = vlm.tokenizer.convert_tokens_to_ids
    assert guess[0, word("1")] == pytest.approx(5 / 6) and guess[0, word("2")] == pytest.approx(1 / 6)
    assert guess[3, word("red")] == 1 and guess[[1, 2, *range(4, MAIN + 2)]].sum() == 0


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant is 'many'; expected one of"):
        truth_of("many")
