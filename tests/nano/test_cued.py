"""Training chats with cues, against what their scenes and their written places say."""

import re

import numpy as np
import pytest

from cogvsr_utils.dataset.cues import COLOR, GREY
from cogvsr_utils.dataset.synth.rendering import render
from cogvsr_utils.dataset.synth.scenes import COLORS, VIEWS
from cogvsr_utils.nano.chats import draw_chats
from cogvsr_utils.nano.cued import draw_cued
from cogvsr_utils.nano.data import TARGETS
from cogvsr_utils.nano.mixtures import Mixture

PLACES = re.compile(r"Places in percent, left, top, right, bottom: (.*?)\. ")


@pytest.fixture(scope="module")
def cued():
    return draw_cued(120)


def is_grey(image):
    return (image == GREY).all()


def test_the_same_chats_are_drawn_again(cued):
    again = draw_cued(20)
    assert list(again.chats) == list(cued.chats[:20]) and (again.images == cued.images[:20]).all()


def test_beside_a_grey_picture_the_written_places_give_the_answer(cued):
    n = 0
    for chat, image in zip(cued.chats, cued.images, strict=True):
        if not is_grey(image):
            continue
        assert not chat.steps
        written = [place.split(" ", 2) for place in PLACES.search(chat.main)[1].split("; ")]
        middle = {color: np.mean([int(n) for n in edges.split(", ")[::2]]) for color, _, edges in written}
        question = PLACES.sub("", chat.main)
        named = [word for word in re.findall(r"\w+", question) if word in COLORS]
        if side := re.search(r"\b(left|right)\b", question):
            first_is_left = middle[named[0]] < middle[named[1]]
            assert chat.answer == ("yes" if first_is_left == (side[1] == "left") else "no")
            n += 1
    assert n > 3


def test_what_patches_show_is_marked_where_the_question_is_about_it_and_nothing_where_all_is_grey(cued):
    n = 0
    for chat, image, targets in zip(cued.chats, cued.images, cued.targets, strict=True):
        color, marked = (targets[:, list(TARGETS).index(name)] for name in ("color", "marked"))
        assert ((marked >= 0) == (color > 0)).all()
        assert not (is_grey(image) and color.any())
        if "marked" in chat.main:
            asked = {step.question: step.answer for step in chat.steps}
            assert set(color[marked == 1]) == {list(COLORS).index(asked["What color is the marked object?"]) + 1}
            n += 1
    assert n > 20


def test_the_marked_object_is_the_one_in_the_outline(cued):
    hits = []
    for chat, image, view in zip(cued.chats, cued.images, cued.views, strict=True):
        pink = (np.abs(image.astype(int) - COLOR) < 60).all(2)
        if "marked" not in chat.main or not pink.any():
            continue
        rows, columns = pink.nonzero()
        asked = {step.question: step.answer for step in chat.steps}
        at = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
        owners = [render(view.scene, 64, shown)[1][at] for shown in VIEWS]
        found = [view.scene.things[owner].color for owner in owners if owner >= 0]
        hits.append(asked["What color is the marked object?"] in found)
    # Not always: a cone does not fill the middle of its outline, and purple is near the marks' colour.
    assert len(hits) > 8 and np.mean(hits) > 0.8


def test_marks_in_pictures_and_words_in_questions_are_both_shown_and_some_chains_have_their_steps(cued):
    written = [bool(PLACES.search(chat.main)) for chat in cued.chats]
    assert 0.2 < np.mean(written) < 0.6
    assert 0.4 < np.mean([bool(chat.steps) for chat in cued.chats]) < 0.95


def test_a_mixture_gives_cued_chats_with_their_own_scenes_which_come_after_all_others(cued):
    mix = Mixture(recall=0.0, drills=0.0, tasks=0.0, crossed=0.0, numbered=0.0, benchmarks=0.0, cued=0.5)
    names, views = ["picture"] * 30, list(cued.views[:30])
    drawn = draw_chats(names, views, np.random.default_rng(0), 60, mix, cued.chats)
    numbers = [number for _, number, kind in drawn if kind == "cued"]
    assert 15 < len(numbers) < 45 and min(numbers) >= len(views)
    assert all(chat is cued.chats[number - 30] for chat, number, kind in drawn if kind == "cued")
    assert all(number < 30 for _, number, kind in drawn if kind == "plain")
    assert not any(kind == "cued" for *_, kind in draw_chats(names, views, np.random.default_rng(0), 60, mix))
