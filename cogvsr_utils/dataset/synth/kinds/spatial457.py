"""Attributes, counts, occlusion, pose, collision, in the manner of Spatial457."""

from collections.abc import Callable
from itertools import permutations

from cogvsr_utils.dataset.synth.kinds.template import Candidates, QuestionTemplate
from cogvsr_utils.dataset.synth.scenes import COLORS, MATERIALS, SHAPES, SIZES, Thing
from cogvsr_utils.dataset.synth.substeps import (
    COLUMNS,
    OPPOSITE,
    PHRASE,
    POINTS,
    ROWS,
    SIDES,
    YES_NO,
    Axis,
    Substep,
    column,
    decide,
    is_so,
    row,
    stated_side,
    yes,
)
from cogvsr_utils.dataset.synth.views import SceneView, depth
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
        for axis in (COLUMNS, ROWS):
            others = {t: axis.relation(t, b) for t in view.things if t is not b}
            for stated in sorted(set(others.values()) - {None}):
                hits = [t for t, where in others.items() if where == stated]
                if len(hits) == 1 and None not in others.values():
                    attributes = ("size", "material", "shape", "color")
                    found += [(getattr(hits[0], what), (hits[0], b, stated, what)) for what in attributes]
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
    place = (COLUMNS if stated in COLUMNS.sides else ROWS).place(b)
    which = f"Which object is {PHRASE[stated]} the {b.name}?"
    core = [
        place,
        Substep("which", RELATIONAL_REASONING, which, t.name, after=(place.key,)),
        Substep("it", function, ask_it, getattr(t, what), options, after=("which",)),
    ]
    return QuestionTemplate(question, options, [b], core, [decide(getattr(t, what), "it"), stated_side(stated)])


def count_relation(axis: Axis, phrase: dict[str, str]) -> tuple[Callable, Callable]:
    """The candidates and the builder of counts of the things that stand so to another along an axis."""

    def candidates(view: SceneView) -> Candidates:
        found = []
        for b in view.things if view.all_visible else []:
            where = [axis.relation(t, b) for t in view.things if t is not b]
            if None not in where:
                found += [(str(where.count(stated)), (b, stated)) for stated in axis.sides]
        return found

    def build(view: SceneView, b: Thing, stated: str) -> QuestionTemplate:
        claim, place, others = f"{phrase[stated]} the {b.name}", axis.place(b), [t for t in view.things if t is not b]
        steps = [is_so(t, RELATIONAL_REASONING, claim, axis.relation(t, b) == stated, place.key) for t in others]
        count = _count(steps)
        core = [place, *steps, count]
        return QuestionTemplate(f"How many objects are {claim}?", None, [b], core, [decide(count.answer, "count")])

    return candidates, build


def _count(steps: list[Substep]) -> Substep:
    """How many of some claims are true."""
    count = sum(step.answer == "yes" for step in steps)
    return Substep("count", MATH, "How many are so?", str(count), after=tuple(step.key for step in steps))


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
    steps = [is_so(t, LOW_LEVEL, word, getattr(t, what) == word) for t in view.things]
    count = _count(steps)
    optional = [decide(count.answer, "count"), Substep("word", INFORMATION, "Which kind does the question name?", word)]
    return QuestionTemplate(f"How many {word} objects are there?", None, [], [*steps, count], optional)


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
        optional.append(ROWS.relate(a, b))
    return QuestionTemplate(question, YES_NO, [a, b], core, optional, yes(hidden))


def pose_candidates(view: SceneView) -> Candidates:
    """Every visible cone."""
    return [(POINTS[t.heading], (t,)) for t in view.things if t.shape == "cone"]


def pose(view: SceneView, t: Thing) -> QuestionTemplate:
    """Which way a cone points, from the side that its base is on."""
    question = f"Which way does the {t.name} point: left, right, front or back?"
    points = POINTS[t.heading]
    core = [
        Substep("base", SPATIAL_PERCEPTION, f"Which side of the {t.name} is its base on?", OPPOSITE[points], SIDES),
        Substep("opposite", KNOWLEDGE, "What is the opposite of that?", points, SIDES, after=("base",)),
    ]
    return QuestionTemplate(question, SIDES, [t], core, [decide(points, "opposite"), column(t), row(t)])


def _axes(move: str) -> tuple[Axis, Axis]:
    """The axis along which a move goes, and the one across it."""
    return (COLUMNS, ROWS) if move in COLUMNS.sides else (ROWS, COLUMNS)


def collision_candidates(view: SceneView) -> Candidates:
    """Moves that clearly hit or clearly miss."""
    found = []
    for a, b in view.pairs():
        for move in SIDES:
            along, across = _axes(move)
            off = abs(a.y - b.y if across is ROWS else a.x - b.x)
            level = getattr(a, across.line) == getattr(b, across.line)
            where = along.relation(b, a)
            reach = a.radius + b.radius
            if where and ((level and off < reach - 0.1) or (not level and off > reach + 0.1)):
                found.append((yes(level and where == move), (a, b, move)))
    return found


def collision(view: SceneView, a: Thing, b: Thing, move: str) -> QuestionTemplate:
    """Whether ``a`` would hit ``b`` if it moved."""
    question = f"Would the {a.name} hit the {b.name} if it moved {move}?"
    along, across = _axes(move)
    where, level = along.relation(b, a), getattr(a, across.line) == getattr(b, across.line)
    places, same = [across.place(a), across.place(b)], f"Are they in the same {across.line}?"
    core = [
        *places,
        Substep("same", RELATIONAL_REASONING, same, yes(level), YES_NO, after=tuple(step.key for step in places)),
        Substep("relation", RELATIONAL_REASONING, f"Is the {b.name} {along.either} of the {a.name}?", where),
    ]
    hit = yes(level and where == move)
    optional = [decide(hit, "same", "relation"), stated_side(move)]
    return QuestionTemplate(question, YES_NO, [a, b], core, optional, hit)
