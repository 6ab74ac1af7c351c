"""Models with edited heads, in ``forward`` and in ``generate``.

intervene(vlm, mask(heads))     inside the block the model runs with the heads edited
edit_from_json(text)            an edit that was saved with its ``to_json``

Edits of activations (``head_edits``) are made by a forward pre-hook of the output projection that returns a new tensor,
edits of attention (``attention_edits``) in its scores; everything comes off whatever happens.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby, zip_longest

import torch

from cogvsr_utils.models.attention_edits import Attend
from cogvsr_utils.models.edited_attention import attending
from cogvsr_utils.models.head_edits import Edit
from cogvsr_utils.models.hooks import projection_hooks
from cogvsr_utils.models.passes import Pass, followed, question_tokens
from cogvsr_utils.models.vlm import VLM

AnyEdit = Edit | Attend
MARKED = ("image", "question")  # scopes that are tokens of the prompt, and may have none
ONE_TEXT = ("all", *MARKED)  # scopes that are known in a prompt with its reply

log = logging.getLogger(__name__)


class Fired(Counter):
    """How often edits of each scope fired, by scope; ``without`` counts the chats in which no token was in a scope, by
    scope, ``chats`` those that carried an edit of it, ``attention`` how often edits of attention fired, and ``places``
    the projections at which edits of heads did, each with its scope."""

    def __init__(self):
        super().__init__()
        self.without: Counter[str] = Counter()
        self.chats: Counter[str] = Counter()
        self.attention: Counter[str] = Counter()
        self.places: set[tuple[str, str]] = set()


def edit_from_json(text: str) -> AnyEdit:
    """The edit of heads or of attention that ``to_json`` wrote; raises ValueError for anything else.

    >>> from cogvsr_utils import attend, mask
    >>> edits = [mask([(0, 1)]), attend([(0, 1)], "add", 0.5)]
    >>> [edit_from_json(edit.to_json()) for edit in edits] == edits
    True
    """
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{text!r:.200} is not an edit ({error}); expected what to_json writes") from None
    return (Attend if isinstance(row, dict) and "operation" in row else Edit).from_json(text)


def as_list(edits: AnyEdit | Sequence[AnyEdit] | None) -> list[AnyEdit]:
    """One edit, several or none as a list; raises TypeError for what is not an edit."""
    given = [edits] if isinstance(edits, AnyEdit) else list(edits or ())
    for edit in given:
        if not isinstance(edit, AnyEdit):
            raise TypeError(f"{edit!r:.100} is not an edit; expected one made by mask, scale, steer, attend or others")
    return given


def needs_picture(vlm: VLM, edit: AnyEdit) -> bool:
    """Whether an edit does nothing in a chat without a picture: it is of the picture's tokens, or of heads of
    cross-attention alone, which do not run there."""
    of_picture = edit.to == "image" if isinstance(edit, Attend) else edit.scope == "image"
    return of_picture or vlm.heads.cross.issuperset(edit.heads)


def require_one_text(edits: AnyEdit | Sequence[AnyEdit] | None) -> None:
    """Raise ValueError for edits of a scope that passes over prompts with their replies cannot tell apart."""
    if other := sorted({edit.scope for edit in as_list(edits)} - set(ONE_TEXT)):
        raise ValueError(f"edits of scope {other} in teacher-forced chats; expected one of {list(ONE_TEXT)}")


@contextmanager
def intervene(
    vlm: VLM, edits: AnyEdit | Sequence[AnyEdit] | None, rows: Sequence[Sequence[AnyEdit]] | None = None
) -> Iterator[Fired]:
    """Run what is inside the block with heads edited.

    ``edits`` apply to every row of a batch, one after the other; ``rows`` gives each row of the batch its own list
    instead. Scopes of a prompt's end and of an answer need ``generate``, which knows where a prompt ends. Yields how
    often an edit of each scope fired; chats without a token in scope are counted there and in the log. Raises
    RuntimeError on leaving if an edit never fired, TypeError for what is not an edit, KeyError for a head that the
    model does not have, and ValueError for a vector of another width than its head's and for a scope that the model
    does not have.

    >>> from cogvsr_utils import Item, answer, load_vlm, mask
    >>> vlm = load_vlm("nano-internvl")
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [])
    >>> with intervene(vlm, mask([(5, 0)])) as fired:
    ...     table = answer(vlm, [item])
    >>> len(table), fired["all"] > 0
    (1, True)
    """
    if edits and rows is not None:
        raise ValueError("edits for all rows and for each row; expected one of the two")
    per_row = [as_list(edits)] if rows is None else [as_list(row) for row in rows]
    of_heads, of_attention = ([[e for e in row if isinstance(e, kind)] for row in per_row] for kind in (Edit, Attend))
    fired = Fired()
    with ExitStack() as stack:
        if any(of_attention):
            fired.attention = stack.enter_context(attending(vlm, [], rows=of_attention))
        if any(of_heads):
            stack.enter_context(_heads_edited(vlm, of_heads, fired))
        yield fired


@contextmanager
def _heads_edited(vlm: VLM, per_row: list[list[Edit]], fired: Fired) -> Iterator[None]:
    """Inside, heads are edited; ``fired`` counts what happens."""
    scopes = sorted({edit.scope for row in per_row for edit in row})
    if "image" in scopes and vlm.image_token_id is None:
        raise ValueError(f"{vlm.name} has no image token; expected another scope than 'image'")
    plans = [(scope, _affine(vlm, stage, scope)) for stage in _stages(per_row) for scope in scopes]
    carries = {
        scope: torch.tensor([any(edit.scope == scope for edit in row) for row in per_row], device=vlm.device)
        for scope in scopes
        if scope in MARKED
    }
    tokens: dict[str, torch.Tensor] = {}  # of the running prompt, by scope, (rows, tokens)

    def prompt():
        ids = state.ids
        for scope, rows in carries.items():
            tokens[scope] = ids == vlm.image_token_id if scope == "image" else question_tokens(vlm, ids)
            if state.begun and len(rows) in (1, len(ids) // state.copies):  # else it is in the kept cache
                carrying = rows.repeat_interleave(len(ids) // len(rows))
                fired.without[scope] += int((carrying & ~tokens[scope].any(1)).sum())
                fired.chats[scope] += int(carrying.sum())

    def hook_for(name, columns):
        here = [(scope, *plan[name]) for scope, plan in plans if name in plan]
        return _edit_hook(here, name, state, tokens, fired) if here else None

    active = vlm.active_edits
    with followed(vlm, prompt) as state, projection_hooks(vlm, hook_for):
        active.append([[edit.to_json() for edit in row] for row in per_row])
        try:
            yield
        finally:
            active.pop()
    silent = [scope for scope in scopes if not fired[scope] or 0 < fired.chats[scope] == fired.without[scope]]
    if silent:
        raise RuntimeError(f"edits of scope {silent} never fired: nothing inside the block ran such tokens")
    for edit in (edit for row in per_row for edit in row):
        if not any((edit.scope, name) in fired.places for name, *_ in vlm.heads.locate(edit.heads)):
            raise RuntimeError(f"edits of heads {list(edit.heads)!s:.100} never fired: their layers did not run")
    for scope, n in (+fired.without).items():
        log.warning("edits of scope %r had no token in %d of %d chats", scope, n, fired.chats[scope])


def _stages(per_row: list[list[Edit]]) -> Iterator[list[list[Edit]]]:
    """What each row's edits come to, one stage after the other, so that they run in the order in which they are given:
    neighbours of one scope are of one stage."""
    groups = [[list(some) for _, some in groupby(row, key=lambda edit: edit.scope)] for row in per_row]
    yield from (list(stage) for stage in zip_longest(*groups, fillvalue=[]))


def _tokens_of(scope: str, state: Pass, marked: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor | None:
    """Mask (batch or 1, tokens or 1, 1) of the tokens of ``x`` that are in scope, None for none."""
    if scope not in ONE_TEXT and not state.generating:
        raise ValueError(f"edits of scope {scope!r} outside generate, where no prompt ends; expected {ONE_TEXT}")
    if scope == "all" or (scope == "prompt" and state.prefill) or (scope == "answer" and not state.prefill):
        return torch.ones((1, 1, 1), dtype=torch.bool, device=x.device)
    if not state.prefill:
        return None
    if scope in MARKED:  # what comes before is in the kept cache; a trunk that is given embeddings has no tokens
        return marked[scope][:, -x.shape[1] :, None] if scope in marked else None
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


def _edit_hook(plans, name: str, state: Pass, marked: dict[str, torch.Tensor], fired: Fired):
    def hook(module, args):
        x = args[0]
        for scope, factor, shift in plans:
            tokens = _tokens_of(scope, state, marked, x)
            if tokens is None:
                continue
            if len(factor) not in (1, x.shape[0] // state.copies):
                raise ValueError(f"edits for {len(factor)} rows, but the batch has {x.shape[0] // state.copies}")
            fired[scope] += 1
            fired.places.add((scope, name))
            if len(factor) > 1:
                factor, shift = (each.repeat_interleave(state.copies, 0) for each in (factor, shift))
            x = torch.where(tokens, x * factor.to(x.dtype) + shift.to(x.dtype), x)
        return (x, *args[1:])

    return hook
