"""Tables that a change of code leaves as they are keep their stamp; all others do not."""

import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from cogvsr_utils.paths import MEASURED, ROOT
from cogvsr_utils.pipeline import measured, unchanged
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.plan import RESULTS
from cogvsr_utils.report.pages import measured_note

TEXT = "text_gate-A"  # needs no model


@pytest.fixture
def folders(tmp_path):
    """What ``make`` writes, by hand: the tables a, b and c of two clones."""
    table = pd.DataFrame({"function": ["one", "other"], "value": [0.1, 0.2], "seconds": [1.0, 2.0]})
    for name, seconds in (("old", 1.0), ("new", 3.0)):
        (tmp_path / name).mkdir()
        for each in "abc":
            table.assign(seconds=seconds).to_parquet(tmp_path / name / f"{each}.parquet")
        valid = {"mine": {"older": [], "parts": {each: {"settings": {"bootstrap": 10}} for each in "abc"}}}
        (tmp_path / name / "valid.json").write_text(json.dumps(valid))
    return tmp_path / "old", tmp_path / "new"


def edited(folder, change):
    valid = json.loads((folder / "valid.json").read_text())
    change(valid["mine"])
    (folder / "valid.json").write_text(json.dumps(valid))


def test_times_may_differ_and_nothing_else(folders):
    assert unchanged.same_tables(*folders, "mine", list("abc")) == ["a", "b", "c"]
    pd.DataFrame({"function": ["one", "other"], "value": [0.1, 0.2 + 1e-16]}).to_parquet(folders[1] / "b.parquet")
    assert unchanged.same_tables(*folders, "mine", list("abc")) == ["a", "c"]


def test_what_the_old_code_did_not_make_or_other_settings_make_is_not_the_same(folders):
    edited(folders[0], lambda valid: valid["older"].append("a"))
    edited(folders[1], lambda valid: valid["parts"]["c"]["settings"].update(bootstrap=20))
    assert unchanged.same_tables(*folders, "mine", list("abc")) == ["b"]


def test_a_stamp_is_renewed_for_the_tables_that_are_named_and_says_why(tmp_path, monkeypatch):
    shutil.copytree(MEASURED / "nano-internvl", tmp_path / "nano-internvl")
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    experiment, path = Experiment("nano-internvl"), tmp_path / "nano-internvl" / "stamp.json"
    made = json.loads(path.read_text())
    names = list(made["keys"])[:3]
    older = made | {"keys": made["keys"] | dict.fromkeys(names, "of older code"), "unchanged": []}
    path.write_text(json.dumps(older))
    before = measured.stamp(experiment)["changed"]
    assert set(names) <= set(before)
    measured.renew(experiment, names[:2], {"questions": 120})
    after = json.loads(path.read_text())
    assert measured.stamp(experiment)["changed"] == [name for name in before if name not in names[:2]]
    assert after["unchanged"][-1]["questions"] == 120 and after["unchanged"][-1]["tables"] == names[:2]
    assert after["commit"] == made["commit"], "what measured them stays"
    notes = [measured_note([experiment], [RESULTS[name]]).data for name in names]
    assert ["the same on few questions" in note for note in notes] == [True, True, False]
    with pytest.raises(KeyError, match="no measured tables"):
        measured.renew(experiment, ["no such table"], {})


def test_small_tables_are_made_by_the_package_that_is_imported(tmp_path):
    """And leave the results and the data of the clone as they were."""
    kept = sorted((ROOT / "results").rglob("*")) if (ROOT / "results").exists() else []
    command = [sys.executable, "-P", unchanged.__file__, "make", str(tmp_path), "nano-internvl", "nano-internvl", TEXT]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    table, valid = pd.read_parquet(tmp_path / f"{TEXT}.parquet"), json.loads((tmp_path / "valid.json").read_text())
    full = measured.table(Experiment("nano-internvl"), RESULTS[TEXT])
    assert list(table) == list(full) and not table.equals(full)
    assert set(valid["nano-internvl"]["parts"][TEXT]) == {"settings", "data", "weights", "arguments"}
    assert (sorted((ROOT / "results").rglob("*")) if (ROOT / "results").exists() else []) == kept
