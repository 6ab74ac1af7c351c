"""The one place where hooks are put on a model's attention output projections.

projection_hooks(vlm, hook_for)    hooks at every projection inside a block
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cogvsr_utils.models.vlm import VLM


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
