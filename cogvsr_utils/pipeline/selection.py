"""Which heads serve a function? Everything here reads split A alone, so that nothing is selected on what tests it.

network_probe         the paper's probe: importance, its null, its spread over groups
refits                the paper's probe fitted anew to other scenes
strict_probe          the same of five seeds, stopped early; and on steps stratified by answer length and difficulty
ridge_probes          each head alone, and what it adds to the text
wording_null          each head alone beside what it tells where every wording has the function of another
head_means            the mean of every head, to replace it by
selection_ablations   each head ablated alone
attributions          approximations of that
rankings              every way of ranking heads
greedy_sets           sets of heads by greedy ablation
top_heads_by          the first heads of each function by a ranking
probe_arrays          what probes are fitted to
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from cogvsr_utils.analysis.ablations import HeadAblations
from cogvsr_utils.analysis.head_probes import HeadProbes, binary_accuracy
from cogvsr_utils.analysis.joint_probe import FunctionProbe, refitted_importance
from cogvsr_utils.analysis.sparsity import stratify
from cogvsr_utils.analysis.text_baselines import permuted_functions, random_functions, text_predictions, wordings
from cogvsr_utils.dataset.splits import SELECTION, require_groups
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import activations
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.pipeline.sweeps import ablate_each_head, scorer_of
from cogvsr_utils.stats import bootstrap_means

A = (SELECTION,)
CANDIDATES, GREEDY_STEPS = 6, 4
LEAST_STRATIFIED = 10  # steps a function below which no probe is fitted to strata
WORDING_FITS = 2  # times as many fits of single heads to moved wordings as of the joint probe
IMPORTANCE, ABLATION = "importance (paper)", "ablation on split A"  # two of the rankings, named elsewhere too


@dataclass(frozen=True)
class JointProbe:
    """A fitted joint probe.

    ``functions`` (functions,); ``importance`` (functions, heads), signed; ``null`` (fits, functions, heads) where every
    wording has the function of another; ``bootstrap`` (draws, functions, heads) over seeds and scenes; ``fitted`` what
    ``FunctionProbe.from_arrays`` takes.
    """

    functions: np.ndarray
    importance: np.ndarray
    null: np.ndarray
    bootstrap: np.ndarray
    fitted: dict[str, np.ndarray]


@dataclass(frozen=True)
class Refits:
    """``importance`` (fits, functions, heads) of the paper's probe, fitted anew each time."""

    importance: np.ndarray


@dataclass(frozen=True)
class StrictProbe:
    """A joint probe of five seeds, stopped early.

    ``importance`` (functions, heads), signed, and its ``bootstrap`` (draws, functions, heads) over seeds and scenes;
    ``stratified_importance`` and ``stratified`` the same where functions are equally frequent at every length of answer
    and difficulty (see ``predicted_together``), NaN where that leaves fewer than ten steps a function; ``n_stratified``
    steps; ``fitted`` what ``FunctionProbe.from_arrays`` takes.
    """

    importance: np.ndarray
    bootstrap: np.ndarray
    stratified_importance: np.ndarray
    stratified: np.ndarray
    n_stratified: np.ndarray
    fitted: dict[str, np.ndarray]


@dataclass(frozen=True)
class SingleProbes:
    """Ridge probes of each head.

    ``functions`` (functions,); ``auroc`` and ``binary_accuracy`` (functions, heads); ``accuracy``,
    ``balanced_accuracy`` and ``control_accuracy`` (heads,) of each head alone; ``gain`` (functions, heads) in AUROC,
    ``strength``, its ``null`` (permutations, functions, heads) and ``bootstrap`` (draws, functions, heads) of each head
    above the text; ``text_auroc`` (functions,); ``joint_correct`` (steps,), whether all heads together, by the mean of
    their scores, predict the step.
    """

    functions: np.ndarray
    auroc: np.ndarray
    binary_accuracy: np.ndarray
    accuracy: np.ndarray
    balanced_accuracy: np.ndarray
    control_accuracy: np.ndarray
    gain: np.ndarray
    strength: np.ndarray
    null: np.ndarray
    bootstrap: np.ndarray
    text_auroc: np.ndarray
    joint_correct: np.ndarray


@dataclass(frozen=True)
class HeadMeans:
    """``by_scope`` maps the scope of an edit to the mean (width,) of every head over its tokens."""

    by_scope: dict[str, np.ndarray]


@dataclass(frozen=True)
class Attributions:
    """``patching`` and ``image_attention`` (functions, heads); ``norms`` (heads,); see ``models.attribution``."""

    functions: np.ndarray
    patching: np.ndarray
    image_attention: np.ndarray
    norms: np.ndarray


@dataclass(frozen=True)
class Rankings:
    """``scores`` maps each way of ranking to (functions, heads), larger is stronger; ``heads`` (heads, [layer,
    head])."""

    functions: np.ndarray
    heads: np.ndarray
    scores: dict[str, np.ndarray]


@dataclass(frozen=True)
class HeadSets:
    """``heads`` (functions, k, [layer, head]), the set of each function."""

    functions: np.ndarray
    heads: np.ndarray

    def of(self, function: str) -> list[tuple[int, int]]:
        """The set of one function."""
        rows = self.heads[list(self.functions).index(function)]
        return [(int(layer), int(head)) for layer, head in rows]


@result(splits=A, needs={"activations": activations[SELECTION]})
def network_probe(experiment: Experiment, activations: HeadActivations) -> JointProbe:
    """The joint probe as the paper trains it, and where every wording has the function of another."""
    x, y, groups, layers = probe_arrays(activations)
    rng, wording = np.random.default_rng(0), _wordings(experiment, activations)
    probe = FunctionProbe("paper").fit(x, y, groups, layers)
    null = [
        FunctionProbe("paper").fit(x, permuted_functions(wording, y, rng), groups, layers).importance_
        for _ in tqdm(range(experiment.settings.null_fits), desc="null probes")
    ]
    bootstrap = _bootstrap(probe, x, y, groups, experiment.settings.bootstrap)
    return JointProbe(probe.classes_, probe.importance_, np.array(null), bootstrap, probe.to_arrays())


@result(splits=A, needs={"activations": activations[SELECTION]})
def refits(experiment: Experiment, activations: HeadActivations) -> Refits:
    """The paper's probe fitted anew to resampled scenes; see ``joint_probe.refitted_importance``."""
    return Refits(refitted_importance(*probe_arrays(activations), n_fits=experiment.settings.null_fits))


@result(splits=A, needs={"activations": activations[SELECTION]})
def ridge_probes(experiment: Experiment, activations: HeadActivations) -> SingleProbes:
    """Ridge probes of each head, alone and above the text."""
    x, y, groups, _ = probe_arrays(activations)
    index = activations.index
    alone = HeadProbes().fit(x, y, groups)
    task = HeadProbes().fit(x, random_functions(_wordings(experiment, activations), alone.classes_), groups)
    text = text_predictions(experiment.items(SELECTION), index)  # (steps, functions)
    above = HeadProbes().fit(x, y, groups, offset=text)
    text_auroc = np.array([roc_auc_score(y == name, text[:, f]) for f, name in enumerate(alone.classes_)])
    together = alone.scores_.mean(2) + [(y == name).mean() for name in alone.classes_]  # (steps, functions)
    return SingleProbes(
        alone.classes_,
        alone.auroc_,
        binary_accuracy(x, y, groups),
        alone.accuracy_,
        alone.balanced_accuracy_,
        task.accuracy_,
        above.auroc_ - text_auroc[:, None],
        above.strength_,
        above.permuted(x, y, groups, index["step"], experiment.settings.permutations, offset=text),
        above.bootstrap(groups),
        text_auroc,
        alone.classes_[together.argmax(1)] == y,
    )


@result(splits=A, needs={"activations": activations[SELECTION]})
def wording_null(experiment: Experiment, activations: HeadActivations, ridge_probes: SingleProbes) -> pd.DataFrame:
    """Does any head alone tell a function better than it tells wordings? Its AUROC beside those of probes fitted where
    every wording has the function of another.

    Columns: function, best (the AUROC of its best head), null (the median over fits of the best head's), null_high (95
    % of them are lower), p (of the best head's, over all heads), heads (how many are above ``null_high``), fits.
    """
    x, y, groups, _ = probe_arrays(activations)
    rng, wording, fits = np.random.default_rng(0), _wordings(experiment, activations), []
    for _ in tqdm(range(WORDING_FITS * experiment.settings.null_fits), desc="null probes"):
        fitted = HeadProbes().fit(x, permuted_functions(wording, y, rng), groups)
        fits.append(pd.Series(fitted.auroc_.max(1), fitted.classes_).reindex(ridge_probes.functions))
    null = np.array(fits)  # (fits, functions)
    high = np.nanquantile(null, 0.95, axis=0)
    best = ridge_probes.auroc.max(1)
    return pd.DataFrame({
        "function": ridge_probes.functions, "best": best, "null": np.nanmedian(null, axis=0), "null_high": high,
        "p": (1 + (null >= best).sum(0)) / (1 + len(null)), "heads": (ridge_probes.auroc > high[:, None]).sum(1),
        "fits": len(null),
    })  # fmt: skip


@result(splits=A, needs={"activations": activations[SELECTION]})
def strict_probe(experiment: Experiment, activations: HeadActivations) -> StrictProbe:
    """The joint probe of five seeds, each stopped early on scenes kept out for that."""
    x, y, groups, layers = probe_arrays(activations)
    n = experiment.settings.bootstrap
    strict = FunctionProbe("strict", n_seeds=5).fit(x, y, groups, layers)
    rows = stratify(y, activations.index["n_tokens"].clip(upper=3), predicted_together(x, y, groups))
    importance, spread = strict.importance_, _bootstrap(strict, x, y, groups, n)
    within = np.full_like(importance, np.nan), np.full_like(spread, np.nan)
    if len(rows) >= LEAST_STRATIFIED * len(strict.classes_):
        stratified = FunctionProbe("strict", n_seeds=5).fit(x[rows], y[rows], groups[rows], layers)
        within = stratified.importance_, _bootstrap(stratified, x[rows], y[rows], groups[rows], n)
    return StrictProbe(importance, spread, *within, np.array(len(rows)), strict.to_arrays())


def predicted_together(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Whether the probes of all heads together predict each step (steps,), cross-validated: by the mean of their scores
    in units of each function's spread. (Added to the functions' shares, the mean of many weak heads would name the
    commonest functions alone.)"""
    alone = HeadProbes().fit(x, y, groups)
    together = alone.scores_.mean(2)  # (steps, functions)
    return alone.classes_[(together / together.std(0)).argmax(1)] == y


@result(splits=A, gpu=True)
def head_means(experiment: Experiment) -> HeadMeans:
    """The mean of every head over split A, of the text's tokens and of the picture's apart, so that the two
    still differ where they replace the head."""
    return HeadMeans(scorer_of(experiment, SELECTION, experiment.settings.ablation_items).means())


@result(splits=A, gpu=True)
def selection_ablations(experiment: Experiment) -> HeadAblations:
    """Each head ablated alone (×0.001), on some items of A."""
    return ablate_each_head(experiment, SELECTION)


@result(splits=A, gpu=True)
def attributions(experiment: Experiment) -> Attributions:
    """One backward pass a function, attention to the picture and output norms."""
    from cogvsr_utils.models.attribution import attribution_patching, image_attention, output_norms

    functions = np.array(sorted(NAMES))
    scorer = scorer_of(experiment, SELECTION, experiment.settings.ablation_items)
    return Attributions(
        functions, attribution_patching(scorer, functions), image_attention(scorer, functions), output_norms(scorer)
    )


@result(splits=A, needs={"activations": activations[SELECTION]})
def rankings(
    experiment: Experiment,
    activations: HeadActivations,
    network_probe: JointProbe,
    ridge_probes: SingleProbes,
    attributions: Attributions,
    selection_ablations: HeadAblations,
) -> Rankings:
    """How strongly each method ranks each head for each function."""
    functions = network_probe.functions
    scores = {
        IMPORTANCE: np.abs(network_probe.importance),
        "probe of the head alone": ridge_probes.auroc,
        "CogVision's probe": ridge_probes.binary_accuracy,
        "gain over text": ridge_probes.gain,
        "attribution patching": -attributions.patching,
        "attention to the picture": attributions.image_attention,
        "output norm": np.tile(attributions.norms, (len(functions), 1)),
        ABLATION: -selection_ablations.mean_delta_log_prob(functions),
    }
    return Rankings(functions, activations.heads.table[["layer", "head"]].to_numpy(), scores)


@result(splits=A, gpu=True)
def greedy_sets(experiment: Experiment, rankings: Rankings) -> HeadSets:
    """Of the six heads whose ablation costs a function's steps most, four: the first, and three times the one that
    costs most beside those already ablated."""
    sets = []
    for function in tqdm(rankings.functions.tolist(), desc="greedy sets"):
        order = top_heads_by(rankings, ABLATION, len(rankings.heads)).of(function)
        scorer = scorer_of(experiment, SELECTION, experiment.settings.ablation_items, function)
        sets.append(_greedy(scorer, function, order)[: n_top(len(order))])
    return HeadSets(rankings.functions, np.array(sets))


def top_heads_by(rankings: Rankings, ranking: str, k: int) -> HeadSets:
    """The first k heads of each function by one of the rankings, the strongest first; raises KeyError for another."""
    order = np.argsort(-rankings.scores[ranking], axis=1, kind="stable")[:, :k]  # (functions, k)
    return HeadSets(rankings.functions, rankings.heads[order])


def _greedy(scorer, function: str, order: list[tuple[int, int]]) -> list[tuple[int, int]]:
    from cogvsr_utils.models.head_edits import mask

    own = (scorer.index["function"] == function).to_numpy()
    chosen, left = order[:1], order[1:CANDIDATES]
    while len(chosen) < GREEDY_STEPS:
        scores = scorer.score_each([mask([*chosen, head]) for head in left], progress=False)
        log_prob = [each.log_prob[own].mean() for each in scores]
        chosen.append(left.pop(int(np.argmin(log_prob))))
    return chosen


def probe_arrays(activations: HeadActivations):
    """Activations (steps, heads, head_dim), functions (steps,), groups (steps,) and the layer of each head (heads,)."""
    index = activations.index
    require_groups(index["function"], index["group_id"], NAMES)
    return (
        activations.by_head(),
        index["function"].to_numpy().astype(str),
        index["group_id"].to_numpy().astype(str),
        activations.heads.table["layer"].to_numpy(),
    )


def _wordings(experiment: Experiment, activations: HeadActivations) -> np.ndarray:
    """The wording (steps,) of each row of the activations."""
    index = activations.index
    return wordings(experiment.items(SELECTION)).loc[list(zip(index["uid"], index["step"], strict=True))].to_numpy()


def _bootstrap(probe: FunctionProbe, x, y, groups, n: int) -> np.ndarray:
    """Importance (n, functions, heads) over the probe's seeds and resampled groups of the rows that it did not see."""
    read = probe.read_
    return np.concatenate(
        [
            bootstrap_means(each, y[read], groups[read], n // probe.n_seeds, seed=number)
            for number, each in enumerate(probe.importance_by_item(x[read], y[read]))
        ]
    )
