"""The questions of a benchmark asked otherwise, as controls.

direct(items)           those with steps, without them
step_by_step(items)     those without, after a turn in which the model may think aloud
undetermined(items)     those that need their picture, with one option more: that the answer cannot be determined
"""

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

from cogvsr_utils.dataset.items import Item, Step

THINKING = Step("Do not answer yet. First think step by step, in as many words as you need.", "", "text", None, "")
UNDETERMINED = "cannot be determined"


def direct(items: Sequence[Item]) -> list[Item]:
    """The items that have steps, without them."""
    return [replace(item, steps=[]) for item in items if item.steps]


def step_by_step(items: Sequence[Item]) -> list[Item]:
    """The items that have no steps, with one in which the model may think aloud before it answers."""
    return [replace(item, steps=[THINKING]) for item in items if not item.steps]


def undetermined(items: Sequence[Item]) -> list[Item]:
    """The items that have options and nothing but a picture to tell the answer, with ``UNDETERMINED`` as their last
    option, which is never right; without steps. Of 3DSRBench's rotations the first, of SpatialEval's modes that without
    the scene in words.

    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [], image="0.png")
    >>> undetermined([item])[0].question
    'Is it red? If the picture does not show it, answer "cannot be determined".'
    """
    opened = []
    for item in items:
        options = item.options or (["yes", "no"] if item.answer_type == "yesno" else [])
        shown = item.image is not None and item.meta.get("mode", "vqa") == "vqa" and not item.meta.get("rotation")
        if shown and options and len(options) < len(ascii_uppercase):
            more = f' If the picture does not show it, answer "{UNDETERMINED}".'
            if item.meta.get("lettered"):
                more = f"\n{ascii_uppercase[len(options)]}. {UNDETERMINED}"
            question, options = item.question + more, [*options, UNDETERMINED]
            opened.append(replace(item, question=question, options=options, answer_type="choice", steps=[]))
    return opened
