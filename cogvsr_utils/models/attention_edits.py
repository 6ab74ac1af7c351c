"""Edits of what heads attend to; ``edited_attention.attending`` runs a model with them.

attend(heads, operation, amount, ...)     one edit of the scores, or of the weights, of some heads
pasta, pai, adaptvis, visual_sinks        published methods as edits, with their own strengths
patches_of(vlm, item, box)                a region of a picture as a weight for each of its tokens
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models.attention import picture_grid, picture_tokens
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.head_edits import pairs_of
from cogvsr_utils.models.vlm import VLM

OPERATIONS = ("add", "boost", "multiply", "redistribute")
TARGETS = ("image", "question", "words", "elsewhere")
SCOPES = ("all", "question", "prompt_last", "answer")
NEUTRAL = {"add": 0.0, "boost": 0.0, "multiply": 1.0, "redistribute": 1.0}
Head = tuple[int, int]


@dataclass(frozen=True)
class Attend:
    """One edit of what ``heads`` attend to from the tokens of ``scope``, on the keys ``to``.

    ``operation`` changes a score s before the softmax: ``add`` to s + amount; ``boost`` to s + amount · abs(s);
    ``multiply`` to amount · s; or, after it, ``redistribute``: sinks keep the share ``amount`` of their weight, and
    what they lose goes to the picture's other tokens as these have. Keys are those of the picture (``image``), of what
    the user's turns say (``question``), of some ``words`` wherever the prompt has them, or all but these words, without
    words all but the picture's (``elsewhere``); ``tokens``, where given, weighs the amount for each of the picture's
    tokens. ``reading``, where given, redistributes only from tokens from which a head gives at least the first share of
    its attention to the picture, and at most the second share of that to the picture's sinks. Scopes are those of
    ``head_edits.Edit``: ``all``, ``question``, ``prompt_last``, ``answer``.

    Scopes other than ``all`` and ``question`` need ``generate``, which knows where a prompt ends. Raises ValueError for
    another operation, target or scope, for heads that are none or twice, for numbers that are not finite, and for words
    that go with another target, or are missing.
    """

    heads: tuple[Head, ...]
    operation: str
    amount: float
    to: str = "image"
    scope: str = "all"
    tokens: tuple[float, ...] = ()
    reading: tuple[float, ...] = ()
    words: str = ""

    def __post_init__(self):
        for name, known in (("operation", OPERATIONS), ("to", TARGETS), ("scope", SCOPES)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {known}")
        pairs_of(self.heads)
        if not self.heads:
            raise ValueError("an attention edit of no heads; expected at least one (layer, head)")
        if twice := [head for head, n in Counter(self.heads).items() if n > 1]:
            raise ValueError(f"heads {twice[:5]} are given more than once; expected each once")
        if not all(map(math.isfinite, (self.amount, *self.tokens, *self.reading))):
            given = (self.amount, *self.tokens, *self.reading)
            raise ValueError(f"amounts {given!s:.100} are not finite; expected finite numbers")
        if self.reading and (self.operation != "redistribute" or len(self.reading) != 2):
            raise ValueError(f"reading is {self.reading}; expected two shares, of attention that is redistributed")
        if self.tokens and (self.to != "image" or self.operation == "redistribute"):
            raise ValueError(
                f"{len(self.tokens)} weights of the picture's tokens with {self.operation!r} to {self.to!r}; expected "
                "them with scores (add, boost, multiply) of the picture alone"
            )
        if self.to != "elsewhere" and bool(self.words) != (self.to == "words"):
            raise ValueError(f"to is {self.to!r} with the words {self.words!r}; expected words for 'words' alone")

    @property
    def neutral(self) -> bool:
        """Whether it changes nothing."""
        return self.amount == NEUTRAL[self.operation]

    def to_json(self) -> str:
        """The edit as JSON, numbers at full precision."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Attend":
        """The edit that ``to_json`` wrote; raises ValueError for anything else.

        >>> Attend.from_json(attend([(0, 1)], "add", 0.5).to_json()) == attend([(0, 1)], "add", 0.5)
        True
        """
        try:
            row = json.loads(text)
            return attend(**row)
        except TypeError as error:
            raise ValueError(f"{text!r:.200} is not an attention edit ({error})") from None


def attend(
    heads: Iterable[Head],
    operation: str,
    amount: float,
    to: str = "image",
    scope: str = "all",
    tokens: Iterable[float] = (),
    reading: Iterable[float] = (),
    words: str = "",
) -> Attend:
    """An edit of what heads attend to; see ``Attend``.

    >>> edit = attend([(5, 0), (5, 1)], "multiply", 1.5)
    >>> edit.to, edit.neutral, attend([(5, 0)], "multiply", 1).neutral
    ('image', False, True)
    >>> attend([(5, 0)], "add", 0.7, to="words", words="left of").words
    'left of'
    """
    return Attend(
        pairs_of(heads),
        operation,
        float(amount),
        to,
        scope,
        tuple(map(float, tokens)),
        tuple(map(float, reading)),
        words,
    )


def pasta(heads: Iterable[Head], alpha: float = 0.01, words: str = "") -> Attend:
    """PASTA (arXiv 2311.02262): log alpha on the scores of all that is not highlighted: the ``words``, by default the
    picture."""
    return attend(heads, "add", math.log(alpha), to="elsewhere", words=words)


def pai(vlm: VLM, alpha: float = 0.2, first_layer: int = 2) -> Attend:
    """PAI (arXiv 2407.21771): scores of the picture's tokens larger by alpha times their size, in all heads from a
    layer on, at the last token; without its second part, the difference from a run without the picture."""
    return attend([h for h in vlm.heads.pairs if h[0] >= first_layer], "boost", alpha, scope="answer")


def adaptvis(
    vlm: VLM, confidence: float, threshold: float = 0.3, unsure: float = 0.5, sure: float = 1.5, last_layer: int = 31
) -> Attend:
    """AdaptVis (arXiv 2503.01773): scores of the picture's tokens times a factor at the prompt's last token, smaller
    where the model's ``confidence``, the largest probability of a first word (``options.confidence``), is not above
    the threshold."""
    heads = [head for head in vlm.heads.pairs if head[0] <= last_layer]
    return attend(heads, "multiply", sure if confidence > threshold else unsure, scope="prompt_last")


def visual_sinks(vlm: VLM, share: float = 0.6, skip: int = 2, least: float = 0.2, most_sinks: float = 0.5) -> Attend:
    """Visual attention redistribution (arXiv 2503.03321): sinks keep a share, in all heads but those of the first and
    the last layers, where they give at least ``least`` of their attention to the picture and at most ``most_sinks`` of
    that to its sinks."""
    last = max(layer for layer, _ in vlm.heads.pairs)
    heads = [head for head in vlm.heads.pairs if skip <= head[0] < last]
    return attend(heads, "redistribute", share, scope="answer", reading=(least, most_sinks))


def patches_of(vlm: VLM, item: Item, box: Sequence[float], softness: float = 0.0) -> tuple[float, ...]:
    """A weight for each of the picture's tokens: 1 within ``box`` (left, top, right, bottom, in shares of the picture),
    falling off as a Gaussian of ``softness`` (in shares of the picture) around it; in the order of the tokens.

    >>> from cogvsr_utils import load_items, load_vlm
    >>> item = load_items("synth", limit=1)[0]
    >>> patches_of(load_vlm("nano-internvl"), item, (0, 0, 0.5, 0.25))[:4]
    (1.0, 1.0, 0.0, 0.0)
    """
    inputs = vlm.encode([vlm.render(conversation(item, [], MAIN), prompt=True)], [open_image(item)])
    grid = picture_grid(vlm, item, inputs)
    rows, columns = grid.patches.shape
    y, x = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    left, top, right, bottom = box
    beside = np.maximum(np.maximum(left - x, x - right), 0)[None, :]
    above = np.maximum(np.maximum(top - y, y - bottom), 0)[:, None]
    far = np.hypot(beside, above)
    weight = np.exp(-0.5 * (far / softness) ** 2) if softness > 0 else (far == 0).astype(float)
    return tuple(grid.tokens(torch.as_tensor(weight), picture_tokens(vlm, inputs)).tolist())
