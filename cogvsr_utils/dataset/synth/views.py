"""What a view shows of a scene, and how two things stand to each other.

SceneView.of(scene, view)      a scene with how much of each thing is visible in a view
side, depth, main_side         relations of two things, or None where they could be argued about
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from cogvsr_utils.dataset.synth.rendering import visibility
from cogvsr_utils.dataset.synth.scenes import Scene, Thing

CLEAR = 0.55  # two things count as side by side or one behind the other only from this many board squares on
VISIBLE = 0.55  # a thing may be asked about only if this share of its silhouette is visible


@dataclass(frozen=True)
class SceneView:
    """A scene with what a view shows of it: ``visible`` (things,) shares of each silhouette in [0, 1], ``hides``
    (things, things) as ``rendering.visibility`` gives them. From above nothing hides anything."""

    scene: Scene
    visible: np.ndarray
    hides: np.ndarray

    @classmethod
    def of(cls, scene: Scene, view: str = "picture") -> SceneView:
        """``view`` is ``"picture"`` (the camera) or ``"map"`` (from above)."""
        n_things = len(scene.things)
        if view == "map":
            return cls(scene, np.ones(n_things), np.zeros((n_things, n_things)))
        return cls(scene, *visibility(scene))

    @property
    def things(self) -> list[Thing]:
        """The things that are visible enough to be asked about."""
        return [t for t, share in zip(self.scene.things, self.visible, strict=True) if share >= VISIBLE]

    @property
    def all_visible(self) -> bool:
        """Whether every thing of the scene may be asked about."""
        return len(self.things) == len(self.scene.things)

    def pairs(self) -> list[tuple[Thing, Thing]]:
        """Ordered pairs of things that may be asked about."""
        return list(permutations(self.things, 2))


def side(a: Thing, b: Thing) -> str | None:
    """``left`` or ``right``: where a stands, seen from b; None where they are nearly in line."""
    if a.column == b.column or abs(a.x - b.x) < CLEAR:
        return None
    return "left" if a.x < b.x else "right"


def depth(a: Thing, b: Thing) -> str | None:
    """``front`` or ``back``: a is nearer to or farther from the camera than b; None where they are nearly level."""
    if a.row == b.row or abs(a.y - b.y) < CLEAR:
        return None
    return "front" if a.y < b.y else "back"


def main_side(a: Thing, b: Thing) -> str | None:
    """The one of the four sides of b on which a stands, if one direction clearly prevails."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > 1.6 * abs(dy) + 0.2:
        return "left" if dx < 0 else "right"
    if abs(dy) > 1.6 * abs(dx) + 0.2:
        return "front" if dy < 0 else "back"
    return None
