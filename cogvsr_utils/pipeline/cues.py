"""Main questions beside cues: boxes of what is asked about, drawn or in words, beside placebos.

CONDITIONS                  what is shown, and what it is compared with
cued(items, condition)      items under a condition
never_cued(items)           those of kinds that training never shows with cues
cued_answers[condition]     replies to main questions under one of them
cue_effects                 each cue against its placebo and against none
with_cues(experiment)       the experiment on CogVSR-Synth, which records where things are
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.accuracy import compare
from cogvsr_utils.dataset import cues
from cogvsr_utils.dataset.images import grey_pictures
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.splits import SELECTION, TEST, TUNING
from cogvsr_utils.dataset.synth.questions import CUED
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import false_discovery_rate

NONE, GREY = "no cue", "grey picture"
TRUE, MISPLACED, OTHER, SHUFFLED = "true", "misplaced", "other things", "shuffled"
# A condition: how the boxes are shown, which boxes, and the conditions that it is compared with.
CONDITIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    NONE: ("", "", ()),
    **{
        f"{shown}, {which}": (shown, which, (f"{shown}, {MISPLACED}", NONE) if which == TRUE else (NONE,))
        for shown in (*cues.MARKS, "words", "box and words")
        for which in (TRUE, MISPLACED, OTHER)
    },
    f"words, {SHUFFLED}": ("words", SHUFFLED, (NONE,)),
    GREY: ("", "grey", (NONE,)),
    f"{GREY}, box, {TRUE}": ("box", "grey", (GREY,)),
    f"{GREY}, words, {TRUE}": ("words", "grey", (GREY,)),
}
ASKED = (SELECTION, TUNING, TEST, "hard")  # nothing is chosen before the cues' effect is seen, so all questions count
BOX = f"box, {TRUE}"  # the cue that heads are chosen with, and that a claim rests on
NEVER, TRAINED = "never cued", "cued in training"  # kinds of question, by what the training of a nano model shows


def with_cues(experiment: Experiment) -> Experiment:
    """The experiment on CogVSR-Synth, whatever its own data are: there alone it is recorded where things are."""
    return experiment if experiment.source == "synth" else replace(experiment, source="synth", _cache={})


def cued(items: Sequence[Item], condition: str) -> list[Item]:
    """Those items with a picture whose question names things with boxes, under a condition; without those whose
    pictures have too few things for it: others, where the boxes are to be on them, or two, where they are shuffled.

    >>> from cogvsr_utils import load_items
    >>> items = load_items("synth", limit=20)
    >>> len(cued(items, "no cue")) == len(cued(items, "box, true")) <= 20
    True
    """
    shown, which, _ = CONDITIONS[condition]
    asked, others = cues.boxes_asked_about(items)
    items = [item for item in items if item.uid in asked and item.image is not None]
    boxes = asked
    if which == MISPLACED:
        boxes = cues.misplaced(asked, others)
    elif which in (OTHER, SHUFFLED):
        boxes = cues.on_other_things(asked, others) if which == OTHER else cues.shuffled(asked)
        items = [item for item in items if item.uid in boxes]
    if which == "grey":
        items = grey_pictures(items)
    if "words" in shown:
        items = cues.in_words(items, boxes)
    return cues.drawn(items, boxes, shown.split(" ")[0]) if shown in (*cues.MARKS, "box and words") else items


def never_cued(items: Sequence[Item]) -> list[Item]:
    """The items of kinds that the training of a nano model never shows with cues."""
    return [item for item in items if item.subset not in CUED]


@result(variants=tuple(CONDITIONS), splits=ASKED, gpu=True)
def cued_answers(experiment: Experiment, condition: str, resume: Path) -> pd.DataFrame:
    """Judged replies to the main questions in plain wording that name things with boxes, asked alone; no rows without
    such."""
    from cogvsr_utils.models.answering import answer

    items = cued([item for split in ASKED for item in experiment.items(split)], condition)
    if not items:
        return pd.DataFrame(columns=["uid", "step", "group_id", "subset", "function", "correct"])
    return judge(answer(experiment.vlm, items, steps=False, resume=resume))


ANSWERS = {f"replies_{number}": cued_answers[condition] for number, condition in enumerate(CONDITIONS)}


@result(needs=ANSWERS)
def cue_effects(experiment: Experiment, **replies: pd.DataFrame) -> pd.DataFrame:
    """Each condition against those that it is compared with, on the same questions: true boxes against the misplaced
    ones, of which the difference is what the cue says, and against no cue, since a placebo may do harm; all others
    against no cue. Kinds that training never shows with cues and those that it does, apart.

    Columns: kinds, condition, against, n, accuracy, change with low and high (95 % over pictures) and p; q over all;
    ``kept``, the share still right of what is right without a cue.
    """
    tables, rows = dict(zip(CONDITIONS, (replies[name] for name in ANSWERS), strict=True)), []
    for kinds, condition in product((NEVER, TRAINED), CONDITIONS):
        table, compared = tables[condition], CONDITIONS[condition][-1]
        table = table[table["subset"].isin(CUED) == (kinds == TRAINED)]
        if not len(table):
            continue
        right = tables[NONE].set_index("uid").loc[table["uid"], "correct"].to_numpy(bool)
        row = {"kinds": kinds, "condition": condition, "n": len(table), "accuracy": table["correct"].mean(),
               "kept": table["correct"].to_numpy(float)[right].mean() if right.any() else np.nan}  # fmt: skip
        for against in compared or ("",):
            if against:
                found = compare(table, tables[against][tables[against]["uid"].isin(table["uid"])]).iloc[0]
                change = {"change": found["change"], "low": found["ci_low"], "high": found["ci_high"], "p": found["p"]}
            rows.append(row | {"against": against} | (change if against else {}))
    columns = ["kinds", "condition", "against", "n", "accuracy", "kept", "change", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=columns)
    tested = table["p"].notna()
    return table.assign(q=pd.Series(false_discovery_rate(table.loc[tested, "p"]), table.index[tested], dtype=float))
