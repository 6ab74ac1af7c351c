"""What heads attend to in a picture.

attention_map(vlm, item, step, heads)   where some heads look before they answer a step, on the picture's grid
attention_example(vlm, items, ...)      of some heads the four that attend most, before a function's first step
attention_visited(vlm, visit)           inside, every attention of the text decoder shows its weights, one at a time
picture_grid(vlm, item, inputs)         which tokens are which patches of the picture
attention_module(vlm, projection)       the attention that an output projection belongs to
sink_tokens(state)                      tokens that attract attention whatever is asked
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models.blocks import decoder_blocks
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.head_map import OUTPUTS
from cogvsr_utils.models.vlm import VLM, attention_switched

SINK = 20.0  # a token is a sink where a number of its state is as many times the root of their mean square
Head = tuple[int, int]


class NoGrid(ValueError):
    """A head's keys are not one grid of patches of the whole picture."""


@dataclass(frozen=True)
class Grid:
    """A picture's patches: the tokens ``patches`` (rows, columns), and, where the model is given a small copy of the
    whole picture beside its tiles, the tokens ``whole`` (side, side) of that."""

    patches: torch.Tensor
    whole: torch.Tensor | None = None

    def over(self, values: torch.Tensor) -> torch.Tensor:
        """What tokens have, by patch: ``values`` (tokens,) -> (rows, columns). A token of the small copy is shared out
        among the patches that it shows."""
        found = values[self.patches]
        if self.whole is None:
            return found
        down, across = self._overlaps()
        return found + down @ values[self.whole].to(down) @ across.T

    def tokens(self, values: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """What patches have, ``values`` (rows, columns), by token of the picture, whose places in the prompt are
        ``picture`` (tokens,): (tokens,). A token of the small copy has the mean of the patches that it shows, one that
        is no patch, as at the end of a line, 0."""
        places, found = self.patches.flatten(), values.flatten()
        if self.whole is not None:
            down, across = self._overlaps()
            means = down.T @ values.to(down) @ across
            places, found = torch.cat([places, self.whole.flatten()]), torch.cat([found, means.flatten()])
        every = torch.zeros(len(picture))
        every[torch.searchsorted(picture, places)] = found.float()
        return every

    def _overlaps(self) -> list[torch.Tensor]:
        """By rows and by columns, the share of each token of the small copy that each patch covers: (patches, side)."""
        found = []
        for n, side in zip(self.patches.shape, self.whole.shape, strict=True):
            ends = [torch.arange(each + 1, dtype=torch.float32) / each for each in (n, side)]
            last = torch.minimum(ends[0][1:, None], ends[1][None, 1:])
            first = torch.maximum(ends[0][:-1, None], ends[1][None, :-1])
            found.append((last - first).clamp(min=0) * side)
        return found


@dataclass(frozen=True)
class AttentionMap:
    """Attention of some ``heads`` to a picture from the token before an answer begins.

    ``weights`` (heads, rows, columns) of the picture's grid, shares of all attention, so that their sum is what goes to
    the picture (but for what goes to the tokens that end its lines, where a family has such); ``sinks`` (heads, rows,
    columns), boolean, the places that many heads attend to whatever is asked.
    """

    heads: list[Head]
    weights: np.ndarray
    sinks: np.ndarray

    @property
    def without_sinks(self) -> np.ndarray:
        """``weights`` with sinks at 0, each head's scaled so that the picture has what it had (0 where all are
        sinks)."""
        kept = np.where(self.sinks, 0.0, self.weights)
        total, left = (each.sum((1, 2), keepdims=True) for each in (self.weights, kept))
        found = kept * total / np.where(left > 0, left, 1.0)
        return np.where(self.sinks.any((1, 2), keepdims=True), found, self.weights)


def attention_example(
    vlm: VLM, items: Sequence[Item], function: str, heads: Sequence[Head], n_heads: int = 4
) -> tuple[Item, int, AttentionMap] | None:
    """Of some ``heads`` the ``n_heads`` that attend to the picture most before the first step of ``function`` about a
    picture: its item, its number, and where they look. None where no step is of that function, or there is no grid."""
    asked = (
        (item, number)
        for item in items
        if item.image is not None
        for number, step in enumerate(item.steps)
        if step.function == function
    )
    item, step = next(asked, (None, -1))
    if item is None:
        return None
    try:
        found = attention_map(vlm, item, step)
    except NoGrid:
        return None
    most = [i for i in np.argsort(-found.weights.sum((1, 2))) if found.heads[i] in set(heads)][:n_heads]
    return item, step, AttentionMap([found.heads[i] for i in most], found.weights[most], found.sinks[most])


@contextmanager
def attention_visited(vlm: VLM, visit: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Inside the block, ``visit(projection, weights)`` is called for every attention of the text decoder, named by its
    output projection, with its weights (batch, heads, queries, keys); they are not kept, so that memory stays that of
    one layer.

    Raises ValueError where the model does not compute such weights.
    """
    handles, names = [], list(vlm.heads.projections)

    def hook_for(name):
        n_heads = int((vlm.heads.table["module"] == name).sum())

        def hook(module, args, output):
            found = [x for x in output if isinstance(x, torch.Tensor) and x.ndim == 4 and x.shape[1] == n_heads]
            if not found:
                raise ValueError(
                    f"{vlm.name} gave no attention weights at {name}; expected (batch, heads, queries, keys)"
                )
            visit(name, found[-1])

        return hook

    with attention_switched(vlm, "eager") as switched:
        if not switched:
            raise ValueError(f"{vlm.name} has no attention whose weights can be read (transformers' eager)")
        try:
            for name in names:
                handles.append(attention_module(vlm, name).register_forward_hook(hook_for(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()


@torch.inference_mode()
def attention_map(
    vlm: VLM, item: Item, step: int = MAIN, heads: Sequence[Head] | None = None, replies: Sequence[str] | None = None
) -> AttentionMap:
    """Attention of ``heads`` from the last token before the answer to ``step`` (-1, the main question) to the item's
    picture; of all heads that read the picture, where none are named.

    ``replies`` are those to the steps before, the right ones if none are given. Sinks are tokens whose state where a
    layer begins has a number of at least 20 times its root mean square (arXiv 2503.03321, which knows at which places
    for two models; here any counts). Raises ValueError for an item without a picture and for another number of replies,
    NoGrid where a head does not read the whole picture as one grid of patches (cropped pictures; tiles, but for those
    of Idefics3, InternVL, LLaVA-NeXT, LLaVA-OneVision and Mllama, which are put together; in a model with
    cross-attention to the picture, the heads of self-attention), KeyError for a head that the model does not have.

    >>> from cogvsr_utils import load_items, load_vlm
    >>> attention_map(load_vlm("nano-internvl"), load_items("synth", limit=1)[0], heads=[(1, 0), (2, 5)]).weights.shape
    (2, 4, 4)
    """
    if item.image is None:
        raise ValueError(f"item {item.uid!r} has no picture; expected one to attend to")
    before = len(item.steps) if step == MAIN else step
    replies = [each.answer for each in item.steps[:before]] if replies is None else list(replies)
    if len(replies) != before:
        raise ValueError(f"{len(replies)} replies before step {step}; expected {before}")
    table = vlm.heads.table.assign(place=vlm.heads.table.groupby("module").cumcount()).set_index(["layer", "head"])
    reader = "cross" if (table["kind"] == "cross").any() else "self"
    heads = list(table.index[table["kind"] == reader]) if heads is None else [tuple(head) for head in heads]
    vlm.heads.columns(heads)  # refuses those that are not there
    if blind := [head for head in heads if table.loc[head, "kind"] != reader]:
        raise NoGrid(f"heads {blind[:5]} of {vlm.name} attend to text alone; expected heads of cross-attention")
    prompt = vlm.render(conversation(item, replies, step), prompt=True)
    inputs = vlm.encode([prompt], [open_image(item)])
    rows: dict[str, torch.Tensor] = {}
    states: dict[int, torch.Tensor] = {}

    def visit(name, weights):
        rows[name] = weights[0, :, -1].float().cpu()  # (heads, keys)

    def keep(number):
        return lambda module, args, kwargs: states.__setitem__(number, _state(args, kwargs))

    handles = [
        block.register_forward_pre_hook(keep(i), with_kwargs=True) for i, block in enumerate(decoder_blocks(vlm))
    ]
    try:
        with attention_visited(vlm, visit):
            vlm.forward(inputs)
    finally:
        for handle in handles:
            handle.remove()
    grid = picture_grid(vlm, item, inputs)
    weights, sinks = [], []
    for layer, head in heads:
        row = table.loc[(layer, head)]
        weights.append(grid.over(rows[row["module"]][row["place"]]))
        none = torch.zeros(grid.patches.shape, dtype=torch.bool)
        sinks.append(none if reader == "cross" else sink_tokens(states[layer]).cpu()[grid.patches])
    return AttentionMap(list(heads), *(torch.stack(each).numpy() for each in (weights, sinks)))


def attention_module(vlm: VLM, projection: str) -> torch.nn.Module:
    """The attention module that an output projection belongs to."""
    suffix = max((path for path in OUTPUTS if projection.endswith(f".{path}")), key=len)
    return vlm.model.get_submodule(projection.removesuffix(f".{suffix}"))


def _state(args, kwargs) -> torch.Tensor:
    """What a block is given: (tokens, hidden) of its first row."""
    return (args[0] if args else kwargs["hidden_states"])[0]


def sink_tokens(state: torch.Tensor) -> torch.Tensor:
    """Which tokens are sinks, from their states (..., hidden) where a layer begins: (...), boolean."""
    x = state.float()
    return x.abs().amax(-1) >= SINK * x.pow(2).mean(-1).sqrt()


def picture_tokens(vlm: VLM, inputs: dict) -> torch.Tensor:
    """Places of the picture's tokens in a chat: (tokens,)."""
    return (inputs["input_ids"][0] == vlm.image_token_id).nonzero().flatten().cpu()


def picture_grid(vlm: VLM, item: Item, inputs: dict) -> Grid:
    """Which of the keys of a chat about the item's picture are which of its patches; ``inputs`` are the chat's. Raises
    NoGrid where they are not the whole picture."""
    picture = picture_tokens(vlm, inputs)
    if (shape := inputs.get("image_grid_thw")) is not None:
        frames, rows, columns = shape[0].tolist()
        merged = round((frames * rows * columns / len(picture)) ** 0.5)
        if frames * rows * columns == merged**2 * len(picture):
            return Grid(picture.reshape(rows // merged, columns // merged))
    width, height = open_image(item).size
    cropped = bool(getattr(vlm.processor.image_processor, "do_center_crop", False)) and width != height
    if "aspect_ratio_ids" in inputs:
        return _on_canvas(vlm, int(inputs["aspect_ratio_ids"][0, 0]), width, height)
    tiles, kind = _tiles(inputs["pixel_values"]), vlm.model.config.model_type
    side = round((len(picture) / tiles) ** 0.5)  # of a tile, in tokens
    if tiles == 1 and not cropped and side**2 == len(picture):
        return Grid(picture.reshape(side, side))
    if tiles > 1 and kind in ("internvl", "idefics3") and tiles * side**2 == len(picture):
        return _tiled(picture.reshape(tiles, side, side), width / height)
    if tiles > 1 and kind in ("llava_next", "llava_onevision"):
        vision = vlm.model.config.vision_config
        return _in_lines(picture, vision.image_size // vision.patch_size, width / height)
    raise NoGrid(
        f"{vlm.name} reads a picture of {width} x {height} in {tiles} tiles, or a part of it; expected it whole"
    )


def _tiled(tokens: torch.Tensor, shape: float) -> Grid:
    """Tiles (tiles, side, side) of Idefics3 and InternVL put together, of a picture of width over height ``shape``: row
    by row, then a small copy of the whole. Among as many tiles in all, the processor has taken the rows and columns
    whose shape is nearest to the picture's."""
    *_, whole = tokens
    n, side = len(tokens) - 1, len(whole)
    rows = min((r for r in range(1, n + 1) if n % r == 0), key=lambda r: abs(shape - n / r / r))
    patches = tokens[:n].reshape(rows, n // rows, side, side).transpose(1, 2).reshape(rows * side, -1)
    return Grid(patches, whole)


def _in_lines(tokens: torch.Tensor, side: int, shape: float) -> Grid:
    """LLaVA's tokens: a small copy of the whole picture (side, side), then the picture line by line, a token that ends
    the line behind each. Of all lines that make as many tokens, those whose shape is nearest to the picture's."""
    whole, lines = tokens[: side**2].reshape(side, side), tokens[side**2 :]
    n = len(lines)
    rows = min((r for r in range(1, n) if n % r == 0), key=lambda r: abs(np.log(shape * r / (n // r - 1 or 0.1))))
    return Grid(lines.reshape(rows, -1)[:, :-1], whole)


def _on_canvas(vlm: VLM, kind: int, width: int, height: int) -> Grid:
    """Mllama's keys: tile by tile a class token and the patches, the picture at the left and top of the tiles as large
    as fits, the rest padding; ``kind`` is the number of an arrangement of tiles."""
    vision = vlm.model.config.vision_config
    tile, size = vision.image_size, vision.patch_size
    tall, wide = vision.supported_aspect_ratios[kind - 1]
    side = tile // size
    first = 1 + torch.arange(tall * wide)[:, None] * (side**2 + 1)
    keys = (first + torch.arange(side**2)).reshape(tall, wide, side, side).transpose(1, 2)
    keys = keys.reshape(tall * side, wide * side)
    scale = min(np.clip(n, tile, tiles * tile) / n for n, tiles in ((height, tall), (width, wide)))
    rows, columns = (int(np.ceil(np.floor(n * scale) / size)) for n in (height, width))
    return Grid(keys[:rows, :columns])


def _tiles(pixels: torch.Tensor) -> int:
    """How many pictures the model is given in place of one: the product of all but the last three sides."""
    return int(np.prod(pixels.shape[:-3]))
