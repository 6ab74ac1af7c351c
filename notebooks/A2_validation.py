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
# # Can the selection be relied on?
#
# **Overview.** A way of finding heads is only as good as what it finds. Here rankings stand beside what ablating each
# head alone does, beside signals planted in known heads, and beside models of random weights and labels that mean
# nothing. First what to rely on, then the evidence.
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
model: str = "nano-internvl"  # a nano name, a folder, or a hub id such as Qwen/Qwen2.5-VL-7B-Instruct
quantize: str = ""  # "", "4bit" or "8bit"
profile: str = "light"  # "light" or "full": how much of everything
source: str = "synth"  # "synth" or the path of a CogVSR .jsonl file

# %% tags=["hide-input"]
import pandas as pd

from cogvsr_utils import Experiment, answer, mask, top_heads
from cogvsr_utils.analysis.accuracy import compare
from cogvsr_utils.checks.planting import power, selections_of_nothing
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.weights import nano_names
from cogvsr_utils.pipeline import ablation, measured, prediction, protocol, recordings, selection, validation
from cogvsr_utils.pipeline.experiment import n_top
from cogvsr_utils.report.claims import KNOWN_SPARSE, claim_table, verdicts
from cogvsr_utils.report.effect_figures import power_figure, quality_figure, set_figure
from cogvsr_utils.report.head_figures import head_maps, map_pair, scatter_figure
from cogvsr_utils.report.pages import agreement, measured_note, paragraph, quote, show, span, start, with_interval
from cogvsr_utils.report.verdicts import departures, reliance

experiment = Experiment(model, quantize, profile, source)
nanos = {name: Experiment(name, profile=profile) for name in nano_names()}
start(experiment)

# %% tags=["hide-input"]
seeds = [Experiment(name) for name in measured.measured_models() if name not in nanos]  # of which tables alone are kept
measured_note([*nanos.values(), *seeds, Experiment(KNOWN_SPARSE)], measured.MEASURED)

# %% [markdown]
# ## What to rely on
#
# Each step of the paper, and of stricter tests, against what was found below: in the measured tables where
# there are some, else in this run. The last section compares the two.

# %%
relied = reliance(experiment)
show(relied)

# %% [markdown]
# ## The claims, one by one
#
# A claim *holds* where all that was asked of it came out as it says, and *partly* where some did. Where nothing did, it
# is *contradicted* if the opposite of something was found, else *not supported*. What is asked of each is written in
# `cogvsr_utils/report/claims.py`; [more words](../book/claims.md). What is asked of C2 and C4 to C7 could have come out
# either way in any model. C1 cannot be asked of these data, and whether C3 can does not depend on the model but on the
# [model that is known to be sparse](A3_planted.ipynb).

# %%
by_claim = claim_table(experiment)
show(by_claim)

# %% [markdown]
# The verdicts for every model of which there are measured tables, as far as these go. Claims are about models, so one
# column proves little, and columns that differ say that a claim depends on the model. A number behind a name marks a
# further seed, which is a [relative](06_families.ipynb) of the model of that name: less than a model more.

# %% tags=["hide-input"]
of_models = verdicts(Experiment(name) for name in measured.measured_models())
show(of_models)

# %% [markdown]
# ## The measure: every head ablated alone
#
# How much less likely the right answer to a function's steps becomes when one head is ablated, on split C, all earlier
# answers being the right ones.

# %% mystnb={"image": {"alt": "Eight layer by head maps, one a function, red where ablating the head makes right answers less likely and blue where more"}, "figure": {"caption": "Change of the log-probability of the right answer with each head ablated alone, as a share of the function's largest change: red hurts, blue helps.", "name": "fig-effects"}}
table = measured.table(experiment, validation.head_table)
head_maps(table, "effect")

# %% [markdown]
# ## Does importance predict it?
#
# For one function first: the heads that the probe reads, and the heads whose ablation hurts.

# %% mystnb={"image": {"alt": "Two layer by head maps for spatial perception side by side: importance of each head, and what ablating it does to right answers"}, "figure": {"caption": "Spatial perception: the paper's importance of each head (left), and the change of right answers' log-probability with the head ablated alone (right; red hurts).", "name": "fig-read-and-hurt"}}
map_pair(table, SPATIAL[0])

# %% [markdown]
# For all eight, every head as a dot: the paper's importance against what ablating the head does.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Eight panels, one a function, of importance against the effect of ablation, a dot a head"}, "figure": {"caption": "Importance of each head (absolute value) against the change of log-probability with the head ablated.", "name": "fig-scatter"}}
scatter_figure(table, "importance", "effect", "importance", "change of\nlog-probability")

# %% [markdown]
# ## Which ranking predicts it?
#
# Every way of ranking heads, from split A alone, against that measure. Ticks are means over the eight functions, dots
# the functions, grey lines their intervals over scenes; the dotted line is chance. *Ablation on split A* is the same
# measurement on other scenes, the reference for the others. Attribution patching reads log-odds; see the
# [limitations](../book/limitations.md). The same rankings where the right heads are known:
# [planted heads](A3_planted.ipynb).

# %% mystnb={"image": {"alt": "For each way of ranking heads its precision among the top heads and its rank correlation with the measured effect of ablation, a dot for each function, with the mean"}, "figure": {"caption": "How well each ranking, made on split A, predicts the effect of ablating a head on split C.", "name": "fig-quality"}}
quality = measured.table(experiment, prediction.ranking_quality)
k = n_top(len(table) // len(NAMES))
quality_figure(quality[(quality["edit"] == "mask") & (quality["k"] == k)])

# %% [markdown]
# The means with their p values, which shuffle the heads of all functions and rankings alike and cover all rankings at
# once, in each of the small models: precision at a tenth of the heads, and rank correlation.

# %% tags=["hide-input"]
tests = {name: measured.table(each, prediction.ranking_tests).set_index("ranking") for name, each in nanos.items()}
if experiment.title not in tests or source != "synth":
    tests |= {experiment.title: measured.table(experiment, prediction.ranking_tests).set_index("ranking")}


def by_model(measure, form):
    """A row a ranking, a column a model: the mean over functions with its p."""
    cells = {
        name: part[measure].map(form.format) + part[f"p_{measure}"].map(" (p {:.4f})".format)
        for name, part in tests.items()
    }
    return pd.DataFrame(cells).rename_axis(measure).reset_index()


show(by_model("precision", "{:.0%}"))

# %% tags=["hide-input"]
show(by_model("spearman", "{:.2f}"))

# %% [markdown]
# ## Whole sets
#
# Ablating one head may be compensated by others, so sets are ablated as well: the first tenth of each ranking, and a
# greedy set of four (of the six strongest single heads the first, then three times the one that costs most beside those
# already ablated), beside the four strongest single heads. Selected on A; means over the eight functions of what
# happens to a function's steps on C under its own set, and under the other functions' sets.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each way of choosing sets a dot for the change of accuracy on the function's own steps, with its interval, and a ring for the change of the same steps under the other functions' sets"}, "figure": {"caption": "Change of accuracy with a function's set ablated (dots, 95 % over scenes), and of the same steps with the other functions' sets ablated (rings).", "name": "fig-sets"}}
sets = measured.table(experiment, prediction.set_effects).sort_values("change")
set_figure(sets[sets["edit"] == "mask"])

# %% [markdown]
# How much more than under other functions' sets (0 for a set that is the same for all), where heads are masked and
# where each head's mean replaces it; in points.

# %% tags=["hide-input"]
lines = {}
for row in sets.itertuples():
    line = lines.setdefault(row.set, {"set": row.set})
    line[f"specific, {row.edit}"] = f"{100 * row.specific:+.1f} ({span(row.specific_low, row.specific_high)})"
show(pd.DataFrame(lines.values()))

# %% [markdown]
# ## What departs from the paper, and what it changes
#
# The paper's protocol is followed as far as it is known, but for what the table says. Some departures are undone, one
# at a time and then together, in this model; those that are not ("no") are without a measure of what they change;
# another start of the probe's weights, and other scenes kept out of its fit, show what chance alone changes. *Spearman*
# and *shared* compare importance, and the top tenth of the heads, with those of this book.

# %% tags=["hide-input"]
deviations = measured.table(experiment, protocol.probe_deviations)
show(departures())

# %% [markdown]
# The joint probe: its accuracy on scenes of split A that it was not fitted on, heads before the elbow (mean over the
# two spatial functions and over the others; what an elbow finds in noise stands [on its page](04_scarcity.ipynb)), and
# the share of all heads above the paper's threshold.

# %% tags=["hide-input"]
chance = deviations["chance"].iloc[0]
show(deviations.drop(columns="chance"), percent=("accuracy", "shared", "above"))

# %% tags=["hide-input"]
paragraph(f"Two rankings that have nothing to do with each other share {chance:.0%} of their top tenth.")

# %% [markdown]
# The ablation of spatial heads: which, how many and where, and what it costs, in points, on split C (generated
# answers). *Beside all tokens* is not a cost, but the last position less all tokens, for the same heads.

# %% tags=["hide-input"]
ablated = measured.table(experiment, protocol.ablation_deviations)
shown = with_interval(ablated[ablated["function"].isin(SPATIAL)], "change", form="+.1f", scale=100)
wide = shown.pivot(index=["case", "heads", "scope"], columns="function", values="change").loc[ablated["case"].unique()]
show(wide.reset_index())

# %% [markdown]
# ## Planted truth
#
# Labels are shuffled among steps of the same index, so that nothing depends on a function; then, for each function,
# three heads are moved by a known number of standard deviations. Which rule finds them, and what else does it find? The
# trials favour what they test: all of a head's numbers move along one line, as linear probes suppose, and labels are
# shuffled as max-T shuffles them, so that its size here says that it is computed rightly, not that this shuffle is the
# right one.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Share of planted heads found and share of false ones among the selected against planted strength, a line for each rule"}, "figure": {"caption": "Power (left) and false discoveries (right) of each rule, by planted strength. At 0 nothing is planted.", "name": "fig-power"}}
trials = measured.table(experiment, validation.planted)
power_figure(power(trials))

# %% [markdown]
# How often a rule selects any head at all, though there is nothing: nominal for max-T is 5 %.

# %% tags=["hide-input"]
nothing = selections_of_nothing(trials)
show(with_interval(nothing, "any_selected"))

# %% [markdown]
# ## Models with nothing to find
#
# The whole pipeline on a model of the same shape with random weights, and on this model with labels shuffled: pairs of
# function and head that each rule selects. For max-T on shuffled labels 0 is all but certain, by the same shuffle.

# %% tags=["hide-input"]
nulls = measured.table(experiment, validation.null_models)
show(nulls.pivot(index="case", columns="rule", values="selected").reset_index().assign(of=nulls["of"].iloc[0]))

# %% [markdown]
# ## Does this machine agree?
#
# The heads for spatial perception are ablated once more and all of split C is answered by this run: change of accuracy
# beside the measured one.

# %% tags=["hide-input"]
if measured.is_measured(experiment, ablation.ablation_matrix):
    own = mask(top_heads(table, SPATIAL[0], k))
    replies = judge(answer(experiment.vlm, experiment.items("C"), edits=own, progress=False))
    matrix = measured.table(experiment, ablation.ablation_matrix)
    fresh, row = compare(replies, recordings.answers["C"](experiment)), matrix["head_set"] == SPATIAL[0]
    shown = agreement(fresh, matrix[row], "function", ("change",), 0.02)
else:
    shown = paragraph("*Nothing is kept of this model to compare with.*")
shown

# %% tags=["remove-input"]
means, size = tests[experiment.title], nothing.set_index("rule").loc["max-T"]
by_verdict = (
    of_models.drop(columns="claim")
    .stack()
    .value_counts()
    .reindex(["holds", "partly", "not supported", "contradicted"], fill_value=0)
)
in_models = of_models.set_index("claim").apply(
    lambda row: ", ".join(f"{word} in {n}" for word, n in row.value_counts().items()), axis=1
)
by_chance = float(quality.loc[quality["k"] == k, "chance"].iloc[0])
quote(
    verdicts_models=float(of_models.shape[1] - 1),
    verdicts_seeds=float(len(seeds)),
    verdicts_all=float(by_verdict.sum()),
    verdicts_hold=float(by_verdict["holds"]),
    verdicts_partly=float(by_verdict["partly"]),
    verdicts_not=float(by_verdict["not supported"]),
    verdicts_against=float(by_verdict["contradicted"]),
    profiles=f"Numbers are of this run of {experiment.title}, profile {experiment.profile}, but for those that a "
    "page's first lines say are from measured tables of full runs.",
    **{claim[:2].lower(): verdict for claim, verdict in zip(by_claim["claim"], by_claim["verdict"], strict=True)},
    **{f"{claim[:2].lower()}_models": text for claim, text in in_models.items()},
    precision_joint=means.loc[selection.IMPORTANCE, "precision"],
    precision_ablation=means.loc[selection.ABLATION, "precision"],
    precision_chance=by_chance,
)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
paragraph(
    f"Of the top heads by the paper's importance {means.loc[selection.IMPORTANCE, 'precision']:.0%} are among those "
    f"whose ablation costs most, with chance {by_chance:.0%}; of those by ablation on other scenes "
    f"{means.loc[selection.ABLATION, 'precision']:.0%}. With nothing planted the elbow of the joint probe selects "
    f"{nothing.set_index('rule').loc['elbow, joint probe', 'heads_a_function']:.1f} heads a function, and max-T "
    f"selects any head in {size['any_selected']:.1%} of {int(size['repeats'])} repeats ({size['ci_low']:.1%} to "
    f"{size['ci_high']:.1%})."
)

# %% [markdown]
# **What's next.** [Do methods find heads that are known?](A3_planted.ipynb)
