"""Edits of attention heads as values: what is changed, in which heads, at which tokens.

mask, scale, mean_ablate, steer        of heads as they are
patch(heads, activations, row)         as they were in another run
resample(heads, activations, uid)      as they were in another item's run, drawn at random

Every edit is affine on the head's slice x of the input of its output projection: x -> factor * x + shift. Edits are
frozen and go to JSON and back; ``interventions.intervene`` runs a model with them. An edit is checked when it is made,
and against the model's heads and their widths when it is used.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral

import numpy as np

from cogvsr_utils.files import digest
from cogvsr_utils.models.activations import HeadActivations

METHODS = ("mask", "scale", "mean_ablate", "steer", "patch", "resample")
SHIFTING = ("mean_ablate", "steer", "patch", "resample")  # with a vector for each head
SCOPES = ("all", "prompt", "prompt_last", "question", "image", "answer")
# The tokens at which activations that were captured at a position are written.
SCOPE_OF = {"answer": "answer", "prompt_last": "prompt_last", "image": "image"}
Head = tuple[int, int]


@dataclass(frozen=True)
class Edit:
    """One edit: x -> factor * x + shift on each (layer, head), at the tokens that ``scope`` names.

    Scopes: ``all``; ``prompt`` (everything before the first generated token); ``prompt_last`` (its last token);
    ``question`` (what the user's turns say, without pictures and the template's marks); ``image`` (image tokens of the
    prompt); ``answer`` (the tokens that predict the answer: the prompt's last and each generated one). ``shift`` has
    one vector of the head's width for every head; ``mask`` and ``scale`` have none.
    Raises ValueError for another method or scope, for heads that are none, twice or not pairs of whole numbers, and
    for numbers that are not finite.

    >>> edit = Edit("scale", ((5, 0), (5, 1)), factor=2.0, scope="answer")
    >>> edit == scale([(5, 0), (5, 1)], 2, scope="answer")
    True
    """

    method: str
    heads: tuple[Head, ...]
    factor: float = 1.0
    shift: tuple[tuple[float, ...], ...] = ()
    scope: str = "all"

    def __post_init__(self):
        for name, known in (("method", METHODS), ("scope", SCOPES)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {known}")
        pairs_of(self.heads)
        if not self.heads:
            raise ValueError(f"{self.method} of no heads; expected at least one (layer, head)")
        if twice := [head for head, n in Counter(self.heads).items() if n > 1]:
            raise ValueError(f"heads {twice[:5]} are given more than once; expected each once")
        wanted = len(self.heads) if self.method in SHIFTING else 0
        if len(self.shift) != wanted:
            raise ValueError(
                f"{len(self.shift)} vectors for {self.method} of {len(self.heads)} heads; expected {wanted}"
            )
        if not math.isfinite(self.factor):
            raise ValueError(f"factor is {self.factor}; expected a finite number")
        for head, vector in zip(self.heads, self.shift, strict=False):
            if not vector or not all(map(math.isfinite, vector)):
                raise ValueError(f"the vector of head {head} is {vector!s:.60}; expected finite numbers, at least one")

    def to_json(self) -> str:
        """The edit as JSON, numbers at full precision."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Edit:
        """The edit that ``to_json`` wrote; raises ValueError for anything else.

        >>> Edit.from_json(mask([(0, 1)]).to_json()) == mask([(0, 1)])
        True
        """
        try:
            row = json.loads(text)
            return cls(**row | {"heads": pairs_of(row["heads"]), "shift": _vectors(row["shift"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"{text!r:.200} is not an edit ({error}); expected what to_json writes") from None


def mask(heads: Iterable[Head], factor: float = 0.001, scope: str = "all") -> Edit:
    """Ablate heads by making them ``factor`` of themselves; 0.001 is the paper's.

    >>> mask([(0, 1)]).factor
    0.001
    """
    return Edit("mask", pairs_of(heads), float(factor), scope=scope)


def scale(heads: Iterable[Head], factor: float, scope: str = "all") -> Edit:
    """Emphasise (factor above 1) or weaken heads.

    >>> edit = scale([(5, 0), (5, 1)], 1.5, scope="image")
    >>> edit.method, edit.factor, edit.scope
    ('scale', 1.5, 'image')
    """
    return Edit("scale", pairs_of(heads), float(factor), scope=scope)


def mean_ablate(heads: Iterable[Head], means: Sequence[np.ndarray], scope: str = "all") -> Edit:
    """Replace each head by its mean over other items: ``means`` has one vector (head_dim,) for each head.

    >>> edit = mean_ablate([(5, 0)], [np.full(24, 0.5)])  # x -> 0 * x + mean
    >>> edit.factor, set(edit.shift[0])
    (0.0, {0.5})
    """
    return Edit("mean_ablate", pairs_of(heads), 0.0, _vectors(means), scope)


def steer(heads: Iterable[Head], directions: Sequence[np.ndarray], strength: float, scope: str = "answer") -> Edit:
    """Shift each head along a direction (head_dim,): x + strength * direction; directions carry their own scale.

    >>> edit = steer([(5, 0)], [np.ones(24)], strength=2)
    >>> edit.factor, set(edit.shift[0]), edit.scope
    (1.0, {2.0}, 'answer')
    """
    return Edit(
        "steer", pairs_of(heads), 1.0, _vectors(strength * np.asarray(direction) for direction in directions), scope
    )


def patch(heads: Iterable[Head], activations: HeadActivations, row: int) -> Edit:
    """Replace each head by what it was in another run, such as one with a cue or of a counterfactual picture.

    ``row`` is the step's row in ``activations.index``; what was captured at ``answer`` (read where it is predicted),
    ``prompt_last`` or ``image`` is written at the tokens of the scope of that name, a mean over tokens at each of them.
    Raises ValueError for activations of another position, IndexError for a row that is not there;
    ``patching.patch_heads`` writes token by token instead, where the two runs have the same answers.

    >>> import tempfile
    >>> from cogvsr_utils import Item, Step, capture, load_vlm
    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [step])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     edit = patch([(5, 0)], capture(load_vlm("nano-internvl"), [item], store=folder), row=0)
    >>> edit.factor, len(edit.shift[0]), edit.scope
    (0.0, 24, 'answer')
    """
    return _as_captured("patch", heads, activations, row)


def resample(heads: Iterable[Head], activations: HeadActivations, uid: str, seed: int = 0) -> Edit:
    """Replace each head by what it was at a random step of another scene than that of item ``uid``; all heads from one
    step. Scopes and errors as in ``patch``; KeyError where the activations have no such item, ValueError where they
    have no other scene.

    Source: resample ablation, as in causal scrubbing (Chan et al., 2022).

    >>> import tempfile
    >>> from cogvsr_utils import Item, Step, capture, load_vlm
    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> items = [Item(uid, "mine", uid, "Is it red?", "yes", "yesno", [step]) for uid in ("1", "2")]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     activations = capture(load_vlm("nano-internvl"), items, store=folder)
    ...     resample([(5, 0)], activations, "1").shift == patch([(5, 0)], activations, row=1).shift
    True
    """
    index = activations.index
    own = index.loc[index["uid"] == uid, "group_id"]
    if own.empty:
        raise KeyError(f"no activations of item {uid!r}; expected an item of them")
    others = np.flatnonzero(index["group_id"] != own.iloc[0])
    if not len(others):
        raise ValueError(f"activations of one scene alone, {own.iloc[0]!r}; expected others to draw from")
    rng = np.random.default_rng([seed, int(digest(uid), 16)])  # another step for every item
    return _as_captured("resample", heads, activations, int(rng.choice(others)))


def _as_captured(method: str, heads, activations: HeadActivations, row: int) -> Edit:
    position, at = activations.header["position"], activations.header["at"]
    if position not in SCOPE_OF or (position == "answer" and at != "predicts"):
        raise ValueError(
            f"activations captured at {position!r} ({at}); expected one of {list(SCOPE_OF)}, answers where predicted"
        )
    if not 0 <= row < len(activations.features):
        raise IndexError(f"row {row} of {len(activations.features)}; expected one of the activations'")
    pairs = pairs_of(heads)
    vectors = [np.asarray(activations.features[row, columns]) for columns in activations.heads.columns(pairs)]
    return Edit(method, pairs, 0.0, _vectors(vectors), SCOPE_OF[position])


def pairs_of(heads: Iterable[Head]) -> tuple[Head, ...]:
    """Heads as pairs of whole numbers; raises ValueError for anything else."""
    pairs = [tuple(head) if isinstance(head, Iterable) else (head,) for head in heads]
    for pair in pairs:
        if len(pair) != 2 or not all(_is_count(number) for number in pair):
            raise ValueError(f"{pair} is not a head; expected (layer, head), two whole numbers from 0, in a list")
    return tuple((int(layer), int(head)) for layer, head in pairs)


def _is_count(number) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and number >= 0


def _vectors(rows) -> tuple[tuple[float, ...], ...]:
    """Vectors as tuples; raises ValueError for what is not a vector of real numbers."""
    arrays = [np.asarray(row) for row in rows]
    for array in arrays:
        if array.ndim != 1 or np.iscomplexobj(array):
            raise ValueError(f"{array.dtype} of shape {array.shape} is not a vector; expected real numbers (head_dim,)")
    return tuple(tuple(map(float, array)) for array in arrays)
