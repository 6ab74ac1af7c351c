"""The bird's-eye map, in the manner of SpatialEval."""

from itertools import permutations

from cogvsr_utils.dataset.synth.kinds.template import Candidates, QuestionTemplate
from cogvsr_utils.dataset.synth.scenes import COLORS, SHAPES, Thing
from cogvsr_utils.dataset.synth.substeps import Substep, column, decide, row
from cogvsr_utils.dataset.synth.views import SceneView, depth, side
from cogvsr_utils.functions import HIGH_LEVEL, INFORMATION, LOW_LEVEL, RELATIONAL_REASONING

_BEARING = {"left": "west", "right": "east", "front": "south", "back": "north"}
MAP_PHRASE = {k: f"{v} of" for k, v in _BEARING.items()}


def map_direction_candidates(view: SceneView) -> Candidates:
    """Pairs that differ clearly along both axes."""
    found = []
    for a, b in permutations(view.scene.things, 2):
        if side(a, b) and depth(a, b):
            found.append((_BEARING[depth(a, b)] + _BEARING[side(a, b)], (a, b)))
    return found


def map_direction(view: SceneView, a: Thing, b: Thing) -> QuestionTemplate:
    """In which of four directions ``a`` is from ``b`` on the map."""
    question = f"On the map, in which direction is the {a.name} from the {b.name}?"
    north, east = _BEARING[depth(a, b)], _BEARING[side(a, b)]
    core = [
        Substep(one, RELATIONAL_REASONING, f"Is the {a.name} {one} or {other} of the {b.name}?", answer, (one, other))
        for one, other, answer in (("east", "west", east), ("north", "south", north))
    ]
    optional = [decide(north + east, "north", "east"), column(a), column(b), row(a), row(b)]
    options = ("northeast", "northwest", "southeast", "southwest")
    return QuestionTemplate(question, options, [a, b], core, optional, north + east)


def map_cell_candidates(view: SceneView) -> Candidates:
    """Every thing, by its square."""
    return [(t.shape, (t,)) for t in view.scene.things]


def map_cell(view: SceneView, t: Thing) -> QuestionTemplate:
    """Which thing is in a square of the map."""
    question = f"On the map, which object is in column {t.column} and row {t.row}?"
    core = [
        Substep("its shape", HIGH_LEVEL, "What shape is in that square?", t.shape, SHAPES),
        Substep("its color", LOW_LEVEL, "What color is in that square?", t.color, tuple(COLORS)),
    ]
    optional = [
        decide(t.name, "its shape", "its color"),
        Substep("column", INFORMATION, "Which column does the question name?", str(t.column)),
        Substep("row", INFORMATION, "Which row does the question name?", str(t.row)),
    ]
    return QuestionTemplate(question, None, [], core, optional, t.name)
