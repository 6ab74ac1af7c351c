"""The storeys of the house: imports point down, in no circle, and the heavy libraries are loaded where they are
used."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from cogvsr_utils.paths import ROOT

PACKAGE = ROOT / "cogvsr_utils"
# The ground, then upwards; rooms of one storey do not know each other.
STOREYS = [{"ground"}, {"dataset"}, {"models", "analysis"}, {"checks"}, {"pipeline"}, {"report", "nano"}]
LEVEL = {room: level for level, rooms in enumerate(STOREYS) for room in rooms}


def modules():
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else "ground"


def imported(path, known) -> set[str]:
    """Modules of the package that a file imports, at its top or within a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: a relative import"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cogvsr_utils"):
            found |= {name if (name := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("cogvsr_utils")}
    return found


@pytest.fixture(scope="module")
def graph():
    known = modules()
    return {name: imported(path, known) for name, path in known.items() if name != "cogvsr_utils"}


def test_imports_point_down_and_rooms_of_one_storey_do_not_know_each_other(graph):
    for name, targets in graph.items():
        for target in targets:
            above, below = room(name), room(target)
            assert above == below or LEVEL[above] > LEVEL[below], f"{name} imports {target}"


def test_no_module_imports_in_a_circle(graph):
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


def test_no_module_shares_its_name_with_what_it_defines():
    for name, path in modules().items():
        defined = {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert name.rsplit(".", 1)[-1] not in defined, name


def test_the_pipeline_and_what_is_below_it_draw_nothing():
    for name, path in modules().items():
        if room(name) != "report":
            assert "matplotlib" not in path.read_text(), name


@pytest.mark.parametrize("module, absent", [
    ("cogvsr_utils", {"torch", "transformers", "pandas", "matplotlib"}),
    ("cogvsr_utils.dataset.loading", {"torch", "transformers", "matplotlib"}),
    ("cogvsr_utils.analysis.sparsity", {"torch", "transformers", "matplotlib"}),
    ("cogvsr_utils.analysis.head_probes", {"transformers", "matplotlib"}),
    ("cogvsr_utils.pipeline.plan", {"transformers", "matplotlib"}),
])  # fmt: skip
def test_importing_loads_no_more_than_it_needs(module, absent):
    code = f"import sys, {module}; print([name for name in {sorted(absent)!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
