"""Check a data file before any model is loaded: ``python -m cogvsr_utils.dataset mine.jsonl``."""

from pathlib import Path

import typer

from cogvsr_utils.dataset.items import steps_table
from cogvsr_utils.dataset.jsonl import check_items, read_items
from cogvsr_utils.dataset.splits import SELECTION, TEST, TUNING
from cogvsr_utils.functions import NAMES

# Groups with a step of a function that the pages need. Probes are fitted anew to groups drawn with replacement, single
# heads are ablated on some drawn items of C: with fewer it is likely that a draw lacks a function, which stops the run.
NEEDED = {SELECTION: 20, TUNING: 1, TEST: 10}


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
        table = table.reindex(index=NAMES, columns=sorted({*table, *NEEDED})).fillna(0).astype(int)
        typer.echo(table.to_string())
        short = [f"{name} in {split}" for split, n in NEEDED.items() for name in NAMES if table.loc[name, split] < n]
        if short:
            needed = ", ".join(f"{n} in {split}" for split, n in NEEDED.items())
            typer.echo(f"\nThe pages need groups for each function: {needed}. Too few: {'; '.join(short)}.")


if __name__ == "__main__":
    typer.run(main)
