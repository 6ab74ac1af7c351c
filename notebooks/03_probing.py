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
# # Which heads serve which function?
#
# **Overview.** Two probes read the function of a step from the heads' activations: the paper's joint network over all
# heads, and one small linear probe for every head. Before either, what can be had without any activations.
#
# **Prerequisites.** [Answers and activations](02_capture.ipynb).

# %% tags=["parameters"]
model: str = "nano-internvl"  # a nano name, a folder, or a hub id such as Qwen/Qwen2.5-VL-7B-Instruct
quantize: str = ""  # "", "4bit" or "8bit"
profile: str = "light"  # "light" or "full": how many permutations, null fits and random sets

# %% tags=["hide-input"]
import pandas as pd

from cogvsr_utils.functions import NAMES
from cogvsr_utils.items import guess_functions, steps_table
from cogvsr_utils.pages import quote, show, start
from cogvsr_utils.plots import curve_figure, head_maps
from cogvsr_utils.stages import Run
from cogvsr_utils.stats import wilson

run = Run(model, quantize, profile)
start(run)

# %% [markdown]
# ## First, what needs no model

# %% tags=["hide-input"]
held = run.activations("A")
text = steps_table(run.items["A"])
ground = guess_functions(text)
show(ground, percent=("accuracy", "balanced_accuracy"))

# %% [markdown]
# ## The paper's joint probe
#
# One network over all heads: each head's slice with its layer's mean goes through a shared map to 64 numbers, then 512
# units, then eight functions. It is fitted on 60 % of split A's scenes and scored on split C, whose scenes it never saw.

# %% tags=["hide-input"]
probe = run.probe()
right = probe["predicted"] == probe["truth"]
accuracy, low, high = wilson(right)
joint = pd.DataFrame(
    [{"predictor": "joint probe, all heads", "n": len(right), "accuracy": accuracy, "ci_low": low, "ci_high": high}]
)
show(joint, percent=("accuracy", "ci_low", "ci_high"))

# %% tags=["hide-input"]
gain = accuracy - ground.set_index("predictor").loc["question words and step index", "accuracy"]
quote(
    probe_accuracy=accuracy,
    probe_low=low,
    probe_high=high,
    probe_gain=gain,
    text_accuracy=ground.set_index("predictor").loc["question words and step index", "accuracy"],
)

# %% [markdown]
# A high number, and no proof: the heads see the question, and the question's wording alone is nearly as telling. What
# the probe is good for is *ranking* heads.

# %% [markdown]
# ## Importance of every head
#
# Gradient × activation on the 40 % of split A that the probe was not fitted on. Each map has its own scale.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Eight layer by head maps, one a function, darker where the joint probe leans on a head more"}, "figure": {"caption": "Importance of every head for each function (absolute value, scaled within each map).", "name": "fig-importance"}}
table = run.heads_table()
head_maps(table)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Eight curves of head importance sorted downwards, each with its elbow marked, over a grey band that shuffled labels give"}, "figure": {"caption": "Sorted importance with the elbow (farthest point from the chord). The grey band is what the same probe gives with shuffled labels.", "name": "fig-curves"}}
curve_figure(table, probe["null"], probe["classes"])

# %% [markdown]
# ## Each head on its own
#
# A ridge probe for every head, cross-validated by scene. AUROC 0.5 is chance. Beside it, 95 % of the *best head over all
# functions* when labels are shuffled among steps of the same index.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Eight layer by head maps of AUROC, one a function"}, "figure": {"caption": "AUROC of a linear probe on each head alone; darker is higher, from 0.5 (chance) to each map's own maximum.", "name": "fig-auroc"}}
head_maps(table, "auroc")

# %% tags=["hide-input"]
single = run.head_probes()
bar = float(pd.Series(single["null"].max(axis=(1, 2))).quantile(0.95))
best = table.sort_values("auroc", ascending=False).groupby("function").first().loc[list(NAMES)].reset_index()
best["null_95"] = bar
show(best[["function", "layer", "head", "auroc", "null_95", "p_max", "q"]], digits=3)

# %% [markdown]
# ## The five heads that matter most for each function

# %% tags=["hide-input"]
top = table[table["rank"] <= 5].sort_values(["function", "rank"])
lines = [
    {
        "function": name,
        "heads (layer.head)": ", ".join(f"{r.layer}.{r.head}" for r in top[top["function"] == name].itertuples()),
    }
    for name in NAMES
]
show(pd.DataFrame(lines))

# %% [markdown]
# ## Do the two rankings agree?
#
# Spearman's rank correlation, over heads, of the joint probe's importance with each head's own AUROC.

# %% tags=["hide-input"]
agree = pd.DataFrame(
    {"function": name, "spearman": part["importance"].abs().corr(part["auroc"], method="spearman")}
    for name, part in table.groupby("function")
)
agree["function"] = pd.Categorical(agree["function"], NAMES)
show(agree.sort_values("function"))

# %% tags=["hide-input"]
quote(null_auroc=bar, median_agreement=float(agree["spearman"].median()), best_auroc=float(table["auroc"].max()))

# %% [markdown]
# ## Summary
#
# Functions can be read from heads, from many of them. The two rankings answer different questions and need not agree.
#
# **What's next.** [How few are the heads of a function?](04_scarcity.ipynb)
