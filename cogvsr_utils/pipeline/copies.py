"""Benchmarks on the user's own copies, in shards that run anywhere and in any order.

shard_replies(experiment, benchmark, root, shard)    replies to one shard of a copy; kept ones are not asked again
copy_effects(experiment, root)                       ``condition_scores`` of every copy, whatever shards were asked

``python -m cogvsr_utils.pipeline.copies vsr --data-root /data --shard 2 --n-shards 8 --model NAME`` answers the second
eighth of a copy; the ``Snakefile`` has a rule for each.
"""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import typer

from cogvsr_utils.dataset.benchmarks.benchmark import load_benchmark
from cogvsr_utils.dataset.cues import BOXES, Boxes, read_boxes
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.loading import BENCHMARKS
from cogvsr_utils.files import digest, replacing
from cogvsr_utils.pipeline import benchmarks, emphasis
from cogvsr_utils.pipeline.benchmarks import (
    Condition,
    condition_replies,
    condition_scores,
    reply_room,
    spatial_conditions,
)
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.selection import rankings
from cogvsr_utils.source_code import code_digest

KEPT_AT_ONCE = 512  # items whose replies and forced choices are kept together
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """The ``number``-th of ``total`` parts of a copy, from 1; groups stay whole, so that what counts together is
    answered together. Raises ValueError for a number that is not among them.

    >>> items = [Item(str(i), "vsr", f"group {i // 2}", "?", "yes", "yesno", []) for i in range(8)]
    >>> [len(Shard(number, 2).of(items)) for number in (1, 2)]
    [6, 2]
    """

    number: int = 1
    total: int = 1

    def __post_init__(self):
        if not 1 <= self.number <= self.total:
            raise ValueError(f"shard {self.number} of {self.total}; expected 1 to {self.total}")

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The items of this part."""
        return [item for item in items if int(digest(item.group_id), 16) % self.total == self.number - 1]


def copies_in(root: str | Path) -> dict[str, Path]:
    """The benchmarks that have a copy in a folder of their name in ``root``; raises FileNotFoundError without any."""
    found = {name: Path(root) / name for name in BENCHMARKS if (Path(root) / name).exists()}
    if not found:
        names = ", ".join(BENCHMARKS)
        raise FileNotFoundError(f"no copy of a benchmark in {str(root)!r}; expected folders such as {names}")
    return found


def replies_path(experiment: Experiment, benchmark: str, shard: Shard) -> Path:
    """Where ``shard_replies`` keeps what it has asked."""
    return experiment.folder / "benchmarks" / benchmark / f"{shard.number}-of-{shard.total}.parquet"


def shard_replies(
    experiment: Experiment, benchmark: str, root: str | Path, shard: Shard | None = None
) -> tuple[list[Item], pd.DataFrame]:
    """The items of a part of a copy (all of it without a ``shard``), and ``condition_replies`` to them.

    Boxes of things are taken from ``boxes.json`` in the copy's folder, where there is one. Replies are kept by model,
    data, library versions and condition, whatever part they were asked in, and batch by batch meanwhile: nothing is
    asked twice, and a stopped run goes on. Raises FileNotFoundError where there is no copy.
    """
    path, shard = copies_in(root).get(benchmark), shard or Shard()
    if path is None:
        raise FileNotFoundError(f"no copy of {benchmark} in {str(root)!r}; expected one in a folder of its name")
    items = load_benchmark(BENCHMARKS[benchmark], path).items
    boxes = read_boxes(path / BOXES) if (path / BOXES).is_file() else None
    return shard.of(items), _replies(experiment, items, boxes, replies_path(experiment, benchmark, shard), shard)


def _replies(experiment: Experiment, items: list[Item], boxes: Boxes | None, kept: Path, shard: Shard) -> pd.DataFrame:
    from cogvsr_utils.models.chat import chat_settings

    conditions = spatial_conditions(experiment, rankings(experiment), emphasis.scaled(experiment), boxes)
    room = reply_room(experiment.vlm, items)
    settings = digest(
        json.dumps(chat_settings(experiment.vlm, items)),
        code_digest(benchmarks.conditions),
        str((room, benchmarks.THOUGHT)),
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    tables, own = [], shard.of(items)
    for condition in conditions:
        key = _key(settings, condition)
        earlier = _kept(kept.parent, key)
        found = earlier[earlier["uid"].isin({item.uid for item in own})]
        left = [item for item in own if item.uid not in set(found["uid"])]
        if left:
            log.info(
                "%s, %s: replies to %d items are kept, %d are asked",
                items[0].benchmark,
                condition.name,
                len(own) - len(left),
                len(left),
            )
        for first in range(0, len(left), KEPT_AT_ONCE):
            some = left[first : first + KEPT_AT_ONCE]
            resume = kept.with_name(f"{key}.{digest(*(item.uid for item in some))}.begun.json")
            asked = condition_replies(experiment.vlm, some, condition, room, resume)
            if len(asked):
                found = pd.concat([found, asked], ignore_index=True)
                with replacing(kept.with_name(f"{key}.{kept.name}")) as partial:
                    found.to_parquet(partial)
                resume.unlink(missing_ok=True)
        tables.append(found)
    replies = pd.concat(tables, ignore_index=True)
    with replacing(kept) as partial:
        replies.to_parquet(partial)
    return replies


def _key(settings: str, condition: Condition) -> str:
    """What a condition's replies are valid for, as the beginning of a file's name."""
    parts = (condition.name, condition.attention, condition.given, *(edit.to_json() for edit in condition.edits))
    return re.sub(r"\W+", "_", condition.name) + "." + digest(settings, *parts)


def _kept(folder: Path, key: str) -> pd.DataFrame:
    """The replies that any shard has kept under a key."""
    tables = [pd.read_parquet(path) for path in sorted(folder.glob(f"{key}.*.parquet"))]
    empty = pd.DataFrame(columns=["uid", "step", "condition", "how", "against"])
    return pd.concat(tables).drop_duplicates(["uid", "step", "how"]) if tables else empty


def copy_effects(experiment: Experiment, root: str | Path) -> pd.DataFrame:
    """``condition_scores`` of every copy in ``root``; what no shard has asked yet is asked now."""
    return pd.concat(
        [
            condition_scores(replies, items)
            for items, replies in (shard_replies(experiment, name, root) for name in copies_in(root))
        ],
        ignore_index=True,
    )


def main(
    benchmark: str = typer.Argument(help="a benchmark, such as vsr"),
    data_root: Path = typer.Option(help="a folder with a copy of each benchmark in a folder of its name"),
    shard: int = typer.Option(1, help="which part, from 1"),
    n_shards: int = typer.Option(1, help="of how many"),
    model: str = typer.Option("nano-internvl", help="a nano name, a folder or a hub id"),
    quantize: str = typer.Option("", help='"", "4bit" or "8bit"'),
    profile: str = typer.Option("light", help='"light" or "full"'),
    source: str = typer.Option("synth", help='"synth" or the path of a CogVSR .jsonl file'),
) -> None:
    """Ask one part of a copy of BENCHMARK under every condition, unless its replies are kept."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        part, experiment = Shard(shard, n_shards), Experiment(model, quantize, profile, source)
        copies_in(data_root)[benchmark]
    except KeyError:
        raise typer.BadParameter(f"no copy of {benchmark!r} in {data_root}; expected a folder of that name") from None
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    shard_replies(experiment, benchmark, data_root, part)
    typer.echo(replies_path(experiment, benchmark, part))


if __name__ == "__main__":
    typer.run(main)
