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
# # What it costs
#
# **Overview.** How long reading every head takes, beside a bare forward pass, beside other tools doing the same, and
# beside the method of the paper's predecessors. Seconds differ from machine to machine; the *ratios* are the result,
# all from this run.
#
# **Prerequisites.** [Answers and activations](02_capture.ipynb).

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
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from cogvsr_utils import Experiment, load_items, load_vlm
from cogvsr_utils.checks import probe_speed, speed
from cogvsr_utils.paths import MEASURED, PUBLISHED
from cogvsr_utils.pipeline import recordings
from cogvsr_utils.report.effect_figures import scaling_figure
from cogvsr_utils.report.pages import paragraph, quote, show, start

experiment = Experiment(model, quantize, profile, source)
start(experiment)

# %% tags=["hide-input"]
vlm, items = experiment.vlm, experiment.items("B")
scratch = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Scaling with the number of items
#
# Time should grow in line with the items and memory hardly: what is kept goes to disk. Measured before all else on this
# page, since a peak can only rise.

# %% mystnb={"image": {"alt": "Seconds of capture against number of items, and peak memory of the process against the same"}, "figure": {"caption": "Seconds to capture, and the process's peak memory, against the number of items.", "name": "fig-scaling"}}
few = items[:16]  # repeated, as answering more would set a peak of its own
grown = speed.scaling(vlm, few, scratch, [100, 500, 2500], recordings.answers["B"](experiment))
scaling_figure(grown)

# %% [markdown]
# ## Beside the bare pass and beside peers
#
# The same batches, the same tokens, the same means; in turns batch by batch, medians of nine rounds. `ratio` is to the
# bare pass of the same round, `difference` the largest from what `capture` reads. The peers are used as their
# documentation shows.

# %%
some = items[:64]
methods = speed.compare_methods(vlm, speed.finished_chats(vlm, some), repeats=9)
shown = methods.assign(difference=["–" if np.isnan(gap) else f"{gap:.0e}" for gap in methods["difference"]])
show(shown[["method", "median", "ratio", "difference"]], digits=3)

# %% [markdown]
# ## Steps a second
#
# Answering and reading, by this package and by a sequential baseline: one question at a time, a hook on every generated
# token, all of them kept, as in the code of Cognitive Mirrors. And a sweep that ablates single heads of all layers, all
# steps of an item in one pass, beside one item after the other, and beside all items in batches, one run a head. In a
# sweep image features are computed once, and so are the layers before the ablated one. In the mean over layers that
# leaves half of the decoder, so where the decoder is nearly all of a pass, as in these small models on a CPU, a sweep
# can be twice as fast as one batched run a head, and more where the vision tower takes its share, as in a model of 7B
# on a GPU (the table below this one). Published sweeps generate every step's reply for each head; what generating costs
# is in the baseline's row of reading. Medians of three turns.

# %%
here = speed.throughput(vlm, some, scratch / "throughput")
show(here[["task", "method", "steps_per_second", "ratio"]], digits=1)

# %% [markdown]
# The same on GPUs, where such a run has been kept (`python -m pytest -m gpu` writes it).

# %% tags=["hide-input"]
kept = [pd.read_csv(path) for path in sorted(MEASURED.glob("speed-*.csv"))]
show(pd.concat(kept)[["device", "task", "method", "steps_per_second", "ratio"]], digits=1) if kept else paragraph(
    "*No run on a GPU is kept in this repository.*"
)

# %% [markdown]
# What a model of 7B takes, measured once with an earlier version of this package on one H100 (torch 2.11, CUDA 13,
# bitsandbytes 0.50; random weights at the shape of Qwen2.5-VL-7B, 448-pixel pictures, chats of 365 tokens). These
# numbers are kept in the repository and not measured by this run.

# %% tags=["hide-input"]
once = pd.read_csv(PUBLISHED / "gpu.csv", keep_default_na=False)
show(once[["quantity", "quantize", "value", "unit"]], digits=3)

# %% [markdown]
# Where the time of answering goes. What batches do not lessen on a CPU are the matrix products of the decoder over
# prompts, so their share bounds what batching can gain here; on a GPU they are what batches fill.

# %%
parts = speed.answering_parts(vlm, some)
show(parts, percent=("share",))

# %% [markdown]
# ## Windows of the vision tower
#
# Towers of Qwen's line attend window after window in a Python loop. All windows of equal length can go in one call
# (`equal`: the same bits); it is on by default for every model that has them.

# %%
tower = speed.tower_benchmark(load_vlm("nano-qwen2_5_vl"), some)
show(tower, digits=4)

# %% [markdown]
# ## Probing every head
#
# Cross-validated probes of eight functions for 1,024 heads of width 128 over 2,000 steps, the shape of a 7B model, on
# drawn numbers: all heads at once, and scikit-learn's logistic regression in a loop, timed on four heads; medians of
# three runs. Then the max-T test of all of them: CPU minutes of 1,000 permutations, by the cost of the next ones at the
# full size.

# %% tags=["hide-input"]
probing = probe_speed.probe_benchmark(repeats=3)
show(probing[["method", "heads", "ms_a_head", "accuracy"]], percent=("accuracy",))

# %% tags=["remove-input"]
minutes = probe_speed.permutation_minutes()
ratio = methods.set_index("method")["ratio"]
times = here.set_index(["task", "method"])["ratio"].xs("batched", level="method")
sweeps = here[here["task"] == "sweep over single heads"].set_index("method")["ratio"]
swept, a_head = sweeps[["batched", speed.A_HEAD]]
rates = here.set_index(["task", "method"])["steps_per_second"]
generated = rates["sweep over single heads", "batched"] / rates["reading, the replies known", speed.BASELINE]
gpu = once[once["quantize"] == "4bit"].set_index("quantity")["value"]
quote(
    gpu_weights=gpu["weights in memory"], gpu_answering=gpu["most memory while answering 64 chats at once"],
    gpu_reading=gpu["most memory while reading every head of 16 chats"],
    gpu_control=once[once["quantize"] == "none"].set_index("quantity")["value"]["weights in memory"],
    gpu_steps=gpu["answering and reading together"],
    gpu_minutes=sum(len(item.steps) for split in ("A", "B", "C") for item in load_items("synth", split=split))
    / gpu["answering and reading together"] / 60,
)  # fmt: skip

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
sweeping = gpu[gpu.index.str.startswith("a head of a sweep")]
on_gpu = sweeping.max() / sweeping.min()
passes = parts.set_index("part")["share"][["vision tower", "decoder over prompts"]].sum()
bound = times["answering and reading"] / passes
paragraph(
    f"Reading every head takes {ratio[speed.CAPTURE]:.2f} times the bare pass. Beside the sequential baseline, "
    f"answering and reading together are {times['answering and reading']:.1f} times as fast, reading with the "
    f"replies known {times['reading, the replies known']:.1f} times. Of answering {passes:.0%} are passes of the "
    "vision tower and of the decoder over prompts, which on a CPU no batch lessens: if all else took no time, about "
    f"{bound:.1f} times the baseline could be reached, {'fewer' if bound < 10 else 'more'} than the ten that this "
    f"package aims at. A sweep over heads is {swept:.1f} times as fast as one item after the other "
    f"({'fewer' if swept < 5 else 'no fewer'} than the five aimed at; {on_gpu:.0f} times at the shape of a 7B model on "
    f"a GPU, by the table above), {swept / a_head:.1f} times as fast as one batched run a head, and scores "
    f"{generated:.0f} times as many steps a second as the sequential baseline of reading generates. "
    f"A vision tower with all its windows at once is {tower['ratio'].iloc[1]:.2f} times as fast as with one by one. "
    f"1,000 permutations of the max-T test at a 7B model's shape take {minutes:.1f} CPU minutes."
)

# %% [markdown]
# **What's next.** [Rerun it](../book/rerun.md) with your model.
