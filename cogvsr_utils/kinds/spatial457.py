"""Attributes, counts, occlusion, pose, collision, in the manner of Spatial457."""

from __future__ import annotations

from itertools import permutations

from ..drafts import (
    HIGH,
    INFORMATION,
    KNOWLEDGE,
    LOW,
    MATH,
    OPPOSITE,
    PHRASE,
    POINTS,
    RELATIONAL,
    SIDES,
    SPATIAL,
    YES_NO,
    Draft,
    column,
    decide,
    depth,
    row,
    side,
    yes,
)  # fmt: skip
from ..scenes import COLORS, MATERIALS, SHAPES, SIZES


def attribute_cases(look):
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


def attribute(look, t, b, said, what):
    noun = {"material": "What material"}.get(what, f"What {what}")
    question = f"{noun} is the object {PHRASE[said]} the {b.name}?"
    function, ask_it, options = _ATTRIBUTES[what]
    place = column(b) if said in ("left", "right") else row(b)
    core = [place,
            Draft("which", RELATIONAL, f"Which object is {PHRASE[said]} the {b.name}?", t.name, after=(place.key,)),
            Draft("it", function, ask_it, getattr(t, what), options, after=("which",))]  # fmt: skip
    extra = [decide(getattr(t, what), "it"),
             Draft("said", INFORMATION, "Which side does the question name?", said, SIDES)]  # fmt: skip
    return question, options, [b], core, extra


def count_cases(relation, sides):
    def cases(look):
        found = []
        for b in look.seen if len(look.seen) == len(look.scene.things) else []:
            where = [relation(t, b) for t in look.seen if t is not b]
            if None not in where:
                found += [(str(where.count(said)), (b, said)) for said in sides]
        return found

    return cases


def count_relation(relation, place, phrase):
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


def count_kind_cases(look):
    if len(look.seen) < len(look.scene.things):
        return []
    found = []
    for what, words in (("size", SIZES), ("material", MATERIALS)):
        found += [(str(sum(getattr(t, what) == word for t in look.seen)), (what, word)) for word in words]
    return found


def count_kind(look, what, word):
    question = f"How many {word} objects are there?"
    steps = [Draft(f"is {t.color}", LOW, f"Is the {t.name} {word}?", yes(getattr(t, what) == word), YES_NO,
                   family="is", short=f"And the {t.name}?") for t in look.seen]  # fmt: skip
    count = str(sum(getattr(t, what) == word for t in look.seen))
    core = [*steps, Draft("count", MATH, "How many are so?", count, after=tuple(step.key for step in steps))]
    extra = [decide(count, "count"), Draft("word", INFORMATION, "Which kind does the question name?", word)]
    return question, None, [], core, extra


def occlusion_cases(look):
    found = []
    for a, b in permutations(range(len(look.scene.things)), 2):
        share = look.hides[a, b]
        if min(look.visible[a], look.visible[b]) >= 0.4 and (share == 0 or share >= 0.08):
            found.append((yes(share > 0), (look.scene.things[a], look.scene.things[b])))
    return found


def occlusion(look, a, b):
    things = look.scene.things
    hidden = look.hides[things.index(a), things.index(b)] > 0
    question = f"Does the {a.name} hide part of the {b.name}?"
    core = [column(a), column(b), row(a), row(b)]
    extra = [decide(yes(hidden), *(draft.key for draft in core))]
    if depth(a, b):
        extra.append(Draft("relation", RELATIONAL, f"Is the {a.name} in front or back of the {b.name}?", depth(a, b),
                           ("front", "back"), after=(f"row {a.color}", f"row {b.color}")))  # fmt: skip
    return question, YES_NO, [a, b], core, extra, yes(hidden)


def pose_cases(look):
    return [(POINTS[t.heading], (t,)) for t in look.seen if t.shape == "cone"]


def pose(look, t):
    question = f"Which way does the {t.name} point: left, right, front or back?"
    points = POINTS[t.heading]
    core = [Draft("base", SPATIAL, f"Which side of the {t.name} is its base on?", OPPOSITE[points], SIDES),
            Draft("opposite", KNOWLEDGE, "What is the opposite of that?", points, SIDES, after=("base",))]  # fmt: skip
    return question, SIDES, [t], core, [decide(points, "opposite"), column(t), row(t)]


def collision_cases(look):
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


def collision(look, a, b, move):
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
