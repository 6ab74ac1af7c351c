"""What a stopped maker of a result has begun is taken up where it may be, and begun anew where it may not."""

import json

import pytest
from own_data import FEW, write_own_data

from cogvsr_utils import answer, paths
from cogvsr_utils.models import answering
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.recordings import activations, answers


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    source = write_own_data(tmp_path / "data", n_pictures=24)
    return Experiment("nano-internvl", profile=FEW, source=str(source))


@pytest.fixture
def begun(experiment):
    """Where the answers to B are kept until they are whole."""
    result = answers["B"]
    return experiment.folder / f"{result.name}.{result.key(experiment)}.begun.json"


def unmake(result, experiment):
    result.data_path(experiment).unlink()
    result.stamp_path(experiment).unlink()


def test_answers_that_were_kept_are_not_asked_for_again(experiment, begun, monkeypatch):
    whole = answers["B"](experiment)
    assert not begun.exists()
    unmake(answers["B"], experiment)
    answer(experiment.vlm, experiment.items("B"), resume=begun)
    monkeypatch.setattr(answering, "_converse", lambda *_: pytest.fail("asked again"))
    assert answers["B"](experiment).equals(whole) and not begun.exists()


def test_answers_kept_with_other_versions_are_asked_for_again(experiment, begun, caplog):
    whole = answers["B"](experiment)
    unmake(answers["B"], experiment)
    answer(experiment.vlm, experiment.items("B"), resume=begun)
    kept = json.loads(begun.read_text())
    kept["settings"]["versions"]["torch"] = "1.0"
    kept["replies"] = {uid: ["wrong"] * len(replies) for uid, replies in kept["replies"].items()}
    begun.write_text(json.dumps(kept))
    assert answers["B"](experiment).equals(whole) and not begun.exists()
    assert "answers-B is begun anew" in caplog.text and "versions: there" in caplog.text


def test_activations_begun_with_other_versions_are_begun_anew(experiment, caplog):
    whole = activations["A"](experiment)
    kept = whole.features.tobytes()
    activations["A"].stamp_path(experiment).unlink()
    settings = activations["A"].data_path(experiment) / "settings.json"
    settings.write_text(settings.read_text().replace('"torch": "', '"torch": "0.'))
    assert activations["A"](experiment).features.tobytes() == kept
    assert "activations-A is begun anew" in caplog.text
