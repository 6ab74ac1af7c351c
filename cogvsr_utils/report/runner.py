"""Run notebooks through papermill, strictly: ``python -m cogvsr_utils.report.runner notebook 03_probing``.

run_notebook(source, target, parameters)    execute a copy; a wrong parameter is refused
notebook, front, publish                    the commands: a page, the picture of the front page, the measured tables

A cell that raises stops the run with papermill's own report.
"""

import re
from pathlib import Path

import typer

from cogvsr_utils.files import replacing
from cogvsr_utils.paths import BUILD, NOTEBOOKS
from cogvsr_utils.pipeline import measured
from cogvsr_utils.pipeline.ablation import ablation_matrix
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.report.effect_figures import ablation_figure
from cogvsr_utils.report.parameters import check


def run_notebook(source: Path, target: Path, parameters: dict[str, object] | None = None) -> Path:
    """Execute one notebook into ``target``; raises ValueError for a parameter that it does not have, or of another
    type."""
    import papermill

    known = papermill.inspect_notebook(str(source))
    check(parameters or {}, {name: each["inferred_type_name"] for name, each in known.items()})
    with replacing(target) as partial:
        papermill.execute_notebook(
            str(source), str(partial), parameters=parameters or {}, cwd=str(source.parent), log_output=False
        )
        _tidy(partial)
    return target


def _tidy(path: Path):
    """Drop what readers need not see: progress bars, run times of cells, empty tags, the injected cell; and put the
    answer first."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    _answer_first(notebook)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if not _shows_a_bar(o)]
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "remove-cell"]
        elif not tags:
            cell.metadata.pop("tags", None)
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, path)


def _answer_first(notebook):
    """Repeat what stands under "Summary" after the first cell, where a reader looks for it."""
    from nbformat.v4 import new_markdown_cell

    titles = [i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## Summary")]
    for i in titles[:1]:
        outputs = notebook.cells[i + 1].get("outputs", [])
        for text in [output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {})]:
            notebook.cells.insert(1, new_markdown_cell(f":::{{admonition}} In short\n{text}\n:::", id="in-short"))


def _shows_a_bar(output) -> bool:
    """Whether an output is a progress bar: as text, or as the widget that takes its place in a notebook."""
    if output.get("name") == "stderr":
        return _is_bar(output.text)
    data = output.get("data", {})
    return "application/vnd.jupyter.widget-view+json" in data and _is_bar(data.get("text/plain", ""))


def _is_bar(text: str) -> bool:
    """Whether a text is nothing but tqdm bars, one within another too."""
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


app = typer.Typer(add_completion=False)
PARAMETER = typer.Option([], "--parameter", "-p", help="name=value; may be given again")


@app.command()
def notebook(
    name: str = typer.Argument(help="name of a notebook, such as 03_probing"),
    parameter: list[str] = PARAMETER,
    output: Path = typer.Option(None, help="where the executed notebook goes"),
) -> None:
    """Run one notebook as a copy under _build/book/notebooks."""
    source = NOTEBOOKS / f"{name}.ipynb"
    if not source.is_file():
        names = ", ".join(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
        raise typer.BadParameter(f"no notebook {name!r}; there are {names}")
    given = parse_parameters(parameter)
    for name in ("source", "model"):
        if given.get(name) and Path(str(given[name])).exists():
            given[name] = str(Path(str(given[name])).resolve())  # the notebook runs in its own folder
    try:
        run_notebook(source, output or BUILD / "book" / "notebooks" / source.name, given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def front(parameter: list[str] = PARAMETER, output: Path = typer.Option(help="where the picture goes")) -> None:
    """Draw the picture of the front page."""
    experiment = Experiment(**parse_parameters(parameter))
    with replacing(output) as partial:
        ablation_figure(measured.table(experiment, ablation_matrix)).savefig(partial, dpi=150)


@app.command()
def publish(parameter: list[str] = PARAMETER) -> None:
    """Write the measured tables of a model under data/measured from its results."""
    typer.echo(measured.publish(Experiment(**parse_parameters(parameter))))


if __name__ == "__main__":
    app()
