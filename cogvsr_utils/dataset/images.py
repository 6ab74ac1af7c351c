"""Pictures of items: opening and measuring them.

open_image(item)       the picture as an RGB PIL image
image_size(item)       its width and height, without decoding it
image_bytes(item)      its file's content
items_digest(items)    sixteen characters that change with the data, pictures included
"""

from __future__ import annotations

import json
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from cogvsr_utils.dataset.items import Item
from cogvsr_utils.files import digest

if TYPE_CHECKING:
    from PIL.Image import Image


def open_image(item: Item) -> Image | None:
    """The item's picture as an RGB PIL image, flipped where ``mirror`` is set; None where it has none.

    Raises ValueError naming the item where the picture cannot be read.
    """
    from PIL import ImageOps

    if item.image is None:
        return None
    picture = _read(item, lambda picture: picture.convert("RGB"))
    return ImageOps.mirror(picture) if item.mirror else picture


def image_size(item: Item) -> tuple[int, int]:
    """Width and height of the item's picture in pixels, (0, 0) without one; raises as ``open_image``."""
    return (0, 0) if item.image is None else _read(item, lambda picture: picture.size)


def image_bytes(item: Item) -> bytes:
    """The content of the picture's file, empty without one; raises ValueError where it cannot be read."""
    if isinstance(item.image, bytes | None):
        return item.image or b""
    try:
        return Path(item.image).read_bytes()
    except OSError as error:
        raise ValueError(f"item {item.uid!r}: cannot read the picture {item.image!r:.200} ({error})") from None


def items_digest(items: list[Item]) -> str:
    """Hash of the items' rows and the content of their pictures; paths and ``meta`` do not count."""
    parts: list[str | bytes] = []
    for item in items:
        row = {name: value for name, value in asdict(item).items() if name not in ("image", "meta")}
        parts += [json.dumps(row, sort_keys=True), image_bytes(item)]
    return digest(*parts)


def _read(item: Item, take):
    from PIL import Image

    if isinstance(item.image, str) and "://" in item.image:
        raise ValueError(f"item {item.uid!r} names the address {item.image}; download the picture and give its path")
    try:
        with Image.open(BytesIO(item.image) if isinstance(item.image, bytes) else item.image) as picture:
            return take(picture)
    except OSError as error:
        raise ValueError(f"item {item.uid!r}: cannot read the picture {item.image!r:.200} ({error})") from None
