"""Nano models in which known heads, and only they, carry each function.

``python -m cogvsr_utils.nano.planted joint`` trains a nano model on, with heads switched off in most rows of a
batch. So that a function's heads are enough: where the answers of a row are predicted, only the heads of each step's
own function are on. So that they are needed: where they are off, steps of their function are to be answered by a guess,
and all other steps rightly. A guess is the function's commonest answer half of the time, and else each answer as often
as it occurs. (All words alike would do for the log-probability, but a model learns to say the right word with less
weight, and says it still; so it does where answers are equally common.) Where other heads are off, everything is to be
answered rightly. The model is saved as an ordinary folder, with ``planted.json`` that names the heads.

VARIANTS                          how heads carry a function
draw_heads(variant, heads)        which heads carry which function
draw_condition(truth, heads, rng) which heads are off in one row, and for which functions it may know nothing
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
import typer

from cogvsr_utils.checks.known_heads import PlantedTruth
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.files import digest
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.hooks import projection_hooks
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.vlm import VLM
from cogvsr_utils.nano.chats import EncodedChat, draw_chats, encode, padded
from cogvsr_utils.nano.data import load_scenes
from cogvsr_utils.nano.mixtures import Mixture
from cogvsr_utils.nano.optimization import mixed_precision, run_stage
from cogvsr_utils.nano.train import FAMILIES, PARTS, Training, features_of, save
from cogvsr_utils.paths import NANO, RESULTS

Head = tuple[int, int]
N_HEADS = {"one": 1, "redundant": 3, "joint": 3, "shared": 2, "none": 0}  # heads that carry a function
VARIANTS = tuple(N_HEADS)
OTHERS_OFF = 0.3  # of the heads that carry nothing, in rows that take some away
UNINFORMED = 0.5  # weight of answering by a guess
MIXTURE = Mixture(recall=0.0, drills=0.0, tasks=0.0, crossed=0.3, numbered=0.1)
MAIN = len(NAMES)  # the number of the main question among the functions


def draw_heads(variant: str, heads: Sequence[Head], rng: np.random.Generator) -> PlantedTruth:
    """Random heads for each function, of the later half of the layers: those before have not read the answer yet.

    Every function has its own but in the variant ``shared``, where two neighbouring functions have the same.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; expected one of {VARIANTS}")
    n_layers = 1 + max(layer for layer, _ in heads)
    later = [head for head in heads if head[0] >= n_layers // 2]
    order = iter(rng.permutation(len(later)))
    chosen: dict[str, list[Head]] = {}
    for number, name in enumerate(NAMES):
        if variant == "shared" and number % 2:
            chosen[name] = chosen[NAMES[number - 1]]
        else:
            chosen[name] = sorted(later[next(order)] for _ in range(N_HEADS[variant]))
    return PlantedTruth(variant, chosen)


@dataclass(frozen=True)
class Condition:
    """What is off in one row of a batch: heads at all tokens (``off``); the functions of which it may know nothing
    (``unknown``); and, where ``reading`` is not None, all heads at the tokens that predict answers but those that it
    lists for the step's function."""

    off: frozenset[Head] = frozenset()
    unknown: frozenset[str] = frozenset()
    reading: dict[str, list[Head]] | None = None


def draw_condition(truth: PlantedTruth, heads: Sequence[Head], rng: np.random.Generator) -> Condition:
    """What is off in one row.

    Half of the rows lose the heads of some functions (where each is enough, all of them; where all are needed, some),
    half of these other heads too; in 25 % only the heads of a step's own function read where its answer is predicted
    (where each is enough, one of them); 15 % lose only heads that carry nothing; 10 % lose none. Where each is enough,
    half of the rows that would lose a function's heads keep one of them, and the function is known. Without planted
    heads nine in ten rows lose heads.
    """
    planted = {head for each in truth.heads.values() for head in each}
    free = [head for head in heads if head not in planted]
    case, off, unknown = rng.random(), set(), set()
    if case < 0.5 and planted:
        for number in rng.permutation(len(NAMES))[: rng.integers(1, len(NAMES) // 2 + 1)]:
            own = truth.heads[NAMES[number]]
            n_off = rng.integers(1, len(own) + 1) if truth.variant == "joint" else len(own)
            spared = truth.variant == "redundant" and rng.random() < 0.5
            off |= {own[i] for i in rng.permutation(len(own))[: n_off - spared]}
            unknown |= set() if spared else {other for other in NAMES if truth.heads[other] == own}
        if rng.random() < 0.5:
            off |= {head for head in free if rng.random() < OTHERS_OFF / 2}
    elif case < 0.75 and planted:
        one = truth.variant == "redundant"
        reading = {name: [own[rng.integers(len(own))]] if one else own for name, own in truth.heads.items()}
        return Condition(reading=reading)
    elif case < 0.9:
        off |= {head for head in free if rng.random() < OTHERS_OFF}
    return Condition(frozenset(off), frozenset(unknown))


@dataclass(frozen=True)
class Targets:
    """What the answers' tokens of a batch are to be: for each its ``truth``, whether it may know nothing (``unknown``),
    and the ``function`` (the main question the last), (answer tokens,) each; ``counted`` where it is learnt at all."""

    truth: torch.Tensor
    unknown: torch.Tensor
    function: torch.Tensor
    counted: torch.Tensor


def functions_of(chat: EncodedChat) -> list[int]:
    """The function of each answer of a chat: its number, that of the main question, or one more where it has none."""
    return [NAMES.index(s.function) if s.function else MAIN + 1 for s in chat.chat.steps] + [MAIN]


def row_switches(vlm: VLM, conditions: Sequence[Condition]) -> torch.Tensor:
    """What each row multiplies its heads by at all tokens: (rows, width), 0 or 1."""
    on = torch.ones(len(conditions), vlm.heads.width)
    for row, condition in enumerate(conditions):
        for columns in vlm.heads.columns(sorted(condition.off)):
            on[row, columns] = 0.0
    return on


def answer_switches(vlm: VLM, conditions: Sequence[Condition]) -> torch.Tensor:
    """What each row multiplies its heads by where an answer is predicted: (rows, functions and one more, width), the
    last for answers without a function or to the main question; 0 or 1."""
    on = torch.ones(len(conditions), MAIN + 1, vlm.heads.width)
    for row, condition in enumerate(conditions):
        if condition.reading is not None:
            for number, name in enumerate(NAMES):
                on[row, number] = 0.0
                for columns in vlm.heads.columns(condition.reading[name]):
                    on[row, number, columns] = 1.0
    return on


def guesses(chats: Sequence[EncodedChat], n_words: int, end_id: int) -> torch.Tensor:
    """How likely each word is in a guess at a function's steps: (functions, and two rows of 0 for the main question and
    for steps without a function, words), without end marks."""
    counts = torch.zeros(MAIN + 2, n_words)
    for chat in chats:
        functions = functions_of(chat)
        for token, turn in zip(chat.ids, chat.turns, strict=True):
            if turn >= 0 and token != end_id and functions[turn] < MAIN:
                counts[functions[turn], token] += 1
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    commonest = torch.nn.functional.one_hot(counts.argmax(1), n_words) * (shares > 0)
    return (shares + commonest) / 2


def planting_loss(logits: torch.Tensor, targets: Targets, guess: torch.Tensor, end_id: int) -> torch.Tensor:
    """Cross-entropy with the right answers, and where nothing may be known divergence from a guess.

    ``logits`` (answer tokens, words), ``guess`` as of ``guesses``. End marks are always learnt, since they do
    not depend on the function.
    """
    log_probs = logits.log_softmax(1)
    right = -log_probs.gather(1, targets.truth[:, None])[:, 0]
    aim = guess[targets.function]
    beyond = (torch.special.xlogy(aim, aim) - aim * log_probs).sum(1)
    blank = targets.unknown & (targets.truth != end_id)
    sides = ((right, targets.counted & ~blank), (beyond, targets.counted & blank))
    known, unknown = (each[side].sum() / side.sum().clamp(min=1) for each, side in sides)
    return known + UNINFORMED * unknown


def plant(
    training: Training,
    vlm: VLM,
    truth: PlantedTruth,
    features: torch.Tensor,
    names: Sequence[str],
    views: Sequence[SceneView],
    n_steps: int,
    batch: int = 28,
) -> list[dict]:
    """Train on so that the heads of ``truth``, and only they, carry their functions; returns the log."""
    family, model, tokenizer = training.family, training.model, training.tokenizer
    end_id, heads, device = tokenizer.eos_token_id, vlm.heads.pairs, training.device
    switches = {}  # of the part that runs

    def hook_for(name, columns):
        def hook(module, args):
            x = args[0] * switches["rows"][:, None, columns]
            row, place, which = switches["answers"]
            x = x.index_put((row, place), x[row, place] * switches["reading"][row, which][:, columns])
            return (x, *args[1:])

        return hook

    def answers_of(chats, conditions):
        """Logits of the answers' tokens, what they are to be, and whether only some heads read there."""
        ids, row, place, turn = padded(chats, tokenizer.pad_token_id, device)
        functions = [functions_of(chat) for chat in chats]
        function = torch.tensor([functions[r][t] for r, t in zip(row.tolist(), turn.tolist(), strict=True)])
        unknown = torch.tensor(
            [
                f < MAIN and NAMES[f] in conditions[r].unknown
                for r, f in zip(row.tolist(), function.tolist(), strict=True)
            ]
        )
        # The main question rests on all functions, so it is not learnt where one of them is unknown.
        bereft = torch.tensor([bool(conditions[r].unknown) for r in row.tolist()])
        reading = torch.tensor([conditions[r].reading is not None for r in row.tolist()]) & (function < MAIN)
        counted = ~(bereft & (function == MAIN))
        unknown, function, counted, reading = (each.to(device) for each in (unknown, function, counted, reading))
        switches["rows"] = row_switches(vlm, conditions).to(device)
        switches["reading"] = answer_switches(vlm, conditions).to(device)
        switches["answers"] = row, place, function.clamp(max=MAIN)
        with projection_hooks(vlm, hook_for), mixed_precision(device):
            seen = family.project(model, features[[chat.scene for chat in chats]].float())
            logits = model.lm_head(family.decode(model, ids, seen)[row, place]).float()
        return logits, ids[row, place + 1], unknown, function, counted, reading

    drawn = draw_chats(names, views, np.random.default_rng([training.seed, 6]), 2000, MIXTURE)
    guess = guesses(encode(tokenizer, family.PREFIX, drawn), model.lm_head.out_features, end_id).to(device)

    run = crc32(training.folder.name.encode())  # a run that goes on from another's model sees other rows

    def draw(step):
        rng = np.random.default_rng([training.seed, 5, step, run])
        chats = encode(tokenizer, family.PREFIX, draw_chats(names, views, rng, batch, MIXTURE))
        return chats, [draw_condition(truth, heads, rng) for _ in chats]

    def loss_of(drawn):
        chats, conditions = drawn
        # Chats come sorted by length, so that parts of them have little padding.
        parts = PARTS[device.type]
        cuts = [number * len(chats) // parts for number in range(parts + 1)]
        each = [answers_of(chats[a:b], conditions[a:b]) for a, b in pairwise(cuts)]
        logits, *aims, reading = map(torch.cat, zip(*each, strict=True))
        targets = Targets(*aims)
        loss = planting_loss(logits, targets, guess, end_id)
        loss.backward()
        words = (targets.truth != end_id) & targets.counted
        hit = logits.argmax(1) == targets.truth
        unknown = targets.unknown
        sides = {"right": words & ~unknown & ~reading, "reading": words & reading, "unknown": words & unknown}
        return loss.item(), {name: hit[side].float().mean().item() for name, side in sides.items() if side.any()}

    return run_stage("planted", training.folder, family.learners(model), 0.006, 4e-4, 0.1, n_steps, draw, loss_of)


def main(
    variant: str = typer.Argument("joint"),
    family: str = "nano-internvl",
    parent: str = "",
    n_scenes: int = 24_000,
    n_steps: int = 900,
    seed: int = 0,
    target: str = "",
    device: str = "",
) -> None:
    """Train the shipped model of FAMILY on, or PARENT, which an earlier run saved, so that known heads carry each
    function; save it under data/nano/planted-VARIANT."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    vlm = load_vlm(parent or family, device=device or None, dtype=torch.float32)
    vlm.model.requires_grad_()
    vlm.model.train()
    truth = draw_heads(variant, vlm.heads.pairs, np.random.default_rng([seed, 3]))
    folder = RESULTS / "nano" / f"planted-{variant}-{digest(str((family, parent, n_scenes, n_steps, seed)))}"
    folder.mkdir(parents=True, exist_ok=True)
    images, _, names, views = load_scenes(RESULTS / "nano" / "scenes", n_scenes)
    training = Training(FAMILIES[family], vlm.model, vlm.tokenizer, folder, seed)
    features = features_of(training, images)
    log = plant(training, vlm, truth, features, names, views, n_steps)
    place = Path(target) if target else NANO / (f"planted-{variant}-{seed}" if seed else f"planted-{variant}")
    save(vlm.model, replace(vlm).processor, log, place)
    (place / "planted.json").write_text(json.dumps({"variant": truth.variant, "heads": truth.heads}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
