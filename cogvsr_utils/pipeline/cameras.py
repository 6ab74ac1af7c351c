"""Steps that get harder by where the camera stands, and what emphasis does where spatial ones are half right.

camera_accuracy       accuracy by how far aside the camera stands: the same questions, the same answers
half_right(...)       the camera from which spatial steps are nearest to 60 % right
camera_emphasis       emphasis and its controls from there
"""

import pandas as pd

from cogvsr_utils.analysis.accuracy import compare
from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.dataset.splits import SELECTION, TEST, TUNING
from cogvsr_utils.dataset.synth.cameras import SHIFTS, from_aside
from cogvsr_utils.functions import SPATIAL
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.emphasis import beside_controls
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.recordings import activations
from cogvsr_utils.pipeline.selection import Rankings
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.stats import clustered_share

HALF_RIGHT = 0.6  # the middle of 50 to 70 %


@result(splits=(TUNING, TEST), gpu=True)
def camera_accuracy(experiment: Experiment) -> pd.DataFrame:
    """Steps and main questions of B and C as cameras further and further aside show their scenes.

    Columns: split, shift (board squares), function, n, accuracy with low and high (95 % over scenes), and the paired
    change from the camera in the middle with change_low, change_high and p.
    """
    from cogvsr_utils.models.answering import answer

    frames = []
    for split in (TUNING, TEST):
        seen = from_aside(experiment.items(split))
        replies = {shift: judge(answer(experiment.vlm, items)) for shift, items in seen.items()}
        for shift, judged in replies.items():
            changed = compare(judged, replies[SHIFTS[0]]).set_index("function")
            for function, part in judged.groupby("function"):
                accuracy, low, high = clustered_share(part["correct"].astype(float), part["group_id"], lowest=0)
                own = changed.loc[function]
                frames.append({
                    "split": split, "shift": shift, "function": function, "n": len(part),
                    "accuracy": accuracy, "low": low, "high": high, "change": own["change"],
                    "change_low": own["ci_low"], "change_high": own["ci_high"], "p": own["p"],
                })  # fmt: skip
    return pd.DataFrame(frames)


def half_right(accuracy: pd.DataFrame) -> float:
    """The shift at which steps of spatial perception on B are nearest to 60 % right, from ``camera_accuracy``."""
    tuning = accuracy[(accuracy["split"] == TUNING) & (accuracy["function"] == SPATIAL[0])]
    return float(tuning.set_index("shift")["accuracy"].sub(HALF_RIGHT).abs().idxmin())


@result(splits=(SELECTION, TUNING, TEST), needs={"activations": activations[SELECTION]}, gpu=True)
def camera_emphasis(
    experiment: Experiment,
    rankings: Rankings,
    activations: HeadActivations,
    scaled: pd.DataFrame,
    steered: pd.DataFrame,
    camera_accuracy: pd.DataFrame,
) -> pd.DataFrame:
    """Emphasis and its controls on C from the camera that ``half_right`` chooses on B; columns as in
    ``emphasis.emphasis_controls``."""
    from cogvsr_utils.models.answering import answer

    items = from_aside(experiment.items(TEST))[half_right(camera_accuracy)]
    before = judge(answer(experiment.vlm, items))
    return beside_controls(experiment, items, before, rankings, activations, scaled, steered)
