import pytest
import torch

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.hooks import projection_hooks


def hooks_of(vlm):
    modules = [vlm.model.get_submodule(name) for name in vlm.heads.projections]
    return [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in modules]


def test_every_projection_calls_its_hook_and_all_come_off_even_after_an_error(vlm, items):
    inputs = vlm.encode([vlm.render(conversation(items[0], [], 0), prompt=True)], [open_image(items[0])])
    seen, outputs = {}, {}

    def before(name, columns):
        if name == skipped:
            return None
        return lambda module, args: seen.__setitem__(name, (columns, args[0].shape[-1]))

    skipped = list(vlm.heads.projections)[1]
    with projection_hooks(vlm, before), torch.no_grad():
        vlm.forward(inputs)
    assert list(seen) == [name for name in vlm.heads.projections if name != skipped]
    for name, (columns, width) in seen.items():
        assert (columns.start, columns.stop) == vlm.heads.projections[name] and columns.stop - columns.start == width

    def behind(name, columns):
        return lambda module, args, output: outputs.__setitem__(name, output)

    with projection_hooks(vlm, behind, after=True), torch.no_grad():
        vlm.forward(inputs)
    assert len(outputs) == len(vlm.heads.projections) and not any(hooks_of(vlm))
    with pytest.raises(ZeroDivisionError), projection_hooks(vlm, before):
        _ = 1 / 0
    assert not any(hooks_of(vlm))
