"""The pages of the book that compute: what each of them needs.

PAGES                     name of a notebook -> Page
page_results(name, ...)   the results that a page shows, each with its experiment
page_options(name, ...)   its parameters on a command line
"""

import shlex
from dataclasses import dataclass, replace

from cogvsr_utils.dataset.splits import CROSSED, SELECTION, TEST, TUNING
from cogvsr_utils.models.weights import nano_names, planted_names
from cogvsr_utils.pipeline import (
    ablation,
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
    selection,
    validation,
)
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.measured import MEASURED, is_measured
from cogvsr_utils.pipeline.plan import results_of
from cogvsr_utils.pipeline.store import Result
from cogvsr_utils.report import claims

MODEL = ("model", "quantize", "profile", "source")


@dataclass(frozen=True)
class Page:
    """A notebook: the ``results`` of the book's model that it makes; the ``heavy`` ones that it takes from measured
    tables where there are some; those on steps in ``crossed`` wording, on comparisons (``compared``), and with cues
    (``cued``); the same of every ``nano`` model, of the ``first`` of them and of every ``planted`` one; its parameters;
    and whether it measures time, so that nothing else may run."""

    results: tuple[Result, ...] = ()
    heavy: tuple[Result, ...] = ()
    crossed: tuple[Result, ...] = ()
    compared: tuple[Result, ...] = ()
    cued: tuple[Result, ...] = ()
    nano: tuple[Result, ...] = ()
    first: tuple[Result, ...] = ()
    planted: tuple[Result, ...] = ()
    parameters: tuple[str, ...] = MODEL
    timed: bool = False


PAGES = {
    "01_dataset": Page(
        first=tuple(baselines.text_gate[split] for split in (SELECTION, CROSSED[SELECTION])), parameters=("source",)
    ),
    "02_capture": Page((
        *(recordings.answers[split] for split in (SELECTION, TEST, "hard")), recordings.four_bit_answers,
        recordings.direct_answers, recordings.activations[SELECTION],
    )),
    "03_probing": Page(
        results=(selection.ridge_probes,),
        heavy=(
            baselines.probe_baselines, selection.wording_null, validation.probe_accuracy, validation.head_table,
            validation.null_curves, validation.stability, validation.ranking_agreement,
        ),
    ),
    "04_scarcity": Page(heavy=(
        validation.head_table, validation.sparseness, validation.spatial_differences, validation.refitted_spread,
        validation.thresholds, validation.overlaps, validation.detectable, validation.function_ranges,
    )),
    "05_interventions": Page(
        heavy=(
            ablation.ablation_matrix, ablation.matched_controls[selection.IMPORTANCE], ablation.without_strongest,
            *damage.COMPARED, damage.generated_and_forced, emphasis.scaled, emphasis.steered,
            emphasis.emphasis_controls, cameras.camera_accuracy, cameras.camera_emphasis, cameras.camera_gains,
            mistakes.output_edits,
            dissociation.double_dissociations, *replies.REPLIES,
        ),
    ),
    "10_doses": Page(heavy=doses.DOSES),
    "A2_validation": Page(
        results=(recordings.answers[TEST],),
        heavy=(
            validation.head_table, ablation.ablation_matrix, prediction.ranking_tests,
            prediction.ranking_quality, prediction.set_effects, validation.planted, validation.null_models,
            protocol.probe_deviations, protocol.ablation_deviations,
            *(result for result in claims.RESULTS if result in MEASURED),
        ),
        crossed=claims.CROSSED,
        cued=claims.CUED,
        nano=(prediction.ranking_tests,),
    ),
    "07_latent_heads": Page(cued=activation.LATENT),
    "A3_planted": Page(
        planted=(*planted.PLANTED, damage.specific_damage[damage.TRUTH]), parameters=("profile",)
    ),
    "06_families": Page(
        nano=(
            recordings.answers[TEST], validation.head_table, validation.sparseness, validation.spatial_differences,
            ablation.ablation_matrix,
        ),
        first=(
            validation.quantization, validation.refitted_spread, ablation.matched_controls[selection.IMPORTANCE],
            *damage.COMPARED, dissociation.double_dissociations, doses.dose_trends, doses.side_effects,
            doses.set_side_effects, protocol.ablation_deviations, emphasis.scaled, emphasis.steered,
            cameras.camera_gains, cues.cue_effects, latent.latent_heads, activation.latent_activation,
        ),
        parameters=("profile",),
    ),
    "09_wording": Page(
        crossed=(
            *(baselines.text_gate[split] for split in (SELECTION, CROSSED[SELECTION])), recordings.answers[TEST],
            recordings.answers[CROSSED[TEST]], baselines.crossed_baselines, *crossed.WORDING, crossed.pair_probes,
        ),
        compared=comparisons.COMPARISONS,
    ),
    "08_benchmarks": Page(heavy=(benchmarks.lookalike_effects,)),
    "A1_speed": Page((recordings.answers[TUNING],), timed=True),
}  # fmt: skip


def page_results(name: str, experiment: Experiment) -> list[tuple[Result, Experiment]]:
    """The results that a page makes or reads, each with its experiment; measured tables need none."""
    page = PAGES[name]
    possible = set(results_of(experiment))
    found = [(result, experiment) for result in page.results if result.name in possible]
    heavy = [result for result in page.heavy if result.name in possible]
    found += [(result, experiment) for result in heavy if not is_measured(experiment, result)]
    elsewhere = (
        (page.crossed, crossed.with_crossed), (page.compared, comparisons.with_comparisons),
        (page.cued, cues.with_cues),
    )  # fmt: skip
    for results, on_data in elsewhere:
        each = on_data(experiment)
        found += [(result, each) for result in results if not is_measured(each, result)]
    wanted = [(name, page.nano + (page.first if name == nano_names()[0] else ())) for name in nano_names()]
    wanted += [(name, page.planted) for name in planted_names()]
    for name, results in wanted:
        shipped = replace(experiment, model=name, quantize=None, source="synth", _cache={})
        found += [(result, shipped) for result in results if not is_measured(shipped, result)]
    return found


def page_options(name: str, experiment: Experiment) -> str:
    """The parameters of a page as options of ``python -m cogvsr_utils.report.runner``."""
    values = {key: getattr(experiment, key) or "" for key in PAGES[name].parameters}
    return " ".join("-p " + shlex.quote(f"{key}={value}") for key, value in values.items())
