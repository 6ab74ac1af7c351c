"""A loaded vision-language model: its weights, its processor and the map of its heads.

VLM                                 the model, with ``encode`` for chats about pictures and ``forward`` for one pass
attention_switched(vlm, name)       another attention implementation inside a block
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from cogvsr_utils.files import digest
from cogvsr_utils.models.head_map import HeadMap

SAMPLED = 257  # values of each weight in its digest; a prime, so that they do not all lie in one column
DAY = "26 Jul 2024"  # what Llama's template takes where there is no clock
VOCABULARY = 2**14  # rows of the output embeddings that are made float32 at a time


@dataclass(frozen=True)
class VLM:
    """A loaded model: its name, revision and quantization, the transformers model and its processor."""

    name: str
    model: torch.nn.Module
    processor: object
    quantize: str | None = None
    revision: str = ""

    @cached_property
    def heads(self) -> HeadMap:
        """Where every attention head of the text decoder is."""
        return HeadMap.of(self.model)

    @property
    def weights_digest(self) -> str:
        """Short hash of some values of every weight; a retrained, requantized or edited model has another."""
        parts = []
        for name, weight in self.model.state_dict().items():
            places = torch.arange(SAMPLED, device=weight.device) * weight.numel() // SAMPLED
            parts.append(f"{name}{tuple(weight.shape)}{weight.flatten()[places].float().tolist()}")
        return digest(*parts)

    @cached_property
    def active_edits(self) -> list:
        """The interventions that are running, outermost first: what ``intervene`` puts here."""
        return []

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return self.model.device

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def image_token_id(self) -> int | None:
        """Id of the token that stands for a part of a picture, by the names that configurations give it."""
        names = ("image_token_id", "image_token_index", "media_placeholder_token_id")
        found = (getattr(self.model.config, name, None) for name in names)
        return next((value for value in found if isinstance(value, int)), None)

    @property
    def context(self) -> int | None:
        """How many tokens a chat may have, where the configuration says so."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def picture_tokens(self, size: tuple[int, int]) -> int:
        """How many tokens a picture of some width and height adds to a chat as the template renders it."""
        if size not in self._picture_tokens:
            chat = self.render([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}], True)
            grown = self.encode([chat], [Image.new("RGB", size)])["input_ids"].shape[1]
            self._picture_tokens[size] = grown - len(self.tokenizer(chat, add_special_tokens=False)["input_ids"])
        return self._picture_tokens[size]

    @cached_property
    def _picture_tokens(self) -> dict[tuple[int, int], int]:
        return {}

    @property
    def causal(self) -> bool:
        """Whether no token reads a later one of the text."""
        return getattr(self.model.config.get_text_config(), "use_bidirectional_attention", None) is not True

    def render(self, messages: list[dict], prompt: bool) -> str:
        """The chat as text; ``prompt`` adds the opening of the model's turn. Templates that write a ``date_string``, by
        default the day's date, as Llama's do, are given one for all days."""
        day = {"date_string": DAY} if "date_string" in str(self.processor.chat_template) else {}
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **day)

    def encode(self, texts: list[str], images: list, side: str = "left") -> dict[str, torch.Tensor]:
        """Token and pixel tensors (batch, tokens) on the model's device, padded on ``side``; all with a picture, or
        none."""
        images = [[image] for image in images] if images[0] is not None else None
        self.tokenizer.padding_side = side
        # Many templates write the mark that begins a text; the tokenizer is not to add a second one.
        begun = bool(self.tokenizer.bos_token) and all(text.startswith(self.tokenizer.bos_token) for text in texts)
        settings = {"padding": True, "padding_side": side, "add_special_tokens": not begun, "return_tensors": "pt"}
        batch = self.processor(images=images, text=texts, text_kwargs=settings)
        batch = batch.to(self.device)
        return {k: v.to(self.model.dtype) if torch.is_floating_point(v) else v for k, v in batch.items()}

    def forward(self, inputs: dict, **settings) -> ModelOutput:
        """One pass without a cache and, where the model allows it, without logits; inputs may be on another device."""
        return self.model.base_model(**self.on_device(inputs), use_cache=False, **settings)

    def next_logits(self, inputs: dict, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of what follows some tokens, given by their (row, token) places: (places, vocabulary), float32."""
        if self.model.base_model is self.model:
            return self.model(**self.on_device(inputs), use_cache=False).logits[rows, tokens].float()
        logits = self.output_logits(self.forward(inputs).last_hidden_state[rows, tokens])
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return cap * torch.tanh(logits / cap) if cap else logits

    def output_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the output embeddings make of hidden states (..., hidden), in float32: (..., vocabulary).

        In bfloat16 logits are rounded to steps of an eighth where they are about 20, which hides what one head does.
        """
        head = self.model.get_output_embeddings()
        if type(head) is not torch.nn.Linear:  # quantized ones compute as they can
            return type(head).forward(head, hidden).float()
        hidden = hidden.to(head.weight.device)
        if hidden.dtype == torch.float32:
            return F.linear(hidden, head.weight, head.bias)
        # A part of the vocabulary at a time, so that without gradients no second copy of the weights is needed.
        logits = torch.cat([F.linear(hidden.float(), part.float()) for part in head.weight.split(VOCABULARY)], dim=-1)
        return logits if head.bias is None else logits + head.bias.float()

    def on_device(self, inputs: dict) -> dict:
        """Inputs where the model is; they may wait on the CPU."""
        return {name: value.to(self.device) for name, value in inputs.items()}


@contextmanager
def attention_switched(vlm: VLM, name: str) -> Iterator[bool]:
    """Another attention implementation inside the block; yields whether the model has it.

    Every part of the model gets back the implementation that it had.
    """
    configs = {id(m.config): m.config for m in vlm.model.modules() if hasattr(m, "config")}.values()
    before = [getattr(config, "_attn_implementation", None) for config in configs]
    try:
        vlm.model.set_attn_implementation(name)
        switched = True
    except (ValueError, AttributeError, NotImplementedError):
        switched = False
    try:
        yield switched
    finally:
        for config, implementation in zip(configs, before, strict=True):
            if implementation is not None:
                config._attn_implementation = implementation
