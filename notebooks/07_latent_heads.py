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
# # Can latent heads be activated?
#
# **Overview.** The paper shows a model where things are, in words or drawn on the picture, finds that answers get better and
# that more heads serve spatial functions, and calls those heads *latent*. But a cue may also help because the answer is in
# it, and any mark changes a picture. So here each cue stands beside a *placebo*: boxes of the same sizes, stroke and colour
# where nothing is. What counts is true minus misplaced.
#
# **Prerequisites.** [Probing](03_probing.ipynb) and [ablation](05_interventions.ipynb).

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
source: str = "synth"  # "synth" or the path of a CogVSR .jsonl file; cues need CogVSR-Synth, which knows its boxes

# %% tags=["hide-input"]
from cogvsr_utils import Experiment
from cogvsr_utils.dataset.cues import MARKS
from cogvsr_utils.functions import SPATIAL
from cogvsr_utils.pipeline import latent
from cogvsr_utils.pipeline.measured import is_measured, table
from cogvsr_utils.report.effect_figures import cue_figure, latent_figure
from cogvsr_utils.report.figures import SHORT, forest_figure
from cogvsr_utils.report.pages import measured_note, paragraph, quote, show, span, start, verdict, with_interval

experiment = latent.with_cues(Experiment(model, quantize, profile, source))
start(experiment)
measured_note([experiment] if is_measured(experiment, latent.cue_effects) else [])

# %% [markdown]
# ## What a cue is
#
# The things that a question names are outlined, marked by a dot, or left while all else is made grey. The same boxes can
# also be written before the question. A placebo has them where nothing is, or on things that the question is not about.

# %% tags=["hide-input"] mystnb={"image": {"alt": "One rendered table-top picture nine times: outlined, dotted and masked things; in rows at their true places, where nothing is, and on other things"}, "figure": {"caption": "One question under every drawn cue: at the things it names, where nothing is, and on other things.", "name": "fig-cues"}}
items = [item for item in experiment.items("C") if item.image is not None]
names = [name for name, (shown, which, _) in latent.CONDITIONS.items() if shown in MARKS and which != "grey"]
shown = {name: {item.uid: item for item in latent.cued(items, name)} for name in names}
uid = next(uid for uid in shown[names[-1]])
cue_figure({name: shown[name][uid] for name in names}, n_columns=3)

# %% [markdown]
# ## Do cues help?
#
# Main questions that name things, asked alone, without steps. Each true cue against the same cue misplaced, on the same
# questions; the placebos against no cue show what a mark does as such.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Change of accuracy by cue with intervals, zero marked: true boxes against misplaced ones, placebos against no cue"}, "figure": {"caption": "Change of accuracy in points, 95 % over pictures. Left: true cues less misplaced ones. Right: what placebos do to questions without a cue.", "name": "fig-cue-effects"}}
effects = table(experiment, latent.cue_effects)
points = effects[effects["against"].fillna("") != ""].copy()
points[["value", "low", "high"]] = 100 * points[["change", "low", "high"]]
points["label"] = points["condition"]
true = points[points["condition"].str.endswith(latent.TRUE) & ~points["condition"].str.startswith(latent.GREY)]
placebo = points[points["against"] == latent.NONE]
forest_figure({"true less misplaced": true, "less no cue": placebo}, "change of accuracy, points")

# %% [markdown]
# *Kept* is the share still right of what is right without a cue: what a cue costs where none was needed.

# %% tags=["hide-input"]
cells = with_interval(effects, "change", form="+.1f", scale=100, low="low", high="high")
columns = ["condition", "against", "n", "accuracy", "kept", "change", "q"]
show(cells[columns].fillna({"against": ""}), percent=("accuracy", "kept"), digits=3)

# %% [markdown]
# ## Is the answer in the cue?
#
# On a grey picture nothing can be seen but the cue. If a cue alone lifts accuracy there, it gives the answer away, and its
# help says nothing about heads.

# %% tags=["hide-input"]
grey = effects[effects["condition"].str.startswith(latent.GREY)]
cells = with_interval(grey, "change", form="+.1f", scale=100, low="low", high="high")
show(cells[["condition", "n", "accuracy", "change"]], percent=("accuracy",))

# %% [markdown]
# ## Which heads are latent?
#
# Two things are asked of a head, on split A. Does it tell steps of a spatial function from others better with true cues than
# with misplaced ones (*rise*; on wordings that took no part in fitting)? And does it carry what helps: put into the run
# without cues as it is in the cued run, does it raise the right answers' log-probability more than the others of its layer
# do (*above*; true less misplaced)? A latent head does both, corrected over all heads and both functions.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Scatter of heads for each spatial function: rise of decodability under true cues against what patching the head changes; latent heads are filled"}, "figure": {"caption": "Each head by the rise of its decodability and by what patching it adds beyond its layer; latent heads, if any, are filled.", "name": "fig-latent"}}
heads = table(experiment, latent.latent_heads)
latent_figure(heads)

# %%
best = heads.assign(p=heads[["p_rise", "p_patch"]].max(axis=1)).sort_values("p").groupby("function").head(3)
columns = ["function", "layer", "head", "decodability", "rise", "p_rise", "above", "p_patch", "latent"]
show(best[columns].replace({"function": SHORT}), digits=3)

# %% [markdown]
# ## Would gradients have told?
#
# Patching every head takes a pass for each. Integrated gradients between the two pictures predict it from a few passes.
# *Spearman* is their agreement over heads; *saturated* the share of steps that are already certain, where little can change.

# %% tags=["hide-input"]
check = table(experiment, latent.attribution_check)
show(check.replace({"function": SHORT}), percent=("saturated",))

# %% [markdown]
# ## Without any cue
#
# If heads are latent, they should work when they are activated directly: made larger, moved as the cue moves them, or made to
# attend to the picture. Beside them as many random heads of the same layers, and the cues themselves. Split C,
# teacher-forced; *elsewhere* is the mean over the steps of the six other functions, *seconds* relative to a pass without
# edits.

# %% tags=["hide-input"]
activation = table(experiment, latent.latent_activation).fillna({"heads": ""})
key = ["method", "heads", "k"]
own = activation[activation["function"] == SPATIAL[0]]
wide = with_interval(own, "delta_log_prob", "low", "high", "+.2f").set_index(key)[["n", "delta_log_prob", "seconds"]]
by_method = activation[~activation["function"].isin(SPATIAL)].groupby(key)["delta_log_prob"].mean()
show(wide.assign(elsewhere=by_method).rename(columns={"delta_log_prob": "spatial perception"}).reset_index())

# %% tags=["hide-input"]
by_condition = effects.set_index("condition")
box = by_condition.loc[latent.BOX]
n_latent = int(heads["latent"].sum())
tried = own[own["heads"].isin(["latent", "nearest"])].sort_values("delta_log_prob").iloc[-1]
beside = own[own["heads"] == "random"].set_index("method")["delta_log_prob"].get(tried["method"], float("nan"))
quote(
    cue_box=100 * box["change"], cue_box_low=100 * box["low"], cue_box_high=100 * box["high"], n_cued=int(box["n"]),
    n_latent=n_latent, activated=tried["method"], activated_spatial=tried["delta_log_prob"], activated_random=beside,
)  # fmt: skip

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
helped = true[true["low"] > 0]["condition"].tolist()
paragraph(
    f"Boxes drawn around what a question names change accuracy by {100 * box['change']:+.1f} points beyond misplaced ones "
    f"({span(box['low'], box['high'])}; n {box['n']:.0f}): they "
    f"{verdict(box['low'], box['high'], 'hurt', 'help', 'make no difference that this data can show')}. Of "
    f"{len(true)} true cues {len(helped)} help beyond their placebo{': ' + ', '.join(helped) if helped else ''}. "
    f"{n_latent} of {len(heads) // len(SPATIAL)} heads are latent by both tests. Without a cue, the best of three ways to "
    f"activate {'them' if n_latent else 'the heads that come nearest'} ({tried['method']}) changes the log-probability of "
    f"spatial perception by {tried['delta_log_prob']:+.2f}, with random heads of the same layers {beside:+.2f}."
)

# %% [markdown]
# **What's next.** [Functions without their words](09_wording.ipynb)
