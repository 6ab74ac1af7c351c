"""Table-top scenes with exact geometry: a 5 x 5 board with two to four things on it, and a camera.

Thing, Scene          what a scene consists of
sample_scene(rng)     a random scene whose things do not touch
scene_with, reshaped  a scene of given colours with some places fixed; the same places with other things on them
scene_of(rng, things) a scene of given things

Ground coordinates: x grows to the right of the picture, y grows away from the camera, z grows upwards;
the board spans [-2.5, 2.5] in x and y, so a board square is one unit wide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("cube", "sphere", "cylinder", "cone")
SIZES = {"small": 0.36, "large": 0.60}
MATERIALS = ("rubber", "metal")
COLORS = {
    "red": (0.80, 0.12, 0.12),
    "green": (0.10, 0.55, 0.15),
    "blue": (0.12, 0.22, 0.80),
    "yellow": (0.92, 0.82, 0.10),
    "purple": (0.52, 0.13, 0.68),
    "cyan": (0.10, 0.75, 0.80),
    "orange": (0.95, 0.48, 0.08),
    "pink": (0.95, 0.50, 0.68),
}
BOARD = 5
VIEWS = ("picture", "map")
_SHAPE_BOUNDS = np.cumsum([0.23, 0.23, 0.23, 0.31])  # cones, which alone point somewhere, are a little commoner


@dataclass(frozen=True)
class Thing:
    """One object: its four attributes, where it stands and which way it is turned (radians, 0 = right)."""

    color: str
    shape: str
    size: str
    material: str
    x: float
    y: float
    turn: float

    @property
    def name(self) -> str:
        """Colour and shape, unique within a scene."""
        return f"{self.color} {self.shape}"

    @property
    def radius(self) -> float:
        """Radius in board units of the disc on the ground that contains the thing."""
        return SIZES[self.size] * {"cube": 1.13, "sphere": 1.0, "cylinder": 0.8, "cone": 1.1}[self.shape]

    @property
    def column(self) -> int:
        """1 (left) to 5 (right)."""
        return int(np.floor(self.x + BOARD / 2)) + 1

    @property
    def row(self) -> int:
        """1 (nearest) to 5 (farthest)."""
        return int(np.floor(self.y + BOARD / 2)) + 1

    @property
    def heading(self) -> str:
        """Where a cone points, to the nearest of right, away, left, toward."""
        return ("right", "away", "left", "toward")[int(np.round(self.turn / (np.pi / 2))) % 4]


@dataclass(frozen=True)
class Scene:
    """Things on the board, the camera (distance, elevation in radians, sideways shift) and the light's direction."""

    things: tuple[Thing, ...]
    distance: float
    elevation: float
    shift: float
    light: tuple[float, float, float]

    @property
    def eye(self) -> np.ndarray:
        """The camera's place (3,) in ground coordinates."""
        flat = self.distance * np.cos(self.elevation)
        return np.array([self.shift, -flat, self.distance * np.sin(self.elevation)])

    def camera_distance(self, thing: Thing) -> float:
        """Distance in board units from the camera to where a thing stands."""
        return float(np.linalg.norm(self.eye - [thing.x, thing.y, 0.0]))


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene of two to four things of different colours, none touching another.

    >>> scene = sample_scene(np.random.default_rng(0))
    >>> 2 <= len(scene.things) <= 4
    True
    """
    n_things = int(rng.choice([2, 3, 4], p=[0.2, 0.4, 0.4]))
    colors = rng.permutation(list(COLORS))[:n_things]
    things: list[Thing] = []
    while len(things) < n_things:
        thing = _thing(rng, str(colors[len(things)]))
        if _apart(thing, things):
            things.append(thing)
    return _scene(rng, things)


def scene_with(rng: np.random.Generator, colors: Sequence[str], places: Mapping[tuple[str, str], int]) -> Scene | None:
    """A random scene of one thing in each colour; ``places`` fixes the lines of some, (colour, "column" or "row") ->
    1 to 5. None where two things of a draw touch: draw again.

    >>> scene = scene_with(np.random.default_rng(0), ["red"], {("red", "row"): 5})
    >>> scene.things[0].row
    5
    """
    things = []
    for color in colors:
        thing = _thing(rng, color, places.get((color, "column")), places.get((color, "row")))
        if not _apart(thing, things):
            return None
        things.append(thing)
    return _scene(rng, things)


def _thing(rng: np.random.Generator, color: str, column: int | None = None, row: int | None = None) -> Thing:
    """A thing of random attributes, on a random square where ``column`` or ``row`` leave it open."""
    # A square's middle, jittered: a thing never stands so near a line that its square is in doubt.
    square = rng.integers(BOARD, size=2)
    square[0], square[1] = square[0] if column is None else column - 1, square[1] if row is None else row - 1
    x, y = square - (BOARD - 1) / 2 + rng.uniform(-0.3, 0.3, size=2)
    return _shaped(rng, color, round(float(x), 3), round(float(y), 3))


def _shaped(rng: np.random.Generator, color: str, x: float, y: float) -> Thing:
    """A thing of random shape, size, material and turn at a place."""
    shape = SHAPES[np.searchsorted(_SHAPE_BOUNDS, rng.random(), side="right")]
    turn = rng.integers(4) * np.pi / 2 + rng.uniform(-0.4, 0.4) if shape == "cone" else rng.uniform(0, np.pi / 2)
    size, material = tuple(SIZES)[rng.integers(len(SIZES))], MATERIALS[rng.integers(len(MATERIALS))]
    return Thing(color, shape, size, material, x, y, round(float(turn), 3))


def reshaped(rng: np.random.Generator, scene: Scene) -> Scene | None:
    """The scene with other shapes, sizes, materials and turns on the same places; None where two things touch."""
    things = []
    for t in scene.things:
        thing = _shaped(rng, t.color, t.x, t.y)
        if not _apart(thing, things):
            return None
        things.append(thing)
    return replace(scene, things=tuple(things))


def scene_of(rng: np.random.Generator, things: Sequence[Thing]) -> Scene | None:
    """A scene of given things under a random camera and light; None where two of them touch."""
    if not all(_apart(thing, things[:number]) for number, thing in enumerate(things)):
        return None
    return _scene(rng, things)


def _apart(thing: Thing, others: Sequence[Thing]) -> bool:
    """Whether a thing touches none of the others."""
    return all(np.hypot(thing.x - o.x, thing.y - o.y) > thing.radius + o.radius + 0.1 for o in others)


def _scene(rng: np.random.Generator, things: Sequence[Thing]) -> Scene:
    """Things under a camera that is a little off its middle, lit from its side."""
    azimuth = rng.uniform(0.2, 0.8) * np.pi + np.pi
    height = rng.uniform(0.75, 1.1)
    light = (np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height))
    return Scene(
        tuple(things),
        distance=round(float(rng.uniform(9.6, 10.4)), 3),
        elevation=round(float(rng.uniform(0.66, 0.78)), 3),
        shift=round(float(rng.uniform(-0.25, 0.25)), 3),
        light=tuple(round(float(v), 3) for v in light),
    )
