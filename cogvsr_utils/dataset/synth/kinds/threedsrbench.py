"""Closer, higher, facing, own viewpoint, in the manner of 3DSRBench."""

from collections.abc import Callable
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
            for word in ("closer to", "farther from"):
                found.append(("first" if (gap < 0) == (word == "closer to") else "second", (a, b, word)))
    return found


def closer(view: SceneView, a: Thing, b: Thing, word: str) -> QuestionTemplate:
    """Which of two things is closer to the camera, or farther from it."""
    near, far = (a, b) if depth(a, b) == "front" else (b, a)
    known = "lower" if word == "closer to" else "higher"
    return _one_of_two(
        f"Which is {word} the camera", a, b, near if word == "closer to" else far, row,
        ("lower", "Which of the two is in the lower row?", near),
        ("close", KNOWLEDGE, f"Is {word} the camera a lower or a higher row?", known, ("lower", "higher")),
    )  # fmt: skip


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
    large, small = (a, b) if a.size == "large" else (b, a)
    return _one_of_two(
        f"Which reaches {word}", a, b, large if word == "higher" else small, size_of,
        ("larger", "Which of the two is larger?", large),
        ("reach", KNOWLEDGE, f"Does a large object reach {word}?", yes(word == "higher"), YES_NO),
    )  # fmt: skip


def _one_of_two(question: str, a: Thing, b: Thing, answer: Thing, measure: Callable, compared: tuple, known: tuple):
    """Which of two things: ``measure`` asks for one measure of each, ``compared`` (key, question, thing) compares them,
    ``known`` is the fact that makes an answer of it."""
    names, (key, ask, picked) = (a.name, b.name), compared
    first, second = measure(a), measure(b)
    relation = Substep(key, RELATIONAL_REASONING, ask, picked.name, names, after=(first.key, second.key))
    optional = [decide(answer.name, key, question="So which one is it?"), Substep(*known)]
    whole = f"{question}, the {a.name} or the {b.name}?"
    return QuestionTemplate(whole, names, [a, b], [first, second, relation], optional, answer.name)


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
    core = [points(a)] + [
        Substep(f"where {t.color}", RELATIONAL_REASONING, f"Which side of the {a.name} is the {t.name} on?",
                main_side(t, a), SIDES, family="where", short=f"And the {t.name}?")
        for t in (b, c)
    ]  # fmt: skip
    optional = [decide(target.name, *(step.key for step in core), question="So which one is it?")]
    return QuestionTemplate(question, (b.name, c.name), [a, b, c], core, optional, target.name)


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
        Substep("its left", KNOWLEDGE, "Which way is the left of what points so?", left, SIDES, (points(a).key,)),
        Substep("where", RELATIONAL_REASONING, f"Which side of the {a.name} is the {b.name} on?", where, SIDES),
    ]
    return QuestionTemplate(question, ("left", "right"), [a, b], core, [decide(answer, "its left", "where")])
