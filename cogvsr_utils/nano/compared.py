"""Training scenes that comparisons, the second form of crossed wording, can be asked about.

draw_compared(n_scenes)    their 64-pixel pictures and views
"""

from collections.abc import Sequence
from multiprocessing import Pool

import numpy as np
from tqdm import tqdm

from cogvsr_utils.dataset.synth.comparisons import FUNCTIONS, draw_comparison, scene_for
from cogvsr_utils.dataset.synth.crossed import N_THINGS
from cogvsr_utils.dataset.synth.rendering import render
from cogvsr_utils.dataset.synth.scenes import COLORS
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.nano.architecture import IMAGE
from cogvsr_utils.nano.data import draw_view

COMPARED_SEED = 5_000_000  # those of evaluations are drawn below
PLANNED = 2  # questions that a scene is drawn for


def draw_compared(n_scenes: int) -> tuple[np.ndarray, Sequence[SceneView]]:
    """Pictures (scenes, 64, 64, 3) uint8 and views of as many scenes, always the same."""
    with Pool() as pool:
        drawn = tqdm(pool.imap(_draw, range(n_scenes), chunksize=16), total=n_scenes, desc="scenes to compare")
        images, views = zip(*drawn, strict=True)
    return np.stack(images), views


def _draw(index: int) -> tuple[np.ndarray, SceneView]:
    """The picture and the view of an index: a scene that settles two questions by functions drawn before."""
    rng, scene = np.random.default_rng([COMPARED_SEED, index]), None
    view = draw_view(rng)
    while scene is None:
        colors = rng.permutation(list(COLORS))[:N_THINGS].tolist()
        planned = [draw_comparison(colors, 0, rng) for _ in range(PLANNED)]
        scene = scene_for(planned, rng.choice(FUNCTIONS, size=PLANNED), colors, view, rng)
    # Four rays a pixel: what the image processor leaves of a larger picture.
    picture = render(scene, 2 * IMAGE, view)[0].reshape(IMAGE, 2, IMAGE, 2, 3).mean((1, 3))
    return picture.round().astype(np.uint8), SceneView.of(scene, view)
