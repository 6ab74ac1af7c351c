"""What a picture shows, whatever its file: each rule against pixels that are known."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cogvsr_utils.dataset.images import ORIENTATION, image_size, items_digest, open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.loading import load_items

ITEM = Item("7", "mine", "g", "Is it red?", "yes", "yesno", [])
PIXELS = np.random.default_rng(0).integers(0, 255, (6, 10, 3), dtype=np.uint8)


def item_of(picture, form="PNG", **settings):
    file = io.BytesIO()
    picture.save(file, form, **settings)
    return replace(ITEM, image=file.getvalue())


@pytest.mark.parametrize("orientation, turn", [
    (1, lambda x: x), (2, lambda x: x[:, ::-1]), (3, lambda x: x[::-1, ::-1]), (4, lambda x: x[::-1]),
    (5, lambda x: x.swapaxes(0, 1)), (6, lambda x: np.rot90(x, -1)), (7, lambda x: np.rot90(x, 2).swapaxes(0, 1)),
    (8, lambda x: np.rot90(x)), (9, lambda x: x),
])  # fmt: skip
def test_exif_orientation_is_followed(orientation, turn):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    item = item_of(Image.fromarray(PIXELS), exif=exif)
    shown = np.asarray(open_image(item))
    assert (shown == turn(PIXELS)).all() and image_size(item) == shown.shape[1::-1]
    assert (np.asarray(open_image(replace(item, mirror=True))) == shown[:, ::-1]).all()


def test_transparent_parts_are_white():
    alpha = np.zeros((6, 10, 1), np.uint8)
    alpha[:, 5:] = 255
    shown = np.asarray(open_image(item_of(Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)))))
    assert (shown[:, :5] == 255).all() and (shown[:, 5:] == PIXELS[:, 5:]).all()
    palette = Image.fromarray(PIXELS[..., 0] // 200).convert("P")  # colours 0 and 1, the first of them transparent
    shown = np.asarray(open_image(item_of(palette, transparency=0)))
    assert (shown[PIXELS[..., 0] < 200] == 255).all()


def test_sixteen_bits_are_scaled():
    deep = (np.arange(60, dtype=np.uint16) * 1111).reshape(6, 10)
    shown = np.asarray(open_image(item_of(Image.fromarray(deep))))
    np.testing.assert_allclose(shown[..., 0], deep / 257, atol=0.5)
    assert (shown[..., 0] == shown[..., 2]).all()
    clear = np.asarray(open_image(item_of(Image.fromarray(deep), transparency=1111)))
    assert (clear[0, 1] == 255).all() and (clear[0, 2:] == shown[0, 2:]).all()
    for kind in (np.float32, np.int32):
        with pytest.raises(ValueError, match=r"item '7': .*32 bits a colour; expected 8 or 16"):
            open_image(item_of(Image.fromarray(deep.astype(kind)), "TIFF"))


def test_an_animation_is_its_first_frame():
    frames = [Image.fromarray(np.full((6, 10, 3), shade, np.uint8)) for shade in (10, 200)]
    item = item_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (np.asarray(open_image(item)) == 10).all()


@pytest.mark.parametrize("size", [(1, 1), (200, 1), (1, 200)])
def test_small_and_long_pictures_are_answered(vlm, size):
    from cogvsr_utils.models.answering import answer

    item = item_of(Image.new("RGB", size, "red"))
    assert open_image(item).size == size and len(answer(vlm, [item]))


@pytest.mark.parametrize("content, told", [
    (b"", "cannot identify"), (b"not a picture", "cannot identify"), (b"GIF89a", "item '7'"),
    (b"BM" + bytes(60), "item '7'"),
    (item_of(Image.fromarray(PIXELS)).image[:60], "item '7': cannot read"),
    (item_of(Image.new("RGB", (201, 1))).image, "expected at most 200 times as long"),
    (item_of(Image.new("RGB", (1, 999))).image, "expected at most 200 times as long"),
    (item_of(Image.new("1", (30_000, 30_000))).image, "could be decompression bomb"),
])  # fmt: skip
def test_what_cannot_be_shown_names_its_item(content, told):
    with pytest.raises(ValueError, match=told) as caught:
        open_image(replace(ITEM, image=content))
    assert "item '7': cannot read the picture" in str(caught.value)


def test_pictures_open_mirror_and_complain(small_set):
    item = load_items(small_set)[0]
    plain, flipped = (np.asarray(open_image(i)) for i in (item, replace(item, mirror=True)))
    assert (plain[:, ::-1] == flipped).all()
    with pytest.raises(ValueError, match="cannot read the picture"):
        open_image(replace(item, image=b"not a picture"))
    with pytest.raises(ValueError, match="download the picture"):
        open_image(replace(item, image="https://example.org/x.png"))


def test_the_digest_follows_what_is_asked_and_shown(small_set):
    items = load_items(small_set)[:3]
    digests = {items_digest(items), items_digest(items[:2]), items_digest([replace(items[0], answer="x"), *items[1:]]),
               items_digest([replace(items[0], image=items[2].image), *items[1:]]),
               items_digest([replace(items[0], mirror=True), *items[1:]])}  # fmt: skip
    assert len(digests) == 5
    assert items_digest([replace(items[0], meta={"note": 1}), *items[1:]]) == items_digest(items)
