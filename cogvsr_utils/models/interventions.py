"""Edits of attention heads in ``forward`` and in ``generate``.

intervene(vlm, mask(heads))                inside the block the model runs with the heads edited
mask, scale, mean_ablate, steer            make edits; edits are frozen and go to JSON and back
directions(activations, heads, ...)        from wrong towards correct answers, for ``steer``

Every edit is affine on the head's slice x of the input of its output projection: x -> factor * x + shift. It is made
by a forward pre-hook that returns a new tensor, and the hooks come off whatever happens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch

from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.models.hooks import projection_hooks
from cogvsr_utils.models.vlm import VLM

SCOPES = ("all", "prompt", "prompt_last", "image", "answer")
Head = tuple[int, int]


@dataclass(frozen=True)
class Edit:
    """One edit: x -> factor * x + shift on each (layer, head), at the tokens that ``scope`` names.

    Scopes: ``all``; ``prompt`` (everything before the first generated token); ``prompt_last`` (its last token);
    ``image`` (image tokens of the prompt); ``answer`` (the tokens that predict the answer: the prompt's last and each
    generated one). ``shift`` has one vector of the head's width for every head, or none at all.
    """

    method: str
    heads: tuple[Head, ...]
    factor: float = 1.0
    shift: tuple[tuple[float, ...], ...] = ()
    scope: str = "all"

    def __post_init__(self):
        if self.scope not in SCOPES:
            raise ValueError(f"scope is {self.scope!r}; expected one of {SCOPES}")
        if self.shift and len(self.shift) != len(self.heads):
            raise ValueError(f"{len(self.shift)} shift vectors for {len(self.heads)} heads; expected one for each")

    def to_json(self) -> str:
        """The edit as JSON, numbers at full precision."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Edit:
        """The edit that ``to_json`` wrote.

        >>> Edit.from_json(mask([(0, 1)]).to_json()) == mask([(0, 1)])
        True
        """
        row = json.loads(text)
        row["heads"] = tuple(tuple(head) for head in row["heads"])
        row["shift"] = tuple(tuple(vector) for vector in row["shift"])
        return cls(**row)


def mask(heads: Iterable[Head], factor: float = 0.001, scope: str = "all") -> Edit:
    """Ablate heads by making them ``factor`` of themselves; 0.001 is the paper's.

    >>> mask([(0, 1)]).factor
    0.001
    """
    return Edit("mask", _tuples(heads), factor, scope=scope)


def scale(heads: Iterable[Head], factor: float, scope: str = "all") -> Edit:
    """Emphasise (factor above 1) or weaken heads."""
    return Edit("scale", _tuples(heads), float(factor), scope=scope)


def mean_ablate(heads: Iterable[Head], means: Sequence[np.ndarray], scope: str = "all") -> Edit:
    """Replace each head by its mean over other items: ``means`` has one vector (head_dim,) for each head."""
    return Edit("mean_ablate", _tuples(heads), 0.0, _vectors(means), scope)


def steer(heads: Iterable[Head], directions: Sequence[np.ndarray], strength: float, scope: str = "answer") -> Edit:
    """Shift each head along a direction (head_dim,): x + strength * direction; directions carry their own scale."""
    shifts = [strength * np.asarray(direction) for direction in directions]
    return Edit("steer", _tuples(heads), 1.0, _vectors(shifts), scope)


def directions(
    activations: HeadActivations, heads: Iterable[Head], rows: np.ndarray, correct: np.ndarray
) -> list[np.ndarray]:
    """From wrong towards correct answers, one vector (head_dim,) a head, as long as one standard deviation.

    Unit(mean correct - mean wrong) times the standard deviation of the projections on it, over the steps ``rows``
    (steps,) boolean. Raises ValueError where all are correct or all wrong. Source: Cognitive Mirrors (arXiv
    2512.10978).
    """
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


@contextmanager
def intervene(
    vlm: VLM, edits: Edit | Sequence[Edit] | None, rows: Sequence[Sequence[Edit]] | None = None
) -> Iterator[Counter]:
    """Run what is inside the block with heads edited.

    ``edits`` apply to every row of a batch; ``rows`` gives each row of the batch its own list instead. Yields a
    Counter of how often an edit of each scope fired. Raises RuntimeError on leaving if an edit never did, and
    KeyError for a head that the model does not have.
    """
    edits = [] if edits is None else [edits] if isinstance(edits, Edit) else list(edits)
    per_row = [edits] if rows is None else [list(r) for r in rows]
    fired: Counter[str] = Counter()
    if not any(per_row):
        yield fired
        return
    scopes = sorted({edit.scope for row in per_row for edit in row})
    if "image" in scopes and vlm.image_token_id is None:
        raise ValueError(f"{vlm.name} has no image token; expected another scope than 'image'")
    plans = {scope: _affine(vlm, per_row, scope) for scope in scopes}
    state = _Pass(vlm)

    def hook_for(name, columns):
        here = {scope: plan[name] for scope, plan in plans.items() if name in plan}
        return _edit_hook(here, state, fired) if here else None

    # The model may be asked for logits, or its trunk alone for what comes before them.
    trunks = dict.fromkeys((vlm.model, vlm.model.base_model))
    handles = [trunk.register_forward_pre_hook(state.before, with_kwargs=True) for trunk in trunks]
    try:
        with projection_hooks(vlm, hook_for):
            yield fired
    finally:
        for handle in handles:
            handle.remove()
    silent = [scope for scope in scopes if not fired[scope]]
    if silent:
        raise RuntimeError(f"edits of scope {silent} never fired: nothing inside the block ran such tokens")


class _Pass:
    """What the running forward pass is: the prompt, or a generated token; and where its image tokens are."""

    def __init__(self, vlm):
        self.image_id = vlm.image_token_id
        self.ids = None
        self.prefill = True

    def before(self, module, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:  # a trunk that is given embeddings
            return
        cache = kwargs.get("past_key_values")
        # A prompt may continue a kept cache, but is never one token.
        self.prefill = cache is None or cache.get_seq_length() == 0 or ids.shape[1] > 1
        self.ids = ids

    def tokens(self, scope: str, x: torch.Tensor) -> torch.Tensor | None:
        """Mask (batch, tokens, 1) of the tokens in scope, True for all, None for none."""
        if scope == "all" or (scope == "answer" and not self.prefill):
            return torch.ones((1, 1, 1), dtype=torch.bool, device=x.device)
        if not self.prefill:
            return None
        if scope == "prompt":
            return torch.ones((1, 1, 1), dtype=torch.bool, device=x.device)
        if scope == "image":
            return (self.ids == self.image_id)[..., None]
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


def _tuples(heads) -> tuple[Head, ...]:
    return tuple((int(layer), int(head)) for layer, head in heads)


def _vectors(rows) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(v) for v in np.asarray(row)) for row in rows)
