"""Does capture read what the model really computes? Ask before you believe a number.

    check_parity(vlm, items)    one row a check: the largest difference, its scale, the tolerance, passed or not

Each check computes the same activations in two ways that must agree.
"""

from __future__ import annotations

import numpy as np
import torch

from .answering import MAIN, answer, conversation
from .capture import read_heads
from .items import Item, open_image
from .models import attention_switched
from .positions import chat_spans, encode_chats, group_steps

# Largest difference allowed, in root-mean-squares of the activations.
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1.5e-1}


def check_parity(vlm, items: list[Item], *, progress: bool = False):
    """Compare every way of reading a head with another way, on a few items (eight are plenty).

    Checks: one item at a time against a ragged batch; left against right padding; eager against sdpa attention;
    generation against the teacher-forced pass; the heads through their projection against the layer's own output;
    answers of two runs with different batch shapes (the share that flips). Returns a DataFrame: check, difference (the
    largest, in root-mean-squares of the activations; for answers the share that differs), tolerance, passed, note.
    Prints it too. Raises ValueError for fewer than two items.

    >>> from cogvsr_utils import load_items, load_vlm
    >>> check_parity(load_vlm("nano-internvl"), load_items("synth")[:4])["passed"].all()  # doctest: +SKIP
    True
    """
    import pandas as pd

    if len(items) < 2:
        raise ValueError(f"{len(items)} items; expected at least two, of different lengths and pictures")
    dtype = str(vlm.model.dtype).removeprefix("torch.")
    tolerance = TOLERANCE.get("bfloat16" if vlm.quantize else dtype, TOLERANCE["bfloat16"])
    said = answer(vlm, items, batch_size=len(items), progress=progress)
    replies = {uid: list(rows["prediction"]) for uid, rows in said[said["step"] != MAIN].groupby("uid", sort=False)}
    batch = _read(vlm, items, replies)
    alone = torch.cat([_read(vlm, [item], replies) for item in items])
    rows = [
        ("one item at a time = ragged batch", _gap(alone, batch), tolerance, f"{len(items)} items"),
        ("left padding = right padding", _gap(_read(vlm, items, replies, "left"), batch), tolerance, ""),
    ]
    with attention_switched(vlm, "eager") as switched:
        eager = _read(vlm, items, replies) if switched else batch
    rows.append(("eager attention = sdpa", _gap(eager, batch), tolerance, "" if switched else "cannot be switched"))
    generated, forced = _generated(vlm, items[0], replies[items[0].uid])
    rows.append(("generation = teacher-forced pass", _gap(generated, forced), tolerance, "first step"))
    rows.append(
        ("heads through projection = layer's output", _through(vlm, items[0], replies), tolerance, "all layers")
    )
    again = answer(vlm, items, batch_size=1, progress=progress)
    flips = float((again["prediction"] != said["prediction"]).mean())
    rows.append(
        (
            "answers at batch 1 = in a batch",
            flips,
            0.0 if tolerance == TOLERANCE["float32"] else 0.02,
            "share that flips",
        )
    )
    table = pd.DataFrame(rows, columns=["check", "difference", "tolerance", "note"])
    table.insert(3, "passed", table["difference"] <= table["tolerance"])
    print(table.to_string(index=False, float_format=lambda x: f"{x:.2g}"))
    return table


def _gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference in root-mean-squares of the second."""
    return float((a - b).abs().max() / b.pow(2).mean().sqrt())


@torch.inference_mode()
def _read(vlm, items, replies, side: str = "right") -> torch.Tensor:
    """Every head at the tokens that predict the answers, (steps, width) float32."""
    inputs, places = encode_chats(vlm, items, replies, side=side)
    steps, owner = group_steps(places)
    flat = places[:, 0] * inputs["input_ids"].shape[1] + places[:, 1] - 1
    return read_heads(vlm, inputs, flat, owner, len(steps))


@torch.inference_mode()
def _generated(vlm, item: Item, replies: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Head inputs of each token of the first reply while it is generated, and in one pass over the finished text."""
    prompt = vlm.render(conversation(item, [], 0), prompt=True)
    inputs, seen = vlm.encode([prompt], [open_image(item)]), {}
    modules = dict(vlm.model.named_modules())

    def hook_for(name):
        return lambda module, args: seen.setdefault(name, []).append(args[0][0, -1].float())

    hooks = [modules[name].register_forward_pre_hook(hook_for(name)) for name in vlm.heads.projections]
    try:
        out = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=3, min_new_tokens=3)
        stepwise = torch.stack([torch.cat([seen[n][i] for n in vlm.heads.projections]) for i in range(3)])
        seen.clear()
        n_prompt = inputs["input_ids"].shape[1]
        whole = vlm.encode([prompt], [open_image(item)])
        whole["input_ids"] = out[:, : n_prompt + 2]
        for key in ("attention_mask", "mm_token_type_ids", "token_type_ids", "cross_attention_mask"):
            if key in whole:
                last = whole[key][:, -1:]
                fill = torch.zeros_like(last) if key.endswith("type_ids") else last
                whole[key] = torch.cat([whole[key], fill, fill], dim=1)
        for hook in hooks:
            hook.remove()
        hooks = []
        flat = np.arange(n_prompt - 1, n_prompt + 2)
        return stepwise, read_heads(vlm, whole, flat, np.arange(3), 3)
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def _through(vlm, item: Item, replies) -> float:
    """Largest gap, over projections, between the sum of each head's own product and what the module gives out."""
    text, _ = chat_spans(vlm, item, replies[item.uid])
    inputs, worst = vlm.encode([text], [open_image(item)]), []
    modules = dict(vlm.model.named_modules())
    sites = {name: part for name, part in vlm.heads.table.groupby("module", sort=False)}

    def hook_for(name):
        first, heads = vlm.heads.projections[name][0], sites[name]

        def hook(module, args, out):
            x, total = args[0], 0
            for head in heads.itertuples():
                alone = torch.zeros_like(x)
                here = slice(head.start - first, head.stop - first)
                alone[..., here] = x[..., here]
                total = total + module.forward(alone).float()
            if module.bias is not None:
                total = total - (len(heads) - 1) * module.bias.float()
            worst.append(_gap(total, out.float()))

        return hook

    hooks = [modules[name].register_forward_hook(hook_for(name)) for name in vlm.heads.projections]
    try:
        vlm.run(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return max(worst)
