"""Steps in crossed wording: answers recomputed from the stored places, and what the text may tell of the function."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy.stats import chisquare

from cogvsr_utils.dataset.items import steps_table
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.dataset.synth.build import compose_crossed
from cogvsr_utils.dataset.synth.crossed import CHOICE, N_STEPS, YESNO, crossed_text, draw_text
from cogvsr_utils.dataset.synth.scenes import BOARD, COLORS, sample_scene, scene_with
from cogvsr_utils.dataset.synth.tasks import MARKS, TASKS
from cogvsr_utils.dataset.synth.views import CLEAR, SceneView
from cogvsr_utils.functions import NAMES, SPATIAL

NUMBERS = {"four": 4, "five": 5, "six": 6, "seven": 7}
LIKE = {"die": "cube", "box": "cube", "crate": "cube", "ball": "sphere", "marble": "sphere", "globe": "sphere",
        "can": "cylinder", "drum": "cylinder", "tube": "cylinder", "funnel": "cone", "tepee": "cone",
        "hat": "cone"}  # fmt: skip
SHAPED = {"cubic": "cube", "spherical": "sphere", "cylindrical": "cylinder", "conical": "cone"}
PLAIN = {"big": "large", "little": "small", "metallic": "metal"}
PLACED = {"left edge": ("column", 1), "first column": ("column", 1), "far left": ("column", 1),
          "middle column": ("column", 3), "central column": ("column", 3), "halfway": ("column", 3),
          "right edge": ("column", 5), "last column": ("column", 5), "far right": ("column", 5),
          "front edge": ("row", 1), "first row": ("row", 1), "near end": ("row", 1),
          "back edge": ("row", 5), "last row": ("row", 5), "far end": ("row", 5)}  # fmt: skip
BESIDE = {"left of": ("x", -1), "to the left": ("x", -1), "leftmost": ("x", -1), "right of": ("x", 1),
          "to the right": ("x", 1), "rightmost": ("x", 1), "in front": ("y", -1), "nearer": ("y", -1),
          "frontmost": ("y", -1), "behind": ("y", 1), "farther": ("y", 1), "hindmost": ("y", 1)}  # fmt: skip


@pytest.fixture(scope="module")
def items():
    return compose_crossed(40, seed=5)[0]


def attribute(thing, value):
    return value in (thing["size"], thing["material"], thing["shape"])


def fits(phrase, thing, others, note):
    """Function and truth of a phrase of the plan for a thing, read from its words alone."""
    words = phrase.split()
    for mark in MARKS:
        if mark in words:
            return "Information Extraction & Understanding", attribute(thing, note[mark])
    for word, total in NUMBERS.items():
        if word in words:
            return "Math Reasoning", thing["column"] + thing["row"] == total
    for word, shape in LIKE.items():
        if word in words and ("like" in words or "looks" in words):
            return "Knowledge Recall", thing["shape"] == shape
    for place, (line, number) in PLACED.items():
        if place in phrase:
            return "Spatial Perception", thing[line] == number
    for beside, (axis, sign) in BESIDE.items():
        if beside in phrase:
            gaps = [sign * (thing[axis] - o[axis]) for o in others]
            return "Relational Reasoning", all(gap >= CLEAR for gap in gaps)
    values = [v for v in ("small", "large", "metal", "rubber") if v in words]
    if len(values) == 2:
        apart = all(any(attribute(o, value) for o in others) for value in values)
        return "Decision-Making", all(attribute(thing, value) for value in values) and apart
    for word in words:
        word = SHAPED.get(word, PLAIN.get(word, word))
        if word in ("cube", "sphere", "cylinder", "cone"):
            return "High-Level Visual Perception", thing["shape"] == word
        if word in ("small", "large", "metal", "rubber"):
            return "Low-Level Visual Perception", attribute(thing, word)
    raise AssertionError(f"no task has the words {phrase!r}")


def reread(item, question):
    """Function and answer of a question from its words, the main question's and the stored places."""
    note = {mark: value for value, mark in re.findall(r"(\w+) is (\w+)", item.question.split("Plan:")[0])}
    plan = dict(re.findall(r"(\d) ([^,.]+)[,.]", item.question.split("Plan:")[1]))
    things = {t["color"]: t for t in item.meta["things"]}
    line = re.search(r"\b(column|row)\b", question).group()
    # The picker is the colour beside its line or its noun; the candidates stand in a list.
    picker = next(c for c in re.findall(r"\b(\w+)(?: object| one\b| thing|'s| column| row)", question) if c in COLORS)
    trio = [c for c in re.findall(r"\w+", question) if c in COLORS]
    counts = Counter(trio)
    listed = re.search(r"(\w+), (\w+) (?:or|and) (\w+)", question).groups()
    phrase = plan[str(things[picker][line])]
    truths = {}
    for color in listed:
        others = [things[o] for o in listed if o != color]
        function, truths[color] = fits(phrase, things[color], others, note)
    right = [color for color, truth in truths.items() if truth]
    assert len(right) == 1, (phrase, truths)
    named = [c for c in counts if counts[c] - (c == picker) - (c in listed) > 0]
    return function, right[0], named


def test_answers_and_functions_follow_from_the_places_and_the_words(items):
    for item in items:
        for step in item.steps:
            function, right, named = reread(item, step.question)
            assert step.function == function
            if step.answer_type == "yesno":
                assert (step.answer == "yes") == (named == [right])
            else:
                assert step.answer == right


def test_main_question_is_answered_by_the_last_sentence(items):
    for item in items:
        last = re.split(r"(?<=\.) ", item.question.split("Plan:")[1], maxsplit=1)[1]
        _, right, named = reread(item, last)
        assert item.answer == (("yes" if named == [right] else "no") if item.answer_type == "yesno" else right)


def test_pairs_have_the_same_words_and_no_function_in_common(items):
    pairs = defaultdict(list)
    for item in items:
        pairs[item.group_id].append(item)
    for one, other in pairs.values():
        assert one.question == other.question and one.split == other.split
        assert one.meta["things"] != other.meta["things"] and one.image != other.image
        for a, b in zip(one.steps, other.steps, strict=True):
            assert (a.question, a.options, a.answer_type) == (b.question, b.options, b.answer_type)
            assert a.function != b.function


def test_wordings_of_the_splits_are_disjoint_and_enough():
    for split in (0, 1, 2):
        for other in {0, 1, 2} - {split}:
            assert not set(CHOICE[split] + YESNO[split]) & set(CHOICE[other] + YESNO[other])
            assert not {t.phrases[split] for t in TASKS} & {t.phrases[other] for t in TASKS}
    for name in NAMES:
        assert len({phrase for task in TASKS if task.function == name for phrase in task.phrases}) >= 12


def test_every_task_of_a_plan_is_as_likely_to_be_asked_for(items):
    """The text cannot tell which: a plan's slots are asked for alike, and so are the functions in it."""
    slots, functions = Counter(), Counter()
    for item in items:
        things = {t["color"]: t for t in item.meta["things"]}
        for step in item.steps:
            picker = next(
                c for c in re.findall(r"\b(\w+)(?: object| one\b| thing|'s| column| row)", step.question) if c in COLORS
            )
            slots[things[picker][re.search(r"\b(column|row)\b", step.question).group()]] += 1
            functions[step.function in SPATIAL] += 1
    assert chisquare([slots[n] for n in range(1, BOARD + 1)]).pvalue > 0.001
    assert chisquare([functions[True], functions[False]], np.array([0.4, 0.6]) * functions.total()).pvalue > 0.001


def test_answers_tell_nothing_of_the_function(items):
    table = steps_table(items)
    yes = table[table["answer_type"] == "yesno"].groupby(table["function"].isin(SPATIAL))["answer"]
    shares = yes.apply(lambda answers: (answers == "yes").mean())
    assert (shares - 0.5).abs().max() < 0.2
    places = [step.options.index(step.answer) for item in items for step in item.steps if step.answer_type == "choice"]
    assert chisquare(np.bincount(places, minlength=3)).pvalue > 0.001


def test_text_is_drawn_before_any_picture():
    text = draw_text(np.random.default_rng(3), 0)
    assert len(text.asks) == N_STEPS + 1 and len(text.tasks) == BOARD
    assert set(SPATIAL) < {task.function for task in text.tasks}
    assert len({task.function for task in text.tasks}) == BOARD


def test_chains_for_training_are_answered_by_their_scene():
    rng, found = np.random.default_rng(0), 0
    for number in range(60):
        view = SceneView.of(sample_scene(np.random.default_rng(number)), "map")
        text = crossed_text(view, rng)
        if text:
            steps, answer = text.steps(view.things)
            found += 1
            assert answer in {"yes", "no", *COLORS} and len(steps) <= N_STEPS
            assert len(text.main.split("Plan: ")[1].split(".")[0].split(", ")) == BOARD
    assert found > 30


def test_scene_with_places_what_is_asked_and_keeps_the_rest_random():
    rows = []
    for seed in range(40):
        scene = scene_with(np.random.default_rng(seed), ["red", "blue"], {("red", "row"): 5, ("blue", "column"): 2})
        if scene:
            red, blue = scene.things
            assert red.row == 5 and blue.column == 2
            rows.append((red.column, blue.row))
    assert len(set(rows)) > 5


def test_crossed_splits_load_by_their_names(small_set):
    for split in ("crossed-A", "crossed-B", "crossed-C"):
        items = load_items(small_set, split=split)
        assert {item.subset for item in items} == {"crossed"}
        assert len(items) == 2 * len({item.group_id for item in items})
