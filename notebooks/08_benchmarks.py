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
# **Overview.** The main questions of four benchmarks, scored by their own rules and by a strict one, without and with the
# spatial heads ablated and scaled. Unless you give copies of your own, the questions are *look-alikes*: CogVSR-Synth in the
# files of the benchmark that each question is modelled on.
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

# %% tags=["hide-input"]
import pandas as pd

from cogvsr_utils import Experiment
from cogvsr_utils.dataset.loading import BENCHMARKS
from cogvsr_utils.paths import PUBLISHED
from cogvsr_utils.pipeline import benchmarks
from cogvsr_utils.report.figures import forest_figure
from cogvsr_utils.report.pages import paragraph, show, span, start, verdict, with_interval

TITLES = {name: benchmark.title for name, benchmark in BENCHMARKS.items()}
experiment = Experiment(model, quantize, profile, source)
start(experiment)

# %% [markdown]
# ## Answers
#
# Each main question alone, without steps, greedily.

# %%
if data_root:
    tables = benchmarks.copy_effects(experiment, data_root)
else:
    tables = {name: benchmarks.lookalike_effects[name](experiment) for name in benchmarks.ASKED}
scores = pd.concat(tables.values(), ignore_index=True)
whole = scores[scores["subset"] == "all"].assign(benchmark=lambda rows: rows["benchmark"].map(TITLES))
protocol = (", " + whole["protocol"]).where(whole["protocol"] != "single", "")
kind = "your copy" if data_root else "look-alike"
whole = whole.assign(label=whole["benchmark"] + protocol, questions=whole["benchmark"] + f" ({kind})" + protocol)

# %% [markdown]
# ## Scores
#
# *Strict* takes what a reply states by the type of its answer; *official* is the benchmark's own rule, faults included. A reply
# that a scorer cannot read is wrong and counted. *Forced choice* takes the likeliest option, of questions that have options;
# `covered` is the share of probability that all options had together. 3DSRBench's four protocols ask for more and more to be
# right together.

# %% tags=["hide-input"]
base = with_interval(whole[whole["condition"] == benchmarks.BASE], "accuracy")
base = base.assign(unread=base["n_unparsed"] / base["n"])
columns = ["questions", "scorer", "n", "accuracy", "chance", "majority", "unread", "covered"]
show(base.sort_values("benchmark", kind="stable")[columns], percent=("chance", "majority", "unread", "covered"))

# %% [markdown]
# ## With the spatial heads ablated, and scaled
#
# The top heads of both spatial functions by the paper's importance, selected on split A, multiplied by 0.001 or by the factor
# that was best on B.

# %% mystnb={"image": {"alt": "Change of accuracy in points on each benchmark, of replies and of forced choice, spatial heads ablated on the left and scaled on the right, with intervals and zero marked"}, "figure": {"caption": "Change of accuracy, paired by question, of replies scored strictly and of forced choice, in points, with 95 % intervals over groups. Rows are benchmarks; 3DSRBench once for each protocol.", "name": "fig-benchmarks"}}
edited = whole[(whole["condition"] != benchmarks.BASE) & (whole["scorer"] != "official")]
points = edited.assign(value=100 * edited["change"], low=100 * edited["change_low"],
                       high=100 * edited["change_high"], kind=edited["scorer"])  # fmt: skip
forest_figure(dict(iter(points.groupby("condition"))), "points", {"strict": "o", benchmarks.FORCED: "D"})

# %% tags=["hide-input"]
cells = with_interval(edited, "change", "change_low", "change_high", form="+.1f", scale=100)
cells = cells.assign(unread=cells["n_unparsed"] / cells["n"])
columns = ["condition", "questions", "scorer", "n", "change", "p", "unread", "covered"]
show(cells[columns], percent=("unread", "covered"), digits=4)

# %% [markdown]
# Does an edit make answers wrong, or unreadable? `unread` above is the share that the strict scorer could not read. Where it
# grows with an edit, accuracy falls below chance without any spatial skill being lost. Forced choice cannot be unread: what it
# loses is what the model would choose otherwise.

# %% tags=["hide-input"]
published = pd.read_csv(PUBLISHED / "benchmarks.csv")
masked = published.loc[published["metric"] == "accuracy with heads masked", "value"]
paragraph(f"VSR has two classes; {masked.min():.1f} to {masked.max():.1f} %, as was published for it with heads masked, is so "
          "far below one half that it can hardly be anything else.")  # fmt: skip

# %% [markdown]
# ## What was published
#
# Printed beside ours only where protocol and metric are stated to be the same, which they are for none of the paper's own
# figures: no source says for which model its five main figures are.

# %% tags=["hide-input"]
published = published.assign(benchmark=published["benchmark"].map(TITLES))
show(published[["benchmark", "metric", "protocol", "model", "value", "grade", "source"]], digits=1)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
single = edited[edited["protocol"].isin(["single", "vanilla"])].set_index(["condition", "benchmark"])
replies, chosen = (single[single["scorer"] == scorer] for scorer in ("strict", benchmarks.FORCED))
sentences = [
    f"{benchmark}, heads {condition}: "
    + verdict(row["change_low"], row["change_high"], "less accurate", "more accurate")
    + f" ({span(row['change_low'], row['change_high'])} points)"
    + (f", by forced choice {span(*chosen.loc[(condition, benchmark), ['change_low', 'change_high']])}"
       if (condition, benchmark) in chosen.index else "")
    for (condition, benchmark), row in replies.iterrows()
]  # fmt: skip
paragraph(f"On {'your copies' if data_root else 'look-alikes'}, by the strict scorer: " + "; ".join(sentences) + ".")

# %% [markdown]
# Look-alikes show that loaders, scorers and tables work, and say nothing about the benchmarks.
#
# **What's next.** [Copies of your own](../book/benchmarks.md), or [what it all costs](A1_speed.ipynb).
