"""Answer, judge and tabulate in one call.

evaluate(vlm, items, edits=None)    accuracy by function with interval, n and unparsed
"""

from collections.abc import Sequence

import pandas as pd

from cogvsr_utils.analysis.accuracy import accuracy_table
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.dataset.scoring import check_scorer, judge
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.interventions import AnyEdit
from cogvsr_utils.models.vlm import VLM


def evaluate(
    vlm: VLM, items: list[Item], *, edits: AnyEdit | Sequence[AnyEdit] | None = None, scorer: str = "strict", **settings
) -> pd.DataFrame:
    """Answer items (with edits if given), judge them and tabulate; see ``accuracy_table``. ``settings`` go to
    ``answer``.

    >>> from cogvsr_utils import Item, Step, load_vlm
    >>> step = Step("What shape is a ball?", "sphere", "closed", None, "Knowledge Recall")
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [step])
    >>> evaluate(load_vlm("nano-internvl"), [item])["n"].tolist()
    [1, 1]
    """
    check_scorer(scorer)
    return accuracy_table(judge(answer(vlm, items, edits=edits, **settings), scorer))
