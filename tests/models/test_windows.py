"""Vision attention over all windows at once gives the bits of one window after the other."""

import pytest
import torch
from families import FAMILIES, build

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.vlm import attention_switched
from cogvsr_utils.models.windows import IMPLEMENTATION, windowed_attention

WITH_WINDOWS = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"}


def image_features(vlm, items):
    texts = [vlm.render(conversation(item, [], 0), prompt=True) for item in items]
    inputs = vlm.encode(texts, [open_image(item) for item in items])
    with torch.no_grad():
        features = vlm.model.get_image_features(inputs["pixel_values"], image_grid_thw=inputs["image_grid_thw"])
    return torch.cat(list(getattr(features, "pooler_output", features)))


@pytest.mark.parametrize("name", sorted(WITH_WINDOWS))
def test_equal_bits_for_pictures_of_one_size_and_of_two(name, asked):
    """Pictures of 64 x 64 and of 96 x 64: windows of several lengths, and edges that do not fill one."""
    vlm = build(name)
    for items in (asked[::2], asked):
        before = image_features(vlm, items)
        assert windowed_attention(vlm.model)
        assert torch.equal(image_features(vlm, items), before)
        vlm.model.get_encoder(modality="image").config._attn_implementation = "sdpa"


@pytest.mark.parametrize("name", FAMILIES)
def test_it_touches_towers_with_windows_alone(name):
    vlm = build(name)
    assert windowed_attention(vlm.model) == (name in WITH_WINDOWS)
    text = vlm.model.config.get_text_config()
    assert text._attn_implementation != IMPLEMENTATION and vlm.model.config._attn_implementation != IMPLEMENTATION


def test_it_is_on_by_default_and_outlives_another_implementation(items):
    vlm = load_vlm("nano-qwen2_5_vl", dtype=torch.float32)
    config = vlm.model.get_encoder(modality="image").config
    assert config._attn_implementation == IMPLEMENTATION
    before = image_features(vlm, items[:2])
    with attention_switched(vlm, "eager") as switched:
        assert switched and config._attn_implementation == "eager"
        torch.testing.assert_close(image_features(vlm, items[:2]), before, rtol=1e-3, atol=1e-3)
    assert config._attn_implementation == IMPLEMENTATION
    assert vlm.model.config._attn_implementation == "sdpa"
    assert torch.equal(image_features(vlm, items[:2]), before)
