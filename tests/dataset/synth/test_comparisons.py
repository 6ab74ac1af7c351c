"""Comparisons: what settles them recomputed from the stored places, and what the text may tell of the function."""

import re
from collections import defaultdict
from itertools import combinations

import pytest

from cogvsr_utils.dataset.jsonl import read_items
from cogvsr_utils.dataset.synth.comparisons import ALIKE, DIFFERS, FUNCTIONS, build_comparisons
from cogvsr_utils.dataset.synth.scenes import COLORS

BY_ATTRIBUTE = {"size": "Low-Level Visual Perception", "material": "Low-Level Visual Perception",
                "shape": "High-Level Visual Perception", "column": "Spatial Perception",
                "row": "Spatial Perception"}  # fmt: skip


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return read_items(build_comparisons(tmp_path_factory.mktemp("comparisons"), n_pairs=24))


def reread(item, question, options):
    """Function and answer of a question, from its words and the stored places."""
    named = [word for word in re.findall(r"\w+", question) if word in COLORS]
    three = list(dict.fromkeys(named))
    assert len(three) == 3
    things = {t["color"]: t for t in item.meta["things"]}
    alike = any(_matches(wording, question) for split in ALIKE for wording in split)
    assert alike or any(_matches(wording, question) for split in DIFFERS for wording in split)
    if alike:
        (first,) = (re.fullmatch(_pattern(w), question)["a"] for split in ALIKE for w in split if _matches(w, question))
        pairs = {color: (first, color) for color in three if color != first}
    else:
        pairs = {color: tuple(other for other in three if other != color) for color in three}
    settling = []
    for respect in (*BY_ATTRIBUTE, "neighbours"):
        share = [
            color
            for color, (one, other) in pairs.items()
            if (
                max(abs(things[one][line] - things[other][line]) for line in ("column", "row")) < 2
                if respect == "neighbours"
                else things[one][respect] == things[other][respect]
            )
        ]
        if len(share) == 1:
            settling.append((BY_ATTRIBUTE.get(respect, "Relational Reasoning"), share[0]))
    ((function, color),) = settling
    if options != ["yes", "no"]:
        assert sorted(options) == sorted(pairs)
        return function, color
    asked = [re.fullmatch(_pattern(w), question) for split in (*ALIKE, *DIFFERS) for w in split]
    (named,) = (found["named"] for found in asked if found)
    return function, "yes" if named == color else "no"


def _pattern(wording):
    """The wording as a regular expression of its colours; those named twice are the same."""
    pattern, seen = re.escape(wording).replace(r"\{", "{").replace(r"\}", "}"), set()
    for name in re.findall(r"\{(\w+)\}", pattern):
        pattern = pattern.replace(f"{{{name}}}", f"(?P={name})" if name in seen else rf"(?P<{name}>\w+)", 1)
        seen.add(name)
    return pattern


def _matches(wording, question):
    return re.fullmatch(_pattern(wording), question) is not None


def test_every_question_is_settled_by_one_respect_and_its_function_and_answer_follow(items):
    for item in items:
        for step in item.steps:
            assert reread(item, step.question, step.options) == (step.function, step.answer)
        assert reread(item, item.question, item.options)[1] == item.answer


def test_both_scenes_of_a_pair_have_the_same_words_and_no_function_in_common(items):
    pairs = defaultdict(list)
    for item in items:
        pairs[item.group_id].append(item)
    for one, other in pairs.values():
        assert one.split == other.split and one.image != other.image
        assert one.question == other.question
        for a, b in zip(one.steps, other.steps, strict=True):
            assert (a.question, a.options) == (b.question, b.options) and a.function != b.function


def test_splits_share_no_wording():
    for form in (DIFFERS, ALIKE):
        for one, other in combinations(form, 2):
            assert not set(one) & set(other)
    assert not {w for split in DIFFERS for w in split} & {w for split in ALIKE for w in split}


def test_every_function_is_asked_for_in_both_forms_and_so_is_every_answer(items):
    asked = [(form, step) for item in items for form, step in zip(item.meta["forms"], item.steps, strict=False)]
    assert {(form, step.function) for form, step in asked} == {(f, n) for f in ("differs", "alike") for n in FUNCTIONS}
    assert {step.answer for _, step in asked} == {*COLORS, "yes", "no"}


def test_the_set_is_kept_and_the_same_again(tmp_path):
    one, two = (build_comparisons(tmp_path / name, n_pairs=3) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    pictures = [sorted(path.parent.glob("images/*.png")) for path in (one, two)]
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]]
    before = one.stat().st_mtime_ns
    assert build_comparisons(one.parent, n_pairs=3).stat().st_mtime_ns == before
