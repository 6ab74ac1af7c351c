"""What the running forward pass is, for edits that depend on it.

followed(vlm, prompt)      inside, a ``Pass`` follows every pass of the model
question_tokens(vlm, ids)  which tokens of a chat the user's turns consist of
word_tokens(vlm, ids, words)   which are some words
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from cogvsr_utils.models.hooks import replaced
from cogvsr_utils.models.vlm import VLM


@dataclass
class Pass:
    """The running pass: ``ids`` (rows, tokens) of the whole prompt, even where a part of it is in a kept cache;
    ``n_tokens`` of the prompt and what was generated so far; ``prefill`` where it reads a prompt and not a generated
    token; ``begun`` where no cache was kept before it; ``generating`` inside ``generate``, which knows where a prompt
    ends; ``copies`` of each chat, beams or samples, which stand side by side."""

    ids: torch.Tensor | None = None
    n_tokens: int = 0
    prefill: bool = True
    begun: bool = True
    generating: bool = False
    copies: int = 1


@contextmanager
def followed(vlm: VLM, prompt: Callable[[], None] = lambda: None) -> Iterator[Pass]:
    """Inside, what is yielded follows every pass of the model or of its trunk; ``prompt()`` is called for each prompt,
    before it is read."""
    state, whole, last = Pass(), None, None
    generate = vlm.model.generate

    def run(*args, **kwargs):
        nonlocal whole
        whole, state.generating = kwargs.get("input_ids", args[0] if args else None), True
        try:
            return generate(*args, **kwargs)
        finally:
            whole, state.generating = None, False

    def before(module, args, kwargs):
        nonlocal last
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:  # a trunk that is given embeddings
            return
        cache = kwargs.get("past_key_values")
        state.begun = cache is None or cache.get_seq_length() == 0
        # A prompt may continue a kept cache, but is never one token.
        state.prefill = state.begun or ids.shape[1] > 1
        within, last = ids is last, ids  # the trunk gets the ids of the whole model once more
        if state.prefill:
            given = ids if whole is None else whole
            state.copies = len(ids) // len(given)
            state.ids = given.repeat_interleave(state.copies, 0)
            state.n_tokens = state.ids.shape[1]
            if not within:
                prompt()
        elif not within:
            state.n_tokens += ids.shape[1]

    with ExitStack() as stack:
        stack.enter_context(replaced(vlm.model, "generate", run))
        # The model may be asked for logits, or its trunk alone for what comes before them.
        for trunk in dict.fromkeys((vlm.model, vlm.model.base_model)):
            stack.callback(trunk.register_forward_pre_hook(before, with_kwargs=True).remove)
        yield state


def question_tokens(vlm: VLM, ids: torch.Tensor) -> torch.Tensor:
    """Tokens of what the user's turns of chats say, without pictures and marks: (rows, tokens), boolean.

    Turns are found between the marks that the model's chat template writes around them. Raises ValueError where it
    writes none that the tokenizer keeps apart from the user's text.

    >>> from cogvsr_utils import load_vlm
    >>> vlm = load_vlm("nano-internvl")
    >>> chat = vlm.render([{"role": "user", "content": [{"type": "text", "text": "What shape is it?"}]}], prompt=True)
    >>> ids = vlm.encode([chat], [None])["input_ids"]
    >>> vlm.tokenizer.decode(ids[question_tokens(vlm, ids)])
    'what shape is it ?'
    """
    opening, closing = turn_marks(vlm)
    at = torch.arange(ids.shape[1], device=ids.device)
    begins = torch.zeros_like(ids, dtype=torch.bool)
    begins[:, len(opening) :] = _places(ids, opening)[:, : ids.shape[1] - len(opening)]
    # The last mark that came before a token says whose turn it is.
    begun, ended = (torch.where(each, at, -1).cummax(1).values for each in (begins, _places(ids, closing)))
    added = vlm.tokenizer.added_tokens_decoder.items()
    marks = {number for number, token in added if token.special} - {vlm.tokenizer.unk_token_id}
    marks.add(-1 if vlm.image_token_id is None else vlm.image_token_id)
    return (begun > ended) & ~torch.isin(ids, torch.tensor(sorted(marks)).to(ids))


def word_tokens(vlm: VLM, ids: torch.Tensor, words: str) -> torch.Tensor:
    """Tokens of some words wherever they stand in chats, as the tokenizer writes them at the beginning of a line and
    after a blank: (rows, tokens), boolean.

    >>> from cogvsr_utils import load_vlm
    >>> vlm = load_vlm("nano-internvl")
    >>> ids = vlm.encode(["is the red cube left of the blue cube ?"], [None])["input_ids"]
    >>> word_tokens(vlm, ids, "left of").nonzero()[:, 1].tolist()
    [4, 5]
    """
    found = torch.zeros_like(ids, dtype=torch.bool)
    for text in (words, f" {words}"):
        own = vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
        begins = _places(ids, own)
        for n in range(len(own)):
            found[:, n:] |= begins[:, : ids.shape[1] - n]
    return found


def turn_marks(vlm: VLM) -> tuple[list[int], list[int]]:
    """The tokens that open what the user says in a turn, and those that close it; raises ValueError without them."""
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "Where"), ("assistant", "There"), ("user", "Which"))
    ]
    text = vlm.render(turns, prompt=True)
    encoded = vlm.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    places = [text.rindex("Which")]  # from the end: a system's turn may have the same words
    for word in ("There", "Where"):
        places.insert(0, text.rindex(word, 0, places[0]))
    spans = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    before, reply, again, after = (
        [number for number, (a, b) in spans if first <= a and b <= stop]
        for first, stop in zip([0, *(place + len("Where") for place in places)], [*places, len(text)], strict=True)
    )
    opening = before[len(before) - _alike(before[::-1], again[::-1]) :]
    closing = after[: _alike(after, reply)]
    if not opening or not closing:
        raise ValueError(f"the chat template of {vlm.name} sets no marks around turns; expected another scope")
    return opening, closing


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _places(ids: torch.Tensor, mark: list[int]) -> torch.Tensor:
    """Where a mark begins: (rows, tokens)."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    if ids.shape[1] >= len(mark):
        windows = ids.unfold(1, len(mark), 1)  # (rows, places, tokens of the mark)
        found[:, : windows.shape[1]] = (windows == torch.tensor(mark, device=ids.device)).all(-1)
    return found
