"""Check a data file before any model is loaded: ``python -m cogvsr_utils.dataset mine.jsonl``."""

from pathlib import Path

import typer

from cogvsr_utils.dataset.items import steps_table
from cogvsr_utils.dataset.jsonl import check_items, read_items
from cogvsr_utils.dataset.splits import SELECTION, TEST, TUNING
from cogvsr_utils.functions import NAMES


def main(path: Path = typer.Argument(help="a CogVSR .jsonl file", exists=True, dir_okay=False)) -> None:
    """Print all that is wrong with a file, or how many scenes each function has in each split."""
    if problems := check_items(path):
        typer.echo("\n".join(f"{path}, {each}" for each in problems))
        raise typer.Exit(1)
    items = read_items(path)
    splits = {item.uid: item.split or "none" for item in items}
    steps = steps_table(items)
    typer.echo(
        f"{len(items)} items, {len(steps)} steps, nothing wrong. Groups with steps of each function, by split:\n"
    )
    if len(steps):
        steps = steps.assign(split=steps["uid"].map(splits))
        table = steps.pivot_table(index="function", columns="split", values="group_id", aggfunc="nunique")
        typer.echo(table.reindex(NAMES).fillna(0).astype(int).to_string())
    absent = [split for split in (SELECTION, TUNING, TEST) if split not in set(splits.values())]
    if absent:
        typer.echo(f"\nThe pages need the splits A, B and C; absent: {', '.join(absent)}.")


if __name__ == "__main__":
    typer.run(main)
