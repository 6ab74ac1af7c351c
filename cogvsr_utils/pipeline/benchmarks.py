"""The benchmarks with spatial heads ablated and scaled, on copies of them or on look-alikes.

copy_effects(experiment, data_root)   scores on copies of the benchmarks in a folder, base and edited, paired
lookalike_effects[benchmark]          scores on look-alikes made of split C, base and edited, paired
benchmark_effects(vlm, items, ...)    the same of any items of benchmarks
spatial_edits(rankings, scaled)       the edits: the spatial functions' heads, the strength tuned on B
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from cogvsr_utils.analysis.benchmarks import ALL, benchmark_scores
from cogvsr_utils.dataset.benchmarks.benchmark import load_benchmark
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.jsonl import read_items
from cogvsr_utils.dataset.loading import BENCHMARKS
from cogvsr_utils.dataset.splits import TEST
from cogvsr_utils.dataset.synth.build import build_synth
from cogvsr_utils.files import digest
from cogvsr_utils.pipeline import ablation
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.selection import Rankings, rankings
from cogvsr_utils.pipeline.store import result

if TYPE_CHECKING:
    from cogvsr_utils.models.interventions import Edit
    from cogvsr_utils.models.vlm import VLM

ASKED = ("vsr", "spatialeval", "spatial457", "3dsrbench")  # by their main questions alone
BASE = "base"
FORCED = "forced choice"
MARGIN = 8  # tokens of a reply beyond the longest option: its letter, a full stop, a short introduction


def spatial_edits(rankings: Rankings, scaled: pd.DataFrame) -> dict[str, Edit]:
    """Edits by name: the spatial functions' top heads by the paper's importance, ablated, and scaled by the strength
    that was best on B."""
    from cogvsr_utils.models.interventions import mask, scale

    heads = ablation.spatial_heads(rankings)
    strength = scaled.loc[scaled["split"] == TEST, "strength"].iloc[0]
    return {"ablated": mask(heads), "scaled": scale(heads, float(strength))}


def benchmark_effects(
    vlm: VLM, items: list[Item], edits: Mapping[str, Edit], folder: Path | None = None
) -> pd.DataFrame:
    """Scores without and with each edit: the columns of ``benchmark_scores``, and ``condition``, ``"base"`` or the name
    of the edit.

    Beside replies scored by both scorers there are rows of the scorer ``FORCED``: the likeliest option, of questions
    that have options, with ``covered``, the mean share of probability that the options had. Replies are kept in
    ``folder`` batch by batch, where one is given, so that a stopped run goes on.
    """
    from cogvsr_utils.models.answering import answer
    from cogvsr_utils.models.chat import chat_settings
    from cogvsr_utils.models.options import forced_choice

    with_options = [item for item in items if item.options or item.answer_type == "yesno"]
    longest = max(len(vlm.tokenizer(option)["input_ids"]) for item in items for option in item.options or [item.answer])

    def replies(name, edit):
        edits = [edit] if edit else []
        kept = folder and folder / f"{name}.{digest(json.dumps(chat_settings(vlm, items, edits)))}.json"
        return answer(vlm, items, edits=edits, steps=False, max_new_tokens=longest + MARGIN, resume=kept)

    scores, before, before_chosen = [], None, None
    for name, edit in {BASE: None, **edits}.items():
        answered = replies(name, edit)
        scores.append(benchmark_scores(answered, items, before).assign(condition=name))
        before = answered if before is None else before
        if with_options:
            chosen = forced_choice(vlm, with_options, edits=edit)
            scores.append(_forced_scores(chosen, with_options, before_chosen).assign(condition=name))
            before_chosen = chosen if before_chosen is None else before_chosen
    return pd.concat(scores, ignore_index=True)


def _forced_scores(chosen: pd.DataFrame, items: list[Item], before: pd.DataFrame | None) -> pd.DataFrame:
    scores = benchmark_scores(chosen, items, before)
    covered = chosen.groupby("subset")["covered"].mean().to_dict() | {ALL: chosen["covered"].mean()}
    scores = scores[scores["scorer"] == "strict"]
    return scores.assign(scorer=FORCED, covered=scores["subset"].map(covered))


@result(variants=ASKED, splits=(TEST,), gpu=True)
def lookalike_effects(experiment: Experiment, benchmark: str, rankings: Rankings, scaled: pd.DataFrame) -> pd.DataFrame:
    """``benchmark_effects`` of a benchmark's look-alike: synthetic questions of split C in its files, read by its
    loader, whatever the data on which the heads were selected."""
    questions = [item for item in read_items(build_synth()) if item.split == TEST]
    with tempfile.TemporaryDirectory() as folder:
        copies = write_lookalikes(questions, folder)
        items = load_benchmark(BENCHMARKS[benchmark], copies[benchmark]).items
        return benchmark_effects(experiment.vlm, items, spatial_edits(rankings, scaled))


def copy_effects(experiment: Experiment, data_root: str) -> dict[str, pd.DataFrame]:
    """``benchmark_effects`` of every copy in ``data_root``, in a folder of its benchmark's name.

    Raises FileNotFoundError for a folder without a copy.
    """
    copies = {name: Path(data_root) / name for name in ASKED if (Path(data_root) / name).exists()}
    if not copies:
        raise FileNotFoundError(f"no copy of a benchmark in {data_root!r}; expected folders such as {', '.join(ASKED)}")
    edits = spatial_edits(rankings(experiment), ablation.scaled(experiment))
    folder = experiment.folder / "benchmarks"
    return {
        name: benchmark_effects(experiment.vlm, load_benchmark(BENCHMARKS[name], path).items, edits, folder / name)
        for name, path in copies.items()
    }
