"""Parameters of a page, refused where the page does not have them, where they are of another type, and below 0.

check(given, known)         raises ValueError for what is wrong
of_cells(sources)           what papermill gave a running notebook, and what the notebook has
"""

import ast
from itertools import pairwise

TYPES = {"str": str, "int": int, "float": (int, float), "bool": bool}
INJECTED = "# Parameters\n"  # how papermill begins the cell that it adds


def check(given: dict[str, object], known: dict[str, str]) -> None:
    """Raise ValueError for a parameter that is not ``known`` (name -> name of its type), of another type, or a number
    below 0.

    >>> check({"modle": "nano-internvl"}, {"model": "str"})
    Traceback (most recent call last):
    ValueError: no parameter 'modle'; expected some of model
    """
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"no parameter {name!r}; expected some of {', '.join(sorted(known))}")
        if not isinstance(value, TYPES[known[name]]) or (isinstance(value, bool) and known[name] != "bool"):
            raise ValueError(f"parameter {name} is {value!r}; expected a value of type {known[name]}")
        if isinstance(value, int | float) and value < 0:
            raise ValueError(f"parameter {name} is {value!r}; expected a number from 0")


def of_cells(sources: list[str]) -> tuple[dict[str, object], dict[str, str]]:
    """The parameters that papermill gave to a running notebook, and those that the notebook has, from the cells run so
    far; none where papermill added no cell.

    Those that it has are annotated in the cell before, as in ``model: str = "nano-internvl"``.
    """
    for before, source in pairwise(sources):
        if source.startswith(INJECTED):
            own, added = ast.parse(before).body, ast.parse(source).body
            known = {node.target.id: ast.unparse(node.annotation) for node in own if isinstance(node, ast.AnnAssign)}
            return {node.targets[0].id: ast.literal_eval(node.value) for node in added}, known
    return {}, {}
