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
# # Is it true?
#
# **Overview.** Does the method find the heads that matter? In a small model every head can be removed in turn, so what each
# does alone is measured; signals can be planted in known heads; and there are models in which there is nothing to find.
#
# **Prerequisites.** [Probing](03_probing.ipynb) and [interventions](05_interventions.ipynb).

# %% tags=["parameters"]
model: str = "nano-internvl"  # a nano name, a folder, or a hub id such as Qwen/Qwen2.5-VL-7B-Instruct
quantize: str = ""  # "", "4bit" or "8bit"
profile: str = "light"  # "light" or "full": how many items, repeats and permutations

# %% tags=["hide-input"]
import numpy as np
import pandas as pd

from cogvsr_utils.functions import NAMES
from cogvsr_utils.models import nano_names
from cogvsr_utils.pages import quote, show, start
from cogvsr_utils.planted import summary
from cogvsr_utils.plots import head_maps, power_figure, quality_figure, set_figure
from cogvsr_utils.stages import Run, choose, remove, validate
from cogvsr_utils.stats import elbow, wilson

run = Run(model, quantize, profile)
start(run)

# %% [markdown]
# ## The measure: every head removed alone
#
# How much less likely the right answer to a function's steps becomes when one head is removed, on split C, all earlier
# answers being the true ones. `effect mean` is the same where the head is replaced by its mean over other scenes, of the
# text's tokens at these and of the picture's at those: what a head adds beyond always saying the same.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Eight layer by head maps, one a function, darker where removing the head costs more"}, "figure": {"caption": "What removing each head alone does to the log-probability of the right answer (absolute value, scaled within each map).", "name": "fig-effects"}}
table = choose.heads_table(run)
head_maps(table, "effect")

# %% tags=["hide-input"]
hurts = table[table["effect_high"] < 0].groupby("function").size().reindex(NAMES).fillna(0).astype(int)
worst = table.sort_values("effect").groupby("function").first().loc[list(NAMES)].reset_index()
worst["heads_that_hurt"] = hurts.to_numpy()
show(
    worst[
        ["function", "heads_that_hurt", "layer", "head", "effect", "effect_low", "effect_high", "effect_mean",
         "effect_accuracy"]
    ],
    points=("effect_accuracy",),
)  # fmt: skip

# %% [markdown]
# ## Which ranking foretells it?
#
# Every way of ranking heads, from split A alone, against that measure. Ticks are means over the eight functions, dots the
# functions, grey lines their intervals over scenes; the dotted line is chance. *Removal on split A* is the same measurement
# on other scenes, the reference for the others. The p values shuffle the heads of all functions and rankings alike and hold
# for all rankings at once. The backward pass reads log-odds, taken after the log-probability had been seen to do worse on
# these very scenes; its row flatters it a little.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each way of ranking heads its precision among the top heads and its rank correlation with the measured effect of removal, a dot for each function, with the mean"}, "figure": {"caption": "How well each ranking, made on split A, foretells the effect of removing a head on split C.", "name": "fig-quality"}}
every = validate.ranking_quality(run)
quality = every[(every["ablation"] == "mask") & (every["k"] == run.n_top)]
quality_figure(quality)

# %% tags=["hide-input"]
means = validate.ranking_tests(run).set_index("ranking").sort_values("spearman", ascending=False)
columns = ["precision", "p_precision", "spearman", "p_spearman"]
show(
    means[columns].reset_index().assign(chance=quality["chance"].iloc[0], k=run.n_top),
    percent=("precision", "chance"),
    digits=4,
)

# %% [markdown]
# Does that hang on how many heads are asked for, or on what is put in a head's place? Precision, mean over functions, at
# three k, where heads are removed and where their mean replaces them. The last row says how alike the two effects of a head
# are.

# %% tags=["hide-input"]
grid = every.groupby(["ranking", "ablation", "k"])["precision"].mean().unstack(["ablation", "k"])
grid.loc["chance"] = every.groupby(["ablation", "k"])["chance"].first()
grid = grid.loc[[*means.index, "chance"], ["mask", "mean"]]
grid.columns = [f"{'removed' if ablation == 'mask' else 'its mean'}, {k}" for ablation, k in grid.columns]
shown = grid.map("{:.1%}".format)
alike = table.groupby("function")[["effect", "effect_mean"]].corr(method="spearman").iloc[::2, 1].mean()
shown.loc["removed beside its mean: rank correlation"] = ["", "", "", f"{alike:.2f}", "", ""]
show(shown.reset_index())

# %% [markdown]
# ## In the other models
#
# The same in each of the small models that come with this book. Precision at a tenth of the heads, mean over the eight
# functions, with its p over all rankings:

# %% tags=["hide-input"]
tests = {
    name: validate.ranking_tests(run if name == model else Run(name, profile=profile)).set_index("ranking")
    for name in dict.fromkeys([model, *nano_names()])
}


def by_model(measure, form):
    """A row a ranking, a column a model: the mean over functions with its p."""
    cells = {
        name: part[measure].map(form.format) + part[f"p_{measure}"].map(" (p {:.4f})".format)
        for name, part in tests.items()
    }
    return pd.DataFrame(cells).loc[means.index].reset_index()


show(by_model("precision", "{:.0%}"))

# %% [markdown]
# And the rank correlation with the effect of removal:

# %% tags=["hide-input"]
show(by_model("spearman", "{:.2f}"))

# %% [markdown]
# ## Whole sets
#
# One head's removal may be made good by others, so sets are removed as well: the first of each ranking, and a greedy set (of
# the eight strongest single heads, five times the one that costs most beside those already gone; then the next of the
# ranking). Chosen on A; means over the eight functions of what happens to a function's steps on C under its own set, and under
# the other functions' sets.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each way of choosing sets a dot for the change of accuracy on the function's own steps, with its interval, and a ring for the change of the same steps under the other functions' sets"}, "figure": {"caption": "Change of accuracy when a function's set is removed (dots, 95 % over scenes), and of the same steps when the other functions' sets are (rings).", "name": "fig-sets"}}
sets = validate.set_effects(run).sort_values("change")
set_figure(sets[sets["ablation"] == "mask"])

# %% [markdown]
# In points, with intervals: under a function's own set, and how much more than under other functions' sets (`specific`, nought
# for a set that is the same for all), where heads are removed and where each head's mean stands in its place.

# %% tags=["hide-input"]
lines = {}
for row in sets.sort_values("ablation", kind="stable").itertuples():
    kind, line = {"mask": "removed", "mean": "its mean"}[row.ablation], lines.setdefault(row.set, {"set": row.set})
    line[f"{kind}: own"] = f"{100 * row.change:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
    line[f"{kind}: specific"] = (
        f"{100 * row.specific:+.1f} ({100 * row.specific_low:+.1f} to {100 * row.specific_high:+.1f})"
    )
show(pd.DataFrame(lines.values()))

# %% [markdown]
# Log-probability of the right answers, in nats a step: what the set costs, and what its heads cost one by one on the same steps,
# added up. Where the set costs more, single removals do not tell what the heads do together.

# %% tags=["hide-input"]
alone = sets[sets["ablation"] == "mask"]
show(alone[["set", "k", "nats", "singles"]].rename(columns={"nats": "together", "singles": "one by one"}))

# %% [markdown]
# Against random sets of like layers and output norm, as on [the page on interventions](05_interventions.ipynb): mean over
# functions in points, and the p that one random set a function costs as much.

# %% tags=["hide-input"]
joint = "importance (paper)"
against = {name: remove.random_sets(run, validate.tops(run, name)) for name in (joint, "removal on split A")}
matched = pd.DataFrame(
    {"set": name, "sets_a_function": remove.against_random(part)["sets"].min(), **remove.all_against_random(part)}
    for name, part in against.items()
)
show(
    matched.rename(columns={"mean": "random_mean", "low": "random_low", "high": "random_high"}),
    points=("own", "random_mean", "random_low", "random_high"),
    digits=4,
)

# %% [markdown]
# ## Planted truth
#
# Labels are shuffled among steps of the same index, so that nothing tells a function; then, for each function, three
# heads are moved by a known number of standard deviations. Which rule finds them, and what else does it find? The joint
# probe, which takes long, is fitted once at each strength, the others several times. A head that is moved far for one
# function tells a little of the others too (that it is none of them): such pairs are `crossed`, and `false` are those in
# heads planted for no function.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Share of planted heads found and share of false ones among the selected against planted strength, a line for each rule"}, "figure": {"caption": "Power (left) and false discoveries (right) of each rule, by planted strength. At 0 nothing is planted.", "name": "fig-power"}}
planted = summary(validate.planted(run))
power_figure(planted)

# %% tags=["hide-input"]
show(planted.sort_values(["rule", "strength"]), percent=("power", "crossed_share", "false_share", "any_false"))

# %% [markdown]
# ## Where nothing is planted
#
# How often a rule selects any head at all, though there is nothing: nominal for max-T is 5 %.

# %% tags=["hide-input"]
nothing = validate.planted(run)
nothing = nothing[nothing["strength"] == 0]
lines = []
for rule, part in nothing.groupby("rule", sort=False):
    share, low, high = wilson(part["false"] > 0)
    lines.append(
        {"rule": rule, "repeats": len(part), "any_selected": share, "ci_low": low, "ci_high": high,
         "heads_a_function": (part["selected"] / part["functions"]).mean()}
    )  # fmt: skip
nothing = pd.DataFrame(lines)
show(nothing, percent=("any_selected", "ci_low", "ci_high"))

# %% [markdown]
# ## Models with nothing to find
#
# The whole pipeline on a model of the same shape with random weights, and on this model with labels shuffled.

# %% tags=["hide-input"]
nulls = validate.null_models(run)
show(nulls.pivot(index="case", columns="rule", values="selected").reset_index().assign(of=nulls["of"].iloc[0]))

# %% [markdown]
# ## What to rely on
#
# Each step of the paper against what was found above. A ranking is called a hint where its precision beats chance, p below 5 %
# over all rankings.


# %% tags=["hide-input"]
def picked(which, rule):
    return int(nulls[(nulls["case"] == which) & (nulls["rule"] == rule)]["selected"].iloc[0])


told = choose.controls(run).set_index("predictor")["accuracy"]
single = "probe of the head alone"
own, random = sets[sets["ablation"] == "mask"].set_index("set"), matched.set_index("set").loc[joint]
hint = {name: "as a hint" if p < 0.05 else "not for single heads" for name, p in means["p_precision"].items()}
size = nothing.set_index("rule")
null_elbows = np.apply_along_axis(elbow, 2, choose.probe(run)["null"])
elbow_noise = float(null_elbows.mean())
max_t = size.loc["max-T"]
mean_precision = means["precision"]
chance = float(quality["chance"].iloc[0])
verdict = pd.DataFrame(
    [
        {
            "step of the paper": "a joint probe reads the function from the heads",
            "what was found": f"all heads tell {told['all heads']:.1%} of the steps, the text alone {told['text']:.1%}, "
            f"an untrained model's heads {told['untrained model']:.1%}",
            "rely on it": "only for what is above the text" if told["all heads"] - told["text"] < 0.02 else "above the controls",
        },
        {
            "step of the paper": "gradient × activation ranks the heads",
            "what was found": f"{mean_precision[joint]:.0%} of its top heads are among those whose removal costs most (chance "
            f"{chance:.0%}); rank correlation {means.loc[joint, 'spearman']:.2f}",
            "rely on it": hint[joint],
        },
        {
            "step of the paper": "the elbow counts functional heads",
            "what was found": f"{elbow_noise:.1f} heads a function with shuffled labels, mean of {null_elbows.size} curves",
            "rely on it": "no" if elbow_noise > 0.5 else "yes",
        },
        {
            "step of the paper": "removing a function's heads breaks it",
            "what was found": f"{100 * random['own']:+.1f} points for the first {run.n_top} together, "
            f"{100 * random['mean']:+.1f} for random heads of like layers and output norm (p {random['p']:.4f})",
            "rely on it": "yes" if random["p"] < 0.05 else "no difference that this data can tell",
        },
        {
            "step of the paper": "and breaks that function rather than others",
            "what was found": f"{100 * own.loc[joint, 'specific']:+.1f} points more than other functions' sets do "
            f"({100 * own.loc[joint, 'specific_low']:+.1f} to {100 * own.loc[joint, 'specific_high']:+.1f})",
            "rely on it": "yes" if own.loc[joint, "specific_high"] < 0 else "no difference that this data can tell",
        },
        {
            "step of the paper": "strict: max-T of the gain over the text",
            "what was found": f"selects anything in {max_t['any_selected']:.0%} of cases with nothing planted; "
            f"{picked('untrained model', 'max-T (strict)')} pairs in an untrained model, "
            f"{picked('shuffled labels', 'max-T (strict)')} with shuffled labels",
            "rely on it": "yes: not shown to exceed its 5 %" if max_t["ci_low"] <= 0.05 else "no",
        },
        {
            "step of the paper": "strict: removal of each head, on other scenes",
            "what was found": f"{mean_precision['removal on split A']:.0%} of its top heads hold on split C",
            "rely on it": "yes, where it can be paid for",
        },
        {
            "step of the paper": "cheap stand-in: one backward pass",
            "what was found": f"{mean_precision['one backward pass']:.0%} of its top heads; rank correlation {means.loc['one backward pass', 'spearman']:.2f}",
            "rely on it": hint["one backward pass"],
        },
    ]
)  # fmt: skip
show(verdict)

# %% tags=["hide-input"]
quote(
    precision_joint=mean_precision[joint],
    precision_single=mean_precision[single],
    precision_backward=mean_precision["one backward pass"],
    precision_removal=mean_precision["removal on split A"],
    precision_chance=chance,
    elbow_noise=elbow_noise,
    strict_false=float(max_t["any_selected"]),
    strict_false_low=float(max_t["ci_low"]),
    strict_false_high=float(max_t["ci_high"]),
    strict_untrained=float(picked("untrained model", "max-T (strict)")),
    strict_shuffled=float(picked("shuffled labels", "max-T (strict)")),
)

# %% [markdown]
# ## Summary
#
# Believe removal, measured on other scenes than those that it is reported on. What a probe's ranking is worth for single
# heads and for whole sets are different questions, answered above. An elbow's count is no evidence of anything.
#
# **What's next.** [What it costs](A1_speed.ipynb), and [how to rerun it](../book/rerun.md).
