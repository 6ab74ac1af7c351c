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
# # Other families, and 4-bit
#
# **Overview.** Is what was found a trait of one model? The same questions and the same methods on each of the small
# models that come with this book, side by side; then the same model in 4-bit.
#
# **Prerequisites.** [Probing](03_probing.ipynb) and [interventions](05_interventions.ipynb).

# %% tags=["parameters"]
profile: str = "light"  # "light" or "full": how many permutations, null fits and random sets

# %% tags=["hide-input"]
import numpy as np
import pandas as pd

from cogvsr_utils import head_table, top_heads
from cogvsr_utils.evaluation import accuracy_table, compare
from cogvsr_utils.functions import FUNCTIONS, NAMES
from cogvsr_utils.interventions import mask
from cogvsr_utils.models import nano_names
from cogvsr_utils.pages import quote, show, start
from cogvsr_utils.plots import accuracy_figure, count_figure, family_maps
from cogvsr_utils.probes import HeadProbes
from cogvsr_utils.scarcity import removal_difference, spatial_difference, threshold_counts
from cogvsr_utils.stages import Run, choose, remove

runs = {name: Run(name, profile=profile) for name in nano_names()}
start(next(iter(runs.values())))

# %% [markdown]
# ## The models
#
# Real `transformers` classes (`…ForConditionalGeneration`) of the paper's families, small, trained on the same scenes by the same recipe. Heads are found
# from the modules; where a family has layers of cross-attention, these hold heads as well.

# %% tags=["hide-input"]
shapes = []
for name, run in runs.items():
    heads = run.vlm.heads.table
    shapes.append(
        {
            "model": name,
            "class": type(run.vlm.model).__name__.removesuffix("ForConditionalGeneration"),
            "million weights": sum(w.numel() for w in run.vlm.model.parameters()) / 1e6,
            "layers": heads["layer"].nunique(),
            "heads": len(heads),
            "of them cross-attention": int((heads["kind"] == "cross").sum()),
            "head width": ", ".join(map(str, sorted(set(heads["head_dim"])))),
        }
    )
show(pd.DataFrame(shapes), digits=1)

# %% [markdown]
# ## What they can do

# %% tags=["hide-input"] mystnb={"image": {"alt": "Accuracy by function for each small model, with intervals and the majority line"}, "figure": {"caption": "Accuracy on split C, step by step with each model's own earlier answers, Wilson intervals.", "name": "fig-families"}}
accuracy_figure({name: accuracy_table(run.answers("C")) for name, run in runs.items()})

# %% [markdown]
# ## Where their heads are

# %% tags=["hide-input"] mystnb={"image": {"alt": "Small layer by head maps of AUROC, a column for each function and a row for each model"}, "figure": {"caption": "How well a linear probe on each head alone tells a function's steps from all others (AUROC on split A, cross-validated by scene; from 0.5 to each map's own maximum).", "name": "fig-family-maps"}}
single = {name: choose.head_probes(run) for name, run in runs.items()}
tables = {
    name: head_table(
        run.vlm.heads,
        single[name]["classes"],
        {"auroc": single[name]["auroc"].T, "importance": choose.probe(run)["importance"]},
    )
    for name, run in runs.items()
}
family_maps(tables, NAMES)

# %% [markdown]
# ## How many serve each function
#
# Circles: heads before the elbow, as the paper counts, over the grey bar of what shuffled labels give. Diamonds: heads
# whose removal alone costs the function accuracy, by a max-T test over all heads and functions.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each model and function the elbow count with its interval over a grey bar of the elbow in noise, and the number of heads whose removal costs accuracy"}, "figure": {"caption": "Counts of heads in every family, with 95 % intervals over scenes.", "name": "fig-family-counts"}}
counts = {name: choose.scarce(run) for name, run in runs.items()}
count_figure(counts, {name: len(run.vlm.heads) for name, run in runs.items()})

# %% [markdown]
# Spatial functions less the others, by three counts and two measures of sparseness: is the whole interval over scenes on
# the side that means scarcer? `n_removal` counts with equally many steps of each function.

# %% tags=["hide-input"]
scarce, passing = [], []
for name, run in runs.items():
    probe, removed = choose.probe(run), choose.effects(run, "C")
    classes = probe["classes"]
    scarce.append(spatial_difference(probe["resampled"], classes).assign(model=name))
    scarce.append(removal_difference(removed, classes).assign(model=name))
    passing.append(threshold_counts(probe["importance"], removed, classes).assign(model=name))
scarce, passing = pd.concat(scarce), pd.concat(passing)
show(scarce[["model", "statistic", "difference", "low", "high", "scarcer"]])

# %% [markdown]
# Does the answer hang on the threshold? Heads a function, mean over the two spatial functions and over the other six, that
# are above a share of the strongest head's importance, or whose removal costs accuracy with a family-wise p below a level.

# %% tags=["hide-input"]
words = {"share of the strongest": "above {:.0%}", "removal, p below": "p below {:.0%}"}
passing["rule"] = [words[rule].format(at) for rule, at in zip(passing["rule"], passing["threshold"], strict=True)]
means = passing.assign(functions=passing["spatial"].map({True: "spatial", False: "others"})).pivot_table(
    index=["model", "functions"], columns="rule", values="heads", sort=False
)
show(means.reset_index(), digits=1)

# %% [markdown]
# ## What removing them does
#
# In each model the top tenth of all heads by the paper's importance are removed, for each of the two spatial functions; all
# of split C is answered again.

# %% tags=["hide-input"]
SPATIAL = tuple(function.name for function in FUNCTIONS if function.spatial)
tops = {
    name: {function: top_heads(tables[name], function, run.n_top) for function in NAMES} for name, run in runs.items()
}
effects = []
for name, run in runs.items():
    for function in SPATIAL:
        after = run.answers("C", edits=mask(tops[name][function]), name=f"mask-{NAMES.index(function)}")
        change = compare(after, run.answers("C"))
        effects.append(
            change[change["function"].isin([*SPATIAL, "Main question"])].assign(model=name, removed=function)
        )
effects = pd.concat(effects)
show(
    effects[["model", "removed", "function", "n", "accuracy_before", "change", "ci_low", "ci_high", "p"]],
    percent=("accuracy_before",),
    points=("change", "ci_low", "ci_high"),
    digits=4,
)

# %% [markdown]
# Would other heads do as much? A function's heads against random ones of like layers and output norm, on the function's own
# steps of a part of split C, with the true earlier answers: change in points, beside the random sets' mean and the p value of
# doing as much as the function's heads. The last row is the mean over functions.

# %% tags=["hide-input"]
lines, beaten = {function: {"function": function} for function in (*NAMES, "all")}, {}
for name, run in runs.items():
    sets = remove.random_sets(run, tops[name])
    matched, every = remove.against_random(sets), remove.all_against_random(sets)
    for row in matched.itertuples():
        lines[row.function][name] = f"{100 * row.change:+.1f} ({100 * row.random_mean:+.1f}, p {row.p:.3f})"
    lines["all"][name] = f"{100 * every['own']:+.1f} ({100 * every['mean']:+.1f}, p {every['p']:.4f})"
    beaten[name] = int((matched["p"] < 0.05).sum())
show(pd.DataFrame(lines.values()))

# %% [markdown]
# ## 4-bit against full precision
#
# The same chats through the same weights in NF4, for the first of the models: how alike is each head, how alike is the
# order of the heads, and how many answers differ? Cosines are over the steps of split A, of each head's features less
# their mean.

# %% tags=["hide-input"]
name, run = next(iter(runs.items()))
four = run.quantized()
full, packed = run.activations("A"), four.activations("A", answers_of=run)
x, y = (held.by_head() - held.by_head().mean(0) for held in (full, packed))
cosine = (x * y).sum((0, 2)) / np.sqrt((x**2).sum((0, 2)) * (y**2).sum((0, 2)))
probes = HeadProbes().fit(packed.by_head(), packed.index["function"], packed.index["group_id"])
order = {
    function: pd.Series(probes.auroc_[:, c]).corr(
        tables[name].loc[tables[name]["function"] == function, "auroc"].reset_index(drop=True), method="spearman"
    )
    for c, function in enumerate(probes.classes_)
}
said, again = run.answers("C"), four.answers("C")
flips = (said["prediction"] != again["prediction"]).mean()
lines = [
    ("cosine of a head, least", cosine.min()),
    ("cosine of a head, median", np.median(cosine)),
    ("rank correlation of heads, least of the functions", min(order.values())),
    ("rank correlation of heads, median", np.median(list(order.values()))),
    ("share of answers that differ", flips),
    ("accuracy of all answers", said["correct"].mean()),
    ("accuracy of all answers in 4-bit", again["correct"].mean()),
]
show(pd.DataFrame(lines, columns=[name, "4-bit against full precision"]), digits=3)

# %% tags=["hide-input"]
quote(
    n_families=len(runs),
    least_cosine=cosine.min(),
    flips=flips,
    spatial_by_family=", ".join(
        f"{100 * row.change:+.1f} in {row.model}"
        for row in effects[(effects["removed"] == SPATIAL[0]) & (effects["function"] == SPATIAL[0])].itertuples()
    ),
    beaten_by_family=", ".join(f"{n} of {len(NAMES)} in {name}" for name, n in beaten.items()),
)

# %% [markdown]
# ## Summary
#
# What holds in one model and not in another is read off the tables above, not assumed. What 4-bit changes is in the last.
#
# **What's next.** [What this run says of each of the paper's claims](../book/claims.md).
