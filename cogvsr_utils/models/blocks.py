"""The blocks of a text decoder: what an edit of a late layer leaves as it is need not be computed again.

decoder_blocks(vlm)             the blocks, by their number
recorded(vlm, outputs)          inside, every block's output is kept
resumed(vlm, outputs, first)    inside, the blocks before number ``first`` give what they gave then
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
def recorded(vlm: VLM, outputs: dict) -> Iterator[None]:
    """Inside, the outputs of a pass's blocks are kept in ``outputs`` by their number. A pass may skip blocks, as those
    of cross-attention where there is no picture."""
    hooks = [
        block.register_forward_hook(lambda module, args, output, number=number: outputs.update({number: output}))
        for number, block in enumerate(decoder_blocks(vlm))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def resumed(vlm: VLM, outputs: dict, first: int, copies: int = 1) -> Iterator[None]:
    """Inside, a pass over the same inputs, or over so many ``copies`` of them in one batch, begins at block number
    ``first`` with the ``outputs`` of those before it.

    Right only where nothing that these blocks depend on has changed since they were recorded.
    """
    with ExitStack() as stack:
        if ran := [number for number in sorted(outputs) if number < first]:
            # What the last of them gave is all that the next block gets, so the others may give it too.
            output, blocks = _repeated(outputs[ran[-1]], copies), decoder_blocks(vlm)
            for number in ran:
                stack.enter_context(replaced(blocks[number], "forward", lambda *args, **kwargs: output))
        yield


def _repeated(output: torch.Tensor | tuple, copies: int) -> torch.Tensor | tuple:
    """A block's output for several copies of a batch."""
    if copies == 1:
        return output
    if isinstance(output, torch.Tensor):
        return torch.cat([output] * copies)
    return tuple(_repeated(each, copies) if isinstance(each, torch.Tensor) else each for each in output)
