"""The blocks of a text decoder: what an edit of a late layer leaves as it is need not be computed again.

decoder_blocks(vlm)             the blocks, by their number
recorded(vlm, outputs)          inside, every block's output is kept
resumed(vlm, outputs, first)    inside, the blocks before ``first`` give what they gave then
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from cogvsr_utils.models.hooks import replaced
from cogvsr_utils.models.vlm import VLM


def decoder_blocks(vlm: VLM) -> list[torch.nn.Module]:
    """The text decoder's blocks in their order, those without attention heads too."""
    path = vlm.heads.table["module"].iloc[0]
    return list(vlm.model.get_submodule(re.match(r"(.+?)\.\d+\.", path).group(1)))


@contextmanager
def recorded(vlm: VLM, outputs: list) -> Iterator[None]:
    """Inside, the outputs of a pass's blocks are appended to ``outputs``."""
    hooks = [
        block.register_forward_hook(lambda module, args, output: outputs.append(output))
        for block in decoder_blocks(vlm)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def resumed(vlm: VLM, outputs: list, first: int) -> Iterator[None]:
    """Inside, a pass over the same inputs computes the blocks from number ``first`` on; those before give ``outputs``.

    Right only where nothing that the earlier blocks depend on has changed since these were recorded.
    """
    with ExitStack() as stack:
        for block, output in zip(decoder_blocks(vlm)[:first], outputs, strict=False):
            stack.enter_context(replaced(block, "forward", lambda *args, output=output, **kwargs: output))
        yield
