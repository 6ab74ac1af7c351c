"""Load a vision-language model: hub id, folder or nano name, in 4-bit or not.

load_vlm(name, quantize="4bit")    -> VLM
VLM                                model, processor and head map, with ``encode`` for chats about pictures
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

from .heads import HeadMap
from .paths import NANO

QUANTIZE = (None, "4bit", "8bit")


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
        return HeadMap.of(self.model)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the first values of every weight: tells a retrained or requantized model from another."""
        digest = hashlib.sha256()
        for name, weight in self.model.state_dict().items():
            digest.update(f"{name}{tuple(weight.shape)}{weight.flatten()[:8].float().tolist()}".encode())
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    @property
    def image_token_id(self) -> int | None:
        """Id of the token that stands for a part of a picture, by the names that configurations give it."""
        names = ("image_token_id", "image_token_index", "media_placeholder_token_id")
        found = (getattr(self.model.config, name, None) for name in names)
        return next((value for value in found if isinstance(value, int)), None)

    @property
    def causal(self) -> bool:
        """Whether no token reads a later one of the text."""
        return getattr(self.model.config.get_text_config(), "use_bidirectional_attention", None) is not True

    def render(self, messages: list[dict], prompt: bool) -> str:
        """The chat as text; ``prompt`` adds the opening of the model's turn."""
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)

    def encode(self, texts: list[str], images: list, side: str = "left"):
        """Token and pixel tensors (batch, tokens) on the model's device, padded on ``side``."""
        images = [[image] for image in images] if images[0] is not None else None
        self.tokenizer.padding_side = side
        # Many templates write the mark that begins a text; the tokenizer is not to add a second one.
        begun = bool(self.tokenizer.bos_token) and all(text.startswith(self.tokenizer.bos_token) for text in texts)
        settings = {"padding": True, "padding_side": side, "add_special_tokens": not begun, "return_tensors": "pt"}
        batch = self.processor(images=images, text=texts, text_kwargs=settings)
        batch = batch.to(self.device)
        return {k: v.to(self.model.dtype) if torch.is_floating_point(v) else v for k, v in batch.items()}

    def run(self, inputs):
        """One pass without a cache and, where the model allows it, without scores for words."""
        return self.model.base_model(**inputs, use_cache=False)

    def scores(self, inputs, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """What comes after some tokens, given by their (row, token) places: logits (places, vocabulary), float32."""
        if self.model.base_model is self.model:
            return self.model(**inputs, use_cache=False).logits[rows, tokens].float()
        logits = self.model.get_output_embeddings()(self.run(inputs).last_hidden_state[rows, tokens]).float()
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return cap * torch.tanh(logits / cap) if cap else logits


def nano_names() -> list[str]:
    """Names of the small models that the package ships."""
    return sorted(path.parent.name for path in NANO.glob("nano-*/config.json"))


def load_vlm(
    name: str,
    *,
    quantize: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> VLM:
    """Load a vision-language model for inference.

    ``name`` is a nano name (``"nano-internvl"``), a folder, or a hub id (``"Qwen/Qwen2.5-VL-7B-Instruct"``).
    ``quantize`` is None, ``"4bit"`` (NF4, double quantization) or ``"8bit"`` (LLM.int8). ``device`` defaults to
    ``cuda`` where there is one, else ``cpu``; ``dtype`` to bfloat16 on a GPU and float32 on a CPU.
    Raises ValueError for an unknown quantization and OSError where the model cannot be found.

    >>> vlm = load_vlm("nano-internvl")
    >>> len(vlm.heads)
    48
    """
    if quantize not in QUANTIZE:
        raise ValueError(f"quantize is {quantize!r}; expected one of {QUANTIZE}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    source = _find(name)
    settings = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(source, **settings)
    model = AutoModelForImageTextToText.from_pretrained(
        source, config=config, dtype=dtype, device_map=device, quantization_config=_quantization(quantize, dtype),
        attn_implementation="sdpa", **settings,
    ).eval()  # fmt: skip
    for module in model.modules():
        # On some CPUs bitsandbytes repacks weights for bfloat16 kernels, which round otherwise than elsewhere and refuse
        # widths that 32 does not divide, such as Qwen2.5-VL's; without them all CPUs give the same.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    processor = _load_processor(source, config, settings)
    commit = getattr(model.config, "_commit_hash", None) or revision or ""
    return VLM(name, model, processor, quantize, commit)


@contextmanager
def attention_switched(vlm, name: str):
    """Another attention implementation for a while; yields whether the model has it."""
    before = vlm.model.config._attn_implementation
    try:
        vlm.model.set_attn_implementation(name)
    except (ValueError, AttributeError, NotImplementedError):
        yield False
        return
    try:
        yield True
    finally:
        vlm.model.set_attn_implementation(before)


def in_halves(run: Callable[[list], list], batch: list) -> list:
    """``run(batch)``, a list; where the GPU's memory does not suffice, half by half, saying so.

    Raises torch.cuda.OutOfMemoryError where one alone is too much.
    """
    try:
        return run(batch)
    except torch.cuda.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Outside the except clause, so that the failed pass is let go before the next.
    torch.cuda.empty_cache()
    half = len(batch) // 2
    print(f"out of memory at a batch of {len(batch)}: going on with {half}")
    return [*in_halves(run, batch[:half]), *in_halves(run, batch[half:])]


def untrained(vlm: VLM, seed: int = 0) -> VLM:
    """A model of the same shape with random weights, not quantized: what its heads hold, training did not put there."""
    config = copy.deepcopy(vlm.model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config, dtype=vlm.model.dtype, attn_implementation="sdpa")
    return VLM(f"{vlm.name}, untrained", model.to(vlm.device).eval(), vlm.processor)


def _find(name: str) -> str:
    """The folder or hub id that a name means."""
    if (NANO / name / "config.json").is_file():
        return str(NANO / name)
    if name.startswith("nano-"):
        raise OSError(f"no nano model {name!r}; shipped: {', '.join(nano_names()) or 'none'}")
    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise OSError(f"the folder {name!r} holds no config.json; expected a saved transformers model")
    return name


def _quantization(quantize: str | None, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if quantize == "4bit":
        # On a CPU bfloat16 compute takes several times as long as float32, so compute follows the model's dtype.
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return BitsAndBytesConfig(load_in_8bit=True) if quantize == "8bit" else None


def _load_processor(source: str, config, settings: dict):
    """The model's processor; without torchvision its images-only view, which leaves the video processor out."""
    if importlib.util.find_spec("torchvision"):
        return AutoProcessor.from_pretrained(source, **settings)
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        known = PROCESSOR_MAPPING[type(config)]
    except KeyError:
        return AutoProcessor.from_pretrained(source, **settings)
    return images_only(known).from_pretrained(source, **settings)


def images_only(processor_class: type) -> type:
    """A processor class without its video processor, which transformers cannot build where torchvision is absent."""
    if "video_processor" not in processor_class.get_attributes():
        return processor_class

    class ImagesOnly(processor_class):
        @classmethod
        def get_attributes(cls):
            return [name for name in processor_class.get_attributes() if name != "video_processor"]

    ImagesOnly.__name__ = ImagesOnly.__qualname__ = processor_class.__name__
    return ImagesOnly
