"""A small transformer that reads text alone: the strongest guess of a step's function without a model's activations.

TextTransformer    a scikit-learn classifier of texts
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import nn
from torch.nn import functional as F

PAD, UNKNOWN = 0, 1


class TextTransformer(ClassifierMixin, BaseEstimator):
    """Two layers of ``torch.nn.TransformerEncoder`` over a text's words, their mean and the last one classified.

    ``fit`` learns ``classes_``, the labels in sorted order, and ``words_``, the vocabulary.

    >>> texts, labels = ["is it red"] * 8 + ["how many"] * 8, ["color"] * 8 + ["count"] * 8
    >>> str(TextTransformer(epochs=20).fit(texts, labels).predict(["how many"])[0])
    'count'
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 2,
        epochs: int = 12,
        batch_size: int = 32,
        rate: float = 1e-3,
        seed: int = 0,
    ):
        self.width, self.layers, self.epochs = width, layers, epochs
        self.batch_size, self.rate, self.seed = batch_size, rate, seed

    def fit(self, texts: Sequence[str], labels: Sequence[str]) -> TextTransformer:
        """Train on ``texts`` (n,) and ``labels`` (n,); AdamW with a linear warm-up and decay."""
        self.classes_, target = np.unique(np.asarray(labels), return_inverse=True)
        words = sorted({word for text in texts for word in _words(text)})
        self.words_ = {word: number for number, word in enumerate(words, 2)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._train(self._encode(texts), torch.as_tensor(target))
        return self

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """The likeliest label of each text (n,)."""
        with torch.inference_mode():
            codes = [self.network_.eval()(part).argmax(1) for part in self._encode(texts).split(256)]
        return self.classes_[torch.cat(codes).numpy()]

    def _encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Codes of words (n, longest), padded on the right."""
        rows = [torch.tensor([self.words_.get(word, UNKNOWN) for word in _words(text)]) for text in texts]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)

    def _train(self, codes: torch.Tensor, target: torch.Tensor) -> None:
        self.network_ = _Network(len(self.words_) + 2, codes.shape[1], self.width, self.layers, len(self.classes_))
        steps = self.epochs * -(-len(codes) // self.batch_size)
        optimizer = torch.optim.AdamW(self.network_.parameters(), lr=self.rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, total_steps=steps, pct_start=0.1)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(codes)).split(self.batch_size):
                optimizer.zero_grad()
                F.cross_entropy(self.network_(codes[rows]), target[rows]).backward()
                optimizer.step()
                schedule.step()


class _Network(nn.Module):
    def __init__(self, n_words: int, longest: int, width: int, layers: int, n_classes: int):
        super().__init__()
        self.words, self.places = nn.Embedding(n_words, width, padding_idx=PAD), nn.Embedding(2 * longest, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
        layer.self_attn.dropout = 0.0  # of attention maps it would take three times as long on a CPU
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(2 * width, n_classes)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Scores (texts, classes) of codes (texts, words)."""
        codes = codes[:, : self.places.num_embeddings]
        blank = codes == PAD
        hidden = self.words(codes) + self.places.weight[: codes.shape[1]]
        hidden = self.encoder(hidden, src_key_padding_mask=blank)  # (texts, words, width)
        known = (~blank)[..., None]
        mean = (hidden * known).sum(1) / known.sum(1)
        last = hidden[torch.arange(len(codes)), known[..., 0].sum(1) - 1]
        return self.out(torch.cat([mean, last], dim=1))


def _words(text: str) -> list[str]:
    """Words, numbers and marks, in lower case."""
    return re.findall(r"\w+|[^\w\s]", text.lower())
