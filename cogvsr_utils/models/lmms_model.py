"""An edited model in lmms-eval: ``lmms-eval --model cogvsr --model_args pretrained=NAME,edits=edits.jsonl --tasks …``.

EditedModel        the model, by the interface of lmms-eval's simple models
manifest()         what lmms-eval looks for under the entry point ``lmms_eval.models``

lmms-eval's prompts are given as they are. https://github.com/EvolvingLMMs-Lab/lmms-eval
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from cogvsr_utils.dataset.images import open_image, png
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.models.batching import batched, in_halves
from cogvsr_utils.models.generation import CachedGeneration
from cogvsr_utils.models.interventions import edit_from_json, intervene
from cogvsr_utils.models.loading import load_vlm

try:
    from lmms_eval.api.model import lmms
except ImportError:  # the extra is not installed
    lmms = None

MAX_NEW_TOKENS = 256  # where a task names none
log = logging.getLogger(__name__)


def manifest():
    """How lmms-eval finds the model under the name ``cogvsr``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("cogvsr", simple_class_path=f"{__name__}.EditedModel")


class EditedModel(lmms or object):
    """A model with heads edited, greedy, for tasks with one picture a question or none.

    ``pretrained`` and ``quantize`` are those of ``load_vlm``; ``edits`` is a file with what an edit's ``to_json`` gives
    on each line. Raises ImportError without lmms-eval, ValueError for a file that has no edits.
    """

    def __init__(
        self,
        pretrained: str,
        edits: str = "",
        quantize: str = "",
        batch_size: int = 1,
        device: str | None = None,
        max_batch_size: int | None = None,  # which lmms-eval gives to every model
    ):
        if lmms is None:
            raise ImportError('lmms-eval is not installed; expected it beside this package: pip install "lmms-eval"')
        super().__init__()
        self.vlm = load_vlm(pretrained, quantize=quantize or None, device=device)
        lines = Path(edits).read_text().splitlines() if edits else []
        self.edits = [edit_from_json(line) for line in lines if line.strip()]
        if edits and not self.edits:
            raise ValueError(f"{edits} has no edits; expected what to_json gives, one a line")
        self.batch_size = int(batch_size)

    def generate_until(self, requests: Sequence) -> list[str]:
        """Replies to requests of (context, settings, pictures of a document, its number, task, split), cut at the
        first of the task's stop strings; a blank line, which lmms-eval names where a task names none, is not one, since
        it ends replies that reason first. Raises ValueError for more than one picture a question."""
        replies: dict[int, str] = {}
        settings = [request.args[1] for request in requests]
        if any(each.get("do_sample") or (each.get("temperature") or 0) > 0 for each in settings):
            log.warning("a task asks for sampling; replies are greedy")
        kinds = [
            (int(each.get("max_new_tokens") or MAX_NEW_TOKENS), len(self._pictures(request.args)))
            for each, request in zip(settings, requests, strict=True)
        ]

        def answer(batch):
            items, chats = zip(*(self._asked(requests[n].args) for n in batch), strict=True)
            generation = CachedGeneration(self.vlm, list(items), kinds[batch[0]][0])
            found = generation.reply(list(chats))
            replies.update({n: _cut(reply, settings[n].get("until")) for n, reply in zip(batch, found, strict=True)})
            return found

        order = sorted(range(len(requests)), key=kinds.__getitem__)
        with intervene(self.vlm, self.edits), tqdm(total=len(order), desc="answering") as bar:
            for batch in batched(order, self.batch_size, kinds.__getitem__):
                in_halves(answer, batch)
                bar.update(len(batch))
        return [replies[number] for number in range(len(requests))]

    def loglikelihood(self, requests: Sequence) -> list[tuple[float, bool]]:
        """The loss of each continuation, and whether it is what the model would say, for requests of (context,
        continuation or a function of the document, pictures, number, task, split).

        The loss is the mean over tokens of the negative log-probability: lmms-eval takes the option with the least,
        unlike the harness that it comes from.
        """
        return [self._loss(request.args) for request in tqdm(requests, desc="reading")]

    @torch.inference_mode()
    def _loss(self, args: tuple) -> tuple[float, bool]:
        context, target, pictures, doc_id, task, split = args
        item, chat = self._asked((context, {}, pictures, doc_id, task, split))
        continuation = target(self.task_dict[task][split][doc_id]) if callable(target) else target
        prompt = self.vlm.render(chat, prompt=True)
        with intervene(self.vlm, self.edits):
            before = self.vlm.encode([prompt], [open_image(item)])["input_ids"].shape[1]
            inputs = self.vlm.encode([prompt + continuation], [open_image(item)])
            tokens = inputs["input_ids"][0, before:]
            places = torch.arange(before - 1, inputs["input_ids"].shape[1] - 1, device=self.vlm.device)
            log_probs = self.vlm.next_logits(inputs, torch.zeros_like(places), places).log_softmax(1)
        greedy = bool((log_probs.argmax(1) == tokens).all())
        return -float(log_probs.gather(1, tokens[:, None]).mean()), greedy

    def generate_until_multi_round(self, requests: Sequence) -> list[str]:
        """Not supported: raises NotImplementedError."""
        raise NotImplementedError("tasks of several rounds are not supported; expected single questions")

    def _asked(self, args: tuple) -> tuple[Item, list[dict]]:
        """A request as an item with its picture, and the chat that asks its context as it is."""
        context, _, _, doc_id, task, _ = args
        shown = self._pictures(args)
        image = _png(shown[0]) if shown else None
        item = Item(f"{task} {doc_id}", "lmms-eval", str(doc_id), context, "", "text", [], image=image)
        text = {"type": "text", "text": context.replace("<image>", "")}
        return item, [{"role": "user", "content": [{"type": "image"}, text] if shown else [text]}]

    def _pictures(self, args: tuple) -> list:
        """The pictures of a request's document, one at most."""
        _, _, pictures, doc_id, task, split = args
        shown = (pictures(self.task_dict[task][split][doc_id]) if pictures else None) or []
        if len(shown) > 1:
            raise ValueError(f"document {doc_id} of {task} has {len(shown)} pictures; expected one or none")
        return shown


def _png(picture) -> str | bytes:
    """A picture's path, or the content of a PIL image as a file."""
    if isinstance(picture, str):
        return picture
    return png(picture.convert("RGB"))


def _cut(reply: str, until: str | Sequence[str] | None) -> str:
    """The reply up to the first stop string, a blank line aside.

    >>> _cut("left. And", ["\\n\\n", "."])
    'left'
    """
    marks = [until] if isinstance(until, str) else until or []
    ends = [place for mark in marks if mark and mark != "\n\n" and (place := reply.find(mark)) >= 0]
    return reply[: min(ends)] if ends else reply
