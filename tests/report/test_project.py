"""The project's own files: environments, settings, pairs, README, wheel."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import papermill
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from packaging.requirements import Requirement
from PIL import Image
from typer.testing import CliRunner

from cogvsr_utils.report.runner import _is_bar, _shows_a_bar, app, run_notebook

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
KEYS = {
    "": {"title", "author", "copyright", "only_build_toc_files", "exclude_patterns", "execute", "bibtex_bibfiles",
         "repository", "launch_buttons", "html", "sphinx", "logo"},
    "execute": {"execute_notebooks", "stderr_output"},
    "repository": {"url", "branch"},
    "launch_buttons": {"colab_url"},
    "html": {"use_repository_button", "use_issues_button", "favicon"},
    "sphinx": {"recursive_update", "config", "extra_extensions"},
    "sphinx.config": {"language", "myst_heading_anchors", "nb_merge_streams", "html_static_path", "html_css_files",
                      "html_last_updated_fmt"},
}  # fmt: skip


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, where YAML silently keeps the last."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice: {keys}"
        return super().construct_mapping(node, deep)


def load(name):
    return yaml.load((ROOT / name).read_text(), StrictLoader)


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements():
    extras = project()["optional-dependencies"]
    return [Requirement(r) for r in (*project()["dependencies"], *extras["book"])]


def test_conda_environment_and_package_agree():
    pip = next(d["pip"] for d in load("environment.yml")["dependencies"] if isinstance(d, dict))
    assert {str(Requirement(r)) for r in pip if not r.startswith("-")} == {str(r) for r in requirements()}


def test_installed_versions_satisfy_both_and_are_the_pinned_ones():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for requirement in requirements():
        found = metadata.version(requirement.name)
        assert requirement.specifier.contains(found, prereleases=True), requirement
        assert found.split("+")[0] == pins[requirement.name.lower()], requirement.name
    assert pins["torch"] == "2.13.0" and "torchvision" not in pins


def test_book_settings_hold_known_keys_only():
    config = load("_config.yml")
    for path, known in KEYS.items():
        here = config
        for part in filter(None, path.split(".")):
            here = here[part]
        assert set(here) <= known, path


def test_every_page_of_the_toc_is_there_and_every_page_is_in_it():
    toc = load("_toc.yml")
    files = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
    for file in files:
        assert (ROOT / file).is_file() or (ROOT / f"{file}.md").is_file(), file
    prose = {f"book/{p.stem}" for p in (ROOT / "book").glob("*.md")}
    assert prose <= set(files) and {f"notebooks/{p.stem}.ipynb" for p in NOTEBOOKS} <= set(files)


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda p: p.stem)
def test_twins_are_in_sync_without_outputs(source):
    ours, theirs = jupytext.read(source), nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert [(c.cell_type, c.source) for c in ours.cells] == [(c.cell_type, c.source) for c in theirs.cells]
    assert [c.metadata for c in ours.cells] == [c.metadata for c in theirs.cells]
    assert theirs.metadata.kernelspec.name == "python3"
    assert not any(c.get("outputs") for c in theirs.cells)


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_have_their_shape(source):
    notebook = jupytext.read(source)
    tags = [tag for c in notebook.cells for tag in c.metadata.get("tags", [])]
    assert tags.count("parameters") == 1 and "injected-parameters" not in tags
    assert any(cell.source.startswith("source: str") or "\nsource: str" in cell.source for cell in notebook.cells)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    assert len(re.findall(r"^# ", text, re.M)) == 1
    for part in ("**Overview.**", "**Prerequisites.**", "## Summary", "**What's next.**"):
        assert part in text, part
    parameters = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    assert all(re.fullmatch(r"\w+: \w+ = (\"[\w.-]*\"|\d+)  # .+", line) for line in parameters.source.splitlines())
    shown = [c for c in notebook.cells if c.cell_type == "code" and not c.metadata.get("tags")]
    assert 1 <= len(shown) <= 8 and max(len(c.source.splitlines()) for c in shown) <= 12, "short calls are in sight"
    assert "pip" in notebook.cells[1].source and notebook.cells[1].metadata["tags"] == ["remove-cell"], "for Colab"


def test_what_a_run_finds_stands_at_the_top_of_the_page(tmp_path):
    cells = [new_markdown_cell("# Title"), new_code_cell("n: int = 3  # how many", metadata={"tags": ["parameters"]}),
             new_markdown_cell("## Summary"),
             new_code_cell("from IPython.display import Markdown\nMarkdown(f'There are {n}.')")]  # fmt: skip
    page = new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    nbformat.write(page, tmp_path / "page.ipynb")
    made = nbformat.read(run_notebook(tmp_path / "page.ipynb", tmp_path / "made.ipynb", {"n": 4}), as_version=4)
    assert [cell.cell_type for cell in made.cells[:2]] == ["markdown", "markdown"]
    assert "In short" in made.cells[1].source and "There are 4." in made.cells[1].source


def test_folders_and_files_are_meant_from_where_the_command_is_typed(tmp_path, monkeypatch):
    source = 'model: str = ""  # a folder\nsource: str = ""  # a file'
    cells = [new_code_cell(source, metadata={"tags": ["parameters"]}), new_code_cell("print(model, source)")]
    (tmp_path / "pages").mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "pages" / "page.ipynb")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cogvsr_utils.report.runner.NOTEBOOKS", tmp_path / "pages")
    call = ["notebook", "page", "-p", "model=mine", "-p", "source=mine.jsonl", "--output", "made.ipynb"]
    assert CliRunner().invoke(app, call).exit_code == 0
    (printed,) = nbformat.read("made.ipynb", as_version=4).cells[-1].outputs
    assert printed.text.split() == [str(tmp_path / "mine"), str(tmp_path / "mine.jsonl")]


def test_unknown_parameters_and_notebooks_are_refused(tmp_path):

    page, target = ROOT / "notebooks" / "03_probing.ipynb", tmp_path / "x.ipynb"
    with pytest.raises(ValueError, match="no parameter 'modle'; expected some of model, profile, quantize, source"):
        run_notebook(page, target, {"modle": "nano-internvl"})
    with pytest.raises(ValueError, match="parameter model is 12; expected a value of type str"):
        run_notebook(page, target, {"model": 12})
    with pytest.raises(ValueError, match="parameter n_items is -1; expected a number from 0"):
        run_notebook(ROOT / "notebooks" / "01_dataset.ipynb", target, {"n_items": -1})
    call = [sys.executable, "-m", "cogvsr_utils.report.runner", "notebook", "09_none"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "no notebook" in done.stderr


@pytest.mark.parametrize(
    "given, message", [({"modle": "nano-internvl"}, "no parameter 'modle'"), ({"profile": 3}, "profile is 3; expected")]
)
def test_plain_papermill_refuses_them_before_anything_long_starts(given, message, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        papermill.execute_notebook(ROOT / "notebooks" / "06_families.ipynb", tmp_path / "x.ipynb", parameters=given)


def test_readme_names_the_two_commands_and_its_example_runs(tmp_path):
    """The ten-line example, run as a user would: from another folder, with the small data set already there or not."""
    readme = (ROOT / "README.md").read_text()
    assert "make book" in readme and "make test" in readme
    assert "papermill notebooks/02_capture.ipynb" in readme and "Qwen/Qwen2.5-VL-7B-Instruct" in readme
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    assert example == (ROOT / "book" / "snippets" / "reuse.py").read_text()
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "change" in done.stdout and ", 192, 24)" in done.stdout


def test_the_page_on_your_model_edits_saves_and_reads_edits(tmp_path):
    snippet = ROOT / "book" / "snippets" / "edits.py"
    done = subprocess.run([sys.executable, snippet], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    acted, changed, same = done.stdout.splitlines()
    assert (
        int(acted.split()[5]) > 0
        and int(changed.split()[3]) > 0
        and same == "the same edits: True - the same replies: True"
    )


@pytest.mark.parametrize("name", ["reuse", "edits", "adaptvis"])
def test_what_the_pages_print_is_of_the_present_weights(name, tmp_path):
    snippet, on_cpu = ROOT / "book" / "snippets" / f"{name}.py", os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, snippet], capture_output=True, text=True, cwd=tmp_path, env=on_cpu)
    assert done.stdout == snippet.with_name(f"{name}_output.txt").read_text(), done.stderr


def test_the_picture_of_the_page_on_reuse_is_of_the_present_weights(tmp_path):
    snippet, there = ROOT / "book" / "snippets" / "attention.py", ROOT / "book" / "_static" / "attention.png"
    settings = os.environ | {"CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}
    subprocess.run([sys.executable, snippet], check=True, capture_output=True, cwd=tmp_path, env=settings)
    made, kept = (
        np.asarray(Image.open(path).convert("L"), dtype=float) for path in (tmp_path / "attention.png", there)
    )
    assert (
        made.shape == kept.shape and np.abs(made - kept).mean() < 1
    )  # of 255; letters may be drawn otherwise elsewhere


def test_wheel_holds_weights_and_schema_and_works_from_any_folder(tmp_path):
    subprocess.run(["make", "wheel", f"DIST={tmp_path}"], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import cogvsr_utils as c, cogvsr_utils.dataset.synth.kinds as k, cogvsr_utils.nano.train; "
        "v = c.load_vlm('nano-internvl'); print(len(v.heads), k.__file__)"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["192", str(tmp_path / "site" / "cogvsr_utils/dataset/synth/kinds/__init__.py")]
    assert (tmp_path / "site" / "cogvsr_utils" / "dataset" / "schemas" / "item.schema.json").is_file()


def test_progress_bars_are_told_from_other_messages():
    from io import StringIO

    from tqdm import tqdm

    shown = StringIO()
    for _ in tqdm(range(3), desc="outer", file=shown, mininterval=0, disable=False):
        for _ in tqdm(range(2), desc="inner", file=shown, mininterval=0, disable=False):
            pass
    assert "\x1b[A" in shown.getvalue() and _is_bar(shown.getvalue())
    assert not _is_bar(shown.getvalue() + "UserWarning: look here\n")


def test_a_progress_bar_is_dropped_from_a_page_as_text_and_as_widget():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "0"}}
    bar = {"text/plain": "Loading weights:   0%|          | 0/145 [00:00<?, ?it/s]"}
    assert _shows_a_bar({"output_type": "display_data", "data": widget | bar})
    assert not _shows_a_bar({"output_type": "display_data", "data": bar})
    assert not _shows_a_bar({"output_type": "display_data", "data": widget | {"text/plain": "FloatSlider(value=0.0)"}})
    assert not _shows_a_bar({"output_type": "stream", "name": "stdout", "text": bar["text/plain"]})


def test_the_repository_has_one_address():
    """``make repository URL=...`` sets it everywhere; the book's settings are where it is read from."""
    url = load("_config.yml")["repository"]["url"]
    pattern = re.compile(r"https://github\.com/[\w-]+/[\w-]+")
    for name in (
        "README.md",
        "CITATION.cff",
        "book/rerun.md",
        "book/cite.md",
        *(f"notebooks/{p.name}" for p in NOTEBOOKS),
    ):
        found = set(pattern.findall((ROOT / name).read_text()))
        assert found <= {url}, (name, found)


def test_the_package_prints_nothing_and_lines_end_at_120():
    for path in (ROOT / "cogvsr_utils").rglob("*.py"):
        assert not re.search(r"^\s*print\(", path.read_text(), re.M), path
    code = [path for folder in ("cogvsr_utils", "tests", "notebooks", "book") for path in (ROOT / folder).rglob("*.py")]
    for path in [ROOT / "Snakefile", *code]:
        lines = [line for line in path.read_text().splitlines() if not line.startswith("# %%")]  # headers are one line
        assert all(len(line) <= 120 for line in lines), path


def test_figures_have_names_of_their_own():
    sources = [*NOTEBOOKS, *(ROOT / "book").glob("*.md")]
    names = [name for path in sources for name in re.findall(r'(?:"name": "|:name: )(fig-[\w-]+)', path.read_text())]
    assert len(names) > 20 and len(names) == len(set(names)), sorted(names)
