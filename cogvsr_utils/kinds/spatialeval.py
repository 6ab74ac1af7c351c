"""The bird's-eye map, in the manner of SpatialEval."""

from __future__ import annotations

from itertools import permutations

from ..drafts import (
    HIGH,
    INFORMATION,
    LOW,
    RELATIONAL,
    Draft,
    column,
    decide,
    depth,
    row,
    side,
)  # fmt: skip
from ..scenes import COLORS, SHAPES

_BEARING = {"left": "west", "right": "east", "front": "south", "back": "north"}
MAP_PHRASE = {k: f"{v} of" for k, v in _BEARING.items()}


def map_direction_cases(look):
    found = []
    for a, b in permutations(look.scene.things, 2):
        if side(a, b) and depth(a, b):
            found.append((_BEARING[depth(a, b)] + _BEARING[side(a, b)], (a, b)))
    return found


def map_direction(look, a, b):
    question = f"On the map, in which direction is the {a.name} from the {b.name}?"
    north, east = _BEARING[depth(a, b)], _BEARING[side(a, b)]
    core = [Draft("east", RELATIONAL, f"Is the {a.name} east or west of the {b.name}?", east, ("east", "west")),
            Draft("north", RELATIONAL, f"Is the {a.name} north or south of the {b.name}?", north, ("north", "south"))]  # fmt: skip
    extra = [decide(north + east, "north", "east"), column(a), column(b), row(a), row(b)]
    return question, ("northeast", "northwest", "southeast", "southwest"), [a, b], core, extra, north + east


def map_cell_cases(look):
    return [(t.shape, (t,)) for t in look.scene.things]


def map_cell(look, t):
    question = f"On the map, which object is in column {t.column} and row {t.row}?"
    core = [Draft("its shape", HIGH, "What shape is in that square?", t.shape, SHAPES),
            Draft("its color", LOW, "What color is in that square?", t.color, tuple(COLORS))]  # fmt: skip
    extra = [decide(t.name, "its shape", "its color"),
             Draft("column", INFORMATION, "Which column does the question name?", str(t.column)),
             Draft("row", INFORMATION, "Which row does the question name?", str(t.row))]  # fmt: skip
    return question, None, [], core, extra, t.name
