"""Pictures of items: opening and measuring them.

open_image(item)       the picture as an RGB PIL image
image_size(item)       its width and height, without decoding it
image_bytes(item)      its file's content
png(picture)           a PIL image as such content
grey_pictures(items)   the items with grey pictures of the same size
items_digest(items)    sixteen characters that change with the data, pictures included

A picture is shown as viewers show it: turned as its EXIF orientation says, transparent parts on white, 16 bits scaled
to 8, of an animation the first frame; one pixel is enough. Refused are pictures that cannot be decoded, and those more
than ``LONGEST`` times as long as wide, or as wide as long, which models cannot take.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cogvsr_utils.dataset.items import Item
from cogvsr_utils.files import digest

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 200  # Qwen2.5-VL's limit
ORIENTATION = 0x0112  # EXIF's tag; 5 to 8 are turned by a quarter


def open_image(item: Item) -> Image | None:
    """The item's picture as an RGB PIL image, flipped where ``mirror`` is set; None where it has none.

    Raises ValueError naming the item where the picture cannot be read.
    """
    from PIL import ImageOps

    if item.image is None:
        return None
    picture = _read(item, lambda picture: _in_eight_bits(ImageOps.exif_transpose(picture)))
    return ImageOps.mirror(picture) if item.mirror else picture


def image_size(item: Item) -> tuple[int, int]:
    """Width and height of the item's picture in pixels, (0, 0) without one; raises as ``open_image``."""

    def size(picture):
        turned = picture.getexif().get(ORIENTATION) in (5, 6, 7, 8)
        return picture.size[::-1] if turned else picture.size

    return (0, 0) if item.image is None else _read(item, size)


def image_bytes(item: Item) -> bytes:
    """The content of the picture's file, empty without one; raises ValueError where it cannot be read."""
    if isinstance(item.image, bytes | None):
        return item.image or b""
    _refuse_address(item)
    try:
        return Path(item.image).read_bytes()
    except OSError as error:
        raise ValueError(f"item {item.uid!r}: cannot read the picture {item.image!r:.200} ({error})") from None


def grey_pictures(items: Sequence[Item]) -> list[Item]:
    """The items with grey pictures of the same size, those without a picture as they are."""
    from PIL import Image

    def grey(item):
        return replace(item, image=png(Image.new("RGB", image_size(item), (128, 128, 128))), mirror=False)

    return [item if item.image is None else grey(item) for item in items]


def png(picture: Image) -> bytes:
    """What a file of the picture would hold."""
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def items_digest(items: list[Item]) -> str:
    """Hash of the items' rows and the content of their pictures; paths and ``meta`` do not count."""
    parts: list[str] = []
    of_path: dict[str, str] = {}  # several questions may be about one picture
    for item in items:
        row = {name: value for name, value in asdict(item).items() if name not in ("image", "meta")}
        if isinstance(item.image, str):
            if item.image not in of_path:
                of_path[item.image] = digest(image_bytes(item))
            picture = of_path[item.image]
        else:
            picture = digest(image_bytes(item))
        parts += [json.dumps(row, sort_keys=True), picture]
    return digest(*parts)


def _refuse_address(item: Item):
    if isinstance(item.image, str) and "://" in item.image:
        raise ValueError(f"item {item.uid!r} names the address {item.image}; download the picture and give its path")


def _read(item: Item, take):
    from PIL import Image

    _refuse_address(item)
    try:
        with Image.open(BytesIO(item.image) if isinstance(item.image, bytes) else item.image) as picture:
            if max(picture.size) > LONGEST * min(picture.size):
                raise ValueError(
                    f"{picture.size[0]} × {picture.size[1]} pixels; expected at most {LONGEST} times as long"
                )
            return take(picture)
    except Exception as error:  # Pillow's formats raise anything for a damaged file
        raise ValueError(f"item {item.uid!r}: cannot read the picture {item.image!r:.200} ({error})") from None


def _in_eight_bits(picture: Image) -> Image:
    """The picture as RGB: 16 bits scaled, transparent parts on white."""
    from PIL import Image

    if picture.mode in ("I", "F"):
        raise ValueError("32 bits a colour; expected 8 or 16")
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.float64)
        grey = np.round(values / 257).astype(np.uint8)
        grey[values == picture.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")
