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
# fewest. An elbow finds few heads in *anything*, so every number here stands beside the same number in noise, with an
# interval over scenes.
#
# **Prerequisites.** [Probing](03_probing.ipynb).

# %% tags=["parameters"]
model: str = "nano-internvl"  # a nano name, a folder, or a hub id such as Qwen/Qwen2.5-VL-7B-Instruct
quantize: str = ""  # "", "4bit" or "8bit"
profile: str = "light"  # "light" or "full": how many permutations, null fits and random sets

# %% tags=["hide-input"]
import pandas as pd

from cogvsr_utils import top_heads
from cogvsr_utils.functions import NAMES
from cogvsr_utils.pages import quote, show, start
from cogvsr_utils.plots import count_figure, share_of_heads_figure
from cogvsr_utils.scarcity import overlap, removal_difference, spatial_difference, threshold_counts
from cogvsr_utils.stages import Run, choose

run = Run(model, quantize, profile)
start(run)

# %% [markdown]
# ## Counts with their null
#
# Circles are the paper's reading: heads before the elbow. The grey bar is the elbow of the same probe fitted to shuffled
# labels. Diamonds are the strict one: heads whose removal costs the function's steps accuracy on split C, by a max-T test
# over all heads and functions.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each function the elbow count of heads with its interval over a grey bar of the elbow count in noise, and the count that passes the strict test with its interval"}, "figure": {"caption": "How many heads serve each function, as the paper counts (circles) and strictly (diamonds), with 95 % intervals over scenes.", "name": "fig-counts"}}
table, probe = choose.heads_table(run), choose.probe(run)
counts = choose.scarce(run)
n_heads = len(run.vlm.heads)
count_figure({model: counts}, {model: n_heads})

# %% tags=["hide-input"]
rules = {name: part.set_index("function").loc[list(NAMES)] for name, part in counts.groupby("statistic")}


def beside(titles, digits=0):
    """Values of some statistics, each with its interval over scenes and with what noise gives."""
    lines = {"function": NAMES}
    for title, rule in titles.items():
        part = rules[rule]
        lines[title] = [f"{v:.{digits}f}" for v in part["value"]]
        for name, low, high in (("interval", "low", "high"), ("in noise", "null_low", "null_high")):
            lines[f"{title} {name}"] = [
                f"{a:.{digits}f} to {b:.{digits}f}" for a, b in zip(part[low], part[high], strict=True)
            ]
    return pd.DataFrame(lines)


show(beside({"elbow": "elbow", "removal costs accuracy": "n_removal"}))

# %% [markdown]
# And heads whose own probe tells what the text's guess gets wrong. Where the wording gives the function away altogether,
# nothing is left to tell, and no head passes.

# %% tags=["hide-input"]
show(beside({"FDR": "n_fdr", "max-T": "n_max_t"}))

# %% [markdown]
# ## How sparse, and where
#
# Gini and Hoyer are 0 where all heads matter alike and 1 where one is all. Participation is the number of equal heads
# that would be spread as these are. Depth is the mean layer, weighted by importance: 0 is the first, 1 the last.

# %% tags=["hide-input"]
show(beside({"gini": "gini", "hoyer": "hoyer"}, digits=2))

# %% tags=["hide-input"]
show(beside({"participation": "participation", "depth": "depth"}, digits=2))

# %% [markdown]
# ## Are spatial heads the scarcest?
#
# The two spatial functions less the other six, with intervals over scenes. *As it is* takes the paper's probe; *equalised*
# a strict one fitted and read on steps in which every function is as frequent as any other at each length of answer
# and each difficulty (whether all heads together tell the step); *strict* counts the heads whose removal costs
# accuracy, with equally many steps of each function, since a test finds more the more it has.
# Lower counts, or higher Gini and Hoyer, mean scarcer.

# %% tags=["hide-input"]
lines = []
for reading, draws in {"as it is": probe["resampled"], "equalised": choose.strict_probe(run)["equal"]}.items():
    lines.append(spatial_difference(draws, probe["classes"]).assign(steps=reading))
removed = choose.effects(run, "C")
lines.append(removal_difference(removed, probe["classes"]).assign(steps="strict"))
differences = pd.concat(lines)
show(differences[["steps", "statistic", "difference", "low", "high", "scarcer"]])
n_equal = int(differences["n"].iloc[-1])

# %% [markdown]
# ## How much hangs on the threshold?
#
# Heads above a share of the strongest head's importance, beside the elbow; and heads whose removal costs accuracy with a
# family-wise p below a level.

# %% tags=["hide-input"]
passing = threshold_counts(probe["importance"], removed, probe["classes"])
shares, levels = (
    passing[passing["rule"] == rule].pivot(index="function", columns="threshold", values="heads").loc[list(NAMES)]
    for rule in ("share of the strongest", "removal, p below")
)
shown = shares.rename(columns="above {:.0%}".format).assign(elbow=rules["elbow"]["value"].astype(int))
show(shown.join(levels.rename(columns="p below {:.0%}".format)).reset_index())

# %% [markdown]
# ## Do functions share heads?
#
# The top tenth of the heads for each function: how many heads belong to exactly which functions.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bars of how many heads belong to exactly the functions dotted below each bar"}, "figure": {"caption": "Which functions share their top heads: bars count the heads that belong to exactly the functions dotted below.", "name": "fig-overlap"}}
share_of_heads_figure({name: set(top_heads(table, name, run.n_top)) for name in NAMES})

# %% [markdown]
# Jaccard overlap of the pairs that share most, with intervals over scenes, beside what two random sets of that size share
# (`chance`; 97.5 % of such pairs share no more than `chance high`):

# %% tags=["hide-input"]
shared = overlap(table, run.n_top, probe["resampled"], probe["classes"])
show(shared.drop(columns="p_chance").sort_values("jaccard", ascending=False).head(6))

# %% tags=["hide-input"]
elbow = rules["elbow"]
inside = ((elbow["value"] >= elbow["null_low"]) & (elbow["value"] <= elbow["null_high"])).sum()
plain, equal = (differences[differences["statistic"] == "elbow"].iloc[i] for i in (0, 1))
quote(
    elbow_least=elbow["value"].min(),
    elbow_most=elbow["value"].max(),
    elbow_null=elbow["null"].median(),
    elbow_inside_null=float(inside),
    null_curves=float(probe["null"].shape[0] * probe["null"].shape[1]),
    strict_least=rules["n_removal"]["value"].min(),
    strict_most=rules["n_removal"]["value"].max(),
    spatial_difference=plain["difference"],
    spatial_low=plain["low"],
    spatial_high=plain["high"],
    spatial_verdict={"yes": "fewer", "no": "more", "open": "no difference that this data can tell"}[plain["scarcer"]],
    equal_difference=equal["difference"],
    equal_low=equal["low"],
    equal_high=equal["high"],
    equal_verdict={"yes": "fewer", "no": "more", "open": "no difference that this data can tell"}[equal["scarcer"]],
    n_scarcer=float((differences.loc[differences["steps"] != "as it is", "scarcer"] == "yes").sum()),
    strict_difference=differences["difference"].iloc[-1],
    strict_low=differences["low"].iloc[-1],
    strict_high=differences["high"].iloc[-1],
    strict_n=float(n_equal),
    overlapping=float((shared["jaccard"] > shared["chance_high"]).sum()),
    overlapping_chance=len(shared) * float(shared["p_chance"].iloc[0]),
    n_overlaps=float(len(shared)),
    mean_overlap=shared["jaccard"].mean(),
    chance_overlap=shared["chance"].iloc[0],
)

# %% [markdown]
# ## Summary
#
# The elbow's counts are small here as in the paper, and small in noise too. Whether scarcity is real is a question for
# the null, not for the count.
#
# **What's next.** [What happens when the heads are removed?](05_interventions.ipynb)
