"""Train a nano vision-language model: ``python -m cogvsr_utils.nano.train nano-internvl``.

Three stages, each seeded and resumed from its checkpoint in ``results/nano/``:

1. the vision tower learns, densely, what every patch shows (colour, shape, size, material, heading, square);
2. the projector learns to put it in words: an image token comes to lie near the embeddings of its thing's words;
3. with the tower frozen, the decoder learns to answer chains of steps, the right answers so far in view; at first
   mostly drills, plain questions that only the picture answers.

Hidden matrices are trained with Muon (https://kellerjordan.github.io/posts/muon/), the rest with AdamW.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import typer
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from cogvsr_utils.dataset.synth.scenes import COLORS, MATERIALS, SHAPES, SIZES
from cogvsr_utils.dataset.synth.substeps import FACTS
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.files import replacing
from cogvsr_utils.nano import internvl, mllama, qwen2_5_vl
from cogvsr_utils.nano.architecture import build_tokenizer
from cogvsr_utils.nano.data import OPENING, TARGETS, load_scenes, sample_chats, sample_drill
from cogvsr_utils.paths import NANO, RESULTS

FAMILIES = {"nano-internvl": internvl, "nano-qwen2_5_vl": qwen2_5_vl, "nano-mllama": mllama}

IGNORE = -100


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal, in the weights' own precision.

    ``torch.optim.Muon`` does the same in bfloat16, which is several times slower on a CPU.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                updates = []
                for p in params:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buffer, group["momentum"]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, _orthogonal(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)


def _orthogonal(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearest semi-orthogonal matrices of a stack (n, rows, columns), by Newton-Schulz iteration."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def optimizers(modules: dict, muon: float, adam: float, decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embeddings, norms, biases and everything of another rank."""
    named = [(f"{key}.{n}", p) for key, module in modules.items() for n, p in module.named_parameters()]
    hidden = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    rest = [p for n, p in named if not any(p is h for h in hidden)]
    return [
        Muon(hidden, lr=muon, weight_decay=decay),
        torch.optim.AdamW(rest, lr=adam, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def schedule(step: int, n_steps: int, warm: int = 50, decay: float = 0.4) -> float:
    """Share of the full learning rate: a short rise, a plateau, a linear fall over the last part."""
    return min(1.0, (step + 1) / warm, (n_steps - step) / (decay * n_steps))


class Checkpoint:
    """Everything a stage needs to go on where it stopped, written by write-then-rename."""

    def __init__(self, path: Path, modules: dict, optimizers):
        self.path, self.modules, self.optimizers = path, list(modules.values()), optimizers

    def load(self) -> tuple[int, list]:
        """Restore what was saved; returns the step to go on with and the log so far."""
        if not self.path.exists():
            return 0, []
        saved = torch.load(self.path, weights_only=True)
        for module, state in zip(self.modules, saved["modules"], strict=True):
            module.load_state_dict(state)
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        return saved["step"], saved["log"]

    def save(self, step: int, log: list) -> None:
        """Keep weights, optimizers and log."""
        state = {"step": step, "log": log, "modules": [m.state_dict() for m in self.modules],
                 "optimizers": [o.state_dict() for o in self.optimizers]}  # fmt: skip
        with replacing(self.path) as partial:
            torch.save(state, partial)


def pixels(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """(n, 3, 64, 64) float in [-1, 1] from (n, 64, 64, 3) uint8, as the image processor makes them."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def run_stage(
    name: str,
    folder: Path,
    modules: dict[str, torch.nn.Module],
    muon: float,
    adam: float,
    decay: float,
    n_steps: int,
    loss_of: Callable[[int], tuple[float, dict[str, float]]],
    every: int = 100,
) -> list[dict]:
    """The loop that both stages share: schedule, update, log, checkpoint. ``loss_of`` leaves the gradients."""
    path = folder / f"{name}.pt"
    opts = optimizers(modules, muon, adam, decay)
    checkpoint = Checkpoint(path, modules, opts)
    start, log = checkpoint.load()
    window, clock = [], time.time()
    for step in tqdm(range(start, n_steps), initial=start, total=n_steps, desc=name):
        for opt, rate in zip(opts, (muon, adam), strict=True):
            opt.param_groups[0]["lr"] = rate * schedule(step, n_steps)
        for opt in opts:
            opt.zero_grad()
        loss, figures = loss_of(step)
        for opt in opts:
            opt.step()
        window.append({"loss": loss, **figures})
        if (step + 1) % every == 0 or step + 1 == n_steps:
            keys = sorted({k for row in window for k in row})
            row = {k: round(float(np.mean([r[k] for r in window if k in r])), 4) for k in keys}
            log.append({"stage": name, "step": step + 1, "seconds": round(time.time() - clock, 1), **row})
            tqdm.write(json.dumps(log[-1]))
            window, clock = [], time.time()
            checkpoint.save(step + 1, log)
    return log


def train_tower(
    family: ModuleType,
    model: PreTrainedModel,
    folder: Path,
    data: tuple,
    n_steps: int,
    device: torch.device,
    seed: int,
    batch: int = 64,
) -> list[dict]:
    """Stage one: every patch predicts what it shows."""
    images, targets = data
    torch.manual_seed(seed)
    with torch.no_grad():
        width = family.tower_features(model, pixels(images[:1], device)).shape[-1]
    heads = torch.nn.Linear(width, sum(TARGETS.values())).to(device)

    def loss_of(step):
        rows = np.random.default_rng([seed, 1, step]).integers(len(images), size=batch)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            hidden = family.tower_features(model, pixels(images[rows], device))[:, -64:]
        scores = heads(hidden.float()).flatten(0, 1).split(list(TARGETS.values()), dim=1)
        truth = torch.from_numpy(targets[rows]).to(device).long().flatten(0, 1)
        total, figures = 0.0, {}
        for i, (name, score) in enumerate(zip(TARGETS, scores, strict=True)):
            known = truth[:, i] >= (1 if name == "color" else 0)
            weight = 0.1 + 0.9 * known  # the ground is most of every picture and easy
            loss = F.cross_entropy(score, truth[:, i], ignore_index=-1, reduction="none")
            total = total + (loss * weight).sum() / weight[truth[:, i] >= 0].sum()
            figures[name] = float((score.argmax(1) == truth[:, i])[known].float().mean())
        total.backward()
        return total.item(), figures

    modules = {"tower": family.tower(model), "targets": heads}
    return run_stage("tower", folder, modules, 0.01, 1.5e-3, 0.0, n_steps, loss_of)


@torch.no_grad()
def features_of(
    family: ModuleType, model: PreTrainedModel, images: np.ndarray, device: torch.device, batch: int = 256
) -> torch.Tensor:
    """The tower's features of every image, in half precision; the tower no longer changes."""
    out = []
    for i in tqdm(range(0, len(images), batch), desc="features"):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            out.append(family.tower_features(model, pixels(images[i : i + batch], device)).to(torch.bfloat16).cpu())
    return torch.cat(out)


def train_projector(
    family: ModuleType,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    data: tuple,
    n_steps: int,
    device: torch.device,
    seed: int,
    batch: int = 256,
) -> list[dict]:
    """Stage two: image tokens approach the words of their thing; places and headings, which share words, get own
    scales."""
    features, targets = data
    embed = model.get_input_embeddings().weight.detach()
    words = {"color": ["object", *COLORS], "shape": SHAPES, "size": SIZES, "material": MATERIALS}
    scales = {k: embed[tokenizer.convert_tokens_to_ids(list(w))] for k, w in words.items()}
    torch.manual_seed(seed)
    others = torch.nn.Linear(embed.shape[1], sum(v for k, v in TARGETS.items() if k not in words)).to(device)
    widths = [v for k, v in TARGETS.items() if k not in words]

    def loss_of(step):
        rng = np.random.default_rng([seed, 3, step])
        rows = rng.integers(len(features), size=batch)
        tokens = family.project(model, features[torch.from_numpy(rows)].to(device).float())
        tokens = tokens[:, -len(family.PATCHES) :].flatten(0, 1)
        patches = targets[rows][:, family.PATCHES]  # (batch, image tokens, patches, targets)
        # Of a token's patches, one that shows a thing if any does.
        pick = (rng.random(patches.shape[:3]) + (patches[..., 0] > 0)).argmax(2)
        truth = np.take_along_axis(patches, pick[:, :, None, None], 2)[:, :, 0]
        truth = torch.from_numpy(truth).to(device).long().flatten(0, 1)
        scores = {k: tokens @ v.T / embed.shape[1] ** 0.5 for k, v in scales.items()}
        scores |= dict(zip([k for k in TARGETS if k not in words], others(tokens).split(widths, dim=1), strict=True))
        total, figures = 0.0, {}
        for i, name in enumerate(TARGETS):
            known = truth[:, i] >= (1 if name == "color" else 0)
            total = total + F.cross_entropy(scores[name], truth[:, i], ignore_index=-1)
            figures[name] = float((scores[name].argmax(1) == truth[:, i])[known].float().mean())
        total = total + 0.01 * (tokens.pow(2).mean() - 1).abs()  # at the scale of word embeddings
        total.backward()
        return total.item(), figures

    modules = {"projector": family.learners(model)["projector"], "targets": others}
    return run_stage("projector", folder, modules, 0.01, 1e-3, 0.0, n_steps, loss_of)


def encode(tokenizer: PreTrainedTokenizerFast, prefix: str, texts: list[str]) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of each chat after the shared prefix; only answers and their end marks are learnt."""
    ask_id, end_id = tokenizer.convert_tokens_to_ids("<|assistant|>"), tokenizer.eos_token_id
    rows = []
    for ids in tokenizer([prefix + OPENING + text for text in texts]).input_ids:
        labels, answering = [], False
        for token in ids:
            labels.append(token if answering else IGNORE)
            answering = token == ask_id or (answering and token != end_id)
        rows.append((ids, labels))
    return rows


def train_decoder(
    family: ModuleType,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    data: tuple,
    n_steps: int,
    device: torch.device,
    seed: int,
    batch: int = 40,
    parts: int = 2,
) -> list[dict]:
    """Stage three: the projector and the decoder learn to answer, the tower stays as it is.

    A batch is sorted by length and goes through in parts, so that little of it is padding.
    """
    features, view_names, scene_views = data
    pad_id = tokenizer.pad_token_id

    def loss_of(step):
        rng = np.random.default_rng([seed, 2, step])
        rows = rng.integers(len(scene_views), size=batch)
        drill = 0.75 if step < 0.3 * n_steps else 0.2
        chats = []
        for r in rows:
            drilled = rng.random() < drill
            texts = ([sample_drill(scene_views[r], rng)] if drilled
                     else sample_chats(scene_views[r], view_names[r], rng, n_chats=1))  # fmt: skip
            chats += [(text, r) for text in texts]
        encoded = sorted(
            (
                (*pair, r)
                for pair, (_, r) in zip(encode(tokenizer, family.PREFIX, [t for t, _ in chats]), chats, strict=True)
            ),
            key=lambda row: len(row[0]),
        )
        n_answers = sum(label != IGNORE for _, labels, _ in encoded for label in labels)
        total, n_right = 0.0, 0
        for part in range(parts):
            some = encoded[part * len(encoded) // parts : (part + 1) * len(encoded) // parts]
            width = len(some[-1][0])
            ids = torch.tensor([i + [pad_id] * (width - len(i)) for i, _, _ in some], device=device)
            labels = torch.tensor([lab + [IGNORE] * (width - len(lab)) for _, lab, _ in some], device=device)[:, 1:]
            where = (labels != IGNORE).nonzero(as_tuple=True)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                seen = family.project(model, features[[r for *_, r in some]].to(device).float())
                hidden = family.decode(model, ids, seen)
                logits = model.lm_head(hidden[where]).float()
            loss = F.cross_entropy(logits, labels[where], reduction="sum") / n_answers
            loss.backward()
            total += loss.item()
            n_right += (logits.argmax(1) == labels[where]).sum().item()
        return total, {"right": n_right / n_answers}

    return run_stage("decoder", folder, family.learners(model), 0.015, 1e-3, 0.1, n_steps, loss_of)


def vocabulary(scene_views: Sequence[SceneView], view_names: Sequence[str]) -> set[str]:
    """Every word that the questions use."""
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(r"<\|\w+\|>|\w+|[^\w\s]"), behavior="removed", invert=True)
    rng = np.random.default_rng(0)
    texts = [f"{q} {a}" for q, a in FACTS] + [OPENING, "0 1 2 3 4 5 6 7 8 9 yes no"]
    for scene_view, view in zip(scene_views, view_names, strict=True):
        texts += sample_chats(scene_view, view, rng, n_chats=8)
    words = {w for text in texts for w, _ in split.pre_tokenize_str(text.lower())}
    return {w for w in words if not w.startswith("<|")}


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
    device: str = "",
) -> None:
    """Train the model NAME and save it under data/nano/NAME."""
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if name not in FAMILIES:
        raise typer.BadParameter(f"no family {name!r}; there are {', '.join(FAMILIES)}")
    folder = RESULTS / "nano" / name
    folder.mkdir(parents=True, exist_ok=True)
    images, targets, view_names, scene_views = load_scenes(RESULTS / "nano" / "scenes", n_scenes)
    family = FAMILIES[name]
    tokenizer = build_tokenizer(vocabulary(scene_views[:3000], view_names[:3000]), family.SPECIAL, family.NAMED)
    model = family.build_model(tokenizer, seed).to(place)
    log = train_tower(family, model, folder, (images, targets), tower_steps, place, seed)
    features = features_of(family, model, images, place)
    log += train_projector(family, model, tokenizer, folder, (features, targets), projector_steps, place, seed)
    log += train_decoder(
        family, model, tokenizer, folder, (features, view_names, scene_views), decoder_steps, place, seed
    )
    save(model, family.build_processor(tokenizer), log, NANO / name)


if __name__ == "__main__":
    typer.run(main)
