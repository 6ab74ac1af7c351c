"""A grown model computes what the small one does, whatever the sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM

from cogvsr_utils.nano.growth import EMBEDDINGS, grow, inherit

WORDS = {"a": 0, "b": 1, "c": 2, "d": 3}


class Wrapped(torch.nn.Module):
    """A decoder under the name that vision-language models give it."""

    def __init__(self, **sizes):
        super().__init__()
        torch.manual_seed(sum(sizes.values()))
        given = dict(hidden_size=24, intermediate_size=32, num_key_value_heads=2, head_dim=6, vocab_size=8)
        self.config = Qwen2Config(**given | sizes)
        model = Qwen2ForCausalLM(self.config)
        self.language_model, self.lm_head = model.model, model.lm_head

    def forward(self, ids):
        return self.lm_head(self.language_model(input_ids=ids).last_hidden_state)


def small():
    return Wrapped(num_attention_heads=4, num_hidden_layers=2)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([4, 8, 12]), st.integers(2, 5), st.permutations(list(WORDS)))
def test_it_computes_the_same(n_heads, n_layers, order):
    old, words = small(), {word: number + 2 for number, word in enumerate(order)}
    new = grow(old, Wrapped(num_attention_heads=n_heads, num_hidden_layers=n_layers), WORDS, words)
    text = ["a", "b", "d", "c", "a"]
    with torch.no_grad():
        expected = old(torch.tensor([[WORDS[w] for w in text]]))
        given = new(torch.tensor([[words[w] for w in text]]))
    for word, number in WORDS.items():
        torch.testing.assert_close(given[..., words[word]], expected[..., number], atol=1e-5, rtol=1e-4)


def test_a_model_of_the_same_size_is_a_copy():
    large = {"num_attention_heads": 12, "num_hidden_layers": 3, "head_dim": 6}
    old = grow(small(), Wrapped(**large), WORDS, WORDS)
    new, ids = grow(old, Wrapped(**large), WORDS, WORDS), torch.tensor([[0, 1, 3, 2]])
    with torch.no_grad():
        assert torch.equal(new(ids)[..., :4], old(ids)[..., :4])


def test_copies_of_a_head_write_apart_so_that_training_can_part_them():
    old = small()
    new = grow(old, Wrapped(num_attention_heads=12, num_hidden_layers=2), WORDS, WORDS)
    out = new.language_model.layers[0].self_attn.o_proj.weight.unflatten(1, (4, 3, 6))
    written = out.abs().sum(0) > 0  # (heads, copies, columns)
    assert (written.sum(1) == 1).all()


@pytest.mark.parametrize("sizes", [
    {"num_attention_heads": 6, "num_hidden_layers": 2},
    {"num_attention_heads": 8, "num_hidden_layers": 1},
    {"num_attention_heads": 8, "num_hidden_layers": 2, "head_dim": 12},
])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match="expected a multiple of 4 heads of 6 in at least 2 layers"):
        grow(small(), Wrapped(**sizes), WORDS, WORDS)


def test_inheriting_takes_words_and_norms_but_no_layer():
    old, words = small(), {"b": 5, "e": 1}
    new = Wrapped(num_attention_heads=6, num_hidden_layers=3, head_dim=4)
    before = {name: weight.clone() for name, weight in new.state_dict().items()}
    old.language_model.norm.weight.data.fill_(2)
    after, given = inherit(old, new, WORDS, words).state_dict(), old.state_dict()
    for name, weight in after.items():
        if name.endswith(EMBEDDINGS):
            assert torch.equal(weight[5], given[name][1])
            assert torch.equal(weight[:5], before[name][:5]) and torch.equal(weight[6:], before[name][6:])
        else:
            assert torch.equal(weight, before[name] if ".layers." in name else given[name])
