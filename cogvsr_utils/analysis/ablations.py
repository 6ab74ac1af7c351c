"""What ablating single heads does to steps.

HeadAblations    correctness and log-probability of every step with each head ablated
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HeadAblations:
    """Teacher-forced scores of steps, intact and with each head ablated alone.

    ``correct`` and ``log_prob`` (1 + heads, steps), the first row intact; ``function`` and ``group`` (steps,).
    """

    correct: np.ndarray
    log_prob: np.ndarray
    function: np.ndarray
    group: np.ndarray

    @property
    def delta_correct(self) -> np.ndarray:
        """Change of correctness (heads, steps): -1, 0 or 1."""
        return self.correct[1:].astype(float) - self.correct[0]

    @property
    def delta_log_prob(self) -> np.ndarray:
        """Change of the right answer's log-probability (heads, steps); below 0 where ablation hurts."""
        return self.log_prob[1:] - self.log_prob[0]

    def rows(self, steps: np.ndarray) -> HeadAblations:
        """The same of some steps."""
        return HeadAblations(self.correct[:, steps], self.log_prob[:, steps], self.function[steps], self.group[steps])

    def mean_delta_log_prob(self, functions: Sequence[str]) -> np.ndarray:
        """Mean change of the right answer's log-probability by function: (functions, heads), NaN for one without
        steps."""
        return self._means(self.delta_log_prob, functions)

    def mean_delta_correct(self, functions: Sequence[str]) -> np.ndarray:
        """Change of accuracy by function: (functions, heads), in [-1, 1], NaN for one without steps."""
        return self._means(self.delta_correct, functions)

    def _means(self, values: np.ndarray, functions: Sequence[str]) -> np.ndarray:
        out = np.full((len(functions), len(values)), np.nan)
        for f, name in enumerate(functions):
            own = self.function == name
            if own.any():
                out[f] = values[:, own].mean(1)
        return out
