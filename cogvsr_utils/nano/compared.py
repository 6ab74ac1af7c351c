"""Training chats of comparisons, the second form of crossed wording.

draw_compared(n_chats)     the chats, their 64-pixel pictures and their scenes

Every other chat names the respect ("Which one differs in size?"), which no evaluation does: what settles a comparison
is one of these, and they are learnt sooner.
"""

from collections.abc import Mapping
from multiprocessing import Pool

import numpy as np
from tqdm import tqdm

from cogvsr_utils.dataset.items import Step
from cogvsr_utils.dataset.synth.comparisons import FUNCTIONS, Comparison, by_color, draw_comparison, naming, scene_for
from cogvsr_utils.dataset.synth.crossed import N_THINGS, SPLITS
from cogvsr_utils.dataset.synth.rendering import render
from cogvsr_utils.dataset.synth.scenes import COLORS, Thing
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.nano.architecture import IMAGE
from cogvsr_utils.nano.chats import Chat
from cogvsr_utils.nano.cued import PicturedChats
from cogvsr_utils.nano.data import draw_view, patch_targets

COMPARED_SEED = 5_000_000  # those of evaluations are drawn below
PLANNED, ASKED = 2, 4  # questions that a scene is drawn for, and steps that it is asked at most
TRIES = 40  # questions that are drawn for a scene
DIFFERS = "Which one differs in {respect}: {a}, {b} or {c}?"
ALIKE = "Which one is like {a} in {respect}: {b} or {c}?"
WORDS = {"neighbours": "nearness"}  # of respects, where they are not their names


def draw_compared(n_chats: int) -> PicturedChats:
    """Chats of comparisons about as many scenes, always the same."""
    with Pool() as pool:
        drawn = tqdm(pool.imap(_draw, range(n_chats), chunksize=16), total=n_chats, desc="comparisons")
        chats, images, targets, views = zip(*drawn, strict=True)
    return PicturedChats(chats, np.stack(images), np.stack(targets), views)


def _draw(index: int) -> tuple[Chat, np.ndarray, np.ndarray, SceneView]:
    """The chat of an index, its picture, what its patches show, and its scene: drawn for two questions, and asked
    others that it happens to settle."""
    rng, scene = np.random.default_rng([COMPARED_SEED, index]), None
    view, split = draw_view(rng), int(rng.integers(len(SPLITS)))
    while scene is None:
        colors = rng.permutation(list(COLORS))[:N_THINGS].tolist()
        asked = [draw_comparison(colors, split, rng) for _ in range(PLANNED)]
        scene = scene_for(asked, rng.choice(FUNCTIONS, size=PLANNED), colors, view, rng)
    things = by_color(scene)
    more = [draw_comparison(colors, split, rng) for _ in range(TRIES)]
    if index % 2:  # chats of their own, since their answers would give those of comparisons away
        steps = [step for each in more if (step := _naming_a_respect(each, things, rng))][: ASKED + 1]
    else:
        asked = [*asked, *(each for each in more if each.settled(things))][: ASKED + 1]
        steps = [naming(each, [each.settled(things)[1]], rng).step(things) for each in asked]
    *steps, main = (steps[number] for number in rng.permutation(len(steps)))
    picture, owner = render(scene, 2 * IMAGE, view)
    # Four rays a pixel: what the image processor leaves of a larger picture.
    pixels = picture.reshape(IMAGE, 2, IMAGE, 2, 3).mean((1, 3)).round().astype(np.uint8)
    chat = Chat(main.question, steps, main.answer)
    return chat, pixels, patch_targets(scene, owner[::2, ::2]), SceneView.of(scene, view)


def _naming_a_respect(comparison: Comparison, things: Mapping[str, Thing], rng: np.random.Generator) -> Step | None:
    """The comparison in one of the respects that single out a candidate, all equally likely; None where none does."""
    found = comparison.singled_out(things)
    if not found:
        return None
    respect = str(rng.choice([*found]))
    wording = ALIKE if comparison.alike else DIFFERS
    a, b, c = comparison.colors
    question = wording.format(a=a, b=b, c=c, respect=WORDS.get(respect, respect))
    return Step(question, found[respect], "choice", list(comparison.candidates), "")
