"""``nano-qwen2_5_vl``: Qwen2.5-VL with a 4-layer tower (windows of 32 pixels in two layers), 16 image tokens and a
12-layer decoder of 192 heads with positions in time, height and width."""

import numpy as np
import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from cogvsr_utils.models.loading import images_only
from cogvsr_utils.nano.architecture import DECODER, IMAGE, PATCH, chat_template, prepare, text_settings

SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
NAMED = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
IMAGE_TOKEN, IMAGE_TOKENS = "<|image_pad|>", 16
PREFIX = f"<|user|><|vision_start|>{IMAGE_TOKEN * IMAGE_TOKENS}<|vision_end|>"
PATCHES = np.arange(64).reshape(4, 2, 4, 2).transpose(0, 2, 1, 3).reshape(IMAGE_TOKENS, 4)
GRID = torch.tensor([[1, IMAGE // PATCH, IMAGE // PATCH]])  # time, height, width in patches
KNOWN_AFTER = {"heading": 1, "plan": 1, "number": 2, "task": 3}


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """A randomly initialised model."""
    torch.manual_seed(seed)
    name = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        vision_config=dict(
            depth=4,
            hidden_size=128,
            intermediate_size=344,
            num_heads=4,
            patch_size=PATCH,
            window_size=32,
            fullatt_block_indexes=[1, 3],
            out_hidden_size=DECODER["hidden_size"],
            initializer_range=0.05,
        ),
        text_config=dict(
            text_settings(tokenizer),
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 2, 2]},
        ),
        image_token_id=name(IMAGE_TOKEN),
        video_token_id=name("<|video_pad|>"),
        vision_start_token_id=name("<|vision_start|>"),
        vision_end_token_id=name("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    return prepare(Qwen2_5_VLForConditionalGeneration(config), tokenizer)


def build_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    """Square images become 64 x 64 pixels, others as many; text goes through the chat template."""
    image_processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": IMAGE**2, "longest_edge": IMAGE**2},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        patch_size=PATCH,
    )
    return images_only(Qwen2_5_VLProcessor)(
        image_processor=image_processor,
        tokenizer=tokenizer,
        chat_template=chat_template(f"<|vision_start|>{IMAGE_TOKEN}<|vision_end|>"),
    )


def tower(model: PreTrainedModel) -> torch.nn.Module:
    """The visual blocks; the merger at their end is trained later, as the projector."""
    return torch.nn.ModuleList([model.model.visual.patch_embed, model.model.visual.blocks])


def tower_features(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """(n, 3, 64, 64) in [-1, 1] to (n, 64, 128).

    The model's own forward attends window after window in Python; here all windows of a batch go at once.
    """
    visual, n, side = model.model.visual, len(pixels), IMAGE // PATCH // 2
    # Patches by 2 x 2 blocks, each shown twice, as if in two frames.
    blocks = pixels.reshape(n, 3, side, 2, PATCH, side, 2, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    flat = blocks.unsqueeze(-3).expand(*blocks.shape[:-2], 2, PATCH, PATCH).reshape(n * 64, 6 * PATCH**2)
    order, _ = get_vision_window_index(GRID, spatial_merge_size=2, window_size=visual.window_size, patch_size=PATCH)
    order = order.to(pixels.device)
    x = visual.patch_embed(flat).reshape(n, IMAGE_TOKENS, 4, -1)[:, order].flatten(1, 2)
    angles = visual.rotary_pos_emb(x, get_vision_position_ids(GRID.to(pixels.device), 2))
    cos, sin = (a.reshape(IMAGE_TOKENS, 4, -1)[order].flatten(0, 1) for a in angles)
    for number, block in enumerate(visual.blocks):
        windows = 1 if number in visual.fullatt_block_indexes else (IMAGE // visual.window_size) ** 2
        x = x + _attend(block.attn, block.norm1(x), cos, sin, windows)
        x = x + block.mlp(block.norm2(x))
    x = x.reshape(n, IMAGE_TOKENS, 4, -1)[:, torch.argsort(order)].flatten(1, 2)
    return x[:, torch.from_numpy(np.argsort(PATCHES.ravel())).to(pixels.device)]


def _attend(attention, x, cos, sin, windows: int):
    """Attention of (n, 64, width) within each of ``windows`` equal parts."""
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).unbind(2)
    q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
    q, k, v = (t.unflatten(1, (windows, -1)).transpose(2, 3) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return attention.proj(out.transpose(2, 3).flatten(3).flatten(1, 2))


def project(model: PreTrainedModel, features: torch.Tensor) -> torch.Tensor:
    """(n, 64, 128) to (n, 16, 192)."""
    merger, order = model.model.visual.merger, torch.from_numpy(PATCHES.ravel()).to(features.device)
    return merger(features[:, order].flatten(0, 1)).unflatten(0, (len(features), IMAGE_TOKENS))


def decode(model: PreTrainedModel, ids: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Hidden states (n, tokens, 192) of right-padded chats whose image tokens are ``seen``."""
    inner = model.model
    image = ids == model.config.image_token_id
    embeds = inner.language_model.embed_tokens(ids)
    embeds = embeds.masked_scatter(image[..., None], seen.to(embeds.dtype))
    # The picture stands at the same place in every chat, so one row's positions are everyone's.
    places, _ = inner.get_rope_index(ids[:1], image[:1].int(), image_grid_thw=GRID.to(ids.device))
    places = places.expand(-1, len(ids), -1)
    return inner.language_model(inputs_embeds=embeds, position_ids=places, use_cache=False).last_hidden_state


def learners(model: PreTrainedModel) -> dict:
    """The modules that the last stage trains, by name."""
    inner = model.model
    return {"projector": inner.visual.merger, "decoder": inner.language_model, "lm_head": model.lm_head}
