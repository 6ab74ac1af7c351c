"""On a GPU: the real shape of Qwen2.5-VL-7B, random weights in 4-bit. Writes what it measures to ``data/measured/``:
``speed-<device>.csv``, ``passes-<device>.csv`` and ``memory-<device>.csv``.

Random weights say nothing sensible, so replies are forced to be words of a small vocabulary, as many as were asked for.
"""

import re

import pandas as pd
import pytest
import torch

from cogvsr_utils.checks.parity import check_parity
from cogvsr_utils.checks.speed import BARE, CAPTURE, compare_methods, finished_chats, throughput, tower_benchmark
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.loading import images_only, load_vlm
from cogvsr_utils.models.recording import capture
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


def keep(kind, table):
    """Write what was measured here for page A1."""
    device = torch.cuda.get_device_name()
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    table.assign(device=device).to_csv(MEASURED / f"{kind}-{name}.csv", index=False, float_format="%.5g")


def test_parity_in_four_bit(big, small_set):
    """All but the share of answers that differ, which says nothing where all words are about as likely."""
    table = check_parity(big, load_items(small_set)[:4]).set_index("check")
    assert table.drop("answers at batch 1 = in a batch")["passed"].all(), table.to_string()


def test_reading_is_what_peers_read(big, small_set):
    """After parity: pyvene takes all hooks off a model, those of attention maps too."""
    table = compare_methods(big, finished_chats(big, load_items(small_set)[:8], batch_size=8), repeats=1)
    assert len(big.heads) == TEXT["num_hidden_layers"] * TEXT["num_attention_heads"]
    assert (table.set_index("method").drop([BARE, CAPTURE], errors="ignore")["difference"] < 1e-2).all()


def test_steps_a_second_are_kept_for_the_page(big, small_set, tmp_path):
    """Answering and reading, batches found from the memory, beside the sequential baseline on a few."""
    table = throughput(big, load_items(small_set)[:64], tmp_path, repeats=1, sweep=4, alone=3)
    keep("speed", table)
    assert (table["steps_per_second"] > 0).all() and len(table) == 6


def test_passes_are_kept_for_the_page(big, small_set):
    """One pass, read or not; the vision tower, its windows at once or not."""
    items = load_items(small_set)[:16]
    passes = compare_methods(big, finished_chats(big, items)).assign(task="a pass over 16 finished chats")
    tower = tower_benchmark(big, items, repeats=5).assign(task="the vision tower over 16 pictures")
    table = pd.concat([passes, tower]).rename(columns={"median": "seconds"})
    first = table.groupby("task")["seconds"].transform("first")
    keep("passes", table.assign(ratio=first / table["seconds"])[["task", "method", "seconds", "ratio", "equal"]])
    assert (table["seconds"] > 0).all()


def test_memory_is_kept_for_the_page(big, small_set, tmp_path):
    """Of the weights, and at most while answering and while reading, in GB."""
    items, rows = load_items(small_set), [("weights", 0, torch.cuda.memory_allocated())]
    for size in (16, 64):
        torch.cuda.reset_peak_memory_stats()
        answers = answer(big, items[:size], batch_size=size, progress=False)
        rows.append(("answering", size, torch.cuda.max_memory_allocated()))
        torch.cuda.reset_peak_memory_stats()
        capture(big, items[:size], store=tmp_path / str(size), answers=answers, batch_size=size, progress=False)
        rows.append(("reading every head", size, torch.cuda.max_memory_allocated()))
    table = pd.DataFrame(rows, columns=["what", "chats_at_once", "gigabytes"])
    table["gigabytes"] /= 1e9
    keep("memory", table)
    assert (table["gigabytes"] > table["gigabytes"].iloc[0]).iloc[1:].all()
