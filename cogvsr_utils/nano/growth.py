"""A larger decoder that computes what a smaller, trained one computes, or nearly: a start that has learnt to see.

grow(small, large, words)    copies a model's weights into one with more heads and layers and another vocabulary

Where heads keep their width, each becomes several with the same queries, keys and values, whose output projections
divide its columns among them. Layers that are new write nothing. So the large model's outputs are the small one's (Chen
et al., Net2Net, arXiv 1511.05641), and training takes the copies apart. Where the width of all heads together is given,
each head is divided: its parts see every other (third, ...) pair of its rotated numbers, and the sum of what they write
is the head's if each attends as it did, which they do nearly, since a part of a product is like the product.
"""

from collections.abc import Mapping

import torch
from transformers import PreTrainedConfig, PreTrainedModel

EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")


@torch.no_grad()
def grow(
    small: PreTrainedModel,
    large: PreTrainedModel,
    small_words: Mapping[str, int],
    words: Mapping[str, int],
) -> PreTrainedModel:
    """``large`` with the weights of ``small``; ``small_words`` and ``words`` are their vocabularies, word -> id.

    Raises ValueError where the large decoder has fewer layers, or its heads are neither a multiple of the small one's
    of the same width with as many keys, nor parts of them with as many times the keys.
    """
    old, new = (model.config.get_text_config() for model in (small, large))
    times, rest = divmod(new.num_attention_heads, old.num_attention_heads)
    width, keys = _width(old), old.num_key_value_heads
    copied = (_width(new), new.num_key_value_heads) == (width, keys)
    divided = (_width(new) * times, new.num_key_value_heads) == (width, keys * times)
    if rest or not (copied or divided) or new.num_hidden_layers < old.num_hidden_layers:
        raise ValueError(
            f"{new.num_attention_heads} heads of {_width(new)} in {new.num_hidden_layers} layers; expected a multiple "
            f"of {old.num_attention_heads} heads of {width}, or parts of them, in at least {old.num_hidden_layers} "
            "layers"
        )
    where = _layers(old.num_hidden_layers, new.num_hidden_layers)
    state, found = small.state_dict(), large.state_dict()
    for name, weight in found.items():
        source = _renumbered(name, where)
        if source is None:  # a new layer, which is to write nothing
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
        elif name.endswith(EMBEDDINGS):
            for word, row in words.items():
                if word in small_words:
                    weight[row] = state[source][small_words[word]]
        elif times > 1 and "language_model" in name and "_attn." in name:
            weight.copy_((_copied if copied else _divided)(name, state[source], old, times))
        else:
            weight.copy_(state[source])
    return large


def _width(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _copied(name: str, weight: torch.Tensor, config: PreTrainedConfig, times: int) -> torch.Tensor:
    """A weight of attention whose heads become ``times`` copies, side by side."""
    width = _width(config)
    if ".q_proj." in name:
        return weight.unflatten(0, (-1, width)).repeat_interleave(times, 0).flatten(0, 1)
    if name.endswith("o_proj.weight"):
        heads = weight.unflatten(1, (-1, 1, width)).repeat(1, 1, times, 1)  # (hidden, heads, copies, width)
        owner = torch.arange(width) * times // width
        return (heads * (owner == torch.arange(times)[:, None])).flatten(1)
    return weight


def _divided(name: str, weight: torch.Tensor, config: PreTrainedConfig, times: int) -> torch.Tensor:
    """A weight of attention whose heads are divided into ``times``; queries become larger, since a part's product is to
    be as large as the whole one's."""
    width, keys = _width(config), config.num_key_value_heads
    # Numbers i and i + width / 2 of a head are rotated together.
    pairs = torch.arange(width // 2).unflatten(0, (-1, times)).T  # (parts, pairs of a part)
    parts = torch.cat([pairs, pairs + width // 2], dim=1)
    normed = "cross_attn" in name and config.model_type == "mllama_text_model"  # then scale stands in the norm
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return weight[parts].mean(0) * (times**0.5 if "q_norm" in name else 1)
    if name.endswith("o_proj.weight"):
        return _by_part(weight.T, keys, parts).T
    scale = times**0.5 if ".q_proj." in name and not normed else 1
    return _by_part(weight, keys, parts) * scale


def _by_part(weight: torch.Tensor, keys: int, parts: torch.Tensor) -> torch.Tensor:
    """Rows of heads (heads * width, ...), ordered by key head, part, head and number: heads that read the same part of
    the same keys side by side."""
    heads = weight.unflatten(0, (keys, -1, parts.numel()))[:, :, parts]  # (keys, heads of each, parts, width, ...)
    return heads.transpose(1, 2).flatten(0, 3)


def _layers(n_old: int, n_new: int) -> dict[int, int]:
    """New layer -> old layer, those that are new spread evenly between them.

    >>> _layers(2, 3)
    {0: 0, 1: 1}
    >>> _layers(4, 6)
    {0: 0, 1: 1, 3: 2, 4: 3}
    """
    extra = n_new - n_old
    gaps = {(number + 1) * n_new // extra - 1 for number in range(extra)}
    return {new: old for old, new in enumerate(layer for layer in range(n_new) if layer not in gaps)}


def _renumbered(name: str, where: dict[int, int]) -> str | None:
    """The small model's name of a weight; None for one of a new layer."""
    head, mark, tail = name.partition("language_model.layers.")
    if not mark:
        return name
    layer, _, rest = tail.partition(".")
    return f"{head}{mark}{where[int(layer)]}.{rest}" if int(layer) in where else None
