"""A small data set of one's own: photographs of coloured patches, asked about in a person's words; a small profile."""

from pathlib import Path

import numpy as np
from PIL import Image

from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.jsonl import write_items
from cogvsr_utils.dataset.splits import SELECTION, TEST, TUNING, split_groups
from cogvsr_utils.functions import (
    DECISION,
    HIGH_LEVEL,
    INFORMATION,
    KNOWLEDGE,
    LOW_LEVEL,
    MATH,
    RELATIONAL_REASONING,
    SPATIAL_PERCEPTION,
)
from cogvsr_utils.pipeline.experiment import Profile

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 200), "yellow": (220, 210, 40)}
FEW = Profile(
    null_fits=1, permutations=5, bootstrap=10, matched_controls=4, control_items=2, ablation_items=2, planted=1,
    random_sets=1,
)  # fmt: skip
RIPE = {"red": "a tomato", "green": "a cucumber", "blue": "a blueberry", "yellow": "a lemon"}


def write_own_data(folder: Path, n_pictures: int = 80, seed: int = 0) -> Path:
    """Pictures with two patches, two questions about each; returns the .jsonl file."""
    rng, items = np.random.default_rng(seed), []
    split = split_groups([f"photo {i}" for i in range(n_pictures)], {SELECTION: 0.5, TUNING: 0.1, TEST: 0.4})
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n_pictures):
        left, right = rng.choice(list(COLOURS), 2, replace=False)
        pixels = np.full((64, 64, 3), 230, np.uint8)
        pixels[20:44, 6:26], pixels[20:44, 38:58] = COLOURS[left], COLOURS[right]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        for turn, (one, other) in enumerate([(left, right), (right, left)]):
            true = "yes" if one == left else "no"
            side = "left" if one == left else "right"
            items.append(Item(
                uid=f"{number}-{turn}", benchmark="patches", group_id=f"photo {number}", split=split[f"photo {number}"],
                image=str(folder / f"{number}.png"), answer=true, answer_type="yesno",
                question=f"Looking at this photo, would you reach the {one} patch first, coming from the left?",
                steps=_steps(one, other, side, true, rng.permutation(8)),
            ))  # fmt: skip
    return write_items(folder / "mine.jsonl", items)


def _steps(one: str, other: str, side: str, true: str, order) -> list[Step]:
    steps = [
        Step(f"Which patch are we asked about, {one} or {other}?", one, "choice", [one, other], INFORMATION),
        Step(f"On which side of the photo is the {one} one?", side, "choice", ["left", "right"], SPATIAL_PERCEPTION),
        Step(f"Does {one} come before {other}, reading from the left?", true, "yesno", None, RELATIONAL_REASONING),
        Step("Name the colour of the patch that is not the one in question.", other, "closed", None, LOW_LEVEL),
        Step("What sort of thing is shown, patches or people?", "patches", "choice", ["patches", "people"], HIGH_LEVEL),
        Step(f"What grows in this colour, {one}?", RIPE[one], "text", None, KNOWLEDGE),
        Step("How many patches do you count?", "2", "int", None, MATH),
        Step("So, all told, is it yes or no?", true, "yesno", None, DECISION),
    ]
    return [steps[i] for i in order]
