"""Hooks on a model's attention output projections, and methods that are replaced for a while.

projection_hooks(vlm, hook_for)    hooks at every projection inside a block
replaced(owner, name, value)       another attribute inside a block
unrounded_logits(vlm)              inside, the model itself gives its logits in float32, in ``generate`` too
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from cogvsr_utils.models.vlm import VLM


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Inside the block ``owner.name`` is ``value``; what the instance itself had comes back, whatever happens."""
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
        if own is not None:
            setattr(owner, name, own)


@contextmanager
def projection_hooks(vlm: VLM, hook_for: Callable, *, after: bool = False) -> Iterator[None]:
    """Inside the block, each output projection calls its hook; hooks come off whatever happens.

    ``hook_for(name, columns)`` gives the hook of a projection, or None for none; ``columns`` is the slice of the
    features (see ``HeadMap``) that the projection's input takes. Hooks are called before the projection with
    (module, args), and may return new args; with ``after``, behind it with (module, args, output).
    """
    handles = []
    try:
        for name, (start, stop) in vlm.heads.projections.items():
            hook = hook_for(name, slice(start, stop))
            if hook is not None:
                module = vlm.model.get_submodule(name)
                register = module.register_forward_hook if after else module.register_forward_pre_hook
                handles.append(register(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def unrounded_logits(vlm: VLM) -> AbstractContextManager:
    """Inside, the model itself gives its logits in float32, see ``VLM.output_logits``; in ``generate`` too."""
    head = vlm.model.get_output_embeddings()
    return nullcontext() if head is None else replaced(head, "forward", vlm.output_logits)
