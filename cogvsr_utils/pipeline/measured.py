"""Tables of full runs, kept in the repository with a stamp of what made them.

MEASURED                      the results whose tables are kept
publish(experiment)           write those that are made from an experiment's results: data/measured/<model>/
runs(stamp)                   the runs that made a model's tables, and which each made
planted_models(...)           the models whose heads are known: shipped ones, and those whose tables alone are kept
measured_models()             the others of which there are tables
is_measured(...)              whether a table will be such a one
table(experiment, result)     the measured table where there is one and the profile is light, else the result itself
stamp(experiment)             what made a model's tables, and whether code, data or weights have changed since
renew(experiment, names, ...) take tables for made by the present code, which was shown to give the same
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cogvsr_utils.dataset.splits import CROSSED, SELECTION
from cogvsr_utils.files import replacing
from cogvsr_utils.models.weights import planted_names
from cogvsr_utils.paths import MEASURED as FOLDER
from cogvsr_utils.paths import NANO
from cogvsr_utils.pipeline import (
    ablation,
    activation,
    baselines,
    benchmarks,
    cameras,
    comparisons,
    crossed,
    damage,
    dissociation,
    doses,
    emphasis,
    mistakes,
    planted,
    prediction,
    protocol,
    replies,
    selection,
    validation,
)
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.plan import RESULTS
from cogvsr_utils.pipeline.store import Result

MEASURED: tuple[Result, ...] = (
    baselines.probe_baselines, selection.wording_null, validation.probe_accuracy, validation.head_table,
    validation.sparseness, validation.spatial_differences, validation.refitted_spread, validation.thresholds,
    validation.null_curves, validation.function_ranges, validation.stability, validation.ranking_agreement,
    validation.overlaps, validation.detectable, ablation.ablation_matrix,
    *(damage.specific_damage[way] for way in damage.WAYS), *doses.DOSES,
    protocol.probe_deviations, protocol.ablation_deviations,
    ablation.matched_controls[selection.IMPORTANCE],
    ablation.without_strongest, damage.generated_and_forced, mistakes.output_edits,
    emphasis.scaled, emphasis.steered, emphasis.emphasis_controls, cameras.camera_accuracy, cameras.camera_emphasis,
    cameras.camera_gains,
    prediction.ranking_quality, prediction.ranking_tests, prediction.set_effects, validation.planted,
    validation.null_models, validation.quantization, *planted.PLANTED, *activation.LATENT,
    *(baselines.text_gate[split] for split in (SELECTION, CROSSED[SELECTION])),
    baselines.crossed_baselines, *crossed.WORDING, *comparisons.COMPARISONS, benchmarks.lookalike_effects,
    dissociation.double_dissociations, *replies.REPLIES,
)  # fmt: skip
MISSING = "nan"  # in the files; an empty text is one


def publish(experiment: Experiment) -> Path:
    """Write the tables of those of ``MEASURED`` that are made, and their stamp; returns the folder. Of the tables that
    were there before, those that the present code would make from the same weights stay.

    Raises FileNotFoundError where none is made.
    """
    folder, made = _folder(experiment), [result for result in MEASURED if result.is_kept(experiment)]
    if not made:
        raise FileNotFoundError(f"no full results of {experiment.title}; expected some under {experiment.folder}")
    tables = {result: result(experiment) for result in made}  # all read before the older ones go
    made_on = experiment.made_on()  # before the tables change the working tree
    keys, kept = {result.name: result.key(experiment) for result in made}, {}
    if (folder / "stamp.json").is_file():
        before = stamp(experiment)
        same = before["weights"] == experiment.weights_digest and before["profile"] == made_on["profile"]
        stay = [name for name in before["keys"] if same and name not in before["changed"] and name not in keys]
        earlier = [{key: run[key] for key in made_on} | {"tables": names} for run, names in runs(before)]
        keys |= {name: before["keys"][name] for name in stay}
        kept = {"earlier": _of(stay, earlier), "unchanged": _of(stay, before.get("unchanged", []))}
    for older in folder.glob("*.csv"):
        if older.stem not in keys:
            older.unlink()
    for result, values in tables.items():
        with replacing(folder / f"{result.name}.csv") as partial:
            values.to_csv(partial, index=False, float_format="%.6g", na_rep=MISSING)
    if experiment.model in planted_names():
        shutil.copy(NANO / experiment.model / "planted.json", folder)
    written = {**made_on, "weights": experiment.weights_digest, "keys": keys} | {k: v for k, v in kept.items() if v}
    with replacing(folder / "stamp.json") as partial:
        partial.write_text(json.dumps(written, indent=1) + "\n")
    return folder


def runs(made: dict) -> list[tuple[dict, list[str]]]:
    """The runs that made the tables of a stamp, the last one first, each with what it made: ``earlier`` has those whose
    tables are still as they would be made now."""
    before = [(run, run["tables"]) for run in made.get("earlier", ())]
    of_them = {name for _, names in before for name in names}
    return [(made, [name for name in made["keys"] if name not in of_them]), *before]


def _of(names: Sequence[str], entries: list[dict]) -> list[dict]:
    """Entries of a stamp about the named tables alone."""
    some = [entry | {"tables": [name for name in entry["tables"] if name in names]} for entry in entries]
    return [entry for entry in some if entry["tables"]]


def planted_models(profile: str, source: str) -> list[str]:
    """Names of the models whose heads are known: the shipped ones, and where measured tables are shown (profile light,
    CogVSR-Synth) also those of which only the tables are in the repository."""
    shown = profile == "light" and source == "synth"
    kept = {path.parent.name for path in FOLDER.glob("*/planted.json")} if shown else set()
    return sorted(kept | set(planted_names()))


def measured_models() -> list[str]:
    """Names of the models of which measured tables are kept, but for those whose heads are known and the one that was
    taught comparisons."""
    folders = {path.parent for path in FOLDER.glob("*/stamp.json")}
    names = {folder.name for folder in folders if not (folder / "planted.json").is_file()}
    return sorted(names - {comparisons.TAUGHT})


def is_measured(experiment: Experiment, result: Result) -> bool:
    """Whether ``table`` will show a measured table."""
    measurable = experiment.profile == "light" and experiment.source == "synth" and result in MEASURED
    return measurable and (_folder(experiment) / f"{result.name}.csv").is_file()


def table(experiment: Experiment, result: Result) -> pd.DataFrame:
    """The measured table of a result where there is one and the profile is light, else the result itself."""
    if is_measured(experiment, result):
        return pd.read_csv(_folder(experiment) / f"{result.name}.csv", keep_default_na=False, na_values=[MISSING])
    return result(experiment)


def stamp(experiment: Experiment) -> dict:
    """What made a model's measured tables; ``changed`` names those whose code, data or weights have changed since (code
    and data where the weights are not in the repository).

    Raises FileNotFoundError where there are none.
    """
    path = _folder(experiment) / "stamp.json"
    if not path.is_file():
        raise FileNotFoundError(f"no measured tables of {experiment.title}; expected {path}, which `publish` writes")
    made = json.loads(path.read_text())
    full = _full(experiment, made)
    changed = [n for n, key in made["keys"].items() if n not in RESULTS or RESULTS[n].key(full) != key]
    return made | {"changed": changed}


def renew(experiment: Experiment, names: Sequence[str], evidence: dict) -> None:
    """Take tables for made by the present code, because it was shown to give what the code before gave: the stamp keeps
    the ``evidence`` beside what made them. Raises KeyError for a table that is not there."""
    path = _folder(experiment) / "stamp.json"
    made = json.loads(path.read_text())
    if absent := sorted(set(names) - set(made["keys"])):
        raise KeyError(f"no measured tables {absent} of {experiment.title}; there are {sorted(made['keys'])}")
    full = _full(experiment, made)
    made["keys"] |= {name: RESULTS[name].key(full) for name in names}
    made["unchanged"] = [
        *made.get("unchanged", []),
        {"commit": full.made_on()["commit"], **evidence, "tables": [*names]},
    ]
    with replacing(path) as partial:
        partial.write_text(json.dumps(made, indent=1) + "\n")


def _full(experiment: Experiment, made: dict) -> Experiment:
    """The experiment whose tables were measured, as their stamp has it."""
    full = Experiment(experiment.model, experiment.quantize, made["profile"], experiment.source)
    if not (NANO / experiment.model).is_dir() and FOLDER / experiment.model == _folder(experiment):
        full.cached("weights", lambda: made["weights"])  # the weights are not in the repository: taken as unchanged
    return full


def _folder(experiment: Experiment) -> Path:
    return FOLDER / experiment.folder.parts[-3]
