"""Data of one's own, in a person's words, from the file to the tables, as the page shows it."""

import runpy
import shutil
from dataclasses import replace

import pytest
from own_data import FEW, write_own_data

from cogvsr_utils import paths
from cogvsr_utils.dataset.jsonl import check_items, read_items
from cogvsr_utils.functions import NAMES
from cogvsr_utils.paths import ROOT
from cogvsr_utils.pipeline import experiment as experiments
from cogvsr_utils.pipeline.sweeps import with_every_function
from cogvsr_utils.report.runner import run_notebook

SNIPPETS = ROOT / "book" / "snippets"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_own_data(tmp_path_factory.mktemp("own"), n_pictures=24)


@pytest.fixture
def at_home(source, tmp_path, monkeypatch):
    """A folder with mine.jsonl in it, results of its own, and little of everything."""
    shutil.copytree(source.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setitem(experiments.PROFILES, "light", FEW)
    return tmp_path


def test_nothing_is_wrong_with_it(source):
    assert check_items(source) == []


def test_from_the_file_to_the_tables(at_home, capsys):
    found = runpy.run_path(str(SNIPPETS / "own_results.py"))
    experiment = found["experiment"]
    table = found["validation"].head_table(experiment)
    assert len(table) == 8 * 192 and set(table["function"]) == set(NAMES) and table["effect"].notna().all()
    assert experiment.folder.is_relative_to(at_home / "results") and "mine-" in experiment.folder.parts[-2]
    matrix = found["ablation"].ablation_matrix(experiment)
    assert len(matrix) == 8 * 9 and matrix["change"].between(-1, 1).all()
    assert "[72 rows" in capsys.readouterr().out


def test_a_function_that_is_rare_is_not_missed_by_a_draw(source):
    items = [replace(i, steps=[s for s in i.steps if s.function != NAMES[5]]) for i in read_items(source)]
    items[-1] = read_items(source)[-1]  # which alone asks for it
    some = with_every_function(items, 4)
    assert some[:4] == items[:4] and some[4:] == items[-1:]
    assert with_every_function(items[:-1], 4) == items[:4]


def test_the_page_on_the_data_shows_it(at_home):
    page = run_notebook(
        ROOT / "notebooks" / "01_dataset.ipynb", at_home / "01.ipynb", {"source": str(at_home / "mine.jsonl")}
    )
    text = page.read_text()
    assert "patches" in text and "48 questions about 24 scenes, with 384 labelled steps" in text


def test_step_by_step(at_home, capsys):
    found = runpy.run_path(str(SNIPPETS / "own_data.py"))
    assert len(set(found["spatial"])) == 5 and len(found["table"]) == 8 * 192
    assert "Main question" in capsys.readouterr().out
    again = runpy.run_path(str(SNIPPETS / "own_data.py"))  # the store is there now
    assert again["table"].equals(found["table"])
