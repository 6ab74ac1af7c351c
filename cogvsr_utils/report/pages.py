"""What the notebooks need to be good pages: quiet runs, tables, sentences that follow the numbers, quotable numbers.

start(experiment)          the look of figures, no console noise, the one-line stamp of the page
measured_note(...)         the one-line stamp of measured tables
show(table, ...)           a table as HTML, shares as per cent, text from data escaped
with_interval(table, ...)  a column and its interval in one cell
damage_cells(tables)       specific damage by function, a column for each of several tables
specific_count(table)      how many functions are damaged specifically
pair_cells(pairs)          double dissociations, a row and a column a function
agreement(fresh, kept)     numbers computed anew beside kept ones
paragraph(text)            a sentence as markdown, its numbers filled in
verdict(low, high, ...)    the words for an interval: below, above or around 0; span, its ends
quote(name=value)          numbers that prose on any page can glue in
"""

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from cogvsr_utils.functions import NAMES
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.measured import is_measured, runs, stamp
from cogvsr_utils.pipeline.provenance import environment
from cogvsr_utils.pipeline.store import Result
from cogvsr_utils.report.figures import SHORT, use_style
from cogvsr_utils.report.parameters import check, of_cells

NO_DIFFERENCE = "no difference that this data can show"


def start(experiment: Experiment | None = None) -> Markdown | None:
    """Set figures up, silence the libraries' chatter, and return what the page's numbers come from.

    Raises ValueError for a parameter that papermill gave and that the page does not have, or of another type.
    """
    if shell := get_ipython():
        check(*of_cells(shell.user_ns["In"]))
    use_style()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports optional kernels at every load
    if experiment is None:
        return None
    made = environment()
    return Markdown(
        f"*This run: model* `{experiment.model}`, *quantization* {experiment.quantize or 'none'}, *profile* "
        f"{experiment.profile}, *on* {made['device']}, *torch* {made['torch']}, *transformers* {made['transformers']}, "
        f"*commit* `{made['commit']}`, *weights* `{experiment.weights_digest}`."
    )


def measured_note(experiments: Iterable[Experiment], results: Sequence[Result]) -> Markdown:
    """What made those tables of ``results`` that a page shows as measured, and which rest on code that has changed
    since."""
    of_stamp: dict[str, list[str]] = {}
    for experiment in experiments:
        names = {result.name for result in results if is_measured(experiment, result)}
        if not names:
            continue
        made = stamp(experiment)
        for run, tables in runs(made):
            mine = names & set(tables)
            changed = ", ".join(n for n in made["changed"] if n in mine or n not in made["keys"]) or "none"
            shown = [each["commit"] for each in made.get("unchanged", ()) if mine & set(each["tables"])]
            text = (
                f"*profile* {run['profile']}, *on* {run['device']}, *commit* `{run['commit']}`"
                + (f", *the same on few questions at* `{shown[-1]}`" if shown else "")
                + f"; *tables whose code, data or weights have changed since:* {changed}."
            )
            if mine:
                of_stamp.setdefault(text, []).append(f"`{experiment.title}`")
    if not of_stamp:
        return Markdown("*Everything on this page was computed by this run.*")
    lines = (f"{', '.join(titles)}: {text}" for text, titles in of_stamp.items())
    return Markdown("*Measured tables.* " + " ".join(lines))


def show(table: pd.DataFrame, percent: tuple[str, ...] = (), points: tuple[str, ...] = (), digits: int = 2) -> Styler:
    """A table without its index: ``percent`` columns as 12.3 %, ``points`` as +1.2, other numbers to ``digits``.

    Columns are headed by their names with spaces, which break over lines where there is little room; names that are not
    one word, such as a model's, stay as they are.
    """

    def heading(name):
        return str(name).replace("_", " ") if str(name).isidentifier() else str(name)

    formats = {c: f"{{:.{digits}f}}" for c in table.select_dtypes("float").columns}
    formats |= {c: "{:.1%}" for c in percent} | {c: (lambda v: f"{100 * v:+.1f}") for c in points}
    formats = {heading(name): form for name, form in formats.items()}
    return table.rename(columns=heading).style.format(formats, na_rep="–", escape="html").hide(axis="index")


def with_interval(
    table: pd.DataFrame, column: str, low: str = "ci_low", high: str = "ci_high", form: str = ".1%", scale: float = 1
) -> pd.DataFrame:
    """The table with a column and the ends of its interval in one cell, which a phone has room for; a dash for no
    value, the value alone where there is no interval.

    >>> with_interval(pd.DataFrame({"x": [0.5], "ci_low": [0.4], "ci_high": [0.6]}), "x")["x"][0].replace("\\xa0", " ")
    '50.0% (40.0 to 60.0)'
    """

    def cell(value, *ends):
        interval = f"({span(*ends, form, scale)})".replace("%", "").replace(" ", "\N{NO-BREAK SPACE}")
        words = [f"{scale * value:{form}}", interval if pd.notna(list(ends)).all() else ""]
        return " ".join(filter(None, words)) if pd.notna(value) else "–"

    text = [cell(*row) for row in table[[column, low, high]].itertuples(index=False)]
    return table.assign(**{column: text}).drop(columns=[low, high])


def damage_cells(
    tables: Mapping[str, pd.DataFrame], column: str = "difference", low: str = "low", high: str = "high"
) -> pd.DataFrame:
    """Of each table of ``specific_damage``, by its title, a column for every function that was tested with its
    interval; a dot marks what is specific."""
    cells = {}
    for title, table in tables.items():
        table = table.set_index("function").reindex(NAMES)
        dots = np.where(table["specific"] == "yes", " •", "")
        cells[title] = with_interval(table, column, low, high, "+.2f")[column] + dots
    return pd.DataFrame(cells).rename(SHORT).rename_axis("function").reset_index()


def specific_count(table: pd.DataFrame) -> str:
    """Of ``specific_damage``: for how many functions it is specific, of those tested, and the mean difference."""
    tested = table[table["specific"] != "not tested"]
    mean = f" ({tested['difference'].mean():+.2f})" if len(tested) else ""
    return f"{(tested['specific'] == 'yes').sum()} of {len(tested)}{mean}"


def pair_cells(pairs: pd.DataFrame) -> pd.DataFrame:
    """Of ``double_dissociations``: on the steps of each row's function what its own set does less what the column's
    does; a dot marks pairs that are doubly dissociated, a dash those that were not tested."""
    cells = pd.DataFrame("", index=list(NAMES), columns=list(NAMES))
    for row in pairs.itertuples():
        dot = " •" if row.dissociated == "yes" else ""
        for own, other, value in ((row.first, row.second, row.on_first), (row.second, row.first, row.on_second)):
            cells.loc[own, other] = "–" if row.dissociated == "not tested" else f"{value:+.1f}{dot}"
    return cells.rename(index=SHORT, columns=SHORT).rename_axis("steps of").reset_index()


def agreement(fresh: pd.DataFrame, kept: pd.DataFrame, key: str, columns: tuple[str, ...], tolerance: float) -> Styler:
    """How far numbers computed anew are from kept ones: by column how many rows of one ``key`` were compared, the
    largest difference, the correlation, and whether they agree within ``tolerance``."""
    both = fresh.merge(kept, on=key, suffixes=("", "_kept"))
    table = pd.DataFrame({
        "measure": columns, "compared": len(both),
        "largest_difference": [(both[c] - both[f"{c}_kept"]).abs().max() for c in columns],
        "correlation": [both[c].corr(both[f"{c}_kept"]) for c in columns],
    })  # fmt: skip
    return show(table.assign(agrees=np.where(table["largest_difference"] <= tolerance, "yes", "no")), digits=3)


def paragraph(text: str) -> Markdown:
    """A sentence or a paragraph as markdown; write its numbers into an f-string, so that none is typed by hand."""
    return Markdown(text)


def verdict(low: float, high: float, below: str, above: str, around: str = NO_DIFFERENCE) -> str:
    """``below`` where the whole interval is under 0, ``above`` where it is over 0, else ``around``.

    >>> verdict(-0.2, -0.1, "fewer", "more")
    'fewer'
    """
    return below if high < 0 else above if low > 0 else around


def span(low: float, high: float, form: str = "+.1f", scale: float = 100) -> str:
    """An interval in words; by default shares in points.

    >>> span(-0.481, -0.383)
    '-48.1 to -38.3'
    """
    return f"{scale * low:{form}} to {scale * high:{form}}"


def quote(**values: float | str) -> None:
    """Keep numbers under their names for ``{glue:text}`` on any page."""
    from myst_nb import glue

    for name, value in values.items():
        glue(name, value if isinstance(value, str) else float(value), display=False)
