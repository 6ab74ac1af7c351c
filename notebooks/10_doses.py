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
# # How much, and at what cost?
#
# **Overview.** If spatial heads matter, more of an edit should do more, and more than the same edit of random heads.
# And an edit is only worth something if it leaves the rest as it was: other functions' steps, and texts without a
# picture.
#
# **Prerequisites.** [What the heads do](05_interventions.ipynb).

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
from cogvsr_utils import Experiment
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.collateral import PICTURES, TEXT
from cogvsr_utils.pipeline import doses
from cogvsr_utils.pipeline.measured import table
from cogvsr_utils.report.effect_figures import dose_figure
from cogvsr_utils.report.figures import SHORT, forest_figure
from cogvsr_utils.report.pages import measured_note, paragraph, quote, show, span, start, with_interval
from cogvsr_utils.stats import ALPHA

experiment = Experiment(model, quantize, profile, source)
start(experiment)

# %% tags=["hide-input"]
measured_note([experiment], doses.DOSES)

# %% [markdown]
# ## More heads, larger factors, longer steps
#
# The heads that the paper's probe ranks first for the two spatial functions: ablated, from a few to a fifth of all
# heads for each; the top tenth scaled; and moved along the direction from wrong towards right answers, or away from it.
# All at every token, on some questions of split C, teacher-forced. Beside them random heads, as many of each layer, and
# random directions as long (means over the draws).

# %% mystnb={"image": {"alt": "Three panels, heads ablated, factor and strength: change of log-probability of spatial steps under spatial heads, random heads and random directions, and of other steps under spatial heads"}, "figure": {"caption": "Change of the log-probability of right answers against the dose; bands are 95 % over scenes.", "name": "fig-doses"}}
response = table(experiment, doses.dose_response)
dose_figure(response)

# %% [markdown]
# ## Does more do more?
#
# The slope over the doses on one side of no edit, with an intercept: an effect that is the same at every dose has no
# slope. Per doubling of the heads ablated, per unit of the factor, per standard deviation of the step; the mean over
# scenes, with the p that it is 0. Beside it the slopes of random heads and directions (*random* is their mean): p that
# the spatial heads' is one of them, taken as normal ([Crawford and Howell's
# t](https://doi.org/10.1076/clin.12.4.482.7241)), and q over all rows. *p place* asks no such shape, only how often one
# of them is as far off, but cannot be below 2 over their number and one.

# %%
trends = table(experiment, doses.dose_trends)
columns = ["side", "slope", "p_slope", "against", "random", "p_place", "p", "q"]
show(with_interval(trends, "slope", "low", "high", "+.3f")[columns], digits=3)

# %% [markdown]
# ## What else changes?
#
# The first token of every step's reply, with the edit and without: the Kullback–Leibler divergence between the two
# distributions, on each function's steps, as they are asked and without their picture. Emphasis is at the strengths
# tuned on split B, *attend* doubles the odds of the spatial heads' attention to the picture; as many random heads of
# the same layers are ablated beside the spatial ones (one draw). A divergence is never below 0, so it is to be
# compared: between functions, and with the random heads.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each function the divergence of the reply's first token under ablation of spatial and of random heads, scaling, steering and attention, with pictures and without, with intervals"}, "figure": {"caption": "Divergence of the first token of replies, in nats, by function and edit; 95 % over scenes.", "name": "fig-side-effects"}}
effects = table(experiment, doses.side_effects)
effects = effects.sort_values("function", key=lambda names: names.map(NAMES.index), kind="stable")
panels = {
    kind: effects[effects["prompts"] == kind].rename(columns={"function": "label", "edit": "kind", "kl": "value"})
    for kind in (PICTURES, TEXT)
}
markers = {"ablate": "o", doses.OTHER_HEADS: "X", "scale": "s", "steer": "^", "attend": "v"}
forest_figure({kind: part.replace({"label": SHORT}) for kind, part in panels.items()}, "divergence, nats", markers)

# %% [markdown]
# Beside it how many replies begin with another token, what that does to accuracy, and whether replies become all alike:
# how often the commonest first token is the likeliest, without the edit and with it. Means over the functions.

# %% tags=["hide-input"]
effects["steps"] = effects["function"].isin(doses.SPATIAL).map({True: "spatial", False: "others"})
columns = ["kl", "moved", "before", "change", "most_before", "most"]
by_kind = effects.groupby(["edit", "prompts", "steps"])[columns].mean().reset_index()
shown = by_kind.assign(steps=by_kind["steps"] + ", " + by_kind["prompts"]).drop(columns="prompts")
show(shown, percent=("moved", "before", "most_before", "most"), points=("change",), digits=3)

# %% [markdown]
# And the heads of every function, ablated in their turn: divergence on the function's own steps, by its own heads and
# by the other functions' (means); by its own heads on others' steps, and on all steps without their pictures. Some
# steps move more than others whatever is ablated, and some sets move everything: *beyond* is how much more own heads
# move own steps than both would give together. A description, without a test; the
# [test](05_interventions.ipynb) is of right answers.

# %% tags=["hide-input"]
sets = table(experiment, doses.set_side_effects)
apart = doses.own_divergence(sets)
apart["text alone"] = sets[sets["prompts"] == TEXT].groupby("edit")["kl"].mean()
show(apart.rename(index=SHORT).rename_axis("heads of").reset_index(), digits=2)

# %% [markdown]
# What that does to accuracy, on own steps and on others', and how often the commonest first token of own steps is the
# likeliest, without the edit and with it.

# %% tags=["hide-input"]
asked = sets[sets["prompts"] == PICTURES]
own = asked[asked["edit"] == asked["function"]].set_index("edit")
beside = own[["before", "change", "most_before", "most"]].reindex(NAMES)
beside.insert(2, "change, others", asked[asked["edit"] != asked["function"]].groupby("edit")["change"].mean())
show(beside.rename(index=SHORT).rename_axis("heads of").reset_index(),
     percent=("before", "most_before", "most"), points=("change", "change, others"))  # fmt: skip

# %% [markdown]
# ## The same on a model of your own
#
# Any edits, by name, of any model; here one head, with the odds of its attention to the picture doubled.

# %%
from cogvsr_utils import attend, load_items, load_vlm, mask, side_effects

edits = {"head 5.0 off": mask([(5, 0)]), "head 5.0 sees more": attend([(5, 0)], "add", 0.7)}
mine = side_effects(load_vlm("nano-internvl"), load_items("synth", split="C", limit=8), edits, progress=False)
mine.groupby(["edit", "prompts"])[["kl", "moved"]].mean().round(4)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
alone = trends.drop_duplicates("side").set_index("side")
ablated, sloping = alone.loc[doses.SIDES["ablate", 1]], alone[alone["p_slope"] < ALPHA]
special = trends[trends["q"] < ALPHA]
cells = by_kind.set_index(["edit", "prompts", "steps"])["kl"]
costs = ", ".join(
    f"{edit} {cells[edit, PICTURES, 'spatial']:.2f} and {cells[edit, PICTURES, 'others']:.2f}"
    for edit in dict.fromkeys(by_kind["edit"])
)
up = alone.loc[doses.SIDES["scale", 1]]
quote(scaled_slope=up["slope"], scaled_low=up["low"], scaled_high=up["high"], scaled_random=up["random"])
paragraph(
    f"More of an edit makes right answers to spatial steps less likely on {(sloping['slope'] < 0).sum()} of "
    f"{len(alone)} sides of no edit and likelier on {(sloping['slope'] > 0).sum()} (slope, p below "
    f"{ALPHA}): every doubling of the heads ablated changes log-probability by {ablated['slope']:+.2f} "
    f"({span(ablated['low'], ablated['high'], '+.2f', 1)}). The slope is another than that of {trends['draws'].min()} "
    f"random draws in {len(special)} of {len(trends)} comparisons (q below {ALPHA}). The cost, as divergence of first "
    f"words on spatial steps and on others: {costs}."
)

# %% [markdown]
# **What's next.** [Can latent heads be activated?](07_latent_heads.ipynb)
