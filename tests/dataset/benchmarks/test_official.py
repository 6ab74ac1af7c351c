"""Official scorers with their faults, and what the strict one makes of the same replies."""

import itertools

import numpy as np
import pandas as pd
import pytest

from cogvsr_utils.dataset.benchmarks.lettered import judge_strict, parse_letter
from cogvsr_utils.dataset.benchmarks.official import judge_official
from cogvsr_utils.dataset.benchmarks.threedsrbench import SETTINGS, right_together
from cogvsr_utils.dataset.items import Item


def correct(item, reply, judge=judge_official):
    row = {"uid": item.uid, "step": -1, "prediction": reply, "answer": item.answer, "answer_type": item.answer_type,
           "options": item.options}  # fmt: skip
    judged = judge(pd.DataFrame([row]), [item]).iloc[0]
    return judged["parsed"], bool(judged["correct"])


def item(benchmark, answer, options=None, answer_type="choice", **meta):
    return Item("1", benchmark, "g", "?", answer, answer_type, [], options=options, meta=meta)


@pytest.mark.parametrize("reply, parsed, right", [
    ("Yes.", "yes", True), ("no", "no", False), ("Yes and no", None, False), ("The cat is there", None, False),
])  # fmt: skip
def test_vsr(reply, parsed, right):
    assert correct(item("vsr", "yes", answer_type="yesno"), reply) == (parsed, right)


MAZE = {"task": "mazenav", "family": "2"}


MAP, GRID = ({"task": task, "family": family} for task, family in (("spatialmap", "2"), ("spatialgrid", "0")))
TURNS = {"task": "mazenav", "family": "0"}
WHERE = {"task": "spatialmap", "family": "0"}
WHICH = {"task": "spatialmap", "family": "1"}


@pytest.mark.parametrize("meta, gold, options, reply, official, strict", [
    (MAZE, "No", ["Yes", "No"], "I cannot tell", True, False),  # "no" is in "none"
    (MAZE, "Yes", ["Yes", "No"], "I cannot tell", False, False),
    (MAZE, "No", ["Yes", "No"], "No, it is the shortest path", False, True),  # patterns of yes come first
    (MAP, "1", list("0123"), "10", True, False),  # "1" is in "10"
    (MAP, "0", list("0123"), "There are no objects there.", True, False),  # "no" is zero
    (MAP, "2", list("0235"), "Two objects, out of 5.", True, False),  # the number that stands first
    (MAP, "2", list("0245"), "Of 4 objects, C. 2", True, False),  # ... but for one with a letter, whichever
    (GRID, "3", list("1235"), "Three of the 25 blocks", True, False),
    (TURNS, "0", list("0123"), "There are no turns", True, False),
    (TURNS, "1", list("0123"), "three turns, one of them right", True, False),  # words by their size, not their place
    (TURNS, "2", list("0125"), "In the 5 by 5 maze there are 2 right turns.", True, False),
    (TURNS, "10", ["8", "9", "10", "7"], "ten", False, False),  # ten is no word of the rule
    (TURNS | {"family": "1"}, "4", list("0149"), "Path of 9 steps: a total of 4 turns", True, False),
    ({"task": "spatialgrid", "family": "1"}, "cat", ["cat", "dog"], "cat, not dog", True, False),  # the first animal
    (WHERE, "Northeast", ["Northeast", "Southwest"], "A", False, True),  # a letter alone
    (WHERE, "Northeast", ["Northeast", "Southwest"], "A. Northeast", True, True),
    (WHERE, "Northeast", ["Northeast", "Southwest"], "Southwest? B. Northeast", True, False),
    (WHICH, "Oz Oddities", ["Oz Oddities", "Ice Queen"], "Oz Oddities is in the Southwest of Ice Queen", True, False),
    (WHICH, "Oz Oddities", ["Oz Oddities", "Ice Queen"], "A. **Oz Oddities** is there", True, True),
    (WHICH, "Oz Oddities", ["Oz Oddities", "Ice Queen"], "The object is Oz Oddities, of course", True, True),
])  # fmt: skip
def test_spatialeval_and_where_strict_differs(meta, gold, options, reply, official, strict):
    it = item("spatialeval", gold, options, lettered=True, **meta)
    assert correct(it, reply)[1] is official
    assert correct(it, reply, judge_strict)[1] is strict


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
    ("The answer is **b** as it is nearer to the viewer than all else", "woman"), ("A woman", "man"),
    ("it is the dog", "dog"), ("it is the dog that stands there in the middle of the picture", None), ("nothing", None),
])  # fmt: skip
def test_3dsrbench_letters(reply, parsed):
    """ "A woman" is read as the letter; a long reply by no option's text."""
    assert correct(item("3dsrbench", "man", ["man", "woman", "dog"]), reply) == (parsed, parsed == "man")


@pytest.mark.parametrize("reply, parsed", [
    ("B", "hat of anna"), ("b", "hat of anna"), ("(B)", "hat of anna"), ("[B]", "hat of anna"),
    ("**B**", "hat of anna"), ("Option B", "hat of anna"), ("The answer is: B", "hat of anna"),
    ("The correct answer is B.", "hat of anna"), ("B. hat of", "hat of anna"),
    ("B. It is nearer.", "hat of anna"), ("B. dog", None), ("E", None), ("C. dog", None),
    ("A dog on the left", ""), ("it is far", ""), ("", ""), (None, ""),
])  # fmt: skip
def test_letters_of_the_strict_rule(reply, parsed):
    assert parse_letter(reply, ["dog", "hat of Anna"]) == parsed


def test_letters_count_only_where_the_question_lists_them():
    for lettered, right in ((True, True), (False, False)):
        it = item("x", "man", ["man", "dog"], lettered=lettered)
        assert correct(it, "A", judge_strict)[1] is right
    assert correct(item("x", "dog", ["man", "dog"], lettered=True), "A dog on the left", judge_strict) == ("dog", True)
    assert correct(item("x", "B", ["B", "A"], lettered=True), "B", judge_strict)[1], "an option's own text goes first"


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
    return [
        tuple(f(part) for f, part in zip((all, all, np.prod), zip(*each, strict=True), strict=True))
        for each in groups.values()
    ]


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_what_has_to_be_right_together(judged, setting):
    for rows in (judged, judged.sample(frac=1, random_state=0, ignore_index=True)):
        found, incomplete = right_together(rows, setting)
        assert incomplete.empty
        found = zip(found["correct"], found["parsed"].notna(), found["chance"], strict=True)
        expected = by_hand(judged, setting)
        assert sorted(found) == [tuple(pytest.approx(v) for v in each) for each in sorted(expected)]


def test_groups_that_are_not_whole_are_named_and_left_out(judged):
    torn = judged[~judged["uid"].isin(["ID000#1/2", "ID001-flip#3/4"])]
    circular, incomplete = right_together(torn, "circular")
    assert len(circular) == 78 and sorted(incomplete["uid"].str.split("#").str[0]) == ["ID000", "ID001-flip"]
    assert len(right_together(torn, "flip-circular")[1]) == 2 and len(right_together(torn, "vanilla")[0]) == 80
    with pytest.raises(ValueError, match="replies to 'ID000#0/2' twice"):
        right_together(pd.concat([judged, judged[:1]], ignore_index=True), "vanilla")
    with pytest.raises(ValueError, match="setting is 'round'; expected one of"):
        right_together(judged, "round")
    with pytest.raises(ValueError, match="uid 'abc' is not of 3DSRBench"):
        right_together(judged[:1].assign(uid="abc"), "vanilla")
