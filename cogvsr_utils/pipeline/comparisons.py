"""Does what was found in one form of crossed wording hold in a second, where the picture alone tells the function?

with_comparisons           the experiment of a model that knows such questions
comparison_answers[split]  judged replies to comparisons
comparison_activations[split]    head features at the answers
comparison_accuracy        how many are answered rightly
comparison_gate            what text alone tells of their functions
form_transfer              probes of plain steps, of plans and of comparisons, on plans and on comparisons
comparison_effects         the selected sets ablated, as ``crossed_effects`` of plans

A question of a comparison has one of four functions; plans are asked about all eight, of which these four are compared.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.accuracy import accuracy_table
from cogvsr_utils.analysis.text_baselines import ridge_classifier
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.jsonl import read_items
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.splits import CROSSED, SELECTION, TEST
from cogvsr_utils.dataset.synth.comparisons import FUNCTIONS, build_comparisons
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.models.weights import nano_names
from cogvsr_utils.pipeline.baselines import text_accuracy
from cogvsr_utils.pipeline.crossed import effects_in_pairs, with_crossed
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.recordings import activations, answers
from cogvsr_utils.pipeline.selection import Rankings
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import clustered_mean

TAUGHT = "nano-internvl-compared"  # the nano model that knows the words of comparisons; its tables alone are kept


def with_comparisons(experiment: Experiment) -> Experiment:
    """The experiment, on data that have plans; of a nano model, which does not know the words of comparisons, the
    measured tables of the one that was taught them."""
    if experiment.model in nano_names():
        return replace(experiment, model=TAUGHT, quantize=None, profile="light", source="synth", _cache={})
    return with_crossed(experiment)


def comparison_items(split: str) -> list[Item]:
    """The comparisons of a split, A or C, built where they are not there yet."""
    return [item for item in read_items(build_comparisons()) if item.split == CROSSED[split]]


@result(variants=(SELECTION, TEST), gpu=True)
def comparison_answers(experiment: Experiment, split: str, resume: Path) -> pd.DataFrame:
    """Judged replies to the comparisons of a split."""
    from cogvsr_utils.models.answering import answer

    return judge(answer(experiment.vlm, comparison_items(split), resume=resume))


@result(variants=(SELECTION, TEST), needs=lambda split: {"answers": comparison_answers[split]}, gpu=True)
def comparison_activations(experiment: Experiment, split: str, answers: pd.DataFrame, store: Path) -> HeadActivations:
    """Features of every head at the answers to the comparisons of a split."""
    from cogvsr_utils.models.recording import capture

    return capture(experiment.vlm, comparison_items(split), store=store, answers=answers)


@result(needs={"answers": comparison_answers[TEST], "plain": answers[TEST], "plans": answers[CROSSED[TEST]]})
def comparison_accuracy(
    experiment: Experiment, answers: pd.DataFrame, plain: pd.DataFrame, plans: pd.DataFrame
) -> pd.DataFrame:
    """How many steps of C are answered rightly, comparisons by form, beside plain steps and plans of the same four
    functions.

    Columns: form (differs, alike, plan, plain), function, n, accuracy, ci_low, ci_high, chance, majority.
    """
    forms = {item.uid: item.meta["forms"] for item in comparison_items(TEST)}
    steps = answers[answers["step"] >= 0]
    steps = steps.assign(form=[forms[uid][step] for uid, step in zip(steps["uid"], steps["step"], strict=True)])
    every = pd.concat([steps, plans.assign(form="plan"), plain.assign(form="plain")])
    every = every[every["function"].isin(FUNCTIONS)]
    tables = [accuracy_table(part).assign(form=form) for form, part in every.groupby("form", sort=False)]
    return pd.concat(tables)[
        ["form", "function", "n", "accuracy", "ci_low", "ci_high", "chance", "majority"]
    ]  # fmt: skip


@result()
def comparison_gate(experiment: Experiment) -> pd.DataFrame:
    """How well text alone predicts the functions of A's comparisons; columns as of ``text_gate``."""
    return text_accuracy(comparison_items(SELECTION))


@result(
    needs={
        "plain": activations[SELECTION], "plans": activations[CROSSED[SELECTION]],
        "compared": comparison_activations[SELECTION], "on_plans": activations[CROSSED[TEST]],
        "on_compared": comparison_activations[TEST],
    },
)  # fmt: skip
def form_transfer(
    experiment: Experiment,
    plain: HeadActivations,
    plans: HeadActivations,
    compared: HeadActivations,
    on_plans: HeadActivations,
    on_compared: HeadActivations,
) -> pd.DataFrame:
    """How well linear probes of all heads, fitted on A's steps of one form, predict the functions of C's steps of
    another; steps of the four functions alone.

    Columns: trained_on (majority, plain, plan, comparison), tested_on (plan, comparison), n, accuracy, low, high (95 %
    over pairs).
    """
    tests = {"plan": _four(on_plans), "comparison": _four(on_compared)}
    predicted = {"majority": lambda x, truth: np.full(len(truth), pd.Series(truth).mode()[0])}
    for name, each in (("plain", plain), ("plan", plans), ("comparison", compared)):
        x, label, _ = _four(each)
        probe = ridge_classifier(x.shape[1]).fit(x, label)
        predicted[name] = lambda x, truth, probe=probe: probe.predict(x)
    rows = []
    for trained_on, predict in predicted.items():
        for tested_on, (x, truth, pairs) in tests.items():
            accuracy, low, high = clustered_mean(predict(x, truth) == truth, pairs)
            rows.append({"trained_on": trained_on, "tested_on": tested_on, "n": len(truth), "accuracy": accuracy,
                         "low": low, "high": high})  # fmt: skip
    return pd.DataFrame(rows)


def _four(recorded: HeadActivations) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (steps, heads x head_dim), functions and groups of the steps of the four functions."""
    some = recorded.index["function"].isin(FUNCTIONS).to_numpy()
    x, index = recorded.by_head()[some], recorded.index[some]
    return x.reshape(len(x), -1), index["function"].to_numpy(), index["group_id"].to_numpy()


@result(gpu=True)
def comparison_effects(experiment: Experiment, rankings: Rankings) -> pd.DataFrame:
    """What ablating the sets of the four functions does to C's comparisons; columns as of ``effects_in_pairs``."""
    from cogvsr_utils.models.scorer import TeacherForcedScorer

    return effects_in_pairs(TeacherForcedScorer(experiment.vlm, comparison_items(TEST)), rankings, FUNCTIONS)


COMPARISONS = (comparison_accuracy, comparison_gate, form_transfer, comparison_effects)  # the tables that a page shows
