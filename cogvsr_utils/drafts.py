"""What a scene can be asked: relations between its things, and steps before their place in a chain is known.

Look                   a scene with what a view shows of it
side, depth, main_side how two things stand to each other, or None where that could be argued about
Draft                  a step whose place is open; column, row, size, points, yes, decide make the common ones
extras(look, ...)      steps that fit any question: seeing, reading, knowing and counting around it
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from .scenes import COLORS, MATERIALS, SHAPES, SIZES, Scene, Thing, visibility

CLEAR = 0.55  # two things count as side by side or one behind the other only from this many board squares on
SEEN = 0.55  # a thing may be asked about only if this share of its silhouette is seen
YES_NO = ("yes", "no")
SIDES = ("left", "right", "front", "back")
PHRASE = {"left": "left of", "right": "right of", "front": "in front of", "back": "behind"}
OPPOSITE = {"left": "right", "right": "left", "front": "back", "back": "front"}
POINTS = {"left": "left", "right": "right", "toward": "front", "away": "back"}
LEFT_OF = {"back": "left", "front": "right", "right": "back", "left": "front"}  # where the left hand of a pointer is

SPATIAL, RELATIONAL, LOW, HIGH, INFORMATION, KNOWLEDGE, MATH, DECISION = (
    "Spatial Perception", "Relational Reasoning", "Low-Level Visual Perception", "High-Level Visual Perception",
    "Information Extraction & Understanding", "Knowledge Recall", "Math Reasoning", "Decision-Making",
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """A scene with what a view shows of it, computed once. From above nothing hides anything."""

    scene: Scene
    visible: np.ndarray
    hides: np.ndarray

    @classmethod
    def at(cls, scene: Scene, view: str = "picture") -> Look:
        n_things = len(scene.things)
        if view == "map":
            return cls(scene, np.ones(n_things), np.zeros((n_things, n_things)))
        return cls(scene, *visibility(scene))

    @property
    def seen(self) -> list[Thing]:
        return [t for t, share in zip(self.scene.things, self.visible, strict=True) if share >= SEEN]

    def pairs(self) -> list[tuple[Thing, Thing]]:
        return list(permutations(self.seen, 2))


@dataclass(frozen=True)
class Draft:
    """A step before its place is known. ``after`` names the drafts (by key) whose answers it needs."""

    key: str
    function: str
    question: str
    answer: str
    options: tuple[str, ...] | None = None
    after: tuple[str, ...] = ()
    family: str = ""  # drafts of one family ask the same of different things, so the later may be shortened
    short: str = ""


# ---------------------------------------------------------------- relations


def side(a: Thing, b: Thing) -> str | None:
    """``left`` or ``right``: where a stands, seen from b; None where they are nearly in line."""
    if a.column == b.column or abs(a.x - b.x) < CLEAR:
        return None
    return "left" if a.x < b.x else "right"


def depth(a: Thing, b: Thing) -> str | None:
    """``front`` or ``back``: a is nearer to or farther from the camera than b; None where they are nearly level."""
    if a.row == b.row or abs(a.y - b.y) < CLEAR:
        return None
    return "front" if a.y < b.y else "back"


def main_side(a: Thing, b: Thing) -> str | None:
    """The one of the four sides of b on which a stands, if one direction clearly prevails."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > 1.6 * abs(dy) + 0.2:
        return "left" if dx < 0 else "right"
    if abs(dy) > 1.6 * abs(dx) + 0.2:
        return "front" if dy < 0 else "back"
    return None


# ---------------------------------------------------------------- drafts shared by many kinds


def column(t: Thing) -> Draft:
    return Draft(f"column {t.color}", SPATIAL, f"Which column is the {t.name} in?", str(t.column),
                 family="column", short=f"And the {t.name}?")  # fmt: skip


def row(t: Thing) -> Draft:
    return Draft(f"row {t.color}", SPATIAL, f"Which row is the {t.name} in?", str(t.row),
                 family="row", short=f"And the {t.name}?")  # fmt: skip


def size_of(t: Thing) -> Draft:
    return Draft(f"size {t.color}", LOW, f"What size is the {t.name}?", t.size, tuple(SIZES),
                 family="size", short=f"And the {t.name}?")  # fmt: skip


def points(t: Thing) -> Draft:
    return Draft(f"points {t.color}", SPATIAL, f"Which way does the {t.name} point?", POINTS[t.heading], SIDES)


def yes(truth: bool) -> str:
    return "yes" if truth else "no"


def decide(answer: str, *after: str, question: str = "So what is the answer?") -> Draft:
    return Draft("decide", DECISION, question, answer, after=after)


FACTS = (
    ("Can a sphere roll?", "yes"), ("Can a cube roll?", "no"), ("How many corners does a cube have?", "8"),
    ("How many corners does a sphere have?", "0"), ("How many sides does a square have?", "4"),
    ("Does metal shine?", "yes"), ("Does rubber shine?", "no"), ("What shape is a ball?", "sphere"),
    ("What shape is a can?", "cylinder"), ("What shape is a die?", "cube"), ("What color is a lemon?", "yellow"),
    ("What color is grass?", "green"), ("What color is a clear sky?", "blue"), ("What color is blood?", "red"),
    ("Is a key metal or rubber?", "metal"), ("Is a tire metal or rubber?", "rubber"),
    ("Is an ant small or large?", "small"), ("Is a whale small or large?", "large"),
    ("What is the opposite of left?", "right"), ("What is the opposite of front?", "back"),
    ("Is left a lower or a higher column?", "lower"), ("Is right a lower or a higher column?", "higher"),
    ("Is a nearer row lower or higher?", "lower"), ("What is up on a map?", "north"), ("What is right on a map?", "east"),
    ("What is left on a map?", "west"), ("What is down on a map?", "south"), ("How many legs does a dog have?", "4"),
    ("How many wheels does a bike have?", "2"), ("How many eyes does a face have?", "2"),
)  # fmt: skip


def extras(look: Look, question: str, named: list[Thing], rng: np.random.Generator) -> list[Draft]:
    """Steps that fit any question: seeing, reading, knowing and counting around the things it names."""
    things = look.scene.things
    drafts = []
    for t in look.seen:
        drafts.append(size_of(t))
        drafts.append(Draft(f"material {t.color}", LOW, f"What is the {t.name} made of?", t.material, MATERIALS,
                            family="material", short=f"And the {t.name}?"))  # fmt: skip
        drafts.append(Draft(f"shape {t.color}", HIGH, f"What shape is the {t.color} object?", t.shape, SHAPES,
                            family="shape", short=f"And the {t.color} object?"))  # fmt: skip
        if sum(o.shape == t.shape for o in things) == 1:
            drafts.append(Draft(f"color {t.shape}", LOW, f"What color is the {t.shape}?", t.color, tuple(COLORS)))
    if len(look.seen) == len(things):
        present = bool(rng.integers(2))
        shapes = {t.shape for t in things}
        pool = [s for s in SHAPES if (s in shapes) == present]
        if pool:
            drafts.append(Draft("exists", HIGH, f"Is there a {rng.choice(pool)}?", yes(present), YES_NO))
        bound = int(rng.integers(2, 4))
        drafts.append(Draft("total", MATH, "How many objects are there?", str(len(things))))
        drafts.append(Draft("more", MATH, f"Are there more than {bound} objects?", yes(len(things) > bound), YES_NO))
        one, two = sorted(rng.choice(5, size=2))
        drafts.append(Draft("sum", MATH, f"What is {one} plus {two}?", str(one + two)))
    if named:
        first, last = named[0], named[-1]
        word = str(rng.choice([s for s in SHAPES if s in question] if rng.integers(2) else SHAPES))
        drafts += [
            Draft("first", INFORMATION, "Which object is named first?", first.name),
            Draft("last", INFORMATION, "Which object is named last?", last.name),
            Draft("first color", INFORMATION, "Which color is named first?", first.color, tuple(COLORS)),
            Draft("last shape", INFORMATION, "Which shape is named last?", last.shape, SHAPES),
            Draft("how many named", INFORMATION, "How many objects are named?", str(len(named))),
            Draft("names", INFORMATION, f"Does the question name a {word}?", yes(f" {word}" in question), YES_NO),
        ]
    drafts += [Draft(f"fact {i}", KNOWLEDGE, *FACTS[i]) for i in rng.choice(len(FACTS), size=4, replace=False)]
    return drafts
