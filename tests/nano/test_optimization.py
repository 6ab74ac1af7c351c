"""What mixed precision does to a model that trains."""

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.nano import internvl
from cogvsr_utils.nano.optimization import mixed_precision


class Watch(TorchFunctionMode):
    """Keeps the precision of what attention is computed from."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is scaled_dot_product_attention:
            self.seen |= {each.dtype for each in args}
        return func(*args, **(kwargs or {}))


def test_matrices_are_multiplied_in_half_precision_and_gradients_stay_close():
    vlm = load_vlm("nano-internvl", device="cpu")
    model, gradients = vlm.model.float(), []
    ids = torch.randint(50, 200, (3, 40), generator=torch.Generator().manual_seed(0))
    seen = torch.zeros(3, 0, model.get_input_embeddings().weight.shape[1])
    for precision in (torch.autocast("cpu", enabled=False), mixed_precision(model.device)):
        model.zero_grad()
        with Watch() as watch, precision:
            logits = model.lm_head(internvl.decode(model, ids, seen))
        logits.float().logsumexp(-1).mean().backward()
        assert watch.seen == {torch.float32}
        gradients.append((logits.dtype, [p.grad for p in model.model.language_model.layers.parameters()]))
    (exact, right), (half, rounded) = gradients
    assert (exact, half) == (torch.float32, torch.bfloat16)
    for a, b in zip(right, rounded, strict=True):
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.98
