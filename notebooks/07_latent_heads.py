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
# **Overview.** The paper shows a model where things are, in words or drawn on the picture, finds that answers get
# better and that more heads serve spatial functions, and calls those heads *latent*. But a cue may also help because
# the answer is in it, and any mark changes a picture. So here each cue stands beside a *placebo*: boxes of the same
# sizes, stroke and colour where nothing is. A cue has to beat both its placebo and no cue.
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
from cogvsr_utils.pipeline import activation, cues, latent
from cogvsr_utils.pipeline.measured import table
from cogvsr_utils.report.effect_figures import cue_figure, latent_figure
from cogvsr_utils.report.figures import SHORT, forest_figure
from cogvsr_utils.report.pages import measured_note, paragraph, quote, show, span, start, with_interval
from cogvsr_utils.stats import ALPHA

BEYOND = "beyond", "beyond_low", "beyond_high"
experiment = cues.with_cues(Experiment(model, quantize, profile, source))
start(experiment)

# %% tags=["hide-input"]
measured_note([experiment], activation.LATENT)

# %% [markdown]
# ## What a cue is
#
# The things that a question names are outlined (in the colour and stroke of training, in black, or with a broad
# stroke), marked by a dot, or left while all else is made grey. The same boxes can also be written before the question.
# A placebo has them where nothing is, or on things that the question is not about; in words, names can also change
# places.
#
# What a mark means is learnt. The nano models were shown true cues in training beside six of the fifteen kinds of
# question; what follows rests on the other kinds that name things. Their steps still share words with those of the six.
# Further questions of those other kinds, about scenes of their own, are asked as well, so that small effects can show.

# %% tags=["hide-input"] mystnb={"image": {"alt": "One rendered table-top picture nine times: outlined, dotted and masked things; in rows at their true places, where nothing is, and on other things"}, "figure": {"caption": "One question under every mark: at the things it names, where nothing is, and on other things.", "name": "fig-cues"}}
items = [item for item in experiment.items("C") if item.image is not None]
names = [name for name, (shown, which, _) in cues.CONDITIONS.items() if shown in MARKS and which != "grey"]
shown = {name: {item.uid: item for item in cues.cued(items, name)} for name in names}
uid = next(uid for uid in shown[names[-1]])
cue_figure({name: shown[name][uid] for name in names}, n_columns=3)

# %% [markdown]
# ## Is a mark understood?
#
# Pictures of split C, never seen in training, in which one of two things is marked in turn: what colour is "the marked
# object"? Without a mark a model can only guess among the things; a mask leaves nothing else to see.

# %%
known = table(experiment, cues.marked_objects).replace({"mark": {"": "no mark"}})
shown = with_interval(known, "accuracy", low="low", high="high")[["mark", "n", "accuracy", "chance"]]
show(shown, percent=("chance",))

# %% [markdown]
# ## Do cues help?
#
# Main questions that name things, asked alone, without steps. Each true cue against the same cue misplaced, on the same
# questions: the difference is what the cue says. A placebo may do harm, though: a misplaced mask hides what is asked
# about, misplaced words say what is false, a true mask hides what a count is about, and lines drawn round a thing hide
# some of it. So a cue helps where it is better than its placebo *and* better than no cue. The kinds of question that
# the training of
# `nano-internvl` showed with cues are beside; most of these need none.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Change of accuracy by cue with intervals, zero marked: true boxes against misplaced ones, and every cue and placebo against no cue"}, "figure": {"caption": "Change of accuracy in points, 95 % over pictures, for the kinds of question that training shows with cues and for all others. Left: true cues less misplaced ones. Right: true cues and placebos less no cue.", "name": "fig-cue-effects"}}
effects = table(experiment, cues.cue_effects)
points = effects[(effects["against"] != "") & ~effects["condition"].str.startswith(cues.GREY)].copy()
points[["value", "low", "high"]] = 100 * points[["change", "low", "high"]]
points["label"], points["kind"] = points["condition"], points["kinds"]
over_none = points[points["against"] == cues.NONE]
over_placebo = points[points["against"].str.endswith(cues.MISPLACED)]
panels = {"true less misplaced": over_placebo, "less no cue": over_none}
forest_figure(panels, "change of accuracy, points", {cues.NEVER: "o", cues.TRAINED: "D"})

# %% [markdown]
# The other kinds, true cues. Placebos are nowhere (*misplaced*), on *other things*, or have the names exchanged
# (*shuffled*, which states the opposite of a relation). Changes and their *n* are of the questions that both have,
# *accuracy* of all with the cue. *Kept* is the share still right of what is right without a cue: what a cue costs where
# none was needed. q is Benjamini and Hochberg's over all comparisons of both sorts of kinds, placebos' and grey
# pictures' among them.

# %% tags=["hide-input"]
never = effects[(effects["kinds"] == cues.NEVER) & ~effects["condition"].str.startswith(cues.GREY)]
cells = with_interval(never, "change", form="+.1f", scale=100, low="low", high="high")
cells = cells[cells["condition"].str.endswith(f", {cues.TRUE}")].replace(
    {"condition": {f", {cues.TRUE}$": ""}}, regex=True
)
columns = ["condition", "against", "n", "accuracy", "kept", "change", "q"]
show(cells[columns].rename(columns={"condition": "true cue"}), percent=("accuracy", "kept"), digits=3)

# %% [markdown]
# ## Is the answer in the cue?
#
# On a grey picture nothing can be seen but the cue. If a cue alone lifts accuracy there, it gives the answer away, and
# its help says nothing about heads.

# %%
grey = effects[effects["condition"].str.startswith(cues.GREY)]
cells = with_interval(grey, "change", form="+.1f", scale=100, low="low", high="high")
show(cells[["kinds", "condition", "against", "n", "accuracy", "change"]], percent=("accuracy",))

# %% [markdown]
# ## Which heads are latent?
#
# Two things are asked of a head, on split A. *Does it read more?* With true cues it tells steps of a spatial function
# from others better than with misplaced ones (*rise*) and than without (*over none*), by probes on wordings that took
# no part in fitting. *Does it carry what helps?* Patched from the cued run into the run without, it raises the
# log-probability of right answers (*patch*), more than from the misplaced run (*beyond*), and that more than the others
# of its layer (*above*). A latent head passes all five tests, corrected over all heads and both functions. Heads are
# patched where answers are predicted: one that does its work at the picture's tokens alone would not be found.

# %% mystnb={"image": {"alt": "Scatter of heads for each spatial function: rise of decodability under true cues against what patching the head changes beyond its layer; latent heads are filled"}, "figure": {"caption": "Each head by the rise of its decodability and by what patching it adds beyond its layer; latent heads, if any, are filled.", "name": "fig-latent"}}
heads = table(experiment, latent.latent_heads)
latent_figure(heads)

# %% [markdown]
# More heads that tell a function with cues than without need not mean anything: by noise alone about half of them do.
# So how many rise at all stands beside how many do so beyond chance. *Wordings* are those of a function's steps, of
# which a part is held out at a time: the fewer, the less a rise says about others.

# %% tags=["hide-input"]
rising = heads.assign(beyond_placebo=heads["rise"] > 0, beyond_none=heads["rise_over_none"] > 0,
                      rise_tested=heads["p_rise"] < ALPHA, patch_tested=heads["p_patch"] < ALPHA)  # fmt: skip
parts = ["beyond_placebo", "beyond_none", "rise_tested", "patch_tested", "latent"]
n_rising = rising.groupby("function", sort=False)[parts].sum()
n_rising.insert(0, "wordings", heads.groupby("function")["wordings"].first())
show(n_rising.rename(index=SHORT).reset_index().assign(heads=len(heads) // len(SPATIAL)))

# %% [markdown]
# Could any have been found? What would have to be there, by both measures of the rise of decodability (correlations)
# and by all three of what is patched, for a head to pass in four of five data sets, were the measures independent: the
# median over heads, beside the largest that is there.

# %% tags=["hide-input"]
there = heads.assign(
    smaller_rise=heads[["rise", "rise_over_none"]].min(axis=1),
    smallest_patch=heads[["patch", "beyond", "above"]].min(axis=1),
)
power = there.groupby("function", sort=False).agg(
    least_rise=("least_rise", "median"), largest_rise=("smaller_rise", "max"),
    least_patch=("least_patch", "median"), largest_patch=("smallest_patch", "max"),
)  # fmt: skip
show(power.rename(index=SHORT).reset_index(), digits=3)

# %% [markdown]
# The three heads that come nearest to being latent, for either function: what they read, then what they carry.

# %% tags=["hide-input"]
nearest = [f"{layer}.{head}" for layer, head in activation.chosen_heads(heads)[1][:3]]
best = heads.assign(head=heads["layer"].astype(str) + "." + heads["head"].astype(str)).replace({"function": SHORT})
best = best[best["head"].isin(nearest)]
show(best[["function", "head", "rise", "rise_over_none", "p_rise", "latent"]], digits=3)

# %% tags=["hide-input"]
show(best[["function", "head", "patch", "beyond", "above", "p_patch", "latent"]], digits=3)

# %% [markdown]
# ## Would gradients have told?
#
# Patching every head takes a pass for each. Integrated gradients between the two pictures are to predict it from a few:
# from the picture without boxes, and from that with misplaced ones, to that with true ones. *Spearman* is their
# agreement over heads; *signs*, in how many of the tenth of the heads that change most the direction is predicted;
# *slope*, how much of what is predicted comes, in log-odds (1 were it exact). *Certain* is the share of steps whose
# answer is sure already, where little can change; *settled* that of attention with one weight above 0.99, whose softmax
# passes no gradient on.

# %%
check = table(experiment, latent.attribution_check)
show(check.replace({"function": SHORT}), percent=("signs", "certain", "settled"))

# %% tags=["hide-input"]
own = check[check["function"].isin(SPATIAL)]
paragraph(
    "For spatial steps the direction of the heads that change most is predicted in "
    f"{own['signs'].min():.0%} to {own['signs'].max():.0%}, and {own['slope'].min():.2f} to {own['slope'].max():.2f} "
    "of what is predicted comes; over all heads ranks agree at "
    f"{own['spearman'].min():.2f} to {own['spearman'].max():.2f}."
)

# %% [markdown]
# ## Without any cue
#
# If heads are latent, they should work when they are activated directly: made larger, moved as the cue moves them
# (where answers are predicted), or made to attend to the picture. Beside them the cues themselves. Changes of
# log-probability on split C, teacher-forced, with 95 % over scenes: steps of each spatial function, of both (the
# primary outcome, with steering), *elsewhere* (all other steps), and of both less the mean of all draws of as many
# random heads of the same layers. *ms* are milliseconds that a question takes with the edit, replies included. Where no
# head is latent, the heads that come nearest stand in. Where a model reads pictures through cross-attention, no head is
# made to attend.

# %% tags=["hide-input"]
activated = table(experiment, activation.latent_activation)
activated = activated if "beyond" in activated else activated.assign(**dict.fromkeys(BEYOND, float("nan")))
costs = table(experiment, activation.activation_seconds).set_index("method")
chosen = activated[activated["heads"] != "random"]
columns = {**{name: SHORT[name] for name in SPATIAL}, activation.BOTH: "both", activation.ELSEWHERE: "elsewhere"}
cells = with_interval(chosen, "delta_log_prob", "low", "high", "+.2f")
cells = cells.pivot(index=["method", "heads"], columns="function", values="delta_log_prob")[list(columns)]
cells = cells.loc[chosen["method"].unique()].rename(columns=columns)
own = chosen[chosen["function"] == activation.BOTH].set_index(["method", "heads"])
cells["beyond random"] = with_interval(own, *BEYOND, "+.3f")["beyond"]
cells = cells.rename_axis(columns=None).reset_index()
show(cells.assign(ms=cells["method"].map(1000 * costs["seconds"])), digits=0)

# %% tags=["hide-input"]
paragraph(
    f"{own['k'].max():.0f} heads, {own['n'].iloc[0]:.0f} spatial steps. Without an edit a question takes "
    f"{1000 * costs.loc['nothing', 'seconds']:.0f} ms (median of {costs['n'].iloc[0]:.0f})."
)

# %% [markdown]
# ## The same on a model of your own
#
# Each head of one layer as it is with the boxes drawn, in the run without: how much likelier do right answers become?

# %%
from cogvsr_utils import TeacherForcedScorer, boxes_asked_about, drawn, heads_of, load_items, load_vlm, patch_heads

vlm, some = load_vlm("nano-internvl"), load_items("synth", split="C", limit=16)
boxes, _ = boxes_asked_about(some)  # or read_boxes("mine.json"), by uid or picture
bare, boxed = [item for item in some if item.uid in boxes], drawn(some, boxes)
target, source = TeacherForcedScorer(vlm, bare), TeacherForcedScorer(vlm, boxed)
heads_of_layer = heads_of(vlm.heads, layer=5)
as_boxed = patch_heads(target, source, [[head] for head in heads_of_layer], progress=False)  # (heads, steps)
changes = (as_boxed - target.score().log_prob).mean(1)
[(heads_of_layer[n], round(float(changes[n]), 4)) for n in (-changes).argsort()[:3]]

# %% tags=["remove-input"]
by_pair = effects.set_index(["kinds", "condition", "against"])
box, trained = (by_pair.loc[(kinds, cues.BOX, f"box, {cues.MISPLACED}")] for kinds in (cues.NEVER, cues.TRAINED))
over = by_pair.loc[(cues.NEVER, cues.BOX, cues.NONE)]
n_latent, steered = int(heads["latent"].sum()), own.loc[activation.METHOD].iloc[0]
quote(
    cue_box=100 * box["change"], cue_box_low=100 * box["low"], cue_box_high=100 * box["high"], n_cued=int(box["n"]),
    cue_over_none=100 * over["change"], n_latent=n_latent, activated_spatial=steered["delta_log_prob"],
    shared_words=latent.shared_wordings(experiment), activated_beyond=steered["beyond"],
    activated_low=steered["beyond_low"], activated_high=steered["beyond_high"],
)  # fmt: skip

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
better = points[(points["kinds"] == cues.NEVER) & (points["q"] < ALPHA) & (points["change"] > 0)]
n_against = points[points["kinds"] == cues.NEVER].groupby("condition")["against"].nunique()
helps = better.groupby("condition")["against"].nunique()
helped = [name for name, n in helps.items() if n == n_against[name] > 1]
paragraph(
    "What is marked with a box is named rightly in "
    f"{known.set_index('mark')['accuracy'].get('box', float('nan')):.0%}. In kinds of question that training did not "
    f"cue, boxes drawn around what is named change accuracy by {100 * box['change']:+.1f} points beyond misplaced "
    f"ones ({span(box['low'], box['high'])}; n {box['n']:.0f}) and by {100 * over['change']:+.1f} beyond no cue "
    f"({span(over['low'], over['high'])}); in the kinds that it cued, by {100 * trained['change']:+.1f} beyond "
    f"misplaced ones ({span(trained['low'], trained['high'])}; n {trained['n']:.0f}). Of "
    f"{over_placebo['condition'].nunique()} true cues {len(helped)} are better than no cue and every placebo in the "
    f"former{': ' + ', '.join(helped) if helped else ''}. {n_latent} of {len(heads) // len(SPATIAL)} heads are "
    f"latent. Steering {'them' if n_latent else 'the heads that come nearest'} without a cue changes the "
    f"log-probability of spatial steps by {steered['delta_log_prob']:+.3f}, {steered['beyond']:+.3f} beyond random "
    f"heads of their layers ({span(steered['beyond_low'], steered['beyond_high'], '+.3f', 1)})."
)

# %% [markdown]
# **What's next.** [Functions without their words](09_wording.ipynb)
