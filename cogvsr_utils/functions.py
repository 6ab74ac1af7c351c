"""The eight cognitive functions of the paper, in its order.

FUNCTIONS           every function, the two spatial ones first
find_function(name) the function that a name, alias or spelling of another data set means
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Function:
    """One cognitive function: its name, what it means, whether it is spatial, its colour in figures, other names."""

    name: str
    definition: str
    spatial: bool
    color: str
    short: str
    aliases: tuple[str, ...] = ()


FUNCTIONS = (
    Function("Spatial Perception", "Where things are and how they are turned: position, orientation, distance.",
             True, "#d1495b", "Spatial", ("spatial reasoning",)),
    Function("Relational Reasoning", "How two or more things relate: compare positions, sizes or order.",
             True, "#edae49", "Relational", ("inference", "logical reasoning")),
    Function("Low-Level Visual Perception", "Surface properties seen directly: colour, size, material, texture.",
             False, "#00798c", "Low-level", ("low-level visual reception", "low level visual perception")),
    Function("High-Level Visual Perception", "Which things are there: recognising objects, shapes and scenes.",
             False, "#30638e", "High-level", ("high-level visual reception", "high level visual perception")),
    Function("Information Extraction & Understanding", "Facts taken from the text of the question or its context.",
             False, "#8d6a9f", "Information",
             ("information extraction and understanding", "information extraction", "retrieval",
              "semantic understanding", "syntactic understanding", "language information extraction & understanding")),
    Function("Knowledge Recall", "Facts about the world that neither picture nor question holds.",
             False, "#5c9e31", "Knowledge", ("visual knowledge recall", "language knowledge recall")),
    Function("Math Reasoning", "Counting and arithmetic.",
             False, "#7a5c3e", "Math", ("math calculation",)),
    Function("Decision-Making", "Settling the answer from the earlier steps.",
             False, "#6b7280", "Decision", ("decision making",)),
)  # fmt: skip

NAMES = tuple(function.name for function in FUNCTIONS)
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
