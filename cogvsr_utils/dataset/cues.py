"""Where things are, given to a model beside the picture: in words, or drawn on it.

read_boxes(path)                    the boxes of things by the name of their picture
boxes_asked_about(items)            those of the things that a question names, where the items' record has them
in_words(items, boxes)              the boxes written into the question
drawn(items, boxes, mark)           the boxes drawn on the picture, as one of MARKS
misplaced(boxes, others)            a placebo: boxes of the same sizes at other places
on_other_things(boxes, others)      a placebo: boxes of the same sizes at things that are not asked about
shuffled(boxes)                     a placebo: the same names and boxes, each name with the box of another

A box is (left, top, right, bottom) in shares of the picture, so that it holds at any size.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cogvsr_utils.dataset.images import open_image, png
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.files import read_json, read_whole

Box = tuple[float, float, float, float]
Boxes = Mapping[str, Sequence[tuple[str, Box]]]  # of each picture, or item by its uid: the things' names and boxes
MARKS = ("box", "point", "mask")  # the outline, a dot in the middle, all else made grey
STROKE = 0.012  # of the longer side
TRIES = 32
BOXES = "boxes.json"  # beside the tables of a benchmark
COLOR, GREY = (255, 0, 255), (128, 128, 128)


def read_boxes(path: str | Path) -> dict[str, list[tuple[str, Box]]]:
    """Boxes from a JSON file, such as a detector of the user's may have found.

    The file is an object with a list of ``{"name": text, "box": [left, top, right, bottom]}`` under each picture's file
    name, or under the ``group_id`` where pictures lie in the benchmark's table; under an item's ``uid`` for one
    question alone.

    Raises ValueError for a file of another form and for boxes that are not within [0, 1].

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "boxes.json")
    ...     _ = path.write_text('{"0.png": [{"name": "cat", "box": [0.1, 0.2, 0.5, 0.6]}]}')
    ...     read_boxes(path)
    {'0.png': [('cat', (0.1, 0.2, 0.5, 0.6))]}
    """
    return read_whole(Path(path), _read_boxes, "expected names and boxes under each picture's name")


def _read_boxes(path: Path) -> dict[str, list[tuple[str, Box]]]:
    try:
        found = {
            str(name): [(str(thing["name"]), tuple(map(float, thing["box"]))) for thing in things]
            for name, things in read_json(path).items()
        }
    except TypeError as error:
        raise ValueError(str(error)) from None
    for name, things in found.items():
        for thing, box in things:
            if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
                raise ValueError(f"the box of {thing!r} in {name!r} is {box}; expected left < right, top < bottom")
    return found


def boxes_asked_about(items: Sequence[Item]) -> tuple[dict, dict]:
    """The boxes of the things whose colours an item's question names, and those of all other things that can be seen,
    by uid; from the record (``meta["things"]``) that synthetic items have. Items that name nothing have neither.

    >>> things = [{"color": "red", "shape": "cube", "box": [0.0, 0.0, 0.2, 0.2]},
    ...           {"color": "blue", "shape": "cube", "box": [0.5, 0.0, 0.7, 0.2]}]
    >>> item = Item("1", "mine", "1", "Is the red object large?", "yes", "yesno", [], meta={"things": things})
    >>> boxes_asked_about([item])
    ({'1': [('red cube', (0.0, 0.0, 0.2, 0.2))]}, {'1': [('blue cube', (0.5, 0.0, 0.7, 0.2))]})
    """
    asked: dict[str, list] = {}
    others: dict[str, list] = {}
    for item in items:
        words = set(re.findall(r"\w+", item.question.lower()))
        seen = [thing for thing in item.meta.get("things", ()) if thing.get("box")]
        if any(thing["color"] in words for thing in seen):
            for thing in seen:
                side = asked if thing["color"] in words else others
                place = f"{thing['color']} {thing['shape']}", tuple(thing["box"])
                side.setdefault(item.uid, []).append(place)
    return asked, others


def in_words(items: Sequence[Item], boxes: Boxes) -> list[Item]:
    """The items that have boxes, their things and boxes in percent before the question.

    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [], image="a/0.png")
    >>> in_words([item], {"0.png": [("cat", (0.1, 0.2, 0.5, 0.6))]})[0].question
    'Places in percent, left, top, right, bottom: cat 10, 20, 50, 60. Is it red?'
    """
    asked = []
    for item in items:
        if places := _boxes_of(item, boxes):
            listed = "; ".join(f"{name} " + ", ".join(f"{100 * edge:.0f}" for edge in box) for name, box in places)
            question = f"Places in percent, left, top, right, bottom: {listed}. {item.question}"
            asked.append(replace(item, question=question))
    return asked


def drawn(
    items: Sequence[Item],
    boxes: Boxes,
    mark: str = "box",
    color: tuple[int, int, int] = COLOR,
    stroke: float = STROKE,
) -> list[Item]:
    """The items that have boxes, with them marked on their pictures: outlined (``box``), a dot in the middle of each
    (``point``), in a ``color`` (red, green, blue, 0 to 255) and with a ``stroke`` in shares of the picture's longer
    side; or all the rest of the picture grey (``mask``). A drawn picture no longer has the name of its file, so what is
    to stand in words as well is written first. Raises ValueError for another mark, a colour or stroke out of range, and
    for a picture that cannot be read.

    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [], image=png(Image.new("RGB", (8, 8))))
    >>> marked = drawn([item], {"1": [("cat", (0.25, 0.25, 0.75, 0.75))]}, "mask")[0]
    >>> [open_image(marked).getpixel(place) for place in ((0, 0), (4, 4))]
    [(128, 128, 128), (0, 0, 0)]
    """
    if mark not in MARKS:
        raise ValueError(f"mark is {mark!r}; expected one of {MARKS}")
    if len(color) != 3 or not all(0 <= each <= 255 for each in color) or not 0 < stroke <= 1:
        raise ValueError(f"color is {color} and stroke {stroke}; expected three numbers of 0 to 255, and one in (0, 1]")
    marked = []
    for item in items:
        if places := _boxes_of(item, boxes):
            shown = _mark(open_image(item), [box for _, box in places], mark, color, stroke)
            marked.append(replace(item, image=png(shown), mirror=False))
    return marked


def _mark(picture: Image.Image, boxes: Sequence[Box], mark: str, color: tuple, stroke: float) -> Image.Image:
    """A picture with boxes marked on it."""
    (width, height), stroke = picture.size, max(1, round(stroke * max(picture.size)))
    kept, pen = picture.copy(), ImageDraw.Draw(picture)
    if mark == "mask":
        pen.rectangle((0, 0, width, height), fill=GREY)
    for left, top, right, bottom in boxes:
        x, y = left * width, top * height
        edges = (x, y, max(x, right * width - 1), max(y, bottom * height - 1))
        if mark == "box":
            pen.rectangle(edges, outline=color, width=stroke)
        elif mark == "point":
            middle = np.array([x + edges[2], y + edges[3]]) / 2
            pen.ellipse((*(middle - 2 * stroke), *(middle + 2 * stroke)), fill=color)
        else:
            inside = tuple(map(round, (x, y, edges[2] + 1, edges[3] + 1)))
            picture.paste(kept.crop(inside), inside[:2])
    return picture


def misplaced(boxes: Boxes, others: Boxes | None = None, seed: int = 0) -> dict[str, list[tuple[str, Box]]]:
    """A placebo: the same names and boxes of the same sizes, of ``TRIES`` random places where they cover least of any
    thing's box, those of ``others`` and those already placed included.

    >>> name, box = misplaced({"0.png": [("cat", (0.0, 0.0, 0.25, 0.5))]})["0.png"][0]
    >>> name, round(box[2] - box[0], 6), round(box[3] - box[1], 6), box[0] >= 0.25 or box[1] >= 0.5
    ('cat', 0.25, 0.5, True)
    """
    moved = {}
    for picture, things in boxes.items():
        rng = np.random.default_rng([seed, *picture.encode()])
        taken, moved[picture] = [box for _, box in (*things, *(others or {}).get(picture, ()))], []
        for name, box in things:
            taken.append(_elsewhere(box, np.array(taken), rng))
            moved[picture].append((name, taken[-1]))
    return moved


def on_other_things(boxes: Boxes, others: Boxes) -> dict[str, list[tuple[str, Box]]]:
    """A placebo: the same names and boxes of the same sizes, each in the middle of another thing, as far as the picture
    goes. Left out where a picture has fewer other things than boxes.

    >>> on_other_things({"1": [("cat", (0.0, 0.0, 0.2, 0.2))]}, {"1": [("dog", (0.4, 0.5, 0.8, 0.9))]})
    {'1': [('cat', (0.5, 0.6, 0.7, 0.8))]}
    """
    moved = {}
    for picture, things in boxes.items():
        free = others.get(picture, ())
        if len(free) >= len(things):
            pairs = zip(things, free, strict=False)
            moved[picture] = [(name, _centred(box, other)) for (name, box), (_, other) in pairs]
    return moved


def shuffled(boxes: Boxes) -> dict[str, list[tuple[str, Box]]]:
    """A placebo: the same names and boxes, each name with the box of the next thing; what is drawn stays the same, what
    is said of it in words does not. Left out where a picture has fewer than two things.

    >>> shuffled({"1": [("cat", (0.0, 0.0, 0.2, 0.2)), ("dog", (0.4, 0.5, 0.8, 0.9))]})
    {'1': [('cat', (0.4, 0.5, 0.8, 0.9)), ('dog', (0.0, 0.0, 0.2, 0.2))]}
    """
    moved = {}
    for picture, things in boxes.items():
        if len(things) > 1:
            names, places = zip(*things, strict=True)
            moved[picture] = list(zip(names, (*places[1:], places[0]), strict=True))
    return moved


def _centred(box: Box, at: Box) -> Box:
    """A box of the size of ``box`` around the middle of another, moved into the picture."""
    size = np.array(box[2:]) - box[:2]
    corner = np.clip((np.array(at[:2]) + at[2:] - size) / 2, 0, 1 - size)
    return tuple(round(float(edge), 6) for edge in (*corner, *(corner + size)))


def _elsewhere(box: Box, taken: np.ndarray, rng: np.random.Generator) -> Box:
    """A box of the same size; ``taken`` (things, 4) are the places that it should not be at."""
    size = np.array(box[2:]) - box[:2]
    corners = rng.random((TRIES, 1, 2)) * (1 - size)
    sides = np.minimum(corners + size, taken[:, 2:]) - np.maximum(corners, taken[:, :2])  # (tries, things, 2)
    shared = np.clip(sides, 0, None).prod(axis=2).sum(axis=1)
    corner = corners[shared.argmin(), 0]
    return tuple(float(edge) for edge in (*corner, *(corner + size)))


def _boxes_of(item: Item, boxes: Boxes) -> list[tuple[str, Box]]:
    """The boxes of an item's picture, mirrored where it is; none without a picture."""
    if item.image is None:
        return []
    # A picture in 3DSRBench's table is mirrored already, and goes by the group of the one that it mirrors.
    mirrored = item.mirror or (isinstance(item.image, bytes) and bool(item.meta.get("flip")))
    name = Path(item.image).name if isinstance(item.image, str) else item.group_id
    found = []
    for thing, (left, top, right, bottom) in boxes.get(item.uid, boxes.get(name, ())):
        sides = (round(1 - right, 6), round(1 - left, 6)) if mirrored else (left, right)
        found.append((thing, (sides[0], top, sides[1], bottom)))
    return found
