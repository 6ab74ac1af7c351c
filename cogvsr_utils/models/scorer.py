"""Teacher-forced scoring: all steps of an item in one pass, the right answers in place, under many edits.

TeacherForcedScorer(vlm, items).score(edits)         correct and log-probability of every step
TeacherForcedScorer(vlm, items).score_each(edits)    the same under each of many edits
TeacherForcedScorer(vlm, items).means()              mean of every head, to replace it by
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
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
GPU_GRADIENTS = 2  # chats whose gradients are kept at once on a GPU: some 4 GB each in a model of 7B
ROOM = 2**32  # bytes of blocks' outputs that may be kept for a batch, and of image features for all

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepScores:
    """``correct`` (steps,) whether each token of the right answer is the likeliest; ``log_prob`` (steps,) the natural
    logarithm of the right answer's probability."""

    correct: np.ndarray
    log_prob: np.ndarray


class TeacherForcedScorer:
    """Items with all their right answers in one chat each, to be scored under many edits.

    One pass scores all steps of an item, so hundreds of edits are affordable; headline rows are generated instead.
    Raises BadChat where ``answering.answer`` does, ValueError where no item has steps, or no step tokens to score.
    ``index`` has a row a step (uid, group_id, step, function), without those whose answer has no tokens of its own;
    ``batches`` have the inputs, on the CPU, the places (row, token) of the answers' tokens, and of each the row of
    ``index`` that it belongs to.

    >>> from cogvsr_utils import Item, Step, load_vlm, mask
    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [step])
    >>> scorer = TeacherForcedScorer(load_vlm("nano-internvl"), [item])
    >>> bool(scorer.score(mask([(0, 0)])).log_prob[0] < 0)
    True
    """

    def __init__(self, vlm: VLM, items: list[Item], batch_size: int = 16):
        require_count("batch_size", batch_size)
        self.vlm, self._answers = vlm, right_answers(items)
        check_items(vlm, items)
        check_lengths(vlm, items, self._answers)
        items = sorted(
            (x for x in items if x.steps), key=lambda item: (item.image is None, len(item.steps), len(item.question))
        )
        if not items:
            raise ValueError("no item has steps; expected some to score")
        rows = pd.DataFrame(
            {"uid": item.uid, "group_id": item.group_id, "step": number, "function": step.function}
            for item in items
            for number, step in enumerate(item.steps)
        )
        self._set_index(rows)
        items = [list(batch) for batch in batched(items, batch_size, lambda item: item.image is None)]
        encoded = [(some, *self._encoded(some)) for some in items]
        encoded = [each for each in encoded if len(each[-1])]
        if not encoded:
            raise ValueError("no step has an answer with tokens of its own; expected some to score")
        located = np.unique(np.concatenate([owner for *_, owner in encoded]))
        if len(located) < len(rows):  # what has no tokens would count as right
            log.warning("%d of %d steps have no answer tokens and are left out", len(rows) - len(located), len(rows))
            self._set_index(rows.iloc[located].reset_index(drop=True))
        self._items = [some for some, *_ in encoded]
        self.batches = [(inputs, where, np.searchsorted(located, owner)) for _, inputs, where, owner in encoded]
        self._features: list[list] = [[] for _ in self.batches]

    def batches_for_gradients(self) -> Iterator[tuple[dict, torch.Tensor, np.ndarray]]:
        """``batches``; on a GPU in parts of few chats, whose gradients are to fit into its memory."""
        return iter(self.batches) if self.vlm.device.type == "cpu" else self.smaller_batches(GPU_GRADIENTS)

    def smaller_batches(self, size: int) -> Iterator[tuple[dict, torch.Tensor, np.ndarray]]:
        """``batches`` in parts of at most ``size`` chats, encoded anew, in the same order."""
        for items in self._items:
            parts = (self._encoded(some) for some in batched(items, size, lambda item: None))
            yield from (part for part in parts if len(part[-1]))

    def _encoded(self, items: list[Item]) -> tuple[dict, torch.Tensor, np.ndarray]:
        """A batch; its inputs wait on the CPU, since the device keeps only what runs."""
        inputs, places = encode_chats(self.vlm, items, self._answers)
        owner = [self._number[items[row].uid, step] for row, _, step, _ in places.tolist()]
        inputs = {name: value.cpu() for name, value in inputs.items()}
        return inputs, torch.tensor(places[:, :2]).T, np.array(owner, dtype=int)

    def _set_index(self, rows: pd.DataFrame):
        self.index = rows
        self._number = {pair: number for number, pair in enumerate(zip(rows["uid"], rows["step"], strict=True))}

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
        bound = [[needs_picture(self.vlm, edit) for edit in each] for each in given]  # to pictures
        fired = [bool(each) and not any(each) for each in bound]

        def edited(numbers, batch, row, place):
            n_rows, seen = self._n_rows(batch), "pixel_values" in self.batches[batch][0]
            rows = []
            for number in numbers:
                fired[number] |= seen
                # A batch without pictures has no tokens for edits of the picture's.
                running = [e for e, own in zip(given[number], bound[number], strict=True) if seen or not own]
                rows += [running] * n_rows
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
                inputs = vlm.on_device(inputs)
                features = {1: self._features[batch]}  # of so many copies of the batch
                blocks: dict = {}
                if len(first) > 1 and self._room(inputs):
                    with image_features_once(vlm, features[1]), recorded(vlm, blocks):
                        vlm.forward(inputs)
                answers = inputs["input_ids"][row, token].to(vlm.device)

                def run(numbers, inputs=inputs, row=row, token=token, batch=batch, blocks=blocks, features=features):
                    n = len(numbers)
                    copies = {name: torch.cat([value] * n) for name, value in inputs.items()}
                    rows = torch.cat([row + number * self._n_rows(batch) for number in range(n)])
                    places = (token - 1).repeat(n)
                    with (
                        image_features_once(vlm, features.setdefault(n, [])),
                        resumed(vlm, blocks, since[numbers[0]], n),
                        edited(numbers, batch, rows, places),
                    ):
                        logits = vlm.next_logits(copies, rows, places)  # (answer tokens of all edits, vocabulary)
                    return list(logits.to(vlm.device).split(len(row)))

                for numbers in groups:
                    for number, logits in zip(numbers, in_halves(run, numbers), strict=True):
                        scores[number].correct[owner[(logits.argmax(1) != answers).cpu().numpy()]] = False
                        each = logits.log_softmax(1).gather(1, answers[:, None])[:, 0]
                        np.add.at(scores[number].log_prob, owner, each.double().cpu().numpy())
                    bar.update(len(numbers))
                blocks.clear()  # ``run`` still has them while the next batch is recorded
                if self._kept_features() > ROOM:
                    self._features[batch].clear()
        return scores

    def _kept_features(self) -> int:
        """Bytes of the image features that are kept for the next time."""
        return sum(_bytes(each) for each in self._features)

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
        total, count = 0, 0  # (kinds, width) each
        heads = self.vlm.heads
        crossed = np.array([pair in heads.cross for pair in heads.pairs])[heads.of_column]  # (width,)
        crossed = torch.as_tensor(crossed, device=self.vlm.device)
        for inputs, *_ in self.batches:
            real = inputs["attention_mask"].flatten().nonzero().flatten()  # (tokens,)
            kind = (inputs["input_ids"].flatten()[real] == (self.vlm.image_token_id or -1)).long()
            n = torch.bincount(kind, minlength=2)[:, None].to(self.vlm.device)
            total = total + n * read_heads(self.vlm, inputs, real, kind, 2)
            # Where there is no picture, heads of cross-attention do not run.
            count = count + n * (~crossed | ("pixel_values" in inputs))
        text, image = (total / count.clamp(min=1)).cpu().numpy()
        return {"all": text, "image": image} if count[1].any() else {"all": text}


def _bytes(value) -> int:
    """Bytes of all tensors in nested lists, tuples and mappings."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(_bytes, inner))
