"""``nano-internvl``: InternVL with a 4-layer tower, 16 image tokens and an 8-layer Qwen2 decoder of 192 heads."""

import numpy as np
import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2Config,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from cogvsr_utils.models.loading import images_only
from cogvsr_utils.nano.architecture import IMAGE, PATCH, chat_template, prepare, text_settings

SPECIAL = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
NAMED = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
         "video_token": "<video>"}  # fmt: skip
IMAGE_TOKEN, IMAGE_TOKENS = "<IMG_CONTEXT>", 16
HEADS = {"num_hidden_layers": 8, "num_attention_heads": 24, "num_key_value_heads": 4, "head_dim": 24}
PREFIX = f"<|user|><img>{IMAGE_TOKEN * IMAGE_TOKENS}</img>"
PATCHES = np.arange(64).reshape(4, 2, 4, 2).transpose(0, 2, 1, 3).reshape(IMAGE_TOKENS, 4)
KNOWN_AFTER = {"heading": 1, "plan": 1, "number": 2, "task": 3}


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> InternVLForConditionalGeneration:
    """A randomly initialised model."""
    torch.manual_seed(seed)
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
        text_config=Qwen2Config(**text_settings(tokenizer) | HEADS),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=IMAGE_TOKENS,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    return prepare(InternVLForConditionalGeneration(config), tokenizer)


def build_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
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
        chat_template=chat_template(IMAGE_TOKEN),
    )


def tower(model: PreTrainedModel) -> torch.nn.Module:
    """The vision tower."""
    return model.model.vision_tower


def tower_features(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """(n, 3, 64, 64) in [-1, 1] to (n, 65, 128)."""
    return model.model.vision_tower(pixel_values=pixels).last_hidden_state


def project(model: PreTrainedModel, features: torch.Tensor) -> torch.Tensor:
    """(n, 65, 128) to (n, 16, 192)."""
    inner = model.model
    grid = inner.pixel_shuffle(features[:, 1:].unflatten(1, (8, 8)), scale_factor=model.config.downsample_ratio)
    return inner.multi_modal_projector(grid.flatten(1, 2))


def decode(model: PreTrainedModel, ids: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Hidden states (n, tokens, 192) of right-padded chats whose image tokens are ``seen``."""
    inner = model.model
    embeds = inner.language_model.embed_tokens(ids)
    embeds = embeds.masked_scatter((ids == model.config.image_token_id)[..., None], seen.to(embeds.dtype))
    return inner.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state


def learners(model: PreTrainedModel) -> dict:
    """The modules that the last stage trains, by name."""
    inner = model.model
    return {"projector": inner.multi_modal_projector, "decoder": inner.language_model, "lm_head": model.lm_head}
