"""Results as tidy tables with intervals.

evaluate(vlm, items, edits=None)    answer, judge and tabulate: accuracy by function with interval, n, unparsed
accuracy_table(judged)              the same from replies already judged
compare(after, before)              paired differences by function, with interval, p and n
Rehearsal(vlm, items).run(edit)     all steps of an item in one teacher-forced pass, for many random controls
Rehearsal(vlm, items).means()       what every head holds in the mean, to put in its place
"""

from __future__ import annotations

import numpy as np
import torch

from .answering import answer
from .capture import read_heads
from .interventions import Edit, intervene
from .items import Item
from .judging import judge
from .positions import encode_chats
from .stats import paired, wilson
from .turns import looked_once


def evaluate(vlm, items: list[Item], *, edits=None, scorer: str = "strict", **settings):
    """Answer items (with edits if given) and tabulate; see ``accuracy_table``. ``settings`` go to ``answer``."""
    return accuracy_table(judge(answer(vlm, items, edits=edits, **settings), scorer))


def accuracy_table(judged, by: str = "function"):
    """Accuracy by function (or another column), the main question as a row of its own.

    Columns: the ``by`` column, n, n_unparsed, n_correct, accuracy, ci_low, ci_high (Wilson), chance (one in the
    number of options, where every answer has options) and majority (the commonest answer's share).
    """
    import pandas as pd

    rows = []
    for name, part in judged.groupby(by, sort=False):
        accuracy, low, high = wilson(part["correct"])
        sizes = [2 if t == "yesno" else len(o) if o is not None else np.nan
                 for t, o in zip(part["answer_type"], part["options"], strict=True)]  # fmt: skip
        rows.append({by: name, "n": len(part), "n_unparsed": int(part["parsed"].isna().sum()),
                     "n_correct": int(part["correct"].sum()), "accuracy": accuracy, "ci_low": low, "ci_high": high,
                     "chance": float(np.mean(1 / np.array(sizes))),
                     "majority": part["answer"].value_counts(normalize=True).iloc[0]})  # fmt: skip
    return pd.DataFrame(rows)


def compare(after, before, by: str = "function"):
    """Paired change of accuracy, clustered by group. Both tables are judged replies to the same questions.

    Columns: the ``by`` column, n, accuracy_before, accuracy_after, change, ci_low, ci_high, p. Raises ValueError where
    the two do not hold the same questions.
    """
    import pandas as pd

    both = before.merge(after[["uid", "step", "correct"]], on=["uid", "step"], suffixes=("_before", "_after"))
    if len(both) != len(before) or len(both) != len(after):
        raise ValueError(f"{len(before)} replies before, {len(after)} after, {len(both)} in common; expected the same")
    rows = []
    for name, part in both.groupby(by, sort=False):
        change, low, high, p = paired(part["correct_after"], part["correct_before"], part["group_id"])
        rows.append({by: name, "n": len(part), "accuracy_before": part["correct_before"].mean(),
                     "accuracy_after": part["correct_after"].mean(), "change": change, "ci_low": low, "ci_high": high,
                     "p": p})  # fmt: skip
    return pd.DataFrame(rows)


class Rehearsal:
    """Items with all their true answers in one chat each, tokenised once, to be scored under many edits.

    One pass scores all steps of an item, so a hundred random controls are affordable; headline rows are generated
    instead. ``index`` holds the steps (uid, group_id, step, function); ``batches`` the inputs, the places (row, token) of
    the answers' tokens and the number of the step that each token is of.
    """

    def __init__(self, vlm, items: list[Item], batch_size: int = 16):
        self.vlm, self.batches, rows = vlm, [], []
        items = sorted(items, key=lambda item: (len(item.steps), len(item.question)))  # so that little is padding
        for first in range(0, len(items), batch_size):
            some = items[first : first + batch_size]
            inputs, places = encode_chats(vlm, some, {item.uid: [step.answer for step in item.steps] for item in some})
            first_step = len(rows) + np.cumsum([0, *(len(item.steps) for item in some)])
            rows += [{"uid": item.uid, "group_id": item.group_id, "step": number, "function": step.function}
                     for item in some for number, step in enumerate(item.steps)]  # fmt: skip
            where = torch.tensor(places[:, :2], device=vlm.device).T
            self.batches.append((inputs, where, first_step[places[:, 0]] + places[:, 2]))
        import pandas as pd

        self.index, self.looked = pd.DataFrame(rows), [[] for _ in self.batches]

    @torch.inference_mode()
    def run(self, edits: Edit | list[Edit] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """For every row of ``index``, the earlier answers being the true ones: whether each token of the answer is the
        likeliest, boolean (steps,), and the natural logarithm of the answer's probability, (steps,)."""
        right, told = np.ones(len(self.index), dtype=bool), np.zeros(len(self.index))
        for (inputs, (row, token), owner), looked in zip(self.batches, self.looked, strict=True):
            with intervene(self.vlm, edits), looked_once(self.vlm, looked):
                logits = self.vlm.scores(inputs, row, token - 1)
            said = inputs["input_ids"][row, token]
            right[owner[(logits.argmax(1) != said).cpu().numpy()]] = False
            each = logits.log_softmax(1).gather(1, said[:, None])[:, 0]
            np.add.at(told, owner, each.double().cpu().numpy())
        return right, told

    @torch.inference_mode()
    def means(self) -> dict[str, np.ndarray]:
        """Mean of every head over the tokens of all items, by scope of an edit: ``all`` (width,), that of the text, and
        ``image`` (width,), that of the picture, where the model has tokens for it."""
        total, count = 0, 0
        for inputs, *_ in self.batches:
            real = inputs["attention_mask"].flatten().nonzero().flatten()
            kind = (inputs["input_ids"].flatten()[real] == (self.vlm.image_token_id or -1)).long()
            n = torch.bincount(kind, minlength=2)[:, None]
            total, count = total + n * read_heads(self.vlm, inputs, real, kind, 2), count + n
        text, image = (total / count.clamp(min=1)).cpu().numpy()
        return {"all": text, "image": image} if count[1] else {"all": text}
