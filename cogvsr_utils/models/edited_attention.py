"""A model that attends as edits say, through transformers' own attention interface.

attending(vlm, edits)     inside, the model's heads attend as the edits of ``attention_edits`` say

Only the scores of edited heads are computed here, all others by the implementation that the model has.
"""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from cogvsr_utils.models.attention import attention_module, sink_tokens
from cogvsr_utils.models.attention_edits import Attend
from cogvsr_utils.models.blocks import decoder_blocks
from cogvsr_utils.models.passes import Pass, followed, question_tokens, word_tokens
from cogvsr_utils.models.vlm import VLM, attention_switched

log = logging.getLogger(__name__)
NAME = "cogvsr_attending"  # of the attention function while edits run
ONE_TEXT = ("all", "question")  # scopes that need no end of the prompt
LAST = ("prompt_last", "answer")  # scopes of which a prompt has its last token
PICTURES, QUESTION = "pictures", "the question"  # what edits are about, beside words


@contextmanager
def attending(
    vlm: VLM, edits: Attend | Sequence[Attend], rows: Sequence[Sequence[Attend]] | None = None
) -> Iterator[Counter]:
    """Run what is inside the block with heads attending as ``edits`` say, in every row of a batch; ``rows`` gives each
    row its own list instead. Edits of one head go one after the other. Yields how often edits of each scope fired.

    What is answered and captured inside is kept apart from what is without, as under ``intervene``. Raises KeyError for
    a head that the model does not have, ValueError where its attention cannot be edited, RuntimeError inside another
    ``attending``, and on leaving if an edit never fired.

    >>> from cogvsr_utils import answer, attend, load_items, load_vlm
    >>> vlm, items = load_vlm("nano-internvl"), load_items("synth", limit=1)
    >>> with attending(vlm, attend([(5, 0)], "add", 0.5)) as fired:
    ...     table = answer(vlm, items, steps=False)
    >>> len(table), fired["all"] > 0
    (1, True)
    """
    given = [edits] if isinstance(edits, Attend) else list(edits)
    if given and rows is not None:
        raise ValueError("edits for all rows and for each row; expected one of the two")
    per_row = [given] if rows is None else [list(row) for row in rows]
    every = [edit for row in per_row for edit in row]
    for edit in every:
        vlm.heads.columns(edit.heads)  # refuses heads that are not there
    if vlm.image_token_id is None and any(edit.to == "image" for edit in every):
        raise ValueError(f"{vlm.name} has no image token; expected a model that reads pictures in line")
    for edit in every:
        _refuse_kind(vlm, edit)
    if NAME in AttentionInterface._global_mapping:
        raise RuntimeError("attention edits inside others; expected all of them in one list")
    fired: Counter = Counter()
    if not every:
        yield fired
        return
    # Of each edit and what it is about: how many chats that carry the edit have such tokens, and how many have not.
    chats = {(edit, what): Counter() for edit in every for what in _about(edit)}

    def prompt():
        state.find()
        for row, edits in enumerate(per_row):
            carrying = state.chats(row)
            for edit in edits:
                for what in _about(edit):
                    chats[edit, what].update(state.marked[what][carrying].any(1).tolist())

    with ExitStack() as stack:
        running = stack.enter_context(followed(vlm, prompt))
        state = _State(vlm, per_row, fired, running)
        for number, block in enumerate(decoder_blocks(vlm)):
            stack.callback(block.register_forward_pre_hook(state.layer(number), with_kwargs=True).remove)
        stack.enter_context(_interface(vlm, state))
        vlm.active_edits.append([[edit.to_json() for edit in row] for row in per_row])
        stack.callback(vlm.active_edits.pop)
        yield fired
    for (_, what), counts in chats.items():
        if counts[False] and not counts[True]:
            raise RuntimeError(f"attention edits of {what} never fired: no chat that carries one has any")
        if counts[False]:
            log.warning("attention edits of %s had none in %d of %d chats", what, counts[False], counts.total())
    for edit in every:
        if edit not in state.ran:
            raise RuntimeError(
                f"attention edits of scope {edit.scope!r} never fired: nothing inside ran such tokens in the layers of "
                f"{list(edit.heads)!s:.100}"
            )


def _refuse_kind(vlm: VLM, edit: Attend) -> None:
    """Raise ValueError for heads that do not attend to what an edit is about."""
    if crossing := [head for head in edit.heads if head in vlm.heads.cross]:
        of_text = edit.to == "question" or edit.words or edit.scope == "question"
        if edit.tokens or edit.operation == "redistribute" or of_text:
            raise ValueError(
                f"heads {crossing[:5]} of {vlm.name} attend to the picture alone, in which no sinks, weights of "
                "tokens, questions or words are known; expected heads of self-attention"
            )
    elif vlm.heads.cross and edit.to == "image":
        raise ValueError(
            f"heads {list(edit.heads[:5])} of {vlm.name} attend to text alone; expected heads of cross-attention"
        )


def _about(edit: Attend) -> list[str]:
    """What an edit does nothing without: pictures, words or the question."""
    found = [f"the words {edit.words!r}"] if edit.words else [PICTURES] if edit.to == "image" else []
    return found + [QUESTION] * ("question" in (edit.to, edit.scope))


@contextmanager
def _interface(vlm: VLM, state: "_State") -> Iterator[None]:
    """The model's attention goes through ``state`` inside."""
    base = vlm.model.config.get_text_config()._attn_implementation
    if base not in ("sdpa", "eager"):
        raise ValueError(f"{vlm.name} runs {base}; attention edits need sdpa or eager")
    state.compute = _eager if base == "eager" else AttentionInterface._global_mapping[base]
    AttentionInterface.register(NAME, state.attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS[base])
    try:
        with attention_switched(vlm, NAME) as switched:
            if not switched:
                raise ValueError(f"the attention of {vlm.name} is not transformers' own; it cannot be edited")
            yield
    finally:
        for interface in (AttentionInterface, type(ALL_MASK_ATTENTION_FUNCTIONS)):
            interface._global_mapping.pop(NAME, None)


def _eager(module, *args, **kwargs):
    """The eager attention of a module, which stands beside its class and not in the interface."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


class _State:
    """What is edited where, and what of the running pass the edits depend on."""

    def __init__(self, vlm: VLM, per_row: list[list[Attend]], fired: Counter, running: Pass):
        self.vlm, self.fired, self.n_rows, self.running = vlm, fired, len(per_row), running
        self.compute: Callable | None = None
        self.plans: dict[int, list[tuple[int, Attend, list[int]]]] = {}  # by attention module: row, edit, its heads
        table = vlm.heads.table.assign(place=vlm.heads.table.groupby("module").cumcount())
        places = {(r.layer, r.head): (r.module, r.place) for r in table.itertuples()}
        self.cross = {id(attention_module(vlm, m)) for m in table.loc[table["kind"] == "cross", "module"].unique()}
        for row, edits in enumerate(per_row):
            for edit in edits:
                by_module: dict[str, list[int]] = {}
                for head in edit.heads:
                    module, place = places[head]
                    by_module.setdefault(module, []).append(place)
                for module, heads in by_module.items():
                    owner = id(attention_module(vlm, module))
                    if edit.to != "image" or not self.cross or owner in self.cross:
                        self.plans.setdefault(owner, []).append((row, edit, heads))
        self.finds_sinks = any(edit.operation == "redistribute" for edits in per_row for edit in edits)
        self.layers = {id(attention_module(vlm, r.module)): r.layer for r in table.itertuples()}
        self.sinks: dict[int, torch.Tensor] = {}  # by layer: (rows, keys)
        self.words = {edit.words for edits in per_row for edit in edits if edit.words}
        self.asks = any(QUESTION in _about(edit) for edits in per_row for edit in edits)
        self.marked: dict[str, torch.Tensor] = {}  # tokens of the running prompt, by what they are: (rows, tokens)
        self.ran: set[Attend] = set()

    def find(self) -> None:
        """Find the tokens of a new prompt that edits are about."""
        ids = self.running.ids
        self.marked[PICTURES] = ids == (-1 if self.vlm.image_token_id is None else self.vlm.image_token_id)
        self.marked |= {f"the words {words!r}": word_tokens(self.vlm, ids, words) for words in self.words}
        if self.asks:
            self.marked[QUESTION] = question_tokens(self.vlm, ids)

    def chats(self, row: int) -> slice:
        """The rows of a batch that carry row ``row`` of the edits."""
        n = self.running.copies
        return slice(None) if self.n_rows == 1 else slice(row * n, (row + 1) * n)

    def layer(self, number: int) -> Callable:
        """A hook of a block: which of the tokens that it is given are sinks."""

        def hook(module, args, kwargs):
            state = args[0] if args else kwargs["hidden_states"]
            if self.running.prefill and self.finds_sinks:
                if state.shape[1] < self.running.ids.shape[1]:
                    raise ValueError("sinks of a prompt that goes on from a kept cache; expected whole prompts")
                self.sinks[number] = sink_tokens(state)

        return hook

    def attention(self, module, query, key, value, attention_mask, **kwargs):
        """The model's attention with the heads of the plan computed anew."""
        out, weights = self.compute(module, query, key, value, attention_mask, **kwargs)
        plan = self.plans.get(id(module))
        if not plan:
            return out, weights
        for name in ("softcap", "s_aux"):
            if kwargs.get(name) is not None:
                raise ValueError(f"the attention of {self.vlm.name} has {name}, which edits do not know")
        if self.n_rows not in (1, n_chats := len(query) // self.running.copies):
            raise ValueError(f"attention edits for {self.n_rows} rows, but the batch has {n_chats}")
        out = out.clone()
        for row in range(self.n_rows):
            some = self.chats(row)
            edits = [
                (edit, heads)
                for number, edit, heads in plan
                if number == row and self._queries(edit.scope, query, some) is not None
            ]
            self.fired.update(edit.scope for edit, _ in edits)
            self.ran.update(edit for edit, _ in edits)
            for heads, own in _by_heads([(edit, heads) for edit, heads in edits if not edit.neutral]):
                n = 1 if all(edit.scope in LAST for edit in own) else query.shape[2]  # queries that change
                given = (module, query[:, :, -n:], key, value, attention_mask, kwargs)
                out[some][:, -n:, heads] = self._edited(*given, some, heads, own).to(out.dtype)
        return out, None

    def _edited(self, module, query, key, value, mask, kwargs, rows, heads, edits):
        """What ``heads`` give to ``rows``: (rows, queries, heads, head_dim)."""
        groups = query.shape[1] // key.shape[1]
        keys = [head // groups for head in heads]
        q, k, v = query[rows][:, heads].float(), key[rows][:, keys].float(), value[rows][:, keys]
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        scores = q @ k.mT * scaling  # (rows, heads, queries, keys)
        visible = self._visible(module, scores, mask, rows, heads)
        for edit in edits:
            if edit.operation == "redistribute":
                continue
            target, strength = self._keys(module, edit, scores.shape[-1], rows)
            changed = {"add": lambda s, a: s + a, "boost": lambda s, a: s + a * s.abs(),
                       "multiply": lambda s, a: s * (1 + a)}[edit.operation](scores, strength)  # fmt: skip
            scores = torch.where(target & self._queries(edit.scope, query, rows), changed, scores)
        weights = (scores + visible).softmax(-1)
        for edit in edits:
            if edit.operation == "redistribute":
                weights = self._redistributed(module, edit, weights, rows, query)
        return (weights.to(v.dtype) @ v).transpose(1, 2)

    def _queries(self, scope: str, query: torch.Tensor, rows) -> torch.Tensor | None:
        """Queries in scope, (rows or 1, 1, queries, 1), None for none."""
        n = query.shape[2]
        if scope not in ONE_TEXT and not self.running.generating:
            raise ValueError(f"scope {scope!r} outside generate, where no prompt ends; expected one of {ONE_TEXT}")
        if scope == "all" or (scope == "answer" and not self.running.prefill):
            return torch.ones((1, 1, n, 1), dtype=torch.bool, device=query.device)
        if not self.running.prefill:
            return None
        if scope == "question":
            return self.marked[QUESTION][rows][:, None, -n:, None]
        last = torch.zeros((1, 1, n, 1), dtype=torch.bool, device=query.device)
        last[:, :, -1] = True
        return last

    def _image(self, module, n_keys: int, rows) -> torch.Tensor:
        """Keys of the picture, (rows, keys)."""
        if self.cross:  # other heads have a placeholder for it
            own = id(module) in self.cross
            return torch.full((1, n_keys), own, dtype=torch.bool, device=self.running.ids.device)
        return self._keys_of(self.marked[PICTURES][rows], n_keys)

    def _keys_of(self, tokens: torch.Tensor, n_keys: int) -> torch.Tensor:
        """Marks of the prompt's tokens (rows, tokens) as marks of keys: (rows, keys), the last of all tokens so far."""
        return torch.nn.functional.pad(tokens, (0, self.running.n_tokens - tokens.shape[1]))[:, -n_keys:]

    def _keys(self, module, edit: Attend, n_keys: int, rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys that an edit changes, and by how much: (rows, 1, 1, keys) each."""
        image = self._image(module, n_keys, rows)
        words = f"the words {edit.words!r}"
        about = self._keys_of(self.marked[words][rows], n_keys) if edit.words else image
        amount = edit.amount - 1 if edit.operation == "multiply" else edit.amount
        strength = torch.full(image.shape, amount, device=image.device)
        if edit.tokens:
            counts = image.sum(1)
            if (counts != len(edit.tokens)).any():
                raise ValueError(f"{len(edit.tokens)} weights for pictures of {counts.tolist()} tokens")
            strength[image] *= torch.tensor(edit.tokens, device=image.device).repeat(len(image))
        if edit.to == "question":
            about = self._keys_of(self.marked[QUESTION][rows], n_keys)
        target = ~about if edit.to == "elsewhere" else about
        return target[:, None, None], strength[:, None, None]

    def _visible(self, module, scores, mask, rows, heads) -> torch.Tensor:
        """What is added to scores so that each query sees what it may see."""
        n_queries, n_keys = scores.shape[-2:]
        if mask is None:
            if n_queries == 1 or id(module) in self.cross or not getattr(module, "is_causal", True):
                return torch.zeros((), device=scores.device)
            allowed = torch.ones(n_queries, n_keys, dtype=torch.bool, device=scores.device).tril(n_keys - n_queries)
        else:
            mask = mask[rows] if len(mask) > 1 else mask
            mask = (mask[:, heads] if mask.shape[1] > 1 else mask)[..., -n_queries:, :n_keys]
            if mask.dtype != torch.bool:
                return mask.float()
            allowed = mask
        return torch.where(allowed, 0.0, torch.finfo(torch.float32).min)

    def _redistributed(self, module, edit, weights, rows, query) -> torch.Tensor:
        n_keys = weights.shape[-1]
        image = self._image(module, n_keys, rows)
        sinks = self.sinks[self.layers[id(module)]]
        sinks = self._keys_of(sinks[rows], n_keys)[:, None, None]
        kept = torch.where(sinks, edit.amount * weights, weights)
        freed = (weights - kept).sum(-1, keepdim=True)
        seen = image[:, None, None]
        others = weights * (seen & ~sinks)
        total = others.sum(-1, keepdim=True)
        moved = torch.where(total > 0, kept + freed * others / total.clamp_min(1e-30), weights)
        if edit.reading:
            least, most = edit.reading
            picture = (weights * seen).sum(-1, keepdim=True)
            moved = torch.where((picture >= least) & (picture - total <= most * picture), moved, weights)
        return torch.where(self._queries(edit.scope, query, rows), moved, weights)


def _by_heads(edits: list[tuple[Attend, list[int]]]) -> Iterator[tuple[list[int], list[Attend]]]:
    """Heads that have the same edits, and these in order."""
    of_head: dict[int, list[Attend]] = {}
    for edit, heads in edits:
        for head in heads:
            of_head.setdefault(head, []).append(edit)
    same: dict[tuple[int, ...], tuple[list[int], list[Attend]]] = {}
    for head, own in of_head.items():
        same.setdefault(tuple(map(id, own)), ([], own))[0].append(head)
    yield from same.values()
