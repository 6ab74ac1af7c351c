"""Functional roles of attention heads in vision-language models: data, capture, probes, interventions.

Names are loaded on first use, so that ``import cogvsr_utils`` costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_HOME = {
    "Item": "items", "Step": "items", "load_items": "items", "audit_labels": "items",
    "FUNCTIONS": "functions",
    "load_vlm": "models", "HeadMap": "heads",
    "answer": "answering", "judge": "judging",
    "capture": "capture", "HeadActivations": "activations", "check_parity": "parity",
    "FunctionProbe": "probes", "HeadProbes": "probes", "binary_accuracy": "probes", "controls": "controls",
    "head_table": "heads_table", "top_heads": "heads_table", "scarcity": "scarcity",
    "intervene": "interventions", "mask": "interventions", "scale": "interventions", "steer": "interventions",
    "mean_ablate": "interventions", "random_heads": "interventions",
    "evaluate": "evaluation", "compare": "evaluation",
}  # fmt: skip
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'cogvsr_utils' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return [*globals(), *__all__]


class _Package(ModuleType):
    """``capture`` and ``scarcity`` name a module and its main function; here the function wins, whoever imports first."""

    def __setattr__(self, name, value):
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
