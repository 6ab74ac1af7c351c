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
# # Answers and activations
#
# **Overview.** The model answers every step of every question, reading its own earlier answers. Then one pass over each
# finished chat records what every attention head of the text decoder holds just where it is about to say the answer.
#
# **Prerequisites.** [The data set](01_dataset.ipynb).

# %% tags=["parameters"]
model: str = "nano-internvl"  # a nano name, a folder, or a hub id such as Qwen/Qwen2.5-VL-7B-Instruct
quantize: str = ""  # "", "4bit" or "8bit"
profile: str = "light"  # "light" or "full": how many permutations, null fits and random sets

# %% tags=["hide-input"]
from contextlib import redirect_stdout
from io import StringIO

from cogvsr_utils import check_parity
from cogvsr_utils.evaluation import accuracy_table
from cogvsr_utils.pages import quote, show, start
from cogvsr_utils.plots import accuracy_figure
from cogvsr_utils.stages import Run

run = Run(model, quantize, profile)
start(run)

# %% [markdown]
# ## What the model can do
#
# Greedy answers on split C, judged strictly: a reply that cannot be read as an answer of its type is wrong and is
# counted as unparsed.

# %%
answers = run.answers("C")
table = accuracy_table(answers)
show(table, percent=("accuracy", "ci_low", "ci_high", "chance", "majority"))

# %% [markdown]
# ## In 4-bit
#
# The same weights in NF4 with double quantization, as a 7B model would be loaded on one GPU.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Accuracy by function, full precision beside 4-bit, with intervals and the majority line"}, "figure": {"caption": "Accuracy on split C with Wilson intervals, full precision and 4-bit.", "name": "fig-accuracy"}}
four = run if run.quantize else run.quantized()
table_four = accuracy_table(four.answers("C"))
tables = {"4-bit": table_four} if run.quantize else {"full precision": table, "4-bit": table_four}
accuracy_figure(tables)

# %% tags=["hide-input"]
both = table[["function", "n", "accuracy"]].merge(
    table_four[["function", "accuracy"]], on="function", suffixes=("", "_4bit")
)
both["difference"] = both["accuracy_4bit"] - both["accuracy"]
show(both, percent=("accuracy", "accuracy_4bit"), points=("difference",))

# %% [markdown]
# ## Does it help to go step by step?
#
# The main question alone, against the main question after its steps.

# %% tags=["hide-input"]
direct = accuracy_table(run.answers("C", name="direct", steps=False))
stepwise = table[table["function"] == "Main question"]
import pandas as pd

ways = pd.concat([direct.assign(way="asked directly"), stepwise.assign(way="after its own steps")])
show(
    ways[["way", "n", "accuracy", "ci_low", "ci_high", "majority"]],
    percent=("accuracy", "ci_low", "ci_high", "majority"),
)

# %% [markdown]
# ## By kind of question

# %% tags=["hide-input"]
mains = pd.concat([run.answers(s) for s in ("C", "hard") if s in run.items])
mains = mains[mains["step"] == -1]
kinds = accuracy_table(mains, by="subset").sort_values("accuracy", ascending=False)
show(kinds, percent=("accuracy", "ci_low", "ci_high", "chance", "majority"))

# %% [markdown]
# ## Where the heads are
#
# A head is the slice of the *input* of its layer's output projection. The map is read from the model's own modules.

# %%
heads = run.vlm.heads
show(heads.table.groupby(["layer", "module"]).agg(heads=("head", "size"), head_dim=("head_dim", "first")).reset_index())

# %% [markdown]
# ## Is that what the model computes?
#
# Before a number is believed: the same activations, computed in two ways that must agree. Differences are in
# root-mean-squares of the activations. Run `check_parity` on your own model before you use it.

# %% tags=["hide-input"]
with redirect_stdout(StringIO()):  # it prints the table too, for those who run it by hand
    parity = check_parity(run.vlm, run.items["B"][:8])
show(
    parity.assign(
        difference=parity["difference"].map("{:.1e}".format), tolerance=parity["tolerance"].map("{:g}".format)
    )
)

# %% [markdown]
# ## What is recorded
#
# One row for each answered step: the mean over the tokens that *predict* the answer, for every head. The store is
# memory-mapped and tells which model, data and prompt made it; a killed run goes on where it stopped.

# %%
held = run.activations("A")
held.features.shape, held.features.dtype, held.header["not_located"]

# %% tags=["hide-input"]
rows = table.set_index("function")["accuracy"]
rows_four = table_four.set_index("function")["accuracy"]
quote(
    main_accuracy=rows["Main question"],
    main_accuracy_4bit=rows_four["Main question"],
    main_direct=float(direct["accuracy"].iloc[0]),
    n_heads=len(heads),
    n_rows=len(held.features),
    spatial_accuracy=rows["Spatial Perception"],
    relational_accuracy=rows["Relational Reasoning"],
    least_accuracy=rows.drop(["Main question", "Spatial Perception", "Relational Reasoning"]).min(),
    parity_passed=int(parity["passed"].sum()),
    worst_4bit=float(abs(both["difference"]).max()),
    n_main=int(stepwise["n"].iloc[0]),
    model_name=run.model,
)

# %% [markdown]
# ## Summary
#
# The model answers, in full precision and in 4-bit, and every head is on record at every answer.
#
# **What's next.** [Which functions can be read from which heads?](03_probing.ipynb)
