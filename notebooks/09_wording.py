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
# # Function or wording?
#
# **Overview.** On the plain steps each kind of step has its own words, so a probe of the function may be a probe of the
# words. Here the same words ask for different functions, by the picture. What heads still tell is theirs.
#
# **Prerequisites.** [Probing](03_probing.ipynb) and [ablation](05_interventions.ipynb); how the steps are made is in
# the [data card](../book/data_card.md).

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
source: str = "synth"  # "synth" or the path of a CogVSR .jsonl file; one without crossed splits is not used here

# %% tags=["hide-input"]
import pandas as pd

from cogvsr_utils import Experiment, accuracy_table
from cogvsr_utils.dataset.jsonl import read_items
from cogvsr_utils.dataset.splits import CROSSED
from cogvsr_utils.dataset.synth.comparisons import build_comparisons
from cogvsr_utils.functions import NAMES
from cogvsr_utils.paths import COMPARISONS
from cogvsr_utils.pipeline import baselines, comparisons, crossed, recordings
from cogvsr_utils.pipeline.measured import table
from cogvsr_utils.report.figures import SHORT, accuracy_figure, forest_figure, scene_figure
from cogvsr_utils.report.pages import measured_note, paragraph, quote, show, start, with_interval
from cogvsr_utils.stats import ALPHA, max_t_test

experiment = crossed.with_crossed(Experiment(model, quantize, profile, source))
second = comparisons.with_comparisons(experiment)
CROSSED_A, CROSSED_C = CROSSED["A"], CROSSED["C"]
start(experiment)

# %% tags=["hide-input"]
gates = [baselines.text_gate[split] for split in ("A", CROSSED_A)]
measured_note([experiment, second], (*gates, baselines.crossed_baselines, *crossed.WORDING, *comparisons.COMPARISONS))

# %% [markdown]
# ## The same words about two pictures
#
# A plan numbers five tasks, each of another function; the square of a thing tells which one is asked for. So neither
# the words nor the picture alone tell the function: only both together do. Below are two pictures with the same text.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rendered table-top pictures, each beside the same plan and the same questions, which are labelled with different functions and have different answers"}, "figure": {"caption": "A pair: the text is the same to the letter, the function of every step is another.", "name": "fig-pair"}}
items = experiment.items(CROSSED_C)
scene_figure([item for item in items if item.group_id == items[0].group_id])

# %% [markdown]
# ## What the text tells
#
# Two models that read the whole transcript, answers included, and no picture: words and pairs of words in a logistic
# regression, and a small transformer trained for it. Predictions are for scenes and texts that they were not fitted on.

# %%
plain, gate = (table(experiment, each) for each in gates)
both = pd.concat([gate.assign(steps="crossed"), plain.assign(steps="plain")])
show(with_interval(both, "accuracy", "low", "high")[["steps", "predictor", "n", "accuracy"]])

# %% [markdown]
# ## Does the model answer them?
#
# Chance is one in three where three things are offered, one in two for yes or no.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bars of accuracy by function for plain steps and for steps in crossed wording, with intervals and the accuracy of the commonest answer"}, "figure": {"caption": "Accuracy by function on split C, plain and in crossed wording.", "name": "fig-crossed-accuracy"}}
answered = {
    "plain": accuracy_table(recordings.answers["C"](experiment)),
    "crossed": accuracy_table(recordings.answers[CROSSED_C](experiment)),
}
accuracy_figure(answered)

# %% [markdown]
# ## What all heads tell
#
# The same baselines as for plain steps, on split A in crossed wording.

# %%
ground = table(experiment, baselines.crossed_baselines)
explained = ground.assign(predictor=ground["predictor"] + ": " + ground["meaning"])
explained = with_interval(explained, "accuracy", "low", "high")
explained = with_interval(explained, "held_out", "held_low", "held_high")
show(explained[["predictor", "accuracy", "held_out"]].rename(columns={"held_out": "wordings held out"}))

# %% [markdown]
# Now on split C, whose words and scenes none of the predictors has seen. The paper's joint probe, fitted on plain
# steps, shows what it learnt there: functions, or words. That a probe fitted on such steps reads them is no surprise
# in the nano models, which were [taught to know the task](../book/limitations.md); whether that of plain steps does
# is open.

# %%
transfer = table(experiment, crossed.wording_transfer)
show(with_interval(transfer, "accuracy", "low", "high"))

# %% [markdown]
# ## What single heads tell
#
# A ridge probe of each head. Under the null a head knows no more than the words, so the labels of a step's two pictures
# may be swapped; the p value is for the best of all heads and functions.

# %% tags=["hide-input"]
probes = crossed.pair_probes(experiment)
test = max_t_test(probes.strength, probes.null)
rows = pd.DataFrame(
    {"function": name, "best_auroc": probes.auroc[f].max(), "smallest_p": test.p_max[f].min(),
     "heads_that_pass": int((test.p_max[f] < ALPHA).sum()), "of": probes.auroc.shape[1]}
    for f, name in enumerate(probes.functions)
).set_index("function").loc[list(NAMES)]  # fmt: skip
show(rows.reset_index(), digits=3)

# %% [markdown]
# ## Ablation: own steps beside the same words
#
# The heads selected for a function on plain steps are ablated. Its steps in crossed wording are compared with the steps
# in the same words that need another function. If heads serve the function, its own steps lose more.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each function the difference of the change of log-probability between its own steps and steps in the same words, with intervals, for two ways of selecting heads"}, "figure": {"caption": "Change of log-probability of a function's own steps less that of other functions' steps in the same words, with its heads ablated; left of 0 its own steps lose more.", "name": "fig-crossed-effects"}}
effects = table(experiment, crossed.crossed_effects)
panels = {
    ranking: part.assign(label=part["function"].map(SHORT), value=part["difference"])
    for ranking, part in effects.groupby("ranking", sort=False)
}
forest_figure(panels, "own less same words, log-probability")

# %% tags=["hide-input"]
columns = ["ranking", "function", "n", "own", "same_words", "difference", "q"]
show(effects[columns].replace({"function": SHORT}), digits=3)

# %% tags=["remove-input"]
accuracy = ground.set_index("predictor")["accuracy"]
by_words = gate.set_index("predictor")["accuracy"]
moved = transfer.set_index(["predictor", "trained_on"])["accuracy"]
shown = effects[effects["q"] < ALPHA]
more, less = (int((shown["difference"] * sign > 0).sum()) for sign in (-1, 1))
quote(
    crossed_specific=float(more), crossed_opposite=float(less), crossed_sets=float(len(effects)),
    crossed_n=float(probes.n_steps), crossed_majority=by_words["majority"],
    crossed_text=by_words.drop("majority").max(),
    crossed_heads=accuracy["all heads"], crossed_joint=moved["joint probe (paper)", "plain A"],
)  # fmt: skip

# %% [markdown]
# ## A second form: the picture alone
#
# "Which one differs?" and "Which one is like the red one?" give neither a plan nor a task. Exactly one respect settles
# each question: size or material (Low-Level), shape (High-Level), a column or row of the board (Spatial Perception), or
# standing on neighbouring squares (Relational Reasoning). Which one it is, the picture alone tells.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rendered table-top pictures, each beside the same questions, which are labelled with different functions"}, "figure": {"caption": "A pair of comparisons: the same words, another picture, another function for every step.", "name": "fig-comparisons"}}
scene_figure(read_items(build_comparisons(COMPARISONS / "example", n_pairs=1)))

# %% [markdown]
# The nano models of this book do not know these words. `nano-internvl-compared` is `nano-internvl` trained on with them
# (see the [data card](../book/data_card.md)); of it the tables alone are kept. A model from the hub is asked itself.
# Where a row is no better than chance, heads need not carry anything.

# %% tags=["hide-input"]
replies = table(second, comparisons.comparison_accuracy).replace({"function": SHORT})
replies = with_interval(replies, "accuracy")
show(replies[["form", "function", "n", "accuracy", "chance"]])

# %% [markdown]
# What text alone tells of the functions, by the same two readers as above:

# %% tags=["hide-input"]
text_alone = table(second, comparisons.comparison_gate)
show(with_interval(text_alone, "accuracy", "low", "high")[["predictor", "n", "accuracy"]])

# %% [markdown]
# **From one form to the other.** Linear probes of all heads are fitted on split A, on steps of these four functions in
# one form, and asked for the function of steps on split C in each form. Common to both are the functions, not the
# words.

# %% tags=["hide-input"]
moved_forms = table(second, comparisons.form_transfer)
wide = with_interval(moved_forms, "accuracy", "low", "high")
show(wide[["trained_on", "tested_on", "n", "accuracy"]])

# %% [markdown]
# **Ablation.** The sets selected on plain steps, as above: own steps less those in the same words.

# %% tags=["hide-input"]
in_comparisons = table(second, comparisons.comparison_effects)
show(in_comparisons[columns].replace({"function": SHORT}), digits=3)

# %% tags=["hide-input"]
moved_forms = moved_forms.set_index(["trained_on", "tested_on"])
hit, base = moved_forms["accuracy"], moved_forms["accuracy"]["majority", "comparison"]
clear = in_comparisons[in_comparisons["q"] < ALPHA]
n_more, n_less = (int((sign * clear["difference"] > 0).sum()) for sign in (-1, 1))
tells = moved_forms["low"]["comparison", "comparison"] > base
paragraph(
    f"On comparisons of split C, probes fitted on comparisons reach {hit['comparison', 'comparison']:.1%}, those "
    f"fitted on plans {hit['plan', 'comparison']:.1%}, on plain steps {hit['plain', 'comparison']:.1%}; the commonest "
    f"of the four functions is {base:.1%} of them. "
    + (
        "So heads tell what settles a question."
        if tells
        else "So a linear probe of all heads does not tell what settles a question (at most "
        f"{moved_forms['high']['comparison', 'comparison']:.1%}), and to answer, a model need not make that known."
    )
    + f" Probes of plans reach {hit['plan', 'plan']:.1%} of plans: there every question has a task to be found, which "
    "the nano models were taught to know (see the limitations). Ablating a function's set costs its own "
    f"comparisons more than others in the same words for {n_more} of {len(in_comparisons)} sets, and less for {n_less} "
    f"(q < {ALPHA})."
)

# %% tags=["remove-input"]
quote(compared_heads=hit["comparison", "comparison"], compared_majority=base)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
paragraph(
    f"On {probes.n_steps} steps whose wording does not tell the function ({probes.n_pairs} pairs), the text reaches "
    f"{by_words.drop('majority').max():.1%}, the commonest function {by_words['majority']:.1%}, all heads "
    f"{accuracy['all heads']:.1%}, an untrained model's {accuracy['untrained model']:.1%}. The paper's probe, fitted "
    f"on plain steps, reaches {moved['joint probe (paper)', 'plain A']:.1%} of those of split C. "
    f"{int(rows['heads_that_pass'].sum())} of {probes.auroc.size} pairs of function and head tell more than the "
    "words. Ablating a function's heads costs its own steps more than others in the same words for "
    f"{more} of {len(effects)} sets, and less for {less} (q < {ALPHA})."
)

# %% tags=["hide-input"]
steps_c = answered["crossed"].set_index("function").loc[list(NAMES)]
right, by_chance = (steps_c[column] @ steps_c["n"] / steps_c["n"].sum() for column in ("accuracy", "chance"))
paragraph(
    f"The model answers {right:.1%} of the steps in crossed wording; guessing among what is offered gives "
    f"{by_chance:.1%}. "
    + (
        "Heads of a model that hardly answers such steps need not carry their functions, so nothing follows for one "
        "that does."
        if right - by_chance < 0.15
        else "So it finds the task that is asked for, which early blocks were trained to know (see the limitations)."
    )
)

# %% [markdown]
# **What's next.** [Can the selection be relied on?](A2_validation.ipynb)
