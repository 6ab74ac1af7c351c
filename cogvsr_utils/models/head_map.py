"""Where every attention head of a model lives.

    HeadMap.of(model)     found by structure: the text decoder, its attention output projections, their widths
    heads.table           one row a head: layer, head, kind, n_heads, key_head, head_dim, module, start, stop
    heads.elsewhere       attention that is not the text decoder's: vision towers and connectors
    heads_of(heads, ...)  all heads of a layer, or those that share a key-value head

A head is the slice of the *input* of its layer's output projection that the projection's columns mix back into the
residual stream; heads are query heads. ``start`` and ``stop`` are columns of the features that ``capture`` stores, in
which all projections stand side by side.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import torch

# What the parts of an attention module are called: an output projection, and what makes its keys. Linear attention has
# both as well, and a short convolution, which softmax attention has not.
OUTPUTS = ("o_proj", "out_proj", "dense", "wo", "o", "c_proj", "output.dense", "projection_layer", "proj")
KEYS = ("k_proj", "kv_b_proj", "query_key_value", "qkv_proj", "qkv", "self.key", "k", "c_attn")
# Parts of what ``get_decoder`` gives that are not the text decoder: GIT's, Idefics', pi0's.
NOT_TEXT = ("image_encoder", "vision_model", "perceiver_resampler", "dit", "vlm.vision_tower")
# Cross-attention in a list of its own, and the configuration's word for how many layers apart its members stand.
BETWEEN = {"gated_cross_attn_layers": "cross_layer_interval"}
COLUMNS = ["layer", "head", "kind", "n_heads", "key_head", "head_dim", "module", "start", "stop"]


@dataclass(frozen=True)
class HeadMap:
    """All heads of a model's text decoder.

    ``table`` has one row per head. ``kind`` is ``self`` or ``cross``; ``key_head`` is the key-value head that a query
    head reads, shared within a group; ``module`` its output projection. Where a layer has self- and cross-attention,
    the heads of the second are numbered on. ``elsewhere`` lists other attention modules by name and width.

    >>> from cogvsr_utils import load_vlm
    >>> heads = HeadMap.of(load_vlm("nano-internvl").model)
    >>> len(heads), heads.width, heads.columns([(1, 0)])
    (192, 4608, [slice(576, 600, None)])
    """

    table: pd.DataFrame
    elsewhere: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"module": [], "width": []}))

    @classmethod
    def of(cls, model: torch.nn.Module) -> HeadMap:
        """Read the map from a model's modules.

        Raises ValueError for an encoder-decoder, and where there is no text decoder with softmax attention.
        """
        decoder = _decoder(model)
        places = {id(module): name for name, module in model.named_modules()}
        sites = sorted(
            (_layer(name, model.config), "cross" in name, name, module)
            for name, module in decoder.named_modules()
            if not name.startswith(NOT_TEXT) and _projection(module) is not None
        )
        if not sites:
            raise ValueError(f"the text decoder of {type(model).__name__} has no softmax attention; expected some")
        rows, offset, numbered = [], 0, {}
        for layer, cross, _, attention in sites:
            projection = _projection(attention)
            head_dim = _head_dim(attention, projection.in_features, model.config.get_text_config())
            n_heads, group = projection.in_features // head_dim, getattr(attention, "num_key_value_groups", 1)
            first = numbered.get(layer, 0)
            for head in range(n_heads):
                rows.append((layer, first + head, "cross" if cross else "self", n_heads, head // group, head_dim,
                             places[id(projection)], offset, offset + head_dim))  # fmt: skip
                offset += head_dim
            numbered[layer] = first + n_heads
        table = pd.DataFrame(rows, columns=COLUMNS)
        inside = set(table["module"])
        others = [
            (places[id(found)], found.in_features)
            for module in model.modules()
            if (found := _projection(module)) is not None and places[id(found)] not in inside
        ]
        return cls(table, pd.DataFrame(others, columns=["module", "width"]))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def width(self) -> int:
        """Columns of the features: the widths of all projections added up."""
        return int(self.table["stop"].max())

    @cached_property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Name of each output projection -> (start, stop) of its columns in the features."""
        grouped = self.table.groupby("module", sort=False)
        return {name: (int(g["start"].min()), int(g["stop"].max())) for name, g in grouped}

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """(layer, head) of every head, in the order of the table."""
        return list(self.table[["layer", "head"]].itertuples(index=False, name=None))

    @cached_property
    def cross(self) -> frozenset[tuple[int, int]]:
        """(layer, head) of the heads of cross-attention, which do not run where there is no picture."""
        return frozenset(pair for pair, kind in zip(self.pairs, self.table["kind"], strict=True) if kind == "cross")

    @cached_property
    def of_column(self) -> np.ndarray:
        """The number of the head that each column of the features belongs to: (width,)."""
        return np.repeat(np.arange(len(self)), self.table["stop"] - self.table["start"])

    def columns(self, heads: Iterable[tuple[int, int]]) -> list[slice]:
        """The feature columns of each (layer, head); raises KeyError naming a head that the model does not have."""
        return [slice(start, stop) for _, start, stop in self.locate(heads)]

    def locate(self, heads: Iterable[tuple[int, int]]) -> list[tuple[str, int, int]]:
        """(module, start, stop) of each (layer, head), columns of the features; raises KeyError as ``columns``."""
        known = self._by_head
        missing = [tuple(h) for h in heads if tuple(h) not in known]
        if missing:
            layers = sorted(set(self.table["layer"]))
            raise KeyError(f"no such heads: {missing[:5]}; layers are {layers}, heads as in .table")
        return [known[tuple(h)] for h in heads]

    @cached_property
    def _by_head(self) -> dict[tuple[int, int], tuple[str, int, int]]:
        return {(r.layer, r.head): (r.module, r.start, r.stop) for r in self.table.itertuples()}


def heads_of(heads: HeadMap, layer: int, key_head: int | None = None) -> list[tuple[int, int]]:
    """(layer, head) of all heads of a layer or, with ``key_head``, of those that read its keys and values.

    Raises KeyError for a layer or a key-value head that the model does not have.

    >>> from cogvsr_utils import load_vlm
    >>> heads_of(load_vlm("nano-internvl").heads, layer=2, key_head=1)[:3]
    [(2, 6), (2, 7), (2, 8)]
    """
    own = heads.table[heads.table["layer"] == layer]
    if own.empty:
        raise KeyError(f"no heads in layer {layer}; layers are {sorted(set(heads.table['layer']))}")
    chosen = own if key_head is None else own[own["key_head"] == key_head]
    if chosen.empty:
        raise KeyError(f"no key-value head {key_head} in layer {layer}; expected one of {sorted(set(own['key_head']))}")
    return list(chosen[["layer", "head"]].itertuples(index=False, name=None))


def _decoder(model):
    """The text decoder as a module."""
    name = type(model).__name__
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ValueError(
            f"{name} is an encoder-decoder: its decoder reads an encoder's text and picture, not a chat; expected a "
            "decoder-style model, such as AutoModelForImageTextToText loads for Qwen2.5-VL"
        )
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if decoder is None:
        raise ValueError(f"{name} has no text decoder; expected a vision-language model with get_decoder()")
    return decoder


def _child(module, path: str):
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


def _projection(module):
    """The output projection of a softmax-attention module, or None where the module is something else."""
    if not any(hasattr(_child(module, key), "in_features") for key in KEYS) or hasattr(module, "conv1d"):
        return None
    return next((found for path in OUTPUTS if hasattr(found := _child(module, path), "in_features")), None)


def _layer(name: str, config) -> int:
    """Number of the decoder layer that a module stands in, from its name."""
    owner, number = re.search(r"(\w+)\.(\d+)(?:\.|$)", name).groups()
    return int(number) * (getattr(config, BETWEEN[owner]) if owner in BETWEEN else 1)


def _head_dim(attention, width: int, config) -> int:
    """Width of one head, from the module itself; a value's width may differ from the key's."""
    owners = [attention, getattr(attention, "self", None)]
    for key in ("v_head_dim", "head_dim", "attention_head_size"):
        for value in (getattr(owner, key, None) for owner in owners):
            if isinstance(value, int) and value > 0 and width % value == 0:
                return value
    return width // (getattr(attention, "num_heads", None) or config.num_attention_heads)
