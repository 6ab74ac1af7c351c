"""Do cues make latent spatial heads work? Boxes of what is asked about, drawn or in words, beside placebos.

cued_answers[condition]     replies to main questions under one of CONDITIONS
cue_effects                 each cue against its placebo and against none
cued_activations[cue]       heads at the answers of A with the true boxes drawn, with misplaced ones, without
patched[cue]                each head as in the cued run, carried over to the run without: right answers on A
latent_heads                which heads are latent: they read a function better with true cues, and carry what helps
latent_activation           scaling, steering, attention on these heads, without any cue, on C
LATENT                      the tables that a page shows
with_cues(experiment)       the experiment, on CogVSR-Synth where its own data have no boxes
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.accuracy import compare
from cogvsr_utils.analysis.head_probes import HeadProbes
from cogvsr_utils.analysis.text_baselines import wordings
from cogvsr_utils.dataset import cues
from cogvsr_utils.dataset.images import grey_pictures
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.splits import FOLDS, SELECTION, TEST, TUNING
from cogvsr_utils.functions import NAMES, SPATIAL
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import answers
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import ALPHA, bootstrap_means, clustered_mean, clustered_share, false_discovery_rate, max_t_test

NONE, GREY = "no cue", "grey picture"
TRUE, MISPLACED, OTHER = "true", "misplaced", "other things"
# A condition: how the boxes are shown, which boxes, and the condition that it is compared with.
CONDITIONS: dict[str, tuple[str, str, str]] = {
    NONE: ("", "", ""),
    **{
        f"{shown}, {which}": (shown, which, f"{shown}, {MISPLACED}" if which == TRUE else NONE)
        for shown in (*cues.MARKS, "words", "box and words")
        for which in (TRUE, MISPLACED, OTHER)
    },
    GREY: ("", "grey", NONE),
    f"{GREY}, box, {TRUE}": ("box", "grey", GREY),
    f"{GREY}, words, {TRUE}": ("words", "grey", GREY),
}
ASKED = (SELECTION, TUNING, TEST, "hard")  # nothing is chosen before the cues' effect is seen, so all questions count
BOX = f"box, {TRUE}"  # the cue that heads are chosen with
CUES = (NONE, BOX, f"box, {MISPLACED}")
SCALE, ATTEND, STEER = 1.5, float(np.log(2)), 1.0
A = (SELECTION,)


@dataclass(frozen=True)
class PatchedHeads:
    """Right answers' log-probability on some items of A (steps,) without cues (``intact``), and with each head as in
    the cued run (heads, steps); the steps' ``function`` and ``group``."""

    intact: np.ndarray
    patched: np.ndarray
    function: np.ndarray
    group: np.ndarray


def with_cues(experiment: Experiment) -> Experiment:
    """The experiment, on CogVSR-Synth where its own data do not record where things are."""
    return experiment if experiment.source == "synth" else replace(experiment, source="synth", _cache={})


def cued(items: Sequence[Item], condition: str) -> list[Item]:
    """Those items whose question names things with boxes, under a condition; without those whose pictures have too few
    other things, where the boxes are to be on them.

    >>> from cogvsr_utils import load_items
    >>> items = load_items("synth", limit=20)
    >>> len(cued(items, "no cue")) == len(cued(items, "box, true")) <= 20
    True
    """
    shown, which, _ = CONDITIONS[condition]
    asked, others = cues.boxes_asked_about(items)
    items = [item for item in items if item.uid in asked]
    boxes = asked
    if which == MISPLACED:
        boxes = cues.misplaced(asked, others)
    elif which == OTHER:
        boxes = cues.on_other_things(asked, others)
        items = [item for item in items if item.uid in boxes]
    if which == "grey":
        items = grey_pictures(items)
    if shown in (*cues.MARKS, "box and words"):
        items = cues.drawn(items, boxes, shown.split(" ")[0])
    if "words" in shown:
        items = cues.in_words(items, boxes)
    return items


@result(variants=tuple(CONDITIONS), splits=ASKED, gpu=True)
def cued_answers(experiment: Experiment, condition: str, resume: Path) -> pd.DataFrame:
    """Judged replies to the main questions in plain wording that name things with boxes, asked alone; no rows without
    such."""
    from cogvsr_utils.models.answering import answer

    items = cued([item for split in ASKED for item in experiment.items(split)], condition)
    if not items:
        return pd.DataFrame(columns=["uid", "step", "group_id", "subset", "function", "correct"])
    return judge(answer(experiment.vlm, items, steps=False, resume=resume))


ANSWERS = {f"replies_{number}": cued_answers[condition] for number, condition in enumerate(CONDITIONS)}


@result(needs=ANSWERS)
def cue_effects(experiment: Experiment, **replies: pd.DataFrame) -> pd.DataFrame:
    """Each condition against the one that it is compared with, on the same questions: for true boxes the misplaced
    ones, of which the difference is what the cue says; for all others no cue.

    Columns: condition, against, n, accuracy, change with low and high (95 % over pictures) and p; q over all;
    ``kept``, the share still right of what is right without a cue.
    """
    tables = dict(zip(CONDITIONS, (replies[name] for name in ANSWERS), strict=True))
    rows = []
    for condition, (*_, against) in CONDITIONS.items():
        table = tables[condition]
        if not len(table):
            continue
        without = tables[NONE].set_index("uid").loc[table["uid"]]
        right = without["correct"].to_numpy(bool)
        row = {"condition": condition, "against": against, "n": len(table), "accuracy": table["correct"].mean(),
               "kept": table["correct"].to_numpy(float)[right].mean() if right.any() else np.nan}  # fmt: skip
        if against:
            before = tables[against][tables[against]["uid"].isin(table["uid"])]
            found = compare(table, before).iloc[0]
            row |= {"change": found["change"], "low": found["ci_low"], "high": found["ci_high"], "p": found["p"]}
        rows.append(row)
    table = pd.DataFrame(rows, columns=["condition", "against", "n", "accuracy", "kept", "change", "low", "high", "p"])
    tested = table["p"].notna()
    return table.assign(q=pd.Series(false_discovery_rate(table.loc[tested, "p"]), table.index[tested], dtype=float))


@result(variants=CUES, splits=A, needs={"answers": answers[SELECTION]}, gpu=True)
def cued_activations(experiment: Experiment, cue: str, answers: pd.DataFrame, store: Path) -> HeadActivations:
    """Features of every head at the same answers of A, the model's own without cues, under a cue."""
    from cogvsr_utils.models.recording import capture

    items = cued(experiment.items(SELECTION), cue)
    return capture(experiment.vlm, items, store=store, answers=answers[answers["uid"].isin([i.uid for i in items])])


@result(variants=CUES[1:], splits=A, gpu=True)
def patched(experiment: Experiment, cue: str) -> PatchedHeads:
    """Each head as in the cued run, one after the other, in the run without cues; the profile's number of items."""
    from cogvsr_utils.models.patching import patch_heads

    target, source = _runs(experiment, cue)
    heads = [[head] for head in experiment.vlm.heads.pairs]
    intact, *each = patch_heads(target, source, [[], *heads])
    return PatchedHeads(
        intact, np.array(each),
        target.index["function"].to_numpy().astype(str), target.index["group_id"].to_numpy().astype(str),
    )  # fmt: skip


@result(splits=A, needs={"by_hand": patched[BOX]}, gpu=True)
def attribution_check(experiment: Experiment, by_hand: PatchedHeads) -> pd.DataFrame:
    """How well integrated gradients predict what patching a head from the cued run changes. Columns: function, n,
    spearman over heads, saturated (the share of steps whose right answer has a probability above 0.99 without cues)."""
    from scipy.stats import spearmanr

    from cogvsr_utils.models.patching import path_attribution

    predicted = path_attribution(*_runs(experiment, BOX), NAMES)
    rows = []
    for name, guess in zip(NAMES, predicted, strict=True):
        own = by_hand.function == name
        if own.any():
            exact = (by_hand.patched - by_hand.intact)[:, own].mean(1)
            rows.append({"function": name, "n": int(own.sum()), "spearman": spearmanr(guess, exact).statistic,
                         "saturated": (by_hand.intact[own] > np.log(0.99)).mean()})  # fmt: skip
    return pd.DataFrame(rows)


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
    """Which heads are latent for a spatial function. A head is, if it tells the function's steps from others better
    with true cues than with misplaced ones, on wordings that took no part in fitting, and if carrying it over from the
    run with true cues helps the right answers more than carrying over the others of its layer does, and more than from
    the run with misplaced cues.

    Columns: function, layer, head; ``decodability`` (correlation of held-out scores with the function) without cues;
    ``rise``, that with true less that with misplaced cues, and ``p_rise`` (max-T over heads and functions, bootstrap
    over wordings); ``patch``, the change of log-probability from the true run less that from the misplaced one;
    ``above``, that less the mean of the layer's other heads, and ``p_patch`` (max-T, bootstrap over scenes);
    ``latent``.
    """
    index = without.index
    words = wordings(experiment.items(SELECTION)).loc[pd.MultiIndex.from_frame(index[["uid", "step"]])].to_numpy()
    if len(set(words)) < FOLDS:
        raise ValueError(f"{len(set(words))} wordings of steps about things with boxes; expected at least {FOLDS}")
    n, place = experiment.settings.bootstrap, [sorted(NAMES).index(name) for name in SPATIAL]
    strength, draws = zip(*(_decodability(each, words, n) for each in (without, with_true, with_placebo)), strict=True)
    rise, p_rise = _above_nothing((strength[1] - strength[2])[place], (draws[1] - draws[2])[:, place])
    layers = np.array([layer for layer, _ in without.heads.pairs])
    moved = (from_true.patched - from_placebo.patched).T  # (steps, heads)
    sides = [moved, moved - _mean_of_others(moved, layers)]
    spatial = np.isin(from_true.function, SPATIAL)
    steps = [side[spatial] for side in sides]
    label, group = from_true.function[spatial], from_true.group[spatial]
    patch, above = (np.array([side[label == name].mean(0) for name in SPATIAL]) for side in steps)
    order = [sorted(SPATIAL).index(name) for name in SPATIAL]
    _, p_patch = _above_nothing(above, bootstrap_means(steps[1], label, group, n)[:, order])
    frames = [
        pd.DataFrame(without.heads.pairs, columns=["layer", "head"]).assign(
            function=name, decodability=strength[0][place[f]], rise=rise[f], p_rise=p_rise[f], patch=patch[f],
            above=above[f], p_patch=p_patch[f], latent=(p_rise[f] < ALPHA) & (p_patch[f] < ALPHA),
        )
        for f, name in enumerate(SPATIAL)
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


@result(splits=(SELECTION, TEST), gpu=True)
def latent_activation(experiment: Experiment, latent_heads: pd.DataFrame) -> pd.DataFrame:
    """What helps steps of C, teacher-forced: the true and the misplaced boxes, and without any cue the latent heads
    scaled, steered towards the cued run (by the mean difference on A), or attending more to the picture; beside as many
    heads of the same layers. Where no head is latent, the heads that come nearest, as many as are taken for a function.

    Columns: method, heads (latent, nearest or random; none for cues), k, function, n, change of log-probability with
    low and high (95 % over scenes), accuracy's change; seconds, relative to the same pass without edits.
    """
    from cogvsr_utils.models.attention_edits import attend
    from cogvsr_utils.models.edited_attention import attending
    from cogvsr_utils.models.interventions import scale, steer
    from cogvsr_utils.models.patching import mean_difference
    from cogvsr_utils.models.scorer import TeacherForcedScorer

    kind, heads = chosen_heads(latent_heads)
    others = _same_layers(experiment.vlm.heads.pairs, heads)
    target, source = _runs(experiment, BOX)
    items = _some(experiment, TEST)
    scorer = TeacherForcedScorer(experiment.vlm, cued(items, NONE))
    intact, whole = _timed(scorer.score)
    cases = [
        (name, "", 0, TeacherForcedScorer(experiment.vlm, cued(items, name)).score)
        for name in CUES[1:]
    ]  # fmt: skip
    for name, some in [(kind, heads)] + [("random", others)] * bool(others):
        moved = mean_difference(target, source, some)
        cases += [
            ("scale", name, len(some), partial(scorer.score, scale(some, SCALE))),
            ("steer", name, len(some), partial(scorer.score, steer(some, moved, STEER, scope="all"))),
            ("attend", name, len(some), partial(_attending, attending, attend(some, "add", ATTEND), scorer)),
        ]
    function, group, rows = scorer.index["function"].to_numpy(), scorer.index["group_id"].to_numpy(), []
    for method, name, k, score in cases:
        scores, seconds = _timed(score)
        for each in NAMES:
            own = function == each
            if own.any():
                better, low, high = clustered_mean((scores.log_prob - intact.log_prob)[own], group[own])
                change, *_ = clustered_share(scores.correct[own].astype(float) - intact.correct[own], group[own], -1)
                rows.append({"method": method, "heads": name, "k": k, "function": each, "n": int(own.sum()),
                             "delta_log_prob": better, "low": low, "high": high, "change": change,
                             "seconds": seconds / whole})  # fmt: skip
    return pd.DataFrame(rows)


LATENT = (cue_effects, latent_heads, attribution_check, latent_activation)


def chosen_heads(table: pd.DataFrame) -> tuple[str, list[tuple[int, int]]]:
    """``latent`` and the heads that are latent for a spatial function, or, where there are none, ``nearest`` and those
    whose worse p, in their better function, is smallest."""
    found = table[table["latent"]]
    if len(found):
        return "latent", list(dict.fromkeys(found[["layer", "head"]].itertuples(index=False, name=None)))
    worse = table.assign(p=table[["p_rise", "p_patch"]].max(axis=1))
    best = worse.groupby(["layer", "head"])["p"].min().sort_values(kind="stable")
    return "nearest", list(best.index[: n_top(len(best))])


def _runs(experiment: Experiment, cue: str):
    """Scorers of the same items of A without and with a cue."""
    from cogvsr_utils.models.scorer import TeacherForcedScorer

    items = _some(experiment, SELECTION)
    return tuple(TeacherForcedScorer(experiment.vlm, cued(items, name)) for name in (NONE, cue))


def _some(experiment: Experiment, split: str) -> list[Item]:
    """The profile's number of items of a split whose question names things with boxes, at random."""
    items = cued(experiment.items(split), NONE)
    order = np.random.default_rng(0).permutation(len(items))[: experiment.settings.ablation_items]
    return [items[i] for i in order]


def _decodability(activations: HeadActivations, words: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """How well each head tells the functions on wordings held out: (functions, heads) and its bootstrap (n, functions,
    heads)."""
    probes = HeadProbes().fit(activations.by_head(), activations.index["function"].to_numpy(), words)
    return probes.strength_, probes.bootstrap(words, n)


def _above_nothing(observed: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values (functions, heads), and for each the family-wise p that it is above 0, from draws of a bootstrap in
    units of their spread."""
    spread = np.maximum(draws.std(0), 1e-12)
    return observed, max_t_test(observed / spread, (draws - draws.mean(0)) / spread).p_max


def _mean_of_others(values: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """For each column of ``values`` (rows, heads) the mean of the other heads of its layer; 0 where there is none."""
    same = (layers[:, None] == layers).astype(float) - np.eye(len(layers))
    return values @ (same / np.maximum(same.sum(0), 1))


def _same_layers(every: Sequence[tuple[int, int]], heads: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """As many random heads of the same layers that are not among ``heads``, as far as there are so many."""
    rng, found = np.random.default_rng(0), []
    for layer in dict.fromkeys(layer for layer, _ in heads):
        free = [head for head in every if head[0] == layer and head not in set(heads)]
        n = sum(each == layer for each, _ in heads)
        found += [free[i] for i in rng.permutation(len(free))[:n]]
    return found


def _attending(attending, edit, scorer):
    with attending(scorer.vlm, edit):
        return scorer.score()


def _timed(call):
    start = time.perf_counter()
    return call(), time.perf_counter() - start
