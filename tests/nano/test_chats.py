"""Chats that models learn from: which tasks they ask for, and where a plan's numbers are, against the text itself."""

import re

import numpy as np
import pytest
import torch

from cogvsr_utils.dataset.synth.scenes import sample_scene
from cogvsr_utils.dataset.synth.substeps import POINTS
from cogvsr_utils.dataset.synth.tasks import TASKS
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.nano import internvl, mllama
from cogvsr_utils.nano.chats import encode, sample_crossed, sample_drill, sample_recall
from cogvsr_utils.nano.early_blocks import EarlyBlocks, cone_headings, early_truth

ENDS = re.compile(r"Plan: (.*?)\.")


@pytest.fixture(scope="module")
def views():
    found, seed = [], 0
    while len(found) < 12:
        view = SceneView.of(sample_scene(np.random.default_rng(seed)))
        found += [view] if len(view.things) > 2 and view.all_visible else []
        seed += 1
    return found


def plan_of(chat):
    """The plan of a chat's main question: number -> words."""
    return {int(task[0]): task[2:] for task in ENDS.search(chat.main)[1].split(", ")}


def test_recall_asks_what_stands_in_the_plan_and_the_note(views):
    for number, view in enumerate(views):
        chat = sample_recall(view, np.random.default_rng(number))
        plan, note = plan_of(chat), dict(reversed(each.split(" is ")) for each in
                                         re.search(r"Note: (.*?)\.", chat.main)[1].split(", "))  # fmt: skip
        assert len(chat.steps) == 7 and len(chat.asked) == 8
        for step, (slot, task) in zip(chat.steps, chat.asked, strict=False):
            asked = re.fullmatch(r"What is (?:task )?(\w+)\?", step.question)[1]
            assert step.answer == (plan[int(asked)] if slot else note[asked]) and slot in (0, int(asked) if slot else 0)
            assert step.answer in TASKS[task - 1].phrases if slot else task == 0


def test_tasks_of_a_chain_are_the_lines_that_its_questions_name(views):
    counted = 0
    for number, view in enumerate(views):
        for chat in sample_crossed(view, np.random.default_rng(number), numbered=0.3, hints=0.5):
            things, plan = {thing.color: thing for thing in view.things}, plan_of(chat)
            assert len(chat.asked) == len(chat.steps) + 1
            for step, (slot, task) in zip(chat.steps, chat.asked, strict=False):
                assert plan[slot] in TASKS[task - 1].phrases
                assert not step.function or step.function == TASKS[task - 1].function
                if found := re.search(r"task (\d)", step.question):
                    assert slot == int(found[1])
                    if step.question.startswith("What is"):
                        assert step.answer == plan[slot]
                else:
                    line = re.search(r"\b(column|row)\b", step.question)[1]
                    assert slot in {getattr(thing, line) for thing in things.values()}
                    counted += 1
                if "which task" in step.question:
                    assert step.answer == str(slot)
    assert counted > 10


def test_numbers_stand_at_the_words_of_their_task_and_where_its_answer_begins(views):
    tokenizer = load_vlm("nano-internvl").tokenizer
    chats = [(sample_recall(view, np.random.default_rng(0)), 0, "recall") for view in views[:4]]
    for row in encode(tokenizer, internvl.PREFIX, chats):
        words, plan = tokenizer.convert_ids_to_tokens(row.ids), plan_of(row.chat)
        for number, task in plan.items():
            at = [word for word, n in zip(words, row.plan, strict=True) if n == number and word != ","]
            assert at == tokenizer.convert_ids_to_tokens(tokenizer(task).input_ids)
        places = [place for place, word in enumerate(words) if word == "<|assistant|>"]
        assert [(row.number[place], row.task[place]) for place in places] == list(row.chat.asked)


def test_a_number_stands_from_where_the_question_has_known_it_to_where_the_answer_begins(views):
    tokenizer = load_vlm("nano-internvl").tokenizer
    chats = [(chat, 0, "crossed") for view in views for chat in sample_crossed(view, np.random.default_rng(5), 0.3)]
    for row in encode(tokenizer, internvl.PREFIX, chats):
        words = tokenizer.convert_ids_to_tokens(row.ids)
        colors = {thing.color for view in views for thing in view.things}
        *places, last = (place for place, word in enumerate(words) if word == "<|assistant|>")
        assert row.number[last] and not row.number[last - 1]  # the main question came long before
        for end in places:
            start = max(place for place in range(end) if words[place] in ("<|user|>", "<|assistant|>", "."))
            inside = [n for n in row.number[start : end + 1] if n]
            assert inside and len(set(inside)) == 1  # one number, without a gap, to the end
            first = end + 1 - len(inside)
            known = " ".join(words[start : first + 1])
            by_line = re.search("column|row", known) and words[first] in colors | {"column", "row"}
            assert by_line or re.search(r"task \d$", known)


def test_what_blocks_know_is_their_cross_entropy_by_hand(views):
    vlm = load_vlm("nano-internvl", dtype=torch.float32, device="cpu")
    decoder = internvl.learners(vlm.model)["decoder"]
    with_cones = [number for number, view in enumerate(views) if any(t.shape == "cone" for t in view.things)][:3]
    chats = [(sample_recall(views[n], np.random.default_rng(1)), n, "recall") for n in with_cones]
    chats += [(sample_drill(views[n], np.random.default_rng(1)), n, "drill") for n in with_cones]
    rows = encode(vlm.tokenizer, internvl.PREFIX, chats)
    early = EarlyBlocks(decoder, vlm.model.get_input_embeddings().weight.shape[1], internvl.KNOWN_AFTER)
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in rows])
    truth = early_truth(rows, ids, cone_headings(views, vlm.tokenizer))
    by_hand = {name: [getattr(row, name) for row in rows] for name in ("plan", "number", "task")}
    by_hand["heading"] = [
        [heading_named(word, views[row.scene]) for word in vlm.tokenizer.convert_ids_to_tokens(row.ids)] for row in rows
    ]
    with torch.no_grad():
        kept = decoder(inputs_embeds=vlm.model.get_input_embeddings()(ids), output_hidden_states=True).hidden_states
        given, total = early.loss(truth), 0.0
        for name, block in internvl.KNOWN_AFTER.items():
            losses = [
                -early.heads[name](kept[block + 1][r, t]).log_softmax(0)[n]
                for r, row in enumerate(by_hand[name])
                for t, n in enumerate(row)
                if n
            ]
            assert losses
            total += torch.stack(losses).mean()
    assert given == pytest.approx(total.item(), rel=1e-5)
    assert early.loss({name: torch.zeros_like(numbers) for name, numbers in truth.items()}) == 0


def heading_named(word, view):
    return next((list(POINTS).index(t.heading) + 1 for t in view.things if t.color == word and t.shape == "cone"), 0)


def test_nothing_that_needs_the_picture_is_to_be_known_before_a_block_reads_it():
    assert min(mllama.KNOWN_AFTER[name] for name in ("heading", "number", "task")) >= min(mllama.CROSS_ATTENTION)
