"""Shared fixtures: the shipped nano model, a few items of a small data set of their own."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
from PIL import Image

from cogvsr_utils.dataset.items import Item, Step
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.dataset.synth.build import build_synth


@pytest.fixture(scope="session")
def small_set(tmp_path_factory):
    """CogVSR-Synth in small: 60 questions at 64 pixels; the path of its .jsonl."""
    return build_synth(tmp_path_factory.mktemp("synth"), n_items=60, size=64, seed=7)


@pytest.fixture(scope="session")
def items(small_set):
    return load_items(small_set)[:12]


@pytest.fixture(scope="session")
def vlm():
    import torch

    from cogvsr_utils.models.loading import load_vlm

    # At full precision on every device: tests compare with oracles to a few thousandths.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return load_vlm("nano-internvl", dtype=torch.float32)


@pytest.fixture(scope="session")
def answers(vlm, items):
    from cogvsr_utils.models.answering import answer

    return answer(vlm, items)


@pytest.fixture(scope="session")
def asked(tmp_path_factory):
    """Four questions about pictures of two sizes, with two or three steps."""
    folder, rng, found = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for number, size in enumerate([(64, 64), (96, 64), (64, 64), (96, 64)]):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(path)
        steps = [Step("what color is the cube?", "red", "closed", None, "Low-Level Visual Perception"),
                 Step("how many cones are there on the left?", "2", "int", None, "Math Reasoning"),
                 Step("is it large?", "yes", "yesno", None, "Knowledge Recall")][: 2 + number % 2]  # fmt: skip
        found.append(Item(str(number), "synth", str(number), "is the cube behind the sphere?", "yes", "yesno", steps,
                          image=str(path)))  # fmt: skip
    return found
