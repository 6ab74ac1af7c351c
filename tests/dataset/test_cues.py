"""Boxes in words and drawn, and their placebo; checked against the pictures' pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cogvsr_utils.dataset.cues import (
    COLOR,
    GREY,
    boxes_asked_about,
    drawn,
    in_words,
    misplaced,
    on_other_things,
    read_boxes,
    shuffled,
)
from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.loading import load_items

BOXES = {"0.png": [("cat", (0.1, 0.2, 0.5, 0.6)), ("dog", (0.6, 0.0, 1.0, 0.4))]}


@pytest.fixture
def item(tmp_path):
    Image.new("RGB", (200, 100), "white").save(tmp_path / "0.png")
    return Item("1", "mine", "group", "Is it red?", "yes", "yesno", [], image=str(tmp_path / "0.png"))


def test_the_boxes_of_synthetic_things_hold_their_pixels_and_no_less(small_set):
    item = next(item for item in load_items(small_set) if item.meta["view"] == "map")
    picture = np.asarray(open_image(item)).astype(int)
    size = len(picture)
    inside = np.zeros((size, size), bool)
    for thing in item.meta["things"]:
        left, top, right, bottom = (round(edge * size) for edge in thing["box"])
        inside[top:bottom, left:right] = True
        # A thing's place on the map, by the map's scale, lies in the middle of its box.
        middle = np.array([(left + right) / 2, (top + bottom) / 2]) / size
        place = np.array([thing["x"], -thing["y"]]) / (5 + 0.7) + 0.5
        np.testing.assert_allclose(middle, place, atol=0.05)
    saturated = picture.max(2) - picture.min(2) > 60  # the board and the table are grey
    assert saturated.any() and not saturated[~inside].any()


def test_drawn_boxes_change_their_edges_alone(item):
    marked = np.asarray(open_image(drawn([item], BOXES)[0]))
    changed = (marked != 255).any(2)
    assert (marked[changed] == COLOR).all()
    for left, top, right, bottom in ((20, 20, 100, 60), (120, 0, 200, 40)):
        assert changed[top:bottom, left].all() and changed[top:bottom, right - 1].all()
        assert changed[top, left:right].all() and changed[bottom - 1, left:right].all()
        changed[top:bottom, left:right] = False
    assert not changed.any()


def test_a_mirrored_picture_has_mirrored_boxes(item):
    mirrored = Item(**vars(item) | {"mirror": True})
    assert "cat 50, 20, 90, 60; dog 0, 0, 40, 40" in in_words([mirrored], BOXES)[0].question
    marked = drawn([mirrored], BOXES)[0]
    assert not marked.mirror
    columns = (np.asarray(open_image(marked)) != 255).any(2)[40:58].any(0).nonzero()[0]
    assert columns.min() == 100 and columns.max() == 179


def test_a_table_s_mirrored_picture_has_mirrored_boxes_and_no_picture_none(item):
    content = Path(item.image).read_bytes()
    turned = Item(**vars(item) | {"image": content, "meta": {"flip": True}})
    assert "cat 50, 20, 90, 60" in in_words([turned], {"group": BOXES["0.png"]})[0].question
    without = Item(**vars(item) | {"image": None})
    assert in_words([without], {"group": BOXES["0.png"]}) == drawn([without], {"group": BOXES["0.png"]}) == []
    assert drawn([item], {"0.png": [("dot", (0.5, 0.5, 0.5001, 0.5001))]}), "a box of less than a pixel"


def test_items_without_boxes_are_left_out_and_pictures_without_a_name_go_by_their_group(item):
    assert in_words([item], {}) == drawn([item], {"1.png": []}) == []
    nameless = Item(**vars(item) | {"image": Path(item.image).read_bytes()})
    assert len(drawn([nameless], {"group": BOXES["0.png"]})) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 0.5)] * 4), min_size=1, max_size=4))
def test_misplaced_boxes_keep_names_and_sizes_stay_inside_and_shun_small_things(corners):
    things = [(str(i), (a, b, a + 0.05 + c / 1.2, b + 0.05 + d / 1.2)) for i, (a, b, c, d) in enumerate(corners)]
    moved = misplaced({"x": things})["x"]
    for (name, box), (other, place) in zip(things, moved, strict=True):
        assert name == other and min(place) >= 0 and max(place) <= 1 + 1e-9
        size, kept = np.subtract(box[2:], box[:2]), np.subtract(place[2:], place[:2])
        np.testing.assert_allclose(kept, size, atol=1e-9)
        if len(things) == 1 and (size < 0.25).all():
            assert (np.abs(np.subtract(place[:2], box[:2])) >= size).any(), "no overlap with the thing"
    assert misplaced({"x": things})["x"] == moved, "the same every time"


@pytest.mark.parametrize(
    "content", [[1], {"0.png": [{"name": "cat"}]}, {"0.png": [{"name": "cat", "box": [0, 0, 2, 1]}]},
                {"0.png": [{"name": "cat", "box": [0.5, 0, 0.2, 1]}]}, {"0.png": [{"name": "cat", "box": [0, 1]}]}]
)  # fmt: skip
def test_a_file_of_something_else_is_refused(content, tmp_path):
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"boxes\.json is damaged .*; expected names and boxes"):
        read_boxes(tmp_path / "boxes.json")


def test_marks_change_what_they_say_alone(item):
    boxes = {"0.png": [("cat", (0.1, 0.2, 0.5, 0.6))]}
    box = np.zeros((100, 200), bool)
    box[20:60, 20:100] = True
    masked = np.asarray(open_image(drawn([item], boxes, "mask")[0]))
    assert (masked[box] == 255).all() and (masked[~box] == GREY).all()
    dotted = (np.asarray(open_image(drawn([item], boxes, "point")[0])) != 255).any(2)
    rows, columns = dotted.nonzero()
    assert box[dotted].all() and (rows.mean(), columns.mean()) == pytest.approx((39.5, 59.5), abs=1)
    with pytest.raises(ValueError, match="mark is 'arrow'; expected one of"):
        drawn([item], boxes, "arrow")


def test_a_mark_has_the_color_and_stroke_that_it_is_given(item):
    boxes, outlined = {"0.png": [("cat", (0.1, 0.2, 0.5, 0.6))]}, {}
    for stroke in (0.01, 0.03):
        shown = np.asarray(open_image(drawn([item], boxes, color=(9, 8, 7), stroke=stroke)[0]))
        changed = (shown != 255).any(2)
        assert (shown[changed] == (9, 8, 7)).all()
        outlined[stroke] = int(changed.sum())
    inner = [(80 - 2 * width) * (40 - 2 * width) for width in (2, 6)]  # of 200 pixels, 0.01 and 0.03
    assert list(outlined.values()) == [80 * 40 - hollow for hollow in inner]
    for wrong in ({"color": (0, 0, 256)}, {"color": (0, 0)}, {"stroke": 0}, {"stroke": 1.5}):
        with pytest.raises(ValueError, match="expected three numbers of 0 to 255, and one in"):
            drawn([item], boxes, **wrong)


def test_things_asked_about_are_those_whose_colors_the_question_names(small_set):
    items = load_items(small_set)
    asked, others = boxes_asked_about(items)
    assert 0 < len(asked) < len(items) and set(others) <= set(asked)
    for item in items:
        words = item.question.lower().translate(str.maketrans(",.?:;()'", " " * 8)).split()
        named = {t["color"] for t in item.meta["things"] if t["color"] in words and t["box"]}
        found = {name.split()[0] for name, _ in asked.get(item.uid, ())}
        assert named == found
        seen = {t["color"] for t in item.meta["things"] if t["box"]}
        assert not found or found | {name.split()[0] for name, _ in others.get(item.uid, ())} == seen


def test_boxes_of_an_item_go_before_those_of_its_picture(item):
    both = BOXES | {"1": [("cow", (0.0, 0.0, 0.1, 0.1))]}
    assert "cow 0, 0, 10, 10." in in_words([item], both)[0].question


def test_shuffled_boxes_are_the_same_none_of_them_with_its_own_name():
    things = [(name, (n / 10, 0.0, n / 10 + 0.05, 0.5)) for n, name in enumerate("abc")]
    moved = shuffled({"1": things, "2": things[:1]})
    assert list(moved) == ["1"] and [name for name, _ in moved["1"]] == list("abc")
    assert {box for _, box in moved["1"]} == {box for _, box in things} and not set(moved["1"]) & set(things)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.05, 0.5)), min_size=4, max_size=4))
def test_boxes_on_other_things_keep_names_and_sizes_and_stay_inside(corners):
    things = [(str(i), (x, y, x + side, y + side)) for i, (x, y, side) in enumerate(corners)]
    asked, others = {"a": things[:2], "b": things[:3]}, {"a": things[2:], "b": things[3:]}
    moved = on_other_things(asked, others)
    assert set(moved) == {"a"}, "b has fewer other things than boxes"
    for (name, box), (new, at), (_, other) in zip(things[:2], moved["a"], things[2:], strict=True):
        assert new == name and min(at) >= 0 and max(at) <= 1 + 1e-6
        np.testing.assert_allclose(np.subtract(at[2:], at[:2]), np.subtract(box[2:], box[:2]), atol=2e-6)
        middle = np.add(other[2:], other[:2]) / 2
        size = np.subtract(box[2:], box[:2])
        np.testing.assert_allclose(np.add(at[2:], at[:2]) / 2, np.clip(middle, size / 2, 1 - size / 2), atol=2e-6)


def test_misplaced_boxes_shun_other_things_too():
    boxes = {"x": [("a", (0.0, 0.0, 0.2, 0.2))]}
    others = {"x": [("b", (0.0, 0.2, 1.0, 1.0))]}
    ((_, box),) = misplaced(boxes, others)["x"]
    assert box[1] < 0.2, "all below is another thing's"
