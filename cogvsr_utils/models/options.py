"""Forced choice: how probable each option of a question is, however the model would write it.

forced_choice(vlm, items)    the likeliest option of main questions or of steps, in a table as ``answer`` returns it,
                             and the share of probability that all options cover
confidence(vlm, items)       the largest probability of a first token
choices(item)                the options of an item, and the replies that choose each
spellings(text)              the ways of writing a reply that count

A generated reply that no scorer can read is wrong; forced choice asks what the model would take if it had to.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models.answering import answer_table
from cogvsr_utils.models.batching import batched, in_halves, require_count
from cogvsr_utils.models.chat import check_items, check_lengths, conversation, right_answers
from cogvsr_utils.models.interventions import AnyEdit, intervene, require_one_text
from cogvsr_utils.models.positions import require_causal
from cogvsr_utils.models.vlm import VLM


@dataclass(frozen=True)
class _Row:
    """A chat to be read: its question's number, the prompt with one spelling, and that spelling's tokens."""

    question: int
    text: str
    tokens: tuple[int, ...]


def forced_choice(
    vlm: VLM,
    items: list[Item],
    *,
    steps: bool = False,
    edits: AnyEdit | Sequence[AnyEdit] | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> pd.DataFrame:
    """The likeliest option of every main question, asked alone; or, with ``steps``, of every step that has options or
    is answered with yes or no, the right answers to earlier ones in place.

    An option's probability is the sum over its spellings of the probability that a reply begins so; of spellings of
    which one begins another the shorter counts only where it does not go on so, and of such as several options have
    none: an option that the tokenizer writes as another has 0. Returns the columns of ``answer``,
    ``prediction`` being the option, ``covered``, the share of probability in [0, 1] that all options have together
    (where it is small, the choice is forced indeed), and ``log_probs``, the natural logarithms of each option's, in the
    order of ``choices``. Raises BadChat where ``answer`` does, ValueError for an item without options, or where no step
    has any, for edits of a scope that prompts and replies in one text do not tell apart, and for a model that reads a
    text in both directions.

    >>> from cogvsr_utils import Item, Step, load_vlm
    >>> step = Step("Is it round?", "no", "yesno", None, "Low-Level Visual Perception")
    >>> vlm, item = load_vlm("nano-internvl"), Item("1", "mine", "1", "Is it red?", "yes", "yesno", [step])
    >>> row = forced_choice(vlm, [item], progress=False).iloc[0]
    >>> row["prediction"] in ("yes", "no"), bool(0 <= row["covered"] <= 1)
    (True, True)
    >>> forced_choice(vlm, [item], steps=True, progress=False)["function"].tolist()
    ['Low-Level Visual Perception']
    """
    require_count("batch_size", batch_size)
    require_one_text(edits)
    require_causal(vlm)
    check_items(vlm, items)
    asked = _steps_with_options(items) if steps else [(item, MAIN) for item in items]
    if not asked:
        raise ValueError("no step has options; expected some to choose from")
    replies = right_answers(items) if steps else {}
    offered = [choices(_alone(item, number)) for item, number in asked]
    prompts = [
        vlm.render(conversation(item, replies[item.uid][:number] if steps else [], number), prompt=True)
        for item, number in asked
    ]
    ways = [
        {option: reply_tokens(vlm, prompt, written) for option, written in own.items()}
        for prompt, own in zip(prompts, offered, strict=True)
    ]
    ways = [_distinct(own) for own in ways]
    longest = max((len(tokens) for own in ways for spelled in own.values() for tokens in spelled), default=0)
    # Right answers are in place where steps are asked, and options are about as long.
    check_lengths(vlm, items, replies or None, 0 if steps else longest)
    rows = [row for number, own in enumerate(ways) for row in _rows(number, own)]
    known: list[dict[tuple[int, ...], float]] = [{} for _ in asked]  # of each: log p of a beginning's last token
    for after, own in zip(known, ways, strict=True):
        wanted = (tokens for spelled in own.values() for tokens in spelled)
        after.update({tokens[:n]: np.nan for tokens in wanted for n in range(1, len(tokens) + 1)})
    shown = [item for item, _ in asked]

    def read(batch):
        for row, log_probs in zip(batch, _read(vlm, shown, batch), strict=True):
            after = known[row.question]
            for beginning in after:
                if beginning[:-1] == row.tokens[: len(beginning) - 1] and len(beginning) <= len(row.tokens):
                    after[beginning] = log_probs[len(beginning) - 1, beginning[-1]]
        return batch

    with intervene(vlm, edits), tqdm(total=len(rows), desc="forced choice", disable=not progress) as bar:
        for batch in batched(rows, batch_size, lambda row: shown[row.question].image is None):
            in_halves(read, batch)
            bar.update(len(batch))
    probabilities = [
        {option: _probability(spelled, own, after) for option, spelled in own.items()}
        for own, after in zip(ways, known, strict=True)
    ]
    chosen = {
        (item.uid, number): max(own, key=own.get) if any(own.values()) else ""
        for (item, number), own in zip(asked, probabilities, strict=True)
    }
    named = {item.uid: [chosen.get((item.uid, n)) for n in (range(len(item.steps)) if steps else [MAIN])]
             for item in items}  # fmt: skip
    table = answer_table(items if steps else [replace(item, steps=[]) for item in items], named)
    table = table[table["prediction"].notna()].reset_index(drop=True)
    with np.errstate(divide="ignore"):  # -inf for an option of no probability
        log_probs = [np.log(list(own.values())).tolist() for own in probabilities]
    return table.assign(covered=[sum(own.values()) for own in probabilities], log_probs=log_probs)


def _steps_with_options(items: list[Item]) -> list[tuple[Item, int]]:
    """The steps, with their items, that have something to choose from."""
    return [
        (item, number)
        for item in items
        for number, step in enumerate(item.steps)
        if step.options or step.answer_type == "yesno"
    ]


def _alone(item: Item, number: int) -> Item:
    """A step as a main question, or the main question itself."""
    if number == MAIN:
        return item
    step = item.steps[number]
    return replace(item, question=step.question, answer_type=step.answer_type, options=step.options, meta={})


@torch.inference_mode()
def confidence(vlm: VLM, items: list[Item], *, batch_size: int = 16) -> pd.Series:
    """How sure a model is: the largest probability of a reply's first token, of every main question asked alone; in
    [0, 1], by uid. Raises BadChat where ``answer`` does.

    >>> from cogvsr_utils import Item, load_vlm
    >>> bool(0 < confidence(load_vlm("nano-internvl"), [Item("1", "mine", "1", "Is it red?", "yes", "yesno", [])])["1"])
    True
    """
    require_count("batch_size", batch_size)
    check_items(vlm, items)
    check_lengths(vlm, [replace(item, steps=[]) for item in items])
    found = {}

    def read(batch):
        prompts = [vlm.render(conversation(item, [], MAIN), prompt=True) for item in batch]
        inputs = vlm.encode(prompts, [open_image(item) for item in batch], side="left")
        rows = torch.arange(len(batch), device=vlm.device)
        logits = vlm.next_logits(inputs, rows, torch.full_like(rows, inputs["input_ids"].shape[1] - 1))
        return logits.softmax(1).amax(1).tolist()

    for batch in batched(items, batch_size, lambda item: item.image is None):
        found |= dict(zip([item.uid for item in batch], in_halves(read, batch), strict=True))
    return pd.Series({item.uid: found[item.uid] for item in items}, name="confidence")


def choices(item: Item) -> dict[str, list[str]]:
    """The options of an item's main question, and the replies that choose each: the option in its spellings, and its
    letter where the question lists letters. Raises ValueError for an item without options.

    >>> item = Item("1", "mine", "1", "Where?\\nA. up\\nB. down", "up", "choice", [], ["up", "down"])
    >>> choices(Item(**vars(item) | {"meta": {"lettered": True}}))["down"]
    ['down', 'Down', 'DOWN', ' down', ' Down', ' DOWN', 'B', ' B']
    """
    options = item.options or (["yes", "no"] if item.answer_type == "yesno" else None)
    if not options:
        raise ValueError(f"item {item.uid!r} has no options; expected some to choose from")
    replies = {option: spellings(option) for option in options}
    if item.meta.get("lettered"):  # a small letter may be a word
        for letter, own in zip(ascii_uppercase, replies.values(), strict=False):
            own += [letter, f" {letter}"]
    return replies


def spellings(text: str) -> list[str]:
    """The ways of writing a reply that count as it: its case, and a blank before it.

    >>> spellings("yes")
    ['yes', 'Yes', 'YES', ' yes', ' Yes', ' YES']
    """
    forms = list(dict.fromkeys((text, text.lower(), text.capitalize(), text.upper())))
    return [*forms, *(f" {form}" for form in forms)]


def reply_tokens(vlm: VLM, prompt: str, replies: list[str]) -> dict[tuple[int, ...], str]:
    """Replies as tokens after the prompt, none of which begins another, and the whole text of each."""
    found = {}
    for reply in replies:
        encoded = vlm.tokenizer(prompt + reply, return_offsets_mapping=True, add_special_tokens=False)
        tail = [
            (id_, first)
            for id_, (first, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            if stop > len(prompt)
        ]
        if tail and tail[0][1] >= len(prompt):  # else the tokenizer joins it with the prompt's end
            found[tuple(id_ for id_, _ in tail)] = prompt + reply
    return {tokens: text for tokens, text in found.items() if not any(_begins(other, tokens) for other in found)}


def _distinct(ways: dict[str, dict]) -> dict[str, dict]:
    """Without the tokens that several options have, such as those of words that the tokenizer does not know."""
    owners = Counter(tokens for own in ways.values() for tokens in own)
    return {option: {k: v for k, v in own.items() if owners[k] == 1} for option, own in ways.items()}


def _begins(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether ``other`` is longer than ``one`` and begins with it."""
    return len(one) < len(other) and other[: len(one)] == one


def _rows(number: int, ways: dict[str, dict[tuple[int, ...], str]]) -> list[_Row]:
    """The fewest chats of a question in which every token of every spelling can be read: one for spellings that differ
    in their last token alone, of which none whose beginning another one has."""
    last = {tokens[:-1]: _Row(number, text, tokens) for spelled in ways.values() for tokens, text in spelled.items()}
    return [row for beginning, row in last.items() if not any(_begins(beginning, other) for other in last)]


def _read(vlm: VLM, items: list[Item], batch: list[_Row]) -> list[np.ndarray]:
    """Log-probabilities (tokens of the row's spelling, vocabulary) of what follows each beginning, a row."""
    inputs = vlm.encode([row.text for row in batch], [open_image(items[row.question]) for row in batch], side="left")
    width = inputs["input_ids"].shape[1]
    at = [(n, width - len(row.tokens) - 1 + k) for n, row in enumerate(batch) for k in range(len(row.tokens))]
    for n, row in enumerate(batch):
        if tuple(inputs["input_ids"][n, width - len(row.tokens) :].tolist()) != row.tokens:
            raise ValueError(
                f"item {items[row.question].uid!r}: the processor reads {row.text!r:.80} otherwise than alone"
            )
    where = torch.tensor(at, device=vlm.device).T
    with torch.inference_mode():
        logits = vlm.next_logits(inputs, where[0], where[1])
        log_probs = logits.double().log_softmax(1).cpu().numpy()
    return np.split(log_probs, np.cumsum([len(row.tokens) for row in batch])[:-1])


def _probability(spelled: dict, ways: dict[str, dict], after: dict[tuple[int, ...], float]) -> float:
    """The probability of an option's spellings, less that of other options' that begin with them."""

    def of(tokens):
        return float(np.exp(sum(after[tokens[:n]] for n in range(1, len(tokens) + 1))))

    longer = {other for own in ways.values() for other in own if any(_begins(tokens, other) for tokens in spelled)}
    first = [other for other in longer if not any(_begins(one, other) for one in longer)]
    return max(0.0, sum(map(of, spelled)) - sum(map(of, first)))
