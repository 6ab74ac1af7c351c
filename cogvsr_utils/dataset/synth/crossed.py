"""Crossed wording: the same words ask for different functions, depending on the picture.

A main question gives a plan of five numbered tasks, one each of five functions. A step asks for "the task that the
column of the pink object tells", so that only plan and picture together tell which function it needs.

Ask, CrossedText           what is asked, before there is a picture
draw_text(rng, split)      a text with the functions that its two pictures ask for
crossed_pair(rng, split)   the text with its two scenes: a minimal pair
crossed_text(view, rng)    a text that suits a scene that there is already (for training)

Texts are drawn before the pictures and independently of them, so that every task of a plan is equally likely to be the
one asked for, whatever the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cogvsr_utils.dataset.items import Step
from cogvsr_utils.dataset.synth.scenes import BOARD, COLORS, Scene, Thing, reshaped, scene_with
from cogvsr_utils.dataset.synth.substeps import YES_NO, yes
from cogvsr_utils.dataset.synth.tasks import TASKS, Note, Task, draw_note, pick
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.functions import MATH, NAMES, RELATIONAL_REASONING, SPATIAL, SPATIAL_PERCEPTION

N_THINGS, N_STEPS = 4, 4
PLACINGS, SHAPINGS = 1000, 100  # draws before a scene is given up
BY_PLACE = (SPATIAL_PERCEPTION, RELATIONAL_REASONING, MATH)  # functions whose tasks the places alone settle
LINES = ("column", "row")
# Wordings for A, B and C; {line} and {picker} tell the task, {a}, {b}, {c} are the candidates, {named} one of them.
CHOICE = (
    ("By the {line} of the {picker} object, which one is it: {a}, {b} or {c}?",
     "The {line} of the {picker} object tells the task. Which one: {a}, {b} or {c}?",
     "Which of {a}, {b} and {c} does the {line} of the {picker} object ask for?",
     "And by the {line} of the {picker} object, {a}, {b} or {c}?"),
    ("Take the {picker} object's {line}: {a}, {b} or {c}?",
     "What is it by the {line} of the {picker} one: {a}, {b} or {c}?",
     "Go by the {picker} {line}. Is it {a}, {b} or {c}?",
     "{a}, {b} or {c}: which one follows from the {line} of the {picker} one?"),
    ("For the task at the {line} of the {picker} thing, choose {a}, {b} or {c}.",
     "Find the {line} of the {picker} thing and do that task: {a}, {b} or {c}?",
     "Among {a}, {b} and {c}, which does the {picker} {line} mean?",
     "With the {line} of the {picker} thing as task, what is it: {a}, {b} or {c}?"),
)  # fmt: skip
YESNO = (
    ("By the {line} of the {picker} object, is it {named} among {a}, {b} and {c}?",
     "Of {a}, {b} and {c}, is {named} what the {line} of the {picker} object asks for?"),
    ("Take the {picker} object's {line}: of {a}, {b} and {c}, is it {named}?",
     "Is task {line} of the {picker} one true of {named}, and not of the rest of {a}, {b} and {c}?"),
    ("Does the {line} of the {picker} thing mean {named} among {a}, {b} and {c}?",
     "Among {a}, {b} and {c}, is it true that the {picker} {line} means {named}?"),
)  # fmt: skip
SPLITS = ("A", "B", "C")


@dataclass(frozen=True)
class Ask:
    """One question of a chain: whose line picks the task, the three candidates, and the one ``named`` in a question of
    yes or no."""

    picker: str
    line: str
    candidates: tuple[str, str, str]
    wording: str
    named: str = ""

    @property
    def text(self) -> str:
        """The question."""
        a, b, c = self.candidates
        return self.wording.format(line=self.line, picker=self.picker, named=self.named, a=a, b=b, c=c)

    @property
    def options(self) -> tuple[str, ...]:
        """What may be answered."""
        return YES_NO if self.yesno else self.candidates

    def slot(self, things: Mapping[str, Thing]) -> int:
        """The number of the task that the question picks in a scene, its things by colour."""
        return getattr(things[self.picker], self.line)

    @property
    def yesno(self) -> bool:
        """Whether it asks for yes or no."""
        return "{named}" in self.wording


@dataclass(frozen=True)
class CrossedText:
    """A plan and its questions, the last of them the main one; ``split`` (0 to 2) numbers the wording."""

    note: Note
    tasks: tuple[Task, ...]
    asks: tuple[Ask, ...]
    split: int

    @property
    def plan(self) -> str:
        """The note and the numbered tasks."""
        tasks = ", ".join(f"{number} {task.phrases[self.split]}" for number, task in enumerate(self.tasks, 1))
        return f"{note_text(self.note)} Plan: {tasks}."

    @property
    def main(self) -> str:
        """The main question: the plan, and what is asked in the end."""
        return f"{self.plan} {self.asks[-1].text}"

    def task(self, ask: Ask, things: Mapping[str, Thing]) -> Task:
        """The task that a question picks in a scene, its things by colour."""
        return self.tasks[ask.slot(things) - 1]

    def picked(self, things: Sequence[Thing]) -> list[tuple[str, str]] | None:
        """For every question its function and the colour that answers it in a scene; None where one has no single
        answer."""
        by_color = {t.color: t for t in things}
        found = []
        for ask in self.asks:
            task, trio = self.task(ask, by_color), [by_color[color] for color in ask.candidates]
            index = pick(task, trio, self.note)
            if index is None:
                return None
            found.append((task.function, ask.candidates[index]))
        return found

    def steps(self, things: Sequence[Thing]) -> tuple[list[Step], str]:
        """The steps of a scene and the answer to the main question."""
        found = self.picked(things)
        replies = [
            yes(color == ask.named) if ask.yesno else color for ask, (_, color) in zip(self.asks, found, strict=True)
        ]
        steps = [
            Step(ask.text, reply, "yesno" if ask.yesno else "choice", list(ask.options), function)
            for ask, reply, (function, _) in zip(self.asks[:-1], replies, found, strict=False)
        ]
        return steps, replies[-1]

    def naming(self, answers: Sequence[Sequence[str]], rng: np.random.Generator) -> CrossedText:
        """The text with a candidate named in each question of yes or no, as often right as wrong whatever the function.

        ``answers`` are the colours that answer the questions in each of its scenes. Of two that differ one is named, so
        that it is right in one scene; of two alike, that one or another.
        """
        asks = []
        for ask, colors in zip(self.asks, zip(*answers, strict=True), strict=True):
            if ask.yesno:
                wrong = [color for color in ask.candidates if color not in colors]
                pool = sorted(set(colors)) if len(set(colors)) > 1 else [colors[0], wrong[rng.integers(len(wrong))]]
                ask = replace(ask, named=pool[rng.integers(2)])
            asks.append(ask)
        return replace(self, asks=tuple(asks))


def note_text(note: Note) -> str:
    """The note as a sentence."""
    return "Note: " + ", ".join(f"{value} is {mark}" for mark, (_, value) in note.items()) + "."


def _draw_ask(rng: np.random.Generator, split: int, picker: str, line: str, candidates: Sequence[str]) -> Ask:
    """A question in one of the split's wordings, a third of them of yes or no, in which nothing is named yet."""
    wordings = YESNO[split] if rng.random() < 1 / 3 else CHOICE[split]
    trio = tuple(str(color) for color in rng.permutation(candidates))
    return Ask(picker, line, trio, wordings[rng.integers(len(wordings))])


def _draw_tasks(rng: np.random.Generator, note: Note) -> tuple[Task, ...]:
    """A task of both spatial functions and of three others, in any order, each of which the note allows."""
    others = rng.permutation([name for name in NAMES if name not in SPATIAL])[:3]
    tasks = []
    for function in rng.permutation([*SPATIAL, *others]):
        pool = [task for task in TASKS if task.function == function and (not task.mark or task.mark in note)]
        tasks.append(pool[rng.integers(len(pool))])
    return tuple(tasks)


def draw_text(rng: np.random.Generator, split: int) -> CrossedText:
    """A plan and its questions, drawn without a picture."""
    note = draw_note(rng)
    colors = rng.permutation(list(COLORS))[:N_THINGS]
    places = [(str(color), line) for color in colors for line in LINES]
    pickers = [places[i] for i in rng.permutation(len(places))[: N_STEPS + 1]]
    asks = tuple(_draw_ask(rng, split, *place, rng.permutation(colors)[:3]) for place in pickers)
    return CrossedText(note, _draw_tasks(rng, note), asks, split)


def _answered(text: CrossedText, things: Sequence[Thing], functions: Sequence[str]) -> bool:
    """Whether each question whose task is of ``functions`` has one answer."""
    by_color = {t.color: t for t in things}
    tasks = [(text.task(ask, by_color), [by_color[color] for color in ask.candidates]) for ask in text.asks]
    return all(pick(task, trio, text.note) is not None for task, trio in tasks if task.function in functions)


def _scene_for(text: CrossedText, slots: Sequence[int], view: str, rng: np.random.Generator) -> Scene | None:
    """A scene in which each question of ``text`` picks its slot and has one answer; None after many tries."""
    places = {(ask.picker, ask.line): int(slot) for ask, slot in zip(text.asks, slots, strict=True)}
    colors = sorted({color for ask in text.asks for color in (ask.picker, *ask.candidates)})
    for _ in range(PLACINGS):
        placed = scene_with(rng, colors, places)
        # Places first, then the things on them: far fewer draws than both at once.
        if placed is None or not _answered(text, placed.things, BY_PLACE):
            continue
        for _ in range(SHAPINGS):
            scene = reshaped(rng, placed)
            if scene and _answered(text, scene.things, NAMES) and SceneView.of(scene, view).all_visible:
                return scene
    return None


def crossed_pair(rng: np.random.Generator, split: str, view: str) -> tuple[CrossedText, list[Scene]]:
    """A text and two scenes: the same words, and in every question another function.

    Which task each question picks is drawn before the scenes; a text for which none is found is given up whole, and so
    are the functions drawn with it.
    """
    while True:
        text = draw_text(rng, SPLITS.index(split))
        first = rng.permutation(BOARD) + 1
        second = first
        while (second == first).any():
            second = rng.permutation(BOARD) + 1
        scenes = []
        for slots in (first, second):
            scene = _scene_for(text, slots, view, rng)
            if scene is None:
                break
            scenes.append(scene)
        else:
            answers = [[color for _, color in text.picked(scene.things)] for scene in scenes]
            return text.naming(answers, rng), scenes


def crossed_text(view: SceneView, rng: np.random.Generator) -> CrossedText | None:
    """A text that suits a scene; None where its things do not allow any.

    For training: which functions are asked for depends on what the scene allows.
    """
    things = view.things
    if len(things) < 3 or not view.all_visible:
        return None
    split, note = int(rng.integers(3)), draw_note(rng)
    slots: dict[int, Task] = {}
    asks = []
    for number in rng.permutation(2 * len(things)):
        picker, line = things[number // 2], LINES[number % 2]
        slot = getattr(picker, line)
        trio = [things[i] for i in rng.permutation(len(things))[:3]]
        if slot in slots or len(asks) > N_STEPS:
            continue
        used = {task.function for task in slots.values()}
        full = len(used - set(SPATIAL)) == 3
        pool: dict[str, list[Task]] = {}
        for task in TASKS:
            free = task.function not in used and (task.function in SPATIAL or not full)
            if free and (not task.mark or task.mark in note) and pick(task, trio, note) is not None:
                pool.setdefault(task.function, []).append(task)
        if pool:
            chosen = pool[str(rng.choice(sorted(pool)))]
            slots[slot] = chosen[rng.integers(len(chosen))]
            asks.append(_draw_ask(rng, split, picker.color, line, [t.color for t in trio]))
    if not asks:
        return None
    others = [task for task in _draw_tasks(rng, note) if task.function not in {t.function for t in slots.values()}]
    others.sort(key=lambda task: task.function not in SPATIAL)
    free = iter([*others, *_draw_tasks(rng, note)])
    tasks = tuple(slots[number] if number in slots else next(free) for number in range(1, BOARD + 1))
    text = CrossedText(note, tasks, tuple(asks), split)
    return text.naming([[color for _, color in text.picked(things)]], rng)
