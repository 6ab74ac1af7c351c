"""Load a vision-language model: hub id, folder or nano name, in 4-bit or not.

load_vlm(name, quantize="4bit")    -> VLM
untrained(vlm)                     a model of the same shape with random weights
"""

import copy

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, GenerationConfig

from cogvsr_utils.models.vlm import VLM
from cogvsr_utils.models.weights import QUANTIZE, find_weights
from cogvsr_utils.models.windows import windowed_attention

MARKS = ("bos_token_id", "eos_token_id", "pad_token_id")  # what generation takes from a model's own settings


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
    192
    """
    if quantize not in QUANTIZE:
        raise ValueError(f"quantize is {quantize!r}; expected one of {QUANTIZE}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    source = find_weights(name)
    settings = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(source, **settings)
    model = AutoModelForImageTextToText.from_pretrained(
        source, config=config, dtype=dtype, device_map=device, quantization_config=_quantization(quantize, dtype),
        attn_implementation="sdpa", **settings,
    ).eval().requires_grad_(False)  # fmt: skip
    ends = {name: getattr(model.generation_config, name, None) for name in MARKS}
    # Qwen2.5-VL, for one, brings a penalty for repetition, which would make greedy replies other than the likeliest.
    model.generation_config = GenerationConfig(**ends)
    windowed_attention(model)
    for module in model.modules():
        # On some CPUs bitsandbytes repacks weights for bfloat16 kernels, which round otherwise than elsewhere and
        # refuse widths that 32 does not divide, such as Qwen2.5-VL's; without them all CPUs give the same.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    processor = _load_processor(source, config, settings)
    commit = getattr(model.config, "_commit_hash", None) or revision or ""
    return VLM(name, model, processor, quantize, commit)


def untrained(vlm: VLM, seed: int = 0) -> VLM:
    """A model of the same shape with random weights, not quantized: a control for what training put into heads."""
    config = copy.deepcopy(vlm.model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config, dtype=vlm.model.dtype, attn_implementation="sdpa")
    return VLM(f"{vlm.name}, untrained", model.to(vlm.device).eval().requires_grad_(False), vlm.processor)


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
    """The model's processor in its images-only view, pictures prepared by PIL: the same with and without
    torchvision."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    settings = {**settings, "backend": "pil"}
    try:
        known = PROCESSOR_MAPPING[type(config)]
    except KeyError:
        return AutoProcessor.from_pretrained(source, **settings)
    return images_only(known).from_pretrained(source, **settings)


def images_only(processor_class: type) -> type:
    """A processor class without its video processor, which transformers cannot build without torchvision, and which a
    folder saved without it does not describe."""
    if "video_processor" not in processor_class.get_attributes():
        return processor_class

    class ImagesOnly(processor_class):
        @classmethod
        def get_attributes(cls):
            return [name for name in processor_class.get_attributes() if name != "video_processor"]

    ImagesOnly.__name__ = ImagesOnly.__qualname__ = processor_class.__name__
    return ImagesOnly
