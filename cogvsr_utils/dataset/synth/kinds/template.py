"""What a kind of main question consists of.

Kind                a kind: its source benchmark, its view, its candidates in a scene, and how one is written out
QuestionTemplate    one main question with the substeps that lead to it
"""

from collections.abc import Callable
from dataclasses import dataclass

from cogvsr_utils.dataset.synth.scenes import Thing
from cogvsr_utils.dataset.synth.substeps import Substep
from cogvsr_utils.dataset.synth.views import SceneView

Candidates = list[tuple[str, tuple]]  # (label to balance, arguments of the builder)


@dataclass(frozen=True)
class QuestionTemplate:
    """A main question, its options, the things that it names, its core substeps and optional ones.

    Without an ``answer`` it is that of the optional substep "decide".
    """

    question: str
    options: tuple[str, ...] | None
    named: list[Thing]
    core: list[Substep]
    optional: list[Substep]
    answer: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of main question.

    ``source_benchmark`` is the one whose manner of asking it follows, ``view`` how the scene is shown; ``candidates``
    lists what a scene answers without doubt, each with the label that has to be even within the kind (the answer, or
    ``first``/``second`` where it is one of two things named); ``build`` writes one of them out.
    """

    name: str
    source_benchmark: str
    view: str
    candidates: Callable[[SceneView], Candidates]
    build: Callable[..., QuestionTemplate]
