"""Closer, higher, facing, own viewpoint, in the manner of 3DSRBench."""

from itertools import permutations

from cogvsr_utils.dataset.synth.kinds.template import Candidates, QuestionTemplate
from cogvsr_utils.dataset.synth.scenes import Thing
from cogvsr_utils.dataset.synth.substeps import (
    LEFT_OF,
    OPPOSITE,
    POINTS,
    SIDES,
    YES_NO,
    Substep,
    decide,
    points,
    row,
    size_of,
    yes,
)
from cogvsr_utils.dataset.synth.views import SceneView, depth, main_side
from cogvsr_utils.functions import KNOWLEDGE, RELATIONAL_REASONING


def closer_candidates(view: SceneView) -> Candidates:
    """Pairs whose distances to the camera differ clearly."""
    found = []
    for a, b in view.pairs():
        gap = view.scene.camera_distance(a) - view.scene.camera_distance(b)
        if depth(a, b) and abs(gap) > 0.4 and (gap < 0) == (depth(a, b) == "front"):
            found += [
                ("first" if (gap < 0) == (word == "closer to") else "second", (a, b, word))
                for word in ("closer to", "farther from")
            ]
    return found


def closer(view: SceneView, a: Thing, b: Thing, word: str) -> QuestionTemplate:
    """Which of two things is closer to the camera, or farther from it."""
    question = f"Which is {word} the camera, the {a.name} or the {b.name}?"
    near, far = (a, b) if depth(a, b) == "front" else (b, a)
    answer = near if word == "closer to" else far
    core = [
        row(a),
        row(b),
        Substep(
            "lower",
            RELATIONAL_REASONING,
            "Which of the two is in the lower row?",
            near.name,
            (a.name, b.name),
            after=(f"row {a.color}", f"row {b.color}"),
        ),
    ]
    optional = [
        decide(answer.name, "lower", question="So which one is it?"),
        Substep(
            "close",
            KNOWLEDGE,
            f"Is {word} the camera a lower or a higher row?",
            "lower" if word == "closer to" else "higher",
            ("lower", "higher"),
        ),
    ]
    return QuestionTemplate(question, (a.name, b.name), [a, b], core, optional, answer.name)


def higher_candidates(view: SceneView) -> Candidates:
    """Pairs of different size."""
    return [
        ("first" if (a.size == "large") == (word == "higher") else "second", (a, b, word))
        for a, b in view.pairs()
        if a.size != b.size
        for word in ("higher", "less high")
    ]


def higher(view: SceneView, a: Thing, b: Thing, word: str) -> QuestionTemplate:
    """Which of two things reaches higher, or less high."""
    question = f"Which reaches {word}, the {a.name} or the {b.name}?"
    large, small = (a, b) if a.size == "large" else (b, a)
    answer = large if word == "higher" else small
    core = [
        size_of(a),
        size_of(b),
        Substep(
            "larger",
            RELATIONAL_REASONING,
            "Which of the two is larger?",
            large.name,
            (a.name, b.name),
            after=(f"size {a.color}", f"size {b.color}"),
        ),
    ]
    optional = [
        decide(answer.name, "larger", question="So which one is it?"),
        Substep("reach", KNOWLEDGE, f"Does a large object reach {word}?", yes(word == "higher"), YES_NO),
    ]
    return QuestionTemplate(question, (a.name, b.name), [a, b], core, optional, answer.name)


def facing_candidates(view: SceneView) -> Candidates:
    """A cone, a thing that it points at, and one that it does not."""
    found = []
    for a in view.things:
        for b, c in permutations([t for t in view.things if a.shape == "cone" and t is not a], 2):
            if main_side(b, a) == POINTS[a.heading] and main_side(c, a) not in (None, POINTS[a.heading]):
                found += [("first", (a, b, c, b)), ("second", (a, c, b, b))]
    return found


def facing(view: SceneView, a: Thing, b: Thing, c: Thing, target: Thing) -> QuestionTemplate:
    """Which of two things a cone points at."""
    question = f"Which object does the {a.name} point at, the {b.name} or the {c.name}?"
    place = [
        Substep(
            f"where {t.color}",
            RELATIONAL_REASONING,
            f"Which side of the {a.name} is the {t.name} on?",
            main_side(t, a),
            SIDES,
            family="where",
            short=f"And the {t.name}?",
        )
        for t in (b, c)
    ]
    optional = [
        decide(target.name, f"points {a.color}", f"where {b.color}", f"where {c.color}", question="So which one is it?")
    ]
    return QuestionTemplate(question, (b.name, c.name), [a, b, c], [points(a), *place], optional, target.name)


def viewpoint_candidates(view: SceneView) -> Candidates:
    """Things clearly on the left or right hand of a cone."""
    found = []
    for a, b in view.pairs():
        where = main_side(b, a) if a.shape == "cone" else None
        left = LEFT_OF[POINTS[a.heading]]
        if where in (left, OPPOSITE[left]):
            found.append(("left" if where == left else "right", (a, b)))
    return found


def viewpoint(view: SceneView, a: Thing, b: Thing) -> QuestionTemplate:
    """On which hand of a cone a thing is."""
    question = f"Seen from the {a.name}, is the {b.name} on its left or its right?"
    where, left = main_side(b, a), LEFT_OF[POINTS[a.heading]]
    answer = "left" if where == left else "right"
    core = [
        points(a),
        Substep(
            "its left", KNOWLEDGE, "Which way is the left of what points so?", left, SIDES, after=(f"points {a.color}",)
        ),
        Substep("where", RELATIONAL_REASONING, f"Which side of the {a.name} is the {b.name} on?", where, SIDES),
    ]
    return QuestionTemplate(question, ("left", "right"), [a, b], core, [decide(answer, "its left", "where")])
