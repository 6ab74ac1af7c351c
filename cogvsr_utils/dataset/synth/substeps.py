"""Substep templates: steps before their place in a chain is known.

Substep                a step whose place is open; column, row, size_of, points, is_so, stated_side, decide make some
COLUMNS, ROWS          the two directions of the board: where things are along them, and how two relate
general(view, ...)     steps that fit any question: seeing, reading, knowing and counting around it
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cogvsr_utils.dataset.synth.scenes import COLORS, MATERIALS, SHAPES, SIZES, Thing
from cogvsr_utils.dataset.synth.views import SceneView, depth, side
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

YES_NO = ("yes", "no")
SIDES = ("left", "right", "front", "back")
PHRASE = {"left": "left of", "right": "right of", "front": "in front of", "back": "behind"}
OPPOSITE = {"left": "right", "right": "left", "front": "back", "back": "front"}
POINTS = {"left": "left", "right": "right", "toward": "front", "away": "back"}
LEFT_OF = {"back": "left", "front": "right", "right": "back", "left": "front"}  # where the left hand of a pointer is


@dataclass(frozen=True)
class Substep:
    """A substep template: a step whose place is open; ``after`` names the templates (by key) whose answers it needs.

    Templates of one ``family`` ask the same of different things, so that the later ones may be asked in the ``short``
    form.
    """

    key: str
    function: str
    question: str
    answer: str
    options: tuple[str, ...] | None = None
    after: tuple[str, ...] = ()
    family: str = ""
    short: str = ""


def column(t: Thing) -> Substep:
    """In which column (1 to 5) a thing is."""
    return Substep(f"column {t.color}", SPATIAL_PERCEPTION, f"Which column is the {t.name} in?", str(t.column),
                 family="column", short=f"And the {t.name}?")  # fmt: skip


def row(t: Thing) -> Substep:
    """In which row (1 to 5) a thing is."""
    return Substep(f"row {t.color}", SPATIAL_PERCEPTION, f"Which row is the {t.name} in?", str(t.row),
                 family="row", short=f"And the {t.name}?")  # fmt: skip


def size_of(t: Thing) -> Substep:
    """Whether a thing is small or large."""
    return Substep(f"size {t.color}", LOW_LEVEL, f"What size is the {t.name}?", t.size, tuple(SIZES),
                 family="size", short=f"And the {t.name}?")  # fmt: skip


def points(t: Thing) -> Substep:
    """Which way a cone points."""
    return Substep(
        f"points {t.color}", SPATIAL_PERCEPTION, f"Which way does the {t.name} point?", POINTS[t.heading], SIDES
    )


def yes(truth: bool) -> str:
    """``yes`` or ``no``."""
    return "yes" if truth else "no"


def is_so(t: Thing, function: str, claim: str, truth: bool, *after: str) -> Substep:
    """Whether a claim is true of a thing."""
    question, short = f"Is the {t.name} {claim}?", f"And the {t.name}?"
    return Substep(f"is {t.color}", function, question, yes(truth), YES_NO, after, family="is", short=short)


def stated_side(side: str) -> Substep:
    """Which of the four sides the question names."""
    return Substep("stated", INFORMATION, "Which side does the question name?", side, SIDES)


@dataclass(frozen=True)
class Axis:
    """A direction of the board: the ``line`` that a thing is in, the ``relation`` of two things, the step that asks for
    the ``place`` of one, the two ``sides``, and the words for either."""

    line: str
    relation: Callable[[Thing, Thing], str | None]
    place: Callable[[Thing], Substep]
    sides: tuple[str, str]
    either: str

    def relate(self, a: Thing, b: Thing) -> Substep:
        """On which side of ``b`` the thing ``a`` is."""
        question = f"Is the {a.name} {self.either} of the {b.name}?"
        after = (self.place(a).key, self.place(b).key)
        return Substep("relation", RELATIONAL_REASONING, question, self.relation(a, b), self.sides, after)


COLUMNS = Axis("column", side, column, ("left", "right"), "left or right")
ROWS = Axis("row", depth, row, ("front", "back"), "in front or back")


def decide(answer: str, *after: str, question: str = "So what is the answer?") -> Substep:
    """The main answer, settled from earlier steps."""
    return Substep("decide", DECISION, question, answer, after=after)


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
    ("Is a nearer row lower or higher?", "lower"), ("What is up on a map?", "north"),
    ("What is right on a map?", "east"), ("What is left on a map?", "west"), ("What is down on a map?", "south"),
    ("How many legs does a dog have?", "4"), ("How many wheels does a bike have?", "2"),
    ("How many eyes does a face have?", "2"),
)  # fmt: skip


def general(view: SceneView, question: str, named: list[Thing], rng: np.random.Generator) -> list[Substep]:
    """Steps that fit any question: seeing, reading, knowing and counting around the things it names."""
    things = view.scene.things
    templates = []
    for t in view.things:
        templates.append(size_of(t))
        again, named_again = f"And the {t.name}?", f"And the {t.color} object?"
        templates += [
            Substep(f"material {t.color}", LOW_LEVEL, f"What is the {t.name} made of?", t.material, MATERIALS,
                    family="material", short=again),
            Substep(f"shape {t.color}", HIGH_LEVEL, f"What shape is the {t.color} object?", t.shape, SHAPES,
                    family="shape", short=named_again),
        ]  # fmt: skip
        if sum(o.shape == t.shape for o in things) == 1:
            templates.append(
                Substep(f"color {t.shape}", LOW_LEVEL, f"What color is the {t.shape}?", t.color, tuple(COLORS))
            )
    if view.all_visible:
        present = bool(rng.integers(2))
        shapes = {t.shape for t in things}
        pool = [s for s in SHAPES if (s in shapes) == present]
        if pool:
            templates.append(Substep("exists", HIGH_LEVEL, f"Is there a {rng.choice(pool)}?", yes(present), YES_NO))
        bound = int(rng.integers(2, 4))
        templates.append(Substep("total", MATH, "How many objects are there?", str(len(things))))
        templates.append(
            Substep("more", MATH, f"Are there more than {bound} objects?", yes(len(things) > bound), YES_NO)
        )
        one, two = sorted(rng.choice(5, size=2))
        templates.append(Substep("sum", MATH, f"What is {one} plus {two}?", str(one + two)))
    if named:
        first, last = named[0], named[-1]
        word = str(rng.choice([s for s in SHAPES if s in question] if rng.integers(2) else SHAPES))
        templates += [
            Substep("first", INFORMATION, "Which object is named first?", first.name),
            Substep("last", INFORMATION, "Which object is named last?", last.name),
            Substep("first color", INFORMATION, "Which color is named first?", first.color, tuple(COLORS)),
            Substep("last shape", INFORMATION, "Which shape is named last?", last.shape, SHAPES),
            Substep("how many named", INFORMATION, "How many objects are named?", str(len(named))),
            Substep("names", INFORMATION, f"Does the question name a {word}?", yes(f" {word}" in question), YES_NO),
        ]
    templates += [Substep(f"fact {i}", KNOWLEDGE, *FACTS[i]) for i in rng.choice(len(FACTS), size=4, replace=False)]
    return templates
