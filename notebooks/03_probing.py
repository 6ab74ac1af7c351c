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
# # Which functions can be read from which heads?
#
# **Overview.** Two probes read the function of a step from the heads' activations: the paper's joint network over all
# heads, and one small linear probe for every head. Before either, what can be had without any activations.
#
# **Prerequisites.** [Answers and activations](02_capture.ipynb).

# %% tags=["remove-cell"]
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("cogvsr_utils") is None:  # on Colab or Binder: fetch the package with its small models
    repository = "https://github.com/cogvsr/attention-in-space"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", repository, "attention-in-space"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", "attention-in-space"], check=True)
    sys.path.insert(0, "attention-in-space")

# %% tags=["parameters"]
model: str = "nano-internvl"  # a nano name, a folder, or a hub id such as Qwen/Qwen2.5-VL-7B-Instruct
quantize: str = ""  # "", "4bit" or "8bit"
profile: str = "light"  # "light" or "full": how much of everything
source: str = "synth"  # "synth" or the path of a CogVSR .jsonl file

# %% tags=["hide-input"]

from cogvsr_utils import Experiment, top_heads
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.attention import attention_example
from cogvsr_utils.pipeline import baselines, measured, selection, validation
from cogvsr_utils.pipeline.experiment import n_top
from cogvsr_utils.report.book import PAGES
from cogvsr_utils.report.figures import SHORT
from cogvsr_utils.report.head_figures import attention_figure, curve_figure, head_maps
from cogvsr_utils.report.pages import measured_note, paragraph, quote, show, start, with_interval
from cogvsr_utils.stats import ALPHA

experiment = Experiment(model, quantize, profile, source)
start(experiment)

# %% tags=["hide-input"]
measured_note([experiment], PAGES["03_probing"].heavy)

# %% [markdown]
# ## What a probe has to beat
#
# One linear classifier, cross-validated by scene, on everything that might give a step's function away. *All heads* is
# the model; every row above it is something else. The second column holds out wordings as well as scenes: questions
# that differ in nothing but the things they are about are of one wording. The control task gives each wording a random
# function: what a probe learns of that, it has memorised.

# %%
ground = measured.table(experiment, baselines.probe_baselines)
explained = ground.assign(predictor=ground["predictor"] + ": " + ground["meaning"])
explained = with_interval(explained, "accuracy", "low", "high")
explained = with_interval(explained, "held_out", "held_low", "held_high")
show(explained[["predictor", "accuracy", "held_out"]].rename(columns={"held_out": "wordings held out"}))

# %% [markdown]
# ## The paper's joint probe
#
# One network over all heads: each head's slice with its layer's mean goes through a shared map to 64 numbers, then 512
# units, then eight functions. It is fitted on 60 % of split A's scenes and scored on split C, whose scenes it never
# saw: for as many epochs as the paper (inputs and optimiser [depart](A2_validation.ipynb) from its own), and stopped
# early on scenes kept out for that, the mean of five seeds (*strict*).

# %%
joint = measured.table(experiment, validation.probe_accuracy)
show(with_interval(joint, "accuracy"))

# %% [markdown]
# ## Importance of every head
#
# Gradient × activation on the 40 % of split A that the probe was not fitted on.

# %% mystnb={"image": {"alt": "Eight layer by head maps, one a function, darker where the joint probe uses a head more"}, "figure": {"caption": "Importance of every head for each function (absolute value, as a share of the function's strongest head).", "name": "fig-importance"}}
table = measured.table(experiment, validation.head_table)
head_maps(table, "importance")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Eight curves of head importance sorted downwards, each with its elbow marked, over a grey band of labels moved between wordings"}, "figure": {"caption": "Sorted importance with the elbow (farthest point from the chord). The grey band is the same probe where every wording has the function of another.", "name": "fig-curves"}}
curve_figure(table, measured.table(experiment, validation.null_curves))

# %% [markdown]
# ## Each head on its own
#
# A ridge probe for every head, cross-validated by scene. AUROC 0.5 is chance.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Eight layer by head maps of AUROC, one a function, on one scale from 0.5"}, "figure": {"caption": "AUROC of a linear probe on each head alone; darker is higher, 0.5 is chance.", "name": "fig-auroc"}}
head_maps(table, "auroc")

# %% [markdown]
# How much of that is the wording? The best head of each function beside the best of probes fitted where every wording
# has the function of another: their median, and what 95 % of them are below; how many heads are above that.

# %% tags=["hide-input"]
by_wording = measured.table(experiment, selection.wording_null).set_index("function").loc[list(NAMES)]
show(by_wording.rename(index=SHORT).reset_index(), digits=3)

# %% [markdown]
# ## What a head adds to the text
#
# The same probe, asked for what the text leaves open: it is fitted to the residuals of the text's own prediction, and
# its gain is AUROC of text and head together less that of the text. The p value is for the best of *all* heads and
# functions, with residuals shuffled among steps of the same index.

# %% tags=["hide-input"]
single = selection.ridge_probes(experiment)
best = table.sort_values("gain", ascending=False).groupby("function").first().loc[list(NAMES)].reset_index()
passed = table[table["p_max"] < ALPHA].groupby("function").size()
best["passed"] = best["function"].map(passed).fillna(0).astype(int)
best["best head"] = best["layer"].astype(str) + "." + best["head"].astype(str)
show(best[["function", "best head", "gain", "p_max", "passed"]], digits=3)

# %% tags=["hide-input"]
by_text = ground.set_index("predictor").loc["text"]
paragraph(
    f"The text's own AUROC is {single.text_auroc.min():.4f} to {single.text_auroc.max():.4f}; 1 leaves nothing to "
    f"gain. It errs in {(1 - by_text['accuracy']) * by_text['n']:.0f} of {by_text['n']:.0f} steps: these alone can "
    "tell what a head adds."
)

# %% [markdown]
# ## The top heads of each function
#
# By the paper's importance, layer before the dot. Beside them, how stable such an order is, by the early-stopped
# probe: the overlap of the top heads of two draws of seed and scenes (Jaccard), and Kendall's rank correlation (tau) of
# the whole order.

# %% tags=["hide-input"]
k = n_top(len(table) // len(NAMES))
stable = measured.table(experiment, validation.stability).set_index("function").loc[list(NAMES)]
top = [", ".join(f"{layer}.{head}" for layer, head in top_heads(table, name, k)) for name in NAMES]
show(stable.assign(heads=top).reset_index()[["function", "heads", "jaccard", "tau"]])

# %% tags=["hide-input"]
paragraph(f"Two random sets of {k} heads share {stable['chance'].iloc[0]:.2f} in this measure.")

# %% [markdown]
# ## What do they attend to?
#
# Of the top heads for spatial perception, the four that attend to the picture most at the token before the answer to
# one step: which patches, and how much of their attention goes to the picture at all (in per cent). One step shows
# nothing in general; it is how to look at any head of any model (`attention_map`).

# %% tags=["hide-input"] mystnb={"image": {"alt": "The picture of one question, and for each of four heads the same picture with the patches that the head attends to lit up"}, "figure": {"caption": "Attention of four heads for spatial perception (layer.head) before the answer to one step; lighter patches have more of it.", "name": "fig-attention"}}
seen = attention_example(experiment.vlm, experiment.items("A"), SPATIAL[0], top_heads(table, SPATIAL[0], k))
item, step, found = seen or (None, 0, None)
sinks = bool(seen) and bool((found.weights != found.without_sinks).any())
lines = {"attention": found.weights} | ({"without sinks": found.without_sinks} if sinks else {}) if seen else {}
(
    attention_figure(item, found.heads, lines)
    if seen
    else paragraph("*This model or these data have no picture in one grid of patches.*")
)

# %% tags=["hide-input"]
paragraph(f"Asked: {item.steps[step].question} ({item.steps[step].answer})" if seen else "")

# %% [markdown]
# ## Do the rankings agree?
#
# Spearman's rank correlation, over heads, of the joint probe's importance with each head's own AUROC, and with what
# ablating the head costs on split C.

# %% tags=["hide-input"]
agree = measured.table(experiment, validation.ranking_agreement).set_index("function").loc[list(NAMES)]
show(agree.reset_index())

# %% [markdown]
# ## The whole table
#
# One row a function and head, with everything above; [its columns](../book/head_table.md) are explained on a page of
# their own.

# %%
table[["function", "layer", "head", "importance", "auroc", "effect"]].head(3)

# %% tags=["remove-input"]
beyond = ground.set_index("predictor").loc[["text", "grey picture"], "held_beyond_low"]
accuracy, held_out = (ground.set_index("predictor")[column] for column in ("accuracy", "held_out"))
quote(
    probe_accuracy=joint["accuracy"].iloc[0],
    text_accuracy=accuracy["text"],
    untrained_accuracy=accuracy["untrained model"],
    blank_accuracy=accuracy["grey picture"],
    held_heads=held_out["all heads"],
    held_text=held_out["text"],
    held_grey=held_out["grey picture"],
    held_alike=" and ".join(f"the {name}" for name, low in beyond.items() if low <= 0) or "neither",
    n_passed=float(passed.sum()),
    n_pairs=float(len(table)),
)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
paragraph(
    f"The paper's probe names the function of {joint['accuracy'].iloc[0]:.1%} of the steps of split C. On split A "
    f"all heads reach {accuracy['all heads']:.1%}, the text alone {accuracy['text']:.1%}, an untrained model's heads "
    f"{accuracy['untrained model']:.1%}; on wordings held out {held_out['all heads']:.1%}, {held_out['text']:.1%} "
    f"and {held_out['untrained model']:.1%}. Above the text, {int(passed.sum())} of {len(table)} pairs of function "
    "and head pass, by the few steps where the text model errs, which wording alone can do. Importance agrees with "
    "each head's own probe at a median rank correlation of "
    f"{agree['with_auroc'].median():.2f}, with what ablation costs at {agree['with_cost'].median():.2f}."
)

# %% [markdown]
# Which ranking can be relied on is tested on the page [Can the selection be relied on?](A2_validation.ipynb).
#
# **What's next.** [How few are the heads of a function?](04_scarcity.ipynb)
