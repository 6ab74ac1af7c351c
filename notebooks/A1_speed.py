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
# # How fast, how much
#
# **Overview.** What does it cost to watch every head? Capture beside the bare forward pass, beside two general tools
# doing the same, and beside the way of the paper's predecessors. Seconds differ from machine to machine; the *ratios*
# are the result, all from this run.
#
# **Prerequisites.** [Answers and activations](02_capture.ipynb).

# %% tags=["parameters"]
model: str = "nano-internvl"  # a nano name, a folder, or a hub id such as Qwen/Qwen2.5-VL-7B-Instruct
quantize: str = ""  # "", "4bit" or "8bit"
profile: str = "light"  # "light" or "full": nothing on this page hangs on it

# %% tags=["hide-input"]
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cogvsr_utils import answer, capture, judge
from cogvsr_utils.pages import quote, show, start
from cogvsr_utils.plots import growth_figure
from cogvsr_utils.speed import finished_chats, growth, one_by_one, permutation_minutes, probe_race, race
from cogvsr_utils.stages import Run

run = Run(model, quantize, profile)
start(run)

# %% tags=["hide-input"]
vlm, items = run.vlm, run.items["C"]
scratch = Path(tempfile.mkdtemp())

# %% [markdown]
# ## As items grow
#
# Time should grow in line with the items and memory hardly: what is kept goes to disk. Measured before all else on this page,
# since a peak can only rise, and nothing larger may have set it.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Seconds of capture against number of items on a straight line, and peak memory of the process, nearly flat"}, "figure": {"caption": "Seconds to capture, and the process's peak memory, against the number of items.", "name": "fig-growth"}}
few = items[:16]  # over and over, as answering more would set a peak of its own
grown = growth(vlm, few, scratch, [100, 1000, 10_000], judge(answer(vlm, few, progress=False)))
growth_figure(grown)

# %% tags=["hide-input"]
show(grown.assign(**{"ms an item": 1e3 * grown["seconds"] / grown["items"]}), digits=1)

# %% [markdown]
# ## Beside the bare pass and beside peers
#
# The same batches, the same tokens, the same means; in turns batch by batch, medians of fifteen rounds. `ratio` is to the bare pass of the
# same round, `difference` the largest from what `capture` reads. The peers are used as their documentation shows; both
# hand over whole activations, which are then selected and averaged as ours are.

# %% tags=["hide-input"]
some = items[:64]
contest = race(vlm, finished_chats(vlm, some), repeats=15)
shown = ["–" if np.isnan(gap) else f"{gap:.0e}" for gap in contest["difference"]]
show(contest.assign(difference=shown), digits=3)

# %% [markdown]
# ## Beside the way of predecessors
#
# The code of Cognitive Mirrors answers one step at a time, hooks every generated token and keeps all of them. Here both
# ways answer the same steps and main questions and hold the same activations of the steps. `times as fast` sets like beside
# like: answering and recording beside the whole of the old way; recording alone, the replies being known (as for another
# position or pool), beside the old way without its main questions, since it has to generate the steps again for that; and the
# bare pass over the same finished chats, which shows how much room is left. Medians of five turns and their ratios.

# %% tags=["hide-input"]
seconds, main_seconds, reading, ours = [], [], [], []
for turn in range(5):
    replies, by_hand, kept, (spent, spent_main) = one_by_one(vlm, some)
    begun = time.perf_counter()
    said = answer(vlm, some, progress=False)
    answered = time.perf_counter()
    held = capture(vlm, some, store=scratch / f"held-{turn}", answers=said, progress=False)
    done = time.perf_counter()
    seconds.append(spent)
    main_seconds.append(spent_main)
    reading.append(done - answered)
    ours.append(done - begun)
steps = sum(len(item.steps) for item in some)
same = [replies[uid][step] == text for uid, step, text in said[["uid", "step", "prediction"]].itertuples(index=False)]
order = {(item.uid, step): i for i, (item, step) in enumerate((i, s) for i in some for s in range(len(i.steps)))}
rows = [order[key] for key in zip(held.index["uid"], held.index["step"], strict=True)]
gap = float(np.abs(by_hand[rows] - held.features).max() / np.sqrt((by_hand**2).mean()))
small = held.features.nbytes
both = np.add(seconds, main_seconds)
bare = contest.set_index("way").loc["bare forward pass", ["median", "least", "most"]].tolist()
before = pd.DataFrame(
    {
        "way": way,
        "ms_a_step": 1e3 * np.median(t) / steps,
        "least": 1e3 * min(t) / steps,
        "most": 1e3 * max(t) / steps,
        "times_as_fast": np.median(beside) / np.median(t),
        "kB_a_step": n / steps / 1e3,
    }
    for way, t, beside, n in (
        ("one question at a time, all tokens kept", both, both, kept),
        ("batched answers, one pass a chat", ours, both, small),
        ("one pass a chat, the replies being known", reading, seconds, small),
        ("the bare pass of those chats, nothing kept", bare, seconds, 0),
    )
)
show(before, digits=1)

# %% [markdown]
# Both gave the same replies and the same activations:

# %% tags=["hide-input"]
agreement = pd.DataFrame(
    [{"replies alike": np.mean(same), "largest difference (of the root-mean-square)": gap, "times fewer bytes": kept / small}]
)  # fmt: skip
show(agreement, percent=("replies alike",), digits=4)

# %% [markdown]
# ## Probing every head
#
# Cross-validated probes of eight functions for 1,024 heads of width 128 over 2,000 steps, the shape of a 7B model, on drawn
# numbers: all heads at once, and scikit-learn's logistic regression in a loop, timed on four heads; medians of five runs.
# Then the max-T test of all of them: CPU minutes of 1,000 permutations, by the cost of the next ones at the full size.

# %% tags=["hide-input"]
probing = probe_race()
show(probing, percent=("accuracy",))

# %% tags=["hide-input"]
minutes = permutation_minutes()
show(
    pd.DataFrame([{"test": "max-T over 1,024 heads and 8 functions, 1,000 permutations", "CPU minutes": minutes}]),
    digits=1,
)

# %% tags=["hide-input"]
ratio = contest.set_index("way")["ratio"]
quote(
    hook_ratio=ratio["capture"],
    best_peer=float(ratio.drop(["bare forward pass", "capture"]).min()) if len(ratio) > 2 else "not installed",
    times_faster=float(before["times_as_fast"].iloc[1]),
    times_faster_reading=float(before["times_as_fast"].iloc[2]),
    permutation_minutes=minutes,
    times_smaller=kept / small,
    probes_faster=probing["ms_a_head"].iloc[1] / probing["ms_a_head"].iloc[0],
    probes_seconds=probing["median"].iloc[0],
)

# %% [markdown]
# ## Summary
#
# Watching every head costs about as much as not watching: selection and averaging happen where the activations are, and
# only the means leave. Against the predecessors' way the saving is first of all in bytes; in time it comes from reading
# every turn of a chat once and several chats together; answering takes most of what is left.
#
# **What's next.** [Rerun it](../book/rerun.md) with your model.
