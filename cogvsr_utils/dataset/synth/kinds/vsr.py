"""Statements to verify, in the manner of VSR."""

from collections.abc import Callable

from cogvsr_utils.dataset.synth.kinds.template import Candidates, QuestionTemplate
from cogvsr_utils.dataset.synth.scenes import Thing
from cogvsr_utils.dataset.synth.substeps import OPPOSITE, PHRASE, SIDES, YES_NO, Substep, column, decide, row, yes
from cogvsr_utils.dataset.synth.views import SceneView, depth, side
from cogvsr_utils.functions import INFORMATION, MATH, RELATIONAL_REASONING


def statement_candidates(relation: Callable) -> Callable:
    """A function that lists true and false statements of one relation."""

    def candidates(view: SceneView) -> Candidates:
        found = []
        for a, b in view.pairs():
            where = relation(a, b)
            if where:
                found += [(yes(stated == where), (a, b, stated)) for stated in (where, OPPOSITE[where])]
        return found

    return candidates


def statement_side(view: SceneView, a: Thing, b: Thing, stated: str) -> QuestionTemplate:
    """Whether ``a`` is left or right of ``b`` as stated."""
    question = f"Is it true that the {a.name} is {PHRASE[stated]} the {b.name}?"
    truth = side(a, b)
    core = [
        column(a),
        column(b),
        Substep(
            "relation",
            RELATIONAL_REASONING,
            f"Is the {a.name} left or right of the {b.name}?",
            truth,
            ("left", "right"),
            after=(f"column {a.color}", f"column {b.color}"),
        ),
    ]
    optional = [
        decide(yes(truth == stated), "relation", question="So is it true?"),
        Substep("stated", INFORMATION, "Which side does the question name?", stated, SIDES),
        Substep(
            "apart",
            MATH,
            "How many columns apart are they?",
            str(abs(a.column - b.column)),
            after=(f"column {a.color}", f"column {b.color}"),
        ),
    ]
    return QuestionTemplate(question, YES_NO, [a, b], core, optional)


def statement_depth(view: SceneView, a: Thing, b: Thing, stated: str) -> QuestionTemplate:
    """Whether ``a`` is in front of or behind ``b`` as stated."""
    question = f"Is it true that the {a.name} is {PHRASE[stated]} the {b.name}?"
    truth = depth(a, b)
    core = [
        row(a),
        row(b),
        Substep(
            "relation",
            RELATIONAL_REASONING,
            f"Is the {a.name} in front or back of the {b.name}?",
            truth,
            ("front", "back"),
            after=(f"row {a.color}", f"row {b.color}"),
        ),
    ]
    optional = [
        decide(yes(truth == stated), "relation", question="So is it true?"),
        Substep("stated", INFORMATION, "Which side does the question name?", stated, SIDES),
        Substep(
            "apart",
            MATH,
            "How many rows apart are they?",
            str(abs(a.row - b.row)),
            after=(f"row {a.color}", f"row {b.color}"),
        ),
    ]
    return QuestionTemplate(question, YES_NO, [a, b], core, optional)
