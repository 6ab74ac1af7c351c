"""Figures of the data and of accuracy, and what all figures share; tables and arrays in, a matplotlib figure out.

use_style()                  the look of all figures
finish(figure)               lay out a figure, so that a notebook shows it once
scene_figure, share_figure   items with their steps; how many steps each function has
accuracy_figure              accuracy by function
forest_figure                values with intervals around 0

Colours of functions are those of ``functions``.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.functions import FUNCTIONS, MAIN_NAME, NAMES

STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11,
    "axes.titleweight": "bold", "figure.dpi": 130, "savefig.bbox": "tight", "legend.frameon": False,
    "svg.hashsalt": "cogvsr",
}  # fmt: skip
SHORT = {f.name: f.short for f in FUNCTIONS}
COLOR = {f.name: f.color for f in FUNCTIONS}
DARK, GREY = "#111", "#ddd"


def use_style() -> None:
    """Set the look of all figures."""
    plt.rcParams.update(STYLE)


def finish(figure: Figure) -> Figure:
    """Lay out and let go of a figure, so that a notebook shows it once, as its cell's value."""
    if not figure.get_layout_engine():
        figure.tight_layout()
    plt.close(figure)
    return figure


def text_on(color: str) -> str:
    """White or dark, whichever is easier to read on a colour.

    >>> text_on("#ffffff"), text_on("#332288")
    ('#111', 'white')
    """
    linear = np.array(to_rgb(color)) ** 2.2
    return DARK if linear @ (0.2126, 0.7152, 0.0722) > 0.18 else "white"


def scene_figure(items: list[Item]) -> Figure:
    """Pictures of some items, each with its main question and its steps beside it; steps that do not bear on the main
    answer in grey italics."""
    figure, axes = plt.subplots(len(items), 2, figsize=(8.2, 2.6 * len(items)), width_ratios=[1, 1.9], squeeze=False)
    for (left, right), item in zip(axes, items, strict=True):
        left.imshow(open_image(item))
        left.set_axis_off()
        right.set_axis_off()
        right.text(0, 1.02, f"{item.question}\n→ {item.answer}", weight="bold", va="top", fontsize=10, wrap=True)
        needed = item.meta.get("needed_steps") or range(len(item.steps))
        for i, step in enumerate(item.steps):
            style = {} if i in needed else {"color": "#666", "style": "italic"}
            y, color = 0.76 - 0.14 * i, COLOR[step.function]
            box = {"facecolor": color, "edgecolor": "none", "boxstyle": "round,pad=0.3"}
            right.text(0, y, SHORT[step.function], color=text_on(color), fontsize=8, va="top", bbox=box)
            right.text(0.22, y, f"{step.question}  {step.answer}", fontsize=9, va="top", **style)
    return finish(figure)


def share_figure(counts: dict[str, int]) -> Figure:
    """Horizontal bars of how many steps each function has; ``counts`` maps function to number."""
    figure, axis = plt.subplots(figsize=(7, 3.2))
    names = [n for n in NAMES if n in counts][::-1]
    values = [counts[n] for n in names]
    axis.barh(names, values, color=[COLOR[n] for n in names])
    axis.axvline(0.08 * sum(values), color="#444", lw=1, ls=":")
    axis.text(0.08 * sum(values), len(names) - 0.35, " 8 %", fontsize=8, color="#444")
    axis.set_xlabel("steps")
    return finish(figure)


def accuracy_figure(tables: dict) -> Figure:
    """Accuracy by function with intervals, one colour a table; ``tables`` maps a label to an accuracy table."""
    figure, axis = plt.subplots(figsize=(7.6, 4.0))
    first = next(iter(tables.values())).set_index("function")
    names = [n for n in (*NAMES, MAIN_NAME) if n in first.index][::-1]
    height, y = 0.8 / len(tables), np.arange(len(names))
    for i, (label, table) in enumerate(tables.items()):
        rows = table.set_index("function").loc[names]
        error = np.abs(rows[["ci_low", "ci_high"]].to_numpy().T - rows["accuracy"].to_numpy())
        axis.barh(y + 0.4 - height * (i + 0.5), rows["accuracy"], height * 0.9, xerr=error, label=label,
                  color=plt.cm.cividis(0.25 + 0.5 * i / max(len(tables) - 1, 1)),
                  error_kw={"lw": 1, "ecolor": "#333"})  # fmt: skip
    for i, name in enumerate(names):
        axis.plot([first.loc[name, "majority"]] * 2, [i - 0.4, i + 0.4], color="#c33", lw=1.4)
    axis.set_yticks(y, names)
    axis.set(xlim=(0, 1), xlabel="accuracy (red line: always the commonest answer)")
    if len(tables) > 1:
        axis.legend(loc="lower left", ncols=2, bbox_to_anchor=(0, 1), fontsize=8)
    return finish(figure)


def forest_figure(panels: dict, xlabel: str, markers: dict[str, str] | None = None) -> Figure:
    """Values with intervals, a row a label, 0 marked; ``panels`` maps a title to a table (label, value, low, high).

    With ``markers``, a column ``kind`` gives each kind its marker; kinds of one label are side by side in its row.
    """
    markers = markers or {"": "o"}
    rows = max(table["label"].nunique() for table in panels.values())
    size = (3.0 + 2.4 * len(panels), (0.3 + 0.12 * len(markers)) * rows + 1.2)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    colors = ["#1b6ca8", "#CC6677", "#117733", "#999933", "#332288"]
    for axis, (title, table) in zip(axes[0], panels.items(), strict=True):
        labels = list(dict.fromkeys(table["label"]))[::-1]
        for number, ((kind, marker), color) in enumerate(zip(markers.items(), colors, strict=False)):
            own = table[table["kind"] == kind] if "kind" in table else table
            shift = 0.2 * ((len(markers) - 1) / 2 - number)
            y = np.array([labels.index(label) for label in own["label"]]) + shift
            axis.hlines(y, own["low"], own["high"], color=color, lw=1.6)
            axis.scatter(
                own["value"], y, color=color, marker=marker, s=30, zorder=3, edgecolor="#333", lw=0.5, label=kind
            )
        axis.axvline(0, color="#333", lw=0.9)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_xlabel(xlabel)
        axis.set_title(title, fontsize=10)
    if len(markers) > 1:
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return finish(figure)
