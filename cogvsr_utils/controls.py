"""What a probe has to beat, in one call.

    controls(vlm, items, answers, held, store)   one linear classifier on everything that might tell the function
    text_guesses(items, index)                   what the text alone says of each step, for the offset of HeadProbes

Every row is scored by the same ridge classifier in the same folds, so rows differ in what they see and in nothing else.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from .capture import capture
from .items import Item, open_image, steps_table
from .models import untrained
from .positions import encode_chats, group_steps
from .stats import shuffle_within


def controls(vlm, items: list[Item], answers, held, store: str | Path, seed: int = 0):
    """How well a step's function is told by all heads together, and by everything that is not their doing.

    ``held`` is what ``capture`` gave for ``items`` with the replies ``answers``; ``store`` a folder for the same chats
    with blank pictures, with other items' pictures, and in an untrained model of the same shape. Returns a DataFrame:
    predictor, accuracy, balanced_accuracy, n, meaning. The control task gives every answer text a random function
    (Hewitt and Liang, arXiv 1909.03368); the last row shuffles labels among steps of the same index.
    """
    import pandas as pd
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    store, index = Path(store), held.index
    rng, label = np.random.default_rng(seed), index["function"].to_numpy()
    text = _text(items).loc[list(zip(index["uid"], index["step"], strict=True))]

    def features_of(model, shown, name):
        other = capture(model, shown, store=store / name, answers=answers, progress=False)
        return other.by_head()[_same_rows(other.index, index)]

    layers = held.heads.table["layer"].to_numpy()
    x = held.by_head()
    names = np.unique(label)
    rows = [
        ("majority", None, label, "the commonest function"),
        ("step index", _words(text["position"]), label, "which step of the chain it is"),
        ("answer", _words(text["answer"] + text["length"]), label, "words and number of words of the right answer"),
        ("question words", _words(text["question"]), label, "words of the step's question"),
        ("text", _words(text["all"]), label, "words of step, answer and main question, pairs of them, and the step index"),
        ("embeddings", _embeddings(vlm, items, index), label, "input embeddings of the tokens that predict the answer"),
        ("untrained model", features_of(untrained(vlm, seed), items, "untrained"), label, "all heads of random weights"),
        ("blank picture", features_of(vlm, _pictures(items, None), "blank"), label, "all heads, the picture grey"),
        ("other picture", features_of(vlm, _pictures(items, rng), "other"), label, "all heads, another item's picture"),
        ("layer means", np.stack([x[:, layers == n].mean(1) for n in np.unique(layers)], 1), label, "a mean a layer"),
        ("all heads", x, label, "the activations themselves"),
        ("control task", x, random_functions(index["answer"], names, seed), "all heads, each answer given a random function"),
        ("shuffled labels", x, shuffle_within(label, index["step"], rng), "all heads, labels shuffled within the step index"),
    ]  # fmt: skip
    out = []
    for name, features, target, meaning in rows:
        if features is None:
            guess = np.full(len(target), pd.Series(target).mode()[0])
        else:
            columns = features.reshape(len(features), -1)
            guess = _guesses(_ridge(columns), columns, target, index["group_id"])
        out.append({"predictor": name, "accuracy": accuracy_score(target, guess),
                    "balanced_accuracy": balanced_accuracy_score(target, guess), "n": len(target), "meaning": meaning})  # fmt: skip
    return pd.DataFrame(out)


def text_guesses(items: list[Item], index, n_splits: int = 5, seed: int = 0) -> np.ndarray:
    """The function that the text alone says, (steps, functions in sorted order), 1 for it and 0 for others; each step's by a
    model that did not see its group.

    Words and pairs of words of the step's question, its answer and the main question, and the step index, through a
    logistic regression. ``index`` (uid, step, function, group_id) names the steps.
    """
    from sklearn.linear_model import LogisticRegression

    text = _text(items).loc[list(zip(index["uid"], index["step"], strict=True))]
    words, label = _words(text["all"], sparse=True), index["function"].to_numpy()
    guess = _guesses(LogisticRegression(C=10.0, max_iter=500), words, label, index["group_id"], n_splits, seed)
    return (guess[:, None] == np.unique(label)).astype(np.float32)


def random_functions(answers, names, seed: int = 0) -> np.ndarray:
    """The control task: the same random function of ``names`` for all steps with the same answer text."""
    known, code = np.unique(np.asarray(answers), return_inverse=True)
    return np.random.default_rng(seed).choice(np.asarray(names), len(known))[code]


def _text(items):
    """What is written about every step, by (uid, step); words are marked with where they stand."""
    table = steps_table(items)
    main = {item.uid: item.question for item in items}
    parts = {"question": table["question"], "answer": table["answer"], "main": table["uid"].map(main)}
    marked = {name: text.str.replace(r"(\w+)", rf"{name}_\1", regex=True) for name, text in parts.items()}
    marked["position"] = " position_" + table["step"].astype(str)
    marked["length"] = " length_" + table["answer"].str.split().str.len().astype(str)
    marked["all"] = marked["question"] + " " + marked["answer"] + " " + marked["main"] + marked["position"]
    import pandas as pd

    return pd.DataFrame(marked).set_axis(pd.MultiIndex.from_frame(table[["uid", "step"]]))


def _words(text, sparse: bool = False):
    """Which words and pairs of words stand in each text: (steps, words)."""
    from sklearn.feature_extraction.text import CountVectorizer

    counts = CountVectorizer(token_pattern=r"\w+", ngram_range=(1, 2), binary=True, min_df=2).fit_transform(text)
    return counts if sparse else counts.toarray().astype(np.float32)


def _pictures(items: list[Item], rng) -> list[Item]:
    """The items with grey pictures of the same size, or, given ``rng``, each with another item's picture."""
    from PIL import Image

    if rng is not None:
        turn = rng.permutation(len(items))
        follows = np.roll(turn, 1)
        partner = dict(zip(turn, follows, strict=True))
        return [
            replace(item, image=items[partner[i]].image, mirror=items[partner[i]].mirror)
            for i, item in enumerate(items)
        ]
    grey = []
    for item in items:
        file = io.BytesIO()
        Image.new("RGB", open_image(item).size, (128, 128, 128)).save(file, "PNG")
        grey.append(replace(item, image=file.getvalue()))
    return grey


@torch.inference_mode()
def _embeddings(vlm, items, index, batch_size: int = 64) -> np.ndarray:
    """Mean input embedding (steps, width) of the tokens that predict each step's reply."""
    replies = {uid: list(rows.sort_values("step")["prediction"]) for uid, rows in index.groupby("uid")}
    look, found = vlm.model.get_input_embeddings(), {}
    for first in range(0, len(items), batch_size):
        some = [item for item in items[first : first + batch_size] if len(replies.get(item.uid, ())) == len(item.steps)]
        if not some:
            continue
        inputs, places = encode_chats(vlm, some, replies)
        steps, owner = group_steps(places)
        rows = look(inputs["input_ids"][places[:, 0], places[:, 1] - 1]).float().cpu().numpy()
        sums = np.zeros((len(steps), rows.shape[1]), np.float32)
        np.add.at(sums, owner, rows)
        means = sums / np.bincount(owner)[:, None]
        found |= {(some[row].uid, step): mean for (row, step), mean in zip(steps, means, strict=True)}
    width = look.weight.shape[1]
    return np.stack([found.get(key, np.zeros(width)) for key in zip(index["uid"], index["step"], strict=True)])


def _same_rows(other, index) -> np.ndarray:
    """For each row of ``index`` the number of the row of ``other`` that is of the same step."""
    place = {key: i for i, key in enumerate(zip(other["uid"], other["step"], strict=True))}
    return np.array([place[key] for key in zip(index["uid"], index["step"], strict=True)])


def _ridge(features):
    """A linear classifier whose ridge is as strong as there are columns, so that many columns are no head start."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=max(10, features.shape[1])))


def _guesses(model, features, label, groups, n_splits: int = 5, seed: int = 0) -> np.ndarray:
    """Labels (steps,), each step's by a model that did not see its group."""
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    return cross_val_predict(model, features, label, groups=groups, cv=folds)
