"""Approximations of what ablating a head would do, without ablating it.

attribution_patching(scorer, functions)    one backward pass a function: gradient x activation
head_gradients(vlm, inputs, ...)           what it takes them from
image_attention(scorer, functions)         share of a head's attention that goes to the picture
output_norms(scorer)                       size of what a head's columns of the output projection write
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from cogvsr_utils.models.hooks import projection_hooks
from cogvsr_utils.models.recording import read_heads
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.models.vlm import VLM, attention_switched


def attribution_patching(scorer: TeacherForcedScorer, functions: Sequence[str]) -> np.ndarray:
    """First-order change of the log-odds of right answers if a head were set to 0: (functions, heads), a step's mean.

    For each function one backward pass gives the gradient of the summed log-odds of its steps' answer tokens at every
    head's slice; minus gradient x activation, summed over tokens, is what zeroing would change were the model linear.
    Log-odds, because the log-probability of an answer that is certain has no gradient left. Source: attribution
    patching, as in Syed et al. (arXiv 2310.10348).
    """
    vlm, label = scorer.vlm, scorer.index["function"].to_numpy()
    total = torch.zeros(len(functions), len(vlm.heads), dtype=torch.float64)
    heads = torch.as_tensor(vlm.heads.of_column)
    for inputs, where, owner in scorer.batches_for_gradients():
        for number, name, x, gradient in head_gradients(vlm, inputs, where, label[owner], functions):
            with torch.no_grad():
                change = -(x * gradient).float().sum((0, 1)).double().cpu()  # (width of the projection,)
            total[number].index_add_(0, heads[slice(*vlm.heads.projections[name])], change)
    counts = np.array([max((label == function).sum(), 1) for function in functions])
    return total.numpy() / counts[:, None]


def head_gradients(
    vlm: VLM, inputs: dict, where: torch.Tensor, label: np.ndarray, functions: Sequence[str]
) -> Iterator[tuple[int, str, torch.Tensor, torch.Tensor]]:
    """For each function that has answer tokens in a batch, and each output projection that ran: the function's number,
    the projection's name, its input (rows, tokens, width), and the gradient there of the summed log-odds of the
    function's right answer tokens. ``where`` (2, answer tokens) are the answers' rows and tokens, ``label`` (answer
    tokens,) their functions."""
    slices: dict[str, torch.Tensor] = {}

    def hook_for(name, columns):
        def hook(module, args):
            slices[name] = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
            return (slices[name], *args[1:])

        return hook

    row, token = where
    with projection_hooks(vlm, hook_for):
        logits = vlm.next_logits(inputs, row, token - 1)  # (answer tokens, vocabulary)
    targets = inputs["input_ids"][row, token][:, None].to(logits.device)
    others = logits.scatter(1, targets, -torch.inf).logsumexp(1)
    log_odds = logits.gather(1, targets)[:, 0] - others
    for number, function in enumerate(functions):
        own = torch.as_tensor(label == function, device=log_odds.device)
        if own.any():
            gradients = torch.autograd.grad(log_odds[own].sum(), list(slices.values()), retain_graph=True)
            for (name, x), gradient in zip(slices.items(), gradients, strict=True):
                yield number, name, x.detach(), gradient


@torch.inference_mode()
def image_attention(scorer: TeacherForcedScorer, functions: Sequence[str]) -> np.ndarray:
    """Share of attention that goes to the picture from the tokens that predict an answer: (functions, heads), 0 to 1,
    NaN for a function without steps.

    A head of cross-attention reads nothing else and has 1; in chats without a picture all have 0. Raises ValueError
    where the model does not hand over one attention map a layer of heads.
    """
    vlm, label = scorer.vlm, scorer.index["function"].to_numpy()
    per_step = np.zeros((len(label), len(vlm.heads)))
    count = np.zeros(len(label))
    kinds = vlm.heads.table.groupby("module", sort=False)["kind"].first()
    with attention_switched(vlm, "eager"):
        for inputs, (row, token), owner in scorer.batches_for_gradients():  # or maps, of which there are as many
            if "pixel_values" not in inputs:  # then nothing goes to a picture
                np.add.at(count, owner, 1)
                continue
            maps = vlm.forward(inputs, output_attentions=True).attentions or ()
            if len(maps) != len(kinds):
                raise ValueError(
                    f"{vlm.name} gave {len(maps)} attention maps for {len(kinds)} layers; expected one each"
                )
            picture = (inputs["input_ids"] == vlm.image_token_id).float()
            shares = [  # (answer tokens, heads) a layer
                torch.ones(len(row), each.shape[1])
                if kind == "cross"
                else torch.einsum("thk,tk->th", each[row, :, token - 1].float().cpu(), picture[row])
                for each, kind in zip(maps, kinds, strict=True)
            ]
            np.add.at(per_step, owner, torch.cat(shares, dim=1).numpy())
            np.add.at(count, owner, 1)
    per_step /= np.maximum(count, 1)[:, None]
    means = np.full((len(functions), per_step.shape[1]), np.nan)
    for number, function in enumerate(functions):
        if (label == function).any():
            means[number] = per_step[label == function].mean(0)
    return means


@torch.inference_mode()
def output_norms(scorer: TeacherForcedScorer) -> np.ndarray:
    """Size of what each head's columns of its output projection write: (heads,), the mean of ||W x|| over all tokens,
    where an ablation acts.

    x is the head's slice at a token; W is read by sending unit vectors through the projection, so packed 4-bit weights
    count as they compute. What a family puts behind the projection, such as a gate or a norm, is not counted.
    """
    vlm, n_tokens = scorer.vlm, 0
    total = torch.zeros(len(vlm.heads), device=vlm.device)
    squares = _written(vlm)
    for inputs, *_ in scorer.batches_for_gradients():
        real = inputs["attention_mask"].flatten().nonzero().flatten()  # (tokens,)
        x = read_heads(vlm, inputs, real, torch.arange(len(real)), len(real))  # (tokens, width)
        for name, part in vlm.heads.table.groupby("module", sort=False):
            first, last = vlm.heads.projections[name]
            slices = x[:, first:last].unflatten(1, (len(part), -1))  # (tokens, heads, head_dim)
            norms = torch.einsum("thd,hde,the->th", slices, squares[name], slices).clamp_min(0).sqrt()
            total[torch.as_tensor(part.index, device=vlm.device)] += norms.sum(0)
        n_tokens += len(real)
    return (total / n_tokens).cpu().numpy()


def _written(vlm: VLM) -> dict[str, torch.Tensor]:
    """For each output projection and head W Wᵀ (heads, head_dim, head_dim), so that ||W x||² is xᵀ (W Wᵀ) x."""
    squares = {}
    for name, part in vlm.heads.table.groupby("module", sort=False):
        first, last = vlm.heads.projections[name]
        units = torch.eye(last - first, device=vlm.device, dtype=vlm.model.dtype)
        projection = vlm.model.get_submodule(name)
        weight = projection(units).float() - projection(torch.zeros_like(units[:1])).float()  # (columns, model)
        weight = weight.unflatten(0, (len(part), -1))  # (heads, head_dim, model)
        squares[name] = weight @ weight.mT
    return squares
