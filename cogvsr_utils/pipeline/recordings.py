"""What a model answers, and the activations of its heads meanwhile.

answers[split]              judged replies, step by step
direct_answers              judged replies to the main questions of C alone, without steps
activations[split]          head features at the answers
four_bit_answers            replies to C of the same weights in 4-bit; four_bit_activations, its features on A's chats
control_activations[case]   the same of split A in an untrained model, with grey pictures, with other items' pictures
crossed_control_activations[case]   the same of A in crossed wording
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cogvsr_utils.dataset.images import grey_pictures
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.splits import CROSSED, SELECTION, TEST
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.experiment import ALL_SPLITS, Experiment
from cogvsr_utils.pipeline.store import result

CONTROL_CASES = ("untrained", "grey picture", "other picture")


@result(variants=ALL_SPLITS, splits=lambda split: (split,), gpu=True)
def answers(experiment: Experiment, split: str, resume: Path) -> pd.DataFrame:
    """Judged replies to every step and main question of a split; see ``answering.answer`` and ``scoring.judge``."""
    from cogvsr_utils.models.answering import answer

    return judge(answer(experiment.vlm, experiment.items(split), resume=resume))


@result(splits=(TEST,), gpu=True)
def direct_answers(experiment: Experiment, resume: Path) -> pd.DataFrame:
    """Judged replies to the main questions of C alone, without steps."""
    from cogvsr_utils.models.answering import answer

    return judge(answer(experiment.vlm, experiment.items(TEST), steps=False, resume=resume))


@result(
    variants=(SELECTION, TEST, CROSSED[SELECTION], CROSSED[TEST]),
    splits=lambda split: (split,),
    needs=lambda split: {"answers": answers[split]},
    gpu=True,
)
def activations(experiment: Experiment, split: str, answers: pd.DataFrame, store: Path) -> HeadActivations:
    """Features of every head at the answers of a split."""
    from cogvsr_utils.models.recording import capture

    return capture(experiment.vlm, experiment.items(split), store=store, answers=answers)


@result(splits=(TEST,), gpu=True)
def four_bit_answers(experiment: Experiment, resume: Path) -> pd.DataFrame:
    """Judged replies to C of the same weights in 4-bit."""
    from cogvsr_utils.models.answering import answer

    return judge(answer(experiment.quantized().vlm, experiment.items(TEST), resume=resume))


@result(splits=(SELECTION,), needs={"answers": answers[SELECTION]}, gpu=True)
def four_bit_activations(experiment: Experiment, answers: pd.DataFrame, store: Path) -> HeadActivations:
    """Features of the same weights in 4-bit, on the chats of A that full precision answered."""
    from cogvsr_utils.models.recording import capture

    return capture(experiment.quantized().vlm, experiment.items(SELECTION), store=store, answers=answers)


@result(variants=CONTROL_CASES, splits=(SELECTION,), needs={"answers": answers[SELECTION]}, gpu=True)
def control_activations(experiment: Experiment, case: str, answers: pd.DataFrame, store: Path) -> HeadActivations:
    """Features at the same answers of A: in a model of random weights, with grey pictures, or with other items'."""
    return _control(experiment, SELECTION, case, answers, store)


@result(variants=CONTROL_CASES, splits=(CROSSED[SELECTION],), needs={"answers": answers[CROSSED[SELECTION]]}, gpu=True)
def crossed_control_activations(
    experiment: Experiment, case: str, answers: pd.DataFrame, store: Path
) -> HeadActivations:
    """The same at the answers of A in crossed wording."""
    return _control(experiment, CROSSED[SELECTION], case, answers, store)


def _control(experiment: Experiment, split: str, case: str, answers: pd.DataFrame, store: Path) -> HeadActivations:
    from cogvsr_utils.models.loading import untrained
    from cogvsr_utils.models.recording import capture

    vlm, items = experiment.vlm, experiment.items(split)
    if case == "untrained":
        vlm = untrained(vlm)
    else:
        items = grey_pictures(items) if case == "grey picture" else _other_pictures(items)
    return capture(vlm, items, store=store, answers=answers)


def _other_pictures(items: list[Item]) -> list[Item]:
    """The items, each with another item's picture."""
    turn = np.random.default_rng(0).permutation(len(items))
    partner = dict(zip(turn, np.roll(turn, 1), strict=True))
    return [
        replace(item, image=items[partner[i]].image, mirror=items[partner[i]].mirror) for i, item in enumerate(items)
    ]
