"""Statements to verify, in the manner of VSR."""

from collections.abc import Callable

from cogvsr_utils.dataset.synth.kinds.template import Candidates, QuestionTemplate
from cogvsr_utils.dataset.synth.scenes import Thing
from cogvsr_utils.dataset.synth.substeps import OPPOSITE, PHRASE, YES_NO, Axis, Substep, decide, stated_side, yes
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.functions import MATH


def statement(axis: Axis) -> tuple[Callable, Callable]:
    """The candidates and the builder of true and false statements about two things along an axis."""

    def candidates(view: SceneView) -> Candidates:
        found = []
        for a, b in view.pairs():
            where = axis.relation(a, b)
            if where:
                found += [(yes(stated == where), (a, b, stated)) for stated in (where, OPPOSITE[where])]
        return found

    def build(view: SceneView, a: Thing, b: Thing, stated: str) -> QuestionTemplate:
        question = f"Is it true that the {a.name} is {PHRASE[stated]} the {b.name}?"
        relation, apart = axis.relate(a, b), abs(getattr(a, axis.line) - getattr(b, axis.line))
        optional = [
            decide(yes(relation.answer == stated), "relation", question="So is it true?"),
            stated_side(stated),
            Substep("apart", MATH, f"How many {axis.line}s apart are they?", str(apart), after=relation.after),
        ]
        return QuestionTemplate(question, YES_NO, [a, b], [axis.place(a), axis.place(b), relation], optional)

    return candidates, build
