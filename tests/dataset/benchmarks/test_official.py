"""Official scorers with their faults, and what the strict one makes of the same replies."""

import itertools

import numpy as np
import pandas as pd
import pytest

from cogvsr_utils.dataset.benchmarks.official import judge_official
from cogvsr_utils.dataset.benchmarks.threedsrbench import SETTINGS, right_together
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.scoring import parse


def correct(item, reply):
    answers = pd.DataFrame([{"uid": item.uid, "step": -1, "prediction": reply}])
    row = judge_official(answers, [item]).iloc[0]
    return row["parsed"], bool(row["correct"])


def item(benchmark, answer, options=None, answer_type="choice", **meta):
    return Item("1", benchmark, "g", "?", answer, answer_type, [], options=options, meta=meta)


@pytest.mark.parametrize("reply, parsed, right", [
    ("Yes.", "yes", True), ("no", "no", False), ("Yes and no", None, False), ("The cat is there", None, False),
])  # fmt: skip
def test_vsr(reply, parsed, right):
    assert correct(item("vsr", "yes", answer_type="yesno"), reply) == (parsed, right)


MAZE = {"task": "mazenav", "family": "2"}


@pytest.mark.parametrize("meta, gold, options, reply, official, strict", [
    (MAZE, "No", ["Yes", "No"], "I cannot tell", True, False),  # "no" is in "none"
    (MAZE, "Yes", ["Yes", "No"], "I cannot tell", False, False),
    (MAZE, "No", ["Yes", "No"], "No, it is the shortest path", False, True),  # patterns of yes come first
    ({"task": "spatialmap", "family": "2"}, "1", list("0123"), "10", True, False),  # "1" is in "10"
    ({"task": "mazenav", "family": "0"}, "0", list("0123"), "There are no turns", True, False),  # "no" is zero
    ({"task": "mazenav", "family": "1"}, "3", list("0123"), "three turns, as 2 is wrong", True, False),
    ({"task": "spatialgrid", "family": "1"}, "cat", ["cat", "dog"], "cat, not dog", True, False),  # the first animal
    ({"task": "spatialmap", "family": "0"}, "Northeast", ["Northeast", "Southwest"], "A", False, True),  # letters
    ({"task": "spatialmap", "family": "0"}, "Northeast", ["Northeast", "Southwest"], "A. Northeast", True, True),
])  # fmt: skip
def test_spatialeval_and_where_strict_differs(meta, gold, options, reply, official, strict):
    it = item("spatialeval", gold, options, **meta)
    assert correct(it, reply)[1] is official
    assert (parse(reply, "choice", options) == gold.lower()) is strict


@pytest.mark.parametrize("reply, gold, right", [
    ("{'Reasoning': 'x', 'Answer': 'sedan'}", "suv", True), ('{"Answer": "suv"}', "suv", True),
    ("{'Answer': 10}", "10", False), ("{'Answer': 1}", "Yes", True), ('{"Answer": 3}', "3", False),
    ("Yes", "True", False), ("True", "True", True), ("three", "3", True), ("None", "No", True), ("0", "No", True),
    ("Yes", "1", False), ("regular car", "school bus", True), ("jet", "sedan", False),
])  # fmt: skip
def test_spatial457(reply, gold, right):
    assert correct(item("spatial457", "x", gold=gold), reply)[1] is right


@pytest.mark.parametrize("reply, parsed", [
    ("A", "man"), ("The answer is B because of the light on the left side of it", "woman"), ("B.", "woman"),
    ("A woman", "man"), ("it is the dog", "dog"), ("nothing", None),  # "A woman" is read as the letter
])  # fmt: skip
def test_3dsrbench_letters(reply, parsed):
    assert correct(item("3dsrbench", "man", ["man", "woman", "dog"]), reply) == (parsed, parsed == "man")


def test_the_strict_scorer_does_not_read_an_article_as_a_letter():
    assert parse("A dog on the left", "choice", ["man", "dog"]) == "dog"
    assert parse("A", "choice", ["man", "dog"]) == "man" and parse("(B) dog", "choice", ["man", "dog"]) == "dog"
    assert parse("The answer is B", "choice", ["man", "dog"]) == "dog"
    assert parse("E", "choice", ["man", "dog"]) is None and parse("B. man", "choice", ["man", "dog"]) is None


def test_items_without_a_rule_and_replies_to_others_are_refused():
    answers = pd.DataFrame([{"uid": "2", "step": -1, "prediction": "yes"}])
    with pytest.raises(ValueError, match=r"no official scorer is known for \['cogvsr'\]"):
        judge_official(answers, [item("cogvsr", "yes")])
    with pytest.raises(ValueError, match="1 replies are to other items, such as '2'"):
        judge_official(answers, [item("vsr", "yes")])


@pytest.fixture
def judged():
    """Random verdicts: bases of two or four options, each mirrored, every rotation of both."""
    rng, rows = np.random.default_rng(0), []
    for base in range(40):
        n = (2, 4)[base % 2]
        for flip, turn in itertools.product(("", "-flip"), range(n)):
            parsed = None if rng.random() < 0.05 else "x"
            right = parsed is not None and bool(rng.random() < 0.8)
            rows.append({"uid": f"ID{base:03d}{flip}#{turn}/{n}", "parsed": parsed, "correct": right})
    return pd.DataFrame(rows)


def by_hand(judged, setting):
    """Groups of rows that have to be right together, one by one: right, parsed, chance of each."""
    groups = {}
    for row in judged.itertuples():
        name, turn = row.uid.split("#")
        if "circular" not in setting and not turn.startswith("0"):
            continue
        key = {"vanilla": row.uid, "circular": name}.get(setting, name.removesuffix("-flip"))
        groups.setdefault(key, []).append((row.correct, pd.notna(row.parsed), 1 / int(turn[-1])))
    return [tuple(f(part) for f, part in zip((all, all, np.prod), zip(*each, strict=True), strict=True))
            for each in groups.values()]  # fmt: skip


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_what_has_to_be_right_together(judged, setting):
    for rows in (judged, judged.sample(frac=1, random_state=0, ignore_index=True)):
        found, incomplete = right_together(rows, setting)
        found = zip(found["correct"], found["parsed"].notna(), found["chance"], strict=True)
        expected = by_hand(judged, setting)
        assert sorted(found) == [tuple(pytest.approx(v) for v in each) for each in sorted(expected)]
        assert not incomplete


def test_groups_that_are_not_whole_are_named_and_left_out(judged):
    torn = judged[~judged["uid"].isin(["ID000#1/2", "ID001-flip#3/4"])]
    circular, incomplete = right_together(torn, "circular")
    assert len(circular) == 78 and incomplete == ["ID000", "ID001-flip"]
    assert len(right_together(torn, "flip-circular")[1]) == 2 and len(right_together(torn, "vanilla")[0]) == 80
    with pytest.raises(ValueError, match="setting is 'round'; expected one of"):
        right_together(judged, "round")
    with pytest.raises(ValueError, match="uid 'abc' is not of 3DSRBench"):
        right_together(judged.assign(uid="abc"), "vanilla")
