"""What a benchmark is to this package: its fields, and how a row of it becomes items.

Benchmark                    a public benchmark
load_benchmark(b, path)      the items of a copy of it, and what had to be left out, with the reason
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cogvsr_utils.dataset.benchmarks.pictures import Pictures
from cogvsr_utils.dataset.benchmarks.tables import SUFFIXES, read_rows
from cogvsr_utils.dataset.items import Item

INNER = ("questions", "data")  # folders in which some benchmarks keep their tables

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """A public benchmark: what ``load_items`` calls it, its title, its source, the fields that each row has to have
    (alternatives in a tuple), and how a row, its file and the pictures become items; ``make`` raises ValueError for a
    row that cannot be used."""

    name: str
    title: str
    paper: str
    licence: str
    fields: tuple[str | tuple[str, ...], ...]
    make: Callable[[dict, Path, Pictures], list[Item]]

    def lacks(self, row: dict) -> list[str]:
        """The fields that a row should have and has not."""
        wanted = [(each,) if isinstance(each, str) else each for each in self.fields]
        return [" or ".join(names) for names in wanted if not any(name in row for name in names)]


@dataclass(frozen=True)
class Loaded:
    """The items of a copy of a benchmark, and the rows left out: (file and row, reason)."""

    items: list[Item]
    skipped: list[tuple[str, str]]


def load_benchmark(benchmark: Benchmark, path: str | Path) -> Loaded:
    """Read a file of a benchmark, or all tables of it in a folder.

    Rows that cannot be used, such as those whose picture is missing, are left out, counted in the log and named in
    ``skipped``. Raises FileNotFoundError where there is no table, ValueError where none is of this benchmark.
    """
    tables = _tables(Path(path), benchmark)
    pictures = Pictures(Path(path) if Path(path).is_dir() else Path(path).parent)
    items: dict[str, Item] = {}
    skipped: list[tuple[str, str]] = []
    for file, rows in tables.items():
        for number, row in enumerate(rows, 1):
            try:
                found = benchmark.make(row, file, pictures)
                if twice := [item.uid for item in found if item.uid in items]:
                    raise ValueError(f"{twice[0]!r} is there already")
            except (ValueError, TypeError, KeyError) as error:
                skipped.append((f"{file.name}, row {number}", str(error)))
            else:
                items |= {item.uid: item for item in found}
    log.info("%s: %d items of %d rows in %s", benchmark.title, len(items), sum(map(len, tables.values())), path)
    if skipped:
        log.warning("%s: %d rows of %s left out, such as %s: %s", benchmark.title, len(skipped), path, *skipped[0])
    return Loaded(list(items.values()), skipped)


def _tables(path: Path, benchmark: Benchmark) -> dict[Path, list[dict]]:
    """The rows of each table that has the benchmark's fields."""
    if not path.exists():
        raise FileNotFoundError(f"no copy of {benchmark.title} at {str(path)!r}; expected a table or a folder")
    folders = [path, *(path / name for name in INNER)]
    files = [path] if path.is_file() else [f for each in folders if each.is_dir() for f in sorted(each.iterdir())]
    tables = {file: read_rows(file) for file in files if path.is_file() or file.suffix in SUFFIXES}
    if not tables:
        raise FileNotFoundError(f"no table in {path}; expected files of one of {SUFFIXES}")
    right = {file: rows for file, rows in tables.items() if not benchmark.lacks(rows[0])}
    if not right:
        file, rows = next(iter(tables.items()))
        raise ValueError(
            f"{file} has the fields {sorted(rows[0])}, without {benchmark.lacks(rows[0])}; expected a table of "
            f"{benchmark.title}"
        )
    return right
