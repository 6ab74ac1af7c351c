"""Main questions beside cues: boxes of what is asked about, drawn or in words, beside placebos.

STYLES                      how boxes are drawn
CONDITIONS                  what is shown, and what it is compared with
questions(experiment)       all plain questions, and further ones about other scenes
cued(items, condition)      items under a condition
never_cued(items)           those of kinds that the training of nano-internvl never shows with cues
cued_answers[condition]     replies to main questions under one of them
cue_effects                 each cue against its placebo and against none
marked_objects              whether a model knows what a mark means
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
from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.splits import SELECTION, TEST, TUNING
from cogvsr_utils.dataset.synth.build import build_synth
from cogvsr_utils.dataset.synth.questions import CUED
from cogvsr_utils.paths import MORE_SYNTH
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import clustered_share, false_discovery_rate

NONE, GREY = "no cue", "grey picture"
TRUE, MISPLACED, OTHER, SHUFFLED = "true", "misplaced", "other things", "shuffled"

# A mark and how it is drawn: as in the training of nano-internvl, and boxes of another colour and of a broader stroke.
STYLES: dict[str, tuple[str, dict]] = {mark: (mark, {}) for mark in cues.MARKS} | {
    "black box": ("box", {"color": (0, 0, 0)}),
    "broad box": ("box", {"stroke": 2.5 * cues.STROKE}),
}
# A condition: how the boxes are shown, which boxes, and the conditions that it is compared with.
CONDITIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    NONE: ("", "", ()),
    **{
        f"{shown}, {which}": (shown, which, (f"{shown}, {MISPLACED}", NONE) if which == TRUE else (NONE,))
        for shown in (*STYLES, "words", "box and words")
        for which in (TRUE, MISPLACED, OTHER)
    },
    f"words, {SHUFFLED}": ("words", SHUFFLED, (NONE,)),
    GREY: ("", "grey", (NONE,)),
    f"{GREY}, box, {TRUE}": ("box", "grey", (GREY,)),
    f"{GREY}, words, {TRUE}": ("words", "grey", (GREY,)),
}
ASKED = (SELECTION, TUNING, TEST, "hard")  # nothing is chosen before the cues' effect is seen, so all questions count
BOX = f"box, {TRUE}"  # the cue that heads are chosen with, and that a claim rests on
# Kinds of question: those that the training of nano-internvl shows with cues, and all others.
NEVER, TRAINED = "other kinds", "kinds cued in training"
# Further questions of CogVSR-Synth: with them more than 1,300 of kinds never cued name things, for 3 points.
N_MORE, MORE_SEED = 1700, 1


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
    style = "box" if shown == "box and words" else shown
    if style not in STYLES:
        return items
    mark, how = STYLES[style]
    return cues.drawn(items, boxes, mark, **how)


def questions(experiment: Experiment) -> list[Item]:
    """All plain questions of an experiment's data; and with CogVSR-Synth, of ``N_MORE`` further ones about scenes of
    their own, those of the kinds that training never cues, built where they are not there yet."""
    items = [item for split in ASKED for item in experiment.items(split)]
    if experiment.source != "synth":
        return items
    path = build_synth(MORE_SYNTH, n_items=N_MORE, seed=MORE_SEED, crossed=False)
    more = never_cued(load_items(path))
    return items + [replace(item, uid=f"more-{item.uid}", group_id=f"more-{item.group_id}") for item in more]


def never_cued(items: Sequence[Item]) -> list[Item]:
    """The items of kinds that the training of ``nano-internvl`` never shows with cues. Their steps may have words of
    other kinds' steps."""
    return [item for item in items if item.subset not in CUED]


@result(variants=tuple(CONDITIONS), splits=ASKED, gpu=True)
def cued_answers(experiment: Experiment, condition: str, resume: Path) -> pd.DataFrame:
    """Judged replies to the main questions in plain wording that name things with boxes, asked alone; no rows without
    such."""
    from cogvsr_utils.models.answering import answer

    items = cued(questions(experiment), condition)
    if not items:
        return pd.DataFrame(columns=["uid", "step", "group_id", "subset", "function", "correct"])
    return judge(answer(experiment.vlm, items, steps=False, resume=resume))


ANSWERS = {f"replies_{number}": cued_answers[condition] for number, condition in enumerate(CONDITIONS)}


@result(needs=ANSWERS)
def cue_effects(experiment: Experiment, **replies: pd.DataFrame) -> pd.DataFrame:
    """Each condition against those that it is compared with, on the questions of both: true boxes against the misplaced
    ones and the other placebos, of which the difference is what the cue says, and against no cue, since a placebo may
    do harm; all others against no cue. Kinds that the training of ``nano-internvl`` shows with cues and others, apart.

    Columns: kinds, condition, against, n (questions of both), accuracy (of all under the condition), change with low
    and high (95 % over pictures) and p; q over all; ``kept``, the share still right of what is right without a cue.
    """
    tables, rows = dict(zip(CONDITIONS, (replies[name] for name in ANSWERS), strict=True)), []
    for kinds, condition in product((NEVER, TRAINED), CONDITIONS):
        table, compared = tables[condition], _compared(condition)
        table = table[table["subset"].isin(CUED) == (kinds == TRAINED)]
        if not len(table):
            continue
        right = tables[NONE].set_index("uid").loc[table["uid"], "correct"].to_numpy(bool)
        row = {"kinds": kinds, "condition": condition, "n": len(table), "accuracy": table["correct"].mean(),
               "kept": table["correct"].to_numpy(float)[right].mean() if right.any() else np.nan}  # fmt: skip
        if not compared:
            rows.append(row | {"against": ""})
        for against in compared:
            other = tables[against]
            both = set(table["uid"]) & set(other["uid"])
            if both:
                found = compare(*(each[each["uid"].isin(both)] for each in (table, other))).iloc[0]
                change = {"change": found["change"], "low": found["ci_low"], "high": found["ci_high"], "p": found["p"]}
                rows.append(row | {"against": against, "n": len(both)} | change)
    columns = ["kinds", "condition", "against", "n", "accuracy", "kept", "change", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=columns)
    tested = table["p"].notna()
    return table.assign(q=pd.Series(false_discovery_rate(table.loc[tested, "p"]), table.index[tested], dtype=float))


def _compared(condition: str) -> tuple[str, ...]:
    """What a condition is compared with: as ``CONDITIONS`` says, and true boxes with the other placebos too."""
    shown, which, against = CONDITIONS[condition]
    if which != TRUE:
        return against
    return (*against, *(name for name, (how, kind, _) in CONDITIONS.items()
                        if how == shown and kind in (OTHER, SHUFFLED)))  # fmt: skip


@result(splits=(TEST,), gpu=True)
def marked_objects(experiment: Experiment) -> pd.DataFrame:
    """Whether a model knows what a mark means: the colour of "the marked object", asked of pictures of C in which each
    of two things is marked in turn, and without a mark.

    Columns: mark (nothing for none), n, accuracy with low and high (95 % over pictures), chance (one of the things).
    """
    from cogvsr_utils.models.answering import answer

    tables = []
    for mark in ("", *STYLES):
        items = _marked_objects(experiment.items(TEST), mark)
        judged = judge(answer(experiment.vlm, items)) if items else pd.DataFrame()
        if len(judged):
            judged = judged[judged["step"] == 0]
            share, low, high = clustered_share(judged["correct"].astype(float), judged["group_id"], lowest=0)
            chance = np.mean([1 / item.meta["n_things"] for item in items])
            tables.append(
                {"mark": mark, "n": len(judged), "accuracy": share, "low": low, "high": high, "chance": chance}
            )
    return pd.DataFrame(tables, columns=["mark", "n", "accuracy", "low", "high", "chance"])


def _marked_objects(items: Sequence[Item], mark: str) -> list[Item]:
    """Questions about the first two things that are seen in each picture, one of them marked."""
    asked = []
    for item in {item.image: item for item in items if item.image is not None}.values():
        things = [thing for thing in item.meta.get("things", ()) if thing.get("box")]
        for number, thing in enumerate(things[:2]):
            step = Step("What color is the marked object?", thing["color"], "closed", None, "")
            one = replace(item, uid=f"{item.uid}-{number}-{mark}", question="How many objects are marked?", answer="1",
                          answer_type="int", options=None, steps=[step], meta={"n_things": len(things)})  # fmt: skip
            boxes = {one.uid: [("", tuple(thing["box"]))]}
            style, how = STYLES.get(mark, ("", {}))
            asked += cues.drawn([one], boxes, style, **how) if mark else [one]
    return asked
