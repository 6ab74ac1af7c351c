"""Results whose makers are killed at fifty moments, two of them at once, are those of an undisturbed run."""

import random
import signal
import time

import numpy as np
import pytest
from killing import end, start
from own_data import FEW, write_own_data

from cogvsr_utils import paths
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.plan import RESULTS, rules
from cogvsr_utils.pipeline.store import Result, _to_arrays

WANTED = ("head_table", "ablation_matrix")


def makes(folder, source):
    """All that is wanted, made in a process of its own."""
    paths.RESULTS = folder
    experiment = Experiment("nano-internvl", profile=FEW, source=source)
    assert experiment.vlm
    yield
    for name in WANTED:
        RESULTS[name](experiment)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder in which one set of results was made undisturbed and one by makers that were killed."""
    folder = tmp_path_factory.mktemp("chaos")
    source = write_own_data(folder / "data", n_pictures=24)
    assert end(start(makes, folder / "undisturbed", source)) == 0
    rng, kills = random.Random(0), 0
    while kills < 50:
        makers = [start(makes, folder / "killed", source) for _ in range(rng.choice([1, 1, 2]))]
        time.sleep(rng.random() * 1.6)
        codes = [end(maker, kill=True) for maker in makers]
        assert set(codes) <= {0, -signal.SIGKILL}
        kills += codes.count(-signal.SIGKILL)
    makers = [start(makes, folder / "killed", source) for _ in range(2)]  # both to the end, one waiting for the other
    assert [end(maker) for maker in makers] == [0, 0]
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
