"""``make book``, killed with all its jobs at fifty moments, ends with the tables of an undisturbed run."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from own_data import write_own_data

from cogvsr_utils.paths import ROOT

KILLS = 50
pytestmark = pytest.mark.chaos


@pytest.fixture
def clones(tmp_path):
    """Two clones of the project, and a small file of data."""
    source = write_own_data(tmp_path / "data", n_pictures=24)
    folders = [tmp_path / name for name in ("undisturbed", "killed")]
    for folder in folders:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return *folders, source


def start(clone: Path, source: Path) -> subprocess.Popen:
    """``make book`` in a clone: results, notebooks and pages."""
    command = [sys.executable, "-m", "snakemake", "--cores", "all", "--nolock", "--rerun-incomplete", "--quiet", "all",
               "--config", f"source={source}", "--", "book"]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": str(clone),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    log = (clone / "log.txt").open("a")
    return subprocess.Popen(command, cwd=clone, env=environment, stdout=log, stderr=log, start_new_session=True)


def results(clone: Path) -> dict[Path, Path]:
    """The files of results and data, by their place in the clone; without stamps, which tell when each was made."""
    kinds = (".parquet", ".npz", ".npy", ".png", ".jsonl")
    return {path.relative_to(clone): path for path in (clone / "results").rglob("*") if path.suffix in kinds}


def outputs(clone: Path) -> dict[str, list]:
    """What the cells of each page printed and showed, but for the page on speed; without the names that pandas draws
    for its tables and the addresses of objects in memory."""
    pages = {}
    for path in sorted((clone / "_build/book/notebooks").glob("*.ipynb")):
        if path.stem != "A1_speed":
            cells = json.loads(path.read_text())["cells"]
            shown = [each for cell in cells for each in cell.get("outputs", ())]
            pages[path.stem] = [
                re.sub(r"T_[0-9a-f]{5}| at 0x[0-9a-f]+", "", json.dumps([each.get("text"), each.get("data")]))
                for each in shown
            ]
    return pages


def compare(undisturbed: Path, killed: Path):
    """Whether all that two runs left is the same."""
    assert (killed / "_build/book/_build/html/index.html").is_file()
    assert outputs(killed) == outputs(undisturbed) and len(outputs(killed)) > 5
    files = {clone: results(clone) for clone in (undisturbed, killed)}
    assert set(files[undisturbed]) == set(files[killed])
    for name, path in files[undisturbed].items():
        other = files[killed][name]
        if path.suffix == ".parquet":
            pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(other), obj=str(name))
        elif path.suffix == ".npz":
            with np.load(path) as one, np.load(other) as two:
                for entry in one:
                    np.testing.assert_array_equal(one[entry], two[entry], err_msg=f"{name} {entry}")
        else:
            assert path.read_bytes() == other.read_bytes(), name


def test_the_book_is_the_same_however_often_it_was_killed(clones):
    undisturbed, killed, source = clones
    assert start(undisturbed, source).wait() == 0, (undisturbed / "log.txt").read_text()[-3000:]
    rng, kills, made = random.Random(0), 0, []
    while kills < KILLS:
        run = start(killed, source)
        time.sleep(rng.uniform(5, 45))
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            kills += 1
        elif run.returncode != 0:
            raise AssertionError((killed / "log.txt").read_text()[-3000:])
        else:  # done before all kills: once more from nothing
            subprocess.run(["rm", "-r", str(killed / "results"), str(killed / "_build")], check=True)
        run.wait()
        made.append(len(results(killed)))
    assert len(set(made)) > KILLS / 5, "hardly any result was made between kills"
    assert start(killed, source).wait() == 0, (killed / "log.txt").read_text()[-3000:]
    compare(undisturbed, killed)
