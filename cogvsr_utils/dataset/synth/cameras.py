"""The same questions about the same scenes from a camera further aside: places are harder to see, answers stay.

SHIFTS               how far aside the camera stands, in board squares; training has at most a quarter of one
from_aside(items)    shift -> the items that every camera can be asked about, with pictures of their own

Where things are is said by the board's columns, rows and sides, which do not turn with the camera. What hides what and
what is closer to the camera do, so those kinds are left out.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from cogvsr_utils.dataset.images import png
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.synth.rendering import boxes, render
from cogvsr_utils.dataset.synth.scenes import Scene, Thing
from cogvsr_utils.dataset.synth.views import SceneView

SHIFTS = (0.0, 0.8, 1.6, 2.4, 3.2)
BY_CAMERA = ("occlusion", "closer")
# The middle of what training draws from.
DISTANCE, ELEVATION, LIGHT = 10.0, 0.72, (0.0, -np.cos(0.92), np.sin(0.92))


def from_aside(items: Sequence[Item], size: int = 256) -> dict[float, list[Item]]:
    """Items of CogVSR-Synth as each camera of ``SHIFTS`` shows them, in pictures of ``size`` pixels with the boxes of
    what is seen there.

    The same items at every shift: those in plain wording with a picture from the camera, not of a kind that turns on
    it, all of whose things are visible enough to be asked about from everywhere. A camera stands on the right beside
    every other scene, else on the left.

    >>> from cogvsr_utils import load_items
    >>> seen = from_aside(load_items("synth", limit=8), size=64)
    >>> [item.uid for item in seen[0.0]] == [item.uid for item in seen[3.2]]
    True
    """
    asked = [
        item
        for item in items
        if item.meta.get("view") == "picture" and item.subset not in (*BY_CAMERA, "crossed")
        if all(SceneView.of(_scene(item, shift)).all_visible for shift in SHIFTS)
    ]
    return {shift: [_drawn(item, _scene(item, shift), size) for item in asked] for shift in SHIFTS}


def _scene(item: Item, shift: float) -> Scene:
    """The scene that an item is about, under the camera at a shift."""
    attributes = Thing.__dataclass_fields__
    things = tuple(Thing(**{name: thing[name] for name in attributes}) for thing in item.meta["things"])
    side = 1 if int(item.group_id.split("-")[1]) % 2 else -1
    return Scene(things, DISTANCE, ELEVATION, side * shift, LIGHT)


def _drawn(item: Item, scene: Scene, size: int) -> Item:
    """The item with its scene's picture, and the boxes of the things on it."""
    image, owner = render(scene, size)
    seen = zip(item.meta["things"], boxes(owner, len(scene.things)), strict=True)
    return replace(
        item,
        image=png(Image.fromarray(image)),
        meta=item.meta | {"things": [thing | {"box": box} for thing, box in seen]},
    )
