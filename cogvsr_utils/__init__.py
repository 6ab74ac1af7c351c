"""Functional roles of attention heads in vision-language models: data, capture, probes, interventions.

Names are loaded on first use, so that ``import cogvsr_utils`` costs nothing.
"""

from importlib import import_module

__version__ = "0.2.0"

_HOME = {
    "Item": "dataset.items", "Step": "dataset.items", "load_items": "dataset.loading", "judge": "dataset.scoring",
    "check_items": "dataset.jsonl", "write_items": "dataset.jsonl", "BadRow": "dataset.jsonl",
    "load_benchmark": "dataset.benchmarks.benchmark", "judge_official": "dataset.benchmarks.official",
    "judge_strict": "dataset.benchmarks.lettered",
    "Endpoint": "dataset.language_models", "LocalModel": "dataset.language_models",
    "estimate": "dataset.language_models",
    "judge_prompts": "dataset.llm_judge", "judge_with": "dataset.llm_judge", "judge_agreement": "dataset.llm_judge",
    "write_disagreements": "dataset.llm_judge", "spatial_score": "dataset.llm_judge",
    "sample_items": "dataset.decomposition", "decompose": "dataset.decomposition",
    "decompose_prompts": "dataset.decomposition",
    "export_review": "dataset.review", "import_review": "dataset.review", "apply_review": "dataset.review",
    "audit_labels": "dataset.audit", "FUNCTIONS": "functions",
    "load_vlm": "models.loading", "HeadMap": "models.head_map", "heads_of": "models.head_map",
    "answer": "models.answering",
    "forced_choice": "models.options", "attention_map": "models.attention",
    "capture": "models.recording", "estimate_capture": "models.recording", "HeadActivations": "models.activations",
    "TeacherForcedScorer": "models.scorer",
    "intervene": "models.interventions", "edit_from_json": "models.interventions",
    "Edit": "models.head_edits", "mask": "models.head_edits", "scale": "models.head_edits",
    "steer": "models.head_edits", "mean_ablate": "models.head_edits", "patch": "models.head_edits",
    "resample": "models.head_edits", "directions": "models.steering",
    "attend": "models.attention_edits", "attending": "models.edited_attention",
    "mass_mean": "models.steering", "probe_directions": "models.steering", "random_directions": "models.steering",
    "answer_in_parallel": "models.parallel", "side_effects": "models.collateral",
    "confidence": "models.options",
    "patch_heads": "models.patching", "path_attribution": "models.patching",
    "read_boxes": "dataset.cues", "boxes_asked_about": "dataset.cues", "drawn": "dataset.cues",
    "in_words": "dataset.cues", "misplaced": "dataset.cues", "on_other_things": "dataset.cues",
    "shuffled": "dataset.cues",
    "FunctionProbe": "analysis.joint_probe", "HeadProbes": "analysis.head_probes",
    "binary_accuracy": "analysis.head_probes", "head_table": "analysis.head_scores",
    "top_heads": "analysis.head_scores", "scarcity": "analysis.sparsity", "control_sets": "analysis.matching",
    "compare": "analysis.accuracy", "accuracy_table": "analysis.accuracy",
    "benchmark_scores": "analysis.benchmarks",
    "check_parity": "checks.parity",
    "score_method": "checks.known_heads", "score_heads": "checks.known_heads",
    "planted_truth": "checks.known_heads",
    "Experiment": "pipeline.experiment", "evaluate": "pipeline.evaluation",
}  # fmt: skip
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'cogvsr_utils' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return ["__version__", *__all__]
