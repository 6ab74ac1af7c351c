"""What the text alone predicts of a step's function: the baseline that every probe has to beat.

step_texts(items)                   what is written about every step, by (uid, step)
word_features(text)                 which words and pairs of words each text has
cross_validated(model, ...)         predictions for every step by a model that did not see its group
text_predictions(items, index)      the function that the text alone predicts, as the offset of HeadProbes
random_functions(answers, names)    the control task
"""

from __future__ import annotations

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


def word_features(text: Iterable[str]) -> csr_matrix:
    """Which words and pairs of words are in each text: a sparse matrix (steps, words)."""
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(token_pattern=r"\w+", ngram_range=(1, 2), binary=True, min_df=2).fit_transform(text)


def cross_validated(
    model: object, features: object, label: ArrayLike, groups: ArrayLike, n_splits: int = 5, seed: int = 0
) -> np.ndarray:
    """Labels (steps,), each step's by a scikit-learn ``model`` fitted without its group."""
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    return cross_val_predict(model, features, label, groups=groups, cv=folds)


def ridge_classifier(n_columns: int) -> Pipeline:
    """A linear classifier whose ridge is as strong as there are columns, so that many columns are no head start."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=max(10, n_columns)))


def text_predictions(items: list[Item], index: pd.DataFrame, n_splits: int = 5, seed: int = 0) -> np.ndarray:
    """The function that the text alone predicts: (steps, functions in sorted order), 1 for it and 0 for others.

    Words and pairs of words of the step's question, its answer and the main question, and the step index, through a
    logistic regression; each step's by a model that did not see its group. ``index`` (uid, step, function, group_id)
    names the steps.
    """
    from sklearn.linear_model import LogisticRegression

    text = step_texts(items).loc[list(zip(index["uid"], index["step"], strict=True))]
    label = index["function"].to_numpy()
    model = LogisticRegression(C=10.0, max_iter=500)
    predicted = cross_validated(model, word_features(text["all"]), label, index["group_id"], n_splits, seed)
    return (predicted[:, None] == np.unique(label)).astype(np.float32)


def random_functions(answers: ArrayLike, names: Sequence[str], seed: int = 0) -> np.ndarray:
    """The control task: the same random function of ``names`` for all steps with the same answer text.

    Source: Hewitt and Liang (arXiv 1909.03368).
    """
    known, code = np.unique(np.asarray(answers), return_inverse=True)
    return np.random.default_rng(seed).choice(np.asarray(names), len(known))[code]
