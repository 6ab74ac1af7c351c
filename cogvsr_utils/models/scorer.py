"""Teacher-forced scoring: all steps of an item in one pass, the right answers in place, under many edits.

TeacherForcedScorer(vlm, items).score(edits)         correct and log-probability of every step
TeacherForcedScorer(vlm, items).score_each(edits)    the same under each of many edits
TeacherForcedScorer(vlm, items).means()              mean of every head, to replace it by
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from cogvsr_utils.dataset.items import Item
from cogvsr_utils.models.batching import batched, in_halves, require_count
from cogvsr_utils.models.blocks import decoder_blocks, recorded, resumed
from cogvsr_utils.models.chat import check_items, check_lengths, right_answers
from cogvsr_utils.models.generation import image_features_once
from cogvsr_utils.models.interventions import AnyEdit, as_list, intervene, needs_picture, require_one_text
from cogvsr_utils.models.positions import encode_chats
from cogvsr_utils.models.recording import read_heads
from cogvsr_utils.models.vlm import VLM

GPU_ROWS = 128  # of a batch of several edits on a GPU
ROOM = 2**32  # bytes of blocks' outputs that may be kept for a batch


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
            rows += [
                {"uid": item.uid, "group_id": item.group_id, "step": number, "function": step.function}
                for item in some
                for number, step in enumerate(item.steps)
            ]
            where = torch.tensor(places[:, :2], device=vlm.device).T
            self.batches.append((inputs, where, first_step[places[:, 0]] + places[:, 2]))
        self.index, self._features = pd.DataFrame(rows), [[] for _ in self.batches]

    def score(self, edits: AnyEdit | Sequence[AnyEdit] | None = None) -> StepScores:
        """Score every row of ``index``, the earlier answers being the right ones.

        Raises ValueError for edits of a scope other than ``all``, ``image`` and ``question``: here prompts and answers
        are one text.
        """
        return self.score_each([edits], progress=False)[0]

    def score_each(
        self, edits: Sequence[AnyEdit | Sequence[AnyEdit] | None], together: int | None = None, progress: bool = True
    ) -> list[StepScores]:
        """What ``score`` gives under each of several edits (None for none), sooner: a batch's image features are
        computed once for each number of copies, and its blocks before the first edited one once. ``together`` edits
        that begin in one layer run as one larger batch: by default one on a CPU, which gains nothing by more, and on a
        GPU as many as make ``GPU_ROWS`` rows, or half of them where its memory does not suffice."""
        given = [as_list(each) for each in edits]
        for each in given:
            require_one_text(each)
        fired = [bool(each) and not any(map(needs_picture, each)) for each in given]

        def edited(numbers, batch, row, place):
            n_rows, seen = self._n_rows(batch), "pixel_values" in self.batches[batch][0]
            rows = []
            for number in numbers:
                fired[number] |= seen
                # A batch without pictures has no tokens for edits of the picture's.
                rows += [[edit for edit in given[number] if seen or not needs_picture(edit)]] * n_rows
            return intervene(self.vlm, rows[0]) if len(numbers) == 1 else intervene(self.vlm, None, rows=rows)

        first = [min((layer for edit in each for layer, _ in edit.heads), default=None) for each in given]
        scores = self.sweep(first, edited, together, progress)
        if silent := [each for each, ran in zip(given, fired, strict=True) if each and not ran]:
            raise RuntimeError(f"edits {silent[0]!s:.200} never fired: no chat has a picture")
        return scores

    @torch.inference_mode()
    def sweep(
        self, first: Sequence[int | None], edited: Callable, together: int | None = None, progress: bool = True
    ) -> list[StepScores]:
        """Scores under each of several changes of the model, of which ``first`` is the first layer that each changes,
        None for none.

        ``edited(numbers, batch, row, place)`` is a context in which the model is changed for some of them: the rows of
        batch number ``batch`` come once for each of ``numbers``, their answers predicted at (row, place).
        """
        vlm, n_blocks = self.vlm, len(decoder_blocks(self.vlm))
        if together is None:
            together = (
                1 if vlm.device.type == "cpu" else max(1, GPU_ROWS // max(map(self._n_rows, range(len(self.batches)))))
            )
        require_count("together", together)
        scores = [StepScores(np.ones(len(self.index), bool), np.zeros(len(self.index))) for _ in first]
        since = [n_blocks if layer is None else layer for layer in first]
        order = sorted(range(len(first)), key=lambda number: since[number])
        groups = list(batched(order, together, kind=lambda number: since[number]))
        with tqdm(total=len(first) * len(self.batches), desc="edits", disable=not progress) as bar:
            for batch, (inputs, (row, token), owner) in enumerate(self.batches):
                features = {1: self._features[batch]}  # of so many copies of the batch
                blocks: list = []
                if len(first) > 1 and self._room(inputs):
                    with image_features_once(vlm, features[1]), recorded(vlm, blocks):
                        vlm.forward(inputs)
                answers = inputs["input_ids"][row, token]

                def run(numbers, inputs=inputs, row=row, token=token, batch=batch, blocks=blocks, features=features):
                    n = len(numbers)
                    copies = {name: torch.cat([value] * n) for name, value in inputs.items()}
                    rows = torch.cat([row + number * self._n_rows(batch) for number in range(n)])
                    places = (token - 1).repeat(n)
                    with (
                        image_features_once(vlm, features.setdefault(n, [])),
                        resumed(vlm, blocks[: since[numbers[0]]], n),
                        edited(numbers, batch, rows, places),
                    ):
                        logits = vlm.next_logits(copies, rows, places)  # (answer tokens of all edits, vocabulary)
                    return list(logits.split(len(row)))

                for numbers in groups:
                    for number, logits in zip(numbers, in_halves(run, numbers), strict=True):
                        scores[number].correct[owner[(logits.argmax(1) != answers).cpu().numpy()]] = False
                        each = logits.log_softmax(1).gather(1, answers[:, None])[:, 0]
                        np.add.at(scores[number].log_prob, owner, each.double().cpu().numpy())
                    bar.update(len(numbers))
        return scores

    def _n_rows(self, batch: int) -> int:
        return len(self.batches[batch][0]["input_ids"])

    def _room(self, inputs: dict) -> bool:
        """Whether what the blocks give for a batch can be kept."""
        config, model = self.vlm.model.config.get_text_config(), self.vlm.model
        size = inputs["input_ids"].numel() * config.hidden_size * model.dtype.itemsize
        return len(decoder_blocks(self.vlm)) * size <= ROOM

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
