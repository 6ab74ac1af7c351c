"""Generation with a kept cache: the keys and values of earlier turns, and image features computed once.

CachedGeneration(vlm, items).reply(chats)     greedy replies; the next call takes the same chats continued
image_features_once(vlm, last)                inside, the image features of one batch are computed once

Where every layer of the model has a key and a value for each token, those of the last prompt are kept, and only new
tokens are computed. Other models (chats beyond a sliding window, recurrent layers, cross-attention, prompts read in
both directions), and all models while attention to sinks is edited, compute the whole chat anew, with the image
features kept. Either way every token has the position that it has in a chat given at once.
"""

import copy
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.models.hooks import replaced, unrounded_logits
from cogvsr_utils.models.vlm import VLM


class CachedGeneration:
    """Greedy replies to a batch of growing chats about the pictures of ``items``, all of which have one, or none.

    >>> from cogvsr_utils import Item, Step, load_vlm
    >>> from cogvsr_utils.models.chat import conversation
    >>> steps = [Step("name an object.", "cube", "text", None, "Information Extraction & Understanding")] * 2
    >>> item = Item("1", "synth", "g", "is a cube red?", "yes", "yesno", steps)
    >>> generation = CachedGeneration(load_vlm("nano-internvl"), [item])
    >>> first = generation.reply([conversation(item, [], 0)])
    >>> second = generation.reply([conversation(item, first, 1)])
    """

    def __init__(self, vlm: VLM, items: list[Item], max_new_tokens: int = 12):
        self.vlm, self.max_new_tokens = vlm, max_new_tokens
        self.images = [open_image(item) for item in items]
        self.features, self.prepared = [], []
        self.ids = self.mask = self.cache = None

    @torch.inference_mode()
    def reply(self, chats: list[list[dict]]) -> list[str]:
        """Greedy replies to the chats, one each, at most ``max_new_tokens`` long."""
        vlm, model = self.vlm, self.vlm.model
        texts = [vlm.render(chat, prompt=True) for chat in chats]
        with _memoised(vlm.processor.image_processor, "preprocess", self.prepared):
            inputs = vlm.encode(texts, self.images)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        cache = self._kept(ids, mask)
        if cache is not None:  # the picture is in the cache: only inputs with one entry a token are needed
            inputs = {name: value for name, value in inputs.items() if value.shape == ids.shape}
        with image_features_once(vlm, self.features), unrounded_logits(vlm):
            out = model.generate(
                **inputs, past_key_values=cache, do_sample=False, max_new_tokens=self.max_new_tokens,
                return_dict_in_generate=True,
            )  # fmt: skip
        self.ids, self.mask, self.cache = ids, mask, out.past_key_values
        replies = vlm.tokenizer.batch_decode(out.sequences[:, ids.shape[1] :], skip_special_tokens=True)
        return [reply.strip() for reply in replies]

    def _kept(self, ids, mask):
        """The last prompts' keys and values, moved to where the new prompts begin; None where all is to be computed.

        Of each row the tokens are kept that it shares with its last prompt, without that prompt's last token, at which
        an edit of scope ``answer`` may have been; and so few that all rows have equally many new ones.
        """
        if self.cache is None or not _plain(self.vlm, self.cache, ids.shape[1] + self.max_new_tokens):
            return None
        if _seeks_sinks(self.vlm):
            return None
        before, after = (m.argmax(1) for m in (self.mask, mask))  # left padding of each row, (rows,)
        length = mask.shape[1] - after
        width = min(mask.shape[1], self.mask.shape[1]) - 1
        at = torch.arange(width, device=ids.device)
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        old = (before[:, None] + at).clamp(max=self.mask.shape[1] - 1)
        new = (after[:, None] + at).clamp(max=mask.shape[1] - 1)
        alike = self.ids[rows, old] == ids[rows, new]  # (rows, width)
        alike &= at < torch.minimum(length, self.mask.shape[1] - before)[:, None] - 1
        fresh = int((length - alike.long().cumprod(1).sum(1)).max())
        n_kept = ids.shape[1] - fresh
        if (ids[:, n_kept:] == self.vlm.image_token_id).any() or int((length - fresh).min()) < 1:
            return None
        source = torch.arange(n_kept, device=ids.device) + (before - after)[:, None]
        source = source.clamp(0, self.mask.shape[1] - 1)[:, None, :, None]
        moved = DynamicCache(config=self.vlm.model.config.get_text_config())
        for number, layer in enumerate(self.cache.layers):
            kept = (
                torch.take_along_dim(x, source, dim=2) for x in (layer.keys, layer.values)
            )  # (rows, heads, n_kept, dim)
            moved.update(*kept, number)
        return moved


def _plain(vlm, cache, n_tokens: int) -> bool:
    """Whether each layer keeps one key and value a token, which later tokens, up to ``n_tokens``, do not change."""
    plain = all(
        type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and n_tokens < layer.sliding_window)
        for layer in cache.layers
    )
    return plain and vlm.causal and vlm.image_token_id is not None and set(vlm.heads.table["kind"]) == {"self"}


def _seeks_sinks(vlm: VLM) -> bool:
    """Whether an edit is running that looks for sinks, among all tokens of a prompt."""
    edits = (json.loads(edit) for rows in vlm.active_edits for row in rows for edit in row)
    return any(edit.get("operation") == "redistribute" for edit in edits)


def image_features_once(vlm: VLM, last: list) -> AbstractContextManager:
    """Context in which the features of the last pictures are not computed again; ``last`` keeps them."""
    tower = vlm.model.get_encoder(modality="image")
    known = tower not in (vlm.model, vlm.model.base_model)  # which are given where no tower is found
    return _memoised(tower, "forward", last) if known else nullcontext()


def _memoised(owner, name: str, last: list) -> AbstractContextManager:
    """Inside, ``owner.name`` called again with what it was last given returns what it then gave; ``last`` keeps
    both."""
    compute = getattr(owner, name)

    def call(*args, **kwargs):
        if not (last and _alike(last[0], (args, kwargs))):
            last[:] = (args, kwargs), compute(*args, **kwargs)
        return copy.copy(last[1])  # callers take entries out of it

    return replaced(owner, name, call)


def _alike(one, other) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    return one is other or one == other
