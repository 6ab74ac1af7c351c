"""On a GPU: the real shape of Qwen2.5-VL-7B, random weights in 4-bit. Writes what it measures to ``data/measured/``.

Random weights say nothing sensible, so replies are forced to be words of a small vocabulary, as many as were asked for.
"""

import re

import pytest
import torch

from cogvsr_utils.checks.parity import check_parity
from cogvsr_utils.checks.speed import CAPTURE, compare_methods, finished_chats, throughput
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.models.loading import images_only, load_vlm
from cogvsr_utils.models.vlm import VLM
from cogvsr_utils.models.windows import windowed_attention
from cogvsr_utils.paths import MEASURED

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; a GPU removes this skip"),
]
TEXT = dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
            num_key_value_heads=4, vocab_size=152064, max_position_embeddings=128000)  # fmt: skip
VISION = dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=3584, patch_size=14,
              window_size=112, fullatt_block_indexes=[7, 15, 23, 31])  # fmt: skip


def pack(model):
    """Every linear layer but the last in NF4 with double quantization and bfloat16 compute, one after the other."""
    import bitsandbytes as bnb

    for name, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            packed = bnb.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                layer.bias is not None,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
                device="meta",
            )
            packed.weight = bnb.nn.Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4")
            packed.bias, packed.support_avx512bf16_for_cpu = layer.bias, False  # as load_vlm sets it
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, packed.to(DEVICE))
            del layer
    torch.cuda.empty_cache()
    return model


@pytest.fixture(scope="module")
def big():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    small = load_vlm("nano-qwen2_5_vl", device="cpu")
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids = {key: getattr(small.model.config, key) for key in names}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config = Qwen2_5_VLConfig(vision_config=VISION, text_config=dict(TEXT, rope_parameters=rope), **ids)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16).eval()
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 448**2, "longest_edge": 448**2}, patch_size=14)
    processor = images_only(Qwen2_5_VLProcessor)(
        image_processor=images, tokenizer=small.tokenizer, chat_template=small.processor.chat_template
    )
    words = set(small.tokenizer.get_vocab().values()) - set(small.tokenizer.added_tokens_decoder)
    model.generation_config.update(
        suppress_tokens=sorted(set(range(TEXT["vocab_size"])) - words),
        pad_token_id=small.tokenizer.pad_token_id,
        eos_token_id=small.tokenizer.eos_token_id,
    )
    assert windowed_attention(model)
    return VLM("Qwen2.5-VL-7B shape, random weights", pack(model), processor, "4bit")


def test_reading_is_what_peers_read(big, small_set):
    table = compare_methods(big, finished_chats(big, load_items(small_set)[:8], batch_size=8), repeats=1)
    assert len(big.heads) == TEXT["num_hidden_layers"] * TEXT["num_attention_heads"]
    assert (table.set_index("method").drop(["bare forward pass", CAPTURE], errors="ignore")["difference"] < 1e-2).all()


def test_parity_in_four_bit(big, small_set):
    """All but the share of answers that differ, which says nothing where all words are about as likely."""
    table = check_parity(big, load_items(small_set)[:4]).set_index("check")
    assert table.drop("answers at batch 1 = in a batch")["passed"].all(), table


def test_steps_a_second_are_kept_for_the_page(big, small_set, tmp_path):
    """Answering and reading, batches found from the memory, beside the sequential baseline: a table for page A1."""
    table = throughput(big, load_items(small_set)[:48], tmp_path, repeats=1)
    table = table.assign(device=torch.cuda.get_device_name())
    name = re.sub(r"[^a-z0-9]+", "-", table["device"].iloc[0].lower()).strip("-")
    table.to_csv(MEASURED / f"speed-{name}.csv", index=False, float_format="%.5g")
    assert (table["steps_per_second"] > 0).all() and len(table) == 6
