"""What the nano models share: the words, the chat, the pictures' size and a decoder of 192 heads.

Each family is a module of its own (``internvl``, ``qwen2_5_vl``, ``mllama``) with the same names in it:

PREFIX                    what stands before the first word of a chat, as the processor expands it
KNOWN_AFTER               the block of the decoder that is to know what is taught beside the answers (``train``)
PATCHES                   which of the 64 patches each image token shows, (image tokens, patches)
build_model, build_processor
tower(model)              the vision tower
tower_features(...)         the tower's output, its last 64 rows the patches row by row
project(model, features)        the image tokens that the decoder reads
decode(model, ids, seen)  the decoder's hidden states
learners(model)           the modules that the last stage trains
"""

from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

IMAGE, PATCH = 64, 8
SPECIAL = ("<pad>", "<unk>", "<|end|>", "<|user|>", "<|assistant|>")
DECODER = dict(
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=12,
    num_attention_heads=16,  # 192 in all, so that matched controls exist
    num_key_value_heads=8,
    max_position_embeddings=1024,
    initializer_range=0.05,
    tie_word_embeddings=False,
    bos_token_id=None,
)


def chat_template(image: str, start: str = "") -> str:
    """The chat's template in Jinja: ``image`` stands for a picture, ``start`` before everything."""
    return (
        start + "{% for message in messages %}<|{{ message['role'] }}|>"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}" + image + "{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


def build_tokenizer(words: Iterable[str], special: tuple[str, ...], named: dict[str, str]) -> PreTrainedTokenizerFast:
    """A tokenizer that knows each of ``words`` (lower case) as one token, the chat's tokens and a family's own.

    ``special`` are the family's own tokens, ``named`` the attributes under which its processor looks for some of
    them.
    """
    tokens = (*SPECIAL, *special)
    vocabulary = {word: index for index, word in enumerate((*tokens, *sorted(set(words))))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        padding_side="left",
        model_max_length=1024,
        extra_special_tokens=named,
    )


def text_settings(tokenizer: PreTrainedTokenizerFast) -> dict:
    """The decoder's configuration for a vocabulary."""
    return dict(
        DECODER,
        vocab_size=-(-len(tokenizer) // 64) * 64,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Initialise embeddings at unit scale and the blocks' outputs at 0, and stop at the end mark.

    Muon makes blocks write at full scale from the first steps on. Embeddings of that scale, and blocks that begin at 0,
    keep a word's identity from being lost in the residual stream.
    """
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(std=1.0)
        for name, weight in model.get_decoder().named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
    model.generation_config.update(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None
    )
    return model
