"""Tasks of a plan: each points at one of three things, and needs one cognitive function to do so.

Task              a task with its three phrases, one for each split
TASKS             every task
draw_note(rng)    what the note of a question says: word -> attribute
pick(task, ...)   the only one of some things that a task points at

A task's function follows from what settles it, never from taste: a square of the board (Spatial Perception), the places
of the others (Relational Reasoning), one attribute named by its word (Low-Level or, for shapes, High-Level Visual
Perception), the note in the question (Information Extraction & Understanding), a fact about the world (Knowledge
Recall), a sum (Math Reasoning), two attributes of which neither is enough (Decision-Making).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cogvsr_utils.dataset.synth.scenes import MATERIALS, SHAPES, SIZES, Thing
from cogvsr_utils.dataset.synth.substeps import COLUMNS, ROWS, Axis
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

Note = dict[str, tuple[str, str]]  # what the note calls things of one kind -> (attribute, its value)
MARKS = ("new", "old", "sold", "lent")
ATTRIBUTES = {"size": tuple(SIZES), "material": MATERIALS, "shape": SHAPES}


@dataclass(frozen=True)
class Task:
    """One task: the function that settles it, its phrases for the splits A, B and C, and whether a thing ``fits``,
    given the other candidates and the note; ``mark`` is the word that the note has to explain."""

    function: str
    phrases: tuple[str, str, str]
    fits: Callable[[Thing, Sequence[Thing], Note], bool]
    mark: str = ""


def _place(line: str, number: int, *phrases: str) -> Task:
    return Task(SPATIAL_PERCEPTION, phrases, lambda t, others, note: getattr(t, line) == number)


def _beyond(axis: Axis, side: str, *phrases: str) -> Task:
    return Task(RELATIONAL_REASONING, phrases, lambda t, others, note: all(axis.relation(t, o) == side for o in others))


def _has(function: str, attribute: str, value: str, *phrases: str) -> Task:
    return Task(function, phrases, lambda t, others, note: getattr(t, attribute) == value)


def _noted(mark: str) -> Task:
    phrases = (f"called {mark}", f"{mark} by the note", f"which the note has as {mark}")
    return Task(INFORMATION, phrases, lambda t, others, note: getattr(t, note[mark][0]) == note[mark][1], mark)


def _sum(total: int, word: str) -> Task:
    phrases = (f"column plus row is {word}", f"its two numbers make {word}", f"{word} in sum")
    return Task(MATH, phrases, lambda t, others, note: t.column + t.row == total)


def _both(size: str, material: str) -> Task:
    """Neither attribute is enough: another candidate has the one, and another the other."""

    def fits(t: Thing, others: Sequence[Thing], note: Note) -> bool:
        one_only = any(o.size == size for o in others) and any(o.material == material for o in others)
        return t.size == size and t.material == material and one_only

    phrases = (f"both {size} and {material}", f"best if you want {size} and {material}", f"{material} but also {size}")
    return Task(DECISION, phrases, fits)


TASKS = (
    _place("column", 1, "at the left edge", "in the first column", "at the far left"),
    _place("column", 3, "in the middle column", "in the central column", "halfway from left to right"),
    _place("column", 5, "at the right edge", "in the last column", "at the far right"),
    _place("row", 1, "at the front edge", "in the first row", "at the near end"),
    _place("row", 5, "at the back edge", "in the last row", "at the far end"),
    _beyond(COLUMNS, "left", "left of the other two", "more to the left than both", "leftmost of the three"),
    _beyond(COLUMNS, "right", "right of the other two", "more to the right than both", "rightmost of the three"),
    _beyond(ROWS, "front", "in front of the other two", "nearer than both", "frontmost of the three"),
    _beyond(ROWS, "back", "behind the other two", "farther than both", "hindmost of the three"),
    _has(LOW_LEVEL, "size", "large", "large", "of large size", "big"),
    _has(LOW_LEVEL, "size", "small", "small", "of small size", "little"),
    _has(LOW_LEVEL, "material", "metal", "metal", "made of metal", "metallic"),
    _has(LOW_LEVEL, "material", "rubber", "rubber", "made of rubber", "of rubber material"),
    _has(HIGH_LEVEL, "shape", "cube", "a cube", "of cube shape", "cubic"),
    _has(HIGH_LEVEL, "shape", "sphere", "a sphere", "of sphere shape", "spherical"),
    _has(HIGH_LEVEL, "shape", "cylinder", "a cylinder", "of cylinder shape", "cylindrical"),
    _has(HIGH_LEVEL, "shape", "cone", "a cone", "of cone shape", "conical"),
    _has(KNOWLEDGE, "shape", "cube", "like a die", "as a box looks", "like a crate"),
    _has(KNOWLEDGE, "shape", "sphere", "like a ball", "as a marble looks", "like a globe"),
    _has(KNOWLEDGE, "shape", "cylinder", "like a can", "as a drum looks", "like a tube"),
    _has(KNOWLEDGE, "shape", "cone", "like a funnel", "as a tepee looks", "like a party hat"),
    *(_noted(mark) for mark in MARKS),
    _sum(4, "four"),
    _sum(5, "five"),
    _sum(6, "six"),
    _sum(7, "seven"),
    *(_both(size, material) for size in SIZES for material in MATERIALS),
)


def draw_note(rng: np.random.Generator) -> Note:
    """Two of the marks, each for one kind of things.

    >>> set(draw_note(np.random.default_rng(0))) <= set(MARKS)
    True
    """
    note = {}
    for mark, attribute in zip(rng.permutation(MARKS)[:2], rng.permutation(list(ATTRIBUTES))[:2], strict=True):
        note[str(mark)] = (str(attribute), str(rng.choice(ATTRIBUTES[str(attribute)])))
    return note


def pick(task: Task, things: Sequence[Thing], note: Note) -> int | None:
    """The index of the only one of ``things`` that a task points at; None where none or several fit."""
    found = [i for i, t in enumerate(things) if task.fits(t, [o for o in things if o is not t], note)]
    return found[0] if len(found) == 1 else None
