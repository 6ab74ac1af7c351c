"""Figures of heads: where they are, how their scores fall off, how many there are, which functions share them.

head_maps(table, column)     a layer x head map a function
map_pair(table, function)    what the probe reads beside what ablation does, of one function
family_maps(tables, ...)     the same of several models
attention_figure             what heads attend to in a picture
curve_figure                 sorted importance over its null
count_figure                 counts with intervals beside their null
sharing_figure               how many heads belong to exactly which functions
scatter_figure               one measure of heads against another
"""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.functions import NAMES
from cogvsr_utils.report.figures import COLOR, DARK, GREY, SHORT, finish
from cogvsr_utils.stats import elbow


@dataclass(frozen=True)
class _Scale:
    """How a column is coloured: its colour map, its ends (None: the table's own), whether each map is divided by its
    own largest absolute value, and the colour bar's label."""

    colors: str
    low: float | None
    high: float | None
    relative: bool
    label: str


SCALES = {
    "importance": _Scale("magma_r", 0, 1, True, "share of the strongest head"),
    "auroc": _Scale("magma_r", 0.5, None, False, "AUROC"),
    "effect": _Scale("RdBu", -1, 1, True, "share of the largest change\n(red: ablation hurts)"),
}


def head_maps(table: pd.DataFrame, column: str = "importance") -> Figure:
    """One small layer x head map a function, all on the scale of the column; ``table`` is a head table."""
    figure, axes = plt.subplots(2, 4, figsize=(9.2, 4.4), sharex=True, sharey=True, layout="constrained")
    picture = _draw(axes.flat, table, NAMES, column)
    for axis, name in zip(axes.flat, NAMES, strict=True):
        axis.set_title(SHORT[name], color=DARK)
        axis.tick_params(labelsize=7, length=0)
    for axis in axes[-1]:
        axis.set_xlabel("head")
    for axis in axes[:, 0]:
        axis.set_ylabel("layer")
    figure.colorbar(picture, ax=axes, label=SCALES[column].label, shrink=0.7)
    return finish(figure)


def map_pair(table: pd.DataFrame, function: str) -> Figure:
    """Importance of every head for one function beside what ablating it does; ``table`` is a head table."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.9), sharex=True, sharey=True, layout="constrained")
    for axis, column in zip(axes, ("importance", "effect"), strict=True):
        figure.colorbar(_draw([axis], table, [function], column), ax=axis, label=SCALES[column].label, shrink=0.8)
        axis.set_title(column, color=DARK)
        axis.set_xlabel("head")
    axes[0].set_ylabel("layer")
    return finish(figure)


def attention_figure(item: Item, heads: np.ndarray, lines: dict[str, np.ndarray]) -> Figure:
    """What some heads attend to in an item's picture, a panel a head and a row an entry of ``lines``.

    ``heads`` (heads, [layer, head]); ``lines`` maps a name to weights (heads, rows, columns), shares of all attention.
    """
    picture = open_image(item)
    figure, axes = plt.subplots(
        len(lines),
        len(heads) + 1,
        figsize=(1.9 * len(heads) + 2, 2.2 * len(lines)),
        squeeze=False,
        layout="constrained",
    )
    for row, (line, maps) in zip(axes, lines.items(), strict=True):
        row[0].imshow(picture)
        row[0].set_title(line if len(lines) > 1 else "picture", color=DARK, fontsize=9)
        for axis, (layer, head), weight in zip(row[1:], heads, maps, strict=True):
            extent = (0, picture.width, picture.height, 0)
            axis.imshow(picture.convert("L"), cmap="gray", extent=extent)
            axis.imshow(weight, cmap="magma", alpha=0.65, extent=extent, vmin=0)
            axis.set_title(f"{layer}.{head}: {weight.sum():.0%}", color=DARK, fontsize=9)
        for axis in row:
            axis.set_axis_off()
    return finish(figure)


def family_maps(tables: dict[str, pd.DataFrame]) -> Figure:
    """Maps of AUROC, a row a model, a column a function; ``tables`` maps a model's name to its head table."""
    size = (1.3 * len(NAMES) + 1.2, 1.5 * len(tables) + 0.4)
    figure, axes = plt.subplots(len(tables), len(NAMES), figsize=size, squeeze=False, layout="constrained")
    for row, (name, table) in zip(axes, tables.items(), strict=True):
        picture = _draw(row, table, NAMES, "auroc")
        for axis in row:
            layers, heads = table["layer"].max(), table["head"].max()
            axis.set(xticks=[0, heads], yticks=[0, layers])
            axis.tick_params(labelsize=7, length=2)
        row[0].set_ylabel(f"{name}\nlayer", fontsize=8)
        figure.colorbar(picture, ax=row, label=SCALES["auroc"].label, shrink=0.9)
    for axis, function in zip(axes[0], NAMES, strict=True):
        axis.set_title(SHORT[function], color=DARK, fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("head", fontsize=8)
    return finish(figure)


def curve_figure(table: pd.DataFrame, null: pd.DataFrame) -> Figure:
    """Sorted importance of every function's heads, the elbow marked, over its ``null``, a table of
    ``validation.null_curves``."""
    figure, axes = plt.subplots(2, 4, figsize=(9.2, 4.4), sharex=True)
    for axis, name in zip(axes.flat, [n for n in NAMES if n in set(null["function"])], strict=False):
        values = np.sort(table.loc[table["function"] == name, "importance"].abs())[::-1]
        band = null[null["function"] == name]
        x, k = band["place"], elbow(values)
        axis.fill_between(x, band["low"], band["high"], color="#bbb", lw=0)
        axis.plot(x, values / values[0], color=COLOR[name], lw=1.8)
        axis.plot(k, values[k - 1] / values[0], "o", color=DARK)
        axis.annotate(f"{k}", (k, values[k - 1] / values[0]), xytext=(5, 5), textcoords="offset points", fontsize=9)
        axis.set_title(SHORT[name], color=DARK)
    for axis in axes[:, 0]:
        axis.set_ylabel("share of the top head's")
    for axis in axes[-1]:
        axis.set_xlabel("heads, most important first")
    return finish(figure)


def count_figure(tables: dict[str, pd.DataFrame], n_heads: dict[str, int]) -> Figure:
    """Elbow counts beside their null, and heads whose ablation costs accuracy; a panel a model, a row a function.

    ``tables`` maps a model to a table of ``sparsity``, ``n_heads`` to its number of heads; intervals are over groups.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(5.4 + 1.4 * len(tables), 3.9), sharey=True, squeeze=False)
    names, y = NAMES[::-1], np.arange(len(NAMES))
    for axis, (model, table) in zip(axes[0], tables.items(), strict=True):
        rules = {rule: part.set_index("function").loc[list(names)] for rule, part in table.groupby("statistic")}
        curve, strict = rules["elbow"], rules["n_ablation"]
        axis.barh(y, curve["null_high"] - curve["null_low"], left=curve["null_low"], color=GREY, height=0.8,
                  label="elbow of permuted labels, 95 %")  # fmt: skip
        for rows, shift, mark, label in (
            (curve, 0.15, "o", "elbow"),
            (strict, -0.2, "D", "ablation costs accuracy (max-T)"),
        ):
            axis.hlines(y + shift, rows["low"], rows["high"], color="#333", lw=1.1)
            axis.scatter(rows["value"], y + shift, color=[COLOR[n] for n in names], zorder=3, s=34, marker=mark,
                         edgecolor="#333", lw=0.5, label=label)  # fmt: skip
        axis.set_title(model, fontsize=10)
        axis.set_xlabel(f"heads out of {n_heads[model]}")
        axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    axes[0][0].set_yticks(y, names)
    # The figure's, since an axis' own would be as wide as all panels and push them apart.
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8)
    return finish(figure)


def sharing_figure(tops: dict[str, set]) -> Figure:
    """UpSet plot: how many heads belong to exactly which functions; ``tops`` maps a function to its set of heads."""
    names = [n for n in NAMES if n in tops]
    members: dict[tuple, int] = {}
    for head in sorted(set().union(*tops.values())):
        owners = tuple(n for n in names if head in tops[n])
        members[owners] = members.get(owners, 0) + 1
    groups = sorted(members, key=lambda owners: (-members[owners], len(owners), owners))
    figure, (bars, dots) = plt.subplots(2, 1, figsize=(8.2, 4.6), sharex=True, height_ratios=[1, 1.5])
    bars.bar(np.arange(len(groups)), [members[owners] for owners in groups], color="#555", width=0.6)
    bars.set_ylabel("heads")
    bars.yaxis.set_major_locator(plt.MaxNLocator(integer=True))
    for i, owners in enumerate(groups):
        rows = [names[::-1].index(n) for n in owners]
        dots.plot([i] * len(rows), rows, color="#999", lw=1.5, zorder=1)
        dots.scatter([i] * len(rows), rows, color=[COLOR[n] for n in owners], s=38, zorder=2)
    dots.set_yticks(range(len(names)), names[::-1])
    dots.set_xticks([])
    dots.grid(axis="y", color="#eee")
    dots.set_axisbelow(True)
    return finish(figure)


def scatter_figure(table: pd.DataFrame, x: str, y: str, xlabel: str, ylabel: str) -> Figure:
    """One measure of each head against another, a panel a function; ``table`` is a head table."""
    figure, axes = plt.subplots(2, 4, figsize=(9.2, 4.4))
    for axis, name in zip(axes.flat, NAMES, strict=True):
        part = table[table["function"] == name]
        axis.scatter(part[x].abs() if x == "importance" else part[x], part[y], color=COLOR[name], s=16, alpha=0.9)
        axis.axhline(0, color="#999", lw=0.8)
        axis.set_title(SHORT[name], color=DARK)
        axis.tick_params(labelsize=7)
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    for axis in axes[-1]:
        axis.set_xlabel(xlabel)
    return finish(figure)


def _draw(axes, table: pd.DataFrame, functions, column: str):
    """A map of the column on each axis; returns the last, whose scale is that of all."""
    scale = SCALES[column]
    high = scale.high if scale.high is not None else float(table[column].max())
    for axis, name in zip(axes, functions, strict=True):
        grid = table[table["function"] == name].pivot(index="layer", columns="head", values=column)
        if scale.relative:
            grid = (grid if scale.low < 0 else grid.abs()) / max(float(np.nanmax(grid.abs())), 1e-12)
        picture = axis.imshow(grid, cmap=scale.colors, vmin=scale.low, vmax=high, aspect="auto", origin="lower")
    return picture
