"""Scenes that the nano models learn from, rendered, with what every patch shows.

load_scenes(folder, n_scenes)         images, patch targets, view names and scene views, rendered once and kept
"""

from collections.abc import Sequence
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cogvsr_utils.dataset.synth.rendering import render
from cogvsr_utils.dataset.synth.scenes import BOARD, COLORS, MATERIALS, SHAPES, SIZES, Scene, Thing, sample_scene
from cogvsr_utils.dataset.synth.substeps import POINTS, SIDES
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.files import replacing
from cogvsr_utils.nano.architecture import IMAGE, PATCH

TRAIN_SEED = 2_000_000  # evaluation scenes are drawn below one million, so none is ever trained on
TARGETS = {"color": len(COLORS) + 1, "shape": len(SHAPES), "size": len(SIZES), "material": len(MATERIALS),
           "heading": len(SIDES) + 1, "column": BOARD, "row": BOARD, "marked": 2}  # fmt: skip


def draw(index: int) -> tuple[Scene, str, np.ndarray, np.ndarray]:
    """Scene, view and 64-pixel image of one training index, with the owner of every pixel."""
    rng = np.random.default_rng(TRAIN_SEED + index)
    scene = sample_scene(rng)
    view = draw_view(rng)
    image, owner = render(scene, 2 * IMAGE, view)
    # Four rays a pixel: what the image processor leaves of a larger picture.
    image = image.reshape(IMAGE, 2, IMAGE, 2, 3).mean((1, 3)).round().astype(np.uint8)
    return scene, view, image, owner[::2, ::2]


def draw_view(rng: np.random.Generator) -> str:
    """The view that a scene is shown in: a picture, or less often a map."""
    return "map" if rng.random() < 0.28 else "picture"


def patch_targets(scene: Scene, owner: np.ndarray, marked: Sequence[Thing] = ()) -> np.ndarray:
    """For every 8 x 8 patch, what its main thing is: (64, targets) int8, -1 where there is nothing to learn. ``owner``
    (64, 64) is that of ``render``; ``marked`` are the things that a mark was drawn on."""
    side = IMAGE // PATCH
    patches = owner.reshape(side, PATCH, side, PATCH).swapaxes(1, 2).reshape(side * side, -1)
    counts = np.stack([(patches == i).sum(1) for i in range(len(scene.things))], axis=1)
    best, most = counts.argmax(1), counts.max(1)
    table = np.array([
        (list(COLORS).index(t.color) + 1, SHAPES.index(t.shape), list(SIZES).index(t.size),
         MATERIALS.index(t.material), SIDES.index(POINTS[t.heading]) + 1 if t.shape == "cone" else 0,
         t.column - 1, t.row - 1, t in marked) for t in scene.things])  # fmt: skip
    targets = table[best]
    targets[most < 5] = -1
    targets[most == 0, 0] = 0  # the ground is a colour of its own; nothing else is known of it
    return targets.astype(np.int8)


def _picture(index: int):
    scene, _, image, owner = draw(index)
    return image, patch_targets(scene, owner)


def _scene_view(index: int):
    rng = np.random.default_rng(TRAIN_SEED + index)
    scene = sample_scene(rng)
    view = draw_view(rng)
    return view, SceneView.of(scene, view)


def _map(function, indices, label):
    with Pool() as pool:
        rows = tqdm(pool.imap(function, indices, chunksize=64), total=len(indices), desc=label)
        return tuple(zip(*rows, strict=True))


def load_scenes(folder: Path, n_scenes: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[SceneView, ...]]:
    """Images (n, 64, 64, 3) uint8, targets (n, 64, targets) int8, views and scene_views of ``n_scenes`` training
    scenes.

    Images and targets are kept in ``folder``; scenes and scene_views are exact and quick to draw again.
    """
    indices = range(n_scenes)
    kept = folder / f"scenes_{n_scenes}_{len(TARGETS)}.npz"
    if not kept.exists():
        images, targets = (np.stack(column) for column in _map(_picture, indices, "render"))
        with replacing(kept) as partial:
            np.savez(partial, images=images, targets=targets)
    with np.load(kept) as saved:
        images, targets = saved["images"], saved["targets"]
    view_names, scene_views = _map(_scene_view, indices, "scene_view")
    return images, targets, view_names, scene_views
