"""What ablation and steering do where published code has made them: on the output of the projection.

output_edits     a function's heads edited as heads, and the same numbers of slices of what their projection gives
"""

import pandas as pd

from cogvsr_utils.dataset.splits import SELECTION, TEST
from cogvsr_utils.functions import NAMES
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.pipeline.experiment import Experiment, n_top
from cogvsr_utils.pipeline.recordings import activations
from cogvsr_utils.pipeline.selection import IMPORTANCE, Rankings, top_heads_by
from cogvsr_utils.pipeline.store import result
from cogvsr_utils.pipeline.sweeps import scorer_of
from cogvsr_utils.stats import clustered_mean


@result(splits=(TEST,), needs={"activations": activations[SELECTION]}, gpu=True)
def output_edits(experiment: Experiment, rankings: Rankings, activations: HeadActivations) -> pd.DataFrame:
    """Each function's top heads by the paper's importance, ablated and moved along its mean difference from other
    functions, on C, teacher-forced: as heads, at the input of their output projection; and as slices of the output,
    which is cut into as many equal parts as there are heads. There head h is nowhere: the projection has mixed them.

    Columns: edit (ablate, steer), place (input, output), function, n, change of the log-probability of its own steps
    with low and high (95 % over scenes).
    """
    from cogvsr_utils.models.head_edits import mask, steer
    from cogvsr_utils.models.hooks import projection_hooks
    from cogvsr_utils.models.steering import mass_mean

    vlm, scorer = experiment.vlm, scorer_of(experiment, TEST, experiment.settings.ablation_items)
    sets = top_heads_by(rankings, IMPORTANCE, n_top(len(rankings.heads)))
    intact = scorer.score()
    function, groups, rows = scorer.index["function"].to_numpy(), scorer.index["group_id"].to_numpy(), []

    def add(edit, place, name, log_prob):
        own = function == name
        change, low, high = clustered_mean((log_prob - intact.log_prob)[own], groups[own])
        rows.append({"edit": edit, "place": place, "function": name, "n": int(own.sum()), "change": change,
                     "low": low, "high": high})  # fmt: skip

    for name in [name for name in NAMES if (function == name).any()]:
        heads = sets.of(name)
        vectors = mass_mean(activations, heads, (activations.index["function"] == name).to_numpy())
        edits = {"ablate": (mask(heads), None), "steer": (steer(heads, vectors, 1.0, "all"), vectors)}
        for edit, (given, shift) in edits.items():
            add(edit, "input", name, scorer.score(given).log_prob)
            with projection_hooks(vlm, output_slices(vlm.heads, heads, shift), after=True):
                add(edit, "output", name, scorer.score().log_prob)
    return pd.DataFrame(rows)


def output_slices(heads, chosen, shift=None):
    """What ``projection_hooks`` takes, after the projection: slice h of its output in the place of head h, made 0.001
    of itself, or moved by its vector of ``shift``, as far as the slice goes."""
    table = heads.table.set_index(["layer", "head"])
    places = [table.loc[head] for head in chosen]

    def hook_for(name, columns):
        inside = [(place, number) for number, place in enumerate(places) if place["module"] == name]

        def hook(module, args, output):
            output = output.clone()
            for place, number in inside:
                width = output.shape[-1] // place["n_heads"]
                first = (place["start"] - columns.start) // place["head_dim"] * width
                part = output[..., first : first + width]  # a view
                if shift is None:
                    part *= 0.001
                else:
                    part[..., : len(shift[number])] += output.new_tensor(shift[number][:width])
            return output

        return hook if inside else None

    return hook_for
