"""Spatial457 (arXiv 2502.08636): rendered scenes, from one object to collisions in six degrees of freedom.

SPATIAL457             the benchmark
"""

import re
from pathlib import Path

from cogvsr_utils.dataset.benchmarks.benchmark import Benchmark
from cogvsr_utils.dataset.benchmarks.pictures import Pictures
from cogvsr_utils.dataset.benchmarks.tables import is_absent
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.files import digest

LEVELS = ("L1_single", "L2_objects", "L3_2d_spatial", "L4_occ", "L4_pose", "L5_6d_spatial", "L5_collision")
CLASSES = {
    "car": ("suv", "wagon", "minivan", "sedan", "truck", "regular car"),
    "bus": ("articulated bus", "regular bus", "double bus", "school bus"),
    "motorbike": ("chopper", "dirtbike", "scooter", "cruiser"),
    "aeroplane": ("jet", "fighter", "biplane", "airliner"),
    "bicycle": ("road bike", "utility bike", "mountain bike", "tandem bike"),
}
VOCABULARY = {
    "size": ("small", "large"),
    "colour": ("gray", "blue", "purple", "brown", "green", "cyan", "red", "yellow"),
    "direction": ("left", "right", "front", "back"),
    "shape": tuple(shape for shapes in CLASSES.values() for shape in shapes),
}
YES = {"true": "yes", "false": "no", "yes": "yes", "no": "no"}


def _make(row: dict, file: Path, pictures: Pictures) -> list[Item]:
    given = row["answer"]
    program = row.get("program")
    kind, answer = _typed(str(given).strip())
    output = None if program is None or isinstance(program, str) or not len(program) else program[-1].get("_output")
    if output is not None and _typed(str(output))[1] != answer:
        raise ValueError(f"the answer is {given!r}, but its program ends with {output!r}")
    category = row.get("category", row.get("level"))
    level = _level(f"{file.parent.name} {file.stem}" if is_absent(category) else str(category))
    name = row.get("image_filename")
    image = pictures.of(row["image"] if not is_absent(row.get("image")) else name)
    scene = name if not is_absent(name) else digest(image) if isinstance(image, bytes) else Path(image).name
    number = str(row.get("question_index", row.get("index")))
    return [Item(
        uid=f"{level}.{number}", benchmark="spatial457", group_id=str(scene),
        subset=level, question=str(row["question"]), answer=answer,
        answer_type=kind if kind in ("yesno", "int") else "closed", options=list(VOCABULARY.get(kind, ())) or None,
        steps=[], image=image, meta={"kind": kind, "gold": answer.capitalize() if kind == "yesno" else str(given)},
    )]  # fmt: skip


def _typed(gold: str) -> tuple[str, str]:
    """The type of an answer, and the answer as this package writes it; the published files write booleans as JSON's, as
    True and False, and as Yes and No.

    >>> _typed("True"), _typed("10"), _typed("sedan")
    (('yesno', 'yes'), ('int', '10'), ('shape', 'sedan'))
    """
    if gold.lower() in YES:
        return "yesno", YES[gold.lower()]
    if re.fullmatch(r"\d+(\.0)?", gold):
        return "int", str(int(float(gold)))
    for kind, words in VOCABULARY.items():
        if gold.lower() in words:
            return kind, gold.lower()
    return "other", gold.lower()


def _level(text: str) -> str:
    """A level, whatever its case: the files write L3_2D_spatial, the loaders L3_2d_spatial.

    >>> _level("L3_2D_spatial")
    'L3_2d_spatial'
    """
    for level in LEVELS:
        if level.lower() in text.lower():
            return level
    raise ValueError(f"{text!r} names no level; expected one of {LEVELS} in the file's name or its category")


SPATIAL457 = Benchmark(
    name="spatial457", title="Spatial457", paper="arXiv 2502.08636", licence="Apache-2.0 by its card",
    fields=("question", "answer", ("image_filename", "image"), ("question_index", "index")), make=_make,
)  # fmt: skip
