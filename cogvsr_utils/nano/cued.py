"""Training chats with cues: what a question names is marked on its picture, or its place is written before it.

draw_cued(n_chats)     the chats, their 64-pixel pictures and their scenes

Only questions of the kinds in ``CUED`` are shown so: what a model makes of cues beside the others is left for
evaluation. Since most of these can be answered without a cue, two more sorts give a reason to read it: questions about
"the marked object", and questions beside a grey picture, whose answer is in the written places alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pool

import numpy as np
from PIL import Image
from tqdm import tqdm

from cogvsr_utils.dataset import cues
from cogvsr_utils.dataset.images import open_image, png
from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.synth.build import SIZE
from cogvsr_utils.dataset.synth.questions import CUED, AskedQuestion
from cogvsr_utils.dataset.synth.rendering import boxes, render
from cogvsr_utils.dataset.synth.scenes import Thing, sample_scene
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.nano.architecture import IMAGE
from cogvsr_utils.nano.chats import Chat, draw_question
from cogvsr_utils.nano.data import draw_view, patch_targets

CUED_SEED = 3_000_000  # scenes without cues, and those of evaluations, are drawn below
SORTS = {"chain": 0.5, "marked": 0.35, "grey": 0.15}
SHOWN = (*cues.MARKS, "words", "box and words")
BEYOND = ("attribute", "count_side")  # kinds whose answer is not in the things that they name, so that a mask hides it
IN_PLACES = ("statement_side", "map_direction")  # kinds whose answer is in the places of what they name
DIRECT = 0.3  # of chains, asked without their steps


@dataclass(frozen=True)
class CuedChats:
    """Chats with cues: each with its picture, ``images`` (chats, 64, 64, 3) uint8, what its patches show, ``targets``
    (chats, 64, targets), and its scene."""

    chats: Sequence[Chat]
    images: np.ndarray
    targets: np.ndarray
    views: Sequence[SceneView]


def draw_cued(n_chats: int) -> CuedChats:
    """Chats with cues about as many scenes, always the same."""
    with Pool() as pool:
        drawn = tqdm(pool.imap(_draw, range(n_chats), chunksize=16), total=n_chats, desc="cued chats")
        chats, images, targets, views = zip(*drawn, strict=True)
    return CuedChats(chats, np.stack(images), np.stack(targets), views)


def _draw(index: int) -> tuple[Chat, np.ndarray, np.ndarray, SceneView]:
    """The chat of an index, its picture, what its patches show, and its scene; scenes are drawn until one allows a
    question."""
    rng, asked = np.random.default_rng([CUED_SEED, index]), None
    sort = rng.choice(list(SORTS), p=list(SORTS.values()))
    shown = "words" if sort == "grey" else str(rng.choice(cues.MARKS if sort == "marked" else SHOWN))
    kinds = IN_PLACES if sort == "grey" else [kind for kind in CUED if shown != "mask" or kind not in BEYOND]
    while asked is None:
        scene, view = sample_scene(rng), draw_view(rng)
        scene_view, marked = SceneView.of(scene, view), None
        if sort != "marked":
            asked = draw_question(kinds, scene_view, view, rng)
        elif scene_view.things:
            marked = scene_view.things[rng.integers(len(scene_view.things))]
            asked = _about(marked, rng)
    picture, owner = render(scene, SIZE, view)
    if sort == "grey":
        picture = np.full_like(picture, cues.GREY)
    places = zip(scene.things, boxes(owner, len(scene.things)), strict=True)
    things = [{"color": thing.color, "shape": thing.shape, "box": box and tuple(box)} for thing, box in places]
    direct = sort == "grey" or (sort == "chain" and rng.random() < DIRECT)
    item = Item("", "synth", "", asked.question, asked.answer, "", [] if direct else asked.steps,
                image=png(Image.fromarray(picture)), meta={"things": things})  # fmt: skip
    named, _ = cues.boxes_asked_about([item])
    if marked is not None:
        named = {"": [("", things[scene.things.index(marked)]["box"])]}
    if named and "words" in shown:
        (item,) = cues.in_words([item], named)
    mark, drawn_on = shown.split(" ")[0], []
    if named and mark in cues.MARKS:
        (item,) = cues.drawn([item], named, mark)
        boxed = [box for _, box in named[""]]
        drawn_on = [t for t, described in zip(scene.things, things, strict=True) if described["box"] in boxed]
        if mark == "mask":
            hidden = [number for number, thing in enumerate(scene.things) if thing not in drawn_on]
            owner[np.isin(owner, hidden)] = -1
    if sort == "grey":
        owner[:] = -1
    # What the image processor leaves of a larger picture.
    side = SIZE // IMAGE
    pixels = np.asarray(open_image(item)).reshape(IMAGE, side, IMAGE, side, 3).mean((1, 3)).round().astype(np.uint8)
    targets = patch_targets(scene, owner[side // 2 :: side, side // 2 :: side], drawn_on)
    return Chat(item.question, item.steps, item.answer), pixels, targets, scene_view


def _about(thing: Thing, rng: np.random.Generator) -> AskedQuestion:
    """Questions that name a thing by its being marked alone."""
    name = "marked object"
    asked = [(f"What color is the {name}?", thing.color), (f"What shape is the {name}?", thing.shape),
             (f"What size is the {name}?", thing.size), (f"What is the {name} made of?", thing.material),
             (f"Which column is the {name} in?", str(thing.column)),
             (f"Which row is the {name} in?", str(thing.row))]  # fmt: skip
    steps = [Step(*asked[i], "closed", None, "") for i in rng.permutation(len(asked))]
    return AskedQuestion("How many objects are marked?", "1", "int", None, steps, [])
