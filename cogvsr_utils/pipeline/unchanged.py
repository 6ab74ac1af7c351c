"""Has a change of code changed a number? Measured tables are made from few questions, with the code before and after.

``python -m cogvsr_utils.pipeline.unchanged compare OLD MODEL`` makes those of MODEL's measured tables that are of older
code, from ``N_ITEMS`` questions of CogVSR-Synth, once with the package in the clone OLD, whose code has to be the one
that made them, and once with this one. Tables that are the same to the last bit are taken for made by this code, which
saves hours; ``stamp.json`` says so under ``unchanged``. The others are to be measured anew. Weights that are not in the
repository are stood in for by others of their kind (``--by``).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import typer

N_ITEMS = 240
TIMES = ["seconds", "ratio"]  # columns that no two runs have alike

app = typer.Typer()


@app.command()
def make(folder: Path, model: str, by: str, names: list[str]) -> None:
    """Make the results NAMES from few questions, with whichever package is imported: a parquet file each in FOLDER, and
    ``valid.json``, which of MODEL's measured tables this code made, and from what."""
    from cogvsr_utils import paths
    from cogvsr_utils.dataset.synth import build
    from cogvsr_utils.pipeline.experiment import Experiment, Profile
    from cogvsr_utils.pipeline.measured import stamp
    from cogvsr_utils.pipeline.plan import RESULTS

    made = stamp(Experiment(model))
    full = Experiment(model, profile=made["profile"])
    full.cached("weights", lambda: made["weights"])  # whether they have changed the stamp has told
    parts = {
        name: {k: v for k, v in RESULTS[name]._parts(full).items() if k not in ("code", "needs")} for name in names
    }
    (folder / "valid.json").write_text(json.dumps({"older": made["changed"], "parts": parts}))

    paths.RESULTS = folder / "results"
    for function in (build.build_synth, build.built_stamp):
        function.__kwdefaults__["n_items"], function.__defaults__ = N_ITEMS, (folder / "synth",)
    few = Profile(null_fits=1, permutations=10, bootstrap=20, matched_controls=4, control_items=3, ablation_items=24,
                  planted=1, random_sets=2)  # fmt: skip
    experiment = Experiment(by, profile=few)
    for name in names:
        RESULTS[name](experiment).to_parquet(folder / f"{name}.parquet")


def same_tables(old: Path, new: Path, names: list[str]) -> list[str]:
    """Those of the named tables that are the same to the last bit in two folders that ``make`` wrote, times apart, and
    that the code of the first had made in full, with settings and data that are still the same."""
    before, after = (json.loads((folder / "valid.json").read_text()) for folder in (old, new))

    def read(folder, name):
        return pd.read_parquet(folder / f"{name}.parquet").drop(columns=TIMES, errors="ignore")

    return [
        name
        for name in names
        if name not in before["older"]
        and before["parts"][name] == after["parts"][name]
        and read(old, name).equals(read(new, name))
    ]


@app.command()
def compare(old: Path, model: str, by: str = "") -> None:
    """Compare the package in the clone OLD with this one for the measured tables of MODEL, and renew their stamp."""
    from cogvsr_utils.paths import ROOT
    from cogvsr_utils.pipeline.experiment import Experiment
    from cogvsr_utils.pipeline.measured import renew, stamp
    from cogvsr_utils.pipeline.plan import RESULTS

    experiment, same = Experiment(model), []
    changed = stamp(experiment)["changed"]
    if names := [name for name in changed if name in RESULTS]:
        with tempfile.TemporaryDirectory() as place:
            folders = [Path(place) / each for each in ("old", "new")]
            for clone, folder in zip((old.resolve(), ROOT), folders, strict=True):
                folder.mkdir()
                # This file with the package of that clone; -P, so that its neighbours here are not taken for it.
                command = [sys.executable, "-P", __file__, "make", str(folder), model, by or model, *names]
                subprocess.run(command, check=True, cwd=clone, env=os.environ | {"PYTHONPATH": str(clone)})
            same = same_tables(*folders, names)
    if same:
        renew(experiment, same, {"questions": N_ITEMS, "model": by or model})
    typer.echo(json.dumps({"same": same, "others": [name for name in changed if name not in same]}, indent=1))


if __name__ == "__main__":
    app()
