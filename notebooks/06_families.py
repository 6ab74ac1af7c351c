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
# # Three families
#
# **Overview.** What is true of one model may not be of another. The same chain for the three small models that come
# with this book, side by side; then one of them in 4-bit.
#
# **Prerequisites.** [Probing](03_probing.ipynb) and [interventions](05_interventions.ipynb).

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
profile: str = "light"  # "light" shows the measured tables of full runs; "full" computes all of it
source: str = "synth"  # "synth" or the path of a CogVSR .jsonl file, of which there are no measured tables

# %% tags=["hide-input"]
import numpy as np
import pandas as pd

from cogvsr_utils import Experiment, accuracy_table
from cogvsr_utils.analysis.head_scores import placement
from cogvsr_utils.analysis.sparsity import DIFFERENCE
from cogvsr_utils.functions import MAIN_NAME, NAMES, SPATIAL
from cogvsr_utils.models.collateral import TEXT
from cogvsr_utils.models.weights import nano_names
from cogvsr_utils.paths import NANO
from cogvsr_utils.pipeline import (
    ablation,
    activation,
    cameras,
    cues,
    damage,
    dissociation,
    doses,
    emphasis,
    latent,
    measured,
    protocol,
    recordings,
    selection,
    validation,
)
from cogvsr_utils.pipeline.experiment import n_top
from cogvsr_utils.pipeline.plan import results_of
from cogvsr_utils.report.figures import SHORT, accuracy_figure, forest_figure
from cogvsr_utils.report.head_figures import count_figure, family_maps
from cogvsr_utils.report.pages import (
    agreement,
    damage_cells,
    measured_note,
    paragraph,
    quote,
    show,
    specific_count,
    start,
    with_interval,
)
from cogvsr_utils.stats import ALPHA, false_discovery_rate

families = {name: Experiment(name, profile=profile, source=source) for name in nano_names()}
first = next(iter(families))
seeds = {first: families[first]} | {
    name: Experiment(name, source=source)
    for name in measured.measured_models()
    if name.startswith(f"{first}-") and name.removeprefix(f"{first}-").isdigit()
}


def where_measured(result, models=families):
    """The tables of a result that takes long, by model, where there are some."""
    makes = {n for n, e in models.items() if e.profile == "full" and result.name in results_of(e)}
    shown = {n: e for n, e in models.items() if n in makes or measured.is_measured(e, result)}
    return {name: measured.table(each, result) for name, each in shown.items()}


start()

# %% tags=["hide-input"]
way, controls = damage.specific_damage[selection.IMPORTANCE], ablation.matched_controls[selection.IMPORTANCE]
CUED = cues.cue_effects, latent.latent_heads, activation.latent_activation
measured_note(
    (families | seeds).values(),
    (validation.head_table, validation.sparseness, validation.spatial_differences, validation.refitted_spread,
     ablation.ablation_matrix, controls, validation.quantization, *damage.COMPARED,
     dissociation.double_dissociations, doses.dose_trends, doses.side_effects, doses.set_side_effects,
     protocol.ablation_deviations, emphasis.scaled, emphasis.steered, cameras.camera_gains, *CUED),
)  # fmt: skip

# %% [markdown]
# ## The models
#
# Real `transformers` classes (`…ForConditionalGeneration`) of the paper's families, small, trained on the same kind of
# scenes ([how](../book/data_card.md)). Heads are found from the modules; where a family has layers of cross-attention,
# these have heads as well.

# %% tags=["hide-input"]
tables = {name: measured.table(each, validation.head_table) for name, each in families.items()}
n_heads = {name: len(table) // len(NAMES) for name, table in tables.items()}
shapes = [
    {"model": name, "class": type(each.vlm.model).__name__.removesuffix("ForConditionalGeneration"),
     "million weights": sum(w.numel() for w in each.vlm.model.parameters()) / 1e6,
     "layers": each.vlm.heads.table["layer"].nunique(), "heads": n_heads[name],
     "cross": int((each.vlm.heads.table["kind"] == "cross").sum())}
    for name, each in families.items()
]  # fmt: skip
show(pd.DataFrame(shapes), digits=1)

# %% [markdown]
# ## What they can do
#
# Answered by this run, not measured before.

# %% mystnb={"image": {"alt": "Accuracy by function for each small model, with intervals and the majority line"}, "figure": {"caption": "Accuracy on split C, step by step with each model's own earlier answers, with 95 % intervals over scenes.", "name": "fig-families"}}
accuracy = {name: accuracy_table(recordings.answers["C"](each)) for name, each in families.items()}
accuracy_figure(accuracy)

# %% [markdown]
# Do these answers agree with the tables that came with the weights?

# %% tags=["hide-input"]
shipped = pd.concat(
    pd.read_csv(NANO / name / "accuracy.csv").query("quantize == 'none'").assign(model=name) for name in families
)
fresh = pd.concat(table.assign(model=name) for name, table in accuracy.items())
fresh["row"], shipped["row"] = (t["model"] + ", " + t["function"] for t in (fresh, shipped))
(
    agreement(fresh, shipped, "row", ("accuracy",), 0.01)
    if source == "synth"
    else paragraph("*The tables that came with the weights are of other questions.*")
)

# %% [markdown]
# ## Where their heads are

# %% mystnb={"image": {"alt": "Small layer by head maps of AUROC, a column for each function and a row for each model"}, "figure": {"caption": "How well a linear probe on each head alone tells a function's steps from all others (AUROC on split A, cross-validated by scene; 0.5 is chance).", "name": "fig-family-maps"}}
family_maps(tables)

# %% [markdown]
# ## How many serve each function
#
# Circles: heads before the elbow, as the paper counts, over the grey bar of what permuted labels give. Diamonds: heads
# whose ablation alone costs the function accuracy, by a max-T test over all heads and functions.

# %% mystnb={"image": {"alt": "For each model and function the elbow count with its interval over a grey bar of the elbow with permuted labels, and the number of heads whose ablation costs accuracy"}, "figure": {"caption": "Counts of heads in every family, with 95 % intervals over scenes.", "name": "fig-family-counts"}}
counts = {name: measured.table(each, validation.sparseness) for name, each in families.items()}
count_figure(counts, n_heads)

# %% [markdown]
# Spatial functions less the others, by the elbow (as it is and stratified) and by ablation (strict): left of 0 means
# that spatial heads are scarcer. Intervals are over scenes that one fitted probe is read on.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each model the difference between spatial and other functions in three counts of heads, with intervals, zero marked"}, "figure": {"caption": "Spatial functions less the others, in heads, with 95 % intervals over scenes.", "name": "fig-family-differences"}}
differences = {name: measured.table(each, validation.spatial_differences) for name, each in families.items()}
counted = {name: t[t["statistic"].isin(["elbow", "n_ablation"])] for name, t in differences.items()}
forest_figure(
    {name: pd.DataFrame({"label": t["reading"], "value": t["difference"], "low": t["low"], "high": t["high"]})
     for name, t in counted.items()},
    "heads",
)  # fmt: skip

# %% [markdown]
# The verdicts on the claim, [model by model](A2_validation.ipynb), go by wider intervals, over probes fitted anew.
# *As it is*, where that has been measured:

# %% tags=["hide-input"]
none = "*Measured for CogVSR-Synth alone.*"
spread = [
    t[(t["function"] == DIFFERENCE) & (t["scarcer"] != "")].assign(model=name)
    for name, t in where_measured(validation.refitted_spread).items()
]
paragraph(none) if not spread else show(
    with_interval(pd.concat(spread), "value", "refit_low", "refit_high", "+.2f").rename(
        columns={"value": "spatial less others"}
    )[["model", "statistic", "spatial less others", "scarcer"]]
)

# %% [markdown]
# ## What ablating them does
#
# In each model the top tenth of all heads by the paper's importance are ablated, for each of the two spatial functions;
# all of split C is answered again. In points, with intervals.

# %% tags=["hide-input"]
matrices = {name: measured.table(each, ablation.ablation_matrix) for name, each in families.items()}
lines = []
for name, matrix in matrices.items():
    changes = with_interval(matrix, "change", form="+.1f", scale=100).set_index(["head_set", "function"])["change"]
    for answered in (*SPATIAL, "Main question"):
        line = {"model": name, "answered": SHORT.get(answered, answered)}
        lines.append(line | {f"{SHORT[ablated]} ablated": changes[ablated, answered] for ablated in SPATIAL})
show(pd.DataFrame(lines))

# %% [markdown]
# Is the damage specific? Function by function: what its set does to its own steps beyond what the other sets do to
# them, less the same of other functions' steps, in log-probability, as [on the page of one
# model](05_interventions.ipynb). A dot marks what is specific. Models stand here where this has been measured.

# %% tags=["hide-input"]
damaged = where_measured(way) or {first: measured.table(families[first], way)}
show(damage_cells(damaged))

# %% [markdown]
# Would other heads do as much? Each function's heads, on its own steps, beside [three kinds of random
# sets](05_interventions.ipynb) of as many; of these the kind that is hardest to tell from them. Change of
# log-probability, mean over functions, with 95 % of the random sets.

# %% tags=["hide-input"]
every = where_measured(controls, families | seeds)
beside = [ablation.all_against_controls(t).head(1).assign(model=name) for name, t in every.items()]
paragraph(none) if not beside else show(
    with_interval(pd.concat(beside), "mean", "low", "high", "+.2f").rename(
        columns={"own": "its heads", "mean": "random sets"}
    )[["model", "its heads", "kind", "random sets", "sets", "p"]],
    digits=3,
)

# %% [markdown]
# ## The same model with other heads
#
# What of this belongs to the model, and what to the chance of one training? In further seeds of the first model, whose
# weights are not kept here, the attention of the text decoder was drawn anew; each layer first learnt to write what it
# wrote before, by whichever heads, then all of it learnt to answer ([how](../book/data_card.md)). They share the vision
# tower, so they are closer relatives than models trained apart: what agrees may agree for that.
#
# First, the steps of split C that each answers rightly, and how many points it loses with its own Spatial Perception
# heads ablated:

# %% tags=["hide-input"]
one_seed = paragraph("*No other seeds have been measured on these data.*")
kept = []
for name, matrix in where_measured(ablation.ablation_matrix, seeds).items():
    part = matrix[(matrix["head_set"] == SPATIAL[0]) & matrix["function"].isin([*SPATIAL, "Main question"])]
    before = part["accuracy_before"].map("{:.0%}, ".format)
    part = with_interval(part, "change", form="+.1f", scale=100).replace({"function": SHORT})
    kept.append(pd.DataFrame({"model": name, "steps": part["function"], "cell": before + part["change"]}))
one_seed if len(kept) < 2 else show(
    pd.concat(kept).pivot(index="steps", columns="model", values="cell").rename_axis(columns=None).reset_index()
)

# %% [markdown]
# Is the damage specific for the same functions? Each seed with its own heads; a dot marks what is specific.

# %% tags=["hide-input"]
of_seeds = where_measured(way, seeds)
one_seed if len(of_seeds) < 2 else show(damage_cells(of_seeds))

# %% [markdown]
# Are a function's heads in the same places? Of the top tenth by importance, the share that each seed has in common with
# the first, beside what is due to layers alone (as many heads in each layer, but any of them); the rank correlation of
# mean importance over layers; and the mean layer of the top tenth, in the first and in the seed. Means over functions.
# Two of these follow from how the seeds were trained, and are a check, not a finding: heads were drawn independently,
# so no more than is due should be in common, and each layer was taught to write what that layer wrote, so layers
# should agree.

# %% tags=["hide-input"]
of_seeds = where_measured(validation.head_table, seeds)
places = pd.DataFrame([
    {"model": name} | placement(of_seeds[first], table, n_top(n_heads[first])).mean(numeric_only=True).to_dict()
    for name, table in of_seeds.items() if name != first and first in of_seeds
])  # fmt: skip
one_seed if places.empty else show(
    places.rename(columns={"layers": "correlation over layers", "depth": "layer, first", "other_depth": "layer, seed"}),
    digits=2, percent=("shared", "due"),
)  # fmt: skip

# %% [markdown]
# Are spatial functions scarcer in each? As above, spatial functions less the others, over probes fitted anew.

# %% tags=["hide-input"]
spread = [
    t[(t["function"] == DIFFERENCE) & (t["scarcer"] != "")].assign(model=name)
    for name, t in where_measured(validation.refitted_spread, seeds).items()
]
one_seed if len(spread) < 2 else show(
    with_interval(pd.concat(spread), "value", "refit_low", "refit_high", "+.2f")
    .pivot(index="statistic", columns="model", values="value").rename_axis(columns=None).reset_index()
)  # fmt: skip

# %% [markdown]
# ## Other sets and pairs of functions
#
# The questions of [the page of one model](05_interventions.ipynb) for each model in which they have been measured, the
# seeds with them. For how many functions is the damage of their own set specific, of those that can be tested, and in
# brackets the mean difference in log-probability: for sets by the paper's importance, by the early-stopped probe
# (*strict*), by ablating single heads on A, and for the heads of least importance. Last, how many pairs of functions
# are told apart by their sets (by importance), of those that can be tested.

# %% tags=["hide-input"]
lines = {}
for by in (each for each in damage.WAYS if each != damage.TRUTH):
    for name, found in where_measured(damage.specific_damage[by], families | seeds).items():
        lines.setdefault(name, {})[by] = specific_count(found)
for name, found in where_measured(dissociation.double_dissociations, families | seeds).items():
    tested = found["dissociated"] != "not tested"
    lines.setdefault(name, {})["pairs told apart"] = f"{(found['dissociated'] == 'yes').sum()} of {tested.sum()}"
paragraph(none) if not lines else show(
    pd.DataFrame(lines).T.fillna("–").rename_axis("model").reset_index().rename(columns={"model": ""})
)

# %% [markdown]
# ## Doses, where measured
#
# Does more of an edit of the spatial heads do more to spatial steps? The slope of their log-probability over the doses
# on one side of no edit, as [on their page](10_doses.ipynb), with 95 % over scenes. A dot marks slopes that are not
# one of random heads' (q below 0.05). Measured in the models that have a column.

# %% tags=["hide-input"]
sloped = {}
for name, found in where_measured(doses.dose_trends, families | seeds).items():
    part = with_interval(found[found["against"] == doses.OTHER_HEADS], "slope", "low", "high", "+.2f")
    sloped[name] = (part["slope"] + np.where(part["q"] < ALPHA, " •", "")).set_axis(part["side"])
paragraph(none) if not sloped else show(
    pd.DataFrame(sloped).reindex(doses.SIDES.values()).fillna("–").rename_axis("side").reset_index()
)

# %% [markdown]
# ## At which tokens, and emphasised
#
# All of split C answered again, in points: with the heads of both spatial functions ablated at every token, at the
# tokens that predict the answer, and the second less the first; then emphasised, by scaling and by steering, at the
# strengths that did best on split B. Steps of Spatial Perception, then main questions.

# %% tags=["hide-input"]
edits = {"ablated, all tokens": (protocol.ablation_deviations, "case", protocol.HERE),
         "ablated, answer's tokens": (protocol.ablation_deviations, "case", protocol.LAST),
         "second less first": (protocol.ablation_deviations, "case", protocol.BESIDE),
         "scaled up": (emphasis.scaled, "split", "C"), "steered": (emphasis.steered, "split", "C")}  # fmt: skip


def edited(function):
    """What each edit changes in a function's answers, by model."""
    lines = {}
    for label, (result, column, value) in edits.items():
        for name, found in where_measured(result, families | seeds).items():
            part = found[(found[column] == value) & (found["function"] == function)]
            if len(part):  # nothing is steered where all answers of split A are right, or wrong
                cell = with_interval(part, "change", form="+.1f", scale=100)["change"]
                lines.setdefault(name, {})[label] = cell.iloc[0]
    return pd.DataFrame(lines).T.reindex(columns=list(edits)).fillna("–").rename_axis("model").reset_index()


of_steps = edited(SPATIAL[0])
paragraph(none) if of_steps.empty else show(of_steps)

# %% tags=["hide-input"]
paragraph(none) if of_steps.empty else show(edited(MAIN_NAME))

# %% [markdown]
# And emphasised from [the camera](05_interventions.ipynb) that is nearest to 60 % right on split B: the log-probability
# of right answers to steps of Spatial Perception (*right*: without edits, teacher-forced), beside as many random heads
# and, for steering, random directions (means of their draws), and all heads at the same total strength. A dot marks
# random ones of which the spatial heads are not one more (q below 0.05 over the table). Log-probability also rises when
# a model gets less sure of wrong answers, so beside it: how many more are right, in points.

# %% tags=["hide-input"]
lines = []
gains = [t.assign(model=name) for name, t in where_measured(cameras.camera_gains, families | seeds).items()]
if gains:
    found = pd.concat(gains).query("function == @SPATIAL[0] and direction != 'back' and heads != @cameras.ALL")
    found = with_interval(found.reset_index(drop=True), "delta_log_prob", "low", "high", "+.3f")
    random = found["p"].notna()
    differ = false_discovery_rate(found.loc[random, "p"]) < ALPHA
    found.loc[random, "delta_log_prob"] += np.where(differ, " •", "")
    found["heads"] = found["heads"].where(found["direction"] != "random", "random directions")
    for (name, method), own in found.groupby(["model", "method"], sort=False):
        more = with_interval(own, "change", "change_low", "change_high", "+.1f", 100)["change"].iloc[0]
        lines.append({"model": name, "edit": method, "right": f"{own['right'].iloc[0]:.0%} of {own['n'].iloc[0]}"}
                     | dict(zip(own["heads"], own["delta_log_prob"], strict=True)) | {"more right": more})  # fmt: skip
columns = ["model", "edit", "right", cameras.OWN, "more right", cameras.OTHER, "random directions", cameras.THIN]
paragraph(none) if not lines else show(pd.DataFrame(lines).reindex(columns=columns).fillna("–"))

# %% [markdown]
# ## Cues, and what they should wake
#
# The questions of [the page of cues](07_latent_heads.ipynb), in points: of the kinds of question that training did not
# cue, the true boxes less misplaced ones, as in training, in black and with a broad stroke, and less none. Then how
# many heads are latent, of those asked about (twice, once a function), and what steering them, or the heads that come
# nearest, does to the log-probability of spatial steps without any cue, beyond random heads of their layers.

# %% tags=["hide-input"]
lines = {}
shown = {"in training": (cues.BOX, f"box, {cues.MISPLACED}")} | {
    style: (f"{style} box, {cues.TRUE}", f"{style} box, {cues.MISPLACED}") for style in ("black", "broad")
}
shown["less none"] = cues.BOX, cues.NONE
for name, found in where_measured(cues.cue_effects).items():
    cells = with_interval(found[found["kinds"] == cues.NEVER], "change", "low", "high", "+.1f", 100)
    cells = cells.set_index(["condition", "against"])
    lines[name] = {"n": cells.loc[shown["in training"], "n"]}
    lines[name] |= {label: cells.loc[pair, "change"] for label, pair in shown.items()}
for name, found in where_measured(latent.latent_heads).items():
    lines.setdefault(name, {})["latent"] = f"{found['latent'].sum()} of {len(found)}"
for name, found in where_measured(activation.latent_activation).items():
    own = found.query("method == @activation.METHOD and function == @activation.BOTH and heads not in ('', 'random')")
    lines[name]["steered"] = with_interval(own, "beyond", "beyond_low", "beyond_high", "+.3f")["beyond"].iloc[0]
paragraph(none) if not lines else show(pd.DataFrame(lines).T.rename_axis("model").reset_index())

# %% [markdown]
# ## What else changes
#
# The divergence of the first token of replies, in nats, with the spatial heads ablated and with as many random heads of
# the same layers: on spatial steps, on the others, and on both without their picture. Means over functions.

# %% tags=["hide-input"]
lines = []
for name, found in where_measured(doses.side_effects, families | seeds).items():
    found = found[found["edit"].isin(["ablate", doses.OTHER_HEADS])]
    steps = np.where(found["function"].isin(SPATIAL), "spatial steps", "other steps")
    steps = np.where(found["prompts"] == TEXT, TEXT, steps)
    means = found.groupby([found["edit"].replace("ablate", "spatial heads"), steps])["kl"].mean().unstack()
    lines += [{"model": name, "ablated": edit} | row for edit, row in means.to_dict("index").items()]
paragraph(none) if not lines else show(pd.DataFrame(lines))

# %% [markdown]
# The heads of each function ablated in their turn: the divergence on the function's own steps, and on all others',
# means over the eight functions. Some steps move more than others whatever is ablated, and some sets move everything,
# so last: for how many functions is it larger with own heads on own steps than both would give together? A description,
# without a test.

# %% tags=["hide-input"]
lines = []
for name, found in where_measured(doses.set_side_effects, families | seeds).items():
    apart = doses.own_divergence(found)
    beyond = f"{(apart['beyond'] > 0).sum()} of {len(apart)}"
    means = {"own steps": apart["own"].mean(), "other steps": apart["other steps"].mean()}
    lines.append({"model": name} | means | {"larger than both give": beyond})
paragraph(none) if not lines else show(pd.DataFrame(lines))

# %% [markdown]
# What all this says of the paper's claims, model by model, stands [on another page](A2_validation.ipynb).

# %% [markdown]
# ## 4-bit against full precision
#
# The same chats through the same weights in NF4, for the first of the models: how alike is each head, how alike is the
# order of the heads, and how many answers differ?

# %% tags=["hide-input"]
packed = measured.table(families[first], validation.quantization)
show(packed.rename(columns={"value": first}), digits=3)

# %% tags=["remove-input"]
alike = packed.set_index("measure")["value"]


def of_spatial(matrix):
    """The change of Spatial Perception with its own heads ablated."""
    return matrix[(matrix["head_set"] == SPATIAL[0]) & (matrix["function"] == SPATIAL[0])].iloc[0]


spatial = {name: of_spatial(matrix) for name, matrix in matrices.items()}
older = {
    name: measured.is_measured(each, ablation.ablation_matrix) and "ablation_matrix" in measured.stamp(each)["changed"]
    for name, each in families.items()
}
quote(
    spatial_by_family=", ".join(
        f"{100 * row['change']:+.1f} in {name}" + " (by older code)" * older[name] for name, row in spatial.items()
    ),
)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
matrices_of_seeds = where_measured(ablation.ablation_matrix, seeds)
others = [f"{100 * of_spatial(t)['change']:+.1f}" for name, t in matrices_of_seeds.items() if name != first]
paragraph(
    "Ablating the Spatial Perception heads changes Spatial Perception by "
    + ", ".join(f"{100 * row['change']:+.1f} points in {name}" for name, row in spatial.items())
    + (f", and in further seeds of {first}, with other heads, by {' and '.join(others)}" if others else "")
    + ". The damage is specific for "
    + ", ".join(
        f"{(t['specific'] == 'yes').sum()} of the {(t['specific'] != 'not tested').sum()} functions that can be tested "
        f"in {name}"
        for name, t in damaged.items()
    )
    + f". In 4-bit {alike['share of answers that differ']:.1%} of the answers of {first} differ."
)

# %% [markdown]
# **What's next.** [The paper's benchmarks](08_benchmarks.ipynb).
