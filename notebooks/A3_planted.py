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
# **Overview.** In a planted model it is known which heads carry a function, because training made it so. First the
# proof that they do, then how well every way of finding heads finds them.
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

from cogvsr_utils import Experiment, planted_truth
from cogvsr_utils.functions import NAMES
from cogvsr_utils.pipeline import damage, planted
from cogvsr_utils.pipeline.measured import is_measured, planted_models, table
from cogvsr_utils.pipeline.selection import IMPORTANCE
from cogvsr_utils.report.book import PAGES
from cogvsr_utils.report.effect_figures import planted_figure
from cogvsr_utils.report.figures import SHORT
from cogvsr_utils.report.pages import damage_cells, measured_note, paragraph, quote, show, span, start, with_interval

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

# %% mystnb={"image": {"alt": "Matrix of changes of log-probability: rows are the planted heads ablated, by function, and random other heads; columns are the steps answered"}, "figure": {"caption": "Change of the right answer's log-probability with the planted heads of a function ablated, and in the last row the mean of random sets of as many other heads. Teacher-forced, split C.", "name": "fig-planted"}}
effects = {name: table(each, planted.planted_effects) for name, each in experiments.items()}
planted_figure(effects, "delta_log_prob", "change of log-probability")

# %% [markdown]
# In accuracy, with the smallest own effect and the largest elsewhere. A function that is guessed well without any
# knowledge loses little accuracy, however little is known: that is why log-probability comes first.

# %% tags=["hide-input"]
every = pd.concat([each.assign(model=name) for name, each in effects.items()], ignore_index=True)
known = {name: planted_truth(name) for name in effects}
truths, variants = ({name: getattr(each, part) for name, each in known.items()} for part in ("heads", "variant"))
OWN, ELSEWHERE, RANDOM = "its own", "of other functions", "any, with other heads ablated"


def kind(row):  # two functions may share their heads
    heads = truths[row.model]
    return RANDOM if row.ablated not in heads else OWN if heads[row.ablated] == heads[row.function] else ELSEWHERE


every["steps"] = [kind(row) for row in every.itertuples()]
by_steps = every.groupby(["model", "steps"])["change"].agg(["mean", "min", "max"]).reset_index()
show(by_steps, points=("mean", "min", "max"))

# %% [markdown]
# Function by function, its own steps, with 95 % intervals over scenes.

# %% tags=["hide-input"]
own = every[every["steps"] == OWN]
columns = ["model", "function", "n", "before", "change", "delta_log_prob"]
shown = with_interval(own, "change", "low", "high", "+.1f", 100)
shown = with_interval(shown, "delta_log_prob", "delta_low", "delta_high", "+.2f")
show(shown[columns].replace({"function": SHORT}), percent=("before",))

# %% [markdown]
# ## Is each of them needed?
#
# Change of log-probability of a function's own steps with all of its planted heads ablated, with one of them alone, and
# with all but one (means, and in brackets the least and the largest). *After* is the accuracy with all ablated beside
# *majority*, what the commonest answer gives without any knowledge.

# %% tags=["hide-input"]
parts = pd.concat([table(each, planted.planted_parts).assign(model=name) for name, each in experiments.items()])
wide = parts.groupby(["model", "function", "parts"], sort=False)["delta_log_prob"].agg(["mean", "min", "max"])
wide["change"] = [f"{mean:+.2f}" + (f" ({span(least, most, '+.2f', 1)})" if least < most else "")
                  for mean, least, most in wide.itertuples(index=False)]  # fmt: skip
wide = wide["change"].unstack("parts").reindex(columns=["all", "one", "all but one"])
floor = parts[parts["parts"] == "all"].set_index(["model", "function"])[["before", "after", "majority"]]
show(wide.join(floor).rename(index=SHORT, level=1).reset_index(), percent=("before", "after", "majority"))

# %% [markdown]
# ## How well methods find them
#
# For each function as many heads are taken as are planted. *Precision* is the share of them that is planted; *rank* the
# mean place of the planted heads among all, from 0; both stand beside chance.

# %% tags=["hide-input"]
scores = pd.concat([table(each, planted.finder_scores).assign(model=name) for name, each in experiments.items()])
ranked = scores[scores["selected"].isna()]
columns = ["precision", "chance_precision", "recall", "rank", "chance_rank", "auroc"]
by_method = ranked.groupby(["variant", "method"])[columns].mean().reset_index()
show(
    by_method.sort_values(["variant", "precision"], ascending=[True, False]),
    percent=("precision", "chance_precision", "recall"),
)

# %% [markdown]
# ## How many heads rules select
#
# Some ways do not rank but select. Their counts beside the truth, summed over functions; *bias* is how many more are
# selected than are planted.

# %%
rules = scores[scores["selected"].notna()].groupby(["variant", "method"])[["planted", "selected", "false"]].sum()
rules["found"] = (rules["selected"] - rules["false"]) / rules["planted"]
rules["bias"] = rules["selected"] - rules["planted"]
show(rules.astype({"selected": int, "false": int, "bias": int}).reset_index(), percent=("found",))

# %% [markdown]
# ## Does the ablation table find what is there?
#
# The test of [what the heads do](05_interventions.ipynb), on a model where the answer is known: a set's effect on its
# own function's steps, beyond what the other sets do to them and it does to others. The planted heads are the
# yardstick; the other sets are a tenth of all heads each, and stand here where they have been measured. A dot marks
# what is specific.

# %% tags=["hide-input"]
ways = {
    name: {
        way: table(each, damage.specific_damage[way])
        for way in damage.WAYS
        if way == damage.TRUTH or profile == "full" or is_measured(each, damage.specific_damage[way])
    }
    for name, each in experiments.items()
}
show(pd.concat({name: damage_cells(found) for name, found in ways.items()}, names=["model"]).reset_index("model"))

# %% tags=["remove-input"]
best = by_method.dropna(subset="precision").sort_values("precision").groupby("variant").last()
paper = by_method[by_method["method"] == IMPORTANCE].set_index("variant")
variant = "joint" if "joint" in best.index else best.index[0]
here = every[every["model"].map(variants) == variant]
means = here.groupby("steps")[["change", "delta_log_prob"]].mean().reindex([OWN, ELSEWHERE, RANDOM])
told = pd.concat([found[damage.TRUTH] for name, found in ways.items() if variants[name] == variant])["specific"]
quote(
    planted_specific=f"{(told == 'yes').sum()} of {(told != 'not tested').sum()}",
    planted_own=100 * means.loc[OWN, "change"], planted_others=100 * means.loc[ELSEWHERE, "change"],
    planted_best=best.loc[variant, "method"], planted_best_precision=best.loc[variant, "precision"],
    planted_paper_precision=paper.loc[variant, "precision"],
)  # fmt: skip

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
counted = pd.concat(of_variant)["specific"].eq("yes").groupby(level="way", sort=False).sum()
counted = ", ".join(f"{name} {n}" for name, n in counted.items())
counts = rules.loc[variant].astype(int)
sentence = "; ".join(f"{name} selects {row.selected}, {row.false} of them falsely" for name, row in counts.iterrows())
sentence = f"Where {counts['planted'].iloc[0]} pairs of function and head are true: {sentence}."
paragraph(
    "Ablating a function's planted heads changes the log-probability of its own steps by "
    f"{means.loc[OWN, 'delta_log_prob']:+.2f} in the mean and their accuracy by "
    f"{100 * means.loc[OWN, 'change']:+.1f} points, other functions' steps by "
    f"{means.loc[ELSEWHERE, 'delta_log_prob']:+.2f} and {100 * means.loc[ELSEWHERE, 'change']:+.1f} (at worst "
    f"{100 * here.loc[here['steps'] == ELSEWHERE, 'change'].min():+.1f}); random sets of as many other heads change "
    f"any steps by {means.loc[RANDOM, 'delta_log_prob']:+.2f} and {100 * means.loc[RANDOM, 'change']:+.1f}. Of the "
    f"planted heads, {best.loc[variant, 'method']} finds {best.loc[variant, 'precision']:.0%}, the paper's "
    f"importance {paper.loc[variant, 'precision']:.0%}, chance {paper.loc[variant, 'chance_precision']:.0%} (variant "
    f"*{variant}*, {n_models} model{'s' * (n_models > 1)}). {sentence} Damage is specific to their function, of "
    f"{(told != 'not tested').sum()} pairs of model and function that can be tested, for the sets of: {counted}."
)

# %% [markdown]
# **What's next.** [The three families](06_families.ipynb)
