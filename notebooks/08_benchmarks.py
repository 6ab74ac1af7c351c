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
# # The paper's benchmarks
#
# **Overview.** Five benchmarks, scored by their own rules and by a strict one: as they are, with the spatial heads
# ablated, scaled and replaced by random ones, and asked otherwise. Unless you give copies of your own, the questions
# are *look-alikes*: CogVSR-Synth in the files of the benchmark that each question is modelled on.
#
# **Prerequisites.** [Interventions](05_interventions.ipynb); what the loaders and scorers do is on
# [the page about them](../book/benchmarks.md).

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
source: str = "synth"  # the data on which the heads are selected: "synth" or the path of a CogVSR .jsonl file
data_root: str = ""  # a folder with a copy of each benchmark in a folder of its name, such as vsr; "" for look-alikes
judge: str = ""  # a language model that judges CogVSR's steps: a folder, or a model's name at judge_url; "" for none
judge_url: str = ""  # an OpenAI-compatible address; its key is read from OPENAI_API_KEY in the environment

# %% tags=["hide-input"]
import pandas as pd

from cogvsr_utils import Experiment
from cogvsr_utils.analysis.benchmarks import FORCED, SPATIAL_SCORE
from cogvsr_utils.dataset.loading import BENCHMARKS
from cogvsr_utils.paths import PUBLISHED
from cogvsr_utils.pipeline import benchmarks, copies, judging
from cogvsr_utils.pipeline.measured import table
from cogvsr_utils.report.figures import forest_figure
from cogvsr_utils.report.pages import measured_note, paragraph, show, span, start, verdict, with_interval
from cogvsr_utils.stats import false_discovery_rate

TITLES = {name: benchmark.title for name, benchmark in BENCHMARKS.items()}
KIND = "your copy" if data_root else "look-alike"
experiment = Experiment(model, quantize, profile, source)
start(experiment)

# %% tags=["hide-input"]
measured_note([experiment], () if data_root else (benchmarks.lookalike_effects,))

# %% [markdown]
# ## Answers
#
# Greedy replies: to each main question alone, and in CogVSR to its steps first.

# %%
scores = copies.copy_effects(experiment, data_root) if data_root else table(experiment, benchmarks.lookalike_effects)
whole = scores[scores["subset"] == "all"].assign(benchmark=lambda rows: rows["benchmark"].map(TITLES))
protocol = (", " + whole["protocol"]).where(whole["protocol"] != "single", "")
whole = whole.assign(label=whole["benchmark"] + protocol, questions=whole["benchmark"] + f" ({KIND})" + protocol,
                     unread=whole["n_unparsed"] / whole["n"])  # fmt: skip

# %% [markdown]
# ## Scores
#
# *Strict* takes what a reply states by the type of its answer; *official* is the benchmark's own rule, faults included.
# A reply that a scorer cannot read is wrong and counted. *Forced choice* takes the likeliest option, of questions that
# have options; `covered` is the share of probability that all options had together. 3DSRBench's four protocols ask for
# more and more to be right together; CogVSR's *Spatial Score* counts the steps of the two spatial functions.

# %% tags=["hide-input"]
base = with_interval(whole[whole["condition"] == benchmarks.BASE], "accuracy")
columns = ["questions", "scorer", "n", "accuracy", "chance", "majority", "unread", "covered"]
show(base.sort_values("benchmark", kind="stable")[columns], percent=("chance", "majority", "unread", "covered"))

# %% [markdown]
# ## With the spatial heads ablated, and scaled
#
# The top heads of both spatial functions by the paper's importance, selected on split A, multiplied by 0.001 or by the
# factor that was best on B.

# %% mystnb={"image": {"alt": "Change of accuracy in points on each benchmark, of replies and of forced choice, spatial heads ablated on the left and scaled on the right, with intervals and zero marked"}, "figure": {"caption": "Change of accuracy, paired by question, of replies scored strictly and of forced choice, in points, with 95 % intervals over groups. Rows are benchmarks; 3DSRBench once for each protocol.", "name": "fig-benchmarks"}}
points = whole.assign(value=100 * whole["change"], low=100 * whole["change_low"],
                      high=100 * whole["change_high"], kind=whole["scorer"])  # fmt: skip
points = points[points["scorer"] != "official"]
edited = points[points["condition"].isin(["ablated", "scaled"])]
edited = edited.assign(q=false_discovery_rate(edited["p"]))
forest_figure(dict(iter(edited.groupby("condition"))), "points", {"strict": "o", FORCED: "D"})

# %% tags=["hide-input"]
cells = with_interval(edited, "change", "change_low", "change_high", form="+.1f", scale=100)
columns = ["condition", "questions", "scorer", "n", "change", "p", "q", "unread", "covered"]
show(cells[columns], percent=("unread", "covered"), digits=4)

# %% [markdown]
# Does an edit make answers wrong, or unreadable? `unread` above is the share that the strict scorer could not read.
# Where it grows with an edit, accuracy falls below chance without any spatial skill being lost. Forced choice cannot be
# unread: what it loses is what the model would choose otherwise.

# %% tags=["hide-input"]
published = pd.read_csv(PUBLISHED / "benchmarks.csv")
masked = published.loc[published["metric"] == "accuracy with heads masked", "value"]
paragraph(f"VSR has two classes; {masked.min():.1f} to {masked.max():.1f} %, as was published for it with heads "
          "masked, is so "
          "far below one half that it can hardly be anything else.")  # fmt: skip

# %% [markdown]
# ### Beside random heads
#
# The change with the spatial heads ablated, beside random sets of as many heads of the same layers, which may have some
# of them. *p* is two-sided, of the ablation among the sets. With *n* sets it is at least 2 / (1 + *n*): the 40 of the
# full profile can tell in one row that was named beforehand, not in the best of many.

# %% tags=["hide-input"]
PROTOCOLS = ("single", "vanilla", SPATIAL_SCORE)  # the others of 3DSRBench are above
beside = benchmarks.beside_random(whole[(whole["scorer"] != "official") & whole["protocol"].isin(PROTOCOLS)])
beside["sets"] = [span(low, high) for low, high in zip(beside["random_low"], beside["random_high"], strict=True)]
beside = beside.assign(ablated=100 * beside["change"], random=100 * beside["random"])
show(beside[["questions", "scorer", "ablated", "random", "sets", "n_random", "p_random"]], digits=2)

# %% [markdown]
# ## Asked otherwise
#
# **With steps or without.** The paper's first claim is that steps help. CogVSR's questions are asked without their
# steps too; the others after a turn in which the model may think aloud (`thought`: its mean number of words). **Another
# attention.** Published scores of one model differ between implementations of attention, so `same` is the share of
# replies that eager attention leaves as they were.

# %% tags=["hide-input"]
changed = points[points["protocol"].isin(PROTOCOLS)].dropna(subset="change")
otherwise = changed[changed["condition"].isin(["without steps", "after thinking", "eager attention"])]
cells = with_interval(otherwise, "change", "change_low", "change_high", form="+.1f", scale=100)
columns = ["condition", "questions", "scorer", "n", "change", "unread", "same", "thought"]
show(cells.sort_values("condition", kind="stable")[columns], percent=("unread", "same"))

# %% [markdown]
# **Without a picture.** With one option more, that the answer *cannot be determined*, a model that looks should take it
# when the picture is grey, and only then. Asked are questions that only the picture answers, of 3DSRBench in one order
# of the options.

# %% tags=["hide-input"]
opened = whole[whole["condition"].isin([benchmarks.TRUE_PICTURE, benchmarks.GREY_PICTURE])]
opened = with_interval(opened, "accuracy").pipe(with_interval, "undetermined", "undetermined_low", "undetermined_high")
show(opened[["questions", "scorer", "condition", "n", "undetermined", "accuracy", "chance", "unread"]],
     percent=("chance", "unread"))  # fmt: skip

# %% [markdown]
# ## Latent heads activated: places given
#
# The paper activates latent spatial heads on the input. Here the model is given where the things are, in words before
# the question or drawn on the picture, from `boxes.json` in a copy's folder. Shown is the change from *misplaced*
# boxes of the same sizes and names, which say what is false, so that the change has both the help of true places and
# the harm of false ones; accuracy stands beside it. Behind the stroke is what the change is from.

# %% tags=["hide-input"]
given = changed[changed["condition"].str.contains("boxes", regex=False)]
cells = with_interval(given, "change", "change_low", "change_high", form="+.1f", scale=100)
cells["condition"] += " / " + cells["against"]
columns = ["questions", "condition", "scorer", "n", "accuracy", "change", "p", "unread"]
show(cells[columns], percent=("accuracy", "unread"), digits=4)

# %% [markdown]
# ## CogVSR's Spatial Score, judged
#
# The paper lets a language model judge replies, as answers in one's own words need. The strict scorer above stands for
# it unless you name one: `-p judge MODEL`, with `-p judge_url ADDRESS` for an endpoint. [How judges are
# asked](../book/language_models.md).

# %%
items, replies = judging.step_replies(experiment, data_root) if judge else ([], None)
judged = paragraph("There is no copy of CogVSR." if judge else "No judge was named.")
if items:
    scored = judging.judged_scores(replies, items, judge, judge_url, experiment.folder / "judged")
    judged = show(with_interval(scored, "score", "low", "high"), percent=("agree",), digits=3)
judged

# %% [markdown]
# ## What was published
#
# Printed beside ours only where protocol and metric are stated to be the same, which they are for none of the paper's
# own figures: no source says for which model its five main figures are.

# %% tags=["hide-input"]
published = published.assign(benchmark=published["benchmark"].map(TITLES))
show(published[["benchmark", "metric", "protocol", "model", "value", "grade", "source"]], digits=1)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
single = edited[edited["protocol"].isin(PROTOCOLS)].set_index(["condition", "label"])
replied, chosen = (single[single["scorer"] == scorer] for scorer in ("strict", FORCED))
sentences = [
    f"- {label}, heads {condition}: " + verdict(row["change_low"], row["change_high"], "less accurate", "more accurate")
    + f" ({span(row['change_low'], row['change_high'])} points, q {row['q']:.3f})"
    + (f", by forced choice {span(*chosen.loc[(condition, label), ['change_low', 'change_high']])}"
       if (condition, label) in chosen.index else "")
    for (condition, label), row in replied.iterrows()
]  # fmt: skip
paragraph("\n".join([f"On {'your copies' if data_root else 'look-alikes'}, by the strict scorer:\n", *sentences]))

# %% [markdown]
# Look-alikes show that loaders, scorers and tables work, and say nothing about the benchmarks. `nano-internvl` knows
# their wording from training; it has never thought aloud or met the words of the last option, and cues it has seen
# beside six kinds of question, so there the tables show what happens to a model that is asked for what it has not
# learnt.
#
# **What's next.** [Copies of your own](../book/benchmarks.md), or [what it all costs](A1_speed.ipynb).
