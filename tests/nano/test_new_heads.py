"""Heads drawn anew: what is drawn, and that they come to write what the old ones wrote."""

import copy

import torch

from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.nano import internvl
from cogvsr_utils.nano.new_heads import attentions, draw_heads_anew, matched


def test_all_of_the_decoder_s_attention_is_drawn_anew_and_nothing_else():
    model = load_vlm("nano-internvl", device="cpu", dtype=torch.float32).model
    before = copy.deepcopy(model.state_dict())
    draw_heads_anew(model, seed=1)
    own = {id(weight) for weight in attentions(model).parameters()}
    for name, weight in model.named_parameters():
        if id(weight) not in own:
            assert torch.equal(weight, before[name]), name
        elif name.endswith(("o_proj.weight", "bias")):
            assert not weight.any()
        else:
            assert 0.9 < weight.std() / model.config.get_text_config().initializer_range < 1.1
    first = copy.deepcopy(model.state_dict())
    draw_heads_anew(model, seed=2)
    assert sum(not torch.equal(weight, first[name]) for name, weight in model.named_parameters()) == 3 * 8


def test_each_layer_is_given_what_the_teacher_s_is_given_and_learns_alone():
    """The gradient against one worked out here for a single layer; what is padding does not count."""
    vlm = load_vlm("nano-internvl", device="cpu", dtype=torch.float32)
    teacher, model = vlm.model, copy.deepcopy(vlm.model).requires_grad_()
    ids = torch.randint(50, 200, (3, 20), generator=torch.Generator().manual_seed(0))
    real = torch.arange(20) < torch.tensor([[20], [15], [7]])
    none = torch.zeros(3, 0, teacher.get_input_embeddings().weight.shape[1])
    with torch.no_grad(), matched(teacher, model, real) as missed:
        internvl.decode(teacher, ids, none)
    assert len(missed) == 8 and max(missed) == 0.0
    model.zero_grad()
    draw_heads_anew(model, seed=1)
    seen = {}
    layer = attentions(teacher)[5]
    hook = layer.register_forward_hook(
        lambda m, args, kwargs, out: seen.update(kwargs=kwargs, out=out[0]), with_kwargs=True
    )
    with torch.no_grad(), matched(teacher, model, real) as missed:
        internvl.decode(teacher, ids, none)
    hook.remove()
    assert not teacher.model.language_model.layers[5].self_attn._forward_hooks, "hooks come off"
    assert all(share > 0.99 for share in missed)  # nothing is written yet
    found = attentions(model)[5].o_proj.weight.grad.clone()
    model.zero_grad()
    truth, out = seen["out"][real], attentions(model)[5](**seen["kwargs"])[0][real]
    ((out - truth).square().sum() / (truth - truth.mean(0)).square().sum()).backward()
    torch.testing.assert_close(found, attentions(model)[5].o_proj.weight.grad, atol=1e-6, rtol=1e-4)
    others = [name for name, weight in model.named_parameters() if weight.grad is not None and "_attn." not in name]
    assert not others, "and nothing else learns"


def test_steps_bring_them_nearer():
    vlm = load_vlm("nano-internvl", device="cpu", dtype=torch.float32)
    teacher, model = vlm.model, copy.deepcopy(vlm.model).requires_grad_()
    draw_heads_anew(model, seed=1)
    ids = torch.randint(50, 200, (2, 30), generator=torch.Generator().manual_seed(0))
    none = torch.zeros(2, 0, teacher.get_input_embeddings().weight.shape[1])
    optimizer, shares = torch.optim.Adam(attentions(model).parameters(), lr=3e-3), []
    for _ in range(30):
        optimizer.zero_grad()
        with torch.no_grad(), matched(teacher, model, torch.ones_like(ids, dtype=torch.bool)) as missed:
            internvl.decode(teacher, ids, none)
        optimizer.step()
        shares.append(missed)
    assert all(last < 0.5 * first for first, last in zip(shares[0], shares[-1], strict=True))
