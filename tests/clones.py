"""The project's code in another folder, where whole plans run."""

import os
import shutil
import subprocess
import sys

from cogvsr_utils.paths import ROOT


def cloned(folder, small_set):
    """The code, the plan and the pages in ``folder``, with a small data set as a user's own in ``mine``."""
    for name in ("cogvsr_utils", "notebooks", "book", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "data"))
    for name in ("pyproject.toml", "Snakefile", "_config.yml", "_toc.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "data").symlink_to(ROOT / "data")
    shutil.copytree(small_set.parent, folder / "mine")
    return folder


def environment(folder):
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(folder), "PATH": path, "OMP_NUM_THREADS": "1"}


def snakemake(folder, *arguments):
    command = [sys.executable, "-m", "snakemake", "--nolock", "--rerun-incomplete", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
