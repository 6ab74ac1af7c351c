"""Two processes answer as one does; what would leave answers out is an error."""

import subprocess
import sys

import pandas as pd
import pytest

from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.head_edits import mask
from cogvsr_utils.models.parallel import answer_in_parallel

SCRIPT = """
import sys
from accelerate import PartialState
from cogvsr_utils import answer, load_items, load_vlm, mask
from cogvsr_utils.models.parallel import answer_in_parallel

state = PartialState(cpu=True)
items = load_items(sys.argv[1])[: int(sys.argv[3])]
if len(sys.argv) > 4 and state.process_index == 1:
    raise OSError("this process dies")
vlm = load_vlm("nano-internvl", device="cpu")
table = answer_in_parallel(vlm, items, progress=False)
assert state.num_processes == 2 and list(dict.fromkeys(table["uid"])) == [item.uid for item in items]
table.to_parquet(f"{sys.argv[2]}/{state.process_index}.parquet")
edits = {item.uid: mask(vlm.heads.pairs[100:]) for item in items[:3]}
edited = answer_in_parallel(vlm, items[:6], edits=edits, progress=False)
edited.to_parquet(f"{sys.argv[2]}/edited-{state.process_index}.parquet")
"""


def launch(tmp_path, small_set, *arguments):
    (tmp_path / "mine.py").write_text(SCRIPT)
    # accelerate launch starts several processes on a CPU through MPI alone; torch's own launcher does it here.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "mine.py"), str(small_set), str(tmp_path), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_two_processes_answer_as_one_does(tmp_path, small_set, items, vlm):
    done = launch(tmp_path, small_set, len(items))
    assert done.returncode == 0, done.stderr[-2000:]
    edits = {item.uid: mask(vlm.heads.pairs[100:]) for item in items[:3]}
    for name, alone in (("", answer(vlm, items)), ("edited-", answer(vlm, items[:6], edits=edits))):
        alone = pd.concat([alone[alone["uid"] == item.uid] for item in items], ignore_index=True)
        for number in range(2):
            table = pd.read_parquet(tmp_path / f"{name}{number}.parquet")
            pd.testing.assert_frame_equal(table[["uid", "step", "prediction"]], alone[["uid", "step", "prediction"]])


def test_a_process_that_fails_stops_all(tmp_path, small_set):
    done = launch(tmp_path, small_set, 4, "fail")
    assert done.returncode != 0 and "this process dies" in done.stderr
    assert not list(tmp_path.glob("*.parquet"))


def test_alone_it_is_answer(vlm, items):
    found = answer_in_parallel(vlm, items[:3], progress=False)
    assert found["uid"].drop_duplicates().tolist() == [item.uid for item in items[:3]]
    with pytest.raises(ValueError, match="more than once"):
        answer_in_parallel(vlm, [items[0], items[1], items[0]], progress=False)
    with pytest.raises(ValueError, match="several processes would write one file"):
        answer_in_parallel(vlm, items[:3], resume="replies.json")
