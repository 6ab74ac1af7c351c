"""The eight cognitive functions of the paper, in its order.

FUNCTIONS           every function, the two spatial ones first
NAMES, SPATIAL      names of all functions, and of the two spatial ones; MAIN and MAIN_NAME, the main question's
                    step and name in tables
find_function(name) the function that a name, alias or spelling of another data set means
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Function:
    """One cognitive function: its name, what it means, whether it is spatial, its colour in figures, its short name,
    and the spellings of other data sets."""

    name: str
    definition: str
    spatial: bool
    color: str
    short: str
    aliases: tuple[str, ...] = ()


# Colours: Paul Tol's muted palette, which stays distinct under colour blindness.
FUNCTIONS = (
    Function("Spatial Perception", "Where things are and how they are turned: position, orientation, distance.",
             True, "#882255", "Spatial", ("spatial reasoning",)),
    Function("Relational Reasoning", "How two or more things relate: compare positions, sizes or order.",
             True, "#CC6677", "Relational", ("inference", "logical reasoning")),
    Function("Low-Level Visual Perception", "Surface properties seen directly: colour, size, material, texture.",
             False, "#44AA99", "Low-level", ("low-level visual reception", "low level visual perception")),
    Function("High-Level Visual Perception", "Which things are there: recognising objects, shapes and scenes.",
             False, "#332288", "High-level", ("high-level visual reception", "high level visual perception")),
    Function("Information Extraction & Understanding", "Facts taken from the text of the question or its context.",
             False, "#88CCEE", "Information",
             ("information extraction and understanding", "information extraction", "retrieval",
              "semantic understanding", "syntactic understanding", "language information extraction & understanding")),
    Function("Knowledge Recall", "Facts about the world that are neither in the picture nor in the question.",
             False, "#117733", "Knowledge", ("visual knowledge recall", "language knowledge recall")),
    Function("Math Reasoning", "Counting and arithmetic.",
             False, "#DDCC77", "Math", ("math calculation",)),
    Function("Decision-Making", "Settling the answer from the earlier steps.",
             False, "#999933", "Decision", ("decision making",)),
)  # fmt: skip

NAMES = tuple(function.name for function in FUNCTIONS)
(
    SPATIAL_PERCEPTION, RELATIONAL_REASONING, LOW_LEVEL, HIGH_LEVEL, INFORMATION, KNOWLEDGE, MATH, DECISION,
) = NAMES  # fmt: skip
MAIN, MAIN_NAME = -1, "Main question"
SPATIAL = tuple(function.name for function in FUNCTIONS if function.spatial)
_BY_NAME = {alias.lower(): f for f in FUNCTIONS for alias in (f.name, *f.aliases)}


def find_function(name: str) -> Function:
    """The function that ``name`` means, whatever its case; raises ValueError with the known names.

    >>> find_function("retrieval").name
    'Information Extraction & Understanding'
    """
    try:
        return _BY_NAME[name.strip().lower()]
    except (KeyError, AttributeError):
        raise ValueError(f"unknown function {name!r}; expected one of: {', '.join(NAMES)}") from None
