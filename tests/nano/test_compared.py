"""Training chats of comparisons, against their scenes."""

import re

import numpy as np
import pytest

from cogvsr_utils.dataset.synth.comparisons import ALIKE, DIFFERS, FUNCTIONS, by_color
from cogvsr_utils.dataset.synth.scenes import COLORS
from cogvsr_utils.nano.chats import Chat, draw_chats, sample_comparisons
from cogvsr_utils.nano.compared import draw_compared
from cogvsr_utils.nano.mixtures import CHAINS, Mixture


@pytest.fixture(scope="module")
def compared():
    return draw_compared(24)


def test_the_same_scenes_are_drawn_again(compared):
    images, views = draw_compared(4)
    assert (images == compared[0][:4]).all()
    assert [view.scene for view in views] == [view.scene for view in compared[1][:4]]


def test_chats_ask_in_the_words_of_one_split_about_things_of_the_scene(compared):
    starts = [{wording.split("{")[0] for wording in (*DIFFERS[split], *ALIKE[split])} for split in range(3)]
    functions = set()
    for number, view in enumerate(compared[1]):
        (chat,) = sample_comparisons(view, np.random.default_rng(number), named=False)
        asked = [chat.main, *(step.question for step in chat.steps)]
        assert any(all(any(q.startswith(s) for s in some) for q in asked) for some in starts)
        for step in chat.steps:
            assert step.answer in step.options and {*by_color(view.scene)} >= {*step.options} - {"yes", "no"}
            functions.add(step.function)
    assert functions == set(FUNCTIONS)


def test_where_the_respect_is_named_the_answer_is_the_one_candidate_that_it_singles_out(compared):
    n = 0
    for number, view in enumerate(compared[1]):
        things = by_color(view.scene)
        for chat in sample_comparisons(view, np.random.default_rng(number), named=True):
            for question, answer in [(chat.main, chat.answer), *((s.question, s.answer) for s in chat.steps)]:
                respect = re.search(r" in (size|material|shape|column|row|nearness)\b", question)[1]
                if respect == "nearness":
                    continue
                named = [word for word in re.findall(r"\w+", question) if word in COLORS]
                value = {color: getattr(things[color], respect) for color in named}
                if " like " in question:
                    assert answer in named[1:]
                    assert [c for c in named[1:] if value[c] == value[named[0]]] == [answer]
                else:
                    assert [c for c in named if list(value.values()).count(value[c]) == 1] == [answer]
                n += 1
    assert n > 40


def test_chats_of_comparisons_come_after_all_other_scenes_and_only_where_they_are_wanted(compared):
    cued, rng, views = [Chat("Is it red?", [], "yes")] * 3, np.random.default_rng, compared[1]
    mix = Mixture(recall=0.0, drills=1.0, tasks=0.0, crossed=0.0, numbered=0.0, compared=0.5)
    drawn = draw_chats(["picture"] * len(views), views, rng(0), 60, mix, cued, views)
    kinds = [kind for *_, kind in drawn]
    assert 15 < 60 - kinds.count("drill") < 45 and set(kinds) == {"compared", "respects", "drill"}
    for chat, scene, kind in drawn:
        assert (scene >= len(views) + len(cued)) == (kind != "drill")
        if kind == "compared":
            colors = {*by_color(views[scene - len(views) - len(cued)].scene)}
            assert {word for word in re.findall(r"\w+", chat.main) if word in COLORS} <= colors
    *_, kinds = zip(*draw_chats(["picture"] * len(views), views, rng(1), 60, CHAINS, cued, views), strict=True)
    assert not {"compared", "respects"} & set(kinds)
