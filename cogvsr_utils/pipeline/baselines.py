"""What a probe has to beat: one linear classifier on everything that might give a step's function away.

text_gate[split]     what text alone reaches, the whole transcript read
probe_baselines      a table of them, each scored by the same classifier in the same folds
crossed_baselines    the same where the wording does not tell the function

So rows differ in what they see and in nothing else. All on split A, plain or in crossed wording.
"""

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.text_baselines import (
    cross_validated,
    random_functions,
    ridge_classifier,
    step_texts,
    word_features,
    wordings,
)
from cogvsr_utils.analysis.text_models import TextTransformer
from cogvsr_utils.dataset.items import Item, steps_table
from cogvsr_utils.dataset.splits import CROSSED, SELECTION, require_groups
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.recordings import activations, control_activations, crossed_control_activations
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import clustered_mean, clustered_share, shuffle_within


@result(
    splits=(SELECTION,),
    needs={
        "activations": activations[SELECTION],
        "untrained": control_activations["untrained"],
        "grey": control_activations["grey picture"],
        "other": control_activations["other picture"],
    },
    gpu=True,
)
def probe_baselines(
    experiment: Experiment,
    activations: HeadActivations,
    untrained: HeadActivations,
    grey: HeadActivations,
    other: HeadActivations,
) -> pd.DataFrame:
    """How well a step's function is predicted from all heads together, and from everything else.

    Columns: predictor, accuracy, balanced_accuracy (both in [0, 1]), low and high (95 % of the accuracy over groups);
    held_out with held_low and held_high (95 % over wordings), the accuracy on wordings that took no part in fitting;
    held_beyond, by how much that of all heads is higher, with held_beyond_low and held_beyond_high; n, meaning. The
    control task gives every wording a random function (Hewitt and Liang, arXiv 1909.03368); the last row shuffles
    labels among steps of the same index.
    """
    return _baselines(experiment, experiment.items(SELECTION), activations, untrained, grey, other)


@result(
    splits=(CROSSED[SELECTION],),
    needs={
        "activations": activations[CROSSED[SELECTION]],
        "untrained": crossed_control_activations["untrained"],
        "grey": crossed_control_activations["grey picture"],
        "other": crossed_control_activations["other picture"],
    },
    gpu=True,
)
def crossed_baselines(
    experiment: Experiment,
    activations: HeadActivations,
    untrained: HeadActivations,
    grey: HeadActivations,
    other: HeadActivations,
) -> pd.DataFrame:
    """The same as ``probe_baselines`` where the wording does not tell the function."""
    return _baselines(experiment, experiment.items(CROSSED[SELECTION]), activations, untrained, grey, other)


def _baselines(experiment, items, activations, untrained, grey, other) -> pd.DataFrame:
    from sklearn.metrics import balanced_accuracy_score

    index = activations.index
    require_groups(index["function"], index["group_id"], NAMES)
    label, names = index["function"].to_numpy(), np.unique(index["function"])
    text = step_texts(items).loc[list(zip(index["uid"], index["step"], strict=True))]
    wording = wordings(items).loc[list(zip(index["uid"], index["step"], strict=True))].to_numpy()
    layers, x = activations.heads.table["layer"].to_numpy(), activations.by_head()  # (steps, heads, head_dim)
    layer_means = np.stack([x[:, layers == layer].mean(1) for layer in np.unique(layers)], axis=1)
    shuffled = shuffle_within(label, index["step"], np.random.default_rng(0))
    rows = [
        ("majority", None, label, "the commonest function"),
        ("step index", _dense(text["position"]), label, "which step of the chain it is"),
        ("answer", _dense(text["answer"] + text["length"]), label, "words and number of words of the right answer"),
        ("question words", _dense(text["question"]), label, "words of the step's question"),
        ("text", _dense(text["all"]), label, "words and pairs of words of step, answer, main question; the step index"),
        ("embeddings", _embeddings(experiment, items, index), label, "input embeddings of the predicting tokens"),
        ("untrained model", _rows_of(untrained, index), label, "all heads of random weights"),
        ("grey picture", _rows_of(grey, index), label, "all heads, the picture grey"),
        ("other picture", _rows_of(other, index), label, "all heads, another item's picture"),
        ("layer means", layer_means, label, "a mean a layer"),
        ("all heads", x, label, "the activations themselves"),
        ("control task", x, random_functions(wording, names), "all heads, a random function a wording"),
        ("shuffled labels", x, shuffled, "all heads, labels shuffled within the step index"),
    ]  # fmt: skip
    out, on_held = [], {}
    for name, features, target, meaning in rows:
        row = {"predictor": name}
        for prefix, held in (("", None), ("held_", wording)):
            if features is None:
                predicted = np.full(len(target), pd.Series(target).mode()[0])
            else:
                columns = features.reshape(len(features), -1)
                model = ridge_classifier(columns.shape[1])
                predicted = cross_validated(model, columns, target, index["group_id"], held)
            right = (predicted == target).astype(float)
            # What is drawn anew is what is kept out: scenes, or wordings, of which there are far fewer.
            interval = clustered_share(right, index["group_id"] if held is None else wording, lowest=0)
            share, row[f"{prefix}low"], row[f"{prefix}high"] = interval
            if held is None:
                row |= {"accuracy": share, "balanced_accuracy": balanced_accuracy_score(target, predicted)}
            else:
                row["held_out"], on_held[name] = share, right
        out.append(row | {"n": len(target), "meaning": meaning})
    for row in out:
        less = clustered_mean(on_held["all heads"] - on_held[row["predictor"]], wording)
        row |= dict(zip(("held_beyond", "held_beyond_low", "held_beyond_high"), less, strict=True))
    return pd.DataFrame(out)


@result(variants=(SELECTION, CROSSED[SELECTION]), splits=lambda split: (split,))
def text_gate(experiment: Experiment, split: str) -> pd.DataFrame:
    """How well a step's function is predicted from the whole transcript, its own answer included, by groups.

    Columns: predictor (majority, words and pairs, transformer), n, accuracy, low, high (95 % over groups).
    """
    return text_accuracy(experiment.items(split))


def text_accuracy(items: list[Item]) -> pd.DataFrame:
    """The table of ``text_gate`` for some items."""
    from sklearn.linear_model import LogisticRegression

    steps, text = steps_table(items), step_texts(items)
    label, groups = steps["function"].to_numpy(), steps["group_id"].to_numpy()
    words = word_features(text["all"] + " " + text["before"])
    predicted = {
        "majority": np.full(len(label), steps["function"].mode()[0]),
        "words and pairs": cross_validated(LogisticRegression(C=10.0, max_iter=500), words, label, groups),
        "transformer": cross_validated(TextTransformer(), text["transcript"].to_numpy(), label, groups, n_splits=3),
    }
    rows = []
    for name, guess in predicted.items():
        accuracy, low, high = clustered_mean(guess == label, groups)
        rows.append({"predictor": name, "n": len(label), "accuracy": accuracy, "low": low, "high": high})
    return pd.DataFrame(rows)


def _dense(text) -> np.ndarray:
    return word_features(text).toarray().astype(np.float32)


def _rows_of(other: HeadActivations, index) -> np.ndarray:
    """Features (steps, heads, head_dim) of the same steps as ``index``, in its order."""
    place = {key: i for i, key in enumerate(zip(other.index["uid"], other.index["step"], strict=True))}
    return other.by_head()[[place[key] for key in zip(index["uid"], index["step"], strict=True)]]


def _embeddings(experiment: Experiment, items: list[Item], index) -> np.ndarray:
    """Mean input embedding (steps, width) of the tokens that predict each step's reply; 0 where it was not located."""
    import torch

    from cogvsr_utils.models.batching import batched
    from cogvsr_utils.models.chat import step_replies
    from cogvsr_utils.models.positions import encode_chats, group_steps

    vlm, replies, found = experiment.vlm, step_replies(index), {}
    embed = vlm.model.get_input_embeddings()
    items = [item for item in items if item.steps and len(replies.get(item.uid, ())) == len(item.steps)]
    for some in batched(items, 64, lambda item: item.image is None):
        inputs, places = encode_chats(vlm, some, replies)
        steps, owner = group_steps(places)
        with torch.inference_mode():
            rows = embed(inputs["input_ids"][places[:, 0], places[:, 1] - 1]).float().cpu().numpy()  # (tokens, width)
        sums = np.zeros((len(steps), rows.shape[1]), np.float32)
        np.add.at(sums, owner, rows)
        means = sums / np.bincount(owner)[:, None]
        found |= {(some[row].uid, step): mean for (row, step), mean in zip(steps, means, strict=True)}
    missing = np.zeros(embed.weight.shape[1])
    return np.stack([found.get(key, missing) for key in zip(index["uid"], index["step"], strict=True)])
