"""The paper's claims and what this run shows of them: verdicts by rules; book/limitations.md has those that changed.

claim_table(experiment)    one row a claim: what was found, what it stands beside, and the verdict
verdicts(experiments)      the verdicts for several models, as far as their measured tables go
RESULTS, CROSSED, CUED     the results that it rests on; those of them on steps in crossed wording, and those with cues
KNOWN                      those of a model that is known to be sparse, by which ways of asking are judged
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.sparsity import DIFFERENCE, sparser_than_noise
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.pipeline import (
    ablation,
    activation,
    baselines,
    cameras,
    crossed,
    cues,
    damage,
    latent,
    planted,
    prediction,
    selection,
    validation,
)
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.measured import is_measured, stamp, table
from cogvsr_utils.pipeline.store import Result
from cogvsr_utils.stats import ALPHA

CONTROLS = ablation.matched_controls[selection.IMPORTANCE]
RESULTS = (
    baselines.probe_baselines, prediction.ranking_tests, validation.head_table, validation.thresholds,
    validation.sparseness, validation.function_ranges, validation.overlaps, validation.spatial_differences,
    validation.refitted_spread, CONTROLS, ablation.ablation_matrix, damage.specific_damage[selection.IMPORTANCE],
)  # fmt: skip
CROSSED = (crossed.wording_transfer, crossed.crossed_effects)
CUED = (cues.cue_effects, latent.latent_heads, activation.latent_activation, cameras.camera_gains)
KNOWN_SPARSE = "planted-one"  # the model in which one head is known to carry each function
KNOWN = (planted.planted_sparsity, planted.finder_scores)
PAPER_SHARE = 0.09  # of the heads at most are above the paper's threshold, it finds
NOT_MEASURED = "not measured"
# What was found, what it stands beside, and of all that was asked whether it came out as the claim says (1), as its
# opposite (-1), or neither (0).
Finding = tuple[str, str, list[int]]
Reader = Callable[[Experiment, Result], pd.DataFrame]


def claim_table(experiment: Experiment, read: Reader = table) -> pd.DataFrame:
    """Columns: claim, here, beside, verdict. A claim "holds" where all that was asked of it came out as it says, and
    "partly" where some did; where nothing did, it is "contradicted" if the opposite of something was found, else "not
    supported"; and "not tested" where nothing could be asked.

    What is asked stands in the docstrings of this module's functions. The opposite of it is an interval or a test on
    the other side, where there is one: that something is not shown to differ, say, is no opposite.
    """
    rows = []
    for claim, ask in CLAIMS.items():
        here, beside, asked = ask(experiment, read)
        rows.append({"claim": claim, "here": here, "beside": beside, "verdict": _verdict(asked)})
    return pd.DataFrame(rows)


def verdicts(experiments: Iterable[Experiment]) -> pd.DataFrame:
    """The verdict on each claim, in rows, for each model, in columns, from measured tables alone; "not measured" where
    one that the claim rests on is not kept, or is of older code."""
    columns = {}
    for experiment in experiments:
        column = columns.setdefault(experiment.title, {})
        for claim, ask in CLAIMS.items():
            try:
                column[claim] = _verdict(ask(experiment, _measured)[-1])
            except FileNotFoundError:
                column[claim] = NOT_MEASURED
    return pd.DataFrame(columns).rename_axis("claim").reset_index()


def _measured(experiment: Experiment, result: Result) -> pd.DataFrame:
    """The measured table of a result; raises FileNotFoundError where there is none, or one of older code."""
    if not is_measured(experiment, result) or result.name in stamp(experiment)["changed"]:
        raise FileNotFoundError(f"no measured table {result.name} of {experiment.title}")
    return table(experiment, result)


def _verdict(asked: list[int]) -> str:
    if not asked:
        return "not tested"
    if max(asked) > 0:
        return "holds" if min(asked) > 0 else "partly"
    return "contradicted" if min(asked) < 0 else "not supported"


def _sign(low: float, high: float) -> int:
    """On which side of 0 an interval is, 0 for neither."""
    return int(low > 0) - int(high < 0)


def _decomposition(experiment: Experiment, read: Reader) -> Finding:
    """C1 cannot be asked of a data set that is made of such steps."""
    return "the steps are those that the data are made of", "nothing", []


def _probing(experiment: Experiment, read: Reader) -> Finding:
    """C2: do all heads tell the function better than the text, an untrained model and a grey picture, on wordings held
    out? Does the paper's probe, fitted on plain steps, tell it where the wording does not? Are heads of high importance
    those whose ablation costs most?"""
    plain = read(experiment, baselines.probe_baselines).set_index("predictor")
    moved = read(crossed.with_crossed(experiment), crossed.wording_transfer).set_index(["predictor", "trained_on"])
    found = read(experiment, prediction.ranking_tests).set_index("ranking").loc[selection.IMPORTANCE]
    others = plain.loc[["text", "untrained model", "grey picture"]]
    probe, by_words = moved.loc[("joint probe (paper)", "plain A")], moved.loc[["majority", "words and pairs"]]
    here = (
        f"{plain.loc['all heads', 'held_out']:.1%} on wordings held out; the paper's probe {probe['accuracy']:.1%} "
        f"where words do not tell, one fitted there {moved.loc[('all heads, linear', 'crossed A'), 'accuracy']:.1%}; "
        f"{found['precision']:.0%} of the top heads cost most"
    )
    beside = (
        f"{others['held_out'].max():.1%}; {by_words['accuracy'].max():.1%} without the heads; p "
        f"{found['p_precision']:.3f}"
    )
    read_well = _sign(probe["low"] - by_words["high"].max(), probe["high"] - by_words["low"].max())
    asked = [int((others["held_beyond_low"] > 0).all()), read_well, int(found["p_precision"] < ALPHA)]
    return here, beside, asked


def _sparsity(experiment: Experiment, read: Reader) -> Finding:
    """C3: are as few heads as the paper says above its threshold? For most functions, is the elbow below that of labels
    that mean nothing, and importance more unequal, by Gini's index and by the number of heads that take part? Of these,
    what is denied of a model in which one head is known to carry each function cannot tell, and does not count."""
    known = Experiment(KNOWN_SPARSE)
    found = read(known, planted.finder_scores)
    found = found[found["method"] == "importance above the paper's threshold"]
    of_known = (found["selected"] * found["chance_precision"] / found["planted"]).mean()
    passing = read(experiment, validation.thresholds).query("rule == 'importance above'")
    n_heads = len(read(experiment, validation.head_table)) / len(NAMES)
    share, of_null = passing["heads"].mean() / n_heads, passing["null"].mean() / n_heads
    sparser, can_tell = (
        sparser_than_noise(read(*each))
        for each in ((experiment, validation.sparseness), (known, planted.planted_sparsity))
    )
    counts, of_known_counts = (", ".join(f"{name} {n}" for name, n in each.items()) for each in (sparser, can_tell))
    here = (
        f"{share:.0%} of the heads above the paper's threshold; of {len(NAMES)} functions sparser than noise: {counts}"
    )
    beside = (
        f"at most {PAPER_SHARE:.0%} in the paper; {of_null:.0%} with permuted labels; in a model where one head is "
        f"known to carry each function {of_known:.0%}, and sparser than noise: {of_known_counts}"
    )
    asked = [int(share <= PAPER_SHARE)] if of_known <= PAPER_SHARE else []
    counted = [n for name, n in sparser.items() if can_tell[name] > len(NAMES) / 2]
    return here, beside, asked + [int(n > len(NAMES) / 2) for n in counted]


def _differences(experiment: Experiment, read: Reader) -> Finding:
    """C4: do counts differ by more than their intervals over probes fitted anew, and by more than with labels that mean
    nothing? Do mean depths? Do no more pairs of functions share heads than by chance?"""
    spread = read(experiment, validation.refitted_spread).query(f"function != '{DIFFERENCE}'")
    elbow, depth = (spread[spread["statistic"] == name] for name in ("elbow", "depth"))
    shared = read(experiment, validation.overlaps)
    more, due = int((shared["jaccard"] > shared["chance_high"]).sum()), shared["p_chance"].sum()
    here = (
        f"{elbow['value'].min():.0f} to {elbow['value'].max():.0f} heads, at mean depths {depth['value'].min():.2f} to "
        f"{depth['value'].max():.2f}; {more} of {len(shared)} pairs overlap"
    )
    ranges = read(experiment, validation.function_ranges).set_index("statistic")
    beside = (
        f"{ranges.loc['elbow', 'null']:.0f} heads and {ranges.loc['depth', 'null']:.2f} apart with permuted labels (p "
        f"{ranges.loc['elbow', 'p']:.2f} and {ranges.loc['depth', 'p']:.2f}); {due:.1f} pairs by chance within layers"
    )
    beyond = ranges["range"] > ranges["null_high"]
    differ = [
        int(each["refit_low"].max() > each["refit_high"].min() and beyond[name])
        for name, each in (("elbow", elbow), ("depth", depth))
    ]
    return here, beside, [*differ, int(more <= max(due, 1))]


def _scarcity(experiment: Experiment, read: Reader) -> Finding:
    """C5: does every measure find spatial heads scarcer, or denser? Do more of them than find the opposite? Those of
    the paper's probe, by intervals over probes fitted anew, and the number of heads whose ablation costs accuracy."""
    differences, refitted = (
        read(experiment, each) for each in (validation.spatial_differences, validation.refitted_spread)
    )
    others = differences[differences["reading"] == "strict"]
    scarcer = pd.concat([refitted[refitted["function"] == DIFFERENCE], others])["scarcer"]
    scarcer = scarcer[scarcer.isin(["yes", "no", "open"])]  # what could be tested
    yes, no = int((scarcer == "yes").sum()), int((scarcer == "no").sum())
    every = int(yes == len(scarcer)) - int(no == len(scarcer))
    return f"scarcer by {yes} of {len(scarcer)} measures", f"denser by {no}", [every, int(np.sign(yes - no))]


def _activation(experiment: Experiment, read: Reader) -> Finding:
    """C6: beside questions of kinds that training never shows with cues, do boxes drawn around the things that are
    asked about help more than misplaced ones, and more than none? Surely more than on a grey picture, where nothing is
    to be seen but the answer in the cue? Are there latent heads? Where there are, do spatial steps gain without a cue
    where these are steered, more than where random heads of their layers are, and more than in any draw of these?"""
    cued = cues.with_cues(experiment)
    effects = read(cued, cues.cue_effects).set_index(["kinds", "condition", "against"]).loc[cues.NEVER]
    placebo, none = (effects.loc[(cues.BOX, against)] for against in (f"box, {cues.MISPLACED}", cues.NONE))
    grey = effects.loc[(f"{cues.GREY}, {cues.BOX}", cues.GREY)]
    n_latent = int(read(cued, latent.latent_heads)["latent"].sum())
    steps = read(cued, activation.latent_activation)
    steps = steps[(steps["function"] == activation.BOTH) & (steps["method"] == activation.METHOD)]
    random = steps.loc[steps["heads"] == "random", "delta_log_prob"]
    own = steps[steps["heads"].isin(["latent", "nearest"])].iloc[0]
    here = (
        f"boxes {100 * placebo['change']:+.1f} points beyond misplaced ones, {100 * none['change']:+.1f} beyond none; "
        f"{n_latent} latent heads"
    )
    beside = f"{100 * grey['change']:+.1f} on grey pictures"
    helps = min(_sign(each["low"], each["high"]) for each in (placebo, none))
    harms = max(_sign(each["low"], each["high"]) for each in (placebo, none)) < 0
    helps = -1 if harms else int(helps > 0 and grey["high"] < none["change"])
    asked = [helps, int(n_latent > 0)]
    if n_latent:
        here += f"; steered without a cue {own['delta_log_prob']:+.2f} in log-probability"
        beside += f"; {own['beyond']:+.2f} beyond random heads"
        asked.append(int(own["low"] > 0 and own["beyond_low"] > 0 and own["delta_log_prob"] > random.max()))
    return here, beside, asked


def _ablation(experiment: Experiment, read: Reader) -> Finding:
    """C7: does ablating a function's heads cost its steps more than random sets of each kind do? Is the damage specific
    for most of the functions that can be tested, and for most beside steps in the same words? From a camera from which
    about 60 % of the steps of Spatial Perception are right, are more of them right where spatial heads are scaled up,
    and right answers likelier, by more than where random heads are? Likelier alone they are also where the model gets
    less sure of wrong ones. The opposite is that it costs less than random sets do, less than other functions' steps in
    the same words for most, and that fewer are right and they are less likely, by more than with random heads."""
    kinds = ablation.all_against_controls(read(experiment, CONTROLS))
    controls = kinds.iloc[0]  # the hardest
    pooled = damage.pooled_damage(read(experiment, ablation.ablation_matrix))
    specific = read(experiment, damage.specific_damage[selection.IMPORTANCE])["specific"]
    specific = specific[specific != "not tested"] == "yes"
    same_words = read(crossed.with_crossed(experiment), crossed.crossed_effects)
    same_words = same_words[same_words["ranking"] == selection.IMPORTANCE]
    also = np.sign(same_words["difference"]) * (same_words["q"] < ALPHA)  # of each function, -1 where it costs more
    gains = read(cues.with_cues(experiment), cameras.camera_gains)
    gains = gains[(gains["method"] == "scale") & (gains["direction"] == "") & (gains["function"] == SPATIAL[0])]
    scaled, random = (gains.set_index("heads").loc[heads] for heads in (cameras.OWN, cameras.OTHER))
    here = (
        f"log-probability {controls['own']:+.2f}, accuracy {100 * pooled['own']:+.1f} points; specific "
        f"for {specific.sum()} of {len(specific)} functions, beside the same words for {(also < 0).sum()} of "
        f"{len(also)}; "
        f"scaled up where {scaled['right']:.0%} are right {100 * scaled['change']:+.1f} points, "
        f"{scaled['delta_log_prob']:+.3f}"
    )
    beside = (
        f"{controls['mean']:+.2f} for random sets (p {controls['p']:.3f}), {100 * pooled['other']:+.1f} for other "
        f"steps; {100 * scaled['change_low']:+.1f} to {100 * scaled['change_high']:+.1f} points, and "
        f"{random['delta_log_prob']:+.3f} with random heads scaled up (p {random['p']:.3f})"
    )
    worse = ((kinds["p"] < ALPHA) & (kinds["own"] < kinds["mean"])).all()
    better = ((kinds["p"] < ALPHA) & (kinds["own"] > kinds["mean"])).all()
    asked = [int(specific.mean() > 0.5)] if len(specific) else []
    asked += [int((also < 0).mean() > 0.5) - int((also > 0).mean() > 0.5)] if len(also) else []
    beyond = scaled["delta_log_prob"] - random["delta_log_prob"] if random["p"] < ALPHA else 0.0
    signs = [np.sign(beyond), *(_sign(scaled[f"{each}low"], scaled[f"{each}high"]) for each in ("", "change_"))]
    agreed = int(signs[0]) if len(set(signs)) == 1 else 0
    return here, beside, [int(worse) - int(better), *asked, agreed]


CLAIMS = {
    "C1 questions decompose into steps": _decomposition, "C2 probing finds functional heads": _probing,
    "C3 they are sparse": _sparsity, "C4 functions differ": _differences,
    "C5 spatial heads are the scarcest": _scarcity, "C6 latent heads can be activated": _activation,
    "C7 ablating hurts, emphasising helps": _ablation,
}  # fmt: skip
