"""On a GPU: the real shape of Qwen2.5-VL-7B, random weights in 4-bit. Writes what it measures to ``data/measured/``."""

import json
import re
from pathlib import Path

import pytest
import torch

from cogvsr_utils.checks.parity import check_parity
from cogvsr_utils.checks.speed import compare_methods, finished_chats
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.models.loading import images_only, load_vlm
from cogvsr_utils.models.vlm import VLM

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
            packed = bnb.nn.Linear4bit(layer.in_features, layer.out_features, layer.bias is not None,
                                       compute_dtype=torch.bfloat16, quant_type="nf4", device="meta")  # fmt: skip
            packed.weight = bnb.nn.Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4")
            packed.bias = layer.bias
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, packed.to("cuda"))
            del layer
    torch.cuda.empty_cache()
    return model


@pytest.fixture(scope="module")
def big():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    small = load_vlm("nano-qwen2_5_vl", device="cpu")
    ids = {key: getattr(small.model.config, key) for key in ("image_token_id", "video_token_id", "vision_start_token_id",
                                                             "vision_end_token_id")}  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config = Qwen2_5_VLConfig(vision_config=VISION, text_config=dict(TEXT, rope_parameters=rope), **ids)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16).eval()
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 448**2, "longest_edge": 448**2}, patch_size=14)
    processor = images_only(Qwen2_5_VLProcessor)(
        image_processor=images, tokenizer=small.tokenizer, chat_template=small.processor.chat_template
    )
    return VLM("Qwen2.5-VL-7B shape, random weights", pack(model), processor, "4bit")


def test_hooks_cost_no_more_than_a_twentieth(big, small_set):
    """Capture against the bare pass of the same batches; figures go to data/measured with the device's name."""
    torch.cuda.reset_peak_memory_stats()
    batches = finished_chats(big, load_items(small_set)[:32], batch_size=8)
    contest = compare_methods(big, batches, repeats=5).set_index("way")
    device, rows = torch.cuda.get_device_name(), sum(batch.n_rows for batch in batches)
    measured = {
        "device": device, "torch": torch.__version__, "model": big.name, "heads": len(big.heads), "steps": rows,
        "steps_per_second": round(rows / contest.loc["capture", "median"], 1),
        "ratio_to_bare_pass": round(contest.loc["capture", "ratio"], 4),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }  # fmt: skip
    folder = Path(__file__).resolve().parents[1] / "data" / "measured"
    folder.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    (folder / f"{name}.json").write_text(json.dumps(measured, indent=1) + "\n")
    assert len(big.heads) == 28 * 28
    assert contest.loc["capture", "ratio"] <= 1.05


def test_whole_capture_and_parity_in_four_bit(big, small_set):

    table = check_parity(big, load_items(small_set)[:3])
    assert table.set_index("check").loc["heads through projection = layer's output", "passed"]
