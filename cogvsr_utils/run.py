"""Run the notebooks through papermill, strictly: ``python -m cogvsr_utils.run --model nano-internvl``.

Each notebook is run as a copy under ``_build/book``; an unknown parameter is refused, and a cell that raises stops
the run with papermill's own report.
"""

from __future__ import annotations

import re
from pathlib import Path

import typer

from .paths import BUILD, NOTEBOOKS


def run_notebook(source: Path, target: Path, parameters: dict[str, str] | None = None) -> Path:
    """Execute one notebook into ``target``; raises ValueError for a parameter that it does not have."""
    import papermill

    known = papermill.inspect_notebook(str(source))
    unknown = sorted(set(parameters or {}) - set(known))
    if unknown:
        raise ValueError(f"{source.name} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part.ipynb")
    papermill.execute_notebook(str(source), str(partial), parameters=parameters or {}, cwd=str(source.parent),
                               log_output=False, progress_bar=True)  # fmt: skip
    _tidy(partial)
    partial.replace(target)
    return target


def _tidy(path: Path):
    """Drop what readers need not see: progress bars, run times of cells, empty tags, the injected cell."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if not (o.get("name") == "stderr" and _is_bar(o.text))]
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "remove-cell"]
        elif not tags:
            cell.metadata.pop("tags", None)
    nbformat.write(notebook, path)


def _is_bar(text: str) -> bool:
    """Whether a piece of stderr is nothing but tqdm bars, one within another too."""
    bar = r"\x1b\[A|[^\r\n]*\d+%\|[^\r\n]*\]|[^\r\n]*: \d+it \[[^\r\n]*\]"
    return not re.sub(bar, "", text).strip()


def parse_parameters(pairs: list[str]) -> dict:
    """``["model=nano-internvl", "limit=10"]`` as a dictionary; numbers become numbers.

    >>> parse_parameters(["limit=10", "model=nano-internvl"])
    {'limit': 10, 'model': 'nano-internvl'}
    """
    import yaml

    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"parameter {pair!r}; expected name=value")
        found[name] = yaml.safe_load(value) if value else ""
    return found


def main(
    notebook: str = typer.Argument(help="name of a notebook, such as 03_probing"),
    parameter: list[str] = typer.Option([], "--parameter", "-p", help="name=value; may be given again"),
    output: Path = typer.Option(None, help="where the executed notebook goes"),
):
    """Run one notebook as a copy under _build/book/notebooks."""
    source = NOTEBOOKS / f"{notebook}.ipynb"
    if not source.is_file():
        names = ", ".join(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
        raise typer.BadParameter(f"no notebook {notebook!r}; there are {names}")
    target = output or BUILD / "book" / "notebooks" / source.name
    try:
        run_notebook(source, target, parse_parameters(parameter))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


if __name__ == "__main__":
    typer.run(main)
