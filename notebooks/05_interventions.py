# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Remove them, emphasise them, steer them
#
# **Overview.** The test that no probe can replace: take a function's heads away and see what breaks. Heads were chosen
# on split A; strengths are tuned on B; everything below is measured on C.
#
# **Prerequisites.** [Probing](03_probing.ipynb) and [scarcity](04_scarcity.ipynb).

# %% tags=["parameters"]
model: str = "nano-internvl"  # a nano name, a folder, or a hub id such as Qwen/Qwen2.5-VL-7B-Instruct
quantize: str = ""  # "", "4bit" or "8bit"
profile: str = "light"  # "light" or "full": how many permutations, null fits and random sets

# %% tags=["hide-input"]
import numpy as np
import pandas as pd

from cogvsr_utils.functions import NAMES
from cogvsr_utils.pages import quote, show, start
from cogvsr_utils.plots import control_figure, effect_matrix
from cogvsr_utils.stages import Run, remove

run = Run(model, quantize, profile)
start(run)

# %% [markdown]
# ## Removing each function's heads
#
# The top tenth of all heads for a function are made a thousandth of themselves at every token, and the model answers all
# of split C again. Columns are the steps that are answered; the diagonal is where the damage should be.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Matrix of accuracy changes in points: rows are the function whose heads are removed, columns the function of the steps answered"}, "figure": {"caption": "Change of accuracy in points when a function's heads are removed (generated answers, split C). A dot marks p < 0.05, sign flips over scenes, not corrected for the number of cells.", "name": "fig-matrix"}}
masked = remove.masked(run)
columns = [*NAMES, "Main question"]
changes = masked.pivot(index="head_set", columns="function", values="change").loc[list(NAMES), columns]
p = masked.pivot(index="head_set", columns="function", values="p").loc[list(NAMES), columns]
figure = effect_matrix(changes, p < 0.05)
figure.savefig(run.folder / "front.png", dpi=150)
figure

# %% [markdown]
# The same cells on the diagonal, with intervals over scenes and p values corrected over the whole matrix
# (Benjamini–Hochberg).

# %% tags=["hide-input"]
from cogvsr_utils.stats import fdr

masked["q"] = fdr(masked["p"])
own = masked[masked["function"] == masked["head_set"]]
show(
    own[["function", "k", "n", "accuracy_before", "accuracy_after", "change", "ci_low", "ci_high", "p", "q"]],
    percent=("accuracy_before", "accuracy_after"),
    points=("change", "ci_low", "ci_high"),
    digits=4,
)

# %% [markdown]
# Every cell of the matrix with its interval:

# %% tags=["hide-input", "hide-output"]
show(
    masked[["head_set", "function", "n", "accuracy_before", "accuracy_after", "change", "ci_low", "ci_high", "p", "q"]],
    percent=("accuracy_before", "accuracy_after"),
    points=("change", "ci_low", "ci_high"),
    digits=4,
)

# %% [markdown]
# ## Against random heads like them
#
# Any heads may hurt when removed, those that write much above all. Each function's heads are set against random sets of as many
# other heads, whose summed output norm (of what their columns of the projection give out at the answers) is within a
# twentieth of theirs, in the same layers where these hold enough such sets, else in neighbouring ones too (`same layer`: the
# share of heads in the function's own layers).
# Here a part of split C is scored, all steps of an item in one pass with the true earlier answers, which makes so many
# sets affordable; the numbers therefore differ a little from the generated ones above.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each function the change of its own accuracy when its heads are removed, over a grey bar of what random heads of like norm do"}, "figure": {"caption": "Effect on a function's own steps: its heads (dot) and random heads of like layers and output norm (grey: 95 % of the random sets, tick: their mean).", "name": "fig-controls"}}
matched = remove.against_random(remove.random_sets(run, {name: remove.top(run, name) for name in NAMES}))
control_figure(matched)

# %% tags=["hide-input"]
show(matched, points=("change", "random_mean", "random_low", "random_high"), digits=3)

# %% [markdown]
# ## Is the damage specific?
#
# The mean of the diagonal (a function's own steps) less the mean off the diagonal, over the eight functions, with a p
# value from 10,000 random pairings of head sets with functions.

# %% tags=["hide-input"]
square = changes[list(NAMES)].to_numpy()
rng = np.random.default_rng(0)
shuffles = np.array([square[np.arange(8), rng.permutation(8)].mean() for _ in range(10_000)])
diagonal, off = square.diagonal().mean(), square[~np.eye(8, dtype=bool)].mean()
p_specific = float((1 + (shuffles <= diagonal).sum()) / (1 + len(shuffles)))
show(
    pd.DataFrame([{"own steps": diagonal, "other steps": off, "difference": diagonal - off, "p": p_specific}]),
    points=("own steps", "other steps", "difference"),
    digits=4,
)

# %% [markdown]
# ## Emphasising spatial heads
#
# The heads of the two spatial functions, made larger. The factor is the one that did best on split B.

# %% tags=["hide-input"]
emphasised = remove.emphasised(run)
show(
    emphasised[emphasised["split"] == "C"][
        ["function", "strength", "n", "accuracy_before", "accuracy_after", "change", "ci_low", "ci_high", "p"]
    ],
    percent=("accuracy_before", "accuracy_after"),
    points=("change", "ci_low", "ci_high"),
    digits=4,
)

# %% [markdown]
# ## Steering spatial heads
#
# The same heads, pushed along the direction from wrong towards right answers (measured on A), by a multiple of the
# standard deviation along it, at the tokens that predict the answer.

# %% tags=["hide-input"]
steered = remove.steered(run)
show(
    steered[steered["split"] == "C"][
        ["function", "strength", "n", "accuracy_before", "accuracy_after", "change", "ci_low", "ci_high", "p"]
    ],
    percent=("accuracy_before", "accuracy_after"),
    points=("change", "ci_low", "ci_high"),
    digits=4,
)


# %% tags=["hide-input"]
def cell(table, name):
    return table[(table["split"] == "C") & (table["function"] == name)].iloc[0]


beaten = int((matched["p"] < 0.05).sum())
spatial = own.set_index("function").loc["Spatial Perception"]
relational = own.set_index("function").loc["Relational Reasoning"]
quote(
    n_top=run.n_top,
    mask_spatial=100 * spatial["change"],
    mask_spatial_low=100 * spatial["ci_low"],
    mask_spatial_high=100 * spatial["ci_high"],
    mask_relational=100 * relational["change"],
    mask_own=100 * diagonal,
    mask_other=100 * off,
    p_specific=p_specific,
    beaten=beaten,
    significant=int((own["q"] < 0.05).sum()),
    n_random=int(matched["sets"].min()),
    emphasis_spatial=100 * cell(emphasised, "Spatial Perception")["change"],
    emphasis_low=100 * cell(emphasised, "Spatial Perception")["ci_low"],
    emphasis_high=100 * cell(emphasised, "Spatial Perception")["ci_high"],
    emphasis_factor=cell(emphasised, "Spatial Perception")["strength"],
    emphasis_main=100 * cell(emphasised, "Main question")["change"],
    steer_spatial=100 * cell(steered, "Spatial Perception")["change"],
    steer_low=100 * cell(steered, "Spatial Perception")["ci_low"],
    steer_high=100 * cell(steered, "Spatial Perception")["ci_high"],
    steer_main=100 * cell(steered, "Main question")["change"],
)

# %% [markdown]
# ## Summary
#
# Removing heads is a causal test: the matrix says what each set of heads is needed for, and the random sets say whether
# *these* heads were special. Emphasis and steering are reported as they came out.
#
# **What's next.** [Do other families show the same?](06_families.ipynb)
