"""Attributes, counts, occlusion, pose, collision, in the manner of Spatial457."""

from collections.abc import Callable
from itertools import permutations

from cogvsr_utils.dataset.synth.kinds.template import Candidates, QuestionTemplate
from cogvsr_utils.dataset.synth.scenes import COLORS, MATERIALS, SHAPES, SIZES, Thing
from cogvsr_utils.dataset.synth.substeps import (
    OPPOSITE,
    PHRASE,
    POINTS,
    SIDES,
    YES_NO,
    Substep,
    column,
    decide,
    row,
    yes,
)
from cogvsr_utils.dataset.synth.views import SceneView, depth, side
from cogvsr_utils.functions import (
    HIGH_LEVEL,
    INFORMATION,
    KNOWLEDGE,
    LOW_LEVEL,
    MATH,
    RELATIONAL_REASONING,
    SPATIAL_PERCEPTION,
)


def attribute_candidates(view: SceneView) -> Candidates:
    """Things that one relation to another thing picks out, by each of their attributes."""
    if not view.all_visible:
        return []
    found = []
    for b in view.things:
        for relation in (side, depth):
            others = {t: relation(t, b) for t in view.things if t is not b}
            for stated in sorted(set(others.values()) - {None}):
                hits = [t for t, where in others.items() if where == stated]
                if len(hits) == 1 and None not in others.values():
                    found += [
                        (getattr(hits[0], what), (hits[0], b, stated, what))
                        for what in ("size", "material", "shape", "color")
                    ]
    return found


_ATTRIBUTES = {
    "size": (LOW_LEVEL, "What size is it?", tuple(SIZES)),
    "shape": (HIGH_LEVEL, "What shape is it?", SHAPES),
    "color": (LOW_LEVEL, "What color is it?", tuple(COLORS)),
    "material": (LOW_LEVEL, "What is it made of?", MATERIALS),
}


def attribute(view: SceneView, t: Thing, b: Thing, stated: str, what: str) -> QuestionTemplate:
    """An attribute of the only thing that stands so to ``b``."""
    noun = {"material": "What material"}.get(what, f"What {what}")
    question = f"{noun} is the object {PHRASE[stated]} the {b.name}?"
    function, ask_it, options = _ATTRIBUTES[what]
    place = column(b) if stated in ("left", "right") else row(b)
    core = [
        place,
        Substep(
            "which", RELATIONAL_REASONING, f"Which object is {PHRASE[stated]} the {b.name}?", t.name, after=(place.key,)
        ),
        Substep("it", function, ask_it, getattr(t, what), options, after=("which",)),
    ]
    optional = [
        decide(getattr(t, what), "it"),
        Substep("stated", INFORMATION, "Which side does the question name?", stated, SIDES),
    ]
    return QuestionTemplate(question, options, [b], core, optional)


def count_candidates(relation: Callable, sides: tuple[str, ...]) -> Callable:
    """A function that lists the countable relations to each thing."""

    def candidates(view: SceneView) -> Candidates:
        found = []
        for b in view.things if view.all_visible else []:
            where = [relation(t, b) for t in view.things if t is not b]
            if None not in where:
                found += [(str(where.count(stated)), (b, stated)) for stated in sides]
        return found

    return candidates


def count_relation(relation: Callable, place: Callable, phrase: dict[str, str]) -> Callable:
    """A builder that counts the things that stand so to ``b``."""

    def build(view: SceneView, b: Thing, stated: str) -> QuestionTemplate:
        question = f"How many objects are {phrase[stated]} the {b.name}?"
        others = [t for t in view.things if t is not b]
        count = str(sum(relation(t, b) == stated for t in others))
        steps = [
            Substep(
                f"is {t.color}",
                RELATIONAL_REASONING,
                f"Is the {t.name} {phrase[stated]} the {b.name}?",
                yes(relation(t, b) == stated),
                YES_NO,
                family="is",
                short=f"And the {t.name}?",
                after=(place(b).key,),
            )
            for t in others
        ]
        done = tuple(step.key for step in steps)
        core = [place(b), *steps, Substep("count", MATH, "How many are so?", count, after=done)]
        return QuestionTemplate(question, None, [b], core, [decide(count, "count")])

    return build


def count_kind_candidates(view: SceneView) -> Candidates:
    """Every size and material, to be counted."""
    if not view.all_visible:
        return []
    found = []
    for what, words in (("size", SIZES), ("material", MATERIALS)):
        found += [(str(sum(getattr(t, what) == word for t in view.things)), (what, word)) for word in words]
    return found


def count_kind(view: SceneView, what: str, word: str) -> QuestionTemplate:
    """How many things are of one size or material."""
    question = f"How many {word} objects are there?"
    steps = [
        Substep(
            f"is {t.color}",
            LOW_LEVEL,
            f"Is the {t.name} {word}?",
            yes(getattr(t, what) == word),
            YES_NO,
            family="is",
            short=f"And the {t.name}?",
        )
        for t in view.things
    ]
    count = str(sum(getattr(t, what) == word for t in view.things))
    core = [*steps, Substep("count", MATH, "How many are so?", count, after=tuple(step.key for step in steps))]
    optional = [decide(count, "count"), Substep("word", INFORMATION, "Which kind does the question name?", word)]
    return QuestionTemplate(question, None, [], core, optional)


def occlusion_candidates(view: SceneView) -> Candidates:
    """Pairs of which one clearly hides part of the other, or clearly does not."""
    found = []
    for a, b in permutations(range(len(view.scene.things)), 2):
        share = view.hides[a, b]
        if min(view.visible[a], view.visible[b]) >= 0.4 and (share == 0 or share >= 0.08):
            found.append((yes(share > 0), (view.scene.things[a], view.scene.things[b])))
    return found


def occlusion(view: SceneView, a: Thing, b: Thing) -> QuestionTemplate:
    """Whether ``a`` hides part of ``b``."""
    things = view.scene.things
    hidden = view.hides[things.index(a), things.index(b)] > 0
    question = f"Does the {a.name} hide part of the {b.name}?"
    core = [column(a), column(b), row(a), row(b)]
    optional = [decide(yes(hidden), *(template.key for template in core))]
    if depth(a, b):
        optional.append(
            Substep(
                "relation",
                RELATIONAL_REASONING,
                f"Is the {a.name} in front or back of the {b.name}?",
                depth(a, b),
                ("front", "back"),
                after=(f"row {a.color}", f"row {b.color}"),
            )
        )
    return QuestionTemplate(question, YES_NO, [a, b], core, optional, yes(hidden))


def pose_candidates(view: SceneView) -> Candidates:
    """Every visible cone."""
    return [(POINTS[t.heading], (t,)) for t in view.things if t.shape == "cone"]


def pose(view: SceneView, t: Thing) -> QuestionTemplate:
    """Which way a cone points, told from its base."""
    question = f"Which way does the {t.name} point: left, right, front or back?"
    points = POINTS[t.heading]
    core = [
        Substep("base", SPATIAL_PERCEPTION, f"Which side of the {t.name} is its base on?", OPPOSITE[points], SIDES),
        Substep("opposite", KNOWLEDGE, "What is the opposite of that?", points, SIDES, after=("base",)),
    ]
    return QuestionTemplate(question, SIDES, [t], core, [decide(points, "opposite"), column(t), row(t)])


def collision_candidates(view: SceneView) -> Candidates:
    """Moves that clearly hit or clearly miss."""
    found = []
    for a, b in view.pairs():
        for move in SIDES:
            sideways = move in ("left", "right")
            off = abs(a.y - b.y if sideways else a.x - b.x)
            level = a.row == b.row if sideways else a.column == b.column
            where = side(b, a) if sideways else depth(b, a)
            reach = a.radius + b.radius
            if where and ((level and off < reach - 0.1) or (not level and off > reach + 0.1)):
                found.append((yes(level and where == move), (a, b, move)))
    return found


def collision(view: SceneView, a: Thing, b: Thing, move: str) -> QuestionTemplate:
    """Whether ``a`` would hit ``b`` if it moved."""
    question = f"Would the {a.name} hit the {b.name} if it moved {move}?"
    sideways = move in ("left", "right")
    where = side(b, a) if sideways else depth(b, a)
    place, line = (row, "row") if sideways else (column, "column")
    level = getattr(a, line) == getattr(b, line)
    pair = "left or right" if sideways else "in front or back"
    core = [
        place(a),
        place(b),
        Substep(
            "same",
            RELATIONAL_REASONING,
            f"Are they in the same {line}?",
            yes(level),
            YES_NO,
            after=(place(a).key, place(b).key),
        ),
        Substep("relation", RELATIONAL_REASONING, f"Is the {b.name} {pair} of the {a.name}?", where),
    ]
    hit = yes(level and where == move)
    optional = [
        decide(hit, "same", "relation"),
        Substep("stated", INFORMATION, "Which side does the question name?", move, SIDES),
    ]
    return QuestionTemplate(question, YES_NO, [a, b], core, optional, hit)
