"""Edits of attention heads in ``forward`` and in ``generate``.

intervene(vlm, mask(heads))                inside the block the model runs with the heads edited
mask, scale, mean_ablate, steer            make edits; edits are frozen and go to JSON and back
directions(activations, heads, ...)        from wrong towards correct answers, for ``steer``

Every edit is affine on the head's slice x of the input of its output projection: x -> factor * x + shift. It is made
by a forward pre-hook that returns a new tensor, and the hooks come off whatever happens. An edit is checked when it is
made, and against the model's heads and their widths when it is used.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from numbers import Integral

import numpy as np
import torch

from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.models.hooks import projection_hooks
from cogvsr_utils.models.vlm import VLM

METHODS = ("mask", "scale", "mean_ablate", "steer")
SCOPES = ("all", "prompt", "prompt_last", "image", "answer")
Head = tuple[int, int]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Edit:
    """One edit: x -> factor * x + shift on each (layer, head), at the tokens that ``scope`` names.

    Scopes: ``all``; ``prompt`` (everything before the first generated token); ``prompt_last`` (its last token);
    ``image`` (image tokens of the prompt); ``answer`` (the tokens that predict the answer: the prompt's last and each
    generated one). ``shift`` has one vector of the head's width for every head; ``mask`` and ``scale`` have none.
    Raises ValueError for another method or scope, for heads that are none, twice or not pairs of whole numbers, and
    for numbers that are not finite.
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
        _pairs(self.heads)
        if not self.heads:
            raise ValueError(f"{self.method} of no heads; expected at least one (layer, head)")
        if twice := [head for head, n in Counter(self.heads).items() if n > 1]:
            raise ValueError(f"heads {twice[:5]} are given more than once; expected each once")
        wanted = len(self.heads) if self.method in ("mean_ablate", "steer") else 0
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
            return cls(**row | {"heads": _pairs(row["heads"]), "shift": _vectors(row["shift"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"{text!r:.200} is not an edit ({error}); expected what to_json writes") from None


def mask(heads: Iterable[Head], factor: float = 0.001, scope: str = "all") -> Edit:
    """Ablate heads by making them ``factor`` of themselves; 0.001 is the paper's.

    >>> mask([(0, 1)]).factor
    0.001
    """
    return Edit("mask", _pairs(heads), float(factor), scope=scope)


def scale(heads: Iterable[Head], factor: float, scope: str = "all") -> Edit:
    """Emphasise (factor above 1) or weaken heads."""
    return Edit("scale", _pairs(heads), float(factor), scope=scope)


def mean_ablate(heads: Iterable[Head], means: Sequence[np.ndarray], scope: str = "all") -> Edit:
    """Replace each head by its mean over other items: ``means`` has one vector (head_dim,) for each head."""
    return Edit("mean_ablate", _pairs(heads), 0.0, _vectors(means), scope)


def steer(heads: Iterable[Head], directions: Sequence[np.ndarray], strength: float, scope: str = "answer") -> Edit:
    """Shift each head along a direction (head_dim,): x + strength * direction; directions carry their own scale."""
    return Edit(
        "steer", _pairs(heads), 1.0, _vectors(strength * np.asarray(direction) for direction in directions), scope
    )


def directions(
    activations: HeadActivations, heads: Iterable[Head], rows: np.ndarray, correct: np.ndarray
) -> list[np.ndarray]:
    """From wrong towards correct answers, one vector (head_dim,) a head, as long as one standard deviation.

    Unit(mean correct - mean wrong) times the standard deviation of the projections on it, over the steps ``rows``
    (steps,), with ``correct`` (steps,), both boolean. Raises ValueError where all are correct or all wrong, or where
    there is not one value a step. Source: Cognitive Mirrors (arXiv 2512.10978).
    """
    rows, correct = np.asarray(rows), np.asarray(correct)
    for name, given in (("rows", rows), ("correct", correct)):
        if given.dtype != bool or given.shape != (len(activations.features),):
            raise ValueError(f"{name} is {given.dtype} {given.shape}; expected bool ({len(activations.features)},)")
    right, wrong = rows & correct, rows & ~correct
    if not right.any() or not wrong.any():
        raise ValueError(f"{right.sum()} correct and {wrong.sum()} wrong rows; expected some of both")
    out = []
    for columns in activations.heads.columns(heads):
        x = np.asarray(activations.features[:, columns], dtype=np.float64)
        unit = x[right].mean(0) - x[wrong].mean(0)
        unit /= max(np.linalg.norm(unit), 1e-12)
        out.append(unit * (x[rows] @ unit).std())
    return out


class Fired(Counter):
    """How often edits of each scope fired, by scope; ``without`` counts the chats in which no token was in a scope, by
    scope, and ``chats`` those that carried an edit of it."""

    def __init__(self):
        super().__init__()
        self.without: Counter[str] = Counter()
        self.chats: Counter[str] = Counter()


def require_one_text(edits: Edit | Sequence[Edit] | None) -> None:
    """Raise ValueError for edits of a scope other than ``all`` and ``image``, which passes over prompts with their
    replies cannot tell apart."""
    given = [edits] if isinstance(edits, Edit) else edits or ()
    if other := sorted({edit.scope for edit in given} - {"all", "image"}):
        raise ValueError(f"edits of scope {other} in teacher-forced chats; expected scope 'all' or 'image'")


@contextmanager
def intervene(
    vlm: VLM, edits: Edit | Sequence[Edit] | None, rows: Sequence[Sequence[Edit]] | None = None
) -> Iterator[Fired]:
    """Run what is inside the block with heads edited.

    ``edits`` apply to every row of a batch; ``rows`` gives each row of the batch its own list instead. Yields how
    often an edit of each scope fired; chats without a token in scope are counted there and in the log. Raises
    RuntimeError on leaving if an edit never fired, TypeError for what is not an ``Edit``, KeyError for a head that the
    model does not have, and ValueError for a vector of another width than its head's.
    """
    edits = [] if edits is None else [edits] if isinstance(edits, Edit) else list(edits)
    if edits and rows is not None:
        raise ValueError("edits for all rows and for each row; expected one of the two")
    per_row = [edits] if rows is None else [list(r) for r in rows]
    for edit in (edit for row in per_row for edit in row):
        if not isinstance(edit, Edit):
            raise TypeError(f"{edit!r:.100} is not an edit; expected one made by mask, scale, mean_ablate or steer")
    fired = Fired()
    if not any(per_row):
        yield fired
        return
    scopes = sorted({edit.scope for row in per_row for edit in row})
    if "image" in scopes and vlm.image_token_id is None:
        raise ValueError(f"{vlm.name} has no image token; expected another scope than 'image'")
    plans = {scope: _affine(vlm, per_row, scope) for scope in scopes}
    state = _Pass(vlm, [any(edit.scope == "image" for edit in row) for row in per_row], fired)

    def hook_for(name, columns):
        here = {scope: plan[name] for scope, plan in plans.items() if name in plan}
        return _edit_hook(here, state, fired) if here else None

    # The model may be asked for logits, or its trunk alone for what comes before them.
    trunks = dict.fromkeys((vlm.model, vlm.model.base_model))
    handles = [trunk.register_forward_pre_hook(state.before, with_kwargs=True) for trunk in trunks]
    active = vlm.active_edits
    active.append([[edit.to_json() for edit in row] for row in per_row])
    try:
        with projection_hooks(vlm, hook_for):
            yield fired
    finally:
        active.pop()
        for handle in handles:
            handle.remove()
    silent = [scope for scope in scopes if not fired[scope] or 0 < fired.chats[scope] == fired.without[scope]]
    if silent:
        raise RuntimeError(f"edits of scope {silent} never fired: nothing inside the block ran such tokens")
    for scope, n in (+fired.without).items():
        log.warning("edits of scope %r had no token in %d of %d chats", scope, n, fired.chats[scope])


class _Pass:
    """What the running forward pass is: the prompt, or a generated token; and where its image tokens are.

    ``carries`` (rows or 1) says which rows have edits of scope ``image``, the one scope that a prompt may lack.
    """

    def __init__(self, vlm, carries: list[bool], fired: Fired):
        self.image_id, self.fired = vlm.image_token_id, fired
        self.carries = torch.tensor(carries, device=vlm.device) if any(carries) else None
        self.image = None  # (batch, tokens, 1)
        self.ids = None
        self.prefill = True

    def before(self, module, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:  # a trunk that is given embeddings
            return
        cache = kwargs.get("past_key_values")
        begun = cache is None or cache.get_seq_length() == 0
        # A prompt may continue a kept cache, but is never one token.
        self.prefill = begun or ids.shape[1] > 1
        within = ids is self.ids  # the trunk, called by the whole model
        self.ids = ids
        if self.prefill and not within and self.carries is not None and len(self.carries) in (1, len(ids)):
            image = ids == self.image_id
            carries = self.carries.expand(len(ids))
            self.image = image[..., None]
            if begun:  # else the picture is in the kept cache
                self.fired.without["image"] += int((carries & ~image.any(1)).sum())
                self.fired.chats["image"] += int(carries.sum())

    def tokens(self, scope: str, x: torch.Tensor) -> torch.Tensor | None:
        """Mask (batch, tokens, 1) of the tokens in scope, True for all, None for none."""
        if scope == "all" or (scope == "answer" and not self.prefill):
            return torch.ones((1, 1, 1), dtype=torch.bool, device=x.device)
        if not self.prefill:
            return None
        if scope == "prompt":
            return torch.ones((1, 1, 1), dtype=torch.bool, device=x.device)
        if scope == "image":
            return self.image
        last = torch.zeros((1, x.shape[1], 1), dtype=torch.bool, device=x.device)
        last[:, -1] = True
        return last


def _affine(vlm, per_row, scope):
    """Projection -> (factor, shift), each (rows, 1, its width), of all edits of one scope, one after the other."""
    plan = {}
    for r, edits in enumerate(per_row):
        for edit in (e for e in edits if e.scope == scope):
            for i, (name, start, stop) in enumerate(vlm.heads.locate(edit.heads)):
                first, last = vlm.heads.projections[name]
                if edit.shift and len(edit.shift[i]) != stop - start:
                    raise ValueError(
                        f"the vector of head {edit.heads[i]} has width {len(edit.shift[i])}; expected {stop - start}"
                    )
                if name not in plan:
                    plan[name] = (
                        torch.ones(len(per_row), 1, last - first, device=vlm.device),
                        torch.zeros(len(per_row), 1, last - first, device=vlm.device),
                    )
                factor, shift = plan[name]
                here = slice(start - first, stop - first)
                factor[r, 0, here] *= edit.factor
                shift[r, 0, here] *= edit.factor
                if edit.shift:
                    shift[r, 0, here] += torch.tensor(edit.shift[i], device=vlm.device)
    for name, numbers in plan.items():
        if not all(torch.isfinite(each.to(vlm.model.dtype)).all() for each in numbers):
            raise ValueError(f"edits of {name} are not finite in {vlm.model.dtype}; expected smaller numbers")
    return plan


def _edit_hook(plans, state, fired):
    def hook(module, args):
        x = args[0]
        for scope, (factor, shift) in plans.items():
            tokens = state.tokens(scope, x)
            if tokens is None:
                continue
            if len(factor) not in (1, x.shape[0]):
                raise ValueError(f"edits for {len(factor)} rows, but the batch has {x.shape[0]}")
            fired[scope] += 1
            x = torch.where(tokens, x * factor.to(x.dtype) + shift.to(x.dtype), x)
        return (x, *args[1:])

    return hook


def _pairs(heads) -> tuple[Head, ...]:
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
