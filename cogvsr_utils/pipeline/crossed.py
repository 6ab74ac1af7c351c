"""Do heads serve a function, or its wording? The same words ask for different functions, by picture.

with_crossed        the experiment on data that have such steps
wording_transfer    the joint probe of plain steps, and others, on steps in crossed wording
pair_probes         a probe of every head in crossed wording, and its null: labels swapped between the same words
crossed_effects     the selected sets ablated: a function's own steps beside other functions' steps in the same words
effects_in_pairs    the same of any scorer of pairs

Items come in pairs: the same text about two pictures, every step of which needs another function in the one than in the
other. So text, answers offered and step index are the same on both sides of each comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from cogvsr_utils.analysis.head_probes import HeadProbes
from cogvsr_utils.analysis.joint_probe import FunctionProbe
from cogvsr_utils.analysis.text_baselines import ridge_classifier, step_texts, word_features
from cogvsr_utils.dataset.splits import CROSSED, SELECTION, TEST, require_groups
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import activations
from cogvsr_utils.pipeline.selection import ABLATION, IMPORTANCE, JointProbe, Rankings, top_heads_by
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.pipeline.sweeps import scorer_of
from cogvsr_utils.stats import clustered_mean, clustered_share, false_discovery_rate, paired_difference

if TYPE_CHECKING:
    from cogvsr_utils.models.scorer import TeacherForcedScorer

CROSSED_A, CROSSED_C = CROSSED[SELECTION], CROSSED[TEST]


@dataclass(frozen=True)
class PairProbes:
    """Ridge probes of each head in crossed wording.

    ``functions`` (functions,); ``auroc`` and ``strength`` (functions, heads);
    ``null`` (permutations, functions, heads), the strength with labels swapped at random within pairs; ``n_steps`` and
    ``n_pairs``.
    """

    functions: np.ndarray
    auroc: np.ndarray
    strength: np.ndarray
    null: np.ndarray
    n_steps: np.ndarray
    n_pairs: np.ndarray


def with_crossed(experiment: Experiment) -> Experiment:
    """The experiment, on CogVSR-Synth where its own data have no steps in crossed wording."""
    if set(CROSSED.values()) <= set(experiment.present_splits):
        return experiment
    return replace(experiment, source="synth", _cache={})


@result(
    splits=(CROSSED_A, CROSSED_C),
    needs={
        "plain": activations[SELECTION], "crossed": activations[CROSSED_A], "test": activations[CROSSED_C],
    },
)  # fmt: skip
def wording_transfer(
    experiment: Experiment,
    network_probe: JointProbe,
    plain: HeadActivations,
    crossed: HeadActivations,
    test: HeadActivations,
) -> pd.DataFrame:
    """How well probes predict the functions of C's steps in crossed wording, whose words none of them has seen.

    Columns: predictor, trained_on, n, accuracy, low, high (95 % over pairs). The paper's joint probe is that of plain
    steps; the others are linear.
    """
    truth, pairs = test.index["function"].to_numpy(), test.index["group_id"].to_numpy()
    x = {name: each.by_head() for name, each in (("plain", plain), ("crossed", crossed), ("test", test))}
    flat = {name: each.reshape(len(each), -1) for name, each in x.items()}
    label = {"plain": plain.index["function"].to_numpy(), "crossed": crossed.index["function"].to_numpy()}
    text = step_texts(experiment.items(CROSSED_A) + experiment.items(CROSSED_C))["all"]
    keys = [list(zip(each.index["uid"], each.index["step"], strict=True)) for each in (crossed, test)]
    words = word_features(pd.concat([text.loc[each] for each in keys]))
    rows = [
        ("majority", "", np.full(len(truth), pd.Series(truth).mode()[0])),
        ("words and pairs", "crossed A", LogisticRegression(C=10.0, max_iter=3000)
         .fit(words[: len(keys[0])], label["crossed"]).predict(words[len(keys[0]) :])),
        ("joint probe (paper)", "plain A", FunctionProbe.from_arrays(network_probe.fitted).predict(x["test"])),
        *(("all heads, linear", f"{name} A",
           ridge_classifier(flat[name].shape[1]).fit(flat[name], label[name]).predict(flat["test"]))
          for name in ("plain", "crossed")),
    ]  # fmt: skip
    found = []
    for predictor, trained_on, predicted in rows:
        accuracy, low, high = clustered_mean(predicted == truth, pairs)
        found.append({"predictor": predictor, "trained_on": trained_on, "n": len(truth), "accuracy": accuracy,
                      "low": low, "high": high})  # fmt: skip
    return pd.DataFrame(found)


@result(splits=(CROSSED_A,), needs={"activations": activations[CROSSED_A]})
def pair_probes(experiment: Experiment, activations: HeadActivations) -> PairProbes:
    """A probe of every head alone on A in crossed wording; under the null, a head knows no more than the words, so that
    the labels of a step's two pictures may be swapped."""
    x, index = activations.by_head(), activations.index
    label, pairs = index["function"].to_numpy().astype(str), index["group_id"].to_numpy().astype(str)
    require_groups(label, pairs, NAMES)
    probes = HeadProbes().fit(x, label, pairs)
    words = [f"{pair} {step}" for pair, step in zip(pairs, index["step"], strict=True)]
    null = probes.permuted(x, label, pairs, words, experiment.settings.permutations)
    return PairProbes(
        probes.classes_,
        probes.auroc_,
        probes.strength_,
        null,
        np.array(len(label)),
        np.array(len(set(pairs))),
    )


@result(splits=(CROSSED_C,), gpu=True)
def crossed_effects(experiment: Experiment, rankings: Rankings) -> pd.DataFrame:
    """What ablating each function's set does to C's steps in crossed wording; columns as of ``effects_in_pairs``."""
    scorer = scorer_of(experiment, CROSSED_C, len(experiment.items(CROSSED_C)))
    return effects_in_pairs(scorer, rankings, NAMES)


def effects_in_pairs(scorer: TeacherForcedScorer, rankings: Rankings, names: Sequence[str]) -> pd.DataFrame:
    """What ablating the sets of the functions ``names`` does to steps of pairs, teacher-forced.

    Columns: ranking, function (whose set and whose steps), k, n (own steps); own, the change of log-probability of the
    function's own steps, and same_words, that of the steps in the same words that need another function, each with low
    and high (95 % over pairs); difference, their mean paired difference, its low, high, p (sign flip over pairs) and q
    over all rows; own_accuracy and same_words_accuracy, changes in [-1, 1].
    """
    from cogvsr_utils.models.head_edits import mask

    rows, k = [], n_top(len(rankings.heads))
    own, other = partners(scorer.index)
    for ranking in (IMPORTANCE, ABLATION):
        sets = top_heads_by(rankings, ranking, k)
        intact, *scores = scorer.score_each([None, *(mask(sets.of(function)) for function in names)])
        for function, ablated in zip(names, scores, strict=True):
            delta = ablated.log_prob - intact.log_prob
            correct = ablated.correct.astype(float) - intact.correct
            here = (scorer.index["function"] == function).to_numpy()[own]
            mine, theirs = own[here], other[here]
            pairs = scorer.index["group_id"].to_numpy()[mine]
            row = {"ranking": ranking, "function": function, "k": k, "n": len(mine)}
            row["own"], row["own_low"], row["own_high"] = clustered_mean(delta[mine], pairs)
            row["same_words"], row["same_words_low"], row["same_words_high"] = clustered_mean(delta[theirs], pairs)
            row["difference"], row["low"], row["high"], row["p"] = paired_difference(delta[mine], delta[theirs], pairs)
            row["own_accuracy"] = clustered_share(correct[mine], pairs, lowest=-1)[0]
            row["same_words_accuracy"] = clustered_share(correct[theirs], pairs, lowest=-1)[0]
            rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(q=false_discovery_rate(table["p"]))


WORDING = (wording_transfer, crossed_effects)  # the tables that a page shows


def partners(index: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ``index`` (group_id, step, uid), and for each the row with the same words about the other picture.

    Rows whose partner is missing are left out.

    >>> index = pd.DataFrame({"group_id": ["a", "a", "b"], "step": [0, 0, 0], "uid": ["1", "2", "3"]})
    >>> [rows.tolist() for rows in partners(index)]
    [[0, 1], [1, 0]]
    """
    place = index.reset_index(drop=True).assign(row=np.arange(len(index)))
    both = place.merge(place, on=["group_id", "step"], suffixes=("", "_other"))
    both = both[both["uid"] != both["uid_other"]].sort_values("row")
    return both["row"].to_numpy(), both["row_other"].to_numpy()
