"""Cheap guesses at what removing a head would do, to be held against removing it.

gradients(rehearsal, functions)          one backward pass a function: gradient x activation
image_attention(rehearsal, functions)    how much of a head's attention goes to the picture
output_norms(vlm, activations)           how much a head's columns of the output projection give out
"""

from __future__ import annotations

import numpy as np
import torch

from .models import attention_switched


def gradients(rehearsal, functions) -> np.ndarray:
    """First-order change of the log-odds of right answers if a head were removed: (functions, heads), nats a step.

    For each function one backward pass gives the gradient of the summed log-odds of its steps' answer tokens at every
    head's slice; minus gradient x activation, summed over tokens, is what removal would change were the model linear.
    Log-odds, because the log-probability of an answer that is sure has no gradient left. Source: attribution patching, as in
    Syed et al. (arXiv 2310.10348).
    """
    vlm, label = rehearsal.vlm, rehearsal.index["function"].to_numpy()
    total = np.zeros((len(functions), len(vlm.heads)))
    table, modules = vlm.heads.table, dict(vlm.model.named_modules())
    head_of_column = torch.as_tensor(np.repeat(np.arange(len(table)), table["stop"] - table["start"]))
    slices: list[torch.Tensor] = []

    def hook(module, args):
        x = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
        slices.append(x)
        return (x, *args[1:])

    handles = [modules[name].register_forward_pre_hook(hook) for name in vlm.heads.projections]
    try:
        for inputs, (row, token), owner in rehearsal.batches:
            slices.clear()
            logits = vlm.scores(inputs, row, token - 1)
            said = inputs["input_ids"][row, token][:, None]
            others = logits.scatter(1, said, -torch.inf).logsumexp(1)
            each = logits.gather(1, said)[:, 0] - others
            for number, function in enumerate(functions):
                mine = torch.as_tensor(label[owner] == function, device=each.device)
                if not mine.any():
                    continue
                ways = torch.autograd.grad(each[mine].sum(), slices, retain_graph=True)
                with torch.no_grad():
                    columns = torch.cat([(x * way).float().sum((0, 1)) for x, way in zip(slices, ways, strict=True)])
                total[number] -= np.bincount(head_of_column, columns.cpu(), minlength=len(table))
    finally:
        for handle in handles:
            handle.remove()
    return total / np.array([max((label == function).sum(), 1) for function in functions])[:, None]


@torch.inference_mode()
def image_attention(rehearsal, functions) -> np.ndarray:
    """Share of attention that goes to the picture from the tokens that predict an answer: (functions, heads), 0 to 1,
    NaN for a function without steps.

    A head of cross-attention looks at nothing else and has 1. Raises ValueError where the model does not hand over one
    attention map a layer of heads.
    """
    vlm, label = rehearsal.vlm, rehearsal.index["function"].to_numpy()
    per_step = np.zeros((len(label), len(vlm.heads)))
    count = np.zeros(len(label))
    kinds = vlm.heads.table.groupby("module", sort=False)["kind"].first()
    with attention_switched(vlm, "eager"):
        for inputs, (row, token), owner in rehearsal.batches:
            maps = vlm.model.base_model(**inputs, use_cache=False, output_attentions=True).attentions or ()
            if len(maps) != len(kinds):
                raise ValueError(
                    f"{vlm.name} gave {len(maps)} attention maps for {len(kinds)} layers; expected one each"
                )
            picture = (inputs["input_ids"] == vlm.image_token_id).float()
            looks = [
                torch.ones(len(row), each.shape[1]) if kind == "cross"
                else torch.einsum("thk,tk->th", each[row, :, token - 1].float(), picture[row]).cpu()
                for each, kind in zip(maps, kinds, strict=True)
            ]  # fmt: skip
            np.add.at(per_step, owner, torch.cat(looks, dim=1).numpy())
            np.add.at(count, owner, 1)
    per_step /= np.maximum(count, 1)[:, None]
    means = np.full((len(functions), per_step.shape[1]), np.nan)
    for number, function in enumerate(functions):
        if (label == function).any():
            means[number] = per_step[label == function].mean(0)
    return means


@torch.inference_mode()
def output_norms(vlm, activations) -> np.ndarray:
    """How much each head's columns of its output projection give out: (heads,), the mean over rows of ||W x||.

    x is the head's slice in ``activations`` (``capture``'s), so at the tokens that these hold; W is read by sending unit vectors
    through the projection, so packed 4-bit weights count as they compute. What a family puts behind the projection, such
    as a gate or a norm, is not counted.
    """
    norms, modules = np.empty(len(vlm.heads)), dict(vlm.model.named_modules())
    for name, part in vlm.heads.table.groupby("module", sort=False):
        first, last = vlm.heads.projections[name]
        units = torch.eye(last - first, device=vlm.device, dtype=vlm.model.dtype)
        weight = modules[name](units).float() - modules[name](0 * units[:1]).float()  # (columns, model)
        weight = weight.unflatten(0, (len(part), -1))
        x = torch.as_tensor(np.asarray(activations.features[:, first:last], dtype=np.float32), device=vlm.device)
        x = x.unflatten(1, (len(part), -1))  # (rows, heads, head_dim)
        squares = torch.einsum("rhd,hde,rhe->rh", x, weight @ weight.mT, x)
        norms[part.index] = squares.clamp_min(0).sqrt().mean(0).cpu()
    return norms
