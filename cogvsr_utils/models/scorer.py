"""Teacher-forced scoring: all steps of an item in one pass, the right answers in place, under many edits.

TeacherForcedScorer(vlm, items).score(edits)    correct and log-probability of every step
TeacherForcedScorer(vlm, items).means()         mean of every head, to replace it by
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from cogvsr_utils.dataset.items import Item
from cogvsr_utils.models.batching import batched, require_count
from cogvsr_utils.models.blocks import decoder_blocks, recorded, resumed
from cogvsr_utils.models.chat import check_items, check_lengths, right_answers
from cogvsr_utils.models.generation import image_features_once
from cogvsr_utils.models.interventions import AnyEdit, as_list, intervene, require_one_text
from cogvsr_utils.models.positions import encode_chats
from cogvsr_utils.models.recording import read_heads
from cogvsr_utils.models.vlm import VLM

ROOM = 2**31  # bytes of blocks' outputs that may be kept


@dataclass(frozen=True)
class StepScores:
    """``correct`` (steps,) whether each token of the right answer is the likeliest; ``log_prob`` (steps,) the natural
    logarithm of the right answer's probability."""

    correct: np.ndarray
    log_prob: np.ndarray


class TeacherForcedScorer:
    """Items with all their right answers in one chat each, tokenised once, to be scored under many edits.

    One pass scores all steps of an item, so hundreds of edits are affordable; headline rows are generated instead.
    Raises BadChat where ``answering.answer`` does, ValueError where no item has steps.
    ``index`` has a row a step (uid, group_id, step, function); ``batches`` have the inputs, the places (row, token) of
    the answers' tokens and the number of the step that each token belongs to.

    >>> from cogvsr_utils import Item, Step, load_vlm, mask
    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [step])
    >>> scorer = TeacherForcedScorer(load_vlm("nano-internvl"), [item])
    >>> bool(scorer.score(mask([(0, 0)])).log_prob[0] < 0)
    True
    """

    def __init__(self, vlm: VLM, items: list[Item], batch_size: int = 16):
        require_count("batch_size", batch_size)
        self.vlm, self.batches, rows = vlm, [], []
        answers = right_answers(items)
        check_items(vlm, items)
        check_lengths(vlm, items, answers)
        items = sorted(
            (x for x in items if x.steps), key=lambda item: (item.image is None, len(item.steps), len(item.question))
        )
        if not items:
            raise ValueError("no item has steps; expected some to score")
        for some in batched(items, batch_size, lambda item: item.image is None):
            inputs, places = encode_chats(vlm, some, answers)
            first_step = len(rows) + np.cumsum([0, *(len(item.steps) for item in some)])
            rows += [{"uid": item.uid, "group_id": item.group_id, "step": number, "function": step.function}
                     for item in some for number, step in enumerate(item.steps)]  # fmt: skip
            where = torch.tensor(places[:, :2], device=vlm.device).T
            self.batches.append((inputs, where, first_step[places[:, 0]] + places[:, 2]))
        self.index, self._features = pd.DataFrame(rows), [[] for _ in self.batches]
        self._blocks: list[list] = [[] for _ in self.batches]  # what each decoder block gave without edits

    @torch.inference_mode()
    def score(self, edits: AnyEdit | Sequence[AnyEdit] | None = None) -> StepScores:
        """Score every row of ``index``, the earlier answers being the right ones.

        Raises ValueError for edits of a scope other than ``all``, ``image`` and ``question``: here prompts and answers
        are one text.
        """
        require_one_text(edits)
        correct, log_prob = np.ones(len(self.index), dtype=bool), np.zeros(len(self.index))
        again = self._unchanged_blocks(as_list(edits))
        with intervene(self.vlm, edits):
            for (inputs, (row, token), owner), features, blocks in zip(
                self.batches, self._features, self._blocks, strict=True
            ):
                with image_features_once(self.vlm, features), again(blocks):
                    logits = self.vlm.next_logits(inputs, row, token - 1)  # (answer tokens, vocabulary)
                targets = inputs["input_ids"][row, token]
                correct[owner[(logits.argmax(1) != targets).cpu().numpy()]] = False
                each = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
                np.add.at(log_prob, owner, each.double().cpu().numpy())
        return StepScores(correct, log_prob)

    def _unchanged_blocks(self, given: list[AnyEdit]) -> Callable[[list], AbstractContextManager]:
        """What a batch runs in: without edits its blocks' outputs are kept, where there is room for them; with edits
        those before the first edited layer are not computed again."""
        if self.vlm.active_edits:  # of somebody else
            return lambda blocks: nullcontext()
        if given and all(self._blocks):
            first = min(layer for edit in given for layer, _ in edit.heads)
            return lambda blocks: resumed(self.vlm, blocks, first)
        tokens = sum(inputs["input_ids"].numel() for inputs, *_ in self.batches)
        hidden = self.vlm.model.config.get_text_config().hidden_size
        size = len(decoder_blocks(self.vlm)) * tokens * hidden * self.vlm.model.dtype.itemsize
        if given or all(self._blocks) or size > ROOM:
            return lambda blocks: nullcontext()
        return lambda blocks: recorded(self.vlm, blocks)

    @torch.inference_mode()
    def means(self) -> dict[str, np.ndarray]:
        """Mean of every head over the tokens of all items, by scope of an edit: ``all`` (width,), that of the text, and
        ``image`` (width,), that of the picture, where the model has tokens for it."""
        total, count = 0, 0  # (kinds, width), (kinds, 1)
        for inputs, *_ in self.batches:
            real = inputs["attention_mask"].flatten().nonzero().flatten()  # (tokens,)
            kind = (inputs["input_ids"].flatten()[real] == (self.vlm.image_token_id or -1)).long()
            n = torch.bincount(kind, minlength=2)[:, None]
            total, count = total + n * read_heads(self.vlm, inputs, real, kind, 2), count + n
        text, image = (total / count.clamp(min=1)).cpu().numpy()
        return {"all": text, "image": image} if count[1] else {"all": text}
