"""From a scene to a main question and its verified steps.

    cases(kind, look)              the questions of a kind that this scene answers without doubt, with their answers
    ask(kind, look, case, rng)     one of them, as question, answer and steps in a possible order

Every answer is computed from the geometry. Step order varies where logic allows, and functions share their answer
words, so that neither gives a step's function away.
"""

from __future__ import annotations

import numpy as np

from .drafts import (
    DECISION,
    HIGH,
    INFORMATION,
    KNOWLEDGE,
    LOW,
    MATH,
    RELATIONAL,
    SPATIAL,
    YES_NO,
    Draft,
    Look,
    extras,
)  # fmt: skip
from .items import Step
from .kinds import KINDS

HARD = ("facing", "map_cell", "occlusion")  # kinds that nano-internvl answers below 0.60, kept for work on latent heads
STEP_COUNTS, STEP_CHANCES = (3, 4, 5, 6, 7), (0.18, 0.29, 0.29, 0.15, 0.09)
# How often an optional step of each function is drawn; set so that every function holds at least 8 % of all steps.
EXTRA_WEIGHT = {SPATIAL: 0.1, RELATIONAL: 0.2, LOW: 0.2, HIGH: 4.5, INFORMATION: 6.3, KNOWLEDGE: 3.8, MATH: 3.0,
                DECISION: 8.5}  # fmt: skip


def cases(kind: str, look: Look) -> list[tuple[str, tuple]]:
    """The undoubted questions of a kind in this scene: (balance label, arguments) pairs, possibly none.

    The balance label is what has to be even within the kind; it is the answer, or ``first``/``second`` where the
    answer is one of two things named.
    """
    return KINDS[kind].cases(look)


def ask(kind: str, look: Look, case: tuple, rng: np.random.Generator):
    """Write one case out.

    Returns question, answer, answer type, options and the steps, three to seven, in a random order that logic allows.
    """
    question, options, named, core, extra, *given = KINDS[kind].build(look, *case)
    answer = given[0] if given else next(d.answer for d in extra if d.key == "decide")
    drafts = _choose(core, extra + extras(look, question, named, rng), rng)
    steps = _order(drafts, rng)
    return question, answer, _answer_type(answer, options), options, steps


def _choose(core: list[Draft], extra: list[Draft], rng: np.random.Generator) -> list[Draft]:
    """The core and as many extra drafts as the drawn number of steps leaves room for, none twice."""
    wanted = int(rng.choice(STEP_COUNTS, p=STEP_CHANCES))
    chosen = {draft.key: draft for draft in core}
    pool = {d.key: d for d in extra if d.key not in chosen}
    while len(chosen) < max(wanted, STEP_COUNTS[0]) and pool:
        functions = sorted({d.function for d in pool.values()})
        weights = np.array([EXTRA_WEIGHT[f] for f in functions])
        function = functions[rng.choice(len(functions), p=weights / weights.sum())]
        keys = [k for k, d in pool.items() if d.function == function and set(d.after) <= chosen.keys()]
        if not keys:
            pool = {k: d for k, d in pool.items() if d.function != function}
            continue
        key = keys[rng.integers(len(keys))]
        chosen[key] = pool.pop(key)
    return list(chosen.values())


def _order(drafts: list[Draft], rng: np.random.Generator) -> list[Step]:
    """A random order in which every draft follows those it needs; a repeated question may be shortened."""
    left, done, steps, before = list(drafts), set(), [], ""
    while left:
        ready = [d for d in left if set(d.after) <= done]
        kin = [d for d in ready if d.family and d.family == before]
        # Questions of one family tend to come in a row, as people ask them.
        pool = kin if kin and rng.random() < 0.6 else ready
        draft = pool[rng.integers(len(pool))]
        left.remove(draft)
        done.add(draft.key)
        shorten = draft.short and draft.family == before and rng.random() < 0.6
        question = draft.short if shorten else draft.question
        options = list(draft.options) if draft.options else None
        kind = _answer_type(draft.answer, draft.options)
        steps.append(Step(question, draft.answer, kind, options, draft.function))
        before = draft.family
    return steps


def _answer_type(answer: str, options: tuple[str, ...] | None) -> str:
    if answer in YES_NO:
        return "yesno"
    if answer.isdigit():
        return "int"
    return "choice" if options else "closed"
