"""What ablating a function's heads does to replies: wrong, or unreadable? And what would the model have chosen?

reply_kinds      each function's steps, intact and under its own set: right, wrong, unread
chosen_mains     main questions with options, asked alone under each set: replies beside forced choice
chosen_steps     each function's steps, intact and under its own set: the likeliest of the possible answers
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.text_baselines import wordings
from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.splits import TEST
from cogvsr_utils.functions import NAMES
from cogvsr_utils.pipeline.ablation import ABLATED, C
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import answers
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings, top_heads_by
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import clustered_mean, clustered_share

INTACT = "none"


@result(needs={"answers": answers[TEST], **ABLATED})
def reply_kinds(experiment: Experiment, answers: pd.DataFrame, **ablated: pd.DataFrame) -> pd.DataFrame:
    """Generated replies to each function's own steps, all of C, intact and with the function's set ablated: how many
    are right, how many are read and wrong, and how many cannot be read, as shares in [0, 1] that sum to 1.

    Columns: function, head_set (``INTACT`` or the function), n, right, wrong, unread, and the change of unread with
    low and high (95 % over scenes; 0 to a bound where no reply changes). Functions without steps are left out.
    """
    rows = []
    for number, function in enumerate(NAMES):
        before = answers[answers["function"] == function]
        after = before[["uid", "step"]].merge(ablated[f"ablated_{number}"], on=["uid", "step"])
        if before.empty:
            continue
        more = after["parsed"].isna().to_numpy().astype(float) - before["parsed"].isna().to_numpy()
        change = dict(zip(("change", "low", "high"), clustered_share(more, before["group_id"], lowest=-1), strict=True))
        for name, own in ((INTACT, before), (function, after)):
            unread, right = own["parsed"].isna().mean(), own["correct"].mean()
            rows.append({"function": function, "head_set": name, "n": len(own), "right": right,
                         "wrong": 1 - right - unread, "unread": unread,
                         **(change if name != INTACT else {})})  # fmt: skip
    return pd.DataFrame(rows)


@result(splits=C, gpu=True)
def chosen_mains(experiment: Experiment, rankings: Rankings) -> pd.DataFrame:
    """Main questions of C that have options, asked alone, with each function's top heads by the paper's importance
    ablated (×0.001): what is replied, and which option is the likeliest.

    Columns: head_set (``INTACT`` or the function), n, replied and chosen (shares right), unread (share of replies that
    cannot be read), covered (mean probability of all options together), chance (of a blind choice), and the change of
    replied and of chosen from ``INTACT``, each with low and high (95 % over scenes). Empty where none has options.
    """
    from cogvsr_utils.models.answering import answer
    from cogvsr_utils.models.head_edits import mask
    from cogvsr_utils.models.options import choices, forced_choice

    asked = [replace(item, steps=[]) for item in experiment.items(TEST)]
    asked = [item for item in asked if item.options or item.answer_type == "yesno"]
    sets = top_heads_by(rankings, IMPORTANCE, n_top(len(rankings.heads)))
    edits = {INTACT: None} | {name: mask(sets.of(name)) for name in NAMES}
    rows, before = [], {}
    for name, edit in edits.items() if asked else ():
        replies = judge(answer(experiment.vlm, asked, edits=edit))
        forced = judge(forced_choice(experiment.vlm, asked, edits=edit))
        row = {"head_set": name, "n": len(replies), "replied": replies["correct"].mean(),
               "chosen": forced["correct"].mean(), "unread": replies["parsed"].isna().mean(),
               "covered": forced["covered"].mean(),
               "chance": sum(1 / len(choices(item)) for item in asked) / len(asked)}  # fmt: skip
        for how, judged in (("replied", replies), ("chosen", forced)):
            now = judged["correct"].astype(float).to_numpy()
            if name == INTACT:
                before[how] = now
                continue
            found = clustered_mean(now - before[how], judged["group_id"])
            row |= dict(zip((f"{how}_change", f"{how}_low", f"{how}_high"), found, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


@result(splits=C, gpu=True)
def chosen_steps(experiment: Experiment, rankings: Rankings) -> pd.DataFrame:
    """Each function's own steps of C by forced choice, the right answers to earlier ones in place, intact and with the
    function's top heads by the paper's importance ablated (×0.001). A step is offered its options, yes and no, or where
    it has neither all right answers to steps of its wording on C; steps of which but one answer is known are left out.

    Columns: function, head_set (``INTACT`` or the function), n, chosen (the share right), covered (mean probability of
    all that is offered together), chance (of a blind choice), majority (the share right where each wording's commonest
    right answer is always chosen), and the change of chosen from ``INTACT`` with low and high (95 % over scenes).
    Functions without such steps are left out.
    """
    from cogvsr_utils.models.head_edits import mask
    from cogvsr_utils.models.options import forced_choice

    items = with_options(experiment.items(TEST))
    words = wordings(items)
    sets = top_heads_by(rankings, IMPORTANCE, n_top(len(rankings.heads)))
    rows = []
    for name in NAMES:
        asked = [item for item in only(items, name) if any(map(_offers, item.steps))]
        if not asked:
            continue
        before, after = (judge(forced_choice(experiment.vlm, asked, steps=True, edits=edit))
                         for edit in (None, mask(sets.of(name))))  # fmt: skip
        offered = [len(step.options or ("yes", "no")) for item in asked for step in item.steps if _offers(step)]
        of_wording = before["answer"].groupby([words[pair] for pair in zip(before["uid"], before["step"], strict=True)])
        commonest = of_wording.agg(lambda answers: answers.value_counts().iloc[0]).sum() / len(before)
        gained = after["correct"].astype(float) - before["correct"]
        ends = clustered_share(gained, before["group_id"], lowest=-1)
        change = dict(zip(("change", "low", "high"), ends, strict=True))
        blind = {"chance": float(np.mean([1 / n for n in offered])), "majority": commonest}
        for head_set, judged in ((INTACT, before), (name, after)):
            rows.append({"function": name, "head_set": head_set, "n": len(judged), "chosen": judged["correct"].mean(),
                         "covered": judged["covered"].mean(), **blind,
                         **(change if head_set != INTACT else {})})  # fmt: skip
    return pd.DataFrame(rows)


def with_options(items: Sequence[Item]) -> list[Item]:
    """The items with options for their steps: where a step has none and is not answered with yes or no, the right
    answers to all steps of its wording and kind of answer, if they are several."""
    words, known = wordings(list(items)), {}
    for item in items:
        for number, step in enumerate(item.steps):
            kinds = known.setdefault((words[item.uid, number], step.answer_type), {})
            kinds.setdefault(step.answer.casefold(), step.answer)  # in whatever case, one option

    def offered(item, number, step):
        answers = sorted(known[words[item.uid, number], step.answer_type].values())
        named = _offers(step) or len(answers) < 2
        return step if named else replace(step, options=answers)

    return [replace(item, steps=[offered(item, n, step) for n, step in enumerate(item.steps)]) for item in items]


def only(items: Sequence[Item], function: str) -> list[Item]:
    """The items with nothing to choose from in steps of other functions."""
    return [
        replace(item, steps=[s if s.function == function else replace(s, answer_type="text", options=None)
                             for s in item.steps])
        for item in items
    ]  # fmt: skip


def _offers(step: Step) -> bool:
    """Whether a step has something to choose from."""
    return bool(step.options) or step.answer_type == "yesno"


REPLIES = (reply_kinds, chosen_mains, chosen_steps)
