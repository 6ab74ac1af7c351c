"""Vision attention over all windows of equal length in one call.

windowed_attention(model)    let the vision tower of a model attend so; towers without windows stay as they are

The towers of Qwen2-VL's line and its relatives hand their windows one by one, in a Python loop, to every attention
implementation but those whose name contains "flash", which get all of them with their bounds. So a function of such a
name is registered with transformers' ``AttentionInterface`` and named in the tower's configuration alone.
"""

import inspect

import torch
from transformers import AttentionInterface

IMPLEMENTATION = "windows_flash_like"


def windowed_attention(model: torch.nn.Module) -> bool:
    """Make the vision tower attend to all windows of equal length at once; returns whether it has windows.

    Values are those of window by window, bit for bit. The language model keeps its own implementation.
    """
    tower = model.get_encoder(modality="image")
    if tower in (model, model.base_model):  # which transformers gives where it finds no tower
        return False
    attention = [m for m in tower.modules() if "cu_seqlens" in inspect.signature(type(m).forward).parameters]
    configs = [m.config for m in attention if hasattr(m, "config") and hasattr(m, "scaling")]
    for config in configs:
        config._attn_implementation = IMPLEMENTATION
    return bool(configs)


def _attend(module, query, key, value, attention_mask=None, *, scaling, cu_seq_lens_q, dropout=0.0, **_):
    """Scaled dot-product attention of (1, heads, tokens, width) within windows; returns (1, tokens, heads, width)."""
    bounds = cu_seq_lens_q.long()
    lengths = bounds.diff()

    def attend(windows):  # three of (heads, windows, length, width) -> (windows, length, heads, width)
        q, k, v = (x.transpose(0, 1) for x in windows)
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        return attended.transpose(1, 2)

    distinct = lengths.unique().tolist()
    if len(distinct) == 1:  # a view of all windows, which no token has to be gathered for
        return attend(x[0].unflatten(1, (-1, distinct[0])) for x in (query, key, value)).flatten(0, 1)[None], None
    out = torch.empty_like(query[0].transpose(0, 1))
    for length in distinct:
        starts = bounds[:-1][lengths == length]
        tokens = starts[:, None] + torch.arange(length, device=bounds.device)  # (windows, length)
        out[tokens] = attend(x[0][:, tokens] for x in (query, key, value))
    return out[None], None


AttentionInterface.register(IMPLEMENTATION, _attend)
