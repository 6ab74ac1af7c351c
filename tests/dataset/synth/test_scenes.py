import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvsr_utils.dataset.synth.rendering import render, visibility
from cogvsr_utils.dataset.synth.scenes import BOARD, SIZES, Scene, Thing, sample_scene

LIGHT = (0.0, -0.5, 0.87)


def scene_of(*things):
    return Scene(things, distance=10.0, elevation=0.7, shift=0.0, light=LIGHT)


def thing(shape="sphere", x=0.0, y=0.0, size="large", turn=0.0, color="red", material="rubber"):
    return Thing(color, shape, size, material, x, y, turn)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_things_differ_in_colour_stand_on_the_board_and_do_not_touch(seed):
    things = sample_scene(np.random.default_rng(seed)).things
    assert len({t.color for t in things}) == len(things)
    for i, a in enumerate(things):
        assert 1 <= a.column <= BOARD and 1 <= a.row <= BOARD
        for b in things[:i]:
            assert np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius


def test_same_seed_same_bytes():
    one, two = (render(sample_scene(np.random.default_rng(3)), 48)[0] for _ in range(2))
    assert one.tobytes() == two.tobytes()


def test_area_of_a_sphere_from_above_is_that_of_its_disc():
    size = 400
    _, owner = render(scene_of(thing()), size, "map")
    pixel = (BOARD + 0.7) / size
    assert (owner == 0).sum() * pixel**2 == pytest.approx(np.pi * SIZES["large"] ** 2, rel=0.01)


def test_area_of_a_cube_from_above_is_that_of_its_lid_however_it_is_turned():
    size = 400
    for turn in (0.0, 0.4, 1.1):
        _, owner = render(scene_of(thing("cube", turn=turn)), size, "map")
        side = 1.6 * SIZES["large"]
        assert (owner == 0).sum() * ((BOARD + 0.7) / size) ** 2 == pytest.approx(side**2, rel=0.02)


@pytest.mark.parametrize("shape", ["cube", "sphere", "cylinder", "cone"])
def test_map_shows_a_thing_where_it_stands(shape):
    _, owner = render(scene_of(thing(shape, x=1.3, y=-0.9)), 200, "map")
    rows, columns = np.nonzero(owner == 0)
    half = BOARD / 2 + 0.35
    x = ((columns.min() + columns.max() + 1) / 2) / 200 * 2 * half - half
    y = half - ((rows.min() + rows.max() + 1) / 2) / 200 * 2 * half
    assert (x, y) == pytest.approx((1.3, -0.9), abs=0.25 if shape == "cone" else 0.03)


def test_a_cone_points_where_its_heading_says():
    for turn, axis, sign in ((0.0, 1, 1), (np.pi, 1, -1), (np.pi / 2, 0, -1), (-np.pi / 2, 0, 1)):
        _, owner = render(scene_of(thing("cone", turn=turn)), 200, "map")
        places = np.argwhere(owner == 0)[:, axis]
        middle = (places.min() + places.max()) / 2
        assert np.sign(np.median(places) - middle) == -sign  # the broad base lies opposite to the tip


def test_hiding_agrees_with_taking_the_front_thing_away():
    front, back = thing("cube", y=-0.9), thing("cylinder", y=0.5, size="small", color="blue")
    visible, hides = visibility(scene_of(front, back), 128)
    alone = (render(scene_of(back), 128)[1] == 0).sum()
    together = (render(scene_of(front, back), 128)[1] == 1).sum()
    assert visible[1] == pytest.approx(together / alone)
    assert hides[0, 1] == pytest.approx(1 - together / alone)
    assert hides[1, 0] == 0 and visible[0] == 1


def test_a_thing_throws_a_shadow_away_from_the_light():
    lit = render(scene_of(thing()), 100, "map")[0].astype(int)
    bare = render(scene_of(thing(x=50.0)), 100, "map")[0].astype(int)
    owner = render(scene_of(thing()), 100, "map")[1]
    darker = (bare - lit).sum(2) * (owner == -1) > 30
    assert darker[:50].sum() > 50 and darker[75:].sum() == 0  # the light is on the near side, so the shadow is far


def test_unknown_view_is_refused():
    with pytest.raises(ValueError, match="view is 'side'"):
        render(sample_scene(np.random.default_rng(0)), 16, "side")
