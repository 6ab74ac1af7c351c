"""Chats that the nano models learn from, and their tokens.

Chat                                  one chain; its text comes after the shared image prefix
sample_drill, sample_task_drill, sample_recall, sample_crossed, sample_comparisons, sample_benchmark,
sample_chats                          random chats about a scene
draw_chats(names, views, ...)         a mixture of them about random scenes
encode(tokenizer, prefix, chats)      their tokens -> EncodedChat; ``padded`` joins them
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from cogvsr_utils.dataset.benchmarks.lookalikes import caption_of, four_options, map_text
from cogvsr_utils.dataset.benchmarks.threedsrbench import with_letters
from cogvsr_utils.dataset.benchmarks.vsr import statement
from cogvsr_utils.dataset.items import Step
from cogvsr_utils.dataset.synth.comparisons import by_color, draw_comparison, naming
from cogvsr_utils.dataset.synth.crossed import LINES, crossed_text, draw_text, note_text
from cogvsr_utils.dataset.synth.kinds import KINDS
from cogvsr_utils.dataset.synth.questions import AskedQuestion, ask
from cogvsr_utils.dataset.synth.substeps import OPPOSITE, POINTS
from cogvsr_utils.dataset.synth.tasks import TASKS, draw_note, pick
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.models.chat import CLOSING, INSTRUCTION
from cogvsr_utils.nano.mixtures import Mixture

OPENING = f"{INSTRUCTION}\n"  # what stands between a family's image prefix and the question

NAMED, DRAWN = 0.35, 30  # of chats of comparisons, those that name the respect; and questions that are tried
DIFFERS = "Which one differs in {respect}: {a}, {b} or {c}?"
LIKE = "Which one is like {a} in {respect}: {b} or {c}?"
RESPECT = {"neighbours": "nearness"}  # where it is not its name

WEIGHTS = {
    "occlusion": 0.5,
    "pose": 3.0,
    "viewpoint": 2.0,
    "collision": 2.0,
}  # of kinds in chains, else 1


@dataclass(frozen=True)
class Chat:
    """A main question with its steps, answered rightly, as a model learns it; ``asked`` are the tasks that the steps
    and the main question ask for, empty without a plan: for each its number in the plan and in ``TASKS`` (from 1), or
    two zeros."""

    main: str
    steps: Sequence[Step]
    answer: str
    asked: Sequence[tuple[int, int]] = ()

    @property
    def text(self) -> str:
        """The chat as the model reads it after the prefix: question, steps with answers, closing with the answer.

        >>> Chat("Is it red?", [], "yes").text
        'Question: Is it red?\\nAnswer the question.<|end|><|assistant|>yes<|end|>'
        """
        turns = [(step.question, step.answer) for step in self.steps] + [(CLOSING, self.answer)]
        text = f"Question: {self.main}\n"
        return text + "<|user|>".join(f"{q}<|end|><|assistant|>{a}<|end|>" for q, a in turns)


def sample_drill(scene_view: SceneView, rng: np.random.Generator, n_questions: int = 9) -> Chat:
    """A chat of plain questions that only the picture answers: things are named by their colour alone.

    Chains mostly name a thing whole, so they give little reason to use the picture; drills do.
    """
    questions, headings = [], []
    for t in scene_view.things:
        name = f"{t.color} object"
        questions += [(f"What shape is the {name}?", t.shape), (f"What size is the {name}?", t.size),
                   (f"What is the {name} made of?", t.material), (f"Which column is the {name} in?", str(t.column)),
                   (f"Which row is the {name} in?", str(t.row))]  # fmt: skip
        if sum(o.shape == t.shape for o in scene_view.scene.things) == 1:
            questions.append((f"What color is the {t.shape}?", t.color))
        if t.shape == "cone":  # the hardest to see, and of few things: always asked
            headings += [(f"Which way does the {name} point?", POINTS[t.heading]),
                         (f"Which side of the {name} is its base on?", OPPOSITE[POINTS[t.heading]])]  # fmt: skip
    rest = [questions[i] for i in rng.permutation(len(questions))[: n_questions - len(headings)]]
    chosen = [(rest + headings)[i] for i in rng.permutation(len(rest) + len(headings))]
    steps = [Step(question, answer, "closed", None, "") for question, answer in chosen]
    return Chat("How many objects are there?", steps, str(len(scene_view.scene.things)))


def sample_task_drill(scene_view: SceneView, rng: np.random.Generator, n_questions: int = 8) -> list[Chat]:
    """A chat of tasks asked for outright, without a plan, or none where the scene allows none."""
    note, things = draw_note(rng), scene_view.things
    if len(things) < 3 or not scene_view.all_visible:
        return []
    steps = []
    for number in rng.permutation(len(TASKS)):
        task, trio = TASKS[number], [things[i] for i in rng.permutation(len(things))[:3]]
        if len(steps) < n_questions and (not task.mark or task.mark in note):
            found = pick(task, trio, note)
            if found is not None:
                a, b, c = (t.color for t in trio)
                question = f"Which one is {task.phrases[rng.integers(3)]}: {a}, {b} or {c}?"
                steps.append(Step(question, trio[found].color, "choice", [a, b, c], task.function))
    main = f"{note_text(note)} How many objects are there?"
    return [Chat(main, steps, str(len(scene_view.scene.things)))]


def sample_recall(scene_view: SceneView, rng: np.random.Generator) -> Chat:
    """A chat that asks what a plan and its note say: to do a task, a model must first find its words by its number."""
    text = draw_text(rng, int(rng.integers(3)))
    asked = [(f"What is task {n}?", task.phrases[text.split]) for n, task in enumerate(text.tasks, 1)]
    asked += [(f"What is {mark}?", value) for mark, (_, value) in text.note.items()]
    order = rng.permutation(len(asked))
    steps = [Step(*asked[i], "text", None, "") for i in order]
    tasks = [(int(i) + 1, TASKS.index(text.tasks[i]) + 1) if i < len(text.tasks) else (0, 0) for i in order]
    return Chat(f"{text.plan} How many objects are there?", steps, str(len(scene_view.scene.things)), [*tasks, (0, 0)])


def sample_crossed(
    scene_view: SceneView, rng: np.random.Generator, numbered: float = 0.25, hints: float = 0.0
) -> list[Chat]:
    """A chain in crossed wording, or none where the scene allows none.

    In a share the tasks are named by their numbers (``numbered``); ``hints`` is how often a step is preceded by one
    that asks for the number of its task, and by one that asks for the task's words. Neither is asked in an evaluation.
    """
    text = crossed_text(scene_view, rng)
    if text is None:
        return []
    things, by_number = {t.color: t for t in scene_view.things}, rng.random() < numbered
    steps, answer = text.steps(scene_view.things)
    chain, tasks = [], []
    for asked, step in zip(text.asks, steps, strict=False):
        slot, (a, b, c) = asked.slot(things), asked.candidates
        if not by_number and rng.random() < hints:
            question = f"By the {asked.line} of the {asked.picker} object, which task is it?"
            chain.append(Step(question, str(slot), "int", None, ""))
        if rng.random() < hints:
            chain.append(Step(f"What is task {slot}?", text.task(asked, things).phrases[text.split], "text", None, ""))
        tasks += [(slot, TASKS.index(text.task(asked, things)) + 1)] * (len(chain) + 1 - len(tasks))
        if by_number:
            which = (
                f"is it {asked.named} among {a}, {b} and {c}?" if asked.yesno else f"which one is it: {a}, {b} or {c}?"
            )
            step = replace(step, question=f"By task {slot}, {which}")
        chain.append(step)
    last = text.asks[-1]
    return [Chat(text.main, chain, answer, [*tasks, (last.slot(things), TASKS.index(text.task(last, things)) + 1)])]


def sample_comparisons(
    scene_view: SceneView, rng: np.random.Generator, named: bool, n_questions: int = 5
) -> list[Chat]:
    """A chat of comparisons, of all functions alike where the scene allows it, or none where it allows none; with the
    respect ``named``, which no evaluation does: what settles a comparison is one of these, and they are learnt sooner.
    """
    things, split = by_color(scene_view.scene), int(rng.integers(3))
    found: dict[str, list[Step]] = {}
    for _ in range(DRAWN):
        drawn = draw_comparison([*things], split, rng)
        for respect, color in drawn.singled_out(things).items():
            if named:
                a, b, c = drawn.colors
                question = (LIKE if drawn.alike else DIFFERS).format(
                    a=a, b=b, c=c, respect=RESPECT.get(respect, respect)
                )
                step = Step(question, color, "choice", list(drawn.candidates), "")
                found.setdefault(respect, []).append(step)
            elif drawn.settled(things):
                step = naming(drawn, [color], rng).step(things)
                found.setdefault(step.function, []).append(step)
    # One of each in turn, so that what is settled often does not crowd out the rest.
    turns = [steps[n] for n in range(n_questions) for steps in found.values() if n < len(steps)][:n_questions]
    if not turns:
        return []
    *steps, main = (turns[number] for number in rng.permutation(len(turns)))
    return [Chat(main.question, steps, main.answer)]


def sample_benchmark(scene_view: SceneView, view: str, rng: np.random.Generator) -> list[Chat]:
    """A main question alone, in the form of the benchmark that its kind is modelled on, or none."""
    kinds = [name for name, kind in KINDS.items() if kind.view == view]
    kind = kinds[rng.integers(len(kinds))]
    made = _question(kind, scene_view, rng)
    if made is None:
        return []
    question, source = made.question, KINDS[kind].source_benchmark
    if source == "vsr":
        question = statement(caption_of(question))
    elif source == "spatialeval":
        things = [thing.name for thing in scene_view.scene.things]
        question = map_text(question, four_options(made.answer, made.answer_type, made.options, things))
    elif source == "3dsrbench":
        turn = int(rng.integers(len(made.options)))
        question = with_letters(question, [*made.options[turn:], *made.options[:turn]])
    return [Chat(question, [], made.answer)]


def draw_question(
    kinds: Sequence[str], scene_view: SceneView, view: str, rng: np.random.Generator
) -> AskedQuestion | None:
    """A question of one of ``kinds`` that a view can be asked; None where there is none, or the scene allows none."""
    possible = [kind for kind in kinds if KINDS[kind].view == view]
    return _question(possible[rng.integers(len(possible))], scene_view, rng) if possible else None


def _question(kind: str, scene_view: SceneView, rng: np.random.Generator) -> AskedQuestion | None:
    """A question of a kind, every answer that the scene allows equally likely; None where it allows none."""
    found = KINDS[kind].candidates(scene_view)
    if not found:
        return None
    labels = sorted({label for label, _ in found})
    label = labels[rng.integers(len(labels))]
    pool = [arguments for known, arguments in found if known == label]
    return ask(kind, scene_view, pool[rng.integers(len(pool))], rng)


def sample_chats(
    scene_view: SceneView, view: str, rng: np.random.Generator, n_chats: int = 4, direct: float = 0.3
) -> list[Chat]:
    """Random chains of different kinds about one image; a share of them is answered without steps."""
    chats = []
    kinds = [name for name, kind in KINDS.items() if kind.view == view]
    weights = np.array([WEIGHTS.get(name, 1.0) for name in kinds])
    for kind in rng.choice(kinds, size=2 * n_chats, p=weights / weights.sum()):
        made = _question(kind, scene_view, rng)
        if made is None:
            continue
        chats.append(Chat(made.question, made.steps, made.answer))
        if rng.random() < direct:
            chats.append(Chat(made.question, [], made.answer))
        if len(chats) >= n_chats:
            break
    return chats[: n_chats + 1]


def draw_chats(
    names: Sequence[str],
    views: Sequence[SceneView],
    rng: np.random.Generator,
    n: int,
    mix: Mixture,
    cued: Sequence[Chat] = (),
    compared: Sequence[SceneView] = (),
) -> list[tuple[Chat, int, str]]:
    """About ``n`` chats about random scenes, with their scene's number and their kind: recall, drills, drills of tasks,
    chains in crossed wording, questions in the form of benchmarks, ``cued`` chats and those about scenes to be
    ``compared``, whose scenes come after all others in this order, and plain chains."""
    chats = []
    for r in rng.integers(len(views), size=n):
        if compared and rng.random() < mix.compared:
            number = int(rng.integers(len(compared)))
            named = rng.random() < NAMED
            kind, some = "respects" if named else "compared", sample_comparisons(compared[number], rng, named)
            r = len(views) + len(cued) + number
        elif rng.random() < mix.recall:
            kind, some = "recall", [sample_recall(views[r], rng)]
        elif rng.random() < mix.drills:
            tasks = rng.random() < mix.tasks
            kind, some = (
                ("tasks", sample_task_drill(views[r], rng)) if tasks else ("drill", [sample_drill(views[r], rng)])
            )
        elif rng.random() < mix.crossed:
            kind, some = "crossed", sample_crossed(views[r], rng, mix.numbered, mix.hints)
        elif rng.random() < mix.benchmarks:
            kind, some = "benchmark", sample_benchmark(views[r], names[r], rng)
        elif mix.cued and cued and rng.random() < mix.cued:
            number = int(rng.integers(len(cued)))
            kind, some, r = "cued", [cued[number]], len(views) + number
        else:
            kind, some = "plain", sample_chats(views[r], names[r], rng, n_chats=1)
        chats += [(chat, int(r), kind) for chat in some]
    return chats


@dataclass(frozen=True)
class EncodedChat:
    """A chat's tokens (tokens,): their ``ids``; ``turns``, the number of the answer that each belongs to, -1 outside
    answers; ``plan``, the number of the task whose words they are; ``number`` and ``task``, from where it is known
    which task a question asks for to where its answer begins, the task's number in the plan and in ``TASKS``; 0
    elsewhere. The ``scene`` it is about; ``chat`` and its ``kind``."""

    ids: list[int]
    turns: list[int]
    plan: list[int]
    number: list[int]
    task: list[int]
    scene: int
    chat: Chat
    kind: str


def encode(
    tokenizer: PreTrainedTokenizerFast, prefix: str, chats: Sequence[tuple[Chat, int, str]]
) -> list[EncodedChat]:
    """Tokens of chats (with their scene and kind) after the shared prefix, the shortest first."""
    ask_id, end_id = tokenizer.convert_tokens_to_ids("<|assistant|>"), tokenizer.eos_token_id
    rows = []
    for ids, (chat, scene, kind) in zip(
        tokenizer([prefix + OPENING + chat.text for chat, *_ in chats]).input_ids, chats, strict=True
    ):
        turns, answering, turn = [], False, -1
        for token in ids:
            turns.append(turn if answering else -1)
            turn += token == ask_id
            answering = token == ask_id or (answering and token != end_id)
        plan, number, task = _numbers(tokenizer.convert_ids_to_tokens(ids), chat.asked)
        rows.append(EncodedChat(ids, turns, plan, number, task, scene, chat, kind))
    return sorted(rows, key=lambda row: len(row.ids))


def _numbers(words: Sequence[str], asked: Sequence[tuple[int, int]]) -> np.ndarray:
    """``plan``, ``number`` and ``task`` of an EncodedChat: (3, tokens)."""
    found = np.zeros((3, len(words)), dtype=int)
    if not asked:
        return found
    place = words.index("plan")
    while words[place] != ".":
        if words[place].isdigit():
            found[0, place], found[0, place + 1 :] = 0, int(words[place])
        place += 1
    found[0, place:] = 0
    known, turn = None, 0  # from where the question's task is known
    for i in range(place, len(words)):
        if words[i] == "<|assistant|>":
            found[1:, i if known is None else known : i + 1] = np.array(asked[turn])[:, None]
            known, turn = None, turn + 1
        elif words[i] == "<|user|>":
            known = None
        elif words[i] in LINES:
            known = i + 3 if words[i + 1] == "of" else i  # "the column of the red object", "the red object's column"
        elif words[i].isdigit() and words[i - 1] == "task":
            known = i
    return found


def padded(rows: Sequence[EncodedChat], pad_id: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Ids (rows, tokens), padded on the right, and of each answer's token its row, its place less one (where it is
    predicted) and its turn, (answer tokens,) each."""
    pad = nn.utils.rnn.pad_sequence
    ids = pad([torch.tensor(row.ids) for row in rows], batch_first=True, padding_value=pad_id).to(device)
    turns = pad([torch.tensor(row.turns) for row in rows], batch_first=True, padding_value=-1).to(device)
    row, place = (turns >= 0).nonzero(as_tuple=True)
    return ids, row, place - 1, turns[row, place]
