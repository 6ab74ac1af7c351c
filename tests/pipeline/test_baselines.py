import numpy as np
import pandas as pd
import pytest

from cogvsr_utils.analysis.text_baselines import random_functions
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.recording import capture


@pytest.fixture(scope="module")
def told(vlm, small_set, tmp_path_factory):

    items, folder = load_items(small_set)[:30], tmp_path_factory.mktemp("controls")
    answers = answer(vlm, items)
    held = capture(vlm, items, store=folder / "held", answers=answers)
    return items, held, controls(vlm, items, answers, held, store=folder / "others").set_index("predictor")


def test_every_control_is_there_and_in_order(told):
    _, held, table = told
    assert len(table) == 13 and (table["n"] == len(held.index)).all() and table["accuracy"].between(0, 1).all()
    share = held.index["function"].value_counts(normalize=True)
    assert table.loc["majority", "accuracy"] == pytest.approx(share.iloc[0])
    assert table.loc["majority", "balanced_accuracy"] == pytest.approx(1 / len(share))
    shuffled = table.loc["shuffled labels", "accuracy"]
    assert table.loc["all heads", "accuracy"] > shuffled + 0.2 and table.loc["text", "accuracy"] > shuffled + 0.2
    assert table.loc["control task", "accuracy"] < table.loc["all heads", "accuracy"]


def test_text_guesses_see_no_activations_and_not_their_own_group(told):
    """The guess at a group's steps does not depend on what that group's labels say."""
    items, held, _ = told
    guess = text_guesses(items, held.index)
    names = np.unique(held.index["function"])
    assert guess.shape == (len(held.index), len(names)) and (guess.sum(1) == 1).all()
    accuracy = (names[guess.argmax(1)] == held.index["function"]).mean()
    assert accuracy > 0.7


def test_control_task_gives_the_same_answer_the_same_function():
    answers = pd.Series(["red", "2", "red", "blue"] * 30)
    given = random_functions(answers, ["f", "g", "h"])
    assert all(len(set(given[answers == a])) == 1 for a in set(answers)) and set(given) <= {"f", "g", "h"}
