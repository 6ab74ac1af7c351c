"""CogVSR-Synth on disk: scenes, questions and pictures, built from a seed.

Two parts: plain steps, each kind of which has its own words, and steps in crossed wording, in splits of their own.

build_synth(folder)    writes items.jsonl and images/, unless they are there already
built_stamp(folder)    the file that marks the set whole
synth_digest()         a hash of the code that makes the set
"""

import json
from collections import Counter
from dataclasses import asdict, replace
from functools import cache
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.jsonl import write_items
from cogvsr_utils.dataset.splits import CROSSED, SELECTION, TEST, TUNING, split_groups
from cogvsr_utils.dataset.synth.crossed import crossed_pair
from cogvsr_utils.dataset.synth.kinds import KINDS
from cogvsr_utils.dataset.synth.questions import HARD, ask
from cogvsr_utils.dataset.synth.rendering import boxes as find_boxes
from cogvsr_utils.dataset.synth.rendering import render
from cogvsr_utils.dataset.synth.scenes import VIEWS, Scene, sample_scene
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.files import digest, replacing
from cogvsr_utils.paths import SYNTH
from cogvsr_utils.source_code import code_digest

SHARES = {SELECTION: 0.45, TUNING: 0.15, TEST: 0.40}
PER_SCENE = 2
PAIRS = 0.3  # pairs in crossed wording for each plain main question: a third of all steps
N_ITEMS, SIZE = 1200, 256
ITEMS, PIXELS = (1, 100_000), (16, 2048)  # what may be asked for


def build_synth(
    folder: Path | None = None, *, n_items: int = N_ITEMS, size: int = SIZE, seed: int = 0, crossed: bool = True
) -> Path:
    """Build CogVSR-Synth: ``n_items`` plain main questions and, unless not ``crossed``, 0.6 times as many in crossed
    wording, with pictures of ``size`` pixels; returns the .jsonl file.

    What is there already with the same settings is kept. The same settings give the same bytes. Raises ValueError for
    numbers out of range, before anything is drawn.
    """
    for name, value, (least, most) in (("n_items", n_items, ITEMS), ("size", size, PIXELS)):
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}; expected {least} to {most}")
    folder = Path(folder or SYNTH)
    path, stamp = folder / "items.jsonl", built_stamp(folder, n_items=n_items, size=size, seed=seed, crossed=crossed)
    if stamp.exists():
        return path
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # one builder at a time; who waits takes what the other built
        if not stamp.exists():
            _build(folder, stamp, n_items, size, seed, crossed)
    return path


def _build(folder: Path, stamp: Path, n_items: int, size: int, seed: int, crossed: bool):
    """Write the set, the stamp last."""
    for older in (*folder.glob("built.*.json"), *folder.rglob(".*.part*")):  # these are what killed builders left
        older.unlink()
    items, pictures = compose(n_items, seed)
    if crossed:
        pairs, more = compose_crossed(round(PAIRS * n_items), seed)
        items, pictures = items + pairs, pictures | more
    jobs = [(scene, view, size, folder / name) for name, (scene, view) in pictures.items()]
    with Pool() as pool:
        boxes = dict(
            zip(pictures, tqdm(pool.imap(_draw, jobs, chunksize=8), total=len(jobs), desc="pictures"), strict=True)
        )
    write_items(folder / "items.jsonl", [_drawn(item, folder, boxes[item.image]) for item in items])
    with replacing(stamp) as partial:
        partial.write_text(json.dumps({"n_items": n_items, "size": size, "seed": seed}))


def built_stamp(
    folder: Path | None = None, *, n_items: int = N_ITEMS, size: int = SIZE, seed: int = 0, crossed: bool = True
) -> Path:
    """The file that marks the set whole; its name changes with the settings and the code that builds the set."""
    settings = (n_items, size, seed) if crossed else (n_items, size, seed, "plain")
    return Path(folder or SYNTH) / f"built.{digest(synth_digest(), str(settings))}.json"


@cache
def synth_digest() -> str:
    """Hash of the code that makes the set, which with its settings determines its content."""
    return digest(*map(code_digest, (compose, compose_crossed, _draw, _drawn)))


def compose(n_items: int, seed: int = 0) -> tuple[list[Item], dict]:
    """Choose scenes and questions so that kinds, and answers within a kind, come out even.

    Returns the items, their image a path relative to the data folder, and the pictures to draw: path -> (scene, view).
    """
    asked, labels_asked = Counter(), {kind: Counter() for kind in KINDS}
    items, pictures, number = [], {}, 0
    while len(items) < n_items:
        rng = np.random.default_rng([seed, number])
        scene = sample_scene(rng)
        for _ in range(PER_SCENE):
            choice = _neediest(scene, asked, labels_asked, rng)
            if choice is None or len(items) == n_items:
                break
            kind, label, view, candidate = choice
            made = ask(kind, view, candidate, rng)
            shown = KINDS[kind].view
            image = f"images/{number:05d}_{shown}.png"
            pictures[image] = (scene, shown)
            asked[kind] += 1
            labels_asked[kind][label] += 1
            items.append(Item(
                uid=f"synth-{len(items):05d}", benchmark="synth", subset=kind, group_id=f"scene-{number:05d}",
                image=image, question=made.question, answer=made.answer, answer_type=made.answer_type,
                options=list(made.options) if made.options else None, steps=made.steps,
                meta={"source_benchmark": KINDS[kind].source_benchmark, "view": shown, "balance": label,
                      "needed_steps": made.needed, "things": _described(scene)},
            ))  # fmt: skip
        number += 1
    split = split_groups({item.group_id for item in items}, SHARES, seed)
    return [Item(**{**vars(i), "split": "hard" if i.subset in HARD else split[i.group_id]}) for i in items], pictures


def compose_crossed(n_pairs: int, seed: int = 0) -> tuple[list[Item], dict]:
    """Pairs of items in crossed wording: the same words about two pictures, each step needing another function.

    Returns as ``compose``. A pair is a group; its wording is that of its split.
    """
    splits = split_groups((f"pair-{number:05d}" for number in range(n_pairs)), SHARES, seed)
    jobs = [(seed, group, split) for group, split in splits.items()]
    items, pictures = [], {}
    with Pool() as pool:
        for made, drawn in tqdm(pool.imap(_crossed_items, jobs, chunksize=4), total=len(jobs), desc="pairs"):
            items += made
            pictures |= drawn
    return items, pictures


def _crossed_items(job: tuple[int, str, str]) -> tuple[list[Item], dict]:
    """The two items of a pair, and their pictures."""
    seed, group, split = job
    rng = np.random.default_rng([seed, 1, int(group.split("-")[1])])
    view = "map" if rng.random() < 0.25 else "picture"
    text, scenes = crossed_pair(rng, split, view)
    items, pictures = [], {}
    for number, scene in enumerate(scenes):
        steps, answer = text.steps(scene.things)
        image = f"images/{group}-{number}_{view}.png"
        pictures[image] = (scene, view)
        items.append(Item(
            uid=f"crossed-{group.split('-')[1]}-{number}", benchmark="synth", subset="crossed", group_id=group,
            image=image, question=text.main, answer=answer, answer_type="yesno" if text.asks[-1].yesno else "choice",
            options=list(text.asks[-1].options), steps=steps, split=CROSSED[split],
            meta={"view": view, "needed_steps": [], "things": _described(scene)},
        ))  # fmt: skip
    return items, pictures


def _described(scene: Scene) -> list[dict]:
    """The things of a scene for the record."""
    return [{**asdict(t), "column": t.column, "row": t.row} for t in scene.things]


def _neediest(scene, asked, labels_asked, rng):
    """The question that the set needs most: the rarest kind that this scene answers, then its rarest answer."""
    views = {view: SceneView.of(scene, view) for view in VIEWS}
    least = min(asked[kind] for kind in KINDS)
    order = sorted(KINDS, key=lambda kind: (asked[kind], rng.random()))
    for kind in order:
        if asked[kind] > least + 8:
            return None  # every kind that this scene could serve is well ahead: draw another scene
        candidates = KINDS[kind].candidates(views[KINDS[kind].view])
        known = labels_asked[kind]
        # A rare answer (a hidden thing, four of a kind) is given time rather than outnumbered by the common one.
        bound = min(known.values(), default=0) + 3 if len(known) > 1 else 3
        labels = sorted({label for label, _ in candidates if known[label] < bound or kind == "attribute"})
        if labels:
            label = min(labels, key=lambda name: (known[name], rng.random()))
            pool = [arguments for name, arguments in candidates if name == label]
            return kind, label, views[KINDS[kind].view], pool[rng.integers(len(pool))]
    return None


def _draw(job):
    """Write a picture; returns where its things are."""
    scene, view, size, path = job
    image, owner = render(scene, size, view)
    with replacing(path) as partial:
        Image.fromarray(image).save(partial, format="PNG")
    return find_boxes(owner, len(scene.things))


def _drawn(item: Item, folder: Path, boxes: list) -> Item:
    """The item with its picture in a folder and the boxes of the things on it."""
    things = [thing | {"box": box} for thing, box in zip(item.meta["things"], boxes, strict=True)]
    return replace(item, image=str(folder / item.image), meta=item.meta | {"things": things})
