"""Has a change of code changed a number? Measured tables are made from few questions, with the code before and after.

``python -m cogvsr_utils.pipeline.unchanged compare OLD MODEL ...`` makes those of the models' measured tables that are
of older code, from ``N_ITEMS`` questions of CogVSR-Synth, once with the package in the clone OLD, whose code has to be
the one that made them, and once with this one. Tables that are the same to the last bit are taken for made by this
code, which saves hours; ``stamp.json`` says so under ``unchanged``. The others are to be measured anew. Models whose
weights are not in the repository are stood in for by one of their kind (``--by``).
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
def make(folder: Path, by: str, models: str, names: list[str]) -> None:
    """Make the results NAMES of the model BY from few questions, with whichever package is imported: a parquet file
    each in FOLDER, and ``valid.json``, which of the measured tables of MODELS this code made, and from what."""
    from cogvsr_utils import paths
    from cogvsr_utils.dataset.synth import build
    from cogvsr_utils.pipeline import cues
    from cogvsr_utils.pipeline.experiment import Experiment, Profile
    from cogvsr_utils.pipeline.measured import stamp
    from cogvsr_utils.pipeline.plan import RESULTS

    valid = {}
    for model in models.split(","):
        made = stamp(Experiment(model))
        full = Experiment(model, profile=made["profile"])
        full.cached("weights", lambda made=made: made["weights"])  # whether they have changed the stamp has told
        parts = {name: RESULTS[name]._parts(full) for name in names}
        valid[model] = {"older": made["changed"], "parts": {name: {k: v for k, v in each.items()
                        if k not in ("code", "needs")} for name, each in parts.items()}}  # fmt: skip
    (folder / "valid.json").write_text(json.dumps(valid))

    paths.RESULTS = folder / "results"
    for function in (build.build_synth, build.built_stamp):
        function.__kwdefaults__["n_items"], function.__defaults__ = N_ITEMS, (folder / "synth",)
    cues.N_MORE, cues.MORE_SYNTH = N_ITEMS, folder / "synth-more"
    few = Profile(null_fits=1, permutations=10, bootstrap=20, matched_controls=4, control_items=3, ablation_items=24,
                  planted=1, random_sets=2)  # fmt: skip
    experiment = Experiment(by, profile=few)
    for name in names:
        RESULTS[name](experiment).to_parquet(folder / f"{name}.parquet")


def same_tables(old: Path, new: Path, model: str, names: list[str]) -> list[str]:
    """Those of a model's named tables that are the same to the last bit in two folders that ``make`` wrote, times
    apart, and that the code of the first had made in full, with settings and data that are still the same."""
    before, after = (json.loads((folder / "valid.json").read_text())[model] for folder in (old, new))

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
def compare(old: Path, models: list[str], by: str = "") -> None:
    """Compare the package in the clone OLD with this one for the measured tables of MODELS, and renew their stamps; the
    weights are those of BY where it is given."""
    from cogvsr_utils.paths import ROOT
    from cogvsr_utils.pipeline.experiment import Experiment
    from cogvsr_utils.pipeline.measured import renew, stamp
    from cogvsr_utils.pipeline.plan import RESULTS

    for run, own in [(by, models)] if by else [(model, [model]) for model in models]:
        changed = {model: stamp(Experiment(model))["changed"] for model in own}
        known = {model: [name for name in each if name in RESULTS] for model, each in changed.items()}
        names = list(dict.fromkeys(name for each in known.values() for name in each))
        with tempfile.TemporaryDirectory() as place:
            folders = [Path(place) / each for each in ("old", "new")]
            for clone, folder in zip((old.resolve(), ROOT), folders, strict=True):
                folder.mkdir()
                # This file with the package of that clone; -P, so that its neighbours here are not taken for it.
                command = [sys.executable, "-P", __file__, "make", str(folder), run, ",".join(own), *names]
                if names:
                    subprocess.run(command, check=True, cwd=clone, env=os.environ | {"PYTHONPATH": str(clone)})
            same = {model: same_tables(*folders, model, known[model]) if names else [] for model in own}
        for model, tables in same.items():
            if tables:
                renew(Experiment(model), tables, {"questions": N_ITEMS, "model": run})
            others = [name for name in changed[model] if name not in tables]
            typer.echo(json.dumps({"model": model, "same": tables, "others": others}, indent=1))


if __name__ == "__main__":
    app()
