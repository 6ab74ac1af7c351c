"""The paper's joint probe: which function does a step have, read from all heads together?

FunctionProbe                 one network over all heads, with gradient x activation importance of each
refitted_importance(...)      the same fitted anew to resampled groups, split and initialised anew

Its accuracy counts only above its baselines, above all above what the text alone gives.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from cogvsr_utils.analysis.head_probes import check_probe_data
from cogvsr_utils.dataset.splits import FOLDS, split_groups

PROTOCOLS = ("paper", "strict")
DRAWS = 100  # of groups, before one that has every function on both sides is given up
PATIENCE = 10  # epochs without a better loss on kept-out groups, before strict stops


class FunctionProbe:
    """The paper's joint probe: one multi-class network over all heads.

    Each head's slice, with its layer's mean beside it, goes through one shared linear map to 64 numbers; all heads'
    numbers go through 512 ReLU units with dropout 0.3 to the classes. Importance of a head for a class is the mean
    over items of that class of gradient x activation of its 64 numbers, on groups that took no part in fitting.
    ``protocol="paper"`` trains for all ``epochs``; ``"strict"`` stops early, by groups held out for that.
    Source: arXiv 2603.20662 and, for what it leaves open, the code of arXiv 2512.10978, which takes inputs as they
    are, and one step at a time at a rate of 1e-4 (``paper.PROBE``); here inputs are standardised (``standardize``), and
    batches of 128 at 1e-3 make it affordable.

    ``fit`` learns ``classes_``, the functions in sorted order; ``read_`` (steps,), the rows kept out for reading
    importance; ``loss_`` (seeds,), lists of the loss of each epoch; ``importance_`` (functions, heads), signed, the
    mean over seeds; ``importance_by_seed_`` (seeds, functions, heads). Raises ValueError for an unknown protocol.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(60, 4, 3)), np.tile(["Math Reasoning", "Knowledge Recall"], 30)
    >>> FunctionProbe(epochs=2).fit(x, y, np.arange(60), np.array([0, 0, 1, 1])).importance_.shape
    (2, 4)
    """

    def __init__(
        self,
        protocol: str = "paper",
        n_seeds: int = 1,
        epochs: int = 100,
        lr: float = 1e-3,
        batch_size: int = 128,
        held_out: float = 0.4,
        standardize: bool = True,
        seed: int = 0,
    ):
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {protocol!r}; expected one of {PROTOCOLS}")
        for name, value in (("n_seeds", n_seeds), ("epochs", epochs), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        if not 0 < held_out < 1:
            raise ValueError(f"held_out is {held_out}; expected a share between 0 and 1")
        self.protocol, self.n_seeds, self.epochs, self.lr = protocol, n_seeds, epochs, lr
        self.batch_size, self.held_out, self.standardize, self.seed = batch_size, held_out, standardize, seed

    def fit(self, x: np.ndarray, y: ArrayLike, groups: ArrayLike, layers: np.ndarray) -> FunctionProbe:
        """``x`` (steps, heads, head_dim) float; ``y``, ``groups`` (steps,); ``layers`` (heads,) the layer of each
        head. Raises ValueError as ``HeadProbes.fit``, for another number of layers, and where a function has no step
        on one of the sides."""
        check_probe_data(x, y, groups, FOLDS)
        if len(layers) != x.shape[1]:
            raise ValueError(f"{len(layers)} layers for {x.shape[1]} heads; expected one each")
        y, groups = np.asarray(y), np.asarray(groups)
        self.layers_ = torch.as_tensor(np.unique(layers, return_inverse=True)[1])
        self.classes_, code = np.unique(y, return_inverse=True)
        self.read_ = _group_sample(groups, self.held_out, self.seed)
        fit = ~self.read_
        if one_sided := _one_sided(y, self.read_):
            raise ValueError(
                f"{str(one_sided[0])!r} has no steps on one side of the split by groups; expected it in more groups"
            )
        x = torch.as_tensor(np.asarray(x, dtype=np.float32))
        self.mean_, self.std_ = torch.zeros_like(x[0]), torch.ones_like(x[0])
        if self.standardize:
            self.mean_, self.std_ = x[fit].mean(0), x[fit].std(0).clamp_min(1e-6)
        inputs, target = self._inputs(x), torch.as_tensor(code)
        stop = np.zeros(len(y), dtype=bool)
        if self.protocol == "strict":
            stop[fit] = _group_sample(groups[fit], 0.2, self.seed + 1)
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

    def score(self, x: np.ndarray, y: ArrayLike) -> float:
        """Accuracy in [0, 1]."""
        return float((self.predict(x) == np.asarray(y)).mean())

    def importance_by_item(self, x: np.ndarray, y: ArrayLike) -> np.ndarray:
        """Gradient of the true class's score x activation, mean over a head's 64 numbers: (seeds, steps, heads)."""
        code = np.searchsorted(self.classes_, np.asarray(y))
        return np.stack([self._by_item(network, x, code) for network in self.networks_])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What ``predict`` needs, as arrays that ``from_arrays`` takes."""
        fitted = {name: getattr(self, f"{name}_").numpy() for name in ("layers", "mean", "std")}
        weights = {
            f"network {number} {name}": value.numpy()
            for number, network in enumerate(self.networks_)
            for name, value in network.state_dict().items()
        }
        return {"classes": self.classes_.astype(str)} | fitted | weights

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> FunctionProbe:
        """A fitted probe from what ``to_arrays`` gave; it predicts, but has no importance."""
        probe = cls()
        probe.classes_ = arrays["classes"]
        probe.layers_, probe.mean_, probe.std_ = (torch.from_numpy(arrays[name]) for name in ("layers", "mean", "std"))
        by_seed: dict[str, dict[str, torch.Tensor]] = {}
        for key in (key for key in arrays if key.startswith("network ")):
            _, number, name = key.split(" ")
            by_seed.setdefault(number, {})[name] = torch.from_numpy(arrays[key])
        n_heads, width = probe.mean_.shape
        probe.networks_ = []
        for weights in by_seed.values():
            network = _Network(n_heads, 2 * width, len(probe.classes_)).eval()
            network.load_state_dict(weights)
            probe.networks_.append(network)
        return probe

    def _train(self, inputs, target, fit, stop, seed):
        """One network and its losses; ``stop`` are the rows by which to stop early, if any."""
        torch.manual_seed(seed)
        network = _Network(inputs.shape[1], inputs.shape[2], len(self.classes_))
        optimizer = torch.optim.Adam(network.parameters(), lr=self.lr, fused=True)
        generator = torch.Generator().manual_seed(seed)
        losses, best, since = [], (np.inf, None), 0
        for _ in range(self.epochs):
            network.train()
            batches = fit[torch.randperm(len(fit), generator=generator)].split(self.batch_size)
            batch_losses = []
            for rows in batches:
                loss = F.cross_entropy(network(inputs[rows]), target[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                batch_losses.append(loss.item())
            losses.append(float(np.mean(batch_losses)))
            network.eval()
            if len(stop):
                with torch.no_grad():
                    loss = F.cross_entropy(network(inputs[stop]), target[stop]).item()
                best, since = ((loss, copy.deepcopy(network)), 0) if loss < best[0] else (best, since + 1)
                if since == PATIENCE:
                    break
        return best[1] or network, losses

    def _by_item(self, network, x, code) -> np.ndarray:
        inputs = self._inputs(torch.as_tensor(np.asarray(x, dtype=np.float32)))
        codes = network.project(inputs).detach().requires_grad_()  # (steps, heads, 64)
        scores = network.head(codes.flatten(1))
        scores.gather(1, torch.as_tensor(code)[:, None]).sum().backward()
        return (codes.grad * codes.detach()).mean(2).numpy()

    def _inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Slices, standardised where asked for, beside their layer's mean: (steps, heads, 2 * head_dim)."""
        x = (x - self.mean_) / self.std_
        n_layers = int(self.layers_.max()) + 1
        sums = torch.zeros(len(x), n_layers, x.shape[2]).index_add_(1, self.layers_, x)
        means = sums / torch.bincount(self.layers_)[:, None]
        return torch.cat([x, means[:, self.layers_]], dim=2)


def refitted_importance(
    x: np.ndarray, y: ArrayLike, groups: ArrayLike, layers: np.ndarray, n_fits: int, seed: int = 0
) -> np.ndarray:
    """Importance (fits, functions, heads) of the paper's probe, each time fitted anew: to groups drawn with
    replacement, with another split of them into those fitted to and those read, from another initialisation.

    Arguments are those of ``FunctionProbe.fit``. What other groups would have said is in how much these fits differ;
    reading one fitted probe on resampled groups leaves the fitting out. A draw in which a function is not on both sides
    is drawn again; raises ValueError where none has all of them.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(60, 4, 3)), np.tile(["Math Reasoning", "Knowledge Recall"], 30)
    >>> refitted_importance(x, y, np.arange(60), np.array([0, 0, 1, 1]), n_fits=2).shape
    (2, 2, 4)
    """
    rng, (names, code) = np.random.default_rng(seed), np.unique(np.asarray(groups), return_inverse=True)
    y, fits = np.asarray(y), []
    for number in tqdm(range(n_fits), desc="refits"):
        probe = FunctionProbe("paper", seed=seed + number + 1)
        for _ in range(DRAWS):
            drawn = rng.integers(len(names), size=len(names))
            rows = np.concatenate([np.flatnonzero(code == group) for group in drawn])
            read = _group_sample(code[rows], probe.held_out, probe.seed)
            if len(np.unique(y[rows])) == len(np.unique(y)) and not _one_sided(y[rows], read):
                break
        else:
            raise ValueError(
                f"in {DRAWS} draws of {len(names)} groups none had every function on both sides of the split; expected "
                "functions in more groups"
            )
        fits.append(probe.fit(x[rows], y[rows], code[rows], layers).importance_)
    return np.stack(fits)


class _Network(nn.Module):
    def __init__(self, n_heads: int, width: int, n_classes: int):
        super().__init__()
        self.project = nn.Linear(width, 64)
        self.head = nn.Sequential(nn.Linear(64 * n_heads, 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, n_classes))

    def forward(self, inputs):
        return self.head(self.project(inputs).flatten(1))


def _one_sided(y: np.ndarray, read: np.ndarray) -> list:
    """The labels that are not both among the steps that are read and among the others."""
    return sorted(set(np.unique(y)) - (set(y[read]) & set(y[~read])))


def _group_sample(groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Rows (steps,) of a random share of the groups, boolean."""
    side = split_groups(groups, {"rest": 1 - share, "drawn": share}, seed)
    return np.array([side[group] == "drawn" for group in groups])
