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
# top, questions about them, and for every question the steps that lead to its answer, each labelled with the
# cognitive function that it needs.
#
# **Prerequisites.** None. Terms are in the [glossary](../book/glossary.md); the [data card](../book/data_card.md)
# tells how the set is made.

# %% tags=["parameters"]
n_items: int = 1200  # main questions to build
size: int = 256  # pixels along one side of a picture
seed: int = 0  # other seeds give other scenes

# %% tags=["hide-input"]
from collections import Counter

from cogvsr_utils import audit_labels, load_items
from cogvsr_utils.functions import FUNCTIONS
from cogvsr_utils.items import steps_table
from cogvsr_utils.pages import quote, show, start
from cogvsr_utils.plots import scene_figure, share_figure
from cogvsr_utils.synth import build_synth

start()

# %% [markdown]
# ## One question, seen whole
#
# The picture is ray-cast from exact geometry, so every answer is true by construction. A question that could be argued
# about (things nearly in line, things mostly hidden) is never asked.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four rendered table-top pictures, each beside its main question and its labelled steps with their answers"}, "figure": {"caption": "Four items of the set: picture, main question with its answer, and the steps, each with the function that it needs.", "name": "fig-items"}}
path = build_synth(n_items=n_items, size=size, seed=seed)
items = load_items(path)
first = {}
for item in items:
    if len(item.steps) == 6:
        first.setdefault(item.meta["manner"], item)
scene_figure(list(first.values()))

# %% [markdown]
# ## Four manners of asking
#
# The questions follow the four benchmarks from which the paper's data set draws: statements to verify
# (VSR), closer, higher, facing and viewpoint (3DSRBench), attributes, counts, occlusion, pose and collision
# (Spatial457), and a bird's-eye map of the same scene (SpatialEval).

# %% tags=["hide-input"]
steps = steps_table(items)
kinds = steps.groupby("subset").agg(questions=("uid", "nunique"), steps=("uid", "size")).reset_index()
manner = {item.subset: item.meta["manner"] for item in items}
example = {item.subset: item.question for item in items}
kinds.insert(0, "manner", kinds["subset"].map(manner))
kinds["example"] = kinds["subset"].map(example)
show(kinds.sort_values(["manner", "subset"]))

# %% [markdown]
# ## Eight functions
#
# Every step carries one of the paper's eight cognitive functions. The first two are the spatial ones.

# %% tags=["hide-input"]
import pandas as pd

counts = Counter(steps["function"])
show(
    pd.DataFrame(
        {"function": f.name, "meaning": f.definition, "steps": counts[f.name], "share": counts[f.name] / len(steps)}
        for f in FUNCTIONS
    ),
    percent=("share",),
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bars of the number of steps for each of the eight functions; all of them reach beyond the eight per cent line"}, "figure": {"caption": "Steps of each function. The dotted line marks 8 % of all steps.", "name": "fig-shares"}}
share_figure(counts)

# %% [markdown]
# ## Splits
#
# Scenes are dealt into three splits: heads are *chosen* on A, strengths *tuned* on B, and results *reported* on C. No
# scene stands in two of them. Kinds of question that our small models cannot answer are kept apart as *hard*.

# %% tags=["hide-input"]
splits = pd.DataFrame([(i.split, i.group_id, len(i.steps)) for i in items], columns=["split", "scene", "steps"])
show(
    splits.groupby("split")
    .agg(questions=("scene", "size"), scenes=("scene", "nunique"), steps=("steps", "sum"))
    .reset_index()
)

# %% [markdown]
# ## Can the label be guessed without a model?
#
# If the wording of a step gives its function away, a probe that reads the function from a model's activations proves
# little. So we ask how far naive Bayes gets from the text alone. On the files of CogQA, the text data set of the same
# research line, the same kind of guess reaches 58 to 63 % (eight functions, chance 12.5 %).

# %% tags=["hide-input"]
audit = audit_labels(items)
show(audit, percent=("accuracy", "balanced_accuracy"))

# %% [markdown]
# Neither the place of a step nor its answer gives the label away; the *wording of the question* nearly does, more so
# than in CogQA, because our questions come from templates. From here on a probe's accuracy never stands alone: it is
# read beside this table, and what heads *do* is tested by removing them.

# %% tags=["hide-input"]
by_name = audit.set_index("predictor")["accuracy"]
quote(
    n_items=len(items),
    n_steps=len(steps),
    n_scenes=len({i.group_id for i in items}),
    smallest_share=min(counts.values()) / len(steps),
    audit_words=by_name["question words"],
    audit_index=by_name["step index"],
    audit_answer=by_name["answer words"],
    audit_majority=by_name["majority"],
)

# %% [markdown]
# ## Summary
#
# A balanced set of spatial questions with exact answers, step by step, labelled by function, with splits by scene and
# an honest count of how much the wording tells.
#
# **What's next.** [A model answers the steps, and we record every head](02_capture.ipynb).
