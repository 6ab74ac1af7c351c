"""From a scene to a main question and its verified steps.

ask(kind, view, candidate, rng)     one question of a kind with its steps -> AskedQuestion

Every answer is computed from the geometry. Step order varies where logic allows, and functions share their answer
words, so that neither gives a step's function away.
"""

from dataclasses import dataclass

import numpy as np

from cogvsr_utils.dataset.items import Step
from cogvsr_utils.dataset.synth.kinds import KINDS
from cogvsr_utils.dataset.synth.substeps import YES_NO, Substep, general
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.functions import (
    DECISION,
    HIGH_LEVEL,
    INFORMATION,
    KNOWLEDGE,
    LOW_LEVEL,
    MATH,
    RELATIONAL_REASONING,
    SPATIAL_PERCEPTION,
)

# Kinds that the training of nano-internvl shows with cues; what cues do is asked of the others that name things.
CUED = ("statement_side", "closer", "attribute", "count_side", "pose", "map_direction")
HARD = ("facing", "map_cell", "occlusion")  # below 0.60 by the first nano models; kept for latent heads
STEP_COUNTS, STEP_CHANCES = (3, 4, 5, 6, 7), (0.18, 0.29, 0.29, 0.15, 0.09)
# How often an optional step of each function is drawn; set so that every function has at least 8 % of all steps.
OPTIONAL_WEIGHT = {
    SPATIAL_PERCEPTION: 0.1, RELATIONAL_REASONING: 0.2, LOW_LEVEL: 0.2, HIGH_LEVEL: 4.5, INFORMATION: 6.3,
    KNOWLEDGE: 3.8, MATH: 3.0, DECISION: 8.5,
}  # fmt: skip


@dataclass(frozen=True)
class AskedQuestion:
    """A main question with its steps; ``needed`` are the numbers of the steps that bear on it, the others are
    filler."""

    question: str
    answer: str
    answer_type: str
    options: tuple[str, ...] | None
    steps: list[Step]
    needed: list[int]


def ask(kind: str, view: SceneView, candidate: tuple, rng: np.random.Generator) -> AskedQuestion:
    """Write one candidate of ``KINDS[kind].candidates(view)`` out, with three to seven steps in an order that logic
    allows."""
    made = KINDS[kind].build(view, *candidate)
    answer = made.answer or next(t.answer for t in made.optional if t.key == "decide")
    templates = _choose(made.core, made.optional + general(view, made.question, made.named, rng), rng)
    steps, keys = zip(*_order(templates, rng), strict=True)
    own = {t.key for t in (*made.core, *made.optional)}
    needed = [number for number, key in enumerate(keys) if key in own]
    return AskedQuestion(made.question, answer, _answer_type(answer, made.options), made.options, list(steps), needed)


def _choose(core: list[Substep], optional: list[Substep], rng: np.random.Generator) -> list[Substep]:
    """The core and as many optional templates as the drawn number of steps leaves room for, none twice."""
    wanted = int(rng.choice(STEP_COUNTS, p=STEP_CHANCES))
    chosen = {template.key: template for template in core}
    pool = {d.key: d for d in optional if d.key not in chosen}
    while len(chosen) < max(wanted, STEP_COUNTS[0]) and pool:
        functions = sorted({d.function for d in pool.values()})
        weights = np.array([OPTIONAL_WEIGHT[f] for f in functions])
        function = functions[rng.choice(len(functions), p=weights / weights.sum())]
        keys = [k for k, d in pool.items() if d.function == function and set(d.after) <= chosen.keys()]
        if not keys:
            pool = {k: d for k, d in pool.items() if d.function != function}
            continue
        key = keys[rng.integers(len(keys))]
        chosen[key] = pool.pop(key)
    return list(chosen.values())


def _order(templates: list[Substep], rng: np.random.Generator) -> list[tuple[Step, str]]:
    """Steps with their templates' keys, in a random order in which each follows those it needs; a repeated question may
    be shortened."""
    left, done, steps, before = list(templates), set(), [], ""
    while left:
        ready = [d for d in left if set(d.after) <= done]
        kin = [d for d in ready if d.family and d.family == before]
        # Questions of one family tend to come in a row, as people ask them.
        pool = kin if kin and rng.random() < 0.6 else ready
        template = pool[rng.integers(len(pool))]
        left.remove(template)
        done.add(template.key)
        shorten = template.short and template.family == before and rng.random() < 0.6
        question = template.short if shorten else template.question
        options = list(template.options) if template.options else None
        kind = _answer_type(template.answer, template.options)
        steps.append((Step(question, template.answer, kind, options, template.function), template.key))
        before = template.family
    return steps


def _answer_type(answer: str, options: tuple[str, ...] | None) -> str:
    if answer in YES_NO:
        return "yesno"
    if answer.isdigit():
        return "int"
    return "choice" if options else "closed"
