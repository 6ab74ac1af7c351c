"""What early blocks of a decoder are taught to know beside the answers, which teach it very slowly.

EarlyBlocks(decoder, ...)       reads it from the blocks while the decoder trains
cone_headings, early_truth      what there is to know
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from cogvsr_utils.dataset.synth.substeps import POINTS
from cogvsr_utils.dataset.synth.tasks import TASKS
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.nano.chats import EncodedChat

DENSE_WEIGHT = 0.5  # of what early blocks are to know beside the answers


class EarlyBlocks(torch.nn.Module):
    """Reads from early blocks of a decoder, while it trains, what they are to know: at a colour the heading of its
    cone, at a plan's words the numbers of their tasks, and in questions the number asked for and the task."""

    def __init__(self, decoder: torch.nn.Module, width: int, known_after: Mapping[str, int]):
        super().__init__()
        n_classes = max(len(TASKS), len(POINTS)) + 1
        self.heads = torch.nn.ModuleDict({name: torch.nn.Linear(width, n_classes) for name in known_after})
        self._hidden: dict[str, torch.Tensor] = {}
        for name, number in known_after.items():
            decoder.layers[number].register_forward_hook(partial(self._keep, name))

    def _keep(self, name, module, args, out):
        self._hidden[name] = out[0] if isinstance(out, tuple) else out

    def loss(self, truth: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Cross-entropy of each, summed, for the chats that went through the decoder last.

        ``truth`` is (chats, tokens) by name, 0 where there is nothing to know; the loss is 0 where there is nothing.
        """
        total = torch.zeros((), device=next(iter(truth.values())).device)
        for name, numbers in truth.items():
            if (numbers > 0).any():
                scores = self.heads[name](self._hidden[name][numbers > 0].float())
                total = total + F.cross_entropy(scores, numbers[numbers > 0])
        return total


def cone_headings(scene_views: Sequence[SceneView], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """The heading (from 1) of the cone that each word names by its colour, 0 for all other words: (scenes, words)."""
    headings = torch.zeros(len(scene_views), len(tokenizer), dtype=torch.int8)
    for row, scene_view in zip(headings, scene_views, strict=True):
        for thing in scene_view.things:
            if thing.shape == "cone":
                row[tokenizer.convert_tokens_to_ids(thing.color)] = list(POINTS).index(thing.heading) + 1
    return headings


def early_truth(chats: Sequence[EncodedChat], ids: torch.Tensor, headings: torch.Tensor) -> dict[str, torch.Tensor]:
    """What early blocks are to know of chats whose padded tokens are ``ids``: (chats, tokens) by name."""
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    truth = {
        name: pad([torch.tensor(getattr(chat, name)) for chat in chats]).to(ids.device)
        for name in ("plan", "number", "task")
    }
    scenes = torch.tensor([chat.scene for chat in chats])
    return truth | {"heading": headings[scenes].to(ids.device).long().gather(1, ids)}
