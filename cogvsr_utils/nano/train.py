"""Train a nano vision-language model: ``python -m cogvsr_utils.nano.train nano-internvl``.

Three stages, each seeded and resumed from the checkpoint of a run with the same arguments in ``results/nano/``:

1. the vision tower learns, densely, what every patch shows (colour, shape, size, material, heading, square), and
   whether a mark was drawn on it;
2. the projector learns to put it in words: an image token comes to lie near the embeddings of its thing's words;
3. with the tower frozen, the decoder learns to answer chains of steps, the right answers so far in view; at first
   mostly drills, plain questions that only the picture answers. What answers alone teach very slowly, early blocks
   learn densely: which way a cone points, wherever its colour is named; which number a word of a plan has, which number
   a question asks for, and which task that is. Chats with cues are learnt when a trained model goes on.

A model can start from a smaller one (``--parent``), or go on from its own shipped weights; it has a projector then.
A further seed (``--new-heads``) draws the decoder's heads anew; first they learn to write what the old ones wrote.
"""

import copy
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import typer
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from cogvsr_utils.dataset.synth.scenes import COLORS, MATERIALS, SHAPES, SIZES
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.files import digest
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.nano import internvl, mllama, qwen2_5_vl
from cogvsr_utils.nano.architecture import build_tokenizer
from cogvsr_utils.nano.chats import EncodedChat, draw_chats, encode, padded
from cogvsr_utils.nano.compared import draw_compared
from cogvsr_utils.nano.cued import CuedChats, draw_cued
from cogvsr_utils.nano.data import TARGETS, load_scenes
from cogvsr_utils.nano.early_blocks import DENSE_WEIGHT, EarlyBlocks, cone_headings, early_truth
from cogvsr_utils.nano.growth import grow
from cogvsr_utils.nano.mixtures import mixture
from cogvsr_utils.nano.new_heads import attentions, draw_heads_anew, matched
from cogvsr_utils.nano.optimization import mixed_precision, run_stage
from cogvsr_utils.nano.vocabulary import words_of
from cogvsr_utils.paths import NANO, RESULTS

# Of Muon and AdamW, by start.
RATES = {
    "scratch": (0.015, 1e-3),
    "grown": (0.01, 1e-3),
    "divided": (0.006, 7e-4),
    "trained": (0.006, 5e-4),
}
PARTS = {"cpu": 4, "cuda": 1}  # that a batch of chats goes through in
TOWER_RATES = {"scratch": 0.01, "trained": 0.004}  # of Muon
FAMILIES = {"nano-internvl": internvl, "nano-qwen2_5_vl": qwen2_5_vl, "nano-mllama": mllama}


@dataclass(frozen=True)
class Training:
    """What all stages share: the ``family`` (its module of ``nano``), the model and its tokenizer, the folder of
    checkpoints, the seed."""

    family: ModuleType
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    folder: Path
    seed: int

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device


def pixels(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """(n, 3, 64, 64) float in [-1, 1] from (n, 64, 64, 3) uint8, as the image processor makes them."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def patch_loss(scores: dict[str, torch.Tensor], truth: torch.Tensor, ground: float) -> tuple[torch.Tensor, dict]:
    """Cross-entropy of what patches show, summed over targets, and the share right of each.

    ``scores`` (patches, classes) by target; ``truth`` (patches, targets), -1 where unknown. Patches of bare ground
    weigh ``ground``: they are most of every picture and easy.
    """
    total, figures = 0.0, {}
    for i, (name, score) in enumerate(scores.items()):
        known = truth[:, i] >= (1 if name == "color" else 0)
        weight = ground + (1 - ground) * known
        loss = F.cross_entropy(score, truth[:, i], ignore_index=-1, reduction="none")
        total = total + (loss * weight).sum() / weight[truth[:, i] >= 0].sum()
        figures[name] = float((score.argmax(1) == truth[:, i])[known].float().mean())
    return total, figures


def train_tower(
    training: Training, images: np.ndarray, targets: np.ndarray, n_steps: int, muon: float = 0.01, batch: int = 64
) -> list[dict]:
    """Stage one: every patch predicts what it shows, and whether a mark was drawn on it."""
    family, model, device = training.family, training.model, training.device
    torch.manual_seed(training.seed)
    with torch.no_grad():
        width = family.tower_features(model, pixels(images[:1], device)).shape[-1]
    heads = torch.nn.Linear(width, sum(TARGETS.values())).to(device)

    def draw(step):
        rows = np.random.default_rng([training.seed, 1, step]).integers(len(images), size=batch)
        return images[rows], targets[rows]

    def loss_of(drawn):
        some, shown = drawn
        with mixed_precision(device):
            hidden = family.tower_features(model, pixels(some, device))[:, -64:]
        scores = heads(hidden.float()).flatten(0, 1).split(list(TARGETS.values()), dim=1)
        truth = torch.from_numpy(shown).to(device).long().flatten(0, 1)
        total, figures = patch_loss(dict(zip(TARGETS, scores, strict=True)), truth, ground=0.1)
        total.backward()
        return total.item(), figures

    modules = {"tower": family.tower(model), "targets": heads}
    return run_stage("tower", training.folder, modules, muon, 1.5e-3, 0.0, n_steps, draw, loss_of)


@torch.no_grad()
def features_of(training: Training, images: np.ndarray, batch: int = 256) -> torch.Tensor:
    """The tower's features of every image, in half precision, where the model is; the tower no longer changes."""
    family, model, device, out = training.family, training.model, training.device, []
    for i in tqdm(range(0, len(images), batch), desc="features"):
        with mixed_precision(device):
            out.append(family.tower_features(model, pixels(images[i : i + batch], device)).to(torch.bfloat16))
    return torch.cat(out)


def train_projector(
    training: Training, features: torch.Tensor, targets: np.ndarray, n_steps: int, batch: int = 256
) -> list[dict]:
    """Stage two: image tokens approach the words of their thing; places and headings, which share words, get own
    scales."""
    family, model, device = training.family, training.model, training.device
    embed = model.get_input_embeddings().weight.detach()
    words = {"color": ["object", *COLORS], "shape": SHAPES, "size": SIZES, "material": MATERIALS}
    scales = {k: embed[training.tokenizer.convert_tokens_to_ids(list(w))] for k, w in words.items()}
    torch.manual_seed(training.seed)
    others = torch.nn.Linear(embed.shape[1], sum(v for k, v in TARGETS.items() if k not in words)).to(device)
    widths = [v for k, v in TARGETS.items() if k not in words]

    def draw(step):
        rng = np.random.default_rng([training.seed, 3, step])
        rows = rng.integers(len(targets), size=batch)
        patches = targets[rows][:, family.PATCHES]  # (batch, image tokens, patches, targets)
        # Of a token's patches, one that shows a thing if any does.
        pick = (rng.random(patches.shape[:3]) + (patches[..., 0] > 0)).argmax(2)
        return rows, np.take_along_axis(patches, pick[:, :, None, None], 2)[:, :, 0]

    def loss_of(drawn):
        rows, truth = map(torch.from_numpy, drawn)
        tokens = family.project(model, features[rows.to(features.device)].float())
        tokens = tokens[:, -len(family.PATCHES) :].flatten(0, 1)
        truth = truth.to(device).long().flatten(0, 1)
        scores = {k: tokens @ v.T / embed.shape[1] ** 0.5 for k, v in scales.items()}
        scores |= dict(zip([k for k in TARGETS if k not in words], others(tokens).split(widths, dim=1), strict=True))
        total, figures = patch_loss({name: scores[name] for name in TARGETS}, truth, ground=1.0)
        total = total + 0.01 * (tokens.pow(2).mean() - 1).abs()  # at the scale of word embeddings
        total.backward()
        return total.item(), figures

    modules = {"projector": family.learners(model)["projector"], "targets": others}
    return run_stage("projector", training.folder, modules, 0.01, 1e-3, 0.0, n_steps, draw, loss_of)


@dataclass(frozen=True)
class Conversations:
    """What the decoder learns from: ``features`` of the scenes' pictures and, after them, of those of the chats with
    cues and of the scenes to be ``compared``; views of the scenes; the chats with cues; the share of comparisons."""

    features: torch.Tensor
    view_names: Sequence[str]
    scene_views: Sequence[SceneView]
    cued: CuedChats
    compared: Sequence[SceneView] = ()
    share: float = 0.0

    def draw(self, training: Training, step: int, progress: float, start: str, batch: int = 40) -> list[EncodedChat]:
        """The chats of a step, the shortest first; how many of which kind goes by ``mixture``."""
        rng = np.random.default_rng([training.seed, 2, step])
        mix = replace(mixture(progress, start), compared=self.share)
        chats = draw_chats(self.view_names, self.scene_views, rng, batch, mix, self.cued.chats, self.compared)
        return encode(training.tokenizer, training.family.PREFIX, chats)


def match_heads(training: Training, teacher: PreTrainedModel, talk: Conversations, n_steps: int) -> list[dict]:
    """A further seed's first stage: the decoder's attention, drawn anew, learns to write what that of ``teacher``
    writes."""
    family, device = training.family, training.device
    parts, pad_id = PARTS[device.type], training.tokenizer.pad_token_id
    own = attentions(training.model)

    def loss_of(chats):
        found = []
        for part in range(parts):
            some = chats[part * len(chats) // parts : (part + 1) * len(chats) // parts]
            ids, *_ = padded(some, pad_id, device)
            with torch.no_grad(), mixed_precision(device), matched(teacher, training.model, ids != pad_id) as missed:
                seen = family.project(teacher, talk.features[[chat.scene for chat in some]].float())
                family.decode(teacher, ids, seen)
            found.append(missed)
        by_layer = np.mean(found, axis=0)
        return float(by_layer.mean()), {f"layer {number}": float(share) for number, share in enumerate(by_layer)}

    def draw(step):
        return talk.draw(training, step, 1.0 - 1e-9, "trained")

    return run_stage("heads", training.folder, {"attention": own}, *RATES["scratch"], 0.0, n_steps, draw, loss_of)


def train_decoder(training: Training, talk: Conversations, n_steps: int, start: str = "scratch") -> list[dict]:
    """Stage three: the projector and the decoder learn to answer, the tower stays as it is.

    A batch is sorted by length and goes through in parts, so that little of it is padding; a GPU is quicker at once.
    """
    parts = PARTS[training.device.type]
    family, model, tokenizer, device = training.family, training.model, training.tokenizer, training.device
    pad_id, learners = tokenizer.pad_token_id, family.learners(model)
    early = EarlyBlocks(learners["decoder"], model.get_input_embeddings().weight.shape[1], family.KNOWN_AFTER)
    early = early.to(device)
    cued, beside_cues = talk.cued, cone_headings(talk.cued.views, tokenizer)
    for number, color in enumerate(COLORS, 1):  # of cones that can be seen
        beside_cues[(cued.targets[..., 0] != number).all(1), tokenizer.convert_tokens_to_ids(color)] = 0
    compared = cone_headings(talk.compared, tokenizer)
    headings = torch.cat([cone_headings(talk.scene_views, tokenizer), beside_cues, compared])

    def draw(step):
        return talk.draw(training, step, step / n_steps, start)

    def loss_of(chats):
        n_answers = sum(turn >= 0 for chat in chats for turn in chat.turns)
        total, right = 0.0, defaultdict(list)
        for part in range(parts):
            some = chats[part * len(chats) // parts : (part + 1) * len(chats) // parts]
            ids, row, place, _ = padded(some, pad_id, device)
            target = ids[row, place + 1]
            with mixed_precision(device):
                seen = family.project(model, talk.features[[chat.scene for chat in some]].float())
                hidden = family.decode(model, ids, seen)
                logits = model.lm_head(hidden[row, place]).float()
            loss = F.cross_entropy(logits, target, reduction="sum") / n_answers
            (loss + DENSE_WEIGHT / parts * early.loss(early_truth(some, ids, headings))).backward()
            total += loss.item()
            words = target != tokenizer.eos_token_id  # the end mark is always easy
            hits = (logits.argmax(1) == target)[words].tolist()
            for number, hit in zip(row[words].tolist(), hits, strict=True):
                right[some[number].kind].append(hit)
        return total, {kind: float(np.mean(hits)) for kind, hits in right.items()}

    return run_stage(
        "decoder", training.folder, learners | {"early": early}, *RATES[start], 0.1, n_steps, draw, loss_of
    )


def save(model: PreTrainedModel, processor: ProcessorMixin, log: list[dict], target: Path) -> None:
    """The model as an ordinary folder in half precision, with the log of its training."""
    model.half().save_pretrained(target)
    processor.save_pretrained(target)
    (target / "training_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))


def main(
    name: str = typer.Argument("nano-internvl"),
    n_scenes: int = 24_000,
    tower_steps: int = 2_000,
    projector_steps: int = 600,
    decoder_steps: int = 1_900,
    seed: int = 0,
    parent: str = "",
    target: str = "",
    device: str = "",
    new_heads: int = 0,
    comparisons: float = 0.0,
) -> None:
    """Train the model NAME and save it under data/nano/NAME; PARENT is a smaller model to grow from, or one of the same
    size to go on from, with NEW_HEADS with the decoder's heads drawn anew, so that a seed has its own; COMPARISONS is
    the share of chats in the second form of crossed wording."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if name not in FAMILIES:
        raise typer.BadParameter(f"no family {name!r}; there are {', '.join(FAMILIES)}")
    settings = (n_scenes, tower_steps, projector_steps, decoder_steps, seed, parent, new_heads, comparisons)
    folder = RESULTS / "nano" / f"{name}-{digest(str(settings))}"  # so that no run goes on from another's checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    images, targets, view_names, scene_views = load_scenes(RESULTS / "nano" / "scenes", n_scenes)
    family = FAMILIES[name]
    cued = draw_cued(n_scenes // 4)
    pictured, compared = draw_compared(n_scenes // 3) if comparisons else (images[:0], ())
    words = words_of(scene_views[:3000], view_names[:3000], cued.chats, compared[:300])
    tokenizer = build_tokenizer(words, family.SPECIAL, family.NAMED)
    model = family.build_model(tokenizer, seed)
    if parent:
        trained = load_vlm(parent, device="cpu")
        grow(trained.model.float(), model, trained.tokenizer.get_vocab(), tokenizer.get_vocab())
        old, new = (m.config.get_text_config() for m in (trained.model, model))
        # A family that fixes no width of a head got more of them by dividing, which costs part of what was known.
        copied = getattr(new, "head_dim", None) is not None
        same = old.num_attention_heads == new.num_attention_heads
        start = "trained" if same else "grown" if copied else "divided"
    else:
        start = "scratch"
    training = Training(family, model.to(place), tokenizer, folder, seed)
    # As many pictures with cues as without, so that marks neither hide what is under them nor go unseen.
    rows = np.resize(np.arange(len(cued.images)), len(images))
    seen = (np.concatenate(pair) for pair in ((images, cued.images[rows]), (targets, cued.targets[rows])))
    log = train_tower(training, *seen, tower_steps, TOWER_RATES["trained" if parent else "scratch"])
    features = features_of(training, images)
    if not parent:
        log += train_projector(training, features, targets, projector_steps)
    features = torch.cat([features, features_of(training, np.concatenate([cued.images, pictured]))])
    talk = Conversations(features, view_names, scene_views, cued, compared, comparisons)
    if new_heads:
        teacher = copy.deepcopy(training.model).requires_grad_(False)
        draw_heads_anew(training.model, seed)
        log += match_heads(training, teacher, talk, new_heads)
    log += train_decoder(training, talk, decoder_steps, start)
    save(model, family.build_processor(tokenizer), log, Path(target) if target else NANO / name)


if __name__ == "__main__":
    typer.run(main)
