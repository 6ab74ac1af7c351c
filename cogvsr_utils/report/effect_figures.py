"""Figures of what ablation does, and of how well it can be predicted.

ablation_figure(matrix)      head set by function answered: change of accuracy
control_figure(table, label) a function's heads beside random sets
planted_figure(tables)       what ablating planted heads does, and as many others
cue_figure(items)            one question's picture under several cues
dose_figure(table)           what more of an edit does to spatial steps and others
latent_figure(table)         each head by what a cue changes in it
camera_figure(table)         accuracy by where the camera stands
quality_figure, set_figure   rankings against the measured effect, single heads and whole sets
power_figure                 planted heads found, and false ones
scaling_figure               seconds and memory against number of items
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.functions import MAIN_NAME, NAMES, SPATIAL
from cogvsr_utils.report.figures import COLOR, DARK, SHORT, finish
from cogvsr_utils.stats import ALPHA


def ablation_figure(matrix: pd.DataFrame) -> Figure:
    """Head set (rows) by function answered (columns): change of accuracy in points; a dot marks q below 0.05.

    ``matrix`` is ``ablation_matrix``'s.
    """
    columns, rows = [*NAMES, MAIN_NAME], list(NAMES)
    points, q = (
        matrix.pivot(index="head_set", columns="function", values=v).loc[rows, columns] for v in ("change", "q")
    )
    points = 100 * points.to_numpy()
    figure, axis = plt.subplots(figsize=(8.2, 5.2))
    bound = max(float(np.nanmax(np.abs(points))), 1e-6)
    picture = axis.imshow(points, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    for (i, j), value in np.ndenumerate(points):
        mark = "•" if q.iloc[i, j] < ALPHA else ""
        shade = "white" if abs(value) > 0.6 * bound else DARK
        axis.text(j, i, f"{value:+.0f}{mark}", ha="center", va="center", fontsize=9, color=shade)
    axis.set_xticks(range(len(columns)), [SHORT.get(c, c) for c in columns], rotation=35, ha="right")
    axis.set_yticks(range(len(rows)), [SHORT[r] for r in rows])
    axis.set(xlabel="function of the steps answered", ylabel="function whose heads are ablated")
    figure.colorbar(picture, label="change of accuracy, points", shrink=0.8)
    return finish(figure)


def control_figure(table: pd.DataFrame, label: str) -> Figure:
    """What ablation does to each function's own steps: its heads (dot) beside each kind of random sets (bars).

    ``table`` is ``against_controls``'s; ``label`` names its outcome.
    """
    names = [name for name in NAMES if name in set(table["function"])][::-1]
    figure, axis = plt.subplots(figsize=(7.6, 5.0))
    kinds, y = list(table["kind"].unique()), np.arange(len(names))
    for number, kind in enumerate(kinds):
        rows = table[table["kind"] == kind].set_index("function").loc[names]
        place, shade = y + 0.25 * (1 - number), str(0.55 + 0.15 * number)
        axis.barh(place, rows["control_high"] - rows["control_low"], left=rows["control_low"], color=shade, height=0.22,
                  label=f"{kind}, 95 %")  # fmt: skip
    axis.scatter(rows["own"], y, color=[COLOR[n] for n in names], zorder=3, s=46, edgecolor="#333", lw=0.5,
                 label="the function's heads")  # fmt: skip
    axis.axvline(0, color="#333", lw=0.8)
    axis.set_yticks(y, names)
    axis.set_xlabel(label)
    axis.legend(loc="lower left", bbox_to_anchor=(-0.4, 1), ncols=2, fontsize=8)
    return finish(figure)


def planted_figure(tables: dict[str, pd.DataFrame], column: str, label: str) -> Figure:
    """Planted heads ablated (rows; the last the mean of random sets of other heads) by function answered (columns); a
    panel a model.

    ``tables`` maps a model to a table of ``planted_effects``, ``column`` is one of its changes and ``label`` names it.
    """
    figure, axes = plt.subplots(len(tables), 1, figsize=(7.6, 3.6 * len(tables)), squeeze=False, layout="constrained")
    for axis, (model, table) in zip(axes[:, 0], tables.items(), strict=True):
        rows = [name for name in (*NAMES, "other heads") if name in set(table["ablated"])]
        values = table.pivot_table(index="ablated", columns="function", values=column).loc[rows, list(NAMES)]
        bound = max(float(values.abs().max(axis=None)), 1e-6)
        picture = axis.imshow(values, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
        for (i, j), value in np.ndenumerate(values.to_numpy()):
            axis.text(j, i, f"{value:+.1f}" if abs(value) >= 0.05 else "0", ha="center", va="center", fontsize=8,
                      color="white" if abs(value) > 0.6 * bound else DARK)  # fmt: skip
        axis.set_xticks(range(len(NAMES)), [SHORT[name] for name in NAMES], rotation=35, ha="right")
        axis.set_yticks(range(len(rows)), [SHORT.get(name, name) for name in rows])
        axis.set(title=model, xlabel="function of the steps answered", ylabel="whose planted heads are ablated")
        figure.colorbar(picture, label=label, shrink=0.8)
    return finish(figure)


def cue_figure(items: dict[str, Item], n_columns: int) -> Figure:
    """The pictures of ``items``, each under its name, ``n_columns`` side by side."""
    n_rows = -(-len(items) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(2.4 * n_columns, 2.6 * n_rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, item) in zip(axes.flat, items.items(), strict=False):
        axis.imshow(open_image(item))
        axis.set_title(name, fontsize=9)
    return finish(figure)


def latent_figure(table: pd.DataFrame) -> Figure:
    """Each head by the rise of its decodability under true cues and by what patching it adds beyond its layer, a panel
    a function; latent heads filled. ``table`` is ``latent_heads``'s."""
    names = [name for name in NAMES if name in set(table["function"])]
    figure, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names), 3.6), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        rows = table[table["function"] == name]
        for latent, part in rows.groupby("latent"):
            fill, label = (COLOR[name], "latent") if latent else ("none", "not latent")
            axis.scatter(part["rise"], part["above"], s=20, edgecolor=COLOR[name], lw=0.9, facecolor=fill, label=label)
        axis.axhline(0, color="#999", lw=0.8)
        axis.axvline(0, color="#999", lw=0.8)
        axis.set(title=name, xlabel="rise of decodability, true less misplaced", ylabel="patching, beyond its layer")
        axis.legend(fontsize=8)
    return finish(figure)


def dose_figure(table: pd.DataFrame) -> Figure:
    """Change of log-probability against the dose, a panel a method: spatial heads on spatial steps (with a band) and on
    others, and what is random on spatial steps. ``table`` is ``dose_response``'s."""
    methods = {"ablate": "heads ablated", "scale": "factor", "steer": "strength, standard deviations"}
    known = [name for name in methods if name in set(table["method"])]
    figure, axes = plt.subplots(
        1, len(known), figsize=(3.4 * len(known), 3.3), squeeze=False, sharey=True, layout="constrained"
    )
    own, others = "spatial steps", "other steps"
    lines = {("spatial heads", own): ("o-", "#882255"), ("spatial heads", others): ("o--", "#cc9fb4"),
             ("random heads", own): ("s-", "#777"), ("random directions", own): ("^-", "#44aa99")}  # fmt: skip
    for axis, method in zip(axes[0], known, strict=True):
        for (heads, steps), (style, color) in lines.items():
            part = table[(table["method"] == method) & (table["heads"] == heads) & (table["steps"] == steps)]
            if len(part):
                part = part.sort_values("dose")
                axis.plot(part["dose"], part["delta_log_prob"], style, color=color, ms=4, label=f"{heads}, {steps}")
                axis.fill_between(part["dose"], part["low"], part["high"], color=color, alpha=0.15, lw=0)
        axis.axhline(0, color="#333", lw=0.8)
        axis.set(xlabel=methods[method], title=method)
        if method == "ablate":
            axis.set_xscale("log", base=2)
    axes[0, 0].set_ylabel("change of log-probability")
    handles = {}  # each kind once, whichever panel has it
    for axis in axes[0]:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=2, fontsize=8)
    return finish(figure)


def camera_figure(table: pd.DataFrame) -> Figure:
    """Accuracy by how far aside the camera stands, spatial perception with a band; ``table`` has one split's rows of
    ``camera_accuracy``."""
    figure, axis = plt.subplots(figsize=(7.6, 3.3), layout="constrained")
    for name in NAMES:
        part = table[table["function"] == name].sort_values("shift")
        own = name == SPATIAL[0]
        line = {"lw": 2.4 if own else 1.2, "ms": 5 if own else 3}
        axis.plot(part["shift"], part["accuracy"], "o-", color=COLOR[name], label=SHORT[name], **line)
        if own:
            axis.fill_between(part["shift"], part["low"], part["high"], color=COLOR[name], alpha=0.15, lw=0)
    axis.axhspan(0.5, 0.7, color="#eee", zorder=0)
    axis.set(xlabel="camera aside, board squares", ylabel="accuracy", ylim=(0.3, 1.02))
    figure.legend(loc="outside right center", fontsize=8)
    return finish(figure)


def quality_figure(table: pd.DataFrame) -> Figure:
    """Precision at k and rank correlation of every ranking, a dot a function, a tick their mean, chance dotted."""
    order = table.groupby("ranking")["spearman"].mean().sort_values().index
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), sharey=True, layout="constrained")
    for axis, column, chance in zip(axes, ("precision", "spearman"), (table["chance"].iloc[0], 0.0), strict=True):
        for i, ranking in enumerate(order):
            part = table[table["ranking"] == ranking]
            axis.plot(part[column].mean(), i, "|", color=DARK, ms=26, mew=2.5)
            spread = np.linspace(-0.25, 0.25, len(part))
            axis.hlines(i + spread, part[f"{column}_low"], part[f"{column}_high"], color="#ccc", lw=1)
            axis.scatter(part[column], i + spread, color=[COLOR[n] for n in part["function"]], s=16, zorder=3)
        axis.axvline(chance, color="#c33", ls=":", lw=1.2)
    handles = [plt.Line2D([], [], marker="o", ls="", color=COLOR[name], label=SHORT[name]) for name in NAMES]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8)
    axes[0].set(xlabel=f"precision at {table['k'].iloc[0]}", yticks=range(len(order)), yticklabels=order)
    axes[1].set_xlabel("rank correlation")
    return finish(figure)


def set_figure(table: pd.DataFrame) -> Figure:
    """Change of accuracy under a function's own set, with interval, and under others; ``table`` has one edit's rows of
    ``set_effects``."""
    figure, axis = plt.subplots(figsize=(7.6, 0.36 * len(table) + 1.1))
    rows = table.set_index("set")[["change", "low", "high", "elsewhere"]].iloc[::-1] * 100
    y, color = np.arange(len(rows)), "#1b6ca8"
    axis.hlines(y, rows["low"], rows["high"], color=color, lw=2)
    axis.scatter(rows["change"], y, color=color, s=36, zorder=3, label="its own set ablated")
    axis.scatter(
        rows["elsewhere"], y, facecolor="white", edgecolor=color, s=36, zorder=3, label="other functions' sets ablated"
    )
    axis.axvline(0, color="#333", lw=0.8)
    axis.set_yticks(y, rows.index)
    axis.set_xlabel("change of accuracy, points")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8)
    return finish(figure)


def power_figure(table: pd.DataFrame) -> Figure:
    """Power and false discoveries of every rule against the planted strength; ``table`` is ``planted.power``'s."""
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 3.2))
    styles = {"max-T": "#1b6ca8", "FDR": "#117733", "elbow, single heads": "#882255", "elbow, joint probe": "#CC6677"}
    for rule, part in table.groupby("rule", sort=False):
        part = part.sort_values("strength")
        for axis, column in zip(axes, ("power", "false_share"), strict=True):
            axis.plot(part["strength"], part[column], "o-", color=styles[rule], label=rule, ms=4)
    axes[0].set(ylabel="planted heads found", ylim=(-0.03, 1.03))
    axes[1].set(ylabel="false among the selected", ylim=(-0.03, 1.03))
    for axis in axes:
        axis.set_xlabel("planted strength, standard deviations")
    axes[0].legend(fontsize=8)
    return finish(figure)


def scaling_figure(table: pd.DataFrame) -> Figure:
    """Seconds and peak memory against number of items; ``table`` has items, seconds and peak_mb."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.9))
    for axis, column, label in zip(axes, ("seconds", "peak_mb"), ("seconds", "peak memory, MB"), strict=True):
        axis.plot(table["items"], table[column], "o-", color="#33658a")
        axis.set(xlabel="items", ylabel=label, xlim=(0, None), ylim=(0, 1.15 * table[column].max()))
    return finish(figure)
