"""How well can a step's function be guessed without any model?

audit_labels(items)      accuracy of naive Bayes on the text or the place of each step
"""

import pandas as pd

from cogvsr_utils.dataset.items import Item, steps_table


def audit_labels(items: list[Item]) -> pd.DataFrame:
    """Guess the function of each step from its text or place alone, by naive Bayes in grouped cross-validation.

    Returns a DataFrame: predictor, accuracy, balanced_accuracy (both in [0, 1]), n. What a probe of activations reaches
    counts only above these rows.

    >>> from cogvsr_utils import Step
    >>> steps = [Step("How many are there?", "3", "int", None, "Math Reasoning"),
    ...          Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")]
    >>> items = [Item(str(n), "mine", str(n), "Is it red?", "yes", "yesno", steps) for n in range(5)]
    >>> audit_labels(items).set_index("predictor")["accuracy"][["majority", "question words"]].tolist()
    [0.5, 1.0]
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.metrics import accuracy_score, balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    table = steps_table(items)
    label, groups = table["function"].to_numpy(), table["group_id"].to_numpy()
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(table, label, groups))
    position = " position" + table["step"].astype(str)
    texts = {
        "step index": position,
        "answer words": table["answer"],
        "first three words of the question": table["question"].str.split().str[:3].str.join(" "),
        "question words": table["question"],
        "question words and step index": table["question"] + position,
    }
    shares = table["function"].value_counts(normalize=True)
    rows = [{"predictor": "majority", "accuracy": shares.iloc[0], "balanced_accuracy": 1 / len(shares)}]
    for name, text in texts.items():
        model = make_pipeline(CountVectorizer(token_pattern=r"\w+"), MultinomialNB(alpha=0.1))
        guess = cross_val_predict(model, text, label, cv=folds)
        rows.append({"predictor": name, "accuracy": accuracy_score(label, guess),
                     "balanced_accuracy": balanced_accuracy_score(label, guess)})  # fmt: skip
    return pd.DataFrame(rows).assign(n=len(table))
