"""Look-alikes: CogVSR-Synth questions in the files of the benchmarks that they are modelled on.

write_lookalikes(items, folder)    a folder for each benchmark; ``load_items("vsr:FOLDER/vsr")`` reads it

They try every loader, scorer and table on data that `nano-internvl` can answer. Nothing of the benchmarks is in them.
"""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cogvsr_utils.dataset.benchmarks.threedsrbench import LETTERS, with_letters
from cogvsr_utils.dataset.cues import BOXES
from cogvsr_utils.dataset.items import Item

LEVELS = {
    "attribute": "L1_single", "count_kind": "L2_objects", "count_side": "L3_2D_spatial", "occlusion": "L4_occ",
    "pose": "L4_pose", "collision": "L5_collision",
}  # fmt: skip
# A mirrored picture swaps these answers; the others stay.
MIRRORED = {"left": "right", "right": "left"}
NUMBERS = [str(number) for number in range(5)]


def write_lookalikes(items: Sequence[Item], folder: str | Path) -> dict[str, Path]:
    """Write synthetic items as each benchmark is published, by the benchmark that their kind is modelled on: a file or
    a folder by the benchmark's name, as ``load_items`` takes it after the colon. CogVSR gets all of them, with their
    steps. Beside each lie the boxes of things, as ``cues.read_boxes`` reads them."""
    folder = Path(folder)
    of = {
        name: [item for item in items if item.meta.get("source_benchmark") == name]
        for name in ("vsr", "spatialeval", "spatial457", "3dsrbench")
    }
    for name, own in (of | {"cogvsr": items}).items():
        _boxes(own, folder / name)
    return {
        "vsr": _vsr(of["vsr"], folder / "vsr"),
        "spatialeval": _spatialeval(of["spatialeval"], folder / "spatialeval"),
        "spatial457": _spatial457(of["spatial457"], folder / "spatial457"),
        "3dsrbench": _threedsrbench(of["3dsrbench"], folder / "3dsrbench"),
        "cogvsr": _cogvsr(items, folder / "cogvsr"),
    }


def _vsr(items, folder):
    rows = []
    for item in items:
        caption = caption_of(item.question)
        relation = re.search(r"left of|right of|in front of|behind", caption)[0]
        rows.append({"image": _copied(item, folder / "images"), "caption": caption, "relation": relation,
                     "label": int(item.answer == "yes"), "vote_true_validator_id": "[1, 2]",
                     "vote_false_validator_id": "[]", "reference_frame": None})  # fmt: skip
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "test.jsonl"


def _spatialeval(items, folder):
    folder.mkdir(parents=True, exist_ok=True)
    family = {"map_direction": 0, "map_cell": 1, "map_count": 2}
    rows = []
    for number, item in enumerate(items):
        things = [f"{thing['color']} {thing['shape']}" for thing in item.meta["things"]]
        options = four_options(item.answer, item.answer_type, item.options, things)
        letter = LETTERS[options.index(item.answer)]
        rows.append({"id": f"spatialmap.vqa.{2000 + number}.{family[item.subset]}",
                     "text": map_text(item.question, options), "oracle_answer": item.answer,
                     "oracle_option": letter, "oracle_full_answer": f"{letter}. {item.answer}",
                     "image": {"bytes": Path(item.image).read_bytes(), "path": None}})  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "test.parquet")
    return folder / "test.parquet"


def caption_of(question: str) -> str:
    """The statement that a yes-or-no question asks about, as a sentence.

    >>> caption_of("Is it true that the cat is left of the dog?")
    'The cat is left of the dog.'
    """
    statement = re.fullmatch(r"Is it true that (.+)\?", question)[1]
    return f"{statement[0].upper()}{statement[1:]}."


def map_text(question: str, options: Sequence[str]) -> str:
    """A question about a map with its options, in SpatialEval's form."""
    return with_letters(f"{question} Available options:", options) + "."


def four_options(answer: str, answer_type: str, options: Sequence[str] | None, things: Sequence[str]) -> list[str]:
    """The options of a question about a map of ``things``; four where it has none of its own, the right one among
    them."""
    if options:
        return list(options)
    if answer_type == "int":
        first = min(int(answer), 1)
        return NUMBERS[first : first + 4]
    return [*things, "black cube", "white sphere"][:4]


def _spatial457(items, folder):
    levels: dict[str, list] = {}
    for number, item in enumerate(items):
        answer = {"yes": True, "no": False}.get(item.answer, int(item.answer) if item.answer.isdigit() else item.answer)
        levels.setdefault(LEVELS[item.subset], []).append(
            {"image_filename": _copied(item, folder / "images"), "question": item.question, "answer": answer,
             "program": [{"type": "query", "inputs": [], "_output": answer, "value_inputs": []}],
             "question_index": 100001 + number})  # fmt: skip
    (folder / "questions").mkdir(parents=True, exist_ok=True)
    for level, rows in levels.items():
        (folder / "questions" / f"{level}.json").write_text(json.dumps({"questions": rows}))
    return folder


def _threedsrbench(items, folder):
    """Addresses in place of pictures, which lie beside the table; every question also for the mirrored picture."""
    rows = []
    for number, item in enumerate(items):
        name = _copied(item, folder / "coco_images")
        for flip in ("", "-flip"):
            answer = MIRRORED.get(item.answer, item.answer) if flip else item.answer
            options = dict(zip(LETTERS, [*item.options, "", ""], strict=False))
            rows.append({"index": f"SYN{number:05d}{flip}", "question": item.question, **options,
                         "answer": LETTERS[item.options.index(answer)], "category": item.subset,
                         "image_source": "CogVSR-Synth", "image_url": f"http://example.org/{name}"})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "3dsrbench.csv", index=False)
    return folder / "3dsrbench.csv"


def _cogvsr(items, folder):
    rows = [
        {"question": item.question, "answer": item.answer, "image": _copied(item, folder / "images"),
         "source": item.meta.get("source_benchmark", item.benchmark),
         "generated": [{"subquestion": step.question, "answer": step.answer, "cognitive_skill": step.function}
                       for step in item.steps]}
        for item in items
    ]  # fmt: skip
    (folder / "cogvsr.json").write_text(json.dumps(rows))
    return folder / "cogvsr.json"


def _boxes(items, folder):
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        Path(item.image).name: [
            {"name": f"{thing['color']} {thing['shape']}", "box": thing["box"]}
            for thing in item.meta["things"]
            if thing["box"]
        ]
        for item in items
    }
    if folder.name == "spatialeval":  # whose pictures have no names
        rows = {f"spatialmap.{2000 + number}": rows[Path(item.image).name] for number, item in enumerate(items)}
    (folder / BOXES).write_text(json.dumps(rows))


def _copied(item: Item, folder: Path) -> str:
    """The name of the item's picture, copied into a folder; two items may have one picture."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(item.image, folder / Path(item.image).name)
    return Path(item.image).name
