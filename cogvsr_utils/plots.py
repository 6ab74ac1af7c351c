"""Figures: tables and arrays in, a matplotlib figure out.

Each function has one subject; colours of functions are those of ``functions``.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from .functions import FUNCTIONS, NAMES

STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11,
    "axes.titleweight": "bold", "figure.dpi": 130, "savefig.bbox": "tight", "legend.frameon": False,
    "svg.hashsalt": "cogvsr",
}  # fmt: skip
SHORT = {f.name: f.short for f in FUNCTIONS}
COLOR = {f.name: f.color for f in FUNCTIONS}


def use_style():
    """Set the look of all figures."""
    plt.rcParams.update(STYLE)


def scene_figure(items):
    """Pictures of some items, each with its main question and its steps beside it."""
    from .items import open_image

    figure, axes = plt.subplots(len(items), 2, figsize=(9.2, 2.5 * len(items)), width_ratios=[1, 2.2], squeeze=False)
    for (left, right), item in zip(axes, items, strict=True):
        left.imshow(open_image(item))
        left.set_axis_off()
        right.set_axis_off()
        right.text(0, 1.0, f"{item.question}  →  {item.answer}", weight="bold", va="top", fontsize=10)
        for i, step in enumerate(item.steps):
            y = 0.85 - 0.14 * i
            right.text(0, y, SHORT[step.function], color="white", fontsize=7.5, va="top",
                       bbox={"facecolor": COLOR[step.function], "edgecolor": "none", "boxstyle": "round,pad=0.3"})  # fmt: skip
            right.text(0.16, y, f"{step.question}  {step.answer}", fontsize=9, va="top")
    return _finish(figure)


def share_figure(counts):
    """Horizontal bars of how many steps each function holds; ``counts`` maps function to number."""
    figure, axis = plt.subplots(figsize=(7, 3.2))
    names = [n for n in NAMES if n in counts][::-1]
    values = [counts[n] for n in names]
    axis.barh(names, values, color=[COLOR[n] for n in names])
    axis.axvline(0.08 * sum(values), color="#444", lw=1, ls=":")
    axis.text(0.08 * sum(values), len(names) - 0.35, " 8 %", fontsize=8, color="#444")
    axis.set_xlabel("steps")
    return _finish(figure)


def accuracy_figure(tables: dict, chance: bool = True):
    """Accuracy by function with intervals, one colour a table; ``tables`` maps a label to an accuracy table."""
    figure, axis = plt.subplots(figsize=(7.6, 4.0))
    first = next(iter(tables.values()))
    names = [n for n in (*NAMES, "Main question") if n in set(first["function"])][::-1]
    height = 0.8 / len(tables)
    for i, (label, table) in enumerate(tables.items()):
        rows = table.set_index("function").loc[names]
        y = np.arange(len(names)) + 0.4 - height * (i + 0.5)
        error = np.abs(rows[["ci_low", "ci_high"]].to_numpy().T - rows["accuracy"].to_numpy())
        axis.barh(y, rows["accuracy"], height * 0.9, xerr=error, label=label, color=plt.cm.cividis(0.25 + 0.5 * i),
                  error_kw={"lw": 1, "ecolor": "#333"})  # fmt: skip
    if chance:
        for i, name in enumerate(names):
            axis.plot([first.set_index("function").loc[name, "majority"]] * 2, [i - 0.4, i + 0.4], color="#c33", lw=1.4)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlim=(0, 1), xlabel="accuracy (red line: always the commonest answer)")
    if len(tables) > 1:
        axis.legend(loc="lower left", ncols=2, bbox_to_anchor=(0, 1))
    return _finish(figure)


FLOOR = {"auroc": 0.5}  # where a map's scale begins: chance, or nothing


def head_maps(table, column: str = "importance"):
    """One small layer x head map a function; darker is stronger (absolute value, each map by its own maximum)."""
    functions = [n for n in NAMES if n in set(table["function"])]
    figure, axes = plt.subplots(2, 4, figsize=(9.2, 4.6), sharex=True, sharey=True)
    for axis, name in zip(axes.flat, functions, strict=False):
        grid = table[table["function"] == name].pivot(index="layer", columns="head", values=column).abs()
        axis.imshow(
            grid, cmap="magma_r", vmin=FLOOR.get(column, 0), vmax=np.nanmax(grid), aspect="auto", origin="lower"
        )
        axis.set_title(SHORT[name], color=COLOR[name])
        axis.set_xticks(range(grid.shape[1]))
        axis.set_yticks(range(grid.shape[0]))
        axis.tick_params(labelsize=7, length=0)
    for axis in axes[-1]:
        axis.set_xlabel("head")
    for axis in axes[:, 0]:
        axis.set_ylabel("layer")
    return _finish(figure)


def family_maps(tables: dict, functions: tuple[str, ...], column: str = "auroc"):
    """Layer x head maps, a row a model and a column a function; ``tables`` maps a model's name to its head table."""
    size = (1.35 * len(functions) + 0.6, 1.55 * len(tables) + 0.4)
    figure, axes = plt.subplots(len(tables), len(functions), figsize=size, squeeze=False)
    for row, (name, table) in zip(axes, tables.items(), strict=True):
        for axis, function in zip(row, functions, strict=True):
            grid = table[table["function"] == function].pivot(index="layer", columns="head", values=column).abs()
            axis.imshow(
                grid, cmap="magma_r", vmin=FLOOR.get(column, 0), vmax=np.nanmax(grid), aspect="auto", origin="lower"
            )
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{name}\nlayer", fontsize=8)
    for axis, function in zip(axes[0], functions, strict=True):
        axis.set_title(SHORT[function], color=COLOR[function], fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("head", fontsize=8)
    return _finish(figure)


def curve_figure(table, null_importance, classes):
    """Sorted importance of every function's heads, the elbow marked, over what shuffled labels give."""
    figure, axes = plt.subplots(2, 4, figsize=(9.2, 4.4), sharex=True)
    from .stats import elbow

    classes = list(classes)
    for axis, name in zip(axes.flat, [n for n in NAMES if n in classes], strict=False):
        values = np.sort(table.loc[table["function"] == name, "importance"].abs())[::-1]
        null = -np.sort(-np.abs(null_importance[:, classes.index(name)]), axis=1)
        x = np.arange(1, len(values) + 1)
        low, high = np.quantile(null / null[:, :1], [0.025, 0.975], axis=0)
        axis.fill_between(x, low, high, color="#bbb", lw=0)
        axis.plot(x, values / values[0], color=COLOR[name], lw=1.6)
        k = elbow(values)
        axis.plot(k, values[k - 1] / values[0], "o", color=COLOR[name])
        axis.annotate(f"{k}", (k, values[k - 1] / values[0]), xytext=(5, 5), textcoords="offset points", fontsize=9)
        axis.set_title(SHORT[name], color=COLOR[name])
    for axis in axes[:, 0]:
        axis.set_ylabel("share of the top head's")
    for axis in axes[-1]:
        axis.set_xlabel("heads, most important first")
    return _finish(figure)


def count_figure(tables: dict, n_heads: dict):
    """Elbow counts beside what noise gives, and heads whose removal costs accuracy; a panel a model, a row a function, intervals over
    groups. ``tables`` maps a model to a table of scarcity's and head_counts' rows, ``n_heads`` to its number of heads."""
    figure, axes = plt.subplots(1, len(tables), figsize=(5.4 + 1.4 * len(tables), 3.9), sharey=True, squeeze=False)
    names = NAMES[::-1]
    y = np.arange(len(names))
    for axis, (model, table) in zip(axes[0], tables.items(), strict=True):
        rules = {rule: part.set_index("function").loc[list(names)] for rule, part in table.groupby("statistic")}
        elbow, strict = rules["elbow"], rules["n_removal"]
        axis.barh(y, elbow["null_high"] - elbow["null_low"], left=elbow["null_low"], color="#ddd", height=0.8,
                  label="elbow in noise, 95 %")  # fmt: skip
        for rows, shift, mark, label in (
            (elbow, 0.15, "o", "elbow"),
            (strict, -0.2, "D", "removal costs accuracy (max-T)"),
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
    return _finish(figure)


def share_of_heads_figure(tops: dict):
    """UpSet plot: how many heads belong to exactly which functions; ``tops`` maps a function to its set of heads."""
    names = [n for n in NAMES if n in tops]
    members = {}
    for head in sorted(set().union(*tops.values())):
        held = tuple(n for n in names if head in tops[n])
        members[held] = members.get(held, 0) + 1
    groups = sorted(members, key=lambda held: (-members[held], len(held), held))
    figure, (bars, dots) = plt.subplots(2, 1, figsize=(8.2, 4.6), sharex=True, height_ratios=[1, 1.5])
    x = np.arange(len(groups))
    bars.bar(x, [members[held] for held in groups], color="#555", width=0.6)
    bars.set_ylabel("heads")
    for i, held in enumerate(groups):
        rows = [names[::-1].index(n) for n in held]
        dots.plot([i] * len(rows), rows, color="#999", lw=1.5, zorder=1)
        dots.scatter([i] * len(rows), rows, color=[COLOR[n] for n in held], s=38, zorder=2)
    dots.set_yticks(range(len(names)), names[::-1])
    dots.set_xticks([])
    dots.grid(axis="y", color="#eee")
    dots.set_axisbelow(True)
    return _finish(figure)


def quality_figure(table):
    """Precision at k and rank correlation of every ranking, a dot a function, a tick their mean, chance dotted."""
    order = table.groupby("ranking")["spearman"].mean().sort_values().index
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.4), sharey=True)
    for axis, column, chance in zip(axes, ("precision", "spearman"), (table["chance"].iloc[0], 0.0), strict=True):
        for i, ranking in enumerate(order):
            part = table[table["ranking"] == ranking]
            axis.plot(part[column].mean(), i, "|", color="#222", ms=26, mew=2.5)
            spread = np.linspace(-0.25, 0.25, len(part))
            axis.hlines(i + spread, part[f"{column}_low"], part[f"{column}_high"], color="#ccc", lw=1)
            axis.scatter(part[column], i + spread, color=[COLOR[n] for n in part["function"]], s=16, zorder=3)
        axis.axvline(chance, color="#c33", ls=":", lw=1.2)
    axes[0].set(xlabel=f"precision at {table['k'].iloc[0]}", yticks=range(len(order)), yticklabels=order)
    axes[1].set_xlabel("rank correlation")
    return _finish(figure)


def set_figure(table):
    """Change of accuracy under a function's own set, with interval, and under others; ``table`` is ``set_effects``'s, one
    ablation."""
    figure, axis = plt.subplots(figsize=(7.6, 0.36 * len(table) + 1.1))
    rows = table.set_index("set")[["change", "low", "high", "elsewhere"]].iloc[::-1] * 100
    y, color = np.arange(len(rows)), "#1b6ca8"
    axis.hlines(y, rows["low"], rows["high"], color=color, lw=2)
    axis.scatter(rows["change"], y, color=color, s=36, zorder=3, label="its own set removed")
    axis.scatter(
        rows["elsewhere"], y, facecolor="white", edgecolor=color, s=36, zorder=3, label="other functions' sets removed"
    )
    axis.axvline(0, color="#333", lw=0.8)
    axis.set_yticks(y, rows.index)
    axis.set_xlabel("change of accuracy, points")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8)
    return _finish(figure)


def power_figure(table):
    """Power and false discoveries of every rule against the planted strength; ``table`` is planted.summary's."""
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 3.2))
    styles = {"max-T": "#1b6ca8", "FDR": "#63a375", "elbow, single heads": "#d1495b", "elbow, joint probe": "#edae49"}
    for rule, part in table.groupby("rule", sort=False):
        part = part.sort_values("strength")
        for axis, column in zip(axes, ("power", "false_share"), strict=True):
            axis.plot(part["strength"], part[column], "o-", color=styles[rule], label=rule, ms=4)
    axes[0].set(ylabel="planted heads found", ylim=(-0.03, 1.03))
    axes[1].set(ylabel="of the selected, in heads planted for none", ylim=(-0.03, 1.03))
    for axis in axes:
        axis.set_xlabel("planted strength, standard deviations")
    axes[0].legend(fontsize=8)
    return _finish(figure)


def effect_matrix(changes, significant=None):
    """Head set (rows) by function answered (columns): change of accuracy in points; a dot marks p below 0.05."""
    figure, axis = plt.subplots(figsize=(8.2, 5.2))
    points = 100 * changes.to_numpy()
    bound = max(float(np.nanmax(np.abs(points))), 1e-6)
    picture = axis.imshow(points, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    for (i, j), value in np.ndenumerate(points):
        mark = "•" if significant is not None and significant.to_numpy()[i, j] else ""
        shade = "white" if abs(value) > 0.6 * bound else "#222"
        axis.text(j, i, f"{value:+.0f}{mark}", ha="center", va="center", fontsize=9, color=shade)
    axis.set_xticks(range(changes.shape[1]), [SHORT.get(c, c) for c in changes.columns], rotation=35, ha="right")
    axis.set_yticks(range(changes.shape[0]), [SHORT.get(r, r) for r in changes.index])
    axis.set(xlabel="function of the steps answered", ylabel="heads removed")
    figure.colorbar(picture, label="change of accuracy, points", shrink=0.8)
    return _finish(figure)


def control_figure(table):
    """Accuracy change of each function's own steps: its heads removed (dot) against matched random sets (bar).

    ``table`` has function, change, random_low, random_mean, random_high.
    """
    figure, axis = plt.subplots(figsize=(7.4, 3.6))
    rows = table.set_index("function").loc[[n for n in NAMES if n in set(table["function"])][::-1]]
    rows = 100 * rows[["change", "random_low", "random_mean", "random_high"]]
    y = np.arange(len(rows))
    axis.barh(y, rows["random_high"] - rows["random_low"], left=rows["random_low"], color="#ddd", height=0.6,
              label="random heads like them, 95 %")  # fmt: skip
    axis.scatter(rows["random_mean"], y, marker="|", color="#777", s=80)
    axis.scatter(rows["change"], y, color=[COLOR[n] for n in rows.index], zorder=3, s=46, label="the function's heads")
    axis.axvline(0, color="#333", lw=0.8)
    axis.set_yticks(y, rows.index)
    axis.set_xlabel("change of accuracy on the function's own steps, points")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8)
    return _finish(figure)


def growth_figure(table):
    """Seconds and peak memory against number of items; ``table`` has items, seconds and peak MB."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.9))
    for axis, column in zip(axes, ("seconds", "peak MB"), strict=True):
        axis.plot(table["items"], table[column], "o-", color="#33658a")
        axis.set(xlabel="items", ylabel=column, xlim=(0, None), ylim=(0, 1.15 * table[column].max()))
    return _finish(figure)


def _finish(figure):
    """Lay out and let go of a figure, so that a notebook shows it once, as its cell's value."""
    figure.tight_layout()
    plt.close(figure)
    return figure
