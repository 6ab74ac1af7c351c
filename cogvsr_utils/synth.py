"""CogVSR-Synth on disk: scenes, questions and pictures, built from a seed.

build_synth(folder)    writes items.jsonl and images/, unless they are there already
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .drafts import Look
from .items import Item, split_groups, write_items
from .kinds import KINDS
from .paths import SYNTH
from .questions import HARD, ask, cases
from .scenes import render, sample_scene

SHARES = {"A": 0.45, "B": 0.15, "C": 0.40}
PER_SCENE = 2
VERSION = 2


def build_synth(folder: Path | None = None, *, n_items: int = 1200, size: int = 256, seed: int = 0) -> Path:
    """Build CogVSR-Synth: ``n_items`` main questions with pictures of ``size`` pixels; returns the .jsonl file.

    What is there already with the same settings is kept. The same settings give the same bytes.
    """
    folder = Path(folder or SYNTH)
    path, stamp = folder / "items.jsonl", folder / "settings.json"
    settings = {"n_items": n_items, "size": size, "seed": seed, "hard": list(HARD), "version": VERSION}
    if path.exists() and stamp.exists() and json.loads(stamp.read_text()) == settings:
        return path
    (folder / "images").mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    items, pictures = compose(n_items, seed)
    jobs = [(scene, view, size, folder / name) for name, (scene, view) in pictures.items()]
    with Pool() as pool:
        for _ in tqdm(pool.imap_unordered(_draw, jobs, chunksize=8), total=len(jobs), desc="pictures"):
            pass
    rooted = [Item(**{**vars(item), "image": str(folder / item.image)}) for item in items]
    write_items(path, rooted)
    stamp.write_text(json.dumps(settings))
    return path


def compose(n_items: int, seed: int = 0) -> tuple[list[Item], dict]:
    """Choose scenes and questions so that kinds, and answers within a kind, come out even.

    Returns the items, their image a path relative to the data folder, and the pictures to draw: path -> (scene, view).
    """
    asked, told = Counter(), {kind: Counter() for kind in KINDS}
    items, pictures, number = [], {}, 0
    while len(items) < n_items:
        rng = np.random.default_rng([seed, number])
        scene = sample_scene(rng)
        for _ in range(PER_SCENE):
            choice = _neediest(scene, asked, told, rng)
            if choice is None or len(items) == n_items:
                break
            kind, label, look, case = choice
            question, answer, answer_type, options, steps = ask(kind, look, case, rng)
            view = KINDS[kind].view
            image = f"images/{number:05d}_{view}.png"
            pictures[image] = (scene, view)
            asked[kind] += 1
            told[kind][label] += 1
            items.append(Item(
                uid=f"synth-{len(items):05d}", benchmark="synth", subset=kind, group_id=f"scene-{number:05d}",
                image=image, question=question, answer=answer, answer_type=answer_type,
                options=list(options) if options else None, steps=steps,
                meta={"manner": KINDS[kind].manner, "view": view, "balance": label,
                      "things": [{**asdict(t), "column": t.column, "row": t.row} for t in scene.things]},
            ))  # fmt: skip
        number += 1
    split = split_groups({item.group_id for item in items}, SHARES, seed)
    return [Item(**{**vars(i), "split": "hard" if i.subset in HARD else split[i.group_id]}) for i in items], pictures


def _neediest(scene, asked, told, rng):
    """The question that the set needs most: the rarest kind that this scene answers, then its rarest answer."""
    looks = {view: Look.at(scene, view) for view in ("picture", "map")}
    least = min(asked[kind] for kind in KINDS)
    order = sorted(KINDS, key=lambda kind: (asked[kind], rng.random()))
    for kind in order:
        if asked[kind] > least + 8:
            return None  # every kind that this scene could serve is well ahead: draw another scene
        found = cases(kind, looks[KINDS[kind].view])
        known = told[kind]
        # A rare answer (a hidden thing, four of a kind) is waited for rather than drowned by the common one.
        bound = min(known.values(), default=0) + 3 if len(known) > 1 else 3
        labels = sorted({label for label, _ in found if known[label] < bound or kind in ("attribute",)})
        if labels:
            label = min(labels, key=lambda name: (known[name], rng.random()))
            pool = [case for name, case in found if name == label]
            return kind, label, looks[KINDS[kind].view], pool[rng.integers(len(pool))]
    return None


def _draw(job):
    scene, view, size, path = job
    partial = path.with_suffix(".part")
    Image.fromarray(render(scene, size, view)[0]).save(partial, format="PNG")
    partial.replace(path)
