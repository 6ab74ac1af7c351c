"""Closer, higher, facing, own viewpoint, in the manner of 3DSRBench."""

from __future__ import annotations

from itertools import permutations

from ..drafts import (
    KNOWLEDGE,
    LEFT_OF,
    OPPOSITE,
    POINTS,
    RELATIONAL,
    SIDES,
    YES_NO,
    Draft,
    decide,
    depth,
    main_side,
    points,
    row,
    size_of,
    yes,
)  # fmt: skip
from ..scenes import camera_distance


def closer_cases(look):
    found = []
    for a, b in look.pairs():
        gap = camera_distance(look.scene, a) - camera_distance(look.scene, b)
        if depth(a, b) and abs(gap) > 0.4 and (gap < 0) == (depth(a, b) == "front"):
            found += [("first" if (gap < 0) == (word == "closer to") else "second", (a, b, word))
                      for word in ("closer to", "farther from")]  # fmt: skip
    return found


def closer(look, a, b, word):
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


def higher_cases(look):
    return [("first" if (a.size == "large") == (word == "higher") else "second", (a, b, word))
            for a, b in look.pairs() if a.size != b.size for word in ("higher", "less high")]  # fmt: skip


def higher(look, a, b, word):
    question = f"Which reaches {word}, the {a.name} or the {b.name}?"
    large, small = (a, b) if a.size == "large" else (b, a)
    answer = large if word == "higher" else small
    core = [size_of(a), size_of(b),
            Draft("larger", RELATIONAL, "Which of the two is larger?", large.name, (a.name, b.name),
                  after=(f"size {a.color}", f"size {b.color}"))]  # fmt: skip
    extra = [decide(answer.name, "larger", question="So which one is it?"),
             Draft("reach", KNOWLEDGE, f"Does a large object reach {word}?", yes(word == "higher"), YES_NO)]  # fmt: skip
    return question, (a.name, b.name), [a, b], core, extra, answer.name


def facing_cases(look):
    found = []
    for a in look.seen:
        for b, c in permutations([t for t in look.seen if a.shape == "cone" and t is not a], 2):
            if main_side(b, a) == POINTS[a.heading] and main_side(c, a) not in (None, POINTS[a.heading]):
                found += [("first", (a, b, c, b)), ("second", (a, c, b, b))]
    return found


def facing(look, a, b, c, target):
    question = f"Which object does the {a.name} point at, the {b.name} or the {c.name}?"
    place = [Draft(f"where {t.color}", RELATIONAL, f"Which side of the {a.name} is the {t.name} on?", main_side(t, a),
                   SIDES, family="where", short=f"And the {t.name}?") for t in (b, c)]  # fmt: skip
    extra = [decide(target.name, f"points {a.color}", f"where {b.color}", f"where {c.color}",
                     question="So which one is it?")]  # fmt: skip
    return question, (b.name, c.name), [a, b, c], [points(a), *place], extra, target.name


def viewpoint_cases(look):
    found = []
    for a, b in look.pairs():
        where = main_side(b, a) if a.shape == "cone" else None
        left = LEFT_OF[POINTS[a.heading]]
        if where in (left, OPPOSITE[left]):
            found.append(("left" if where == left else "right", (a, b)))
    return found


def viewpoint(look, a, b):
    question = f"Seen from the {a.name}, is the {b.name} on its left or its right?"
    where, left = main_side(b, a), LEFT_OF[POINTS[a.heading]]
    answer = "left" if where == left else "right"
    core = [points(a),
            Draft("its left", KNOWLEDGE, "Which way is the left of what points so?", left, SIDES,
                  after=(f"points {a.color}",)),
            Draft("where", RELATIONAL, f"Which side of the {a.name} is the {b.name} on?", where, SIDES)]  # fmt: skip
    return question, ("left", "right"), [a, b], core, [decide(answer, "its left", "where")]
