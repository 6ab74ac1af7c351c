"""``nano-mllama``: Llama 3.2 Vision with a tower of 3 + 1 layers, and a decoder of ten layers and two of
cross-attention, through which it reads the picture, of 16 heads each."""

import numpy as np
import torch
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from cogvsr_utils.nano.architecture import IMAGE, PATCH, chat_template, prepare, text_settings

SPECIAL = ("<|begin|>", "<|python_tag|>", "<|image|>")
NAMED = {"image_token": "<|image|>", "bos_token": "<|begin|>"}
IMAGE_TOKENS = 65  # one for each patch and one for the whole
PREFIX = "<|begin|><|user|><|image|>"
PATCHES = np.arange(64).reshape(64, 1)
CROSS_ATTENTION = [3, 7]
KNOWN_AFTER = {"heading": 3, "plan": 1, "number": 4, "task": 6}  # no block before 3 has seen the picture


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> MllamaForConditionalGeneration:
    """A randomly initialised model."""
    torch.manual_seed(seed)
    config = MllamaConfig(
        vision_config=dict(
            hidden_size=128,
            num_hidden_layers=3,
            num_global_layers=1,
            attention_heads=4,
            intermediate_size=512,
            vision_output_dim=256,
            image_size=IMAGE,
            patch_size=PATCH,
            max_num_tiles=1,
            supported_aspect_ratios=[[1, 1]],
            intermediate_layers_indices=[1],
            initializer_range=0.05,
        ),
        text_config=dict(
            text_settings(tokenizer),
            cross_attention_layers=CROSS_ATTENTION,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            bos_token_id=tokenizer.bos_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    model = MllamaForConditionalGeneration(config)
    with torch.no_grad():
        # Their output projections begin silent as everyone's; a gate that is shut as well would take long to open.
        for layer in CROSS_ATTENTION:
            model.model.language_model.layers[layer].cross_attn_attn_gate.fill_(1.0)
            model.model.language_model.layers[layer].cross_attn_mlp_gate.fill_(1.0)
        model.model.vision_model.gated_positional_embedding.embedding.normal_(std=0.5)
    return prepare(model, tokenizer)


def build_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    """Images of any size are fitted into one 64 x 64 tile; text goes through the chat template."""
    image_processor = MllamaImageProcessorPil(
        size={"height": IMAGE, "width": IMAGE}, max_image_tiles=1, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return MllamaProcessor(image_processor, tokenizer, chat_template=chat_template("<|image|>", start="<|begin|>"))


def tower(model: PreTrainedModel) -> torch.nn.Module:
    """The vision tower."""
    return model.model.vision_model


def tower_features(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """(n, 3, 64, 64) in [-1, 1] to (n, 65, 256)."""
    one = torch.ones(len(pixels), 1, dtype=torch.long, device=pixels.device)
    out = model.model.vision_model(pixels[:, None, None], aspect_ratio_ids=one, aspect_ratio_mask=one[..., None])
    return out.last_hidden_state[:, 0, 0]


def project(model: PreTrainedModel, features: torch.Tensor) -> torch.Tensor:
    """(n, 65, 256) to (n, 65, 192)."""
    return model.model.multi_modal_projector(features)


def decode(model: PreTrainedModel, ids: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Hidden states (n, tokens, 192) of right-padded chats that read ``seen`` through cross-attention."""
    reads = (ids == model.config.image_token_index).cumsum(1)[..., None, None]  # from the image's mark on
    out = model.model(input_ids=ids, cross_attention_states=seen, cross_attention_mask=reads, use_cache=False)
    return out.last_hidden_state


def learners(model: PreTrainedModel) -> dict:
    """The modules that the last stage trains, by name."""
    inner = model.model
    return {"projector": inner.multi_modal_projector, "decoder": inner.language_model, "lm_head": model.lm_head}
