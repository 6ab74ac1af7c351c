"""Shared fixtures: the shipped nano model, a few items of a small data set of their own."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(scope="session")
def small_set(tmp_path_factory):
    """CogVSR-Synth in small: 60 questions at 64 pixels; the path of its .jsonl."""
    from cogvsr_utils.synth import build_synth

    return build_synth(tmp_path_factory.mktemp("synth"), n_items=60, size=64, seed=7)


@pytest.fixture(scope="session")
def items(small_set):
    from cogvsr_utils import load_items

    return load_items(small_set)[:12]


@pytest.fixture(scope="session")
def vlm():
    from cogvsr_utils import load_vlm

    return load_vlm("nano-internvl")


@pytest.fixture(scope="session")
def answers(vlm, items):
    from cogvsr_utils import answer

    return answer(vlm, items)
