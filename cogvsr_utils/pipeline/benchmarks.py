"""Benchmarks as they are, with heads edited, and asked otherwise.

conditions(heads, strength, ...)      how each benchmark is asked: base, edits, random sets, controls
condition_replies(vlm, items, ...)    what a model replies under one condition
condition_scores(replies, items, ...) accuracy under each condition, and its change, paired by question
beside_random(scores)                 what ablation changes beside random sets
lookalike(benchmark)                  a benchmark's look-alike, made of split C
lookalike_replies[benchmark], lookalike_effects    the same of look-alikes
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.benchmarks import FORCED, benchmark_scores, forced_scores, undetermined_shares
from cogvsr_utils.analysis.matching import control_sets
from cogvsr_utils.dataset.benchmarks import controls
from cogvsr_utils.dataset.benchmarks.benchmark import load_benchmark
from cogvsr_utils.dataset.benchmarks.cogvsr import COGVSR
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes
from cogvsr_utils.dataset.cues import BOXES, Boxes, drawn, in_words, misplaced, read_boxes
from cogvsr_utils.dataset.images import grey_pictures
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.jsonl import read_items
from cogvsr_utils.dataset.loading import BENCHMARKS
from cogvsr_utils.dataset.splits import TEST
from cogvsr_utils.dataset.synth.build import build_synth
from cogvsr_utils.files import digest
from cogvsr_utils.functions import MAIN
from cogvsr_utils.pipeline import emphasis
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.selection import Rankings
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import two_sided_p

if TYPE_CHECKING:
    from cogvsr_utils.models.head_edits import Edit
    from cogvsr_utils.models.vlm import VLM

ASKED = tuple(BENCHMARKS)
BASE, ABLATED = "base", "ablated"
RANDOM = "random heads ablated"
THINKING = "after thinking"
TRUE_PICTURE, GREY_PICTURE = "true picture", "grey picture"
REPLY = "reply"
MARGIN = 8  # tokens of a reply beyond the longest answer: its letter, a full stop, a short introduction
THOUGHT = 256  # tokens of a thought
WITH_STEPS = 160  # questions of CogVSR's look-alike

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Condition:
    """How a benchmark is asked: what ``ask`` makes of its items, none where it does not apply; with which ``edits``;
    under which ``attention`` implementation, the model's own where it is empty.

    Replies are compared with those of the condition ``against``. ``given`` is a digest of what else the questions
    depend on.
    """

    name: str
    edits: tuple[Edit, ...] = ()
    ask: Callable[[list[Item]], list[Item]] = list
    attention: str = ""
    against: str = BASE
    given: str = ""


def spatial_conditions(
    experiment: Experiment, rankings: Rankings, scaled: pd.DataFrame, boxes: Boxes | None = None
) -> list[Condition]:
    """``conditions`` for the spatial functions' top heads by the paper's importance, scaled by the strength that was
    best on B."""
    strength = scaled.loc[scaled["split"] == TEST, "strength"].iloc[0]
    return conditions(
        rankings.heads, emphasis.spatial_heads(rankings), float(strength), experiment.settings.random_sets, boxes
    )


def conditions(
    all_heads: Sequence[tuple[int, int]],
    heads: Sequence[tuple[int, int]],
    strength: float,
    n_random: int,
    boxes: Boxes | None = None,
) -> list[Condition]:
    """How a benchmark is asked: as it is; with ``heads`` of ``all_heads`` ablated and scaled by ``strength``; with
    ``n_random`` random sets of as many heads of the same layers ablated; without its steps, or where it has none after
    thinking aloud; under eager attention; with the option that the answer cannot be determined, with its own picture
    and a grey one; and with ``boxes`` in words and drawn, each beside misplaced ones."""
    from cogvsr_utils.models.head_edits import mask, scale

    own = list(dict.fromkeys(map(tuple, heads)))
    sets = control_sets(all_heads, {"spatial": own}, n_random, "same layers") if n_random else []
    found = [
        Condition(BASE),
        Condition(ABLATED, (mask(own),)),
        Condition("scaled", (scale(own, strength),)),
        *(Condition(f"{RANDOM} {n}", (mask(each["spatial"]),)) for n, each in enumerate(sets, 1)),
        Condition("without steps", ask=controls.direct),
        Condition(THINKING, ask=controls.step_by_step),
        Condition("eager attention", attention="eager"),
        Condition(TRUE_PICTURE, ask=controls.undetermined),
        Condition(GREY_PICTURE, ask=lambda items: grey_pictures(controls.undetermined(items))),
    ]
    for name, show in (("boxes in words", in_words), ("boxes drawn", drawn)) if boxes else ():
        for kind, places, against in (
            (name, boxes, f"misplaced {name}"), (f"misplaced {name}", misplaced(boxes), BASE)
        ):  # fmt: skip
            given = digest(json.dumps(places, sort_keys=True))
            found.append(Condition(kind, ask=partial(show, boxes=places), against=against, given=given))
    return found


def condition_replies(
    vlm: VLM, items: list[Item], condition: Condition, room: int, resume: Path | None = None
) -> pd.DataFrame:
    """Replies to items of benchmarks under a condition, greedily, and the likeliest options of those that have options
    and no steps: the columns of ``answer`` and ``forced_choice``, with ``condition`` and ``how`` (``REPLY`` or
    ``FORCED``) and ``against``. Empty where the condition does not apply, or the model has no such attention.

    A reply has ``room`` tokens at most (see ``reply_room``), a thought ``THOUGHT``. ``resume`` is where replies are
    kept batch by batch meanwhile. Raises as ``answer`` and ``forced_choice`` do.
    """
    from cogvsr_utils.models.answering import answer
    from cogvsr_utils.models.options import forced_choice
    from cogvsr_utils.models.vlm import attention_switched

    asked = condition.ask(items)
    offered = [item for item in asked if not item.steps and (item.options or item.answer_type == "yesno")]
    switched = attention_switched(vlm, condition.attention) if condition.attention else nullcontext(True)
    with switched as available:
        if not available:
            log.warning("%s has no %s attention; the condition is left out", vlm.name, condition.attention)
        if not (asked and available):
            return pd.DataFrame(columns=["condition", "how", "against"])
        edits = list(condition.edits)
        room = THOUGHT if any(controls.THINKING in item.steps for item in asked) else room
        tables = [answer(vlm, asked, edits=edits, max_new_tokens=room, resume=resume).assign(how=REPLY)]
        if offered:
            tables.append(forced_choice(vlm, offered, edits=edits).assign(how=FORCED))
    return pd.concat(tables, ignore_index=True).assign(condition=condition.name, against=condition.against)


def reply_room(vlm: VLM, items: list[Item]) -> int:
    """How many tokens a reply to any of the items may have: those of the longest option or answer, and ``MARGIN``."""
    texts = {text for item in items for each in (item, *item.steps) for text in each.options or [each.answer]}
    texts.add(controls.UNDETERMINED)
    return max(len(tokens) for tokens in vlm.tokenizer(sorted(texts))["input_ids"]) + MARGIN


def condition_scores(replies: pd.DataFrame, items: Sequence[Item]) -> pd.DataFrame:
    """Accuracy under every condition: ``replies`` are those of ``condition_replies`` to ``items``, of all conditions.

    Columns: those of ``benchmark_scores``; ``condition``; ``against``, what the change is from; ``covered`` of forced
    choices; ``same``, the share of replies that are, word for word, those of ``against``; ``thought``, the mean number
    of words of a thought. Where the answer may be that
    it cannot be determined, those of ``undetermined_shares`` instead.
    """
    scores = []
    for (name, how, against), own in replies.groupby(["condition", "how", "against"], sort=False):
        if name in (TRUE_PICTURE, GREY_PICTURE):
            table = undetermined_shares(own, items, FORCED if how == FORCED else "strict")
        else:
            other = replies[(replies["condition"] == against) & (replies["how"] == how)]
            before = other[other["uid"].isin(own["uid"])]
            comparable = name != BASE and set(before["uid"]) == set(own["uid"])
            scored = forced_scores if how == FORCED else benchmark_scores
            table = scored(own, items, before if comparable else None)
            if comparable:
                both = own.merge(before, on=["uid", "step"], suffixes=("", "_before"))
                same = (both["prediction"] == both["prediction_before"]).mean()
                table = table.assign(same=same, against=against)
            if name == THINKING:
                thoughts = own.loc[own["step"] != MAIN, "prediction"]
                table = table.assign(thought=thoughts.str.split().str.len().mean())
        scores.append(table.assign(condition=name))
    return pd.concat(scores, ignore_index=True)


def beside_random(scores: pd.DataFrame, condition: str = ABLATED) -> pd.DataFrame:
    """The rows of a condition with the changes under random sets: random (their mean), random_low, random_high (the
    extremes), n_random, and p_random (two-sided, of the condition's change among them; at least 2 / (1 + n_random))."""
    key = ["benchmark", "subset", "scorer", "protocol"]
    random = scores[scores["condition"].str.startswith(RANDOM)].groupby(key, sort=False)["change"]
    own = scores[scores["condition"] == condition].set_index(key)
    drawn = random.agg(random="mean", random_low="min", random_high="max", n_random="count", changes=list)
    both = own.join(drawn, how="inner")
    p = [
        two_sided_p(change, null) if np.isfinite(change) else np.nan
        for change, null in zip(both["change"], both["changes"], strict=True)
    ]
    return both.drop(columns="changes").assign(p_random=np.array(p, dtype=float)).reset_index()


@contextmanager
def lookalike(benchmark: str) -> Iterator[tuple[list[Item], Boxes]]:
    """A benchmark's look-alike: synthetic questions of split C in its files, read by its loader, whatever the data on
    which heads are selected; and the boxes of their things. Of CogVSR's, which gets all questions with their steps, the
    first ``WITH_STEPS``. The files are there inside the block."""
    questions = [item for item in read_items(build_synth()) if item.split == TEST]
    with tempfile.TemporaryDirectory() as folder:
        copy = write_lookalikes(questions, folder)[benchmark]
        items = load_benchmark(BENCHMARKS[benchmark], copy).items
        few = items[:WITH_STEPS] if benchmark == COGVSR.name else items
        yield few, read_boxes(Path(folder) / benchmark / BOXES)


@result(variants=ASKED, splits=(TEST,), gpu=True)
def lookalike_replies(experiment: Experiment, benchmark: str, rankings: Rankings, scaled: pd.DataFrame) -> pd.DataFrame:
    """``condition_replies`` to a benchmark's look-alike under all conditions."""
    with lookalike(benchmark) as (items, boxes):
        return pd.concat(
            [
                condition_replies(experiment.vlm, items, each, reply_room(experiment.vlm, items))
                for each in spatial_conditions(experiment, rankings, scaled, boxes)
            ],
            ignore_index=True,
        )


@result(splits=(TEST,), needs={name: lookalike_replies[name] for name in ASKED})
def lookalike_effects(experiment: Experiment, **replies: pd.DataFrame) -> pd.DataFrame:
    """``condition_scores`` of all look-alikes."""
    tables = []
    for benchmark, own in replies.items():
        with lookalike(benchmark) as (items, _):
            tables.append(condition_scores(own, items))
    return pd.concat(tables, ignore_index=True)
