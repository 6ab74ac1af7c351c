"""What a benchmark is to this package: its fields, and how a row of it becomes items.

Benchmark                    a public benchmark
load_benchmark(b, path)      the items of a copy of it, and what had to be left out, with the reason
table_files(path)            the files that it reads
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cogvsr_utils.dataset.benchmarks.downloads import hub_copy, hub_id
from cogvsr_utils.dataset.benchmarks.pictures import Pictures
from cogvsr_utils.dataset.benchmarks.tables import SUFFIXES, read_rows
from cogvsr_utils.dataset.cues import BOXES
from cogvsr_utils.dataset.items import Item

log = logging.getLogger(__name__)
FETCHED_AT_ONCE = 8  # pictures


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
    """The items of a copy of a benchmark, and the rows and tables left out: (file and row, reason)."""

    items: list[Item]
    skipped: list[tuple[str, str]]


def load_benchmark(benchmark: Benchmark, path: str | Path, download: bool = False) -> Loaded:
    """Read a file of a benchmark, or all tables of it in a folder and the folders in it.

    With ``download`` the path may be a data set of the hub, "owner/name" or "owner/name@revision", and pictures that
    are not there are fetched by their addresses; without it nothing is fetched. See ``downloads``.

    Rows that cannot be used, such as those whose picture is missing, and tables of other things are left out, counted
    in the log and named in ``skipped``. Raises FileNotFoundError where there is no table, ValueError where none is of
    this benchmark or no row can be used.

    >>> import tempfile
    >>> from cogvsr_utils.dataset.benchmarks.vsr import VSR
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "test.csv").write_text("image,caption,relation,label\\n1.png,The cat is on the mat.,on,1")
    ...     _ = Path(folder, "1.png").write_bytes(b"a picture")
    ...     load_benchmark(VSR, folder).items[0].answer
    'yes'
    """
    if download and not Path(path).exists() and hub_id(str(path)):
        path = hub_copy(benchmark.title, benchmark.licence, str(path))
    path = Path(path)
    tables, skipped = _tables(path, benchmark)
    pictures = Pictures(path if path.is_dir() else path.parent, download)
    items: dict[str, Item] = {}
    for file, rows in tables.items():
        for number, (found, reason) in enumerate(_made(benchmark, file, rows, pictures), 1):
            twice = [item.uid for item in found if item.uid in items]
            if reason or twice:
                skipped.append((f"{file.name}, row {number}", reason or f"{twice[0]!r} is there already"))
            else:
                items |= {item.uid: item for item in found}
    log.info("%s: %d items of %d rows in %s", benchmark.title, len(items), sum(map(len, tables.values())), path)
    if not items:
        raise ValueError(f"no row of {path} can be used, such as {skipped[0][0]}: {skipped[0][1]}")
    if skipped:
        log.warning(
            "%s: %d rows or tables of %s left out, such as %s: %s", benchmark.title, len(skipped), path, *skipped[0]
        )
    return Loaded(list(items.values()), skipped)


def _made(benchmark: Benchmark, file: Path, rows: list[dict], pictures: Pictures) -> Iterator[tuple[list[Item], str]]:
    """The items of each row in order, or why there are none; pictures that have to be fetched, several at once."""

    def make(row):
        try:
            return benchmark.make(row, file, pictures), ""
        except KeyError as error:
            return [], f"it has no field {error}"
        except (ValueError, TypeError) as error:
            return [], str(error)

    fetches = pictures.downloader is not None
    with ThreadPoolExecutor(FETCHED_AT_ONCE if fetches else 1) as pool:
        yield from tqdm(pool.map(make, rows), total=len(rows), desc=file.name, disable=not fetches)


def table_files(path: Path) -> list[Path]:
    """The file, or all tables in a folder and the folders in it, boxes among them."""
    if path.is_file():
        return [path]
    return sorted(f for pattern in ("*", "*/*") for f in path.glob(pattern) if f.suffix in SUFFIXES)


def _tables(path: Path, benchmark: Benchmark) -> tuple[dict[Path, list[dict]], list[tuple[str, str]]]:
    """The rows of each table with the benchmark's fields, and the tables without, with the reason."""
    if not path.exists():
        advice = ", or download=True for a data set of the hub" if hub_id(str(path)) else ""
        raise FileNotFoundError(f"no copy of {benchmark.title} at {str(path)!r}; expected a table or a folder{advice}")
    files = [file for file in table_files(path) if file.name != BOXES]
    if not files:
        raise FileNotFoundError(f"no table in {path}; expected files of one of {SUFFIXES}")
    right, other = {}, []
    for file in files:
        try:
            rows = read_rows(file)
            if lacking := benchmark.lacks(rows[0]):
                raise ValueError(
                    f"{file} has the fields {sorted(rows[0])}, without {lacking}; expected a table of {benchmark.title}"
                )
            right[file] = rows
        except ValueError as error:
            other.append((str(file.relative_to(path.parent)), str(error)))
    if not right:
        raise ValueError(other[0][1])
    return right, other
