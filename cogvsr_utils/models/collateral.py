"""What an edit does beside what it is for.

side_effects(vlm, items, edits)    on each function's steps, with the pictures and without: KL, replies, accuracy
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.models.batching import batched, in_halves, require_count
from cogvsr_utils.models.chat import check_items, check_lengths, conversation, right_answers
from cogvsr_utils.models.hooks import unrounded_logits
from cogvsr_utils.models.interventions import AnyEdit, as_list, intervene, needs_picture
from cogvsr_utils.models.options import reply_tokens
from cogvsr_utils.models.vlm import VLM
from cogvsr_utils.stats import clustered_mean, clustered_share

PICTURES, TEXT = "with pictures", "text alone"


@dataclass(frozen=True)
class _Prompt:
    """A step as it is asked: its item, function and text, and the first token of the right answer."""

    item: Item
    function: str
    text: str
    right: int


def side_effects(
    vlm: VLM,
    items: list[Item],
    edits: Mapping[str, AnyEdit | Sequence[AnyEdit]],
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> pd.DataFrame:
    """What edits, by name, do to the first token of the reply to every step, asked as it is and without its picture,
    the right answers to earlier steps in place.

    Returns a DataFrame: edit, prompts (``PICTURES`` or ``TEXT``), function, n; ``kl``, the Kullback-Leibler divergence
    in nats from the distribution without the edit to that with it, with low and high (95 % over scenes); ``moved``, the
    share of steps whose likeliest token is another; ``before``, how often it is the right answer's, and ``change`` of
    that with change_low and change_high; ``most`` and ``most_before``, how often the commonest likeliest token is.
    Raises BadChat as ``answer`` does.

    >>> from cogvsr_utils import load_items, load_vlm, mask
    >>> vlm, items = load_vlm("nano-internvl"), load_items("synth", limit=2)
    >>> table = side_effects(vlm, items, {"one head off": mask([(5, 0)])}, progress=False)
    >>> bool((table["kl"] >= 0).all()), sorted(set(table["prompts"]))
    (True, ['text alone', 'with pictures'])
    """
    require_count("batch_size", batch_size)
    if not isinstance(edits, Mapping):
        raise TypeError(f"edits are {type(edits).__name__}; expected a mapping from names to edits")
    check_items(vlm, items)
    check_lengths(vlm, items, right_answers(items))
    asked = {PICTURES: [item for item in items if item.image is not None],
             TEXT: [replace(item, image=None) for item in items]}  # fmt: skip
    rows = []
    with tqdm(total=len(asked) * (1 + len(edits)), desc="side effects", disable=not progress) as bar:
        for kind, some in asked.items():
            prompts = sorted(_prompts(vlm, some), key=lambda prompt: len(prompt.text))
            before = _first_tokens(vlm, prompts, None, batch_size) if prompts else None
            bar.update()
            for name, edit in edits.items():
                if prompts:  # an edit of the picture's tokens does nothing in a text
                    running = [each for each in as_list(edit) if kind == PICTURES or not needs_picture(vlm, each)]
                    after = _first_tokens(vlm, prompts, running, batch_size)
                    rows += [{"edit": name, "prompts": kind, **row} for row in _compared(prompts, before, after)]
                bar.update()
    return pd.DataFrame(rows)


def _prompts(vlm: VLM, items: list[Item]) -> list[_Prompt]:
    """Every step that has a function and an answer whose tokens are apart from the prompt's."""
    found = []
    for item in items:
        replies = [step.answer for step in item.steps]
        for number, step in enumerate(item.steps):
            text = vlm.render(conversation(item, replies[:number], number), prompt=True)
            tokens = next(iter(reply_tokens(vlm, text, [step.answer])), ())
            if step.function and tokens:
                found.append(_Prompt(item, step.function, text, tokens[0]))
    return found


@torch.inference_mode()
def _first_tokens(vlm: VLM, prompts: list[_Prompt], edits, batch_size: int) -> torch.Tensor:
    """Log-probabilities of the first token of each reply: (prompts, vocabulary), on the CPU."""

    def read(batch):
        inputs = vlm.encode([prompt.text for prompt in batch], [open_image(prompt.item) for prompt in batch])
        # Generation knows where a prompt ends, so that edits of every scope can run.
        out = vlm.model.generate(
            **inputs, do_sample=False, max_new_tokens=1, return_dict_in_generate=True, output_logits=True
        )
        return list(out.logits[0].float().log_softmax(1).cpu())

    with intervene(vlm, edits), unrounded_logits(vlm):
        rows = [row for batch in batched(prompts, batch_size, lambda prompt: 0) for row in in_halves(read, batch)]
    return torch.stack(rows)


def _compared(prompts: list[_Prompt], before: torch.Tensor, after: torch.Tensor) -> list[dict]:
    """A row a function."""
    likeliest, now = (each.argmax(1).numpy() for each in (before, after))
    known = before > -torch.inf  # the rest has no probability without the edit, and adds nothing
    kl = torch.where(known, before.exp() * (before - after), 0.0).sum(1).clamp(min=0).double().numpy()
    right = np.array([prompt.right for prompt in prompts])
    function = np.array([prompt.function for prompt in prompts])
    group, rows = np.array([prompt.item.group_id for prompt in prompts]), []
    for name in dict.fromkeys(function):
        own = function == name
        row = {"function": name, "n": int(own.sum()), "moved": (now != likeliest)[own].mean(),
               "before": (likeliest == right)[own].mean()}  # fmt: skip
        row["kl"], row["low"], row["high"] = clustered_mean(kl[own], group[own])
        gained = (now == right)[own].astype(float) - (likeliest == right)[own]
        row["change"], row["change_low"], row["change_high"] = clustered_share(gained, group[own], lowest=-1)
        for column, tokens in (("most", now), ("most_before", likeliest)):
            row[column] = np.unique(tokens[own], return_counts=True)[1].max() / own.sum()
        rows.append(row)
    return rows
