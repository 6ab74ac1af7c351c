"""What the text alone predicts of a step's function: the baseline that every probe has to beat.

step_texts(items)                   what is written about every step, by (uid, step)
wordings(items)                     its question with all that varies in it taken out
word_features(text)                 which words and pairs of words each text has
cross_validated(model, ...)         predictions for every step by a model that did not see its group
text_predictions(items, index)      the function that the text alone predicts, as the offset of HeadProbes
random_functions(texts, names)      the control task; permuted_functions, a null of the same kind
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cogvsr_utils.dataset.items import Item, steps_table

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.pipeline import Pipeline


def step_texts(items: list[Item]) -> pd.DataFrame:
    """A DataFrame by (uid, step): question, answer, main, before (earlier questions and answers), position, length
    and all (but before), words marked with their place; and transcript, the whole chat in order and unmarked."""
    table = steps_table(items)
    main = {item.uid: item.question for item in items}
    turns = [f"{s.question} {s.answer} " for item in items for s in item.steps]
    before = ["".join(turns[i - step : i]) for i, step in enumerate(table["step"])]
    parts = {"question": table["question"], "answer": table["answer"], "main": table["uid"].map(main),
             "before": pd.Series(before, table.index, dtype=str)}  # fmt: skip
    marked = {name: text.str.replace(r"(\w+)", rf"{name}_\1", regex=True) for name, text in parts.items()}
    marked["position"] = " position_" + table["step"].astype(str)
    marked["length"] = " length_" + table["answer"].str.split().str.len().astype(str)
    marked["all"] = marked["question"] + " " + marked["answer"] + " " + marked["main"] + marked["position"]
    marked["transcript"] = parts["main"] + " " + parts["before"] + parts["question"] + " " + parts["answer"]
    return pd.DataFrame(marked).set_axis(pd.MultiIndex.from_frame(table[["uid", "step"]]))


def wordings(items: list[Item]) -> pd.Series:
    """The wording of every step, by (uid, step): its question in lower case, with a blank for every number and every
    word that answers some step.

    Steps of one wording differ in nothing but the things that they are about, so what tells a function from such
    questions has to be tested on wordings that took no part in fitting.

    >>> from cogvsr_utils import Item, Step
    >>> asked = [("Is the Red ball red?", "red"), ("Is the blue ball red?", "red"), ("What color is it?", "blue")]
    >>> steps = [Step(question, answer, "closed", None, "Math Reasoning") for question, answer in asked]
    >>> wordings([Item("1", "mine", "1", "How many?", "1", "int", steps)]).tolist()
    ['is the _ ball _?', 'is the _ ball _?', 'what color is it?']
    """
    table = steps_table(items)
    known = {word for answer in table["answer"] for word in re.findall(r"\w+", answer.lower())}
    masked = [
        re.sub(r"\w+", lambda m: "_" if m[0] in known or m[0].isdigit() else m[0], question.lower())
        for question in table["question"]
    ]
    return pd.Series(masked, pd.MultiIndex.from_frame(table[["uid", "step"]]), dtype=str)


def word_features(text: Iterable[str]) -> csr_matrix:
    """Which words and pairs of words are in each text: a sparse matrix (steps, words)."""
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(token_pattern=r"\w+", ngram_range=(1, 2), binary=True, min_df=2).fit_transform(text)


def cross_validated(
    model: object,
    features: object,
    label: ArrayLike,
    groups: ArrayLike,
    wording: ArrayLike | None = None,
    n_splits: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Labels (steps,), each step's by a scikit-learn ``model`` fitted without its group, and without its wording where
    ``wording`` (steps,) is given."""
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    if wording is not None:
        folds = _crossed_folds(*(list(folds.split(label, label, each)) for each in (groups, wording)))
    return cross_val_predict(model, features, label, groups=groups, cv=folds)


def _crossed_folds(one, other) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and to test, of every pair of folds: those that both fit, and those that both test."""
    both = [(np.intersect1d(a, c), np.intersect1d(b, d)) for a, b in one for c, d in other]
    return [(fit, test) for fit, test in both if len(test)]


def ridge_classifier(n_columns: int) -> Pipeline:
    """A linear classifier whose ridge is as strong as there are columns, so that many columns are no head start."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=max(10, n_columns)))


def text_predictions(items: list[Item], index: pd.DataFrame) -> np.ndarray:
    """The function that the text alone predicts: (steps, functions in sorted order), 1 for it and 0 for others.

    Words and pairs of words of the step's question, its answer and the main question, and the step index, through a
    logistic regression; each step's by a model that did not see its group. ``index`` (uid, step, function, group_id)
    names the steps.
    """
    from sklearn.linear_model import LogisticRegression

    text = step_texts(items).loc[list(zip(index["uid"], index["step"], strict=True))]
    label = index["function"].to_numpy()
    model = LogisticRegression(C=10.0, max_iter=500)
    predicted = cross_validated(model, word_features(text["all"]), label, index["group_id"])
    return (predicted[:, None] == np.unique(label)).astype(np.float32)


def random_functions(texts: ArrayLike, names: Sequence[str], seed: int = 0) -> np.ndarray:
    """The control task: the same random function of ``names`` for all steps of the same text, such as their wording.

    Source: Hewitt and Liang (arXiv 1909.03368).
    """
    known, code = np.unique(np.asarray(texts), return_inverse=True)
    return np.random.default_rng(seed).choice(np.asarray(names), len(known))[code]


def permuted_functions(texts: ArrayLike, labels: ArrayLike, rng: np.random.Generator) -> np.ndarray:
    """Labels (steps,) that are as much a matter of the text as the true ones, and not those: the steps of every text
    get labels of the steps of another.

    >>> permuted_functions(["a", "b", "b"], ["f", "g", "g"], np.random.default_rng(3)).tolist()
    ['g', 'f', 'f']
    """
    labels, (_, code) = np.asarray(labels), np.unique(np.asarray(texts), return_inverse=True)
    rows = [np.flatnonzero(code == number) for number in range(code.max() + 1)]
    out = np.empty_like(labels)
    for own, number in zip(rows, rng.permutation(len(rows)), strict=True):
        out[own] = labels[rng.choice(rows[number], len(own))]
    return out
