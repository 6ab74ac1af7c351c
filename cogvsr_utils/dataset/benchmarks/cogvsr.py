"""CogVSR (arXiv 2603.20662) and the data sets that it grew from, CogVision and CogQA: questions with labelled steps.

COGVSR                 the benchmark
"""

from pathlib import Path

from cogvsr_utils.dataset.benchmarks.benchmark import Benchmark
from cogvsr_utils.dataset.benchmarks.pictures import Pictures
from cogvsr_utils.dataset.benchmarks.tables import is_absent
from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.files import digest
from cogvsr_utils.functions import find_function

STEPS = ("generated", "subqas", "steps", "sub_questions")
QUESTION = ("subquestion", "sub_question", "question")
FUNCTION = ("cognitive_skill", "function", "label", "type")
IMAGE = ("image", "image_path", "images")


def _make(row: dict, file: Path, pictures: Pictures) -> list[Item]:
    question, answer = _text(row["question"]), _text(row["answer"])
    steps = [_step(step) for step in _first(row, STEPS)]
    if not steps:
        raise ValueError("it has no steps")
    image = next((row[name] for name in IMAGE if not is_absent(row.get(name))), None)
    if isinstance(image, list):
        if len(image) != 1:
            raise ValueError(f"it names {len(image)} pictures; expected one")
        image = image[0]
    source, name = (
        next((str(row[each]) for each in names if not is_absent(row.get(each))), "")
        for names in (("source", "benchmark"), ("uid", "id"))
    )
    uid = name or digest(question, str(image), *(step.question for step in steps))
    kind, stated = _typed(answer)
    return [Item(
        uid=uid, benchmark="cogvsr", group_id=str(image or uid), subset=source, question=question, answer=stated,
        answer_type=kind, steps=steps, image=None if image is None else pictures.of(image),
    )]  # fmt: skip


def _step(row: dict) -> Step:
    label = _first(row, FUNCTION)
    labels = [label] if isinstance(label, str) else list(label)
    if len(labels) != 1:
        raise ValueError(f"a step has the labels {labels}; expected one")
    kind, answer = _typed(_text(row["answer"]))
    return Step(_text(_first(row, QUESTION)), answer, kind, None, find_function(labels[0]).name)


def _first(row: dict, names: tuple[str, ...]) -> object:
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(f"it has the fields {sorted(row)}; expected one of {names}")


def _text(value: object) -> str:
    """A text, of numbers too; the published files write a line's end as a backslash and an n.

    >>> _text("Where?\\\\nOptions: "), _text(3)
    ('Where?\\nOptions:', '3')
    """
    text = "" if is_absent(value) else str(value).replace("\\n", "\n").strip()
    if not text:
        raise ValueError("a question or an answer is blank")
    return text


def _typed(answer: str) -> tuple[str, str]:
    """The type of an answer, and the answer as it is compared."""
    plain = answer.rstrip(".").strip()
    if plain.lower() in ("yes", "no"):
        return "yesno", plain.lower()
    if plain.lstrip("-").isdigit():
        return "int", str(int(plain))
    return "text", answer


COGVSR = Benchmark(
    name="cogvsr", title="CogVSR", paper="arXiv 2603.20662", licence="unknown",
    fields=("question", "answer", STEPS), make=_make,
)  # fmt: skip
