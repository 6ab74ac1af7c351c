"""Which function does a head serve? Probes of captured activations.

    FunctionProbe        the paper's joint probe over all heads, with gradient x activation importance
    HeadProbes           every head on its own: ridge regression, grouped cross-validation, all heads at once
    binary_accuracy      CogVision's protocol: one function against as many steps of others

What they reach counts only above ``controls``, above all above what the text alone gives.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .items import split_groups

PROTOCOLS = ("paper", "strict")
PATIENCE = 10  # epochs without a better loss on held-out groups, before strict stops
CHUNK = 64  # heads that are worked on at once, so that memory does not grow with the model


class FunctionProbe:
    """The paper's joint probe: one multi-class network over all heads.

    Each head's slice, with its layer's mean beside it, goes through one shared linear map to 64 numbers; all heads'
    numbers go through 512 ReLU units with dropout 0.3 to the classes. Importance of a head for a class is the mean
    over items of that class of gradient x activation of its 64 numbers, on groups that took no part in fitting.
    ``protocol="paper"`` trains for all ``epochs``; ``"strict"`` stops early, by groups held out for that.
    Source: arXiv 2603.20662 and, for what it leaves open, the code of arXiv 2512.10978, which takes one step at a time at a
    rate of 1e-4; here batches of 128 at 1e-3 make that affordable.

    ``fit`` learns ``classes_``, ``read_`` (steps,) the rows held out for reading importance, ``loss_`` (seeds,) lists of
    the loss of each epoch, ``importance_`` (classes, heads), signed, mean over seeds, ``importance_by_seed_`` (seeds, classes,
    heads). Raises ValueError for an unknown protocol.
    """

    def __init__(
        self,
        protocol: str = "paper",
        n_seeds: int = 1,
        epochs: int = 100,
        lr: float = 1e-3,
        batch_size: int = 128,
        held_out: float = 0.4,
        seed: int = 0,
    ):
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {protocol!r}; expected one of {PROTOCOLS}")
        self.protocol, self.n_seeds, self.epochs, self.lr = protocol, n_seeds, epochs, lr
        self.batch_size, self.held_out, self.seed = batch_size, held_out, seed

    def fit(self, x: np.ndarray, y, groups, layers: np.ndarray) -> FunctionProbe:
        """``x`` (steps, heads, head_dim) float; ``y``, ``groups`` (steps,); ``layers`` (heads,) the layer of each head."""
        y, groups = np.asarray(y), np.asarray(groups)
        self.layers_ = torch.as_tensor(np.unique(layers, return_inverse=True)[1])
        self.classes_, code = np.unique(y, return_inverse=True)
        self.read_ = _drawn(groups, self.held_out, self.seed)
        fit = ~self.read_
        x = torch.as_tensor(np.asarray(x, dtype=np.float32))
        self.mean_, self.std_ = x[fit].mean(0), x[fit].std(0).clamp_min(1e-6)
        inputs, target = self._inputs(x), torch.as_tensor(code)
        stop = np.zeros(len(y), dtype=bool)
        if self.protocol == "strict":
            stop[fit] = _drawn(groups[fit], 0.2, self.seed + 1)
            fit &= ~stop
        rows = [torch.as_tensor(np.flatnonzero(part)) for part in (fit, stop)]
        self.networks_, self.loss_ = zip(
            *(self._train(inputs, target, *rows, self.seed + number) for number in range(self.n_seeds)), strict=True
        )
        by_seed = [self._by_item(network, x[self.read_], code[self.read_]) for network in self.networks_]
        read = code[self.read_]
        self.importance_by_seed_ = np.stack(
            [[each[read == c].mean(0) for c in range(len(self.classes_))] for each in by_seed]
        )
        self.importance_ = self.importance_by_seed_.mean(0)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Labels (steps,) of activations (steps, heads, head_dim), by the mean score of all seeds."""
        with torch.no_grad():
            inputs = self._inputs(torch.as_tensor(np.asarray(x, dtype=np.float32)))
            scores = sum(network(inputs) for network in self.networks_)
        return self.classes_[scores.argmax(1).numpy()]

    def score(self, x: np.ndarray, y) -> float:
        """Accuracy in [0, 1]."""
        return float((self.predict(x) == np.asarray(y)).mean())

    def importance_by_item(self, x: np.ndarray, y) -> np.ndarray:
        """Gradient of the true class's score x activation, mean over a head's 64 numbers: (seeds, steps, heads)."""
        code = np.searchsorted(self.classes_, np.asarray(y))
        return np.stack([self._by_item(network, x, code) for network in self.networks_])

    def _train(self, inputs, target, fit, stop, seed):
        """One network and its losses; ``stop`` are the rows that say when to stop, if any."""
        torch.manual_seed(seed)
        network = _Joint(inputs.shape[1], inputs.shape[2], len(self.classes_))
        optimizer = torch.optim.Adam(network.parameters(), lr=self.lr, fused=True)
        generator = torch.Generator().manual_seed(seed)
        losses, best, since = [], (np.inf, None), 0
        for _ in range(self.epochs):
            network.train()
            batches = fit[torch.randperm(len(fit), generator=generator)].split(self.batch_size)
            seen = []
            for rows in batches:
                loss = F.cross_entropy(network(inputs[rows]), target[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen.append(loss.item())
            losses.append(float(np.mean(seen)))
            network.eval()
            if len(stop):
                with torch.no_grad():
                    held = F.cross_entropy(network(inputs[stop]), target[stop]).item()
                best, since = ((held, copy.deepcopy(network)), 0) if held < best[0] else (best, since + 1)
                if since == PATIENCE:
                    break
        return best[1] or network, losses

    def _by_item(self, network, x, code) -> np.ndarray:
        inputs = self._inputs(torch.as_tensor(np.asarray(x, dtype=np.float32)))
        codes = network.project(inputs).detach().requires_grad_()
        scores = network.head(codes.flatten(1))
        scores.gather(1, torch.as_tensor(code)[:, None]).sum().backward()
        return (codes.grad * codes.detach()).mean(2).numpy()

    def _inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Standardised slices beside their layer's mean: (steps, heads, 2 * head_dim)."""
        x = (x - self.mean_) / self.std_
        n_layers = int(self.layers_.max()) + 1
        sums = torch.zeros(len(x), n_layers, x.shape[2]).index_add_(1, self.layers_, x)
        means = sums / torch.bincount(self.layers_)[:, None]
        return torch.cat([x, means[:, self.layers_]], dim=2)


class _Joint(nn.Module):
    def __init__(self, n_heads: int, width: int, n_classes: int):
        super().__init__()
        self.project = nn.Linear(width, 64)
        self.head = nn.Sequential(nn.Linear(64 * n_heads, 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, n_classes))

    def forward(self, inputs):
        return self.head(self.project(inputs).flatten(1))


class HeadProbes:
    """One ridge classifier a head, for all heads and classes at once, scored by grouped cross-validation.

    The target of a class is 1 for its steps and 0 for others, less ``offset``: what is known already, such as the class
    that the text alone tells; without one, the class's share. A head's answer is the class whose offset and score add up
    highest, so with the text's guess the target is where that guess is wrong, and the score what the head adds to it.

    ``fit`` learns ``classes_``, ``accuracy_`` and ``balanced_accuracy_`` (heads,), ``auroc_`` (heads, classes) of offset
    and score together, ``target_`` (steps, classes), ``strength_`` (heads, classes), the correlation of held-out scores with the target, and
    ``scores_`` (steps, heads, classes), those scores.
    """

    def __init__(self, ridge: float = 10.0, n_splits: int = 5, seed: int = 0, device: str = "cpu"):
        self.ridge, self.n_splits, self.seed, self.device = ridge, n_splits, seed, device

    def fit(self, x: np.ndarray, y, groups, offset: np.ndarray | None = None) -> HeadProbes:
        """``x`` (steps, heads, head_dim); ``y`` (steps,) labels; ``groups`` (steps,) kept together in a fold;
        ``offset`` (steps, classes) in [0, 1]."""
        order, folds, code, known, target = self._prepare(y, groups, offset)
        n_classes = len(self.classes_)
        right = np.empty((len(code), x.shape[1]), dtype=bool)
        self.auroc_, self.strength_ = np.empty((2, x.shape[1], n_classes))
        self.scores_ = np.empty((len(code), x.shape[1], n_classes), dtype=np.float32)
        self.target_ = np.empty((len(code), n_classes), dtype=np.float32)
        self.target_[order] = target.cpu()
        for heads, solve in self._chunks(x, order, folds):
            scores = solve(target)
            self.strength_[heads] = _correlation(scores, target).cpu()
            self.scores_[order, heads] = scores.transpose(0, 1).cpu()
            scores += known
            right[:, heads] = (scores.argmax(2) == code).T.cpu()
            for c in range(n_classes):
                self.auroc_[heads, c] = _aurocs(scores[:, :, c].cpu(), (code == c).cpu())
        code = code.cpu().numpy()
        self.accuracy_ = right.mean(0)
        self.balanced_accuracy_ = np.mean([right[code == c].mean(0) for c in range(n_classes)], axis=0)
        return self

    def permuted(self, x, y, groups, strata, n: int = 200, offset: np.ndarray | None = None) -> np.ndarray:
        """``strength_`` (permutations, heads, classes) when targets are shuffled within ``strata`` (say, the step index).

        With an offset these are residuals, shuffled as by Freedman and Lane (J. Business & Economic Statistics, 1983).
        """
        order, folds, code, _, target = self._prepare(y, groups, offset)
        rng = np.random.default_rng(self.seed)
        stratum = np.unique(np.asarray(strata), return_inverse=True)[1][order]
        place = np.argsort(stratum, kind="stable")
        shuffled = np.empty((n, len(code)), dtype=int)
        for row in shuffled:
            row[place] = np.lexsort((rng.random(len(code)), stratum))
        n_classes, together = len(self.classes_), 16  # permutations that share a product
        out = np.empty((n, x.shape[1], n_classes), dtype=np.float32)
        for heads, solve in self._chunks(x, order, folds):
            for first in range(0, n, together):
                rows = torch.as_tensor(shuffled[first : first + together], device=self.device)
                targets = target[rows].permute(1, 0, 2).flatten(1)
                found = _correlation(solve(targets), targets).unflatten(1, (-1, n_classes))
                out[first : first + together, heads] = found.transpose(0, 1).cpu()
        return out

    def resampled(self, groups, n: int = 100) -> np.ndarray:
        """``strength_`` (resamples, heads, classes) when whole groups are drawn again; the held-out scores stay."""
        _, code = np.unique(np.asarray(groups), return_inverse=True)
        rng, out = np.random.default_rng(self.seed), np.empty((n, *self.strength_.shape), dtype=np.float32)
        for number in range(n):
            drawn = np.bincount(rng.integers(code.max() + 1, size=code.max() + 1), minlength=code.max() + 1)
            rows = np.repeat(np.arange(len(code)), drawn[code])
            scores = torch.from_numpy(self.scores_[rows]).transpose(0, 1)
            out[number] = _correlation(scores, torch.from_numpy(self.target_[rows]))
        return out

    def _prepare(self, y, groups, offset):
        """Rows in the order of their folds, the folds' bounds, and labels, offset and targets in that order."""
        from sklearn.model_selection import GroupKFold

        self.classes_, code = np.unique(np.asarray(y), return_inverse=True)
        # Folds that do not look at labels, or shuffled labels would not be on a par with the true ones.
        splitter = GroupKFold(self.n_splits, shuffle=True, random_state=self.seed)
        tests = [test for _, test in splitter.split(code, code, np.asarray(groups))]
        order, bounds = np.concatenate(tests), np.cumsum([0, *map(len, tests)])
        hot = np.eye(len(self.classes_), dtype=np.float32)[code[order]]
        known = np.broadcast_to(hot.mean(0), hot.shape) if offset is None else np.asarray(offset, np.float32)[order]
        hot, known, code = (torch.tensor(part, device=self.device) for part in (hot, known, code[order]))
        return order, list(pairwise(bounds)), code, known, hot - known

    def _chunks(self, x, order, folds):
        """For some heads at a time: which, and the map from targets (steps, k) to held-out scores (heads, steps, k).

        Gram matrices are summed over folds, so each row is multiplied once, and the ridge is in units of each column's
        variance, as if it were standardised. Nothing here depends on targets, so a permutation costs two products.
        """
        for first in range(0, x.shape[1], CHUNK):
            heads = slice(first, first + CHUNK)
            a = torch.as_tensor(np.asarray(x[:, heads])[order], device=self.device).float()
            a = (a - a.mean(0)).transpose(0, 1).contiguous()
            parts = [a[:, i:j] for i, j in folds]
            grams, sums = [p.mT @ p for p in parts], [p.sum(1) for p in parts]
            gram, factors, means = sum(grams), [], []
            penalty = torch.diag_embed(self.ridge * (gram.diagonal(dim1=1, dim2=2) / (len(order) - 1)).clamp_min(1e-12))
            for (i, j), fold_gram, fold_sum in zip(folds, grams, sums, strict=True):
                n_train = len(order) - (j - i)
                means.append(-fold_sum / n_train)  # the sum over all is nought
                spread = gram - fold_gram - n_train * means[-1][:, :, None] * means[-1][:, None]
                factors.append(torch.linalg.cholesky(spread + penalty))

            def solve(targets, a=a, parts=parts, factors=factors, means=means):
                products = [p.mT @ targets[i:j] for p, (i, j) in zip(parts, folds, strict=True)]
                total, out = sum(products), torch.empty(*a.shape[:2], targets.shape[1], device=self.device)
                for (i, j), p, product, factor, mean in zip(folds, parts, products, factors, means, strict=True):
                    trained = targets.sum(0) - targets[i:j].sum(0)
                    weights = torch.cholesky_solve(total - product - mean[:, :, None] * trained, factor)
                    torch.baddbmm(-(mean[:, None] @ weights).expand(-1, j - i, -1), p, weights, out=out[:, i:j])
                return out

            yield heads, solve


def binary_accuracy(x: np.ndarray, y, groups, seed: int = 0) -> np.ndarray:
    """CogVision's probe: each function against as many steps of other functions, accuracy (heads, classes), chance 0.5.

    Classes are in sorted order. The protocol then takes the top tenth of the heads. Source: arXiv 2512.10300.
    """
    y, groups, rng = np.asarray(y), np.asarray(groups), np.random.default_rng(seed)
    columns = []
    for name in np.unique(y):
        positive, others = np.flatnonzero(y == name), np.flatnonzero(y != name)
        rows = np.sort(np.concatenate([positive, rng.choice(others, min(len(positive), len(others)), replace=False)]))
        columns.append(HeadProbes(seed=seed).fit(x[rows], y[rows] == name, groups[rows]).accuracy_)
    return np.stack(columns, axis=1)


def _drawn(groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Rows (steps,) of a share of the groups, boolean."""
    side = split_groups(groups, {"rest": 1 - share, "drawn": share}, seed)
    return np.array([side[group] == "drawn" for group in groups])


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
