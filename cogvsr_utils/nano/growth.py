"""A larger decoder that computes what a smaller, trained one computes: a start that has learnt to see already.

grow(small, large, words)      copies a model's weights into one with more heads and layers and another vocabulary
inherit(small, large, words)   copies what it sees with and its words, but no layer of the decoder

Each head becomes several with the same queries, keys and values, whose output projections divide its columns among
them; layers that are new write nothing. So the large model's outputs are the small one's (Chen et al., Net2Net, arXiv
1511.05641), and training takes them apart.
"""

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")


@torch.no_grad()
def grow(
    small: PreTrainedModel, large: PreTrainedModel, small_words: Mapping[str, int], words: Mapping[str, int]
) -> PreTrainedModel:
    """``large`` with the weights of ``small``; ``small_words`` and ``words`` are their vocabularies, word -> id.

    Raises ValueError where the large decoder does not have a whole multiple of the small one's heads of the same width,
    as many heads of keys, and at least as many layers.
    """
    old, new = (model.config.get_text_config() for model in (small, large))
    width = getattr(old, "head_dim", None) or old.hidden_size // old.num_attention_heads
    times, rest = divmod(new.num_attention_heads, old.num_attention_heads)
    wanted = (rest, new.num_key_value_heads, getattr(new, "head_dim", None))
    if wanted != (0, old.num_key_value_heads, width) or new.num_hidden_layers < old.num_hidden_layers:
        raise ValueError(
            f"{new.num_attention_heads} heads of {wanted[2]} in {new.num_hidden_layers} layers; expected a multiple of "
            f"{old.num_attention_heads} heads of {width} in at least {old.num_hidden_layers} layers"
        )
    where = _layers(old.num_hidden_layers, new.num_hidden_layers)
    state, found = small.state_dict(), large.state_dict()
    for name, weight in found.items():
        source = _renumbered(name, where)
        if source is None:  # a new layer, which is to write nothing
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
        elif name.endswith(EMBEDDINGS):
            _copy_words(weight, state[source], small_words, words)
        elif ".q_proj." in name and "language_model" in name:
            heads = state[source].unflatten(0, (-1, width))
            weight.copy_(heads.repeat_interleave(times, 0).flatten(0, 1))
        elif name.endswith("o_proj.weight") and "language_model" in name:
            weight.copy_(_shared_out(state[source], width, times))
        else:
            weight.copy_(state[source])
    return large


@torch.no_grad()
def inherit(
    small: PreTrainedModel, large: PreTrainedModel, small_words: Mapping[str, int], words: Mapping[str, int]
) -> PreTrainedModel:
    """``large`` with the tower, the projector and the words of ``small``, whose layers of the decoder may have any
    size; its own stay as they are. Arguments as ``grow``'s."""
    state = small.state_dict()
    for name, weight in large.state_dict().items():
        if name.endswith(EMBEDDINGS):
            _copy_words(weight, state[name], small_words, words)
        elif "language_model.layers." not in name:
            weight.copy_(state[name])
    return large


def _copy_words(weight: torch.Tensor, old: torch.Tensor, small_words: Mapping[str, int], words: Mapping[str, int]):
    for word, row in words.items():
        if word in small_words:
            weight[row] = old[small_words[word]]


def _shared_out(weight: torch.Tensor, width: int, times: int) -> torch.Tensor:
    """An output projection (hidden, heads * width) whose heads' columns are divided among ``times`` copies each:
    (hidden, heads * times * width), the copies of a head side by side."""
    heads = weight.unflatten(1, (-1, 1, width)).repeat(1, 1, times, 1)  # (hidden, heads, copies, width)
    owner = torch.arange(width) * times // width
    return (heads * (owner == torch.arange(times)[:, None])).flatten(1)


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
