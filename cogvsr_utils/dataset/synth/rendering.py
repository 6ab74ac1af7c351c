"""Pictures of scenes, ray-cast in numpy.

render(scene, size, view)    the picture, and which thing owns every pixel
boxes(owner, n_things)       where each thing is seen in a picture
visibility(scene)            how much of each thing is visible, and what hides it
"""

import numpy as np

from cogvsr_utils.dataset.synth.scenes import BOARD, COLORS, SIZES, VIEWS, Scene, Thing

_NEVER = np.inf
_SKIN = 1e-3  # shadow rays start this far above the surface


def render(scene: Scene, size: int = 256, view: str = "picture") -> tuple[np.ndarray, np.ndarray]:
    """Ray-cast a scene.

    Returns the image (size, size, 3) uint8 and the owner of every pixel (size, size) int8: the index of the thing
    seen there, or -1 for the ground. ``view`` is ``"picture"`` (the camera) or ``"map"`` (from above, north up).

    >>> from cogvsr_utils.dataset.synth.scenes import sample_scene
    >>> image, owner = render(sample_scene(np.random.default_rng(0)), size=64)
    >>> image.shape, owner.shape
    ((64, 64, 3), (64, 64))
    """
    origins, directions = _rays(scene, size, view)
    depths = np.stack([_hit(thing, origins, directions) for thing in scene.things])
    ground = np.where(directions[:, 2] < 0, -origins[:, 2] / np.minimum(directions[:, 2], -1e-9), _NEVER)
    owner = np.where(depths.min(0) < ground, depths.argmin(0), -1).astype(np.int8)
    nearest = np.minimum(depths.min(0), ground)
    points = origins + np.minimum(nearest, 1e3)[:, None] * directions
    normals = np.tile([0.0, 0.0, 1.0], (len(points), 1))
    albedo = _board_color(points[:, 0], points[:, 1])
    shine = np.zeros(len(points))
    for index, thing in enumerate(scene.things):
        own = owner == index
        normals[own], albedo[own] = _surface(thing, points[own])
        shine[own] = thing.material == "metal"
    light = np.asarray(scene.light)
    start = points + _SKIN * normals
    rays = np.broadcast_to(light, points.shape)
    lit = np.ones(len(points), dtype=bool)
    for thing in scene.things:
        lit &= np.isinf(_hit(thing, start, rays))
    diffuse = np.clip(normals @ light, 0, 1) * lit
    mirror = directions - 2 * (directions * normals).sum(1, keepdims=True) * normals
    gloss = np.clip(mirror @ light, 0, 1) ** 24 * lit
    sky = np.clip(mirror[:, 2], 0, 1)  # a metal thing mirrors a pale sky above and the dark table below
    matt = albedo * (0.38 + 0.66 * diffuse)[:, None]
    metal = albedo * (0.16 + 0.30 * diffuse + 0.75 * sky**2)[:, None] + 0.95 * gloss[:, None]
    color = np.where(shine[:, None] > 0, metal, matt)
    image = (np.clip(color, 0, 1) ** (1 / 1.8) * 255).round().astype(np.uint8)
    return image.reshape(size, size, 3), owner.reshape(size, size)


def boxes(owner: np.ndarray, n_things: int) -> list[list[float] | None]:
    """The box of each thing's visible part: left, top, right and bottom as shares of the picture in [0, 1]; None for a
    thing that is not seen. ``owner`` (size, size) is that of ``render``.

    >>> boxes(np.array([[-1, -1], [-1, 0]]), 2)
    [[0.5, 0.5, 1.0, 1.0], None]
    """
    found: list[list[float] | None] = []
    for thing in range(n_things):
        rows, columns = (owner == thing).nonzero()
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None
        found.append([round(float(edge) / len(owner), 4) for edge in box] if box else None)
    return found


def visibility(scene: Scene, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """How much of each thing the camera sees, and what hides it.

    Returns ``visible`` (things,), the seen share of each silhouette in [0, 1], and ``hides`` (things, things), where
    ``hides[i, j]`` is the share of silhouette j that lies behind thing i's nearest surface.

    >>> from cogvsr_utils.dataset.synth.scenes import sample_scene
    >>> visible, hides = visibility(sample_scene(np.random.default_rng(0)))
    >>> bool((visible <= 1).all()), float(hides.diagonal().sum())
    (True, 0.0)
    """
    origins, directions = _rays(scene, size, "picture")
    depths = np.stack([_hit(thing, origins, directions) for thing in scene.things])
    silhouette = np.isfinite(depths)
    front = depths.argmin(0)
    area = np.maximum(silhouette.sum(1), 1)
    hides = np.stack([(silhouette & (front == i)).sum(1) for i in range(len(depths))]) / area
    visible = hides.diagonal().copy()
    np.fill_diagonal(hides, 0.0)
    return visible, hides


def _rays(scene: Scene, size: int, view: str) -> tuple[np.ndarray, np.ndarray]:
    """Origins and unit directions (size * size, 3) of the rays through the pixel middles."""
    if view not in VIEWS:
        raise ValueError(f"view is {view!r}; expected one of {VIEWS}")
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    right, up = np.meshgrid(axis, -axis)
    right, up = right.ravel(), up.ravel()
    if view == "map":
        half = BOARD / 2 + 0.35
        origins = np.stack([right * half, up * half, np.full(right.shape, 9.0)], axis=1)
        return origins, np.broadcast_to([0.0, 0.0, -1.0], origins.shape)
    eye = scene.eye
    forward = np.array([scene.shift / 2, -0.15, 0.1]) - eye
    forward /= np.linalg.norm(forward)
    side = np.cross(forward, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side)
    directions = forward + 0.345 * (right[:, None] * side + up[:, None] * np.cross(side, forward))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.broadcast_to(eye, directions.shape), directions


def _board_color(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Table colour (points, 3): two quiet greys on the board, a darker one around it."""
    inside = (np.abs(x) < BOARD / 2) & (np.abs(y) < BOARD / 2)
    dark = (np.floor(x + BOARD / 2) + np.floor(y + BOARD / 2)) % 2
    grey = np.where(inside, 0.50 - 0.10 * dark, 0.26)
    return np.repeat(grey[:, None], 3, axis=1)


def _hit(thing: Thing, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Distance (rays,) along each ray to the thing's nearest surface, infinite where it is missed."""
    size = SIZES[thing.size]
    away = np.array([thing.x, thing.y, 0.8 * size]) - origins
    along = (away * directions).sum(1)
    near = np.flatnonzero((away * away).sum(1) - along * along < (1.75 * size) ** 2)  # the rest pass its hull by
    out = np.full(len(origins), _NEVER)
    with np.errstate(divide="ignore", invalid="ignore"):
        out[near] = _HITS[thing.shape](thing, origins[near], directions[near])
    return out


def _first(distance: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.where(valid & (distance > 0), distance, _NEVER)


def _hit_sphere(thing, origins, directions):
    radius = SIZES[thing.size]
    away = origins - [thing.x, thing.y, radius]
    b = (away * directions).sum(1)
    square = b * b - (away * away).sum(1) + radius * radius
    return _first(-b - np.sqrt(np.maximum(square, 0)), square > 0)


def _hit_cube(thing, origins, directions):
    half = 0.8 * SIZES[thing.size]
    turn = _turn(-thing.turn)
    start = (origins - [thing.x, thing.y, half]) @ turn.T
    along = directions @ turn.T
    along = np.where(np.abs(along) < 1e-9, 1e-9, along)
    one, two = (-half - start) / along, (half - start) / along
    near, far = np.minimum(one, two).max(1), np.maximum(one, two).min(1)
    return _first(near, near < far)


def _hit_cylinder(thing, origins, directions):
    radius, height = 0.8 * SIZES[thing.size], 1.7 * SIZES[thing.size]
    away = origins - [thing.x, thing.y, 0.0]
    a = (directions[:, :2] ** 2).sum(1)
    b = (away[:, :2] * directions[:, :2]).sum(1)
    square = b * b - a * ((away[:, :2] ** 2).sum(1) - radius * radius)
    side = (-b - np.sqrt(np.maximum(square, 0))) / a
    z = away[:, 2] + side * directions[:, 2]
    wall = _first(side, (square > 0) & (a > 1e-12) & (z > 0) & (z < height))
    lid = (height - away[:, 2]) / directions[:, 2]
    flat = away[:, :2] + lid[:, None] * directions[:, :2]
    return np.minimum(wall, _first(lid, (flat**2).sum(1) < radius * radius))


def _cone(thing):
    """Tip (3,), unit axis from tip to base (3,), length and base radius of a cone that lies on its side."""
    radius, length = 0.75 * SIZES[thing.size], 2.1 * SIZES[thing.size]
    slant = np.hypot(radius, length)
    cos, sin = length / slant, radius / slant
    ahead = np.array([np.cos(thing.turn), np.sin(thing.turn), 0.0])
    axis = -cos * ahead + np.array([0.0, 0.0, sin])
    middle = np.array([thing.x, thing.y, 0.0])
    return middle + ahead * length * cos / 2, axis, length, radius


def _hit_cone(thing, origins, directions):
    tip, axis, length, radius = _cone(thing)
    cos2 = length**2 / (length**2 + radius**2)
    away = origins - tip
    dv, wv = directions @ axis, away @ axis
    a = dv * dv - cos2
    b = dv * wv - cos2 * (directions * away).sum(1)
    c = wv * wv - cos2 * (away * away).sum(1)
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    best = np.full(len(away), _NEVER)
    for distance in ((-b - root) / a, (-b + root) / a):
        along = wv + distance * dv
        best = np.minimum(best, _first(distance, (b * b > a * c) & (along > 0) & (along < length)))
    base = (length - wv) / dv
    off = away + base[:, None] * directions - length * axis
    return np.minimum(best, _first(base, (off * off).sum(1) < radius * radius))


_HITS = {"sphere": _hit_sphere, "cube": _hit_cube, "cylinder": _hit_cylinder, "cone": _hit_cone}


def _surface(thing: Thing, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (points, 3) and colours (points, 3) of a thing's surface; a cone's base is painted dark."""
    color = np.tile(COLORS[thing.color], (len(points), 1))
    size = SIZES[thing.size]
    if thing.shape == "sphere":
        return (points - [thing.x, thing.y, size]) / size, color
    if thing.shape == "cube":
        turn = _turn(-thing.turn)
        local = (points - [thing.x, thing.y, 0.8 * size]) @ turn.T
        face = np.abs(local).argmax(1)
        normals = np.zeros_like(local)
        rows = np.arange(len(local))
        normals[rows, face] = np.sign(local[rows, face])
        return normals @ turn, color
    if thing.shape == "cylinder":
        away = points - [thing.x, thing.y, 0.0]
        top = away[:, 2] > 1.7 * size - 1e-6
        normals = away * [1, 1, 0] / (0.8 * size)
        normals[top] = [0.0, 0.0, 1.0]
        return normals, color
    tip, axis, length, radius = _cone(thing)
    away = points - tip
    along = away @ axis
    base = along > length - 1e-6
    normals = away - np.outer(along * (1 + radius**2 / length**2), axis)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    normals[base] = axis
    color[base] *= 0.25
    return normals, color


def _turn(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
