"""All results by name, and the order in which they depend on each other.

RESULTS                    name -> Result
results_of(experiment)     the names of those that an experiment can have
rules(experiment, names)   what a scheduler needs of the named results and all that they need: one entry each
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cogvsr_utils.models.weights import planted_names
from cogvsr_utils.pipeline import (  # noqa: F401
    activation,
    baselines,
    benchmarks,
    cameras,
    comparisons,
    crossed,
    cues,
    damage,
    dissociation,
    doses,
    emphasis,
    latent,
    mistakes,
    planted,
    prediction,
    protocol,
    recordings,
    replies,
    validation,
)
from cogvsr_utils.pipeline.experiment import ALL_SPLITS, Experiment
from cogvsr_utils.pipeline.store import DECLARED, Result

RESULTS = DECLARED  # filled by the modules imported above


@dataclass(frozen=True)
class Rule:
    """One result of one experiment: its name, the stamp that marks it whole, the stamps that it needs."""

    result: str
    experiment: Experiment
    output: Path
    inputs: tuple[Path, ...]
    gpu: bool

    @property
    def title(self) -> str:
        """The result and the experiment as one word."""
        return "__".join([self.result, *self.experiment.folder.parts[-3:]])


def results_of(experiment: Experiment) -> list[str]:
    """The names of all results that an experiment can have.

    Those that read a split which the data does not have are left out, in a quantized experiment those in 4-bit, those
    of planted heads where none are, and on data of one's own, which need not record where things are, those with cues
    or other cameras.
    """
    absent = set(ALL_SPLITS) - set(experiment.present_splits)
    known = {*planted.PLANTED, damage.set_ablations[damage.TRUTH], damage.specific_damage[damage.TRUTH]}
    left_out = set() if experiment.model in planted_names() else known
    four_bit = {recordings.four_bit_answers, recordings.four_bit_activations, validation.quantization}
    if cues.with_cues(experiment) != experiment:
        with_boxes = {module.__name__ for module in (cameras, cues, latent, activation)}
        left_out |= {each for each in RESULTS.values() if each.make.__module__ in with_boxes}
    return [
        name
        for name, result in RESULTS.items()
        if not absent & {split for each in (*result.all_needs(), result) for split in each.splits}
        and not (experiment.quantize and result in four_bit)
        and result not in left_out
    ]


def rules(experiment: Experiment, names: Iterable[str]) -> list[Rule]:
    """The named results and everything that they need, each once, needs first."""
    wanted: dict[str, Result] = {}
    for name in names:
        wanted |= {each.name: each for each in (*RESULTS[name].all_needs(), RESULTS[name])}
    return [
        Rule(
            each.name,
            experiment,
            each.stamp_path(experiment),
            tuple(need.stamp_path(experiment) for need in each.needs.values()),
            each.gpu,
        )
        for each in wanted.values()
    ]
