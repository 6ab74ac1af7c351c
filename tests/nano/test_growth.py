"""A grown model computes what the small one does, whatever the sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MllamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

from cogvsr_utils.nano.growth import grow

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
    with pytest.raises(ValueError, match="expected a multiple of 4 heads of 6, or parts of them, in at least 2 layers"):
        grow(small(), Wrapped(**sizes), WORDS, WORDS)


def attention(model, x):
    """What the first layer's attention adds to ``x`` (tokens, hidden) where all attend alike, without queries."""
    layer = model.language_model.layers[0].self_attn
    values = layer.v_proj(x).mean(0).unflatten(0, (model.config.num_key_value_heads, -1))
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    return layer.o_proj(values.repeat_interleave(groups, 0).flatten())


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([2, 3]), st.integers(0, 100))
def test_parts_of_a_head_write_together_what_it_wrote_and_their_products_add_up(times, seed):
    torch.manual_seed(seed)
    sizes = {"head_dim": 12, "num_attention_heads": 4, "num_hidden_layers": 2}
    old = Wrapped(**sizes)
    divided = sizes | {"head_dim": 12 // times, "num_attention_heads": 4 * times, "num_key_value_heads": 2 * times}
    new = grow(old, Wrapped(**divided), WORDS, WORDS)
    x = torch.randn(5, 24)
    with torch.no_grad():
        torch.testing.assert_close(attention(new, x), attention(old, x), atol=1e-5, rtol=1e-4)
        products = []
        for model in (old, new):
            layer, config = model.language_model.layers[0].self_attn, model.config
            q = layer.q_proj(x).unflatten(1, (config.num_attention_heads, -1))
            k = layer.k_proj(x).unflatten(1, (config.num_key_value_heads, -1))
            k = k.repeat_interleave(config.num_attention_heads // config.num_key_value_heads, 1)
            products.append(torch.einsum("ihd,jhd->hij", q, k) / config.head_dim**0.5)
        whole, parts = products  # unrotated; parts in the order (keys, part, heads that share keys)
        mean = parts.unflatten(0, (2, times, 2)).mean(1).flatten(0, 1)
        torch.testing.assert_close(mean, whole, atol=1e-5, rtol=1e-4)


class Crossed(torch.nn.Module):
    """A decoder whose second layer reads a picture, under the name that Mllama gives it."""

    def __init__(self, n_heads, n_keys):
        super().__init__()
        torch.manual_seed(n_heads)
        self.config = MllamaTextConfig(
            vocab_size=8, hidden_size=24, intermediate_size=32, num_hidden_layers=2, cross_attention_layers=[1],
            num_attention_heads=n_heads, num_key_value_heads=n_keys, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        model = MllamaForCausalLM(self.config)
        self.language_model, self.lm_head = model.model, model.lm_head


def test_divided_cross_attention_reads_the_same_where_all_pairs_of_a_head_are_alike():
    """Nothing is rotated there, and queries and keys are normed: a part's product, made as large again, is the
    whole's."""
    old = Crossed(4, 2)
    attention = old.language_model.layers[1].cross_attn
    with torch.no_grad():
        for layer in (attention.v_proj, attention.o_proj):
            layer.weight.normal_()
        for layer in (attention.q_proj, attention.k_proj, attention.q_norm, attention.k_norm):
            pairs = layer.weight.normal_().unflatten(0, (-1, 2, 3))  # (heads, halves, pairs, ...)
            pairs.copy_(pairs[:, :, :1].expand_as(pairs).clone())
        new = grow(old, Crossed(12, 6), WORDS, WORDS)
        text, picture = torch.randn(2, 5, 24), torch.randn(2, 7, 24)
        read = [model.language_model.layers[1].cross_attn(text, picture)[0] for model in (old, new)]
    torch.testing.assert_close(read[1], read[0], atol=1e-4, rtol=1e-4)
    assert read[0].std(1).mean() > 0.1, "and it reads other things at other words"
