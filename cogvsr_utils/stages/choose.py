"""Which heads serve a function, and how sure is that? All of it on split A, but for effects, which are measured on C.

probe(run)            the paper's joint probe: importance, its null, its spread over groups
strict_probe(run)     the same of five seeds, stopped early; and where functions are equally frequent and hard
head_probes(run)      each head alone, and what it adds to the text
controls(run)         what a probe has to beat
effects(run, split)   what removing each single head does, or putting its mean in its place
mean_edits(run)       how a set's heads are replaced by their means
heads_table(run)      all of it, one row a function and head
scarce(run)           how few heads, how sparse and where, with null and intervals
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from ..controls import controls as probe_controls
from ..controls import random_functions, text_guesses
from ..heads_table import head_table
from ..interventions import mask, mean_ablate
from ..probes import FunctionProbe, HeadProbes, binary_accuracy
from ..scarcity import equalise, head_counts, removal_counts, scarcity
from ..stats import resampled_means, sign_flips, significance, stability
from . import Run


def probe(run: Run) -> dict[str, np.ndarray]:
    """The joint probe as the paper trains it.

    ``classes``; ``predicted`` and ``truth`` (steps of C); ``importance`` (classes, heads), its ``null`` (fits, classes, heads)
    with shuffled labels, and ``resampled`` (resamples, classes, heads) over scenes.
    """

    def compute():
        x, y, groups, layers = _held(run)
        rng, report = np.random.default_rng(0), run.activations("C")
        paper = FunctionProbe("paper").fit(x, y, groups, layers)
        null = [FunctionProbe("paper").fit(x, rng.permutation(y), groups, layers).importance_
                for _ in tqdm(range(run.settings.null_fits), desc="null probes")]  # fmt: skip
        return {
            "classes": paper.classes_.astype(str), "importance": paper.importance_, "null": np.array(null),
            "predicted": paper.predict(report.by_head()).astype(str),
            "truth": report.index["function"].to_numpy().astype(str),
            "resampled": _resampled(paper, x, y, groups, run.settings.resamples),
        }  # fmt: skip

    return run.arrays("probe", compute)


def strict_probe(run: Run) -> dict[str, np.ndarray]:
    """The joint probe of five seeds, each stopped early on scenes held out for that.

    ``predicted`` (steps of C); ``resampled`` (resamples, classes, heads) over seeds and scenes; and ``equal``, the same where
    functions are equally frequent at every length of answer and difficulty, that is, whether all heads together tell
    the step; ``n_equal`` steps.
    """

    def compute():
        x, y, groups, layers = _held(run)
        strict = FunctionProbe("strict", n_seeds=5).fit(x, y, groups, layers)
        rows = equalise(y, run.activations("A").index["n_tokens"].clip(upper=3), head_probes(run)["joint_right"])
        x_equal, y_equal, groups_equal = x[rows], y[rows], groups[rows]
        equal = FunctionProbe("strict", n_seeds=5).fit(x_equal, y_equal, groups_equal, layers)
        n = run.settings.resamples
        return {
            "predicted": strict.predict(run.activations("C").by_head()).astype(str),
            "resampled": _resampled(strict, x, y, groups, n),
            "equal": _resampled(equal, x_equal, y_equal, groups_equal, n), "n_equal": np.array(len(rows)),
        }  # fmt: skip

    return run.arrays("strict_probe", compute)


def _held(run: Run):
    """Activations of split A by head, functions, groups, and the layer of each head."""
    held = run.activations("A")
    index = held.index
    return (
        held.by_head(),
        index["function"].to_numpy(),
        index["group_id"].to_numpy(),
        held.heads.table["layer"].to_numpy(),
    )


def _resampled(probe: FunctionProbe, x, y, groups, n: int) -> np.ndarray:
    """Importance (n, classes, heads) over the probe's seeds and resampled groups of the rows that it did not see."""
    read = probe.read_
    return np.concatenate(
        [resampled_means(each, y[read], groups[read], n // probe.n_seeds, seed=number)
         for number, each in enumerate(probe.importance_by_item(x[read], y[read]))]
    )  # fmt: skip


def head_probes(run: Run) -> dict[str, np.ndarray]:
    """Per-head ridge probes on A.

    ``classes``; ``auroc`` and ``binary_accuracy`` (heads, classes), ``accuracy``, ``balanced_accuracy`` and ``control_accuracy`` (heads,)
    of each head alone;
    ``gain`` (heads, classes), ``strength``, its ``null`` (permutations, ...) and ``resampled`` (resamples, ...) of each head
    above what the text tells; ``text_auroc`` (classes,); ``joint_right`` (steps,), whether all heads together, by the
    mean of their scores, tell the step.
    """

    def compute():
        held = run.activations("A")
        x, index = held.by_head(), held.index
        y, groups = index["function"], index["group_id"]
        alone = HeadProbes().fit(x, y, groups)
        task = HeadProbes().fit(x, random_functions(index["answer"], alone.classes_), groups)
        text = text_guesses(run.items["A"], index)
        above = HeadProbes().fit(x, y, groups, offset=text)
        base = np.array([roc_auc_score(y == name, text[:, c]) for c, name in enumerate(alone.classes_)])
        together = alone.scores_.mean(1) + [(y == name).mean() for name in alone.classes_]
        return {
            "classes": alone.classes_.astype(str), "auroc": alone.auroc_, "accuracy": alone.accuracy_, "balanced_accuracy": alone.balanced_accuracy_,
            "control_accuracy": task.accuracy_, "binary_accuracy": binary_accuracy(x, y, groups), "gain": above.auroc_ - base, "text_auroc": base,
            "strength": above.strength_, "resampled": above.resampled(groups),
            "null": above.permuted(x, y, groups, index["step"], run.settings.permutations, offset=text),
            "joint_right": alone.classes_[together.argmax(1)] == y.to_numpy(),
        }  # fmt: skip

    return run.arrays("head_probes", compute)


def controls(run: Run) -> pd.DataFrame:
    """What a probe has to beat; see ``controls.controls``."""

    def compute():
        given = run.vlm, run.items["A"], run.answers("A"), run.activations("A")
        return probe_controls(*given, store=run.folder / "controls")

    return run.table("controls", compute)


def effects(run: Run, split: str, ablation: str = "mask") -> dict[str, np.ndarray]:
    """What removing each single head does to some items of a split; ``ablation`` is ``mask`` or ``mean``.

    ``log_probability`` and ``right`` (1 + heads, steps), the first row untouched; ``function`` and ``group`` (steps,).
    """

    def compute():
        rehearsal = run.rehearsal(split, run.settings.effect_items)
        edits = mask if ablation == "mask" else mean_edits(run)
        heads = tqdm(run.vlm.heads.pairs, desc="single heads")
        runs = [rehearsal.run(), *(rehearsal.run(edits([head])) for head in heads)]
        return {"right": np.array([right for right, _ in runs]), "log_probability": np.array([told for _, told in runs]),
                "function": rehearsal.index["function"].to_numpy().astype(str),
                "group": rehearsal.index["group_id"].to_numpy().astype(str)}  # fmt: skip

    return run.arrays(f"effects-{split}-{ablation}", compute)


def mean_edits(run: Run):
    """A function of heads that gives the edits which put each head's mean over split A in its place.

    The mean is that of the text's tokens at these, of the picture's at those, so that the head still tells them apart.
    """
    means = run.rehearsal("A", run.settings.effect_items).means()

    def edits(heads):
        columns = run.vlm.heads.columns(heads)
        return [mean_ablate(heads, [mean[place] for place in columns], scope) for scope, mean in means.items()]

    return edits


def mean_effects(removed, classes) -> np.ndarray:
    """Mean change of the log-probability of the right answer by function and head: (classes, heads)."""
    change = removed["log_probability"][1:] - removed["log_probability"][0]
    return np.stack([change[:, removed["function"] == name].mean(1) for name in classes])


def heads_table(run: Run) -> pd.DataFrame:
    """One row a function and head, kept as parquet and as CSV; the columns are those of ``heads_table.COLUMNS``."""

    def compute():
        joint, single, removed = probe(run), head_probes(run), effects(run, "C")
        change = (removed["log_probability"][1:] - removed["log_probability"][0]).T
        right = (removed["right"][1:].astype(float) - removed["right"][0]).T
        label, groups = removed["function"], removed["group"]
        low, high = np.quantile(resampled_means(change, label, groups, 1000), [0.025, 0.975], axis=0)
        tests = significance(single["strength"], single["null"])
        measures = {
            "importance": joint["importance"], "auroc": single["auroc"].T, "gain": single["gain"].T,
            "selected": stability(strict_probe(run)["resampled"], run.n_top, n_pairs=1)["selected"],
            "binary_accuracy": single["binary_accuracy"].T,
            "selectivity": single["accuracy"] - single["control_accuracy"],
            **{name: values.T for name, values in tests.items()},
            "effect": mean_effects(removed, joint["classes"]), "effect_low": low, "effect_high": high,
            "effect_mean": mean_effects(effects(run, "C", "mean"), joint["classes"]),
            "effect_accuracy": np.stack([right[label == name].mean(0) for name in joint["classes"]]),
            "effect_p_max": sign_flips(right, label, groups)["p_max"],
        }  # fmt: skip
        table = head_table(run.vlm.heads, joint["classes"], measures)
        table.to_csv(run.folder / "heads.csv", index=False)
        return table

    return run.table("heads", compute)


def scarce(run: Run) -> pd.DataFrame:
    """Statistics and counts of each function's heads; see ``scarcity.scarcity`` and ``scarcity.head_counts``."""

    def compute():
        joint, single, classes = probe(run), head_probes(run), list(probe(run)["classes"])
        layers = run.vlm.heads.table["layer"].to_numpy()
        found = scarcity(joint["importance"], joint["null"], joint["resampled"], classes, layers)
        counts = head_counts(single["strength"], single["null"], single["resampled"], classes)
        return pd.concat([found, counts, removal_counts(effects(run, "C"), classes)], ignore_index=True)

    return run.table("scarcity", compute)
