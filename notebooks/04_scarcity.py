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
# # How sparse are the heads of a function?
#
# **Overview.** The paper counts heads before the elbow of a curve and finds few for every function, fewest for the
# spatial ones. An elbow finds few heads in *anything*, so every number here stands beside the same number with permuted
# labels, where every wording has the function of another, with an interval over scenes.
#
# **Prerequisites.** [Probing](03_probing.ipynb).

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

from cogvsr_utils import Experiment, top_heads
from cogvsr_utils.analysis.sparsity import DIFFERENCE
from cogvsr_utils.functions import NAMES
from cogvsr_utils.pipeline import measured, validation
from cogvsr_utils.pipeline.experiment import n_top
from cogvsr_utils.report.book import PAGES
from cogvsr_utils.report.figures import SHORT, forest_figure
from cogvsr_utils.report.head_figures import count_figure, sharing_figure
from cogvsr_utils.report.pages import (
    NO_DIFFERENCE,
    measured_note,
    paragraph,
    quote,
    show,
    span,
    start,
    with_interval,
)

experiment = Experiment(model, quantize, profile, source)
start(experiment)

# %% tags=["hide-input"]
measured_note([experiment], PAGES["04_scarcity"].heavy)

# %% [markdown]
# ## Counts with their null
#
# Circles are the paper's reading: heads before the elbow. The grey bar is the elbow of the same probe fitted to
# permuted labels. Diamonds are heads whose ablation alone costs the function's steps accuracy on split C, by a max-T
# test over all heads and functions.

# %% mystnb={"image": {"alt": "For each function the elbow count of heads with its interval over a grey bar of the elbow count with permuted labels, and the count of heads whose ablation costs accuracy with its interval"}, "figure": {"caption": "Heads counted for each function: before the elbow, as the paper counts (circles), and by what their ablation costs (diamonds), with 95 % intervals over scenes.", "name": "fig-counts"}}
counts, table = (measured.table(experiment, each) for each in (validation.sparseness, validation.head_table))
n_heads = len(table) // len(NAMES)
count_figure({experiment.title: counts}, {experiment.title: n_heads})

# %% [markdown]
# A count of 0 says little where few steps were asked: what a head's ablation has to cost at least to be counted, in
# shares of the function's steps.

# %%
least = measured.table(experiment, validation.detectable).set_index("function").loc[list(NAMES)]
show(least.rename(index=SHORT).reset_index(), percent=("detectable",))

# %% [markdown]
# ## Are spatial heads the scarcest?
#
# The two spatial functions less the other six, with intervals over scenes. *As it is* takes the paper's probe;
# *stratified* an early-stopped one fitted and read on steps in which every function is as frequent as any other at
# each length of answer and each difficulty (whether all heads together tell the step's function); *strict* counts the
# heads whose ablation costs accuracy, with equally many steps of each function, since a test finds more the more it
# has. Left of 0 means fewer spatial heads. The table says how many steps of each function the last two rest on.

# %% mystnb={"image": {"alt": "Differences between spatial and other functions in the count of heads and in sparseness, with intervals, zero marked"}, "figure": {"caption": "Spatial functions less the others: counts of heads (left; left of 0 is scarcer) and measures of sparseness (right; right of 0 is scarcer).", "name": "fig-differences"}}
differences = measured.table(experiment, validation.spatial_differences)
statistic = differences["statistic"].replace("n_ablation", "ablation costs")
forest = differences[["low", "high"]].assign(
    label=statistic + ", " + differences["reading"], value=differences["difference"]
)
in_heads = differences["statistic"].isin(["elbow", "participation", "n_ablation"])
forest_figure({"heads": forest[in_heads], "sparseness": forest[~in_heads]}, "spatial less others")

# %% tags=["hide-cell"]
shown = with_interval(differences, "difference", "low", "high", "+.2f")
steps = differences["n"].map("{:.0f}".format).where(differences["n"].notna(), "all")
show(shown.assign(statistic=forest["label"], steps=steps)[["statistic", "difference", "scarcer", "steps"]])

# %% [markdown]
# ## How far would another probe be off?
#
# The intervals above leave out that a probe fitted to other scenes is another probe. So the paper's probe was fitted
# anew to scenes drawn with replacement, split and initialised anew. The elbow of each function, and the differences
# *as it is*: the interval over scenes that one fitted probe is read on, and the interval over probes.

# %% tags=["hide-input"] mystnb={"image": {"alt": "For each function the elbow count with two intervals: the narrow one over scenes and the wide one over probes fitted anew"}, "figure": {"caption": "The elbow with 95 % intervals over the scenes that one probe is read on, and over probes fitted anew.", "name": "fig-refitted"}}
spread = measured.table(experiment, validation.refitted_spread)
kinds = {"one probe": ("low", "high"), "fitted anew": ("refit_low", "refit_high")}
both = pd.concat([
    spread[["function", "statistic", "value"]].assign(kind=kind, low=spread[low], high=spread[high])
    for kind, (low, high) in kinds.items()
]).rename(columns={"function": "label"})  # fmt: skip
both["order"] = both["label"].map([*NAMES, DIFFERENCE].index)
elbows = both[(both["statistic"] == "elbow") & (both["label"] != DIFFERENCE)].sort_values("order")
forest_figure({"elbow": elbows}, "heads", {"one probe": "o", "fitted anew": "s"})

# %% tags=["hide-input"]
by_probe = spread[spread["function"] == DIFFERENCE].rename(columns={"value": "difference"})
by_probe["one probe"] = with_interval(by_probe, "difference", "low", "high", "+.2f")["difference"]
by_probe["fitted anew"] = with_interval(by_probe, "difference", "refit_low", "refit_high", "+.2f")["difference"]
show(by_probe[["statistic", "one probe", "fitted anew", "scarcer", "fits"]])

# %% [markdown]
# ## How sparse, and where
#
# Gini, and Hoyer above, are 0 where all heads matter alike and 1 where one is all. The participation ratio is the
# number of equal heads that would be spread as these are. Depth is the mean layer, weighted by importance: 0 is the
# first, 1 the last. With 95 % intervals over scenes. A dot marks what is outside the middle 95 % of the same function's
# values with permuted labels. Of these there are [few](../book/limitations.md): a fifth of values that mean nothing, or
# more, would get a dot.

# %% tags=["hide-input"]
rules = {name: part.set_index("function").loc[list(NAMES)] for name, part in counts.groupby("statistic")}
forms = {"gini": ".2f", "participation": ".0f", "depth": ".2f"}
lines = {}
for rule, form in forms.items():
    beyond = (rules[rule]["value"] < rules[rule]["null_low"]) | (rules[rule]["value"] > rules[rule]["null_high"])
    lines[rule] = with_interval(rules[rule], "value", "low", "high", form)["value"] + beyond.map(
        {True: " •", False: ""}
    )
show(pd.DataFrame(lines).rename(index=SHORT).rename_axis("function").reset_index())

# %% [markdown]
# These measures would have to see what is there. Do they, in a [planted model](A3_planted.ipynb) in which one head
# carries each function? Where a measure is beyond permuted labels for few of the eight functions there, it cannot deny
# that functions are sparse elsewhere.
#
# ## Do functions differ?
#
# From the function with the least to that with the largest value, beside the same with permuted labels: functions that
# mean nothing are as far apart. `p` is how often permuted labels give at least this range, no smaller than one in the
# number of fits and one more.

# %% tags=["hide-input"]
ranges = measured.table(experiment, validation.function_ranges).set_index("statistic")
show(ranges.loc[["elbow", "depth", "gini", "participation"]].reset_index(), digits=2)

# %% [markdown]
# ## How much depends on the threshold?
#
# Heads above the paper's threshold, and how many pass it with permuted labels; heads above a share of the strongest
# head's importance, beside the elbow; then heads whose ablation costs accuracy with a family-wise p below a level.

# %%
passing = measured.table(experiment, validation.thresholds)
shares, levels = (
    passing[passing["rule"] == rule].pivot(index="function", columns="threshold", values="heads").loc[list(NAMES)]
    for rule in ("share of the strongest", "ablation, p below")
)
paper = passing[passing["rule"] == "importance above"].set_index("function").loc[list(NAMES)]
shown = shares.rename(columns="> {:.0%}".format).assign(elbow=rules["elbow"]["value"].astype(int))
shown.insert(0, "> 0.001", paper["heads"])
shown.insert(1, "> 0.001, permuted", paper["null"].astype(int))
show(shown.rename(index=SHORT).reset_index())

# %% tags=["hide-input"]
show(levels.rename(columns="p < {:.0%}".format, index=SHORT).reset_index())

# %% [markdown]
# ## Do functions share heads?
#
# The top tenth of the heads for each function: how many heads belong to exactly which functions.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bars of how many heads belong to exactly the functions dotted below each bar"}, "figure": {"caption": "Which functions share their top heads: bars count the heads that belong to exactly the functions dotted below.", "name": "fig-overlap"}}
k = n_top(n_heads)
sharing_figure({name: set(top_heads(table, name, k)) for name in NAMES})

# %% tags=["hide-input"]
shared = measured.table(experiment, validation.overlaps)
elbow = rules["elbow"]
inside = ((elbow["value"] >= elbow["null_low"]) & (elbow["value"] <= elbow["null_high"])).sum()
words = {"yes": "fewer", "no": "more", "open": NO_DIFFERENCE}
by_function = spread[spread["function"] != DIFFERENCE]
apart = {  # pairs of functions whose intervals over probes fitted anew do not meet
    name: float((part["refit_low"].to_numpy()[:, None] > part["refit_high"].to_numpy()).sum())
    for name, part in by_function.groupby("statistic")
}
by_reading = differences.set_index(["reading", "statistic"])
equal, plain = by_reading.loc[("stratified", "elbow")], by_probe.set_index("statistic").loc["elbow"]
strict = by_reading.loc[("strict", "n_ablation")]
by_ablation = (
    "not tested, since none is shown to cost accuracy"
    if strict["scarcer"] == "not tested"
    else f"{words[strict['scarcer']]} ({strict['difference']:+.1f}, {span(strict['low'], strict['high'], scale=1)})"
)
quote(
    elbow_least=elbow["value"].min(),
    elbow_most=elbow["value"].max(),
    elbow_null=elbow["null"].median(),
    elbow_inside_null=float(inside),
    paper_share=paper["heads"].mean() / n_heads,
    paper_null_share=paper["null"].mean() / n_heads,
    null_fits=float(ranges["fits"].iloc[0]),
    elbow_range_p=ranges.loc["elbow", "p"],
    depth_range_p=ranges.loc["depth", "p"],
    strict_least=rules["n_ablation"]["value"].min(),
    strict_most=rules["n_ablation"]["value"].max(),
    spatial_difference=plain["difference"],
    spatial_low=plain["refit_low"],
    spatial_high=plain["refit_high"],
    refits=float(plain["fits"]),
    elbows_apart=apart["elbow"],
    depths_apart=apart["depth"],
    spatial_verdict=words[plain["scarcer"]],
    equal_difference=equal["difference"],
    equal_low=equal["low"],
    equal_high=equal["high"],
    equal_verdict=words[equal["scarcer"]],
    strict=by_ablation,
    detectable=span(least["detectable"].min(), least["detectable"].max(), ".0%", 1),
    strict_n=float(strict["n"]),
    overlapping=float((shared["jaccard"] > shared["chance_high"]).sum()),
    overlapping_chance=float(shared["p_chance"].sum()),
    n_overlaps=float(len(shared)),
    mean_overlap=shared["jaccard"].mean(),
    chance_overlap=shared["chance"].mean(),
)
paragraph(
    f"Of {len(shared)} pairs of functions {int((shared['jaccard'] > shared['chance_high']).sum())} share more heads "
    f"than 97.5 % of random pairs do; {shared['p_chance'].sum():.1f} would by chance, where heads change places within "
    "layers."
)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
paragraph(
    f"Of {n_heads} heads the elbow counts {elbow['value'].min():.0f} to {elbow['value'].max():.0f} for a function, and "
    f"{elbow['null'].median():.0f} where labels are permuted: {inside} of {len(NAMES)} functions have as many as "
    "permuted labels give. At most "
    f"{rules['n_ablation']['value'].max():.0f} heads a function are shown to cost accuracy when ablated alone, which "
    f"takes {span(least['detectable'].min(), least['detectable'].max(), '.0%', 1)} of its steps. Are spatial heads "
    f"scarcer than others? By the elbow: {words[plain['scarcer']]} ({plain['difference']:+.1f} heads, "
    f"{span(plain['refit_low'], plain['refit_high'], scale=1)} over probes fitted anew); by ablation: {by_ablation}."
)

# %% [markdown]
# **What's next.** [What happens when the heads are ablated?](05_interventions.ipynb)
