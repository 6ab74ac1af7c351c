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
from cogvsr_utils.pages import quote, show, start
from cogvsr_utils.plots import curve_figure, head_maps
from cogvsr_utils.stages import Run, choose
from cogvsr_utils.stats import stability, wilson

run = Run(model, quantize, profile)
start(run)

# %% [markdown]
# ## What a probe has to beat
#
# One linear classifier in the same folds of scenes, on everything that might give a step's function away. *All heads* is
# the model; every row above it is not its seeing. The control task gives each answer text a random function: what a probe
# learns of that, it learns by heart.

# %% tags=["hide-input"]
ground = choose.controls(run)
show(ground[["predictor", "meaning", "n", "accuracy", "balanced_accuracy"]], percent=("accuracy", "balanced_accuracy"))

# %% [markdown]
# ## The paper's joint probe
#
# One network over all heads: each head's slice with its layer's mean goes through a shared map to 64 numbers, then 512
# units, then eight functions. It is fitted on 60 % of split A's scenes and scored on split C, whose scenes it never saw:
# as the paper trains it, and strictly, stopped early on scenes held out for that, the mean of five seeds.

# %% tags=["hide-input"]
probe, strict = choose.probe(run), choose.strict_probe(run)
joint = []
for name, predicted in {"paper": probe["predicted"], "strict": strict["predicted"]}.items():
    accuracy, low, high = wilson(predicted == probe["truth"])
    joint.append({"protocol": name, "n": len(probe["truth"]), "accuracy": accuracy, "ci_low": low, "ci_high": high})
joint = pd.DataFrame(joint)
show(joint, percent=("accuracy", "ci_low", "ci_high"))

# %% tags=["hide-input"]
told = ground.set_index("predictor")["accuracy"]
quote(
    probe_accuracy=joint["accuracy"].iloc[0],
    probe_low=joint["ci_low"].iloc[0],
    probe_high=joint["ci_high"].iloc[0],
    probe_strict=joint["accuracy"].iloc[1],
    probe_gain=joint["accuracy"].iloc[0] - told["text"],
    text_accuracy=told["text"],
    untrained_accuracy=told["untrained model"],
    blank_accuracy=told["blank picture"],
    selectivity=told["all heads"] - told["control task"],
)

# %% [markdown]
# A high number, and no proof: the heads see the question, and the question's wording alone is nearly as telling. What
# the probe is good for is *ranking* heads.

# %% [markdown]
# ## Importance of every head
#
# Gradient × activation on the 40 % of split A that the probe was not fitted on. Each map has its own scale.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Eight layer by head maps, one a function, darker where the joint probe leans on a head more"}, "figure": {"caption": "Importance of every head for each function (absolute value, scaled within each map).", "name": "fig-importance"}}
table = choose.heads_table(run)
head_maps(table)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Eight curves of head importance sorted downwards, each with its elbow marked, over a grey band that shuffled labels give"}, "figure": {"caption": "Sorted importance with the elbow (farthest point from the chord). The grey band is what the same probe gives with shuffled labels.", "name": "fig-curves"}}
curve_figure(table, probe["null"], probe["classes"])

# %% [markdown]
# ## Each head on its own
#
# A ridge probe for every head, cross-validated by scene. AUROC 0.5 is chance.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Eight layer by head maps of AUROC, one a function"}, "figure": {"caption": "AUROC of a linear probe on each head alone; darker is higher, from 0.5 (chance) to each map's own maximum.", "name": "fig-auroc"}}
head_maps(table, "auroc")

# %% [markdown]
# ## What a head adds to the text
#
# The same probe, asked for what the text leaves open: it is fitted to the residuals of the text's own guess, and its gain
# is AUROC of text and head together less that of the text. The p value is for the best of *all* heads and functions, with
# residuals shuffled among steps of the same index.

# %% tags=["hide-input"]
single = choose.head_probes(run)
best = table.sort_values("gain", ascending=False).groupby("function").first().loc[list(NAMES)].reset_index()
best["text_auroc"] = best["function"].map(dict(zip(probe["classes"], single["text_auroc"], strict=True)))
passed = table[table["p_max"] < 0.05].groupby("function").size()
best["heads_passed"] = best["function"].map(passed).fillna(0).astype(int)
show(best[["function", "text_auroc", "layer", "head", "gain", "p_max", "q", "heads_passed"]], digits=4)

# %% [markdown]
# ## The five heads that matter most for each function

# %% tags=["hide-input"]
top = table[table["rank_importance"] <= 5].sort_values(["function", "rank_importance"])
lines = [
    {
        "function": name,
        "heads (layer.head)": ", ".join(f"{r.layer}.{r.head}" for r in top[top["function"] == name].itertuples()),
    }
    for name in NAMES
]
show(pd.DataFrame(lines))

# %% [markdown]
# ## How stable is the order?
#
# Importance by five seeds of the strict probe, each over resampled scenes: overlap of the top heads of two draws (Jaccard,
# beside what two random sets share) and Kendall's rank correlation of their whole orders.

# %% tags=["hide-input"]
firm = stability(strict["resampled"], run.n_top)
stable = pd.DataFrame(
    {
        "function": probe["classes"],
        "k": run.n_top,
        "jaccard": firm["jaccard"],
        "chance": firm["chance"],
        "tau": firm["tau"],
    }
)
show(stable.set_index("function").loc[list(NAMES)].reset_index())

# %% [markdown]
# ## Do the rankings agree?
#
# Spearman's rank correlation, over heads, of the joint probe's importance with each head's own AUROC, with its gain over
# the text, and with what removing the head costs on split C.

# %% tags=["hide-input"]
lines = []
for name in NAMES:
    part = table[table["function"] == name]
    strength = part["importance"].abs()
    lines.append(
        {
            "function": name,
            "with_auroc": strength.corr(part["auroc"], method="spearman"),
            "with_gain": strength.corr(part["gain"], method="spearman") if part["gain"].nunique() > 1 else float("nan"),
            "with_effect": strength.corr(-part["effect"], method="spearman"),
        }
    )
agree = pd.DataFrame(lines)
show(agree)

# %% [markdown]
# ## The whole table
#
# One row a function and head, with everything above; [its columns](../book/head_table.md) are explained on a page of
# their own. It lies beside the other results as `heads.parquet` and `heads.csv`.

# %% tags=["hide-input"]
columns = [
    "function",
    "layer",
    "head",
    "importance",
    "selected",
    "auroc",
    "gain",
    "selectivity",
    "p_max",
    "q",
    "effect",
]
show(table.sort_values("rank_importance")[columns].head(10), digits=3)

# %% tags=["hide-input"]
quote(
    median_agreement=float(agree["with_auroc"].median()),
    effect_agreement=float(agree["with_effect"].median()),
    best_auroc=float(table["auroc"].max()),
    n_passed=float(passed.sum()),
    n_pairs=float(len(table)),
    stable_jaccard=float(stable["jaccard"].mean()),
    chance_jaccard=float(firm["chance"]),
)

# %% [markdown]
# ## Summary
#
# Functions can be read from heads, from many of them, and nearly all of it could be read from the words. The rankings
# answer different questions and need not agree; [which of them can be believed](A2_validation.ipynb) is tested.
#
# **What's next.** [How few are the heads of a function?](04_scarcity.ipynb)
