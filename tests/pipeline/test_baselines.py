from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from own_data import FEW
from sklearn.base import BaseEstimator

from cogvsr_utils import paths
from cogvsr_utils.analysis.head_probes import HeadProbes
from cogvsr_utils.analysis.text_baselines import (
    cross_validated,
    permuted_functions,
    random_functions,
    ridge_classifier,
    text_predictions,
    wordings,
)
from cogvsr_utils.dataset.items import steps_table
from cogvsr_utils.pipeline.baselines import probe_baselines
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.recordings import activations
from cogvsr_utils.pipeline.selection import wording_null


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
    assert table["held_out"].between(0, 1).all() and table.loc["majority", "held_out"] == pytest.approx(share.iloc[0])


def test_text_predictions_see_no_activations_and_not_their_own_group(experiment):
    """What a group's labels are changes nothing of its own predictions."""
    items, index = experiment.items("A"), activations["A"](experiment).index
    predicted, names = text_predictions(items, index), np.unique(index["function"])
    assert predicted.shape == (len(index), len(names)) and (predicted.sum(1) == 1).all()
    assert (names[predicted.argmax(1)] == index["function"]).mean() > 0.7


def test_a_head_that_knows_wordings_is_no_better_than_their_null_and_one_that_knows_the_function_is(experiment):
    """Heads of a code for each wording, of noise, and of the function itself."""
    items, rng = experiment.items("A"), np.random.default_rng(0)
    index = steps_table(items)
    wording = np.unique(wordings(items), return_inverse=True)[1]
    codes = rng.normal(size=(wording.max() + 1, 12))[wording]
    functions, known = np.unique(index["function"], return_inverse=True)
    knowing = np.pad(4 * np.eye(len(functions))[known], ((0, 0), (0, 12 - len(functions))))
    heads = SimpleNamespace(table=pd.DataFrame({"layer": [0, 0]}))
    ten = replace(experiment, profile=replace(FEW, null_fits=10), _cache={})
    for told, passes in ((codes, False), (knowing, True)):
        x = np.stack([told, np.zeros_like(codes)], axis=1) + rng.normal(size=(len(index), 2, 12))
        store = SimpleNamespace(index=index, heads=heads, by_head=lambda x=x: x)
        alone = HeadProbes().fit(x, index["function"], index["group_id"])
        probes = SimpleNamespace(functions=alone.classes_, auroc=alone.auroc_)
        table = wording_null.make(ten, activations=store, ridge_probes=probes)
        assert (table["best"].mean() > 0.7) and (table["fits"] == 20).all()
        assert (table["p"] < 0.1).mean() > 0.8 if passes else (table["p"] < 0.1).mean() < 0.3
        assert table["heads"].sum() >= 7 if passes else table["heads"].sum() <= 2


def test_a_label_that_is_the_wording_is_not_read_from_a_wording_that_is_held_out():
    """Words that tell the wording and nothing else: by scene the function is read without error, by wording not."""
    wording = np.repeat(np.arange(16), 20)
    label, scenes = np.array(list("abcd"))[wording % 4], np.tile(np.arange(20), 16)
    features = np.eye(16)[wording]
    by_scene = cross_validated(ridge_classifier(16), features, label, scenes)
    by_both = cross_validated(ridge_classifier(16), features, label, scenes, wording)
    assert (by_scene == label).all() and (by_both == label).mean() < 0.4
    shared = np.concatenate([features, np.eye(4)[wording % 4]], axis=1)  # and something that all its wordings have
    assert (cross_validated(ridge_classifier(20), shared, label, scenes, wording) == label).all()


def test_no_step_is_predicted_from_its_scene_or_its_wording():
    class Remembers(BaseEstimator):
        """A model that notes what it was fitted on, and gives a row's own number where it was."""

        def fit(self, x, y):
            self.scenes, self.words = set(x[:, 0]), set(x[:, 1])
            return self

        def predict(self, x):
            return np.array([row[0] in self.scenes or row[1] in self.words for row in x])

    scenes, words = np.repeat(np.arange(12), 10), np.tile(np.arange(10), 12)
    seen = cross_validated(Remembers(), np.stack([scenes, words], axis=1), words % 2, scenes, words)
    assert not seen.any()


def test_wordings_of_the_synthetic_set_have_one_function_each(experiment):
    items = experiment.items("A")
    words, steps = wordings(items), steps_table(items)
    by_wording = steps["function"].groupby(words.to_numpy()).nunique()
    assert (by_wording == 1).mean() > 0.9 and 15 < len(by_wording) < len(steps) / 2


def test_functions_moved_between_wordings_are_still_a_matter_of_the_wording():
    texts, labels = np.repeat(list("abcdefgh"), 30), np.repeat(list("ffffgghh"), 30)
    moved = permuted_functions(texts, labels, np.random.default_rng(3))
    assert all(len(set(moved[texts == text])) == 1 for text in "abcdefgh")
    assert sorted(moved[::30]) == sorted(labels[::30]) and (moved != labels).any()


def test_the_control_task_gives_the_same_answer_the_same_function():
    answers = pd.Series(["red", "2", "red", "blue"] * 30)
    given = random_functions(answers, ["f", "g", "h"])
    assert all(len(set(given[answers == a])) == 1 for a in set(answers)) and set(given) <= {"f", "g", "h"}
