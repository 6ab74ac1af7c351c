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
# # Do methods find heads that are known?
#
# **Overview.** In a planted model it is known which heads carry a function, because training made it so. First
# whether they do, then which methods find them. Planting ablated them, so ablation finds them by design.
#
# **Prerequisites.** [Probing](03_probing.ipynb) and [ablation](05_interventions.ipynb); how such models are trained is
# in the [data card](../book/data_card.md).

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
profile: str = "light"  # "light" shows measured tables where there are some, "full" computes them
source: str = "synth"  # "synth" or the path of a CogVSR .jsonl file in the words of CogVSR-Synth

# %% tags=["hide-input"]
import pandas as pd
from scipy.stats import t as student

from cogvsr_utils import Experiment, planted_truth
from cogvsr_utils.analysis.sparsity import sparser_than_noise
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.weights import planted_names
from cogvsr_utils.pipeline import damage, planted
from cogvsr_utils.pipeline.experiment import n_top
from cogvsr_utils.pipeline.measured import is_measured, planted_models, table
from cogvsr_utils.pipeline.selection import IMPORTANCE
from cogvsr_utils.report.book import PAGES
from cogvsr_utils.report.effect_figures import planted_figure
from cogvsr_utils.report.figures import SHORT
from cogvsr_utils.report.pages import measured_note, paragraph, quote, show, specific_count, start, with_interval

experiments = {name: Experiment(name, profile=profile, source=source) for name in planted_models(profile, source)}
start()
measured_note(experiments.values(), PAGES["A3_planted"].planted)

# %% [markdown]
# ## Known heads carry their function
#
# While the model was trained, a function's heads were off in some rows: there its steps were to be answered by a guess
# (the function's commonest answer, or each as often as it occurs), all others rightly. Other heads were off in other
# rows, where everything was to be answered rightly. Each square is the change of a function's steps when some heads are
# ablated; the last row has random sets of as many others.

# %% mystnb={"image": {"alt": "For each planted model a matrix of changes of log-probability: rows are the planted heads ablated, by function, and random other heads; columns are the steps answered"}, "figure": {"caption": "Change of the right answer's log-probability with the planted heads of a function ablated, and in the last row the mean of random sets of as many other heads. Teacher-forced, split C.", "name": "fig-planted"}}
effects = {name: table(each, planted.planted_effects) for name, each in experiments.items()}
known = {name: planted_truth(name) for name in effects}
truths, variants = ({name: getattr(each, part) for name, each in known.items()} for part in ("heads", "variant"))
seeds = [name for name in effects if name.removeprefix(f"planted-{variants[name]}-").isdigit()]  # further ones
with_heads = [name for name in effects if any(truths[name].values()) and name not in seeds]
planted_figure({name: effects[name] for name in with_heads}, "delta_log_prob", "change of log-probability")

# %% [markdown]
# In accuracy, in points: the mean, and in brackets the least and the largest over functions. A function that is guessed
# well without any knowledge loses little accuracy, however little is known: that is why log-probability comes first.

# %% tags=["hide-input"]
every = pd.concat([each.assign(model=name) for name, each in effects.items()], ignore_index=True)
OWN, ELSEWHERE, RANDOM = "its own", "of other functions", "any, with other heads ablated"


def kind(row):  # two functions may share their heads
    heads = truths[row.model]
    return RANDOM if row.ablated not in heads else OWN if heads[row.ablated] == heads[row.function] else ELSEWHERE


def means_of(table, by, column, form, scale):
    """The mean of a column, with its least and largest value, in one cell each."""
    found = table.groupby(by, sort=False)[column].agg(["mean", "min", "max"]).reset_index()
    return with_interval(found, "mean", "min", "max", form, scale).set_index(by)["mean"].unstack().fillna("–")


every["steps"] = [kind(row) for row in every.itertuples()]
by_steps = means_of(every, ["model", "steps"], "change", "+.1f", 100)
show(by_steps.reindex(columns=[OWN, ELSEWHERE, RANDOM]).rename_axis(columns=None).reset_index())

# %% [markdown]
# How many functions lose more than three points though they are not meant to: of all pairs of a set and the steps of
# another function, and of random sets of as many other heads and any steps, those where the change is below -3, those
# where the interval reaches below it, and the worst.

# %% tags=["hide-input"]
meant = every[every["steps"] != OWN]
found = meant.assign(below=meant["change"] < -0.03, may=meant["low"] < -0.03).groupby(["model", "steps"], sort=False)
worst = with_interval(meant.loc[found["change"].idxmin()], "change", "low", "high", "+.1f", 100)
lost = found.agg(pairs=("below", "size"), below=("below", "sum"), may=("may", "sum")).reset_index()
lost = lost.rename(columns={"below": "below -3", "may": "interval below -3"})
show(lost.assign(worst=worst["change"].to_numpy(), of=worst["function"].map(SHORT).to_numpy()))

# %% [markdown]
# Function by function, its own steps, in points, with 95 % intervals over scenes.

# %% tags=["hide-input"]
own = with_interval(every[every["steps"] == OWN], "change", "low", "high", "+.1f", 100)
own = own[(own["ablated"] == own["function"]) & ~own["model"].isin(seeds)]
changes = own.pivot(index="function", columns="model", values="change").loc[list(NAMES)]
show(changes.rename(SHORT).rename_axis(columns=None).reset_index())

# %% [markdown]
# Is that the floor? Accuracy as the model is, with all of a function's planted heads ablated, and in brackets what the
# commonest answer gives without any knowledge, in percent.

# %% tags=["hide-input"]
parts = pd.concat([table(experiments[name], planted.planted_parts).assign(model=name) for name in with_heads])
floor = parts[parts["parts"] == "all"].copy()
floor["cell"] = [
    f"{100 * row.before:.0f} to {100 * row.after:.0f} ({100 * row.majority:.0f})" for row in floor.itertuples()
]
floors = floor.pivot(index="function", columns="model", values="cell").loc[list(NAMES)]
show(floors.rename(SHORT).rename_axis(columns=None).reset_index())

# %% [markdown]
# ## Is each of them needed?
#
# Change of log-probability of a function's own steps with all of its planted heads ablated, with one of them alone, and
# with all but one (means, and in brackets the least and the largest over functions and heads). Of *joint* and *shared*
# heads each is meant to be needed: one alone should do what all do. Of *redundant* ones each is meant to be enough: all
# but one should do nothing. Training asked so of whole sets, and of single heads for *redundant* ones alone, so the
# brackets tell how far it holds: a head whose ablation does little is counted as planted all the same, and a method
# that leaves it out is charged for it.

# %% tags=["hide-input"]
wide = means_of(parts, ["model", "parts"], "delta_log_prob", "+.2f", 1)
show(wide.reindex(columns=["all", "one", "all but one"]).rename_axis(columns=None).reset_index())

# %% [markdown]
# ## How well methods find them
#
# For each function as many heads are taken as are planted: what share of them is planted, in percent? A column is a way
# of planting, a number the mean over functions (and seeds), and the last rows are chance: among all heads, and among
# those of the later half of the layers, where all planted heads are. A method that knows no more than that (by the size
# of what heads write, say) is better than the first and no better than the second. *Importance (paper)* is that of the
# [joint probe](03_probing.ipynb) of this book, which [departs](A2_validation.ipynb) from the paper's inputs and
# optimiser; with these, and the paper's tokens, it is *importance (paper's preset)*, where that was measured.

# %% tags=["hide-input"]
scores = pd.concat(
    table(each, result).assign(model=name)
    for name, each in experiments.items()
    for result in (planted.finder_scores, planted.preset_scores)
    if result is planted.finder_scores or each.profile == "full" or is_measured(each, result)
)
ranked = scores[scores["selected"].isna() & scores["precision"].notna()]
n_heads = ranked["planted"] / ranked["chance_precision"]
ranked = ranked.assign(chance_recall=n_top(round(n_heads.iloc[0])) / n_heads)
columns = [f"{chance}{name}" for name in ("precision", "recall", "rank") for chance in ("", "chance_")]
by_method = ranked.groupby(["variant", "method"])[columns].mean()


def by_variant(column, form, scale, later):
    """A row a method, the best on average first, one for chance, and one for ``later``, the part of it that chance is
    among the later half of the layers; a column a variant."""
    cells = by_method[column].unstack("variant")
    cells = cells.loc[by_method["precision"].groupby("method").mean().sort_values(ascending=False).index]
    cells.loc["chance"] = by_method[f"chance_{column}"].groupby("variant").first()
    cells.loc["chance in the later half"] = later * cells.loc["chance"]
    cells = (scale * cells).map(f"{{:{form}}}".format).where(cells.notna(), "–")
    return cells.rename_axis(columns=None).reset_index()


show(by_variant("precision", ".0f", 100, 2))

# %% [markdown]
# Of the planted heads, how many are in the first tenth of a method's order, in percent?

# %% tags=["hide-input"]
show(by_variant("recall", ".0f", 100, 2))

# %% [markdown]
# The mean place of the planted heads in a method's order of all heads, from 0: where one is missed, how far down is it?

# %% tags=["hide-input"]
show(by_variant("rank", ".1f", 1, 0.5))

# %% [markdown]
# ## How many heads rules select
#
# Some ways do not rank but select. Their counts beside the truth, summed over functions: *false* ones carry another
# function or none.

# %%
rules = scores[scores["selected"].notna()].groupby(["model", "method"])[["planted", "selected", "false"]].sum()
rules["found"] = (rules["selected"] - rules["false"]) / rules["planted"].where(rules["planted"] > 0)
shown = rules.astype({"selected": int, "false": int}).reset_index()
show(shown[~shown["model"].isin(seeds)], percent=("found",))

# %% [markdown]
# ## Over seeds
#
# Further seeds of a way of planting have other heads for each function, saw other rows, and were trained as the command
# does it today, while the [first](../book/data_card.md) was trained in stages that changed. Is what was found above one
# model's chance? Means over three seeds with 95 % intervals (Student's t over seeds, so wide, and not cut at 0 or
# 100 %), and of two seeds both values: first what ablating does, in points; then the share of the planted heads that a
# method finds and their mean place in its order; then, for the ways that select, how many heads they select for each
# that is planted, and how many of these are false.

# %% tags=["hide-input"]
repeated = [v for v in dict.fromkeys(variants.values()) if list(variants.values()).count(v) > 1]
one_seed = paragraph("*There is one model of each way of planting.*")


def over_seeds(table, by, form, scale=1):
    """A row a variant with several seeds and value of ``by``: means with intervals, or both values of two seeds."""
    table = table.assign(variant=table["model"].map(variants)).query("variant in @repeated").drop(columns="model")

    def cell(values):
        if len(values := scale * values.dropna()) < 3:
            return "; ".join(f"{value:{form}}" for value in values)
        half = values.sem() * student.ppf(0.975, len(values) - 1)
        return f"{values.mean():{form}} ({values.mean() - half:{form}} to {values.mean() + half:{form}})"

    return show(table.groupby(["variant", by], sort=False).agg(cell).reset_index())


changed = every.groupby(["model", "steps"], sort=False)["change"].mean().reset_index()
over_seeds(changed, "steps", "+.1f", 100) if repeated else one_seed

# %% tags=["hide-input"]
places = ranked.groupby(["model", "method"])[["precision", "rank"]].mean().reset_index()
places = places.assign(precision=100 * places["precision"]).rename(columns={"precision": "found (%)", "rank": "place"})
over_seeds(places, "method", ".0f") if repeated else one_seed

# %% tags=["hide-input"]
counted_rules = rules.query("planted > 0").reset_index()
shares = counted_rules.assign(
    selected=counted_rules["selected"] / counted_rules["planted"],
    false=counted_rules["false"] / counted_rules["selected"],
)[["model", "method", "selected", "false"]]
over_seeds(shares, "method", ".2f") if repeated else one_seed

# %% [markdown]
# ## Does importance look sparse where few heads carry a function?
#
# In each model it is known how many heads carry a function. The [statistics of sparsity](04_scarcity.ipynb) of the
# paper's importance, beside those of labels that mean nothing: for how many of the eight functions are they beyond
# these, on the side of few heads? Last, how many heads are above the paper's threshold.

# %% tags=["hide-input"]
above = scores[scores["method"] == "importance above the paper's threshold"].groupby("model")["selected"].mean()
sparsity = pd.DataFrame(
    {"model": name, "heads a function": len(next(iter(truths[name].values()))),
     **sparser_than_noise(table(each, planted.planted_sparsity)), "above the threshold": above[name]}
    for name, each in experiments.items()
)  # fmt: skip
show(sparsity, digits=0)

# %% [markdown]
# Where these say nothing of a model in which one head of all carries a function, they cannot deny that functions are
# sparse elsewhere: the [verdict on that claim](A2_validation.ipynb) counts none of them that fails here.

# %% [markdown]
# ## Does the ablation table find what is there?
#
# The test of [what the heads do](05_interventions.ipynb), on models where the answer is known: a set's effect on its
# own function's steps, beyond what the other sets do to them and it does to others. The planted heads are the
# yardstick; the other sets are a tenth of all heads each. A cell has the number of functions whose damage is specific,
# of those that can be tested, and the mean effect in log-probability. In `planted-none` none are planted; some may
# remain.
# Heads that two functions share are specific to neither alone; the test, which asks of all other functions together,
# does not see that one of them is hurt as much.

# %% tags=["hide-input"]
ways = {
    name: {
        way: table(each, damage.specific_damage[way])
        for way in damage.WAYS
        if (name in with_heads and (way == damage.TRUTH or profile == "full"))
        or is_measured(each, damage.specific_damage[way])
    }
    for name, each in experiments.items()
}

cells = {name: {way: specific_count(each) for way, each in found.items()} for name, found in ways.items()}
show(pd.DataFrame(cells).T.reindex(columns=list(damage.WAYS)).fillna("–").rename_axis("model").reset_index())

# %% [markdown]
# Two functions at a time, as [there](05_interventions.ipynb): which of those tested are told apart by their planted
# heads (each one's own hurt its steps more than the other's do), where measured, and the pair whose interaction is
# nearest to 0.

# %% tags=["hide-input"]
tested = {
    name: table(each, planted.planted_pairs).query("dissociated != 'not tested'")
    for name, each in experiments.items()
    if is_measured(each, planted.planted_pairs) or name in planted_names()
}
weakest = [
    pairs.nlargest(1, "interaction").assign(
        model=name, told_apart=f"{pairs['dissociated'].eq('yes').sum()} of {len(pairs)}"
    )
    for name, pairs in tested.items()
    if len(pairs)
]
cells = with_interval(pd.concat(weakest), "interaction", "low", "high", "+.2f")
show(cells[["model", "told_apart", "first", "second", "interaction"]].replace({"first": SHORT, "second": SHORT}))

# %% tags=["remove-input"]
variant = "joint" if "joint" in variants.values() else variants[with_heads[0]]
best, paper = by_method.loc[variant].sort_values("precision").iloc[-1], by_method.loc[(variant, IMPORTANCE)]
here = every[every["model"].map(variants) == variant]
means = here.groupby("steps")[["change", "delta_log_prob"]].mean().reindex([OWN, ELSEWHERE, RANDOM])
told = pd.concat([found[damage.TRUTH] for name, found in ways.items() if variants[name] == variant])["specific"]
quote(
    planted_specific=f"{(told == 'yes').sum()} of {(told != 'not tested').sum()}",
    planted_paper_precision=paper["precision"],
)

# %% [markdown]
# ## A method of your own
#
# A method is a function of a model and items that scores each function and head.

# %%
from cogvsr_utils import load_items, score_method


def later_layers_first(vlm, items):
    return [vlm.heads.table["layer"].tolist() for _ in NAMES]  # (functions, heads)


mine = score_method(later_layers_first, items=load_items("synth", split="A", limit=10))
mine.groupby("variant")[["precision", "chance_precision", "rank", "chance_rank"]].mean()

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
n_models = here["model"].nunique()
of_variant = [pd.concat(found, names=["way"]) for name, found in ways.items() if variants[name] == variant]
specific = pd.concat(of_variant)["specific"].eq("yes").groupby(level="way", sort=False).sum()
specific = ", ".join(f"{name} {n}" for name, n in specific.items())
counts = rules[rules.index.get_level_values("model").map(variants) == variant].groupby("method").sum().astype(int)
sentence = "; ".join(f"{name} selects {row.selected}, {row.false} of them falsely" for name, row in counts.iterrows())
sentence = f"Where {counts['planted'].iloc[0]} pairs of function and head are true: {sentence}."
paragraph(
    "Ablating a function's planted heads changes the log-probability of its own steps by "
    f"{means.loc[OWN, 'delta_log_prob']:+.2f} in the mean and their accuracy by "
    f"{100 * means.loc[OWN, 'change']:+.1f} points, other functions' steps by "
    f"{means.loc[ELSEWHERE, 'delta_log_prob']:+.2f} and {100 * means.loc[ELSEWHERE, 'change']:+.1f} (at worst "
    f"{100 * here.loc[here['steps'] == ELSEWHERE, 'change'].min():+.1f}); random sets of as many other heads change "
    f"any steps by {means.loc[RANDOM, 'delta_log_prob']:+.2f} and {100 * means.loc[RANDOM, 'change']:+.1f}. Of the "
    f"planted heads, {best.name} finds {best['precision']:.0%}, the paper's importance "
    f"{paper['precision']:.0%}, chance {paper['chance_precision']:.0%} (variant "
    f"*{variant}*, {n_models} model{'s' * (n_models > 1)}). {sentence} Damage is specific to their function, of "
    f"{(told != 'not tested').sum()} pairs of model and function that can be tested, for the sets of: {specific}."
)

# %% [markdown]
# **What's next.** [The three families](06_families.ipynb)
