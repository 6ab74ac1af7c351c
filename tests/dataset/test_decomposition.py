"""Questions taken apart by a recorded model: what is kept, what is rejected and why, and how questions are drawn."""

import json
import re
import runpy
from collections import Counter
from dataclasses import replace

import pytest
from chat_server import chat_server
from hypothesis import given
from hypothesis import strategies as st

from cogvsr_utils import (
    apply_review,
    decompose,
    export_review,
    import_review,
    load_items,
    sample_items,
    write_items,
)
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes
from cogvsr_utils.dataset.decomposition import decompose_prompts
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.jsonl import read_items
from cogvsr_utils.dataset.language_models import Endpoint
from cogvsr_utils.functions import NAMES
from cogvsr_utils.paths import ROOT


def item_of(number):
    return Item(f"u{number}", "vsr", f"g{number}", f"Is the cat number {number} left of the dog?", "yes", "yesno", [])


def step(question, answer, answer_type="closed", options=None, function=NAMES[0]):
    return {
        "question": question,
        "answer": answer,
        "answer_type": answer_type,
        "options": options,
        "function": function,
    }


LAST = step("Is the cat left of it?", "Yes", "yesno", ["yes", "no"], NAMES[1])
GOOD = [step("Where is the cat?", "on the left"), LAST]
RECORDED = {
    0: GOOD,
    1: [step("Which one is red, the cat or the dog?", "cat", "choice", ["cat", "dog"]), LAST],
    2: [step("The cat is black. What color is the cat?", "black"), LAST],
    3: [step("How many cats?", "two or three", "int"), LAST],
    4: [step("Where is the cat?", "on the left"), {**LAST, "answer": "no"}],
    5: [step("Which one?", "cat", "choice"), LAST],
    6: [step("Which one?", "bird", "choice", ["cat", "dog"]), LAST],
    7: [step("Where?", "left", function="Telepathy"), LAST],
    8: [LAST],
}
REASONS = {2: "gives the answer 'black' away", 3: "'two or three' is no int", 4: "the last answer is 'no'; expected",
           5: "a choice without options", 6: "'bird' is no choice", 7: "no reply in the form asked for",
           8: "no reply in the form asked for"}  # fmt: skip


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")

    def reply(request):
        number = int(re.search(r"cat number (\d+)", request["messages"][-1]["content"])[1])
        return json.dumps({"steps": RECORDED[number]})

    with chat_server(reply) as (address, requests):
        yield Endpoint("taker", address, per_minute=60_000), requests


def test_good_steps_are_kept_and_bad_ones_rejected_with_the_reason(model, tmp_path):
    found = decompose([item_of(n) for n in RECORDED], model[0], tmp_path)
    assert [item.uid for item in found.items] == ["u0", "u1"]
    assert [s.function for s in found.items[0].steps] == [NAMES[0], NAMES[1]]
    assert found.items[0].meta["decomposed_by"].startswith("taker @ ")
    rejected = found.rejected.set_index("uid")
    assert set(rejected.index) == {f"u{n}" for n in REASONS}
    for number, reason in REASONS.items():
        assert reason in rejected.loc[f"u{number}", "reason"], number
    assert rejected.loc["u2", "steps"] == RECORDED[2] and rejected.loc["u7", "steps"] is None


def test_nothing_is_asked_twice(model, tmp_path):
    items = [item_of(0), item_of(1)]
    first = decompose(items, model[0], tmp_path)
    assert decompose(items, model[0], tmp_path).items == first.items and len(model[1]) == 2


def test_what_comes_of_it_goes_through_review(model, tmp_path):
    items = decompose([item_of(0), item_of(1)], model[0], tmp_path / "kept").items
    assert read_items(write_items(tmp_path / "mine.jsonl", items)) == items
    sheet = export_review(items, tmp_path / "review")
    filled = (
        sheet.read_text()
        .replace(f",{NAMES[0]},,,", f",{NAMES[0]},{NAMES[0]},yes,")
        .replace(f",{NAMES[1]},,,", f",{NAMES[1]},{NAMES[1]},no,")
    )
    (tmp_path / "one.csv").write_text(filled)
    kept = apply_review(items, import_review([tmp_path / "one.csv"], items))
    assert [[s.function for s in item.steps] for item in kept] == [[NAMES[0]], [NAMES[0]]]


def test_the_model_is_told_all_functions_and_that_texts_are_data():
    (prompt,) = decompose_prompts([replace(item_of(0), options=["yes", "no"])])
    assert all(name in prompt.system for name in NAMES) and "never an instruction" in prompt.system
    assert "<options>yes; no</options>" in prompt.user and prompt.image is None


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4)), min_size=1, max_size=40), st.integers(1, 12))
def test_questions_are_drawn_evenly_over_pictures(made, n):
    items = [replace(item_of(i), benchmark=name, group_id=f"{name}{group}") for i, (name, group) in enumerate(made)]
    drawn = sample_items(items, n)
    assert len({item.uid for item in drawn}) == len(drawn)
    for name in {item.benchmark for item in items}:
        own = [item for item in items if item.benchmark == name]
        taken = Counter(item.group_id for item in drawn if item.benchmark == name)
        assert taken.total() == min(n, len(own))
        for group, size in Counter(item.group_id for item in own).items():  # none is short while another has more
            assert taken[group] >= min(size, max(taken.values()) - 1)
    with pytest.raises(ValueError, match="n is 0"):
        sample_items(items, 0)


def test_the_documented_example_runs(small_set, tmp_path, monkeypatch, capsys):
    """As it stands on its page, but for the address, the data and the folder; the server answers by the form asked."""
    copy = write_lookalikes(load_items(small_set), tmp_path / "copies")["vsr"]
    text = (ROOT / "book" / "snippets" / "language_models.py").read_text()
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.chdir(tmp_path)

    def reply(request):
        asked = request["messages"][-1]["content"]
        if "<reply>" in asked:
            return json.dumps({"verdict": "right", "reason": "as it says"})
        answer = re.search(r"<answer>(.*?)</answer>", asked)[1]
        return json.dumps({"steps": [GOOD[0], {**LAST, "answer": answer, "options": None}]})

    with chat_server(reply) as (address, requests):
        for old, new in (
            ('Endpoint("gpt-4o-mini",', f'Endpoint("gpt-4o-mini", {address!r}, per_minute=1e6,'),
            ('load_items("synth", split="C", limit=20)', f"load_items({str(small_set)!r}, limit=3)"),
            ('"vsr:vsr/test.jsonl"', repr(f"vsr:{copy}")),
        ):
            assert text.count(old) == 1
            text = text.replace(old, new)
        (tmp_path / "example.py").write_text(text)
        runpy.run_path(str(tmp_path / "example.py"))
    printed = capsys.readouterr().out
    assert "kappa" in printed and "cost_at_most=0." in printed and requests
    assert len(read_items(tmp_path / "mine.jsonl")) > 3 and (tmp_path / "review" / "review.html").is_file()
