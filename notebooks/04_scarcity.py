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
# # How scarce are the heads of a function?
#
# **Overview.** The paper counts functional heads by the elbow of the importance curve and finds few, the spatial ones
# fewest. An elbow finds few heads in *anything*, so every count here stands beside the same count in noise.
#
# **Prerequisites.** [Probing](03_probing.ipynb).

# %% tags=["parameters"]
model: str = "nano-internvl"  # a nano name, a folder, or a hub id such as Qwen/Qwen2.5-VL-7B-Instruct
quantize: str = ""  # "", "4bit" or "8bit"
profile: str = "light"  # "light" or "full": how many permutations, null fits and random sets

# %% tags=["hide-input"]
import pandas as pd

from cogvsr_utils.pages import quote, show, start
from cogvsr_utils.plots import count_figure
from cogvsr_utils.scarcity import overlap, scarcity, spatial_difference
from cogvsr_utils.stages import Run

run = Run(model, quantize, profile)
start(run)

# %% [markdown]
# ## Counts with their null
#
# The dot is the elbow of this model's curve with an interval over resampled scenes; the grey bar the elbow of the same
# probe fitted to shuffled labels; the tick the number of heads whose own linear probe passes a 5 % false discovery rate.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each function the elbow count of heads with its interval, over a grey bar of the elbow count in noise, and a tick for the false discovery rate count"}, "figure": {"caption": "How many heads serve each function, by three rules.", "name": "fig-counts"}}
table, probe = run.heads_table(), run.probe()
counts = scarcity(table, probe["null"], probe["resampled"], list(probe["classes"]))
count_figure(counts)

# %% tags=["hide-input"]
show(counts.drop(columns="spatial"))

# %% [markdown]
# ## Are spatial heads the scarcest?
#
# Mean elbow count of the two spatial functions less the mean of the other six, with an interval over scenes.

# %% tags=["hide-input"]
difference = spatial_difference(probe["resampled"], list(probe["classes"]))
verdict = (
    "fewer spatial heads"
    if difference["high"] < 0
    else "more spatial heads"
    if difference["low"] > 0
    else "no difference that this data can tell"
)
show(pd.DataFrame([{**difference, "verdict": verdict}]))

# %% [markdown]
# ## How much hangs on the threshold?
#
# Heads above a fixed share of the strongest head's importance, for several shares.

# %% tags=["hide-input"]
rows = []
for name, part in table.groupby("function"):
    strength = part["importance"].abs() / part["importance"].abs().max()
    rows.append(
        {"function": name, **{f"above {share:.0%}": int((strength > share).sum()) for share in (0.1, 0.25, 0.5, 0.75)}}
    )
show(counts[["function"]].merge(pd.DataFrame(rows), on="function"))

# %% [markdown]
# ## Do functions share heads?
#
# Jaccard overlap of the top heads of every two functions, beside what two random sets of that size share.

# %% tags=["hide-input"]
shared = overlap(table, run.n_top)
show(shared.sort_values("jaccard", ascending=False).head(8))

# %% tags=["hide-input"]
inside = ((counts["elbow"] >= counts["null_low"]) & (counts["elbow"] <= counts["null_high"])).sum()
quote(
    elbow_least=counts["elbow"].min(),
    elbow_most=counts["elbow"].max(),
    elbow_null=counts["null_elbow"].median(),
    elbow_inside_null=float(inside),
    fdr_least=counts["n_fdr"].min(),
    spatial_difference=difference["difference"],
    spatial_low=difference["low"],
    spatial_high=difference["high"],
    spatial_verdict=verdict,
    mean_overlap=shared["jaccard"].mean(),
    chance_overlap=shared["chance"].iloc[0],
)

# %% [markdown]
# ## Summary
#
# The elbow's counts are small here as in the paper, and small in noise too. Whether scarcity is real is a question for
# the null bar, not for the count.
#
# **What's next.** [What happens when the heads are removed?](05_interventions.ipynb)
