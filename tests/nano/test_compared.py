"""Training chats of comparisons, against their scenes."""

import re

import numpy as np
import pytest

from cogvsr_utils.dataset.synth.comparisons import ALIKE, DIFFERS, FUNCTIONS
from cogvsr_utils.dataset.synth.scenes import COLORS
from cogvsr_utils.nano.chats import Chat, draw_chats
from cogvsr_utils.nano.compared import draw_compared
from cogvsr_utils.nano.data import TARGETS
from cogvsr_utils.nano.mixtures import CHAINS, Mixture


@pytest.fixture(scope="module")
def compared():
    return draw_compared(24)


def test_the_same_chats_are_drawn_again(compared):
    again = draw_compared(4)
    assert list(again.chats) == list(compared.chats[:4]) and (again.images == compared.images[:4]).all()


def test_chats_ask_in_the_words_of_one_split_for_things_that_are_seen(compared):
    starts = [{wording.split("{")[0] for wording in (*DIFFERS[split], *ALIKE[split])} for split in range(3)]
    functions = set()
    for chat, targets in zip(compared.chats, compared.targets, strict=True):
        asked = [chat.main, *(step.question for step in chat.steps)]
        if " in " in chat.main:
            assert all(re.search(r"\b(size|material|shape|column|row|nearness)\b", question) for question in asked)
            continue
        assert any(all(any(q.startswith(s) for s in some) for q in asked) for some in starts)
        seen = {list(COLORS)[number - 1] for number in targets[:, list(TARGETS).index("color")] if number > 0}
        assert len(seen) == 4
        for step in chat.steps:
            assert step.answer in step.options and seen >= set(step.options) - {"yes", "no"}
            functions.add(step.function)
    assert functions == set(FUNCTIONS)


def test_chats_of_comparisons_come_after_all_other_scenes_and_only_where_they_are_wanted(compared):
    cued, rng = [Chat("Is it red?", [], "yes")] * 3, np.random.default_rng
    mix = Mixture(recall=0.0, drills=1.0, tasks=0.0, crossed=0.0, numbered=0.0, compared=0.5)
    views = compared.views
    drawn = draw_chats(["picture"] * len(views), views, rng(0), 60, mix, cued, compared.chats)
    kinds = [kind for *_, kind in drawn]
    assert 15 < 60 - kinds.count("drill") < 45 and set(kinds) == {"compared", "respects", "drill"}
    for chat, scene, kind in drawn:
        if kind != "drill":
            assert chat == compared.chats[scene - len(views) - len(cued)]
        else:
            assert scene < len(views)
    *_, kinds = zip(*draw_chats(["picture"] * len(views), views, rng(1), 60, CHAINS, cued, compared.chats), strict=True)
    assert not {"compared", "respects"} & set(kinds)
