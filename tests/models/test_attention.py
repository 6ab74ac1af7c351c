"""Attention maps against the weights that models hand over themselves, family by family."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from families import FAMILIES, build

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.functions import MAIN, SPATIAL
from cogvsr_utils.models import attention
from cogvsr_utils.models.attention import (
    AttentionMap,
    NoGrid,
    attention_example,
    attention_map,
    attention_visited,
    picture_grid,
    sink_tokens,
)
from cogvsr_utils.models.blocks import decoder_blocks
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.vlm import attention_switched


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_are_those_that_the_model_hands_over(name, asked):
    vlm = build(name)
    chats = [vlm.render(conversation(item, [], 0), prompt=True) for item in asked[:2]]
    inputs, visited = vlm.encode(chats, [open_image(item) for item in asked[:2]]), []
    with torch.inference_mode():
        with attention_visited(vlm, lambda module, weights: visited.append((module, weights))):
            vlm.forward(inputs)
        with attention_switched(vlm, "eager"):
            given = vlm.model.base_model(**inputs, use_cache=False, output_attentions=True).attentions
    assert [module for module, _ in visited] == list(vlm.heads.projections)
    given = [each for each in given or () if each is not None]
    if len(given) == len(visited):  # some families hand over those of other layers too, or none
        for (_, own), theirs in zip(visited, given, strict=True):
            torch.testing.assert_close(own, theirs)
    for module, own in visited:
        if (vlm.heads.table.set_index("module").loc[module, "kind"] != "cross").all():
            torch.testing.assert_close(own.sum(-1), torch.ones_like(own.sum(-1)))


@pytest.mark.parametrize("step", [0, 1, MAIN])
def test_a_map_is_the_last_tokens_row_at_the_pictures_tokens(vlm, items, step):
    item = next(item for item in items if len(item.steps) > 1)
    heads = [(1, 3), (4, 0)]
    found = attention_map(vlm, item, step, heads)
    before = [s.answer for s in item.steps[: len(item.steps) if step == MAIN else step]]
    inputs = vlm.encode([vlm.render(conversation(item, before, step), prompt=True)], [open_image(item)])
    with torch.inference_mode(), attention_switched(vlm, "eager"):
        maps = vlm.model.base_model(**inputs, use_cache=False, output_attentions=True).attentions
    picture = inputs["input_ids"][0] == vlm.image_token_id
    for (layer, head), own in zip(heads, found.weights, strict=True):
        np.testing.assert_allclose(own.ravel(), maps[layer][0, head, -1, picture].cpu(), rtol=1e-4, atol=1e-6)
    assert found.weights.shape == (2, 4, 4) and not found.sinks.any()  # 192 numbers cannot be 20 times their own size


def test_replies_that_are_given_are_those_that_were_read(vlm, items):
    item = next(item for item in items if len(item.steps) > 1)
    right, other = (attention_map(vlm, item, 1, [(5, 2)], replies) for replies in (None, ["purple"]))
    assert np.abs(right.weights - other.weights).max() > 1e-5
    with pytest.raises(ValueError, match="2 replies before step 1; expected 1"):
        attention_map(vlm, item, 1, [(5, 2)], ["red", "blue"])


def test_sinks_are_tokens_of_huge_numbers_and_lose_their_share():
    state = torch.randn(6, 4096, generator=torch.Generator().manual_seed(0))
    state[2, 100] = 50.0
    assert sink_tokens(state).tolist() == [False, False, True, False, False, False]
    weights = np.array([[[0.1, 0.3, 0.1]]])
    found = AttentionMap([(0, 0)], weights, np.array([[[False, True, False]]]))
    np.testing.assert_allclose(found.without_sinks, [[[0.25, 0.0, 0.25]]])
    none = AttentionMap([(0, 0)], weights, np.zeros((1, 1, 3), dtype=bool))
    assert (none.without_sinks == weights).all()  # to the bit
    all_sinks = AttentionMap([(0, 0)], weights, np.ones((1, 1, 3), dtype=bool))
    assert (all_sinks.without_sinks == 0).all()


def test_what_cannot_be_mapped_is_refused(vlm, items):
    from dataclasses import replace

    with pytest.raises(ValueError, match="has no picture"):
        attention_map(vlm, replace(items[0], image=None))
    with pytest.raises(KeyError, match="no such heads"):
        attention_map(vlm, items[0], heads=[(99, 0)])


def test_a_cropped_picture_is_no_grid_however_many_tokens_it_has(asked):
    wide = next(item for item in asked if open_image(item).size == (96, 64))
    with pytest.raises(NoGrid):
        attention_map(build("llava"), wide)
    assert attention._tiles(torch.zeros(5, 3, 8, 8)) == attention._tiles(torch.zeros(1, 5, 3, 8, 8)) == 5


def inputs_about(vlm, item):
    return vlm.encode([vlm.render(conversation(item, [], MAIN), prompt=True)], [open_image(item)])


@pytest.mark.parametrize(
    "name, size, grid",
    [
        ("llava_next", (96, 64), (6, 8)),
        ("llava_next", (64, 96), (8, 6)),
        ("llava_onevision", (96, 64), (6, 8)),
        ("mllama", (96, 64), (4, 6)),
        ("mllama", (64, 96), (6, 4)),
        ("mllama", (64, 64), (4, 4)),
        ("idefics3", (96, 64), (4, 6)),
        ("internvl", (96, 64), (2, 4)),
        ("internvl", (64, 96), (4, 2)),
        ("internvl", (64, 64), (2, 2)),
        ("qwen2_5_vl", (96, 64), (3, 4)),
    ],
)
def test_a_patch_is_where_the_picture_is_painted(name, size, grid, asked, tmp_path):
    """Of what the decoder is given, most changes at the patch whose part of the picture is painted over."""
    vlm, given, off = build(name), [], []
    picture = open_image(asked[0]).convert("RGB").resize(size)
    if vlm.heads.cross:
        handle = vlm.model.base_model.multi_modal_projector.register_forward_hook(
            lambda _, args, output: given.append(output.flatten(0, -2)[None])
        )
    else:
        handle = decoder_blocks(vlm)[0].register_forward_pre_hook(
            lambda _, args, kwargs: given.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )

    def seen(image):
        image.save(tmp_path / "painted.png")
        item = replace(asked[0], image=str(tmp_path / "painted.png"))
        inputs = inputs_about(vlm, item)
        with torch.inference_mode():
            vlm.forward(inputs)
        return picture_grid(vlm, item, inputs), given.pop()[0]

    try:
        found, before = seen(picture)
        assert tuple(found.patches.shape) == grid
        for row, column in np.ndindex(grid):
            painted = picture.copy()
            corners = [round(n * side / cells) for n, side, cells in
                       zip((column, row, column + 1, row + 1), size * 2, grid[::-1] * 2, strict=True)]  # fmt: skip
            change = 0
            for color in product((0, 255), repeat=3):
                painted.paste(color, corners)
                change = change + (seen(painted)[1] - before).norm(dim=-1)
            there = divmod(int(found.over(change).argmax()), grid[1])
            off.append(max(abs(there[0] - row), abs(there[1] - column)))
    finally:
        handle.remove()
    assert max(off) <= 1 and np.mean(off) < 0.05, "weights are random, and mix what is near"


@pytest.mark.parametrize("name", ["internvl", "idefics3", "llava_next"])
def test_attention_to_tiles_adds_up_to_that_to_the_picture(name, asked):
    vlm, wide = build(name), next(item for item in asked if open_image(item).size == (96, 64))
    found = attention_map(vlm, wide, 0, vlm.heads.pairs)
    inputs = vlm.encode([vlm.render(conversation(wide, [], 0), prompt=True)], [open_image(wide)])
    with torch.inference_mode(), attention_switched(vlm, "eager"):
        maps = vlm.model.base_model(**inputs, use_cache=False, output_attentions=True).attentions
    picture = inputs["input_ids"][0] == vlm.image_token_id
    for (layer, head), weights in zip(found.heads, found.weights, strict=True):
        expected = maps[layer][0, head, -1, picture].clone()
        if name == "llava_next":  # the ends of its six lines of eight patches
            expected[16 + 8 :: 9] = 0
        assert weights.sum() == pytest.approx(expected.sum().item(), rel=1e-4)
    grid = picture_grid(vlm, wide, inputs)
    values, tokens = torch.rand(grid.patches.shape), torch.zeros(len(picture))
    tokens[picture] = grid.tokens(values, picture.nonzero().flatten())
    torch.testing.assert_close(tokens[grid.patches], values)
    assert tokens[grid.whole].mean() == pytest.approx(values.mean().item(), rel=1e-4)
    assert (tokens[picture] == 0).sum() == 6 * (name == "llava_next")
    if name == "internvl":
        tokens[picture] = grid.tokens(torch.arange(8.0).reshape(2, 4), picture.nonzero().flatten())
        assert tokens[grid.whole].tolist() == [[0.5, 2.5], [4.5, 6.5]]


def test_in_a_model_with_cross_attention_its_heads_are_mapped_and_no_others(asked):
    vlm = load_vlm("nano-mllama", dtype=torch.float32)
    cross = vlm.heads.table["kind"] == "cross"
    item = load_items("synth", split="A", limit=1)[0]
    found = attention_map(vlm, item)
    assert len(found.heads) == cross.sum() and found.weights.shape[1:] == (8, 8)
    inputs = vlm.encode(
        [vlm.render(conversation(item, [s.answer for s in item.steps], MAIN), prompt=True)], [open_image(item)]
    )
    with torch.inference_mode(), attention_switched(vlm, "eager"):
        maps = vlm.model.base_model(**inputs, use_cache=False, output_attentions=True).attentions
    layer, head = found.heads[3]
    keys = maps[layer][0, head, -1]
    np.testing.assert_allclose(found.weights[3].sum() + keys[0].item() + keys[65:].sum().item(), 1, rtol=1e-4)
    self_head = tuple(vlm.heads.table.loc[~cross, ["layer", "head"]].iloc[0])
    with pytest.raises(NoGrid, match="attend to text alone"):
        attention_map(vlm, item, heads=[self_head])


def test_a_grid_of_patches_follows_the_pictures_shape(asked):
    vlm = build("qwen2_5_vl")
    wide, square = (next(i for i in asked if open_image(i).size == size) for size in ((96, 64), (64, 64)))
    grids = [attention_map(vlm, item).weights.shape[1:] for item in (wide, square)]
    for item, grid in zip((wide, square), grids, strict=True):
        patches = vlm.encode([vlm.render(conversation(item, [], MAIN), prompt=True)], [open_image(item)])
        assert [2 * side for side in grid] == patches["image_grid_thw"][0, 1:].tolist()  # two by two patches a token
    assert grids[0][1] > grids[0][0] and grids[1][0] == grids[1][1]


def test_the_example_shows_the_heads_that_attend_to_the_picture_most(vlm, small_set):
    items, some = load_items(small_set), vlm.heads.pairs[100:119]
    item, step, found = attention_example(vlm, items, SPATIAL[0], some)
    assert item.steps[step].function == SPATIAL[0] and found.weights.shape == (4, 4, 4)
    every = attention_map(vlm, item, step, some).weights.sum((1, 2))
    assert [tuple(head) for head in found.heads] == [some[i] for i in np.argsort(-every)[:4]]
    assert attention_example(vlm, [replace(item, image=None) for item in items], SPATIAL[0], some) is None
