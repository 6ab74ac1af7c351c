"""People look over labelled steps: sheets for them, and what their answers say.

export_review(items, folder)     a sheet to fill in (csv) and a page with the pictures (HTML)
import_review(sheets, items)     filled sheets -> Review: how far they agree, and which steps stand
apply_review(items, review)      the items with the steps that stand, under the agreed labels
"""

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.files import replacing, spreadsheet_text
from cogvsr_utils.functions import NAMES, find_function

AGREED = 0.6  # the share of reviewers that a label and an answer need: CogVSR's rule (arXiv 2603.20662)
ASKED = ("reviewed_function", "answer_is_right")
COLUMNS = ("uid", "step", "main_question", "question", "answer", "function", *ASKED, "comment")
STYLE = (
    "body{font-family:sans-serif;max-width:60rem;margin:auto;padding:1rem}img{max-width:16rem}"
    "table{border-collapse:collapse;width:100%}td,th{border:1px solid #bbb;padding:.3rem;text-align:left}"
)


@dataclass(frozen=True)
class Review:
    """``steps``: one row a step (uid, step, function, agreed_function, function_share, answer_share, reviewers,
    verdict: kept, relabelled or rejected, and the reason). ``agreement``: Fleiss' kappa for all labels and for each
    against the others, with n, the steps that every reviewer labelled."""

    steps: pd.DataFrame
    agreement: pd.DataFrame


def export_review(items: Sequence[Item], folder: Path | str) -> Path:
    """Write ``review.csv``, a row a step with columns to fill in, and ``review.html``, the same beside the pictures.

    Reviewers copy the sheet, fill in the function that they find and whether the answer is right (yes or no), and do
    not see each other's. All text is escaped; pictures lie in ``pictures/``. Returns the sheet. Raises ValueError where
    no item has steps.

    >>> import tempfile
    >>> from cogvsr_utils.dataset.items import Step
    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [step])
    >>> export_review([item], tempfile.mkdtemp()).name
    'review.csv'
    """
    rows = [
        {"uid": item.uid, "step": number, "main_question": item.question, "question": step.question,
         "answer": step.answer, "function": step.function}
        for item in items for number, step in enumerate(item.steps)
    ]  # fmt: skip
    if not rows:
        raise ValueError("no item has steps; expected some to look over")
    folder = Path(folder)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    sheet = folder / "review.csv"
    written = io.StringIO()
    writer = csv.DictWriter(written, COLUMNS, restval="")
    writer.writeheader()
    writer.writerows({key: spreadsheet_text(value) for key, value in row.items()} for row in rows)
    with replacing(sheet) as partial:
        partial.write_text(written.getvalue(), encoding="utf-8")
    with replacing(folder / "review.html") as partial:
        partial.write_text(_page(items, folder), encoding="utf-8")
    return sheet


def import_review(sheets: Sequence[Path | str], items: Sequence[Item]) -> Review:
    """Read filled sheets, one a reviewer.

    A step stands where at least 60 % of those who labelled it name one function and at least 60 % of those who judged
    its answer find it right; under another function than it had it is relabelled. Fields left blank are not counted.
    Raises ValueError for no sheets, and with sheet and line for steps that the items do not have, functions that are
    none, and anything but yes or no.

    >>> import tempfile
    >>> from cogvsr_utils.dataset.items import Step
    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [step])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sheet = export_review([item], folder)
    ...     pd.read_csv(sheet).assign(reviewed_function="Math Reasoning", answer_is_right="yes").to_csv(sheet)
    ...     import_review([sheet], [item]).steps["verdict"].tolist()
    ['relabelled']
    """
    if not sheets:
        raise ValueError("no sheets; expected one a reviewer")
    stated = {(item.uid, number): step.function for item in items for number, step in enumerate(item.steps)}
    filled = pd.concat([_read_sheet(Path(sheet), stated).assign(reviewer=n) for n, sheet in enumerate(sheets)])
    by_step, blank = dict(tuple(filled.groupby(["uid", "step"]))), filled.iloc[:0]
    rows = [
        {"uid": uid, "step": number, "function": function, **_decide(by_step.get((uid, number), blank), function)}
        for (uid, number), function in stated.items()
    ]
    return Review(pd.DataFrame(rows), _agreement(filled, len(sheets)))


def apply_review(items: Sequence[Item], review: Review) -> list[Item]:
    """The items without the rejected steps, relabelled where the reviewers agreed on another function; items that keep
    no step are left out.

    >>> from cogvsr_utils.dataset.items import Step
    >>> steps = [Step(f"Is there a {shape}?", "yes", "yesno", None, "Math Reasoning") for shape in ("cube", "cone")]
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", steps)
    >>> said = pd.DataFrame({"uid": "1", "step": [0, 1], "agreed_function": "Math Reasoning"})
    >>> review = Review(said.assign(verdict=["rejected", "kept"]), pd.DataFrame())
    >>> [step.question for step in apply_review([item], review)[0].steps]
    ['Is there a cone?']
    """
    verdicts = review.steps.set_index(["uid", "step"])
    found = []
    for item in items:
        steps = [
            replace(step, function=verdicts.loc[(item.uid, number), "agreed_function"])
            for number, step in enumerate(item.steps)
            if verdicts.loc[(item.uid, number), "verdict"] != "rejected"
        ]
        if steps:
            found.append(replace(item, steps=steps))
    return found


def _read_sheet(sheet: Path, stated: dict) -> pd.DataFrame:
    """uid, step, label and right (True, False or None) of a filled sheet."""
    table = pd.read_csv(sheet, dtype=str, keep_default_na=False)
    if missing := [name for name in ("uid", "step", *ASKED) if name not in table]:
        raise ValueError(f"{sheet} has no columns {missing}; expected those of the sheet that export_review wrote")
    rows = []
    for line, row in enumerate(table.to_dict("records"), 2):
        uid, number = row["uid"].removeprefix("'"), row["step"]
        if not number.isdigit() or (uid, int(number)) not in stated:
            raise ValueError(f"{sheet}, line {line}: no step {number!r} of {uid!r}; expected a step of the items")
        try:
            label = find_function(row[ASKED[0]]).name if row[ASKED[0]].strip() else None
        except ValueError as error:
            raise ValueError(f"{sheet}, line {line}: {error}") from None
        right = row[ASKED[1]].strip().lower()
        if right not in ("", "yes", "no"):
            raise ValueError(f"{sheet}, line {line}: {ASKED[1]} is {right!r}; expected yes, no or nothing")
        rows.append({"uid": uid, "step": int(number), "label": label, "right": {"yes": True, "no": False}.get(right)})
    return pd.DataFrame(rows, columns=["uid", "step", "label", "right"])


def _decide(own: pd.DataFrame, function: str) -> dict:
    """What the reviewers of one step say together."""
    labels, rights = own["label"].dropna(), own["right"].dropna()
    found = {"agreed_function": function, "function_share": np.nan, "answer_share": np.nan, "reviewers": len(labels)}
    if labels.empty or rights.empty:
        return found | {"verdict": "rejected", "reason": "not reviewed"}
    counts = labels.value_counts()
    found |= {"function_share": counts.iloc[0] / len(labels), "answer_share": rights.astype(bool).mean()}
    if found["function_share"] < AGREED:
        return found | {"verdict": "rejected", "reason": "no function has enough votes"}
    if found["answer_share"] < AGREED:
        return found | {"verdict": "rejected", "reason": "the answer is not found right"}
    agreed = counts.index[0]
    verdict = "kept" if agreed == function else "relabelled"
    return found | {"agreed_function": agreed, "verdict": verdict, "reason": ""}


def _agreement(filled: pd.DataFrame, n_reviewers: int) -> pd.DataFrame:
    """Fleiss' kappa over the steps that all reviewers labelled: of all labels, and of each against the others."""
    from statsmodels.stats.inter_rater import fleiss_kappa

    labelled = filled.dropna(subset="label")
    counts = pd.crosstab([labelled["uid"], labelled["step"]], labelled["label"]).reindex(columns=NAMES, fill_value=0)
    counts = counts[counts.sum(axis=1) == n_reviewers].to_numpy()
    rows = [{"label": "all", "kappa": _kappa(fleiss_kappa, counts), "n": len(counts)}]
    for number, name in enumerate(NAMES):
        own = counts[:, number]
        kappa = _kappa(fleiss_kappa, np.stack([own, n_reviewers - own], axis=1))
        rows.append({"label": name, "kappa": kappa, "n": int((own > 0).sum())})
    return pd.DataFrame(rows)


def _kappa(fleiss_kappa, counts: np.ndarray) -> float:
    """NaN where one reviewer, no step or a single label leaves nothing to agree on."""
    if len(counts) == 0 or counts[0].sum() < 2 or (counts.sum(axis=0) > 0).sum() < 2:
        return np.nan
    return float(fleiss_kappa(counts))


def _page(items: Sequence[Item], folder: Path) -> str:
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Review</title><style>{STYLE}</style>',
             "<h1>Steps to look over</h1><p>Fill in a copy of <code>review.csv</code>. Functions:</p><ul>",
             *(f"<li>{html.escape(name)}</li>" for name in NAMES), "</ul>"]  # fmt: skip
    for number, item in enumerate(items):
        uid, question, answer = (html.escape(text) for text in (item.uid, item.question, item.answer))
        parts.append(f"<h2>{uid}</h2><p>{question} <b>{answer}</b></p>")
        if item.image is not None:
            open_image(item).save(folder / "pictures" / f"{number}.png")
            parts.append(f'<img src="pictures/{number}.png" alt="the picture of {uid}">')
        rows = "".join(
            f"<tr><td>{i}</td><td>{html.escape(s.question)}</td><td>{html.escape(s.answer)}</td>"
            f"<td>{html.escape(s.function)}</td></tr>"
            for i, s in enumerate(item.steps)
        )
        parts.append(f"<table><tr><th>step</th><th>question</th><th>answer</th><th>function</th></tr>{rows}</table>")
    return "\n".join(parts) + "</html>\n"
