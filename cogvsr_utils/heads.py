"""Where every attention head of a model lives.

    HeadMap.of(model)     found by structure: the text decoder, its attention output projections, their widths
    heads.table           one row a head: layer, head, n_heads, head_dim, module, start, stop

A head is the slice of the *input* of its layer's output projection that the projection's columns mix back into the
residual stream; heads are query heads. ``start`` and ``stop`` are columns of the features that ``capture`` stores, in
which all layers stand side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

# What the attention output projection is called; which of them a model has is read off its modules.
PROJECTIONS = ("o_proj", "out_proj", "wo", "c_proj", "dense")


@dataclass(frozen=True)
class HeadMap:
    """All heads of a model's text decoder.

    ``table`` has one row per head; ``modules`` maps each layer that has softmax attention to the name of its output
    projection.
    """

    table: pd.DataFrame
    modules: dict[int, str]

    @classmethod
    def of(cls, model) -> HeadMap:
        """Read the map from a model's modules; raises ValueError where there is no text decoder with attention."""
        decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
        layers = getattr(decoder, "layers", None)
        if layers is None:
            raise ValueError(
                f"{type(model).__name__} has no text decoder with a list of layers; expected a decoder-style model, "
                "as AutoModelForImageTextToText loads them"
            )
        names = {id(module): name for name, module in model.named_modules()}
        rows, modules, offset = [], {}, 0
        for index, layer in enumerate(layers):
            attention, projection = _output_projection(layer)
            if projection is None:
                continue
            width = projection.in_features
            head_dim = _head_dim(attention, width, model.config.get_text_config())
            modules[index] = names[id(projection)]
            for head in range(width // head_dim):
                start = offset + head * head_dim
                rows.append((index, head, width // head_dim, head_dim, modules[index], start, start + head_dim))
            offset += width
        if not rows:
            raise ValueError(f"{type(model).__name__} has {len(layers)} layers, none with an attention projection")
        columns = ["layer", "head", "n_heads", "head_dim", "module", "start", "stop"]
        return cls(pd.DataFrame(rows, columns=columns), modules)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def width(self) -> int:
        """Columns of the features: the widths of all layers' projections added up."""
        return int(self.table["stop"].max())

    @cached_property
    def layer_span(self) -> dict[int, tuple[int, int]]:
        """layer -> (start, stop) of its columns in the features."""
        grouped = self.table.groupby("layer")
        return {int(k): (int(g["start"].min()), int(g["stop"].max())) for k, g in grouped}

    def columns(self, heads) -> list[slice]:
        """The feature columns of each (layer, head); raises KeyError naming a head that the model does not have."""
        spans = {(r.layer, r.head): slice(r.start, r.stop) for r in self.table.itertuples()}
        missing = [tuple(h) for h in heads if tuple(h) not in spans]
        if missing:
            raise KeyError(f"no such heads: {missing[:5]}; layers are {sorted(self.modules)}, heads as in .table")
        return [spans[tuple(h)] for h in heads]


def _output_projection(layer):
    """The attention module of a decoder layer and its output projection, or (None, None)."""
    for name, module in layer.named_modules():
        if "attn" in name.rsplit(".", 1)[-1].lower() or "attention" in name.rsplit(".", 1)[-1].lower():
            for child in PROJECTIONS:
                projection = getattr(module, child, None)
                # Linear attention has an output projection too, but no softmax over keys: it has no k_proj of its own.
                if hasattr(projection, "in_features") and hasattr(module, "k_proj"):
                    return module, projection
    return None, None


def _head_dim(attention, width: int, config) -> int:
    """Width of one head, from the module itself; a key's width may differ from the value's."""
    for owner, key in ((attention, "v_head_dim"), (attention, "head_dim")):
        value = getattr(owner, key, None)
        if isinstance(value, int) and value > 0 and width % value == 0:
            return value
    n_heads = getattr(attention, "num_heads", None) or config.num_attention_heads
    return width // n_heads
