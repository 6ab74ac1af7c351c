"""Results whose makers are killed at fifty moments, two of them at once, are those of an undisturbed run."""

import subprocess
import sys

import numpy as np
import pytest
from own_data import write_own_data

from cogvsr_utils import paths
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.paths import ROOT
from cogvsr_utils.pipeline.experiment import Experiment, Profile
from cogvsr_utils.pipeline.plan import RESULTS, rules
from cogvsr_utils.pipeline.store import Result, _to_arrays

WANTED = ("head_table", "ablation_matrix")
FEW = Profile(
    null_fits=1, permutations=5, bootstrap=10, matched_controls=4, control_items=2, ablation_items=2, planted=1
)

# A process that loads the model once; its children make the results. Threads are off, since a child cannot use its
# parent's.
CHAOS = f"""
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from pathlib import Path
from cogvsr_utils import paths
from cogvsr_utils.pipeline.experiment import Experiment, Profile
from cogvsr_utils.pipeline.plan import RESULTS
folder, source, rng, kills = Path(sys.argv[1]), sys.argv[2], random.Random(0), 0
Experiment("nano-internvl", profile={FEW}, source=source).vlm

def maker():
    pid = os.fork()
    if pid == 0:
        try:
            experiment = Experiment("nano-internvl", profile={FEW}, source=source)
            for name in {WANTED}:
                RESULTS[name](experiment)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    return pid

def ended(pid, kill):
    if kill:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)

paths.RESULTS = folder / "undisturbed"
ended(maker(), False)
paths.RESULTS = folder / "killed"
while kills < 50:
    makers = [maker() for _ in range(rng.choice([1, 1, 2]))]
    time.sleep(rng.random() * 1.6)
    kills += sum([ended(pid, True) for pid in makers])
for pid in [maker(), maker()]:  # both to the end, one waiting for the other
    ended(pid, False)
print(kills)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder in which one set of results was made undisturbed and one by makers that were killed."""
    folder = tmp_path_factory.mktemp("chaos")
    source = write_own_data(folder / "data", n_pictures=24)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1",
                   "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
    command = [sys.executable, "-c", CHAOS, str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 50
    return folder


def test_every_result_is_whole_and_the_same(killed, monkeypatch):
    experiment = Experiment("nano-internvl", profile=FEW, source=str(killed / "data" / "mine.jsonl"))
    monkeypatch.setattr(Result, "_make", lambda *_: pytest.fail("a result was not kept"))
    for rule in rules(experiment, WANTED):
        values = []
        for name in ("undisturbed", "killed"):
            monkeypatch.setattr(paths, "RESULTS", killed / name)
            values.append(RESULTS[rule.result](experiment))
        one, other = values
        if isinstance(one, HeadActivations):
            assert one.features.tobytes() == other.features.tobytes() and one.index.equals(other.index)
        elif hasattr(one, "equals"):
            assert one.equals(other), rule.result
        else:
            for name, array in _to_arrays(one).items():
                np.testing.assert_array_equal(array, _to_arrays(other)[name], err_msg=f"{rule.result} {name}")


def test_nothing_half_written_is_left(killed):
    left = {path.name for path in (killed / "killed").rglob("*") if ".part" in path.name}
    assert not left
