"""The shapes of the nano models: real transformers classes with small configurations.

build_tokenizer(words)              word-level tokenizer with the special tokens of the chat
build_model(family, tokenizer)      randomly initialised model
build_processor(family, tokenizer)  its processor with chat template
"""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from ..models import images_only

IMAGE, PATCH, IMAGE_TOKENS = 64, 8, 16
SPECIAL = ("<pad>", "<unk>", "<|end|>", "<|user|>", "<|assistant|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<IMG_CONTEXT>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(words) -> PreTrainedTokenizerFast:
    """A tokenizer that knows each of ``words`` (lower case) as one token, and the special tokens of the chat."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *sorted(set(words))))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        padding_side="left",
        model_max_length=1024,
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )


def build_model(tokenizer, seed: int = 0) -> InternVLForConditionalGeneration:
    """A randomly initialised nano-internvl: a 4-layer tower, 16 image tokens and a 6-layer Qwen2 decoder."""
    torch.manual_seed(seed)
    text = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.05,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    config = InternVLConfig(
        vision_config=dict(
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            image_size=[IMAGE, IMAGE],
            patch_size=[PATCH, PATCH],
            layer_scale_init_value=1.0,
            initializer_range=0.05,
        ),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=IMAGE_TOKENS,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config)
    # Muon lets blocks write loudly at once. Words as loud as that, and blocks that begin silent, keep a word's identity
    # from drowning in the residual stream.
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(std=1.0)
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    model.generation_config.update(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None
    )
    return model


def build_processor(tokenizer):
    """Images of any size become one 64 x 64 tile; text goes through the chat template."""
    image_processor = GotOcr2ImageProcessorPil(
        size={"height": IMAGE, "width": IMAGE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        min_patches=1,
        max_patches=1,
    )
    return images_only(InternVLProcessor)(
        image_processor=image_processor,
        tokenizer=tokenizer,
        image_seq_length=IMAGE_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )
