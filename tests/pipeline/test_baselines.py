import numpy as np
import pandas as pd
import pytest

from cogvsr_utils import paths
from cogvsr_utils.analysis.text_baselines import random_functions, text_predictions
from cogvsr_utils.pipeline.baselines import probe_baselines
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.recordings import activations


@pytest.fixture(scope="module")
def experiment(small_set, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", tmp_path_factory.mktemp("results"))
        yield Experiment("nano-internvl", source=str(small_set))


def test_every_baseline_is_there_and_in_order(experiment):
    table = probe_baselines(experiment).set_index("predictor")
    index = activations["A"](experiment).index
    assert len(table) == 13 and (table["n"] == len(index)).all() and table["accuracy"].between(0, 1).all()
    share = index["function"].value_counts(normalize=True)
    assert table.loc["majority", "accuracy"] == pytest.approx(share.iloc[0])
    assert table.loc["majority", "balanced_accuracy"] == pytest.approx(1 / len(share))
    shuffled = table.loc["shuffled labels", "accuracy"]
    assert table.loc["all heads", "accuracy"] > shuffled + 0.2 and table.loc["text", "accuracy"] > shuffled + 0.2
    assert table.loc["control task", "accuracy"] < table.loc["all heads", "accuracy"]


def test_text_predictions_see_no_activations_and_not_their_own_group(experiment):
    """What a group's labels are changes nothing of its own predictions."""
    items, index = experiment.items("A"), activations["A"](experiment).index
    predicted, names = text_predictions(items, index), np.unique(index["function"])
    assert predicted.shape == (len(index), len(names)) and (predicted.sum(1) == 1).all()
    assert (names[predicted.argmax(1)] == index["function"]).mean() > 0.7


def test_the_control_task_gives_the_same_answer_the_same_function():
    answers = pd.Series(["red", "2", "red", "blue"] * 30)
    given = random_functions(answers, ["f", "g", "h"])
    assert all(len(set(given[answers == a])) == 1 for a in set(answers)) and set(given) <= {"f", "g", "h"}
