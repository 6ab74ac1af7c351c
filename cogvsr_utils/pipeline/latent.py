"""Which heads are latent: they read and carry more under true cues, and may be activated without any.

cued_activations[cue]       heads at the answers of A with the true boxes drawn, with misplaced ones, without
patched[cue]                each head as in the cued run, patched into the run without: right answers on A
patched_beyond_placebo      the same in the run with misplaced boxes
attribution_check           integrated gradients beside both
latent_heads                which heads are latent: they read a function better with true cues, and carry what helps
shared_wordings(...)        how many of the steps that this is asked about are worded as others are
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm
from tqdm import tqdm

from cogvsr_utils.analysis.head_probes import HeadProbes
from cogvsr_utils.analysis.text_baselines import wordings
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.splits import FOLDS, SELECTION
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.cues import BOX, MISPLACED, NONE, cued, never_cued
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import answers
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import ALPHA, max_t_test, sign_flip_test

CUES = (NONE, BOX, f"box, {MISPLACED}")
A = (SELECTION,)
SUREST = 1 - 1e-5  # probability; single precision hardly tells higher ones apart
POWER = 0.8  # the share of data sets in which what is said to be found is found


@dataclass(frozen=True)
class PatchedHeads:
    """Right answers' log-probability on some items of A (steps,) without cues (``intact``), and with each head as in
    the cued run (heads, steps); the steps' ``function`` and ``group``."""

    intact: np.ndarray
    patched: np.ndarray
    function: np.ndarray
    group: np.ndarray


@result(variants=CUES, splits=A, needs={"answers": answers[SELECTION]}, gpu=True)
def cued_activations(experiment: Experiment, cue: str, answers: pd.DataFrame, store: Path) -> HeadActivations:
    """Features of every head at the same answers of A, the model's own without cues, under a cue; of the kinds that
    training never shows with cues."""
    from cogvsr_utils.models.recording import capture

    items = cued(never_cued(experiment.items(SELECTION)), cue)
    return capture(experiment.vlm, items, store=store, answers=answers[answers["uid"].isin([i.uid for i in items])])


@result(variants=CUES[1:], splits=A, gpu=True)
def patched(experiment: Experiment, cue: str) -> PatchedHeads:
    """Each head as in the cued run, one after the other, in the run without cues; the profile's number of items."""
    from cogvsr_utils.models.patching import patch_heads

    target, source = runs_of(experiment, cue)
    heads = [[head] for head in experiment.vlm.heads.pairs]
    intact, *each = patch_heads(target, source, [[], *heads])
    return PatchedHeads(
        intact,
        np.array(each),
        target.index["function"].to_numpy().astype(str),
        target.index["group_id"].to_numpy().astype(str),
    )


@result(splits=A, gpu=True)
def patched_beyond_placebo(experiment: Experiment) -> PatchedHeads:
    """Each head as in the run with true boxes, in the run with misplaced ones, which is the ``intact`` one here."""
    from cogvsr_utils.models.patching import patch_heads

    (_, target), (_, source) = (runs_of(experiment, cue) for cue in (CUES[2], BOX))
    intact, *each = patch_heads(target, source, [[], *([head] for head in experiment.vlm.heads.pairs)])
    function, group = (target.index[column].to_numpy().astype(str) for column in ("function", "group_id"))
    return PatchedHeads(intact, np.array(each), function, group)


@result(splits=A, needs={"over_none": patched[BOX], "over_placebo": patched_beyond_placebo}, gpu=True)
def attribution_check(experiment: Experiment, over_none: PatchedHeads, over_placebo: PatchedHeads) -> pd.DataFrame:
    """How well integrated gradients predict what patching a head from the run with true boxes changes, in the run
    without boxes and in that with misplaced ones.

    Columns: patched_into (the run), function, n; spearman over heads; signs, the share of the tenth of the heads that
    change most whose direction is predicted; slope, how much of what is predicted comes (least squares through 0), both
    in log-odds of whole answers, whose probability is taken for ``SUREST`` where it is above; and two ways in which
    nothing is left to change: certain (the share of steps whose right answer has a probability above 0.99), settled
    (the share of heads' attention that has one weight above 0.99 where answers are predicted, so that its softmax
    passes no gradient on).
    """
    from scipy.stats import spearmanr

    from cogvsr_utils.models.patching import path_attribution

    with_true, rows = runs_of(experiment, BOX)[1], []
    for cue, exact in ((NONE, over_none), (CUES[2], over_placebo)):
        target = runs_of(experiment, cue)[1]
        predicted, settled = path_attribution(target, with_true, NAMES), _settled(target)
        for name, guess in zip(NAMES, predicted, strict=True):
            own = exact.function == name
            if own.any():
                change = (exact.patched - exact.intact)[:, own].mean(1)
                odds = (_log_odds(exact.patched) - _log_odds(exact.intact))[:, own].mean(1)
                most = np.argsort(-np.abs(odds))[: n_top(len(odds))]
                rows.append({"patched_into": cue, "function": name, "n": int(own.sum()),
                             "spearman": spearmanr(guess, change).statistic,
                             "signs": (np.sign(guess[most]) == np.sign(odds[most])).mean(),
                             "slope": guess @ odds / (guess @ guess),
                             "certain": (exact.intact[own] > np.log(0.99)).mean(),
                             "settled": settled[own].mean()})  # fmt: skip
    return pd.DataFrame(rows)


def _log_odds(log_prob: np.ndarray) -> np.ndarray:
    """Log-odds of answers with these log-probabilities, of the surest ones those of ``SUREST``."""
    bounded = np.minimum(log_prob, np.log(SUREST))
    return bounded - np.log1p(-np.exp(bounded))


def _settled(scorer) -> np.ndarray:
    """The share of heads whose attention has a weight above 0.99, by step, the mean over the tokens that predict its
    answer: (steps,); NaN for a model whose attention cannot be read."""
    import torch

    from cogvsr_utils.models.attention import attention_visited

    vlm, total, count = scorer.vlm, np.zeros(len(scorer.index)), np.zeros(len(scorer.index))
    for inputs, (row, token), owner in scorer.batches:

        def visit(name, weights, row=row, token=token, owner=owner):
            largest = weights[row, :, token - 1].amax(-1)  # (answer tokens, heads)
            np.add.at(total, owner, (largest > 0.99).float().sum(1).cpu().numpy())
            np.add.at(count, owner, largest.shape[1])

        try:
            with torch.inference_mode(), attention_visited(vlm, visit):
                vlm.forward(inputs)
        except ValueError:
            return np.full(len(total), np.nan)
    return total / count


@result(
    splits=A,
    needs={
        "without": cued_activations[CUES[0]], "with_true": cued_activations[BOX],
        "with_placebo": cued_activations[CUES[2]], "from_true": patched[BOX], "from_placebo": patched[CUES[2]],
    },
)  # fmt: skip
def latent_heads(
    experiment: Experiment,
    without: HeadActivations,
    with_true: HeadActivations,
    with_placebo: HeadActivations,
    from_true: PatchedHeads,
    from_placebo: PatchedHeads,
) -> pd.DataFrame:
    """Which heads are latent for a spatial function. All of this is asked of a head: with true cues it tells the
    function's steps from others better than with misplaced ones, and better than without, on wordings that took no part
    in fitting; and patched from the run with true cues it raises the log-probability of right answers, more than from
    the run with misplaced ones, and more beyond it than the others of its layer do.

    Columns: function, layer, head, wordings; ``without``, ``rise``, ``rise_over_none``: the correlation of held-out
    scores with the function without cues, and how much higher it is with true cues than with misplaced ones and than
    without; ``p_rise``, the larger p of the two; ``patch``, the change of log-probability, ``beyond`` that from
    misplaced cues, ``above`` that of the layer's others; ``p_patch``, the largest p of the three; ``latent``, both
    below 5 %. Each p is family-wise over heads and functions (max-T): for decodability the two cues change places in
    whole scenes, and the probes are fitted anew; for patches the signs of whole scenes are flipped. ``least_rise`` and
    ``least_patch`` are how much would have to be there, by each of the two and of the three measures, for a p below 5 %
    in four of five data sets, were the measures independent; the largest.
    """
    if not (same_steps(without, with_true) and same_steps(without, with_placebo)):
        raise ValueError("the captures with and without cues have other steps; expected the same")
    index = without.index
    words = wordings(experiment.items(SELECTION)).loc[pd.MultiIndex.from_frame(index[["uid", "step"]])].to_numpy()
    if len(set(words)) < FOLDS:
        raise ValueError(f"{len(set(words))} wordings of steps about things with boxes; expected at least {FOLDS}")
    layers = np.array([layer for layer, _ in without.heads.pairs])
    swaps = max(1, experiment.settings.permutations // 10)  # each fits the probes of all heads twice
    rises = [_swap_test(with_true, other, words, swaps) for other in (with_placebo, without)]
    alone = _held_out(without, without.by_head(), words)
    own = np.isin(from_true.function, SPATIAL)
    beyond = (from_true.patched - from_placebo.patched).T  # (steps, heads)
    moved = ((from_true.patched - from_true.intact).T, beyond, beyond - _mean_of_others(beyond, layers))
    patches = [_tested(each[own], from_true.function[own], from_true.group[own]) for each in moved]
    (p_rise, least_rise), (p_patch, least_patch) = (
        np.max([found[1:] for found in tests], axis=0) for tests in (rises, patches)
    )
    frames = [
        pd.DataFrame(without.heads.pairs, columns=["layer", "head"]).assign(
            function=name, wordings=len(set(words[index["function"] == name])), without=alone[f],
            rise=rises[0][0][f], rise_over_none=rises[1][0][f], p_rise=p_rise[f], least_rise=least_rise[f],
            patch=patches[0][0][f], beyond=patches[1][0][f], above=patches[2][0][f], p_patch=p_patch[f],
            least_patch=least_patch[f],
            latent=(p_rise[f] < ALPHA) & (p_patch[f] < ALPHA),
        )
        for f, name in enumerate(SPATIAL)
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def runs_of(experiment: Experiment, cue: str):
    """Scorers of the same items of A without and with a cue."""
    from cogvsr_utils.models.scorer import TeacherForcedScorer

    items = items_with_boxes(experiment, SELECTION)
    return tuple(TeacherForcedScorer(experiment.vlm, cued(items, name)) for name in (NONE, cue))


def items_with_boxes(experiment: Experiment, split: str) -> list[Item]:
    """The profile's number of items of a split whose question names things with boxes, at random; of the kinds that
    training never shows with cues."""
    items = cued(never_cued(experiment.items(split)), NONE)
    order = np.random.default_rng(0).permutation(len(items))[: experiment.settings.ablation_items]
    return [items[i] for i in order]


def shared_wordings(experiment: Experiment) -> float:
    """The share of the spatial steps of A that heads are asked about here whose wording, names and answers aside, steps
    of the kinds that training shows with cues have too."""
    items = experiment.items(SELECTION)
    words, here = wordings(items), {item.uid for item in cued(never_cued(items), NONE)}
    elsewhere = {item.uid for item in items} - {item.uid for item in never_cued(items)}
    known = set(words[words.index.get_level_values("uid").isin(elsewhere)])
    asked = [
        words[item.uid, number]
        for item in items
        if item.uid in here
        for number, step in enumerate(item.steps)
        if step.function in SPATIAL
    ]
    return float(np.mean([word in known for word in asked]))


def same_steps(one: HeadActivations, other: HeadActivations) -> bool:
    """Whether the rows of two captures are of the same steps in the same order."""
    return one.index[["uid", "step"]].equals(other.index[["uid", "step"]])


def _held_out(activations: HeadActivations, x: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The correlation of each head's scores with the spatial functions on wordings held out: (functions, heads), from
    activations ``x`` (steps, heads, head_dim) of the steps of ``activations``."""
    function = activations.index["function"].to_numpy()
    # Each step a stratum of its own, so that nothing is shuffled: the fit alone, without what else is scored by it.
    strength = HeadProbes().permuted(x, function, words, np.arange(len(words)), n=1)[0]
    return strength[[sorted(set(function)).index(name) for name in SPATIAL]]


def _swap_test(
    one: HeadActivations, other: HeadActivations, words: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How much higher the correlations of one capture are than those of another, the family-wise p that they are
    higher, by ``n`` times swapping the two in random scenes, and how much would be found: (functions, heads) each."""
    x, y, rng = one.by_head(), other.by_head(), np.random.default_rng(0)
    scenes, code = np.unique(one.index["group_id"].to_numpy(), return_inverse=True)

    def rise(swapped):  # (scenes,), whether the two change places there
        at = swapped[code][:, None, None]
        return _held_out(one, np.where(at, y, x), words) - _held_out(other, np.where(at, x, y), words)

    observed = rise(np.zeros(len(scenes), bool))
    null = np.array([rise(rng.random(len(scenes)) < 0.5) for _ in tqdm(range(n), desc="swapped cues")])
    return observed, *_family_wise(observed, null)


def _family_wise(observed: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Family-wise p of ``observed`` (functions, heads) beside draws ``null`` (draws, functions, heads), and what would
    be found, (functions, heads) each; each head in units of its own root mean square. If nothing differs the observed
    one is a draw as any other, so it counts in this as they do."""
    scale = np.sqrt((np.concatenate([observed[None], null]) ** 2).mean(0)) + 1e-12
    largest = np.sort((null / scale).max((1, 2)))[::-1]
    as_large = int(np.ceil(ALPHA * (len(null) + 1))) - 2  # draws that may be, for a p below 5 %
    threshold = largest[as_large] if as_large >= 0 else np.inf
    return max_t_test(observed / scale, null / scale).p_max, _found_from(threshold, len(null) + 1, tests=2) * scale


def _tested(values: np.ndarray, label: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of ``values`` (steps, heads) by spatial function, the family-wise p that each is above 0, and which mean
    would be found: (functions, heads) each."""
    order = [sorted(SPATIAL).index(name) for name in SPATIAL]
    test, means, least = sign_flip_test(-values, label, group), [], []
    for name in SPATIAL:
        own = pd.DataFrame(values[label == name])
        means.append(own.mean().to_numpy())
        sums = own.groupby(group[label == name]).sum()
        error = np.sqrt((sums**2).sum().to_numpy()) / len(own)
        least.append(_found_from(test.threshold, len(sums), tests=3) * error)
    return np.array(means), test.p_max[order], np.array(least)


def _found_from(threshold: float, n: int, tests: int) -> float:
    """From how many root mean squares on an effect passes a threshold by all of so many ``tests``, were they
    independent, in ``POWER`` of all data sets, where the root mean square, of ``n`` values, grows with the effect;
    infinite where it outgrows it."""
    reach = threshold + norm.ppf(POWER ** (1 / tests))
    return reach / np.sqrt(1 - reach**2 / n) if reach**2 < n else np.inf


def _mean_of_others(values: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """For each column of ``values`` (rows, heads) the mean of the other heads of its layer; 0 where there is none."""
    same = (layers[:, None] == layers).astype(float) - np.eye(len(layers))
    return values @ (same / np.maximum(same.sum(0), 1))
