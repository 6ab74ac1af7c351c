"""The words that a nano model knows: those of the questions that it learns from.

words_of(scene_views, ...)    every word
"""

from collections.abc import Sequence

import numpy as np
from tokenizers import Regex, pre_tokenizers

from cogvsr_utils.dataset.synth.substeps import FACTS
from cogvsr_utils.dataset.synth.views import SceneView
from cogvsr_utils.nano.chats import (
    OPENING,
    Chat,
    sample_benchmark,
    sample_chats,
    sample_comparisons,
    sample_crossed,
)


def words_of(
    scene_views: Sequence[SceneView],
    view_names: Sequence[str],
    cued: Sequence[Chat],
    compared: Sequence[SceneView] = (),
) -> set[str]:
    """Every word that the questions use, and the percentages of places."""
    split = pre_tokenizers.Split(Regex(r"<\|\w+\|>|\w+|[^\w\s]"), behavior="removed", invert=True)
    rng = np.random.default_rng(0)
    texts = [f"{q} {a}" for q, a in FACTS] + [OPENING, "yes no", " ".join(map(str, range(101)))]
    texts += [chat.text for chat in cued]
    texts += [
        chat.text for view in compared for named in (True, False) for chat in sample_comparisons(view, rng, named)
    ]
    for scene_view, view in zip(scene_views, view_names, strict=True):
        chats = sample_chats(scene_view, view, rng, n_chats=8) + sample_crossed(scene_view, rng)
        chats += [chat for _ in range(4) for chat in sample_benchmark(scene_view, view, rng)]
        texts += [chat.text for chat in chats]
    words = {w for text in texts for w, _ in split.pre_tokenize_str(text.lower())}
    return {w for w in words if not w.startswith("<|")}
