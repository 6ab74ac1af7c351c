"""SpatialEval (arXiv 2406.14852): maps, mazes, grids and photographs, each as text, as a picture, and as both.

SPATIALEVAL            the benchmark
by_question(items)     the modes of each question, paired by their ids
"""

import re
from collections.abc import Sequence
from pathlib import Path

from cogvsr_utils.dataset.benchmarks.benchmark import Benchmark
from cogvsr_utils.dataset.benchmarks.pictures import Pictures
from cogvsr_utils.dataset.items import Item

TASKS = ("spatialmap", "mazenav", "spatialgrid", "spatialreal")
MODES = ("tqa", "vqa", "vtqa")
OPTION = re.compile(r"^([A-D])\. (.+?)\.?\s*$", re.MULTILINE)


def by_question(items: Sequence[Item]) -> dict[str, dict[str, Item]]:
    """Items by mode, for each question: a question's answer is the same in every mode.

    Raises ValueError where it is not.
    """
    found: dict[str, dict[str, Item]] = {}
    for item in items:
        found.setdefault(item.meta["question"], {})[item.meta["mode"]] = item
    for question, modes in found.items():
        if len({item.answer for item in modes.values()}) > 1:
            raise ValueError(f"the modes of {question} differ in their answers; expected one answer")
    return found


def _make(row: dict, file: Path, pictures: Pictures) -> list[Item]:
    parts = str(row["id"]).split(".")
    if len(parts) != 4 or parts[0] not in TASKS or parts[1] not in MODES:
        raise ValueError(f"the id is {row['id']!r}; expected task.mode.number.family")
    task, mode, number, family = parts
    _, marker, listed = str(row["text"]).rpartition("Available options:")
    options = dict(OPTION.findall(listed)) if marker else {}
    letter, answer = str(row["oracle_option"]).strip(), str(row["oracle_answer"]).strip()
    if options.get(letter) != answer or str(row["oracle_full_answer"]).strip() != f"{letter}. {answer}":
        raise ValueError(f"letter {letter!r}, answer {answer!r} and the options {options} disagree")
    image = None if mode == "tqa" else pictures.of(row.get("image"))
    return [Item(
        uid=str(row["id"]), benchmark="spatialeval", group_id=f"{task}.{number}", subset=f"{task} {family}",
        question=str(row["text"]), answer=answer, answer_type="choice", options=list(options.values()), steps=[],
        image=image, meta={"task": task, "family": family, "mode": mode, "question": f"{task}.{number}.{family}",
                          "lettered": True},
    )]  # fmt: skip


SPATIALEVAL = Benchmark(
    name="spatialeval", title="SpatialEval", paper="arXiv 2406.14852", licence="none stated",
    fields=("id", "text", "oracle_answer", "oracle_option", "oracle_full_answer"), make=_make,
)  # fmt: skip
