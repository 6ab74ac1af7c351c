"""A probe of every head alone: which function does a step have, read from one head?

HeadProbes          ridge regression, grouped cross-validation, all heads and functions at once
binary_accuracy     CogVision's protocol: one function against as many steps of others

Axes are always (functions, heads). What they reach counts only above their baselines, above all above the text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike

from cogvsr_utils.dataset.splits import FOLDS

CHUNK = 64  # heads that are worked on at once, so that memory does not grow with the model
TOGETHER = 16  # permutations that share a product


class HeadProbes:
    """One ridge classifier a head, for all heads and functions at once, scored by grouped cross-validation.

    The target of a function is 1 for its steps and 0 for others, less ``offset``: what is known already, such as the
    function that a text model predicts; without one, the function's share. A head's prediction is the function whose
    offset and score add up highest, so with the text's prediction the target is where that is wrong, and the score
    what the head adds to it.

    ``fit`` learns ``classes_``, the functions in sorted order; ``accuracy_`` and ``balanced_accuracy_`` (heads,);
    ``auroc_`` (functions, heads) of offset and score together; ``target_`` (steps, functions); ``strength_``
    (functions, heads), the correlation of held-out scores with the target; ``scores_`` (steps, functions, heads), those
    scores.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(60, 4, 3)), np.tile(["Math Reasoning", "Knowledge Recall"], 30)
    >>> HeadProbes().fit(x, y, np.arange(60)).strength_.shape
    (2, 4)
    """

    def __init__(self, ridge: float = 10.0, n_splits: int = FOLDS, seed: int = 0, device: str = "cpu"):
        self.ridge, self.n_splits, self.seed, self.device = ridge, n_splits, seed, device

    def fit(self, x: np.ndarray, y: ArrayLike, groups: ArrayLike, offset: np.ndarray | None = None) -> HeadProbes:
        """``x`` (steps, heads, head_dim); ``y`` (steps,) functions; ``groups`` (steps,) kept together in a fold;
        ``offset`` (steps, functions) in [0, 1]. Raises ValueError for other shapes, numbers that are not finite, a
        single function and fewer groups than folds."""
        check_probe_data(x, y, groups, self.n_splits)
        order, folds, code, known, target = self._prepare(y, groups, offset)
        n_functions, n_heads = len(self.classes_), x.shape[1]
        right = np.empty((len(code), n_heads), dtype=bool)
        self.auroc_, self.strength_ = np.empty((2, n_functions, n_heads))
        self.scores_ = np.empty((len(code), n_functions, n_heads), dtype=np.float32)
        self.target_ = np.empty((len(code), n_functions), dtype=np.float32)
        self.target_[order] = target.cpu()
        for heads, solve in self._chunks(x, order, folds):
            scores = solve(target)  # (heads, steps, functions)
            self.strength_[:, heads] = _correlation(scores, target).T.cpu()
            self.scores_[order, :, heads] = scores.permute(1, 2, 0).cpu()
            scores += known
            right[:, heads] = (scores.argmax(2) == code).T.cpu()
            for f in range(n_functions):
                self.auroc_[f, heads] = _aurocs(scores[:, :, f].cpu(), (code == f).cpu())
        code = code.cpu().numpy()
        self.accuracy_ = right.mean(0)
        self.balanced_accuracy_ = np.mean([right[code == f].mean(0) for f in range(n_functions)], axis=0)
        return self

    def permuted(
        self,
        x: np.ndarray,
        y: ArrayLike,
        groups: ArrayLike,
        strata: ArrayLike,
        n: int = 200,
        offset: np.ndarray | None = None,
    ) -> np.ndarray:
        """``strength_`` (n, functions, heads) with targets shuffled within ``strata`` (steps,), such as the step index.

        With an offset these are residuals, shuffled as by Freedman and Lane (J. Business & Economic Statistics, 1983).
        """
        order, folds, code, _, target = self._prepare(y, groups, offset)
        rng = np.random.default_rng(self.seed)
        stratum = np.unique(np.asarray(strata), return_inverse=True)[1][order]
        place = np.argsort(stratum, kind="stable")
        shuffled = np.empty((n, len(code)), dtype=int)
        for row in shuffled:
            row[place] = np.lexsort((rng.random(len(code)), stratum))
        n_functions = len(self.classes_)
        out = np.empty((n, n_functions, x.shape[1]), dtype=np.float32)
        for heads, solve in self._chunks(x, order, folds):
            for first in range(0, n, TOGETHER):
                rows = torch.as_tensor(shuffled[first : first + TOGETHER], device=self.device)
                targets = target[rows].permute(1, 0, 2).flatten(1)  # (steps, permutations * functions)
                strength = _correlation(solve(targets), targets).unflatten(1, (-1, n_functions))
                out[first : first + TOGETHER, :, heads] = strength.permute(1, 2, 0).cpu()
        return out

    def bootstrap(self, groups: ArrayLike, n: int = 100) -> np.ndarray:
        """``strength_`` (n, functions, heads) with whole groups resampled; the held-out scores stay."""
        _, code = np.unique(np.asarray(groups), return_inverse=True)
        rng, out = np.random.default_rng(self.seed), np.empty((n, *self.strength_.shape), dtype=np.float32)
        n_groups, scores = code.max() + 1, np.ascontiguousarray(self.scores_.transpose(2, 0, 1))
        for number in range(n):
            drawn = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
            rows = np.repeat(np.arange(len(code)), drawn[code])
            resampled = torch.from_numpy(scores[:, rows]), torch.from_numpy(self.target_[rows])
            out[number] = _correlation(*resampled).T
        return out

    def _prepare(self, y, groups, offset):
        """Rows in the order of their folds, the folds' bounds, and labels, offset and targets in that order."""
        from sklearn.model_selection import GroupKFold

        self.classes_, code = np.unique(np.asarray(y), return_inverse=True)
        # Folds that do not depend on labels, or shuffled labels would not be on a par with the true ones.
        splitter = GroupKFold(self.n_splits, shuffle=True, random_state=self.seed)
        tests = [test for _, test in splitter.split(code, code, np.asarray(groups))]
        order, bounds = np.concatenate(tests), np.cumsum([0, *map(len, tests)])
        expected = (len(code), len(self.classes_))
        if offset is not None and (np.shape(offset) != expected or not np.isfinite(offset).all()):
            raise ValueError(f"offset has shape {np.shape(offset)}; expected finite numbers {expected}")
        hot = np.eye(len(self.classes_), dtype=np.float32)[code[order]]
        known = np.broadcast_to(hot.mean(0), hot.shape) if offset is None else np.asarray(offset, np.float32)[order]
        hot, known, code = (torch.tensor(part, device=self.device) for part in (hot, known, code[order]))
        return order, list(pairwise(bounds)), code, known, hot - known

    def _chunks(self, x, order, folds) -> Iterator[tuple[slice, Callable]]:
        """For some heads at a time: which, and the map from targets (steps, k) to held-out scores (heads, steps, k).

        Gram matrices are summed over folds, so each row is multiplied once, and the ridge is in units of each column's
        variance, as if it were standardised. Nothing here depends on targets, so a permutation costs two products.
        """
        for first in range(0, x.shape[1], CHUNK):
            heads = slice(first, first + CHUNK)
            a = torch.as_tensor(np.asarray(x[:, heads])[order], device=self.device).float()
            a = (a - a.mean(0)).transpose(0, 1).contiguous()  # (heads, steps, head_dim)
            parts = [a[:, i:j] for i, j in folds]
            grams, sums = [p.mT @ p for p in parts], [p.sum(1) for p in parts]  # (heads, dim, dim), (heads, dim)
            gram, factors, means = sum(grams), [], []
            variance = gram.diagonal(dim1=1, dim2=2) / (len(order) - 1)
            penalty = torch.diag_embed(self.ridge * variance.clamp_min(1e-12))
            for (i, j), fold_gram, fold_sum in zip(folds, grams, sums, strict=True):
                n_train = len(order) - (j - i)
                means.append(-fold_sum / n_train)  # since the sum over all rows is 0
                spread = gram - fold_gram - n_train * means[-1][:, :, None] * means[-1][:, None]
                factors.append(torch.linalg.cholesky(spread + penalty))

            def solve(targets, a=a, parts=parts, factors=factors, means=means):
                products = [p.mT @ targets[i:j] for p, (i, j) in zip(parts, folds, strict=True)]  # (heads, dim, k)
                total, out = sum(products), torch.empty(*a.shape[:2], targets.shape[1], device=self.device)
                for (i, j), p, product, factor, mean in zip(folds, parts, products, factors, means, strict=True):
                    trained = targets.sum(0) - targets[i:j].sum(0)
                    weights = torch.cholesky_solve(total - product - mean[:, :, None] * trained, factor)
                    torch.baddbmm(-(mean[:, None] @ weights).expand(-1, j - i, -1), p, weights, out=out[:, i:j])
                return out

            yield heads, solve


def check_probe_data(x: np.ndarray, y: ArrayLike, groups: ArrayLike, least: int) -> None:
    """Raise ValueError where activations (steps, heads, head_dim), labels and groups (steps,) do not fit each other,
    are not finite, or have a single label or fewer than ``least`` groups."""
    shape, n = np.shape(x), len(np.asarray(y))
    if len(shape) != 3 or n != shape[0] or len(np.asarray(groups)) != n:
        raise ValueError(
            f"x has shape {shape}, y {n} and groups {len(np.asarray(groups))} rows; expected (steps, heads, head_dim) "
            "and one row of each a step"
        )
    if not np.isfinite(np.asarray(x)).all():
        raise ValueError("some activations are not finite; expected finite numbers")
    if len(np.unique(y)) < 2:
        raise ValueError(f"one label in {n} steps; expected at least two")
    if (n_groups := len(np.unique(groups))) < least:
        raise ValueError(f"{n_groups} groups; expected at least {least}, since folds are made of whole groups")


def binary_accuracy(x: np.ndarray, y: ArrayLike, groups: ArrayLike, seed: int = 0) -> np.ndarray:
    """CogVision's probe: each function against as many steps of other functions; accuracy (functions, heads), chance
    0.5.

    Functions are in sorted order. The protocol then takes the top tenth of the heads. Source: arXiv 2512.10300.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(60, 4, 3)), np.tile(["Knowledge Recall", "Math Reasoning"], 30)
    >>> x[y == "Math Reasoning", 2] += 10  # the third head tells the two apart
    >>> binary_accuracy(x, y, np.arange(60))[:, 2].tolist()
    [1.0, 1.0]
    """
    y, groups, rng = np.asarray(y), np.asarray(groups), np.random.default_rng(seed)
    rows_of_table = []
    for name in np.unique(y):
        positive, others = np.flatnonzero(y == name), np.flatnonzero(y != name)
        rows = np.sort(np.concatenate([positive, rng.choice(others, min(len(positive), len(others)), replace=False)]))
        rows_of_table.append(HeadProbes(seed=seed).fit(x[rows], y[rows] == name, groups[rows]).accuracy_)
    return np.stack(rows_of_table)


def _correlation(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Pearson's r of scores (heads, steps, k) with targets (steps, k): (heads, k); 0 where either is constant."""
    target = target - target.mean(0)
    product = (scores * target).sum(1)
    spread = (scores.square().sum(1) - scores.shape[1] * scores.mean(1).square()).clamp_min(0).sqrt()
    return product / (spread * target.norm(dim=0)).clamp_min(1e-6)


def _aurocs(scores: torch.Tensor, positive: torch.Tensor) -> np.ndarray:
    """Area under the ROC curve of each row of ``scores`` (heads, steps), by ranks (Mann-Whitney U)."""
    from scipy.stats import rankdata

    n_positive = int(positive.sum())
    if n_positive in (0, len(positive)):
        return np.full(len(scores), np.nan)
    values, place = scores.sort(dim=1)
    ranks = torch.empty_like(scores).scatter_(1, place, torch.arange(1.0, scores.shape[1] + 1).expand_as(scores))
    tied = (values[:, 1:] == values[:, :-1]).any(1)
    if tied.any():
        ranks[tied] = torch.as_tensor(rankdata(scores[tied], axis=1), dtype=ranks.dtype)
    u = ranks[:, positive].double().sum(1) - n_positive * (n_positive + 1) / 2
    return (u / (n_positive * (len(positive) - n_positive))).numpy()
