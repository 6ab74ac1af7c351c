"""Statements to verify, in the manner of VSR."""

from __future__ import annotations

from ..drafts import (
    INFORMATION,
    MATH,
    OPPOSITE,
    PHRASE,
    RELATIONAL,
    SIDES,
    YES_NO,
    Draft,
    column,
    decide,
    depth,
    row,
    side,
    yes,
)  # fmt: skip


def statement_cases(relation):
    def cases(look):
        found = []
        for a, b in look.pairs():
            where = relation(a, b)
            if where:
                found += [(yes(said == where), (a, b, said)) for said in (where, OPPOSITE[where])]
        return found

    return cases


def statement_side(look, a, b, said):
    question = f"Is it true that the {a.name} is {PHRASE[said]} the {b.name}?"
    truth = side(a, b)
    core = [column(a), column(b),
            Draft("relation", RELATIONAL, f"Is the {a.name} left or right of the {b.name}?", truth, ("left", "right"),
                  after=(f"column {a.color}", f"column {b.color}"))]  # fmt: skip
    extra = [decide(yes(truth == said), "relation", question="So is it true?"),
             Draft("said", INFORMATION, "Which side does the question name?", said, SIDES),
             Draft("apart", MATH, "How many columns apart are they?", str(abs(a.column - b.column)),
                   after=(f"column {a.color}", f"column {b.color}"))]  # fmt: skip
    return question, YES_NO, [a, b], core, extra


def statement_depth(look, a, b, said):
    question = f"Is it true that the {a.name} is {PHRASE[said]} the {b.name}?"
    truth = depth(a, b)
    core = [row(a), row(b),
            Draft("relation", RELATIONAL, f"Is the {a.name} in front or back of the {b.name}?", truth,
                  ("front", "back"), after=(f"row {a.color}", f"row {b.color}"))]  # fmt: skip
    extra = [decide(yes(truth == said), "relation", question="So is it true?"),
             Draft("said", INFORMATION, "Which side does the question name?", said, SIDES),
             Draft("apart", MATH, "How many rows apart are they?", str(abs(a.row - b.row)),
                   after=(f"row {a.color}", f"row {b.color}"))]  # fmt: skip
    return question, YES_NO, [a, b], core, extra
