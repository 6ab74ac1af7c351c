"""The fifteen kinds of main question, a module for each of the paper's four source benchmarks.

KINDS    name -> Kind
"""

from cogvsr_utils.dataset.synth.kinds import spatial457, spatialeval, threedsrbench, vsr
from cogvsr_utils.dataset.synth.kinds.template import Kind
from cogvsr_utils.dataset.synth.substeps import COLUMNS, PHRASE, ROWS

KINDS = {
    kind.name: kind
    for kind in (
        Kind("statement_side", "vsr", "picture", *vsr.statement(COLUMNS)),
        Kind("statement_depth", "vsr", "picture", *vsr.statement(ROWS)),
        Kind("closer", "3dsrbench", "picture", threedsrbench.closer_candidates, threedsrbench.closer),
        Kind("higher", "3dsrbench", "picture", threedsrbench.higher_candidates, threedsrbench.higher),
        Kind("facing", "3dsrbench", "picture", threedsrbench.facing_candidates, threedsrbench.facing),
        Kind("viewpoint", "3dsrbench", "picture", threedsrbench.viewpoint_candidates, threedsrbench.viewpoint),
        Kind("attribute", "spatial457", "picture", spatial457.attribute_candidates, spatial457.attribute),
        Kind("count_side", "spatial457", "picture", *spatial457.count_relation(COLUMNS, PHRASE)),
        Kind("count_kind", "spatial457", "picture", spatial457.count_kind_candidates, spatial457.count_kind),
        Kind("occlusion", "spatial457", "picture", spatial457.occlusion_candidates, spatial457.occlusion),
        Kind("pose", "spatial457", "picture", spatial457.pose_candidates, spatial457.pose),
        Kind("collision", "spatial457", "picture", spatial457.collision_candidates, spatial457.collision),
        Kind("map_direction", "spatialeval", "map", spatialeval.map_direction_candidates, spatialeval.map_direction),
        Kind("map_count", "spatialeval", "map", *spatial457.count_relation(ROWS, spatialeval.MAP_PHRASE)),
        Kind("map_cell", "spatialeval", "map", spatialeval.map_cell_candidates, spatialeval.map_cell),
    )
}
