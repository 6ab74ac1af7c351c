"""The fifteen kinds of main question, a module for each of the paper's four sources.

    KINDS    name -> Kind: whose manner it follows, in which view it is asked, its cases in a scene, and its chain

For each kind, ``..._cases`` lists what a scene answers without doubt, with the label to balance, and a builder writes
one case out as (question, options, things named, core steps, optional steps[, answer]).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..drafts import PHRASE, Look, column, depth, row, side
from . import spatial457, spatialeval, threedsrbench, vsr


@dataclass(frozen=True)
class Kind:
    """A kind of main question: whose manner it follows, in which view it is asked, and how it is made."""

    name: str
    manner: str
    view: str
    cases: Callable[[Look], list[tuple[str, tuple]]]
    build: Callable[..., tuple]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("statement_side", "vsr", "picture", vsr.statement_cases(side), vsr.statement_side),
        Kind("statement_depth", "vsr", "picture", vsr.statement_cases(depth), vsr.statement_depth),
        Kind("closer", "3dsrbench", "picture", threedsrbench.closer_cases, threedsrbench.closer),
        Kind("higher", "3dsrbench", "picture", threedsrbench.higher_cases, threedsrbench.higher),
        Kind("facing", "3dsrbench", "picture", threedsrbench.facing_cases, threedsrbench.facing),
        Kind("viewpoint", "3dsrbench", "picture", threedsrbench.viewpoint_cases, threedsrbench.viewpoint),
        Kind("attribute", "spatial457", "picture", spatial457.attribute_cases, spatial457.attribute),
        Kind("count_side", "spatial457", "picture", spatial457.count_cases(side, ("left", "right")),
             spatial457.count_relation(side, column, PHRASE)),
        Kind("count_kind", "spatial457", "picture", spatial457.count_kind_cases, spatial457.count_kind),
        Kind("occlusion", "spatial457", "picture", spatial457.occlusion_cases, spatial457.occlusion),
        Kind("pose", "spatial457", "picture", spatial457.pose_cases, spatial457.pose),
        Kind("collision", "spatial457", "picture", spatial457.collision_cases, spatial457.collision),
        Kind("map_direction", "spatialeval", "map", spatialeval.map_direction_cases, spatialeval.map_direction),
        Kind("map_count", "spatialeval", "map", spatial457.count_cases(depth, ("front", "back")),
             spatial457.count_relation(depth, row, spatialeval.MAP_PHRASE)),
        Kind("map_cell", "spatialeval", "map", spatialeval.map_cell_cases, spatialeval.map_cell),
    )
}  # fmt: skip
