"""Which function does a head serve? Probes of captured activations.

    FunctionProbe        the paper's joint probe over all heads, with gradient x activation importance
    HeadProbes           every head on its own: ridge regression, grouped cross-validation, all heads at once

What they reach counts only above ``items.guess_functions``, which sees no activations.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class FunctionProbe:
    """The paper's joint probe: one multi-class network over all heads.

    Each head's slice, with its layer's mean beside it, goes through one shared linear map to 64 numbers; all heads'
    numbers go through 512 ReLU units with dropout 0.3 to the classes. Importance of a head for a class is the mean
    over items of that class of gradient x activation of its 64 numbers, on items that took no part in fitting.
    Source: arXiv 2603.20662 and, for what it leaves open, the code of arXiv 2512.10978.

    ``fit`` learns ``classes_``, ``loss_`` (per epoch); ``importance`` gives (classes, heads).
    """

    def __init__(self, epochs: int = 100, lr: float = 1e-3, batch_size: int = 128, seed: int = 0):
        self.epochs, self.lr, self.batch_size, self.seed = epochs, lr, batch_size, seed

    def fit(self, x: np.ndarray, y, layers: np.ndarray) -> FunctionProbe:
        """``x`` (steps, heads, head_dim) float; ``y`` (steps,) labels; ``layers`` (heads,) the layer of each head."""
        self.layers_ = torch.as_tensor(np.unique(layers, return_inverse=True)[1])
        self.classes_, code = np.unique(np.asarray(y), return_inverse=True)
        x = torch.as_tensor(np.asarray(x, dtype=np.float32))
        self.mean_, self.std_ = x.mean(0), x.std(0).clamp_min(1e-6)
        inputs, target = self._inputs(x), torch.as_tensor(code)
        torch.manual_seed(self.seed)
        self.project_ = nn.Linear(2 * x.shape[2], 64)
        self.head_ = nn.Sequential(
            nn.Linear(64 * x.shape[1], 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, len(self.classes_))
        )
        parameters = [*self.project_.parameters(), *self.head_.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=self.lr)
        generator = torch.Generator().manual_seed(self.seed)
        self.loss_ = []
        self.head_.train()
        for _ in range(self.epochs):
            losses = []
            for rows in torch.randperm(len(x), generator=generator).split(self.batch_size):
                loss = F.cross_entropy(self.head_(self.project_(inputs[rows]).flatten(1)), target[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            self.loss_.append(float(np.mean(losses)))
        self.head_.eval()
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Labels (steps,) of activations (steps, heads, head_dim)."""
        with torch.no_grad():
            scores = self.head_(self._codes(x).flatten(1))
        return self.classes_[scores.argmax(1).numpy()]

    def score(self, x: np.ndarray, y) -> float:
        """Accuracy in [0, 1]."""
        return float((self.predict(x) == np.asarray(y)).mean())

    def importance(self, x: np.ndarray, y) -> np.ndarray:
        """Gradient x activation of each head for each class, (classes, heads), signed, over held-out items."""
        each, y = self.importance_by_item(x, y), np.asarray(y)
        return np.stack([each[y == name].mean(0) for name in self.classes_])

    def importance_by_item(self, x: np.ndarray, y) -> np.ndarray:
        """Gradient of the true class's score x activation, mean over a head's 64 numbers: (steps, heads)."""
        codes = self._codes(x).detach().requires_grad_()
        truth = torch.as_tensor(np.searchsorted(self.classes_, np.asarray(y)))
        scores = self.head_(codes.flatten(1))
        scores.gather(1, truth[:, None]).sum().backward()
        return (codes.grad * codes.detach()).mean(2).numpy()

    def _inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Standardised slices beside their layer's mean: (steps, heads, 2 * head_dim)."""
        x = (x - self.mean_) / self.std_
        n_layers = int(self.layers_.max()) + 1
        sums = torch.zeros(len(x), n_layers, x.shape[2]).index_add_(1, self.layers_, x)
        means = sums / torch.bincount(self.layers_)[:, None]
        return torch.cat([x, means[:, self.layers_]], dim=2)

    def _codes(self, x: np.ndarray) -> torch.Tensor:
        return self.project_(self._inputs(torch.as_tensor(np.asarray(x, dtype=np.float32))))


class HeadProbes:
    """One ridge classifier a head, for all heads and classes at once, scored by grouped cross-validation.

    The targets are one column a class (+1 or -1, centred); a head's answer is the class with the highest score.
    ``fit`` learns ``classes_``, ``accuracy_`` and ``balanced_accuracy_`` (heads,), ``auroc_`` (heads, classes).
    """

    def __init__(self, ridge: float = 10.0, n_splits: int = 5, seed: int = 0):
        self.ridge, self.n_splits, self.seed = ridge, n_splits, seed

    def fit(self, x: np.ndarray, y, groups) -> HeadProbes:
        """``x`` (steps, heads, head_dim); ``y`` (steps,) labels; ``groups`` (steps,) kept together in a fold."""
        self.classes_, code = np.unique(np.asarray(y), return_inverse=True)
        smoothers = self._smoothers(x, code, groups)
        scores = self._scores(smoothers, code)
        guess = scores.argmax(2)
        right = guess == code[:, None]
        self.accuracy_ = right.mean(0)
        self.balanced_accuracy_ = np.mean([right[code == c].mean(0) for c in range(len(self.classes_))], axis=0)
        self.auroc_ = np.stack([_auroc(scores[:, :, c], code == c) for c in range(len(self.classes_))], axis=1)
        return self

    def permuted(self, x, y, groups, strata, n: int = 200) -> np.ndarray:
        """AUROC (permutations, heads, classes) when labels are shuffled within ``strata`` (say, the step index)."""
        classes, code = np.unique(np.asarray(y), return_inverse=True)
        smoothers = self._smoothers(x, code, groups)
        rng = np.random.default_rng(self.seed)
        _, stratum = np.unique(np.asarray(strata), return_inverse=True)
        out = np.empty((n, x.shape[1], len(classes)), dtype=np.float32)
        for i in range(n):
            order = np.lexsort((rng.random(len(code)), stratum))
            shuffled = np.empty_like(code)
            shuffled[np.argsort(stratum, kind="stable")] = code[order]
            scores = self._scores(smoothers, shuffled)
            for c in range(len(classes)):
                out[i, :, c] = _auroc(scores[:, :, c], shuffled == c)
        return out

    def _smoothers(self, x, code, groups):
        """For each fold: test rows, train rows and the maps (heads, test, train) from training targets to scores.

        They do not depend on the targets, so a permutation costs one product.
        """
        from sklearn.model_selection import StratifiedGroupKFold

        folds = StratifiedGroupKFold(self.n_splits, shuffle=True, random_state=self.seed)
        out = []
        for train, test in folds.split(code, code, np.asarray(groups)):
            a = torch.as_tensor(np.asarray(x[train], dtype=np.float32)).transpose(0, 1)
            b = torch.as_tensor(np.asarray(x[test], dtype=np.float32)).transpose(0, 1)
            mean, std = a.mean(1, keepdim=True), a.std(1, keepdim=True).clamp_min(1e-6)
            a, b = (a - mean) / std, (b - mean) / std
            gram = a.mT @ a + self.ridge * torch.eye(a.shape[2])
            out.append((test, train, a, torch.linalg.solve(gram, b.mT).mT))
        return out

    def _scores(self, smoothers, code) -> np.ndarray:
        """Held-out scores (steps, heads, classes)."""
        n_classes = int(code.max()) + 1
        target = torch.as_tensor(np.eye(n_classes, dtype=np.float32)[code] * 2 - 1)
        out = None
        for test, train, a, map_ in smoothers:
            offset = target[train].mean(0)
            scores = map_ @ (a.mT @ (target[train] - offset)) + offset
            if out is None:
                out = np.empty((len(code), scores.shape[0], n_classes), dtype=np.float32)
            out[test] = scores.transpose(0, 1).numpy()
        return out


def _auroc(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each column of ``scores`` (steps, heads), by ranks (Mann-Whitney U)."""
    from scipy.stats import rankdata

    n_positive = int(positive.sum())
    if n_positive in (0, len(positive)):
        return np.full(scores.shape[1], np.nan)
    ranks = rankdata(scores, axis=0)
    u = ranks[positive].sum(0) - n_positive * (n_positive + 1) / 2
    return u / (n_positive * (len(positive) - n_positive))
