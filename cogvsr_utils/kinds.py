"""The fifteen kinds of main question, in the manners of the paper's four sources.

    KINDS    name -> Kind: whose manner it follows, in which view it is asked, its cases in a scene, and its chain

For each kind, ``..._cases`` lists what a scene answers without doubt, with the label to balance, and a builder writes
one case out as (question, options, things named, core steps, optional steps[, answer]).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

from .drafts import (
    HIGH,
    INFORMATION,
    KNOWLEDGE,
    LEFT_OF,
    LOW,
    MATH,
    OPPOSITE,
    POINTS,
    RELATIONAL,
    SIDES,
    SPATIAL,
    YES_NO,
    Draft,
    Look,
    column,
    decide,
    depth,
    main_side,
    points,
    row,
    side,
    size_of,
    yes,
)  # fmt: skip
from .scenes import COLORS, MATERIALS, SHAPES, SIZES, camera_distance


@dataclass(frozen=True)
class Kind:
    """A kind of main question: whose manner it follows, in which view it is asked, and how it is made."""

    name: str
    manner: str
    view: str
    cases: Callable[[Look], list[tuple[str, tuple]]]
    build: Callable[..., tuple]


# ---------------------------------------------------------------- statements to verify (VSR)


def _statement_cases(relation):
    def cases(look):
        found = []
        for a, b in look.pairs():
            where = relation(a, b)
            if where:
                found += [(yes(said == where), (a, b, said)) for said in (where, OPPOSITE[where])]
        return found

    return cases


_PHRASE = {"left": "left of", "right": "right of", "front": "in front of", "back": "behind"}


def _statement_side(look, a, b, said):
    question = f"Is it true that the {a.name} is {_PHRASE[said]} the {b.name}?"
    truth = side(a, b)
    core = [column(a), column(b),
            Draft("relation", RELATIONAL, f"Is the {a.name} left or right of the {b.name}?", truth, ("left", "right"),
                  after=(f"column {a.color}", f"column {b.color}"))]  # fmt: skip
    extra = [decide(yes(truth == said), "relation", question="So is it true?"),
             Draft("said", INFORMATION, "Which side does the question name?", said, SIDES),
             Draft("apart", MATH, "How many columns apart are they?", str(abs(a.column - b.column)),
                   after=(f"column {a.color}", f"column {b.color}"))]  # fmt: skip
    return question, YES_NO, [a, b], core, extra


def _statement_depth(look, a, b, said):
    question = f"Is it true that the {a.name} is {_PHRASE[said]} the {b.name}?"
    truth = depth(a, b)
    core = [row(a), row(b),
            Draft("relation", RELATIONAL, f"Is the {a.name} in front or back of the {b.name}?", truth,
                  ("front", "back"), after=(f"row {a.color}", f"row {b.color}"))]  # fmt: skip
    extra = [decide(yes(truth == said), "relation", question="So is it true?"),
             Draft("said", INFORMATION, "Which side does the question name?", said, SIDES),
             Draft("apart", MATH, "How many rows apart are they?", str(abs(a.row - b.row)),
                   after=(f"row {a.color}", f"row {b.color}"))]  # fmt: skip
    return question, YES_NO, [a, b], core, extra


# ---------------------------------------------------------------- closer, higher, facing, own viewpoint (3DSRBench)


def _closer_cases(look):
    found = []
    for a, b in look.pairs():
        gap = camera_distance(look.scene, a) - camera_distance(look.scene, b)
        if depth(a, b) and abs(gap) > 0.4 and (gap < 0) == (depth(a, b) == "front"):
            found += [("first" if (gap < 0) == (word == "closer to") else "second", (a, b, word))
                      for word in ("closer to", "farther from")]  # fmt: skip
    return found


def _closer(look, a, b, word):
    question = f"Which is {word} the camera, the {a.name} or the {b.name}?"
    near, far = (a, b) if depth(a, b) == "front" else (b, a)
    answer = near if word == "closer to" else far
    core = [row(a), row(b),
            Draft("lower", RELATIONAL, "Which of the two is in the lower row?", near.name, (a.name, b.name),
                  after=(f"row {a.color}", f"row {b.color}"))]  # fmt: skip
    extra = [decide(answer.name, "lower", question="So which one is it?"),
             Draft("close", KNOWLEDGE, f"Is {word} the camera a lower or a higher row?",
                   "lower" if word == "closer to" else "higher", ("lower", "higher"))]  # fmt: skip
    return question, (a.name, b.name), [a, b], core, extra, answer.name


def _higher_cases(look):
    return [("first" if (a.size == "large") == (word == "higher") else "second", (a, b, word))
            for a, b in look.pairs() if a.size != b.size for word in ("higher", "less high")]  # fmt: skip


def _higher(look, a, b, word):
    question = f"Which reaches {word}, the {a.name} or the {b.name}?"
    large, small = (a, b) if a.size == "large" else (b, a)
    answer = large if word == "higher" else small
    core = [size_of(a), size_of(b),
            Draft("larger", RELATIONAL, "Which of the two is larger?", large.name, (a.name, b.name),
                  after=(f"size {a.color}", f"size {b.color}"))]  # fmt: skip
    extra = [decide(answer.name, "larger", question="So which one is it?"),
             Draft("reach", KNOWLEDGE, f"Does a large object reach {word}?", yes(word == "higher"), YES_NO)]  # fmt: skip
    return question, (a.name, b.name), [a, b], core, extra, answer.name


def _facing_cases(look):
    found = []
    for a in look.seen:
        for b, c in permutations([t for t in look.seen if a.shape == "cone" and t is not a], 2):
            if main_side(b, a) == POINTS[a.heading] and main_side(c, a) not in (None, POINTS[a.heading]):
                found += [("first", (a, b, c, b)), ("second", (a, c, b, b))]
    return found


def _facing(look, a, b, c, target):
    question = f"Which object does the {a.name} point at, the {b.name} or the {c.name}?"
    place = [Draft(f"where {t.color}", RELATIONAL, f"Which side of the {a.name} is the {t.name} on?", main_side(t, a),
                   SIDES, family="where", short=f"And the {t.name}?") for t in (b, c)]  # fmt: skip
    extra = [decide(target.name, f"points {a.color}", f"where {b.color}", f"where {c.color}",
                     question="So which one is it?")]  # fmt: skip
    return question, (b.name, c.name), [a, b, c], [points(a), *place], extra, target.name


def _viewpoint_cases(look):
    found = []
    for a, b in look.pairs():
        where = main_side(b, a) if a.shape == "cone" else None
        left = LEFT_OF[POINTS[a.heading]]
        if where in (left, OPPOSITE[left]):
            found.append(("left" if where == left else "right", (a, b)))
    return found


def _viewpoint(look, a, b):
    question = f"Seen from the {a.name}, is the {b.name} on its left or its right?"
    where, left = main_side(b, a), LEFT_OF[POINTS[a.heading]]
    answer = "left" if where == left else "right"
    core = [points(a),
            Draft("its left", KNOWLEDGE, "Which way is the left of what points so?", left, SIDES,
                  after=(f"points {a.color}",)),
            Draft("where", RELATIONAL, f"Which side of the {a.name} is the {b.name} on?", where, SIDES)]  # fmt: skip
    return question, ("left", "right"), [a, b], core, [decide(answer, "its left", "where")]


# ---------------------------------------------------------------- attributes, counts, occlusion, pose, collision (Spatial457)


def _attribute_cases(look):
    if len(look.seen) < len(look.scene.things):
        return []
    found = []
    for b in look.seen:
        for relation in (side, depth):
            others = {t: relation(t, b) for t in look.seen if t is not b}
            for said in sorted(set(others.values()) - {None}):
                hits = [t for t, where in others.items() if where == said]
                if len(hits) == 1 and None not in others.values():
                    found += [(getattr(hits[0], what), (hits[0], b, said, what))
                              for what in ("size", "material", "shape", "color")]  # fmt: skip
    return found


_ATTRIBUTES = {"size": (LOW, "What size is it?", tuple(SIZES)), "shape": (HIGH, "What shape is it?", SHAPES),
               "color": (LOW, "What color is it?", tuple(COLORS)), "material": (LOW, "What is it made of?", MATERIALS)}  # fmt: skip


def _attribute(look, t, b, said, what):
    noun = {"material": "What material"}.get(what, f"What {what}")
    question = f"{noun} is the object {_PHRASE[said]} the {b.name}?"
    function, ask_it, options = _ATTRIBUTES[what]
    place = column(b) if said in ("left", "right") else row(b)
    core = [place,
            Draft("which", RELATIONAL, f"Which object is {_PHRASE[said]} the {b.name}?", t.name, after=(place.key,)),
            Draft("it", function, ask_it, getattr(t, what), options, after=("which",))]  # fmt: skip
    extra = [decide(getattr(t, what), "it"),
             Draft("said", INFORMATION, "Which side does the question name?", said, SIDES)]  # fmt: skip
    return question, options, [b], core, extra


def _count_cases(relation, sides):
    def cases(look):
        found = []
        for b in look.seen if len(look.seen) == len(look.scene.things) else []:
            where = [relation(t, b) for t in look.seen if t is not b]
            if None not in where:
                found += [(str(where.count(said)), (b, said)) for said in sides]
        return found

    return cases


def _count_relation(relation, place, phrase):
    def build(look, b, said):
        question = f"How many objects are {phrase[said]} the {b.name}?"
        others = [t for t in look.seen if t is not b]
        count = str(sum(relation(t, b) == said for t in others))
        steps = [Draft(f"is {t.color}", RELATIONAL, f"Is the {t.name} {phrase[said]} the {b.name}?",
                       yes(relation(t, b) == said), YES_NO, family="is", short=f"And the {t.name}?",
                       after=(place(b).key,)) for t in others]  # fmt: skip
        done = tuple(step.key for step in steps)
        core = [place(b), *steps, Draft("count", MATH, "How many are so?", count, after=done)]
        return question, None, [b], core, [decide(count, "count")]

    return build


def _count_kind_cases(look):
    if len(look.seen) < len(look.scene.things):
        return []
    found = []
    for what, words in (("size", SIZES), ("material", MATERIALS)):
        found += [(str(sum(getattr(t, what) == word for t in look.seen)), (what, word)) for word in words]
    return found


def _count_kind(look, what, word):
    question = f"How many {word} objects are there?"
    steps = [Draft(f"is {t.color}", LOW, f"Is the {t.name} {word}?", yes(getattr(t, what) == word), YES_NO,
                   family="is", short=f"And the {t.name}?") for t in look.seen]  # fmt: skip
    count = str(sum(getattr(t, what) == word for t in look.seen))
    core = [*steps, Draft("count", MATH, "How many are so?", count, after=tuple(step.key for step in steps))]
    extra = [decide(count, "count"), Draft("word", INFORMATION, "Which kind does the question name?", word)]
    return question, None, [], core, extra


def _occlusion_cases(look):
    found = []
    for a, b in permutations(range(len(look.scene.things)), 2):
        share = look.hides[a, b]
        if min(look.visible[a], look.visible[b]) >= 0.4 and (share == 0 or share >= 0.08):
            found.append((yes(share > 0), (look.scene.things[a], look.scene.things[b])))
    return found


def _occlusion(look, a, b):
    things = look.scene.things
    hidden = look.hides[things.index(a), things.index(b)] > 0
    question = f"Does the {a.name} hide part of the {b.name}?"
    core = [column(a), column(b), row(a), row(b)]
    extra = [decide(yes(hidden), *(draft.key for draft in core))]
    if depth(a, b):
        extra.append(Draft("relation", RELATIONAL, f"Is the {a.name} in front or back of the {b.name}?", depth(a, b),
                           ("front", "back"), after=(f"row {a.color}", f"row {b.color}")))  # fmt: skip
    return question, YES_NO, [a, b], core, extra, yes(hidden)


def _pose_cases(look):
    return [(POINTS[t.heading], (t,)) for t in look.seen if t.shape == "cone"]


def _pose(look, t):
    question = f"Which way does the {t.name} point: left, right, front or back?"
    points = POINTS[t.heading]
    core = [Draft("base", SPATIAL, f"Which side of the {t.name} is its base on?", OPPOSITE[points], SIDES),
            Draft("opposite", KNOWLEDGE, "What is the opposite of that?", points, SIDES, after=("base",))]  # fmt: skip
    return question, SIDES, [t], core, [decide(points, "opposite"), column(t), row(t)]


def _collision_cases(look):
    found = []
    for a, b in look.pairs():
        for move in SIDES:
            sideways = move in ("left", "right")
            off = abs(a.y - b.y if sideways else a.x - b.x)
            level = a.row == b.row if sideways else a.column == b.column
            where = side(b, a) if sideways else depth(b, a)
            reach = a.radius + b.radius
            if where and ((level and off < reach - 0.1) or (not level and off > reach + 0.1)):
                found.append((yes(level and where == move), (a, b, move)))
    return found


def _collision(look, a, b, move):
    question = f"Would the {a.name} hit the {b.name} if it moved {move}?"
    sideways = move in ("left", "right")
    where = side(b, a) if sideways else depth(b, a)
    place, line = (row, "row") if sideways else (column, "column")
    level = getattr(a, line) == getattr(b, line)
    pair = "left or right" if sideways else "in front or back"
    core = [place(a), place(b),
            Draft("same", RELATIONAL, f"Are they in the same {line}?", yes(level), YES_NO,
                  after=(place(a).key, place(b).key)),
            Draft("relation", RELATIONAL, f"Is the {b.name} {pair} of the {a.name}?", where)]  # fmt: skip
    hit = yes(level and where == move)
    extra = [decide(hit, "same", "relation"),
             Draft("said", INFORMATION, "Which side does the question name?", move, SIDES)]  # fmt: skip
    return question, YES_NO, [a, b], core, extra, hit


# ---------------------------------------------------------------- the bird's-eye map (SpatialEval)

_BEARING = {"left": "west", "right": "east", "front": "south", "back": "north"}
_MAP_PHRASE = {k: f"{v} of" for k, v in _BEARING.items()}


def _map_direction_cases(look):
    found = []
    for a, b in permutations(look.scene.things, 2):
        if side(a, b) and depth(a, b):
            found.append((_BEARING[depth(a, b)] + _BEARING[side(a, b)], (a, b)))
    return found


def _map_direction(look, a, b):
    question = f"On the map, in which direction is the {a.name} from the {b.name}?"
    north, east = _BEARING[depth(a, b)], _BEARING[side(a, b)]
    core = [Draft("east", RELATIONAL, f"Is the {a.name} east or west of the {b.name}?", east, ("east", "west")),
            Draft("north", RELATIONAL, f"Is the {a.name} north or south of the {b.name}?", north, ("north", "south"))]  # fmt: skip
    extra = [decide(north + east, "north", "east"), column(a), column(b), row(a), row(b)]
    return question, ("northeast", "northwest", "southeast", "southwest"), [a, b], core, extra, north + east


def _map_cell_cases(look):
    return [(t.shape, (t,)) for t in look.scene.things]


def _map_cell(look, t):
    question = f"On the map, which object is in column {t.column} and row {t.row}?"
    core = [Draft("its shape", HIGH, "What shape is in that square?", t.shape, SHAPES),
            Draft("its color", LOW, "What color is in that square?", t.color, tuple(COLORS))]  # fmt: skip
    extra = [decide(t.name, "its shape", "its color"),
             Draft("column", INFORMATION, "Which column does the question name?", str(t.column)),
             Draft("row", INFORMATION, "Which row does the question name?", str(t.row))]  # fmt: skip
    return question, None, [], core, extra, t.name


KINDS = {
    kind.name: kind
    for kind in (
        Kind("statement_side", "vsr", "picture", _statement_cases(side), _statement_side),
        Kind("statement_depth", "vsr", "picture", _statement_cases(depth), _statement_depth),
        Kind("closer", "3dsrbench", "picture", _closer_cases, _closer),
        Kind("higher", "3dsrbench", "picture", _higher_cases, _higher),
        Kind("facing", "3dsrbench", "picture", _facing_cases, _facing),
        Kind("viewpoint", "3dsrbench", "picture", _viewpoint_cases, _viewpoint),
        Kind("attribute", "spatial457", "picture", _attribute_cases, _attribute),
        Kind("count_side", "spatial457", "picture", _count_cases(side, ("left", "right")),
             _count_relation(side, column, _PHRASE)),
        Kind("count_kind", "spatial457", "picture", _count_kind_cases, _count_kind),
        Kind("occlusion", "spatial457", "picture", _occlusion_cases, _occlusion),
        Kind("pose", "spatial457", "picture", _pose_cases, _pose),
        Kind("collision", "spatial457", "picture", _collision_cases, _collision),
        Kind("map_direction", "spatialeval", "map", _map_direction_cases, _map_direction),
        Kind("map_count", "spatialeval", "map", _count_cases(depth, ("front", "back")),
             _count_relation(depth, row, _MAP_PHRASE)),
        Kind("map_cell", "spatialeval", "map", _map_cell_cases, _map_cell),
    )
}  # fmt: skip
