"""The same on several GPUs: one copy of the model a process, the items shared out among them.

answer_in_parallel(vlm, items)    what ``answer`` returns, in every process

Start it with ``accelerate launch --num_processes 4 mine.py``; alone it is ``answer``.
"""

from collections.abc import Mapping

import pandas as pd
from accelerate import PartialState
from accelerate.utils import gather_object

from cogvsr_utils.dataset.items import Item
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.chat import check_items
from cogvsr_utils.models.vlm import VLM


def answer_in_parallel(vlm: VLM, items: list[Item], **settings) -> pd.DataFrame:
    """``answer`` of items shared out among the processes that ``accelerate launch`` started, in the order of ``items``.

    Every process loads its own model, on its own device (``load_vlm(name, device=str(PartialState().device))``), gets
    the same ``items`` and returns the whole table. ``settings`` are those of ``answer`` but ``resume``; bars are shown
    by the first process alone. Raises RuntimeError where replies to some items are missing, ValueError for fewer items
    than processes and for ``resume``, BadChat as ``answer`` does; a process that fails stops all of them. The others
    wait for the last as long as the process group's timeout lets them (``InitProcessGroupKwargs``).

    >>> from cogvsr_utils import Item, load_vlm
    >>> item = Item("1", "mine", "1", "Is it red?", "yes", "yesno", [])
    >>> answer_in_parallel(load_vlm("nano-internvl", device="cpu"), [item], progress=False)["uid"].tolist()
    ['1']
    """
    state = PartialState()
    if "resume" in settings:
        raise ValueError("resume in parallel; expected none, since several processes would write one file")
    if len(items) < state.num_processes:
        raise ValueError(f"{len(items)} items for {state.num_processes} processes; expected one for each at least")
    check_items(vlm, items)  # what two processes may not see, such as an item given twice
    settings = {"progress": True} | settings
    settings["progress"] &= state.is_main_process
    own = items[state.process_index :: state.num_processes]  # in turns, so that long and short ones mix
    if isinstance(settings.get("edits"), Mapping):
        if absent := sorted(set(settings["edits"]) - {item.uid for item in items}):
            raise ValueError(f"edits of items {absent[:5]}, which are not asked; expected uids of the items")
        settings["edits"] = {item.uid: settings["edits"].get(item.uid) for item in own}
    replies = pd.concat(gather_object([answer(vlm, own, **settings)]), ignore_index=True)
    if missing := {item.uid for item in items} - set(replies["uid"]):
        raise RuntimeError(f"no replies to {len(missing)} items, such as {min(missing)!r}; expected some to all")
    place = {item.uid: number for number, item in enumerate(items)}
    return replies.sort_values("uid", key=lambda uid: uid.map(place), kind="stable", ignore_index=True)
