"""Does capture read what the model computes? Ask before you rely on a number.

check_parity(vlm, items)    one row a check: difference, tolerance, passed or not

Each check computes the same activations in two ways that must agree. At full precision the largest difference is a
test. In low precision it is none, since rounding alone moves single values by a fifth of a root-mean-square over 28
layers; there the relative error of each head is compared with two references: rounding, measured on the same items in
another batch, but at least one unit of the precision, and a known mistake, every place one token off. A head's
tolerance lies between the two.
"""

import numpy as np
import pandas as pd
import torch

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.chat import conversation, step_replies
from cogvsr_utils.models.hooks import projection_hooks
from cogvsr_utils.models.positions import chat_spans, encode_chats, group_steps
from cogvsr_utils.models.recording import read_heads
from cogvsr_utils.models.vlm import VLM, attention_switched

EXACT = 1e-3  # largest difference at float32, in root-mean-squares of the activations
FLIPS = 0.02  # share of answers that rounding may change in low precision
IN_TOLERANCES = 1.0  # the tolerance in low precision, where differences are in units of each head's own


def check_parity(vlm: VLM, items: list[Item], *, progress: bool = False) -> pd.DataFrame:
    """Compare every way of reading a head with another way, on a few items (eight are plenty).

    Checks: one item at a time against a ragged batch; left against right padding; eager against sdpa attention;
    generation against the teacher-forced pass; the heads through their projection against the layer's own output;
    answers of two runs with different batch shapes (the share that differs). Returns a DataFrame: check, difference,
    tolerance, passed, note. At float32 the difference is the largest, in root-mean-squares of the activations. In lower
    precision it is that of the worst layer, the median over its heads of the relative error in units of the head's
    tolerance, the geometric mean of what rounding and what a mistake of one token give. Raises ValueError for fewer
    than two items, and where no step of theirs could be located.

    >>> from cogvsr_utils import Item, Step, load_vlm
    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> items = [Item(str(n), "mine", str(n), "Is it red?", "yes", "yesno", [step] * (n + 1)) for n in range(2)]
    >>> bool(check_parity(load_vlm("nano-internvl"), items)["passed"].all())
    True
    """
    kinds = ([item for item in items if item.steps and (item.image is None) == blind] for blind in (False, True))
    items = max(kinds, key=len)  # since a batch is of one kind
    if len(items) < 2:
        raise ValueError(f"{len(items)} items with steps; expected at least two, of different lengths and pictures")
    answers = answer(vlm, items, batch_size=len(items), progress=progress)
    replies = step_replies(answers)
    batch = _read(vlm, items, replies)
    if not len(batch):
        raise ValueError(
            f"none of the steps of {len(items)} items could be located in {vlm.name}'s chats: its replies are empty or "
            "its template changes them; expected replies of at least one token"
        )
    alone = torch.cat([_read(vlm, [item], replies) for item in items])
    exact = vlm.model.dtype == torch.float32 and vlm.quantize is None
    if exact:
        gap, tolerance = _largest, EXACT
    else:
        rounding, mistake = _relative(vlm, alone, batch), _relative(vlm, _read(vlm, items, replies, offset=-1), batch)
        # Batches of other shapes can give the same bits, on a CPU above all; other attention never does.
        rounding = rounding.clamp_min(torch.finfo(vlm.model.dtype).eps)
        of_head, tolerance = (rounding * mistake).sqrt().clamp_min(1e-6), IN_TOLERANCES

        def gap(a, b):
            return _worst_layer(vlm, _relative(vlm, a, b) / of_head)

    with attention_switched(vlm, "eager") as switched:
        eager = _read(vlm, items, replies) if switched else batch
    generated, forced = _generated(vlm, items[0])
    again = answer(vlm, items, batch_size=1, progress=progress)
    rows = [
        ("one item at a time = ragged batch", gap(alone, batch), tolerance, f"{len(items)} items"),
        ("left padding = right padding", gap(_read(vlm, items, replies, "left"), batch), tolerance, ""),
        ("eager attention = sdpa", gap(eager, batch), tolerance, "" if switched else "cannot be switched"),
        ("generation = teacher-forced pass", gap(generated, forced), tolerance, "first step"),
        ("heads through projection = layer's output", _through(vlm, items[0], replies, exact), tolerance, "all layers"),
        ("answers at batch 1 = in a batch", float((again["prediction"] != answers["prediction"]).mean()),
         0.0 if exact else FLIPS, "share that differs"),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["check", "difference", "tolerance", "note"])
    table.insert(3, "passed", table["difference"] <= table["tolerance"])
    return table


def _largest(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference in root-mean-squares of the second."""
    return float((a - b).abs().max() / b.pow(2).mean().sqrt())


def _relative(vlm: VLM, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Relative error ||a - b|| / ||b|| of every head (heads,) of two readings (rows, width)."""
    spans = vlm.heads.table[["start", "stop"]].to_numpy()
    parts = [(a[:, start:stop] - b[:, start:stop], b[:, start:stop]) for start, stop in spans]
    return torch.stack([error.norm() / true.norm().clamp_min(1e-12) for error, true in parts]).cpu()


def _worst_layer(vlm: VLM, values: torch.Tensor) -> float:
    """The largest, over projections, of the median of its heads' values (heads,)."""
    return max(float(values[part.index].median()) for _, part in vlm.heads.table.groupby("module", sort=False))


@torch.inference_mode()
def _read(vlm: VLM, items: list[Item], replies, side: str = "right", offset: int = 0) -> torch.Tensor:
    """Every head at the tokens that predict the answers, ``offset`` tokens off: (steps, width) float32."""
    inputs, places = encode_chats(vlm, items, replies, side=side)
    steps, owner = group_steps(places)
    flat = places[:, 0] * inputs["input_ids"].shape[1] + places[:, 1] - 1 + offset
    return read_heads(vlm, inputs, flat, owner, len(steps))


@torch.inference_mode()
def _generated(vlm: VLM, item: Item) -> tuple[torch.Tensor, torch.Tensor]:
    """Head inputs (tokens, width) of the first reply's tokens, during generation and in one pass over the same text."""
    n_tokens = 3
    prompt = vlm.render(conversation(item, [], 0), prompt=True)
    inputs, seen = vlm.encode([prompt], [open_image(item)]), {}

    def hook_for(name, columns):
        return lambda module, args: seen.setdefault(name, []).append(args[0][0, -1].float())

    with projection_hooks(vlm, hook_for):
        out = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=n_tokens, min_new_tokens=n_tokens)
    stepwise = torch.stack([torch.cat([seen[name][i] for name in vlm.heads.projections]) for i in range(n_tokens)])
    n_prompt, new = inputs["input_ids"].shape[1], n_tokens - 1  # the last token is never an input
    inputs["input_ids"] = out[:, : n_prompt + new]
    for key in ("attention_mask", "mm_token_type_ids", "token_type_ids", "cross_attention_mask"):
        if key in inputs:
            last = inputs[key][:, -1:]
            fill = torch.zeros_like(last) if key.endswith("type_ids") else last
            inputs[key] = torch.cat([inputs[key], *[fill] * new], dim=1)
    flat = np.arange(n_prompt - 1, n_prompt + new)
    return stepwise, read_heads(vlm, inputs, flat, np.arange(n_tokens), n_tokens)


@torch.inference_mode()
def _through(vlm: VLM, item: Item, replies: dict[str, list[str]], exact: bool) -> float:
    """The largest gap, over projections, between the sum of each head's own product and what the module gives out.

    In low precision it is in units of a tolerance between the precision itself and the mistake of leaving one head out.
    """
    text, _ = chat_spans(vlm, item, replies[item.uid])
    gaps: list[float] = []
    heads_of = dict(list(vlm.heads.table.groupby("module", sort=False)))

    def hook_for(name, columns):
        def hook(module, args, out):
            x, products = args[0], []
            for head in heads_of[name].itertuples():
                alone = torch.zeros_like(x)
                own = slice(head.start - columns.start, head.stop - columns.start)
                alone[..., own] = x[..., own]
                products.append(module.forward(alone).float())
            bias = 0 if module.bias is None else module.bias.float()
            total, out = sum(products) - (len(products) - 1) * bias, out.float()
            if exact:
                gaps.append(_largest(total, out))
            else:
                rounding = torch.finfo(x.dtype).eps
                mistake = (products[-1] - bias).norm() / out.norm()
                gaps.append(float((total - out).norm() / out.norm() / (rounding * mistake).sqrt().clamp_min(rounding)))

        return hook

    with projection_hooks(vlm, hook_for, after=True):
        vlm.forward(vlm.encode([text], [open_image(item)]))
    return max(gaps)
