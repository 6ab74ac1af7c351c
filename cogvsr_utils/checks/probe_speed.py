"""Benchmarks of the probes of every head, on drawn activations of a 7B model's shape.

probe_benchmark()        probes of all heads at once, and a scikit-learn loop over heads
permutation_minutes()    the max-T test of all heads
"""

import time

import numpy as np
import pandas as pd

from cogvsr_utils.analysis.head_probes import HeadProbes
from cogvsr_utils.checks.speed import timed


def probe_benchmark(
    n_steps: int = 2000, n_heads: int = 1024, head_dim: int = 128, looped: int = 4, repeats: int = 5
) -> pd.DataFrame:
    """Cross-validated probes of every head: all at once, and scikit-learn's logistic regression, head by head.

    On drawn activations of a 7B model's shape with a signal of eight classes in every head. The loop runs on ``looped``
    heads only. Returns a DataFrame: method, heads, median, least and most seconds, ms_a_head, accuracy (mean over the
    looped heads).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, groups = _drawn(n_steps, n_heads, head_dim)
    folds = GroupKFold(5, shuffle=True, random_state=0)

    def at_once():
        return HeadProbes().fit(x, y, groups).accuracy_[:looped].mean()

    def head_by_head():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
        predictions = (
            cross_val_predict(model, x[:, head].astype(np.float32), y, groups=groups, cv=folds)
            for head in range(looped)
        )
        return np.mean([(predicted == y).mean() for predicted in predictions])

    rows = []
    for method, n, run in (
        ("all heads at once", n_heads, at_once),
        ("scikit-learn, head by head", looped, head_by_head),
    ):
        accuracies, seconds = zip(*(timed(run) for _ in range(repeats)), strict=True)
        rows.append({"method": method, "heads": n, "median": np.median(seconds), "least": min(seconds),
                     "most": max(seconds), "ms_a_head": 1e3 * np.median(seconds) / n,
                     "accuracy": accuracies[0]})  # fmt: skip
    return pd.DataFrame(rows)


def permutation_minutes() -> float:
    """CPU minutes of 1,000 permutations of the max-statistic over all heads and eight functions, at a 7B model's shape.

    A few are run at the full size; what the further ones took is scaled, what all share is counted once.
    """
    n_steps, few, more = 2000, 8, 24
    x, y, groups = _drawn(n_steps, n_heads=1024, head_dim=128)

    def minutes(n):
        start = time.process_time()
        HeadProbes().permuted(x, y, groups, np.zeros(n_steps), n).max(axis=(1, 2))
        return (time.process_time() - start) / 60

    least, most = minutes(few), minutes(more)
    return least + (1000 - few) * (most - least) / (more - few)


def _drawn(n_steps: int, n_heads: int, head_dim: int):
    """Activations (steps, heads, head_dim) float16 with a signal of eight classes in every head, labels, groups."""
    rng = np.random.default_rng(0)
    y, groups = rng.integers(8, size=n_steps), np.arange(n_steps) // 4
    x = rng.standard_normal((n_steps, n_heads, head_dim), dtype=np.float32).astype(np.float16)
    x[:, :, :8] += np.eye(8, dtype=np.float16)[y][:, None] * np.float16(1.5)
    return x, y, groups
