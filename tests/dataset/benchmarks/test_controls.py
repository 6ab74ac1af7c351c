"""Questions asked otherwise stay the same questions."""

import pytest

from cogvsr_utils import Item, load_items
from cogvsr_utils.dataset.benchmarks.controls import THINKING, UNDETERMINED, direct, step_by_step, undetermined
from cogvsr_utils.dataset.benchmarks.lettered import parse_letter
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes
from cogvsr_utils.models.chat import conversation


@pytest.fixture(scope="module")
def copies(small_set, tmp_path_factory):
    paths = write_lookalikes(load_items(small_set), tmp_path_factory.mktemp("copies"))
    return {name: load_items(f"{name}:{path}") for name, path in paths.items()}


def test_the_option_more_is_the_last_is_never_right_and_is_in_the_question(copies):
    for items in copies.values():
        before = {item.uid: item for item in items}
        for item in undetermined(items):
            was = before[item.uid]
            assert item.options == [*(was.options or ["yes", "no"]), UNDETERMINED]
            assert item.question.startswith(was.question) and UNDETERMINED in item.question[len(was.question) :]
            assert item.answer == was.answer != UNDETERMINED and item.image == was.image and not item.steps
            if item.meta.get("lettered"):
                letter = item.question.splitlines()[-1][0]
                assert parse_letter(letter, item.options) == UNDETERMINED
    assert len(undetermined(copies["vsr"])) == len(copies["vsr"])
    assert 0 < len(undetermined(copies["spatial457"])) < len(copies["spatial457"]), "counts have no options"
    assert {item.uid.split("#")[1][0] for item in undetermined(copies["3dsrbench"])} == {"0"}
    told = [Item(**vars(item) | {"meta": item.meta | {"mode": "vtqa"}}) for item in copies["spatialeval"]]
    unseen = [Item(**vars(item) | {"image": None}) for item in copies["vsr"]]
    assert undetermined(told) == undetermined(unseen) == [], "the text tells the answer, or nothing does"


def test_a_thought_is_a_turn_before_the_answer_is_asked_for(copies):
    item = step_by_step(copies["vsr"])[0]
    first, thought, last = conversation(item, ["The cat is on the left."], -1)
    assert THINKING.question in first["content"][-1]["text"] and item.question in first["content"][-1]["text"]
    assert thought["role"] == "assistant" and last["content"][0]["text"] == "Answer the question."
    assert all(not item.steps for item in direct(copies["cogvsr"])) and copies["cogvsr"][0].steps
