"""Which code a function rests on: a digest that changes when, and only when, that code does.

code_digest(function)    over the function and every definition of this package that it refers to, however far

Names are followed through the package's imports; comments, docstrings, layout and what errors say do not count. A class
counts whole, and an object's methods count because whoever makes the object refers to its class.
"""

import ast
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from cogvsr_utils.files import digest

PACKAGE = Path(__file__).resolve().parent
AT_IMPORT = "(at import)"  # a module's calls outside all definitions, such as registrations


def code_digest(function: Callable, ignore: frozenset[str] = frozenset(), package: Path = PACKAGE) -> str:
    """Digest of the definitions that ``function`` rests on; ``ignore`` names definitions that count in another way.

    ``package`` is the folder whose source is read. Raises KeyError for a function that is not defined at the top of
    one of its modules.

    >>> from cogvsr_utils.stats import gini, hoyer
    >>> code_digest(gini) == code_digest(gini), code_digest(gini) == code_digest(hoyer)
    (True, False)
    """
    name = getattr(function, "__wrapped__", function).__name__
    found: dict[tuple[str, str], str] = {}
    _collect(package, function.__module__, name, ignore, found)
    return digest(*(f"{module}.{name}={text}" for (module, name), text in sorted(found.items())))


@dataclass(frozen=True)
class _Module:
    """A module's top-level definitions, and what its imported names mean: (module, name or None for the module)."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)


def _collect(package: Path, module: str, name: str, ignore: frozenset[str], found: dict):
    """Add the definition of ``module.name`` and all that it refers to, to ``found``."""
    waiting = [(module, name)]
    while waiting:
        here, name = waiting.pop()
        if name in ignore or (here, name) in found:
            continue
        definition = _define(package, here, name)
        found[here, name] = definition.text
        waiting += definition.references


@dataclass(frozen=True)
class _Definition:
    """A definition's code, docstrings left out, and the (module, name) pairs that it refers to."""

    text: str
    references: tuple[tuple[str, str], ...]


@cache
def _define(package: Path, module: str, name: str) -> _Definition:
    here = _read(package, module)
    if name not in here.definitions:
        if name not in here.imports:
            raise KeyError(f"{module} has no top-level definition {name!r}")
        return _Definition("", (here.imports[name],))  # handed on from another module
    nodes = [_bare(node) for node in here.definitions[name]]
    references = [(module, AT_IMPORT)] if AT_IMPORT in here.definitions and name != AT_IMPORT else []
    for node in nodes:
        imports = here.imports | _imports(package, ast.walk(node))
        for origin, attribute in _references(node, here.definitions, imports, module):
            there = _read(package, origin)
            if attribute is None:  # a module as a whole
                references += [(origin, each) for each in there.definitions]
            elif attribute in there.definitions or attribute in there.imports:
                references.append((origin, attribute))
    return _Definition("\n".join(map(_text, nodes)), tuple(references))


def _text(node: ast.stmt) -> str:
    """A definition as text, the same on every Python: 3.12 has type parameters, 3.13 leaves empty lists out."""
    empty = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(node, **empty).replace(", type_params=[]", "")


def _references(node: ast.AST, definitions, imports, module: str):
    """(module, name) of everything of the package that a definition names; a module's attributes one by one."""
    parents = {id(child): parent for parent in ast.walk(node) for child in ast.iter_child_nodes(parent)}
    for each in ast.walk(node):
        if not isinstance(each, ast.Name):
            continue
        if each.id in imports:
            origin, attribute = imports[each.id]
            parent = parents.get(id(each))
            if attribute is None and isinstance(parent, ast.Attribute):
                attribute = parent.attr
            yield origin, attribute
        elif each.id in definitions:
            yield module, each.id


@cache
def _read(package: Path, module: str) -> _Module:
    tree = ast.parse(_path(package, module).read_text(encoding="utf-8"))
    out = _Module(imports=_imports(package, tree.body))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            out.definitions.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            for name in names:
                out.definitions.setdefault(name, []).append(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            out.definitions.setdefault(AT_IMPORT, []).append(node)
    return out


def _path(package: Path, module: str) -> Path:
    path = package.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imports(package: Path, nodes) -> dict[str, tuple[str, str | None]]:
    """Local name -> (module, name) of what is imported from the package; name None where it is a module."""
    found: dict[str, tuple[str, str | None]] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package.name:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                target = (inner, None) if _path(package, inner).is_file() else (node.module, alias.name)
                found[alias.asname or alias.name] = target
    return found


def _bare(node: ast.stmt) -> ast.stmt:
    """The definition without docstrings, without what errors say, and without decorators of results, which declare and
    do not compute."""
    node = ast.parse(ast.unparse(node)).body[0]
    for each in ast.walk(node):
        if isinstance(each, ast.Raise) and isinstance(each.exc, ast.Call):
            each.exc = each.exc.func
        if isinstance(each, ast.FunctionDef | ast.ClassDef):
            first = each.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                each.body = each.body[1:] or [ast.Pass()]
            each.decorator_list = [d for d in each.decorator_list if not _declares_result(d)]
    return node


def _declares_result(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Name) and called.id == "result"
