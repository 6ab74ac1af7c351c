"""A second form of crossed wording: which one differs, and which one is alike, without a word of what to go by.

RESPECTS                   what two things may share, and the function that tells whether they do
Comparison                 one question; ``settled(things)`` is what settles it, and the answer
draw_comparison(rng, ...)  a question about some colours
scene_for(asked, ...)      a scene in which questions are settled by given functions
compared_pair(rng, split)  three questions and two scenes: a minimal pair
build_comparisons(folder)  writes items.jsonl and images/, unless they are there already

There is no plan and no note: the picture alone tells which function a question needs. Questions are drawn first, then
what is to settle each of them in either scene, and then scenes until it does.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.jsonl import write_items
from cogvsr_utils.dataset.splits import CROSSED, split_groups
from cogvsr_utils.dataset.synth.build import SHARES, SIZE
from cogvsr_utils.dataset.synth.crossed import N_THINGS, SPLITS
from cogvsr_utils.dataset.synth.rendering import render
from cogvsr_utils.dataset.synth.scenes import (
    BOARD,
    COLORS,
    MATERIALS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    scene_of,
    scene_with,
)
from cogvsr_utils.dataset.synth.substeps import YES_NO, yes
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.files import digest, replacing
from cogvsr_utils.functions import HIGH_LEVEL, LOW_LEVEL, RELATIONAL_REASONING, SPATIAL_PERCEPTION
from cogvsr_utils.paths import COMPARISONS
from cogvsr_utils.source_code import code_digest

N_PAIRS, N_STEPS, SEED = 500, 2, 4_000_000  # training scenes are drawn from other seeds
DRAWS, TRIES = 20_000, 200  # of attributes and squares, and of scenes that fit, before questions are given up
# Wordings for A, B and C; {a}, {b} and {c} are colours, {named} a candidate in a question of yes or no.
DIFFERS = (
    ("Which one differs: {a}, {b} or {c}?", "Of {a}, {b} and {c}, which is not like the other two?",
     "Of {a}, {b} and {c}, does {named} differ?"),
    ("Which is the odd one out: {a}, {b} or {c}?", "Two are alike. Which one is not: {a}, {b} or {c}?",
     "Is {named} the odd one among {a}, {b} and {c}?"),
    ("What is unlike the rest: {a}, {b} or {c}?", "Which of {a}, {b} and {c} stands out?",
     "Does {named} stand out from {a}, {b} and {c}?"),
)  # fmt: skip
ALIKE = (
    ("Which one is like {a}: {b} or {c}?", "Of {b} and {c}, which is like the {a} one?",
     "Of {b} and {c}, are {named} and {a} alike?"),
    ("Which is the match of {a}: {b} or {c}?", "Does {b} match {a}, or does {c}?",
     "Is {named} the match of {a}, among {b} and {c}?"),
    ("What goes with {a}: {b} or {c}?", "Which of {b} and {c} goes with the {a} one?",
     "Among {b} and {c}, does {named} go with {a}?"),
)  # fmt: skip


# What two things may share, and the function that tells whether they do: an attribute, a line of the board, or being
# at most one square apart along both lines.
RESPECTS = {
    "size": LOW_LEVEL, "material": LOW_LEVEL, "shape": HIGH_LEVEL, "column": SPATIAL_PERCEPTION,
    "row": SPATIAL_PERCEPTION, "neighbours": RELATIONAL_REASONING,
}  # fmt: skip
FUNCTIONS = tuple(dict.fromkeys(RESPECTS.values()))
ATTRIBUTES = {"size": tuple(SIZES), "material": MATERIALS, "shape": SHAPES}


@dataclass(frozen=True)
class Comparison:
    """A question about three things by their colours: which one differs from the other two, or (``alike``) which of the
    last two is like the first."""

    colors: tuple[str, str, str]
    alike: bool
    wording: str
    named: str = ""

    @property
    def text(self) -> str:
        """The question."""
        a, b, c = self.colors
        return self.wording.format(a=a, b=b, c=c, named=self.named)

    @property
    def form(self) -> str:
        """Which of the two questions it is."""
        return "alike" if self.alike else "differs"

    @property
    def yesno(self) -> bool:
        """Whether it asks for yes or no."""
        return "{named}" in self.wording

    @property
    def candidates(self) -> tuple[str, ...]:
        """The things that may be the answer."""
        return self.colors[self.alike :]

    @property
    def options(self) -> tuple[str, ...]:
        """What may be answered."""
        return YES_NO if self.yesno else self.candidates

    def singled_out(self, things: Mapping[str, Thing]) -> dict[str, str]:
        """The colour that each respect singles out, of those that single out one."""
        codes = np.array([[
            *(values.index(getattr(things[color], name)) for name, values in ATTRIBUTES.items()),
            things[color].column, things[color].row,
        ] for color in self.colors])  # fmt: skip
        (sharing,) = shared_by(codes[None], range(3), self.alike)
        return {
            name: self.candidates[shares.argmax()]
            for name, shares in zip(RESPECTS, sharing, strict=True)
            if shares.sum() == 1
        }

    def settled(self, things: Mapping[str, Thing]) -> tuple[str, str] | None:
        """The function and the colour of the only respect that singles out a candidate; None where none or several
        do.

        >>> red, blue = (Thing(color, "cube", "small", "metal", x, 0.0, 0.0) for color, x in (("red", 0), ("blue", 2)))
        >>> pink = replace(blue, color="pink", x=-2.0, shape="cone")
        >>> question = Comparison(("red", "blue", "pink"), False, "Which one differs: {a}, {b} or {c}?")
        >>> question.settled({thing.color: thing for thing in (red, blue, pink)})
        ('High-Level Visual Perception', 'pink')
        """
        found = self.singled_out(things)
        return next((RESPECTS[name], color) for name, color in found.items()) if len(found) == 1 else None

    def step(self, things: Mapping[str, Thing]) -> Step:
        """The question with its answer and its function in a scene."""
        function, color = self.settled(things)
        reply = yes(color == self.named) if self.yesno else color
        return Step(self.text, reply, "yesno" if self.yesno else "choice", list(self.options), function)


def draw_comparison(colors: Sequence[str], split: int, rng: np.random.Generator) -> Comparison:
    """A question about three of ``colors`` in one of the split's wordings; in one of yes or no nothing is named yet."""
    alike = bool(rng.integers(2))
    wordings = (ALIKE if alike else DIFFERS)[split]
    return Comparison(
        tuple(str(color) for color in rng.permutation(colors)[:3]), alike, wordings[rng.integers(len(wordings))]
    )


def naming(comparison: Comparison, answers: Sequence[str], rng: np.random.Generator) -> Comparison:
    """The question with a candidate named where it asks for yes or no: of two scenes' answers that differ either, so
    that it is right in one; of one answer, that or another, as often."""
    if not comparison.yesno:
        return comparison
    wrong = [color for color in comparison.candidates if color not in answers]
    pool = sorted(set(answers)) if len(set(answers)) > 1 else [answers[0], wrong[rng.integers(len(wrong))]]
    return replace(comparison, named=pool[rng.integers(2)])


def shared_by(codes: np.ndarray, three: Sequence[int], alike: bool) -> np.ndarray:
    """Whether the pairs that a question about ``three`` things compares share each respect: (scenes, respects, pairs).

    ``codes`` (scenes, things, 5) are sizes, materials, shapes, columns and rows as numbers. The pairs are each
    candidate with the first thing (``alike``), or else the two others of each candidate. A respect singles out the
    candidate of the only pair that shares it.
    """
    first, second, third = (codes[:, number] for number in three)
    pairs = ((first, second), (first, third)) if alike else ((second, third), (first, third), (first, second))
    sharing = []
    for one, other in pairs:
        near = (np.abs(one[:, 3:] - other[:, 3:]) <= 1).all(1)
        sharing.append(np.column_stack([one == other, near]))
    return np.stack(sharing, axis=2)


def compared_pair(rng: np.random.Generator, split: str, view: str) -> tuple[list[Comparison], list[Scene]]:
    """Three questions, the last of them the main one, and two scenes: in each, one respect settles every question, in
    the second one of another function.

    What settles a question is drawn before the scenes; questions for which none are found are given up whole.
    """
    while True:
        colors = rng.permutation(list(COLORS))[:N_THINGS].tolist()
        asked: list[Comparison] = []
        while len(asked) <= N_STEPS:
            drawn = draw_comparison(colors, SPLITS.index(split), rng)
            if not any(_alike(drawn, other) for other in asked):
                asked.append(drawn)
        first = rng.integers(len(FUNCTIONS), size=len(asked))
        second = (first + rng.integers(1, len(FUNCTIONS), size=len(asked))) % len(FUNCTIONS)
        scenes = []
        for wanted in (first, second):
            scene = scene_for(asked, [FUNCTIONS[number] for number in wanted], colors, view, rng)
            if scene is None:
                break
            scenes.append(scene)
        else:
            answers = [[each.settled(by_color(scene))[1] for scene in scenes] for each in asked]
            return [naming(*each, rng) for each in zip(asked, answers, strict=True)], scenes


def _alike(one: Comparison, other: Comparison) -> bool:
    """Whether two questions ask for the same."""
    return (one.alike, one.alike and one.colors[0], {*one.colors}) == (
        other.alike, other.alike and other.colors[0], {*other.colors},
    )  # fmt: skip


def by_color(scene: Scene) -> dict[str, Thing]:
    """The things of a scene by their colours."""
    return {thing.color: thing for thing in scene.things}


def scene_for(
    asked: Sequence[Comparison], functions: Sequence[str], colors: Sequence[str], view: str, rng: np.random.Generator
) -> Scene | None:
    """A scene of one thing in each of ``colors``, all visible, in which each question is settled by its function; None
    after many tries."""
    n_values = [*map(len, ATTRIBUTES.values()), BOARD, BOARD]
    codes = rng.integers(n_values, size=(DRAWS, len(colors), len(n_values)))
    by_respect, fits = np.array([*RESPECTS.values()]), np.ones(DRAWS, bool)
    for each, function in zip(asked, functions, strict=True):
        singling = shared_by(codes, [colors.index(color) for color in each.colors], each.alike).sum(2) == 1
        fits &= (singling.sum(1) == 1) & (by_respect[singling.argmax(1)] == function)
    for found in codes[fits][:TRIES]:
        lines = found[:, 3:] + 1
        places = {
            (color, line): int(n)
            for color, row in zip(colors, lines, strict=True)
            for line, n in zip(("column", "row"), row, strict=True)
        }
        placed = scene_with(rng, colors, places)
        if placed is None:
            continue
        things = [
            replace(
                thing, **{name: values[code] for (name, values), code in zip(ATTRIBUTES.items(), row[:3], strict=True)}
            )
            for thing, row in zip(placed.things, found, strict=True)
        ]
        scene = scene_of(rng, things)
        if scene and SceneView.of(scene, view).all_visible:
            return scene
    return None


def build_comparisons(folder: Path | None = None, *, n_pairs: int = N_PAIRS) -> Path:
    """Build pairs of items whose questions are comparisons, with pictures; returns the .jsonl file.

    What is there already is kept. The same number gives the same bytes. Splits are ``crossed-A``, ``-B`` and ``-C``.
    """
    folder = Path(folder or COMPARISONS)
    path, stamp = folder / "items.jsonl", folder / f"built.{digest(code_digest(_drawn_pair), str(n_pairs))}.json"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not stamp.exists():
            splits = split_groups((f"comparison-{number:05d}" for number in range(n_pairs)), SHARES)
            jobs = [(group, split, folder) for group, split in splits.items()]
            with Pool() as pool:
                drawn = list(tqdm(pool.imap(_drawn_pair, jobs, chunksize=4), total=len(jobs), desc="comparisons"))
            write_items(path, [item for pair in drawn for item in pair])
            with replacing(stamp) as partial:
                partial.write_text(json.dumps({"n_pairs": n_pairs}))
    return path


def _drawn_pair(job: tuple[str, str, Path]) -> list[Item]:
    """The two items of a pair, their pictures written."""
    group, split, folder = job
    rng = np.random.default_rng([SEED, int(group.split("-")[1])])
    view = "map" if rng.random() < 0.25 else "picture"
    asked, scenes = compared_pair(rng, split, view)
    items = []
    for number, scene in enumerate(scenes):
        image = folder / f"images/{group}-{number}_{view}.png"
        with replacing(image) as partial:
            Image.fromarray(render(scene, SIZE, view)[0]).save(partial, format="PNG")
        *steps, main = (each.step(by_color(scene)) for each in asked)
        things = [{**asdict(t), "column": t.column, "row": t.row} for t in scene.things]
        meta = {"view": view, "needed_steps": [], "things": things, "forms": [each.form for each in asked]}
        items.append(Item(
            uid=f"{group}-{number}", benchmark="synth", subset="comparisons", group_id=group, image=str(image),
            question=main.question, answer=main.answer, answer_type=main.answer_type, options=main.options,
            steps=steps, split=CROSSED[split], meta=meta,
        ))  # fmt: skip
    return items
