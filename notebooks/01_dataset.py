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
# # The data set
#
# **Overview.** A hard spatial question is a chain of easier ones. This page builds *CogVSR-Synth*: pictures of a table
# top, questions about them, and for every question steps towards its answer, each labelled with the cognitive function
# that it needs.
#
# **Prerequisites.** None. Terms are in the [glossary](../book/glossary.md); the [data card](../book/data_card.md)
# describes how the set is made.

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
source: str = "synth"  # "synth" or the path of a CogVSR .jsonl file
n_items: int = 1200  # main questions to build, where the source is "synth", as the next two
size: int = 256  # pixels along one side of a picture
seed: int = 0  # other seeds give other scenes

# %% tags=["hide-input"]
from collections import Counter

import pandas as pd

from cogvsr_utils import Experiment, audit_labels, load_items
from cogvsr_utils.dataset.items import steps_table
from cogvsr_utils.dataset.splits import CROSSED
from cogvsr_utils.dataset.synth.build import N_ITEMS, SIZE, build_synth
from cogvsr_utils.functions import FUNCTIONS
from cogvsr_utils.models.weights import nano_names
from cogvsr_utils.pipeline import baselines
from cogvsr_utils.pipeline.measured import table
from cogvsr_utils.report.figures import scene_figure, share_figure
from cogvsr_utils.report.pages import measured_note, paragraph, quote, show, start, with_interval

start()

# %% tags=["hide-input"]
own = source != "synth"
paragraph(
    f"*This run shows* `{source}`; *what is said of how the set is made is about CogVSR-Synth.*"
    if own
    else f"*This run shows CogVSR-Synth, built from seed {seed}"
    + ("; the gate below is of the set as it comes.*" if (n_items, size, seed) != (N_ITEMS, SIZE, 0) else ".*")
)

# %%
everything = load_items(source if own else build_synth(n_items=n_items, size=size, seed=seed))
items = [item for item in everything if item.split not in CROSSED.values()]  # plain steps
steps = steps_table(items)
steps[["question", "answer", "function"]].head(4)

# %% [markdown]
# ## One question with its steps
#
# The picture is ray-cast from exact geometry, so every answer is true by construction. A question that could be argued
# about (things nearly in line, things mostly hidden) is never asked.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four rendered table-top pictures, each beside its main question and its labelled steps with their answers, those that are filler in grey italics"}, "figure": {"caption": "Four items of the set: picture, main question with its answer, and the steps, each with the function that it needs. In grey italics steps that do not bear on the main answer (filler).", "name": "fig-items"}}
benchmarks = {}
for item in items:
    if item.image is not None:
        benchmarks.setdefault(item.meta.get("source_benchmark", item.benchmark), []).append(item)
(
    scene_figure([min(each, key=lambda item: abs(len(item.steps) - 5)) for each in list(benchmarks.values())[:4]])
    if benchmarks
    else paragraph("*No item has a picture.*")
)

# %% [markdown]
# ## Four source benchmarks
#
# The questions are asked in the manner of the four benchmarks from which the paper's data set draws: statements to
# verify (VSR), closer, higher, facing and viewpoint (3DSRBench), attributes, counts, occlusion, pose and collision
# (Spatial457), and a bird's-eye map of the same scene (SpatialEval).

# %% tags=["hide-input"]
kinds = Counter(item.subset for item in items)
example = {
    item.subset: (item.meta.get("source_benchmark", item.benchmark), f"{item.subset}: {item.question}")
    for item in items
}
counted = pd.DataFrame([(*example[kind], n) for kind, n in kinds.items()], columns=["source", "example", "questions"])
show(counted.sort_values(["source", "example"]))

# %% [markdown]
# ## Eight functions
#
# Every step is labelled with one of the paper's eight cognitive functions. The first two are the spatial ones.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bars of the number of steps for each of the eight functions, with a line at eight per cent"}, "figure": {"caption": "Steps of each function. The dotted line marks 8 % of all steps.", "name": "fig-shares"}}
counts = Counter(steps["function"])
share_figure(counts)

# %% tags=["hide-input"]
show(pd.DataFrame({"function": f.name, "meaning": f.definition} for f in FUNCTIONS))

# %% [markdown]
# Not every step is needed for the main answer. To let every function occur often enough, a chain may contain *filler*:
# a plain fact ("Is an ant small or large?"), a sum, another thing's size. They are answered in the same chat and
# scored like the others. How many there are, by function:

# %% tags=["hide-input"]
needed = {(i.uid, number) for i in items for number in i.meta.get("needed_steps", range(len(i.steps)))}
steps["filler"] = [(uid, number) not in needed for uid, number in zip(steps["uid"], steps["step"], strict=True)]
filler = steps.groupby("function")["filler"].agg(["size", "mean"]).reindex([f.name for f in FUNCTIONS]).reset_index()
show(filler.rename(columns={"size": "steps", "mean": "filler"}), percent=("filler",))

# %% [markdown]
# ## Splits
#
# Scenes are dealt into three splits: heads are *selected* on A, strengths *tuned* on B, and results *tested* on C. No
# scene is in two of them. Three kinds of question that earlier models answered below 60 % are kept apart as *hard*.

# %% tags=["hide-input"]
splits = pd.DataFrame(
    [(i.split or "none", i.group_id, len(i.steps)) for i in everything], columns=["split", "scene", "steps"]
)
show(
    splits.groupby("split")
    .agg(questions=("scene", "size"), scenes=("scene", "nunique"), steps=("steps", "sum"))
    .reset_index()
)

# %% [markdown]
# ## Can the label be guessed without a model?
#
# If the wording of a step gives its function away, a probe that reads the function from a model's activations proves
# little. So naive Bayes guesses from the text alone. On the files of CogQA (arXiv 2512.10978), the text data set of the
# same research line, we measured 58 to 63 % by the same kind of guess (eight functions; `data/published/paper.csv`).

# %%
audit = audit_labels(items)
show(audit, percent=("accuracy", "balanced_accuracy"))

# %% [markdown]
# ## The same words, another function
#
# So a second part of the set asks in *crossed wording*. A plan numbers five tasks, each of another function; the column
# or row of a thing tells which of them is asked for. The same text stands beside two pictures, and every step of it
# needs another function in the one than in the other. Which function it is follows from the plan and the geometry.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rendered table-top pictures, each beside the same plan and the same questions, which are labelled with different functions and have different answers"}, "figure": {"caption": "A pair of items in crossed wording: the text is the same to the letter, the function of every step is another.", "name": "fig-crossed"}}
pairs = [item for item in everything if item.split in CROSSED.values()]
(
    scene_figure([item for item in pairs if item.group_id == pairs[0].group_id])
    if pairs
    else paragraph("*This file has no steps in crossed wording.*")
)

# %% [markdown]
# ## The gate: what a reader of the text alone can tell
#
# Two models read the whole transcript, the answers included, and no picture. In crossed wording neither may get more
# than five points above the commonest function.

# %%
first = Experiment(nano_names()[0], source=source)  # what the text tells is the same for every model
parts = {"plain": "A", "crossed": CROSSED["A"]} if pairs else {}
gates = {name: baselines.text_gate[split] for name, split in parts.items()}
measured_note([first], list(gates.values()))

# %%
gate = [table(first, each).assign(steps=name) for name, each in gates.items()]
nothing = paragraph("*Nothing to show: this file has no steps in crossed wording.*")
columns = ["steps", "predictor", "n", "accuracy"]
show(with_interval(pd.concat(gate), "accuracy", "low", "high")[columns]) if pairs else nothing

# %% tags=["hide-input"]
passed = ""
if pairs:
    reached = gate[1].set_index("predictor")["accuracy"]
    above, n = reached.drop("majority").max() - reached["majority"], gate[1]["n"].iloc[0]
    passed = (
        f"In crossed wording the better of the two gets {100 * above:+.1f} points more than the commonest function "
        f"({reached['majority']:.1%}) on {n} steps: the gate is {'passed' if above <= 0.05 else 'not passed'}."
    )
paragraph(passed)

# %% tags=["remove-input"]
by_name = audit.set_index("predictor")["accuracy"]
quote(
    filler_share=steps["filler"].mean(),
    audit_words=by_name["question words"],
)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
paragraph(
    f"{len(items)} questions about {len({i.group_id for i in items})} scenes, with {len(steps)} labelled steps of "
    f"which {steps['filler'].mean():.0%} are filler; every function has at least "
    f"{min(counts[f.name] for f in FUNCTIONS) / len(steps):.1%} of them. Words of the question alone name a step's "
    f"function in {by_name['question words']:.1%} of cases, its place in the chain in {by_name['step index']:.1%}, "
    f"the commonest function is right in {by_name['majority']:.1%}. {passed} So a probe's accuracy never stands "
    "alone in this book: what heads *do* is tested by ablating them."
)

# %% [markdown]
# **What's next.** [A model answers the steps, and every head is recorded](02_capture.ipynb).
