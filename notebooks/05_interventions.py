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
# # What do the heads do?
#
# **Overview.** The heads that the paper's probe ranks first for a function are ablated, scaled and steered. Heads are
# selected on split A; strengths are tuned on B; effects are measured on C, or on hard questions about scenes that
# neither A nor B has.
#
# **Prerequisites.** [Probing](03_probing.ipynb) and [scarcity](04_scarcity.ipynb).

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
import pandas as pd

from cogvsr_utils import Experiment, answer, mask
from cogvsr_utils.functions import MAIN_NAME, NAMES, SPATIAL
from cogvsr_utils.pipeline import (
    ablation,
    cameras,
    damage,
    dissociation,
    emphasis,
    measured,
    mistakes,
    replies,
    selection,
)
from cogvsr_utils.report.book import PAGES
from cogvsr_utils.report.effect_figures import ablation_figure, camera_figure, control_figure, cue_figure
from cogvsr_utils.report.figures import SHORT, forest_figure
from cogvsr_utils.report.pages import (
    damage_cells,
    measured_note,
    pair_cells,
    paragraph,
    quote,
    show,
    span,
    start,
    verdict,
    with_interval,
)
from cogvsr_utils.stats import ALPHA, false_discovery_rate

experiment = Experiment(model, quantize, profile, source)
start(experiment)

# %% tags=["hide-input"]
measured_note([experiment], PAGES["05_interventions"].heavy)

# %% [markdown]
# ## Ablating each function's heads
#
# The top tenth of all heads for a function are multiplied by 0.001 at every token, and the model answers all of split C
# again. Columns are the steps that are answered; the diagonal is where the damage should be.

# %% mystnb={"image": {"alt": "Matrix of accuracy changes in points: rows are the function whose heads are ablated, columns the function of the steps answered"}, "figure": {"caption": "Change of accuracy in points with a function's heads ablated (generated answers, split C). A dot marks q below 0.05, Benjamini–Hochberg over the matrix, sign flips over scenes.", "name": "fig-matrix"}}
matrix = measured.table(experiment, ablation.ablation_matrix)
ablation_figure(matrix)

# %% tags=["hide-input"]
own = matrix[matrix["function"] == matrix["head_set"]]
points = with_interval(own.replace({"function": SHORT}), "change", form="+.1f", scale=100)
show(points[["function", "n", "accuracy_before", "change", "q"]], percent=("accuracy_before",), digits=4)

# %% [markdown]
# ## Is the damage specific?
#
# A set may hurt all steps, and some steps are hurt by all sets. So function by function: what its set does to its own
# steps beyond what the other sets do to them, less the same of other functions' steps; log-probability of right
# answers, teacher-forced. Wordings are the units, and scenes as well: neither one wording nor one picture settles it,
# and over few wordings only an even effect can be shown. Damage is *specific* where the difference is below 0 with q
# below 0.05, and the steps lose more under their own set than under the others. *No* may mean too few wordings.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each function the interaction of its set with its steps, with an interval, zero marked"}, "figure": {"caption": "Specific damage by function: its set on its steps, beyond what the set does to other steps and other sets to these (means over wordings, 95 % intervals); what is specific lies left of 0, with q below 0.05.", "name": "fig-specific"}}
by_way = {way: measured.table(experiment, damage.specific_damage[way]) for way in damage.WAYS if way != damage.TRUTH}
by_function = by_way[selection.IMPORTANCE]
shown = by_function.rename(columns={"function": "label", "difference": "value"})
forest_figure({"own set, own steps": shown}, "change of log-probability beyond the rest")

# %% tags=["hide-input"]
columns = ["function", "n", "wordings", "own", "other_steps", "other_sets", "q", "specific"]
cells = with_interval(by_function, "own", "own_low", "own_high", "+.2f")
show(cells[columns].replace({"function": SHORT}), digits=3)

# %% [markdown]
# The same for sets chosen otherwise: by the early-stopped probe (*strict*), by ablating single heads on A, and the
# heads that are least by the paper's importance, which should do nothing specific. Each cell is the difference with its
# interval; a dot marks what is specific. The first column is of all of split C, the others of four times the items of
# single heads where split C has more.

# %% tags=["hide-input"]
show(damage_cells(by_way))

# %% [markdown]
# And what each of these sets does to its own steps, nothing taken off.

# %% tags=["hide-input"]
show(damage_cells(by_way, "own", "own_low", "own_high"))

# %% [markdown]
# ## Two functions at a time
#
# A set that hurts its own steps more than another set does may be the larger one, and its steps the easier to hurt. So
# two functions are told apart where each one's set hurts its own steps more than the other's set does (a *double
# dissociation*). Each cell is, on the steps of the row's function, its own set less that of the column's; a dot marks
# pairs where both sides are below 0 (each over scenes and over wordings, Benjamini–Hochberg over the 28 pairs).

# %% tags=["hide-input"]
pairs = measured.table(experiment, dissociation.double_dissociations)
show(pair_cells(pairs))

# %% [markdown]
# Both sides added up are the *interaction* of sets and steps: how much more two sets do to their own steps than to each
# other's. The pairs with a spatial function:

# %% tags=["hide-input"]
with_spatial = pairs[pairs["first"].isin(SPATIAL) | pairs["second"].isin(SPATIAL)]
cells = with_interval(with_spatial, "interaction", "low", "high", "+.2f").replace({"first": SHORT, "second": SHORT})
show(cells[["first", "second", "interaction", "q", "dissociated"]], digits=3)

# %% [markdown]
# ## Over all functions
#
# In accuracy, over all functions: the mean of the diagonal above less the mean off it, a summary, with a p value from
# random pairings of head sets with functions.

# %% tags=["hide-input"]
specific = damage.pooled_damage(matrix)
show(pd.DataFrame([specific]), points=("own", "other", "difference"), digits=4)

# %% [markdown]
# ## Wrong, or not readable?
#
# A reply may be wrong because it says something else, or because it says nothing that can be read. Generated replies to
# a function's own steps, intact and with its heads ablated, as shares.

# %% tags=["hide-input"]
kinds = measured.table(experiment, replies.reply_kinds)
kinds["heads"] = kinds["head_set"].eq(replies.INTACT).map({True: "intact", False: "ablated"})
wide = kinds.pivot(index=["function", "n"], columns="heads", values=["wrong", "unread"]).reindex(list(NAMES), level=0)
wide.columns = [f"{what}, {when}" for what, when in wide.columns]
wide = wide[[f"{what}, {when}" for what in ("wrong", "unread") for when in ("intact", "ablated")]]
show(wide.rename(index=SHORT, level=0).reset_index(), percent=tuple(wide))

# %% [markdown]
# And what would have been chosen? Main questions that have options, asked alone: *replied* is the share right of
# replies, *chosen* that of the likeliest option, which is always read; *covered* is the probability of all options
# together, so that a choice is the more forced the smaller it is.

# %% tags=["hide-input"]
mains = measured.table(experiment, replies.chosen_mains)
columns = ["head_set", "n", "chance", "replied", "unread", "chosen", "chosen_change", "covered"]
cells = with_interval(mains, "chosen_change", "chosen_low", "chosen_high", form="+.1f", scale=100)
show(cells[columns].replace({"head_set": SHORT}), percent=("chance", "replied", "unread", "chosen", "covered"))

# %% [markdown]
# The same of the steps themselves: a function's own ones with its own heads ablated, the right answers to earlier steps
# in place. A step is offered its options, yes and no, or else all right answers to steps of its wording. *Blind* is
# right where each wording's commonest answer is always chosen: what is chosen under ablation beyond it is still known.

# %% tags=["hide-input"]
offered = measured.table(experiment, replies.chosen_steps)
offered["heads"] = offered["head_set"].eq(replies.INTACT).map({True: "intact", False: "ablated"})
cells = with_interval(offered, "change", "low", "high", "+.1f", 100).set_index("function")
wide = offered.pivot(index="function", columns="heads", values=["chosen", "covered"])
wide.columns = [f"{what}, {when}" for what, when in wide.columns]
under = cells[cells["heads"] == "ablated"][["n", "majority", "change"]].rename(columns={"majority": "blind"})
wide = under.join(wide)[["n", "blind", "chosen, intact", "chosen, ablated", "change", "covered, ablated"]]
show(wide.reindex([name for name in NAMES if name in wide.index]).rename(index=SHORT).reset_index(),
     percent=("blind", "chosen, intact", "chosen, ablated", "covered, ablated"))  # fmt: skip

# %% [markdown]
# ## Inherited from earlier steps?
#
# A generated answer follows the model's own earlier answers, so a step may fail because the one before it did. The same
# steps, scored with the right earlier answers in place (*teacher-forced*), show what the ablation does to the step
# itself; the rest is inherited, but for what judges them: generated answers are judged, of teacher-forced ones every
# token has to be the likeliest. *Before* is the accuracy without ablation, by either.

# %%
both = measured.table(experiment, damage.generated_and_forced)
columns = ["function", "n", "before", "before_forced", "generated", "forced", "inherited"]
show(
    both[columns].replace({"function": SHORT}),
    percent=("before", "before_forced"),
    points=("generated", "forced", "inherited"),
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each function the change of accuracy on its own steps, generated and teacher-forced, with intervals"}, "figure": {"caption": "A function's own steps with its own heads ablated: generated answers and teacher-forced scoring of the same steps of split C.", "name": "fig-inherited"}}
rows = [
    {"label": row.function, "kind": kind, "value": 100 * getattr(row, kind),
     "low": 100 * getattr(row, f"{kind}_low"), "high": 100 * getattr(row, f"{kind}_high")}
    for row in both.itertuples() for kind in ("generated", "forced")
]  # fmt: skip
forest_figure({"own steps": pd.DataFrame(rows)}, "change of accuracy, points", {"generated": "o", "forced": "D"})

# %% [markdown]
# ## Against random sets
#
# Any heads may hurt when ablated: late ones, or those with a large output. So each function's heads stand beside three
# kinds of random sets of as many heads: any heads, heads of the same layers, heads of like output norm. In every draw
# the heads of the model change places at random, for all functions at once, so that sets overlap as the given ones do.
# The primary outcome is the log-probability of the right answers; a part of split C is scored, teacher-forced.

# %% mystnb={"image": {"alt": "For each function the change of log-probability with its heads ablated, beside three grey bars of what random sets of each kind do"}, "figure": {"caption": "Effect on a function's own steps: its heads (dot) and 95 % of the random sets of each kind (grey bars).", "name": "fig-controls"}}
sets = measured.table(experiment, ablation.matched_controls[selection.IMPORTANCE])
matched = ablation.against_controls(sets)
control_figure(matched, "change of log-probability")

# %% [markdown]
# Over all functions, first by log-probability, then by accuracy in points, the kind that is hardest to tell from the
# functions' heads first. The smallest p that so few sets can give is 2 over their number and one.

# %% tags=["hide-input"]
everywhere = ablation.all_against_controls(sets)
accuracy = ablation.all_against_controls(sets, "change")
shown = pd.concat([everywhere.assign(outcome="log-probability"), accuracy.assign(outcome="points")])
shown.loc[shown["outcome"] == "points", ["own", "mean", "low", "high"]] *= 100
show(with_interval(shown, "mean", "low", "high", "+.2f")[["outcome", "kind", "own", "mean", "sets", "p"]], digits=3)

# %% [markdown]
# How random are they? For each function: the sets drawn that differ, the share of them that have the head that is in
# most, and the share of the function's own heads in a set; beside it the p of the function alone, two-sided.

# %% tags=["hide-input"]
columns = ["kind", "function", "n", "distinct", "most_frequent", "overlap", "p"]
show(matched[columns].replace({"function": SHORT}), percent=("most_frequent", "overlap"), digits=3)

# %% [markdown]
# ## One question, intact and ablated
#
# The same question twice: answered as the model is, and with the heads of spatial perception ablated.

# %% tags=["hide-input"] mystnb={"image": {"alt": "A rendered table-top picture, the one that the question below is about"}, "figure": {"caption": "The picture of the question below.", "name": "fig-question"}}
asked = [item for item in experiment.items("C") if item.image is not None] or experiment.items("C")
item = max(asked, key=lambda item: sum(step.function == SPATIAL[0] for step in item.steps))
none = "*These questions have no pictures.*"
cue_figure({item.question: item}, n_columns=1) if item.image is not None else paragraph(none)

# %% tags=["hide-input"]
mine = sets[(sets["kind"] == "own") & (sets["function"] == SPATIAL[0])]
heads = [tuple(map(int, head.split("."))) for head in mine["heads"].iloc[0].split()]
both_ways = {"intact": None, "ablated": mask(heads)}
replied = {name: answer(experiment.vlm, [item], edits=edit, progress=False) for name, edit in both_ways.items()}
questions = [*(step.question for step in item.steps), item.question]
lines = replied["intact"][["function", "answer"]].replace({"function": SHORT})
lines.insert(0, "question", questions)
show(lines.assign(**{name: table["prediction"] for name, table in replied.items()}))

# %% [markdown]
# ## One head, or a set?
#
# A set may owe its effect to a single head. For each function: its whole set, the one head of it whose ablation alone
# cost most log-probability on split A, and the others without it.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each function the change of accuracy under its whole set, under its strongest head alone and under the others, with intervals"}, "figure": {"caption": "The whole set, its strongest head alone (layer.head), and the others; teacher-forced, on some items of split C.", "name": "fig-strongest"}}
alone = measured.table(experiment, ablation.without_strongest)
rows = [
    {"label": f"{row.function} ({row.layer}.{row.head})", "kind": kind,
     **{part: 100 * getattr(row, f"{kind}{end}") for part, end in (("value", ""), ("low", "_low"), ("high", "_high"))}}
    for row in alone.itertuples() for kind in ("whole", "strongest", "others")
]  # fmt: skip
forest_figure(
    {"own steps": pd.DataFrame(rows)}, "change of accuracy, points", {"whole": "o", "strongest": "^", "others": "s"}
)

# %% [markdown]
# ## Two mistakes to avoid
#
# A head is a slice of the *input* of its layer's output projection. Published code has cut the projection's *output*
# into as many slices and called those heads, or has moved activations behind the projection, where all heads are mixed.
# Both run without an error. The same heads, ablated and moved towards their function by their mean difference, at the
# right place and behind it, where a slice has as many numbers as the output over the heads (a vector is cut to that):
# change of the log-probability of the function's own steps, teacher-forced. Behind the projection, head and slice of
# one number have nothing to do with each other, so what is found there is no head's doing.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each function the change of log-probability when its heads are edited at the input of the projection and when slices of its output are, with intervals"}, "figure": {"caption": "Edits of heads (projection's input) and of slices of the projection's output, on each function's own steps.", "name": "fig-mistakes"}}
places = measured.table(experiment, mistakes.output_edits)
by_edit = {
    name: part.rename(columns={"function": "label", "place": "kind", "change": "value"}).replace({"label": SHORT})
    for name, part in places.groupby("edit")
}
forest_figure(by_edit, "change of log-probability", {"input": "o", "output": "X"})

# %% [markdown]
# ## Scaling and steering spatial heads
#
# The heads of the two spatial functions, made larger, and shifted along the direction from wrong towards correct
# answers (measured on A). They are scaled at every token and shifted at the tokens that predict the answer. Factor and
# strength are those that did best on split B.

# %%
scaled, steered = measured.table(experiment, emphasis.scaled), measured.table(experiment, emphasis.steered)
tested = pd.concat([scaled, steered])
tested = tested[tested["split"] == "C"]
points = with_interval(tested.replace({"function": SHORT}), "change", form="+.1f", scale=100)
show(points[["method", "strength", "function", "change", "p"]], digits=3)

# %% [markdown]
# ## Where there is room for it, beside other heads and other directions
#
# Steps that are nearly all right can gain little. From a camera further aside than in training the same things stand in
# other places of the picture, and the answers stay, since places are said by the board. Grey: 50 to 70 % right, where
# much can be won and lost.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Accuracy of the steps of each function against how far aside the camera stands"}, "figure": {"caption": "Accuracy by function from cameras further and further aside (split C, the same questions; band: 95 %, spatial perception).", "name": "fig-cameras"}}
recorded = experiment.source == "synth"  # where things are, so that they can be seen from elsewhere
from_aside = measured.table(experiment, cameras.camera_accuracy) if recorded else None
none = "*It is not recorded where the things of these data are.*"
camera_figure(from_aside[from_aside["split"] == "C"]) if recorded else paragraph(none)

# %% tags=["hide-input"]
if recorded:
    far = from_aside[(from_aside["split"] == "C") & (from_aside["shift"] == from_aside["shift"].max())]
    fall = far.set_index("function")["change"].drop(SPATIAL[0]).sort_values()
    lost_aside = far.set_index("function").loc[SPATIAL[0]]
    fallen = (
        f"From the farthest camera {SPATIAL[0]} loses {-100 * lost_aside['change']:.0f} points "
        f"({span(-lost_aside['change_high'], -lost_aside['change_low'], '.0f')}), main questions "
        f"{-100 * fall[MAIN_NAME]:.0f}, and of the other functions "
        f"{fall.drop(MAIN_NAME).index[0]} most, {-100 * fall.drop(MAIN_NAME).iloc[0]:.0f}."
    )
paragraph(fallen if recorded else "")

# %% [markdown]
# The strengths from above on split C, from the camera at which spatial perception is nearest to 60 % right on split B.
# Beside the spatial heads stands what does not need them: as many random heads that are not among them, all heads,
# random directions as long as the real ones (three draws of each), and the opposite sign. Change of accuracy in points.

# %% tags=["hide-input"]
without = pd.DataFrame(columns=[*tested.columns, "heads", "direction", "draw"])
key = ["method", "heads", "direction", "strength", "draw"]


def beside_controls(table: pd.DataFrame, functions: list[str]):
    """The changes of some functions' steps, a row an edit."""
    cells = with_interval(table[table["function"].isin(functions)], "change", form="+.1f", scale=100)
    order = pd.MultiIndex.from_frame(cells[key].drop_duplicates())
    wide = cells.pivot(index=key, columns="function", values="change").reindex(order).reset_index()
    return show(wide.drop(columns="draw").rename(columns=SHORT)) if len(wide) else paragraph(none)


emphasised = measured.table(experiment, cameras.camera_emphasis) if recorded else without
beside_controls(emphasised, [*SPATIAL, MAIN_NAME])

# %% tags=["hide-input"]
before = emphasised.drop_duplicates("function").set_index("function")
aside = cameras.half_right(from_aside) if recorded else float("nan")
shares = ", ".join(
    f"{SHORT.get(name, name)} {row['accuracy_before']:.1%} of {row['n']}" for name, row in before.iterrows()
)
paragraph(f"From {aside:.1f} board squares aside, without any edit: {shares}." if recorded else "")

# %% [markdown]
# The primary outcome, with many draws: the log-probability of right answers to steps of Spatial Perception from there,
# teacher-forced. *All heads, same total* have a strength so much smaller that its sum over heads is that of the spatial
# ones. Random heads are none of the spatial ones, of any layer. p, by Crawford and Howell's t, is that the spatial
# heads, or the real directions, are one of the random ones; q is over these rows. Where many answers are wrong,
# log-probability also rises when the model gets less sure of these: so the opposite sign, and how many more are right
# (*change*, in points), stand beside it.

# %% tags=["hide-input"]
gains = measured.table(experiment, cameras.camera_gains) if recorded else pd.DataFrame()
if recorded:
    gained = with_interval(gains[gains["function"] == SPATIAL[0]], "delta_log_prob", "low", "high", "+.3f")
    gained = with_interval(gained, "change", "change_low", "change_high", "+.1f", 100)
    drawn = gained["p"].notna()
    gained.loc[drawn, "q"] = false_discovery_rate(gained.loc[drawn, "p"])
columns = ["method", "heads", "direction", "strength", "draws", "delta_log_prob", "change", "p", "q"]
show(gained[columns].rename(columns={"delta_log_prob": "log-probability"}), digits=3) if recorded else paragraph(none)

# %% [markdown]
# The same on the questions of split *hard* (see the [data card](../book/data_card.md)), about scenes that
# neither A nor B has: spatial steps, and those functions' that are right in 50 to 70 %.

# %% tags=["hide-input"]
has_hard = emphasis.HARD in experiment.present_splits
on_hard = measured.table(experiment, emphasis.emphasis_controls) if has_hard else without
none = "*These data have no questions that are known to be hard, about scenes that neither A nor B has.*"
half = on_hard.groupby("function")["accuracy_before"].first().between(0.5, 0.7)
beside_controls(on_hard, [*SPATIAL, *half[half].index.difference(SPATIAL)])

# %% tags=["remove-input"]
by_method = tested.set_index(["method", "function"])
scale = by_method.loc[("scale", "Spatial Perception")]
nothing = pd.Series(float("nan"), scale.index)  # no direction where all spatial answers of split A are right, or wrong
steer, steer_main = (by_method.loc[("steer", name)] if len(steered) else nothing for name in (NAMES[0], MAIN_NAME))
steering = verdict(steer["ci_low"], steer["ci_high"], "hurts", "helps", "makes no difference that this data can show")
steering = f"{steering} ({100 * steer['change']:+.1f})" if len(steered) else "could not be tried"
spatial, relational = (own.set_index("function").loc[name] for name in NAMES[:2])
first, forced = alone.set_index("function").loc[NAMES[0]], both.set_index("function").loc[NAMES[0]]
strongest = f"{first['layer']:.0f}.{first['head']:.0f}"
worse = (matched["p"] < ALPHA) & (matched["own"] < matched["control_mean"])
beaten = int(worse.groupby(matched["function"]).all().sum())
hardest = everywhere.iloc[0]
in_points = 100 * accuracy.set_index("kind").loc[hardest["kind"], ["own", "mean"]].astype(float)
intact, lost = (kinds[kinds["heads"] == heads].set_index("function") for heads in ("intact", "ablated"))
rise = lost[["unread", "wrong"]] - intact[["unread", "wrong"]]
scales = emphasised[(emphasised["function"] == SPATIAL[0]) & (emphasised["method"] == "scale")].set_index("heads")
larger = scales[scales["strength"] > 1]
from_there = larger.loc["spatial"] if recorded else pd.Series(float("nan"), larger.columns)
gaining = dict.fromkeys(
    (cameras.OWN, cameras.OTHER), pd.Series(float("nan"), ["delta_log_prob", "low", "high", "draws"])
)
if recorded:
    upwards = gains[(gains["function"] == SPATIAL[0]) & (gains["method"] == "scale") & (gains["direction"] == "")]
    gaining = {row["heads"]: row for _, row in upwards.iterrows()}
quote(
    aside=aside,
    aside_before=from_there["accuracy_before"],
    aside_scaled=100 * from_there["change"],
    aside_low=100 * from_there["ci_low"],
    aside_high=100 * from_there["ci_high"],
    aside_other=100 * larger.loc[["other"], "change"].mean() if recorded else float("nan"),
    gain=gaining[cameras.OWN]["delta_log_prob"],
    gain_low=gaining[cameras.OWN]["low"],
    gain_high=gaining[cameras.OWN]["high"],
    gain_other=gaining[cameras.OTHER]["delta_log_prob"],
    gain_draws=gaining[cameras.OTHER]["draws"],
    unread=lost["unread"].mean(),
    wrong=lost["wrong"].mean(),
    more_unread=float((rise["unread"] > rise["wrong"]).sum()),
    unread_spatial=lost.loc[SPATIAL[0], "unread"],
    wrong_spatial=lost.loc[SPATIAL[0], "wrong"],
    n_dissociated=float((pairs["dissociated"] == "yes").sum()),
    n_pairs=float((pairs["dissociated"] != "not tested").sum()),
    n_top=float(own["k"].iloc[0]),
    mask_spatial=100 * spatial["change"],
    mask_spatial_low=100 * spatial["ci_low"],
    mask_spatial_high=100 * spatial["ci_high"],
    mask_relational=100 * relational["change"],
    mask_own=100 * specific["own"],
    mask_other=100 * specific["other"],
    n_specific=f"{(by_function['specific'] == 'yes').sum()} of the {(by_function['specific'] != 'not tested').sum()}",
    beaten=beaten,
    controls_kind=hardest["kind"],
    controls_p=hardest["p"],
    controls_own=in_points["own"],
    controls_mean=in_points["mean"],
    n_random=int(matched["sets"].min()),
    strongest=strongest,
    strongest_alone=100 * first["strongest"],
    strongest_others=100 * first["others"],
    emphasis_spatial=100 * scale["change"],
    emphasis_low=100 * scale["ci_low"],
    emphasis_high=100 * scale["ci_high"],
    emphasis_factor=scale["strength"],
    emphasis_main=100 * by_method.loc[("scale", "Main question"), "change"],
    steer_spatial=100 * steer["change"],
    steer_low=100 * steer["ci_low"],
    steer_high=100 * steer["ci_high"],
    steer_main=100 * steer_main["change"],
)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
paragraph(
    f"Ablating a function's heads changes its own steps by {100 * specific['own']:+.1f} points in the mean, others "
    f"by {100 * specific['other']:+.1f}; tested one by one, the damage is shown to be specific for "
    f"{(by_function['specific'] == 'yes').sum()} of the {(by_function['specific'] != 'not tested').sum()} functions "
    f"that can be tested. For Spatial Perception it is {100 * spatial['change']:+.1f} "
    f"({span(spatial['ci_low'], spatial['ci_high'])}) generated, {100 * forced['forced']:+.1f} teacher-forced; its "
    f"strongest head {strongest} alone gives {100 * first['strongest']:+.1f}, the others without it "
    f"{100 * first['others']:+.1f}. {beaten} of {len(NAMES)} functions lose more log-probability than under each "
    f"kind of random sets (two-sided p < {ALPHA} each, not corrected); over all of them accuracy changes by "
    f"{in_points['own']:+.1f} points against {in_points['mean']:+.1f} under random sets of {hardest['kind']}, the "
    f"hardest kind (p {hardest['p']:.3f} in log-probability). On Spatial Perception scaling "
    f"{verdict(scale['ci_low'], scale['ci_high'], 'hurts', 'helps', 'makes no difference that this data can show')} "
    f"({100 * scale['change']:+.1f}) and steering {steering}."
)

# %% [markdown]
# **What's next.** [How much, and at what cost?](10_doses.ipynb)
