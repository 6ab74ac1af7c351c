"""Other cameras: the same answers, other pictures."""

from dataclasses import replace

import numpy as np
import pytest

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.dataset.synth.cameras import BY_CAMERA, SHIFTS, from_aside
from cogvsr_utils.dataset.synth.kinds import KINDS
from cogvsr_utils.dataset.synth.scenes import COLORS, sample_scene
from cogvsr_utils.dataset.synth.views import SceneView


@pytest.fixture(scope="module")
def seen():
    return from_aside(load_items("synth", limit=60), size=64)


def test_only_the_pictures_differ(seen):
    assert tuple(seen) == SHIFTS and len(seen[0.0]) > 10
    assert all(len({item.image for item in each}) == len(SHIFTS) for each in zip(*seen.values(), strict=True))
    for items in seen.values():
        for item, middle in zip(items, seen[0.0], strict=True):
            boxless = [{k: v for k, v in thing.items() if k != "box"} for thing in item.meta["things"]]
            assert boxless == [{k: v for k, v in thing.items() if k != "box"} for thing in middle.meta["things"]]
            assert replace(item, image=None, meta={}) == replace(middle, image=None, meta={})


def test_what_questions_ask_for_does_not_turn_with_the_camera_but_for_two_kinds():
    """Over scenes all of whose things every camera sees: the questions that a scene answers, and their answers."""
    turns = set()
    for seed in range(60):
        scene = sample_scene(np.random.default_rng(seed))
        views = [SceneView.of(replace(scene, shift=shift)) for shift in (0.0, SHIFTS[-1], -SHIFTS[-1])]
        if not all(view.all_visible for view in views):
            continue
        for name, kind in KINDS.items():
            asked = [kind.candidates(view) for view in views]
            if kind.view == "picture" and not asked[0] == asked[1] == asked[2]:
                turns.add(name)
    assert turns == set(BY_CAMERA)


def test_boxes_are_around_things_of_their_colour(seen):
    """The middle of a rubber thing's box has the hue of its name: its strongest channels are those of its colour."""
    checked = 0
    for item in seen[SHIFTS[-1]]:
        pixels = np.asarray(open_image(item), float)
        for thing in item.meta["things"]:
            left, top, right, bottom = (edge * 64 for edge in thing["box"])
            colour = pixels[int((top + bottom) / 2), int((left + right) / 2)]
            expected = np.array(COLORS[thing["color"]])
            if thing["material"] == "rubber" and np.ptp(expected) > 0.6:
                checked += 1
                assert colour.argmax() == expected.argmax() or np.corrcoef(colour, expected)[0, 1] > 0.9, item.uid
    assert checked > 20


def test_maps_and_crossed_wording_have_no_camera_to_move(seen):
    assert {item.meta["view"] for item in seen[0.0]} == {"picture"}
    assert not {item.subset for item in seen[0.0]} & {*BY_CAMERA, "crossed"}
