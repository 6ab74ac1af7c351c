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
# finished chat records every attention head of the text decoder at the tokens that predict each answer.
#
# **Prerequisites.** [The data set](01_dataset.ipynb).

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
from tempfile import TemporaryDirectory

import pandas as pd

from cogvsr_utils import Experiment, accuracy_table, capture, check_parity, compare
from cogvsr_utils.pipeline import recordings
from cogvsr_utils.report.figures import accuracy_figure
from cogvsr_utils.report.pages import paragraph, quote, show, span, start, with_interval

experiment = Experiment(model, quantize, profile, source)
start(experiment)

# %% [markdown]
# ## What the model can do
#
# Greedy answers on split C, judged strictly: a reply that cannot be read as an answer of its type is wrong and is
# counted as unparsed.

# %%
answers = recordings.answers["C"](experiment)
table = accuracy_table(answers)
show(with_interval(table, "accuracy")[["function", "n", "accuracy", "majority"]], percent=("majority",))

# %% tags=["hide-input"]
paragraph(f"{table['n_unparsed'].sum()} of {table['n'].sum()} replies could not be read as an answer of their type.")

# %% [markdown]
# ## In 4-bit
#
# The same weights in NF4 with double quantization, as a 7B model would be loaded on one GPU.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Accuracy by function, full precision beside 4-bit, with intervals and the majority line"}, "figure": {"caption": "Accuracy on split C, full precision and 4-bit, with 95 % intervals over scenes.", "name": "fig-accuracy"}}
packed = answers if experiment.quantize else recordings.four_bit_answers(experiment)
name = experiment.quantize or "4bit"
table_packed = accuracy_table(packed)
accuracy_figure({name: table} if experiment.quantize else {"full precision": table, name: table_packed})

# %% [markdown]
# ## Does it help to go step by step?
#
# The main question alone, against the main question after its steps: the same questions, so the difference is paired.

# %% tags=["hide-input"]
direct = recordings.direct_answers(experiment)
stepwise = answers[answers["step"] == -1]
gain = compare(stepwise, direct).iloc[0]
ways = pd.concat(
    [accuracy_table(direct).assign(asked="directly"), accuracy_table(stepwise).assign(asked="after its steps")]
)
show(with_interval(ways, "accuracy")[["asked", "n", "accuracy", "majority"]], percent=("majority",))

# %% [markdown]
# ## By kind of question

# %% tags=["hide-input"]
mains = pd.concat([recordings.answers[s](experiment) for s in ("C", "hard") if s in experiment.present_splits])
kinds = accuracy_table(mains[mains["step"] == -1], by="subset").sort_values("accuracy", ascending=False)
show(with_interval(kinds, "accuracy")[["subset", "n", "accuracy", "majority"]], percent=("majority",))

# %% [markdown]
# ## Where the heads are
#
# A head is the slice of the *input* of its layer's output projection. The map is read from the model's own modules.

# %%
heads = experiment.vlm.heads
heads.table[["layer", "head", "kind", "head_dim", "module"]].head(3)

# %% [markdown]
# ## Is that what the model computes?
#
# Before a number is relied on: the same activations, computed in two ways that must agree. Run `check_parity` on your
# own model before you use it.

# %%
parity = check_parity(experiment.vlm, [item for item in experiment.items("B") if item.steps][:8])
show(parity.assign(**{name: parity[name].map("{:.1e}".format) for name in ("difference", "tolerance")}))

# %% [markdown]
# ## What is recorded
#
# One row for each answered step: the mean over the tokens that *predict* the answer, for every head. The store is
# memory-mapped and records which model, data and prompt made it; a killed run resumes where it stopped.

# %%
activations = recordings.activations["A"](experiment)
activations.features.shape, activations.features.dtype, activations.header["not_located"]

# %% [markdown]
# Other tokens are a word away: here the last token of the prompt, read where it is, for a few questions. Where only the
# `content_tokens` least expected tokens of an answer count, it is `position="answer_content"`, as in the paper.

# %%
with TemporaryDirectory() as folder:
    few = experiment.items("B")[:8]
    prompts = capture(experiment.vlm, few, store=folder, position="prompt_last", progress=False)
    print(prompts.by_head().shape)  # (steps, heads, head_dim)

# %% tags=["remove-input"]
all_items = [item for split in experiment.present_splits for item in experiment.items(split)]
rows, rows_packed = (t.set_index("function")["accuracy"] for t in (table, table_packed))
quote(
    main_accuracy=rows["Main question"],
    main_accuracy_4bit=rows_packed["Main question"],
    main_direct=direct["correct"].mean(),
    n_heads=len(heads),
    n_main=len(stepwise),
    n_questions=len(all_items),
    n_steps=sum(len(item.steps) for item in all_items),
    n_groups=len({item.group_id for item in all_items}),
    model_name=experiment.title,
)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
paragraph(
    f"After its own steps the model answers {rows['Main question']:.1%} of {len(stepwise)} main questions, asked "
    f"directly {direct['correct'].mean():.1%}: a difference of {100 * gain['change']:+.1f} points "
    f"({span(gain['ci_low'], gain['ci_high'])}). In {name} it is {rows_packed['Main question']:.1%}. "
    f"{int(parity['passed'].sum())} of {len(parity)} checks of what is read passed. {len(heads)} heads are on record "
    f"at {len(activations.features)} steps of split A."
)

# %% [markdown]
# **What's next.** [Which functions can be read from which heads?](03_probing.ipynb)
