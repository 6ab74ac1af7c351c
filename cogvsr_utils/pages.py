"""What the notebooks need to be good pages: quiet runs, tables, and numbers that other pages can quote.

start(...)          the look of figures, no console noise, the one-line stamp of the run
show(table, ...)    a table as HTML, shares as per cent, text from data escaped
quote(name=value)   numbers that prose on any page can glue in
"""

from __future__ import annotations

import logging
import warnings


def start(run=None):
    """Set figures up, silence the libraries' chatter, and return the run's stamp as markdown."""
    from IPython.display import Markdown

    from .plots import use_style

    use_style()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of optional kernels at every load
    if run is None:
        return None
    from transformers.utils import logging as chatter

    from .provenance import stamp

    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    made = stamp(run.vlm)
    return Markdown(
        f"*This run: model* `{made['model']}`, *quantization* {made['quantize']}, *profile* {run.profile}, *on* "
        f"{made['device']}, *torch* {made['torch']}, *transformers* {made['transformers']}, *commit* `{made['commit']}`, "
        f"*weights* `{made['weights']}`."
    )


def show(table, percent: tuple[str, ...] = (), points: tuple[str, ...] = (), digits: int = 2):
    """A table without its index: ``percent`` columns as 12.3 %, ``points`` as +1.2, other numbers to ``digits``.

    Columns are headed by their names with spaces, which break over lines where there is little room; names that are not
    one word, such as a model's, stay as they are.
    """

    def head(name):
        return str(name).replace("_", " ") if str(name).isidentifier() else str(name)

    numbers = table.select_dtypes("float").columns
    formats = {c: f"{{:.{digits}f}}" for c in numbers}
    formats |= {c: "{:.1%}" for c in percent} | {c: (lambda v: f"{100 * v:+.1f}") for c in points}
    plain = table.rename(columns=head)
    formats = {head(name): form for name, form in formats.items()}
    return plain.style.format(formats, na_rep="–", escape="html").hide(axis="index")


def quote(**values):
    """Keep numbers under their names for ``{glue:text}`` on any page."""
    from myst_nb import glue

    for name, value in values.items():
        glue(name, value if isinstance(value, str) else float(value), display=False)
