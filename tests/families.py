"""Tiny vision-language models of 15 families, randomly initialised, each with a real processor.

FAMILIES               name -> function that gives (configuration, processor)
build(name, seed)      -> VLM, float32, in eval mode; ready to encode, answer, capture and intervene

Pictures of 64 x 64 and of 96 x 64 pixels take different paths where the family has such: other grids, tiles or crops.
Weights are drawn ten times as wide as usual, so that what a test changes shows well above rounding. Processors are the
families' own, except where those need torchvision: see ``mistral3`` and ``OneTile``.
"""

import torch
import transformers as tf
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from cogvsr_utils.models.loading import images_only
from cogvsr_utils.models.vlm import VLM
from cogvsr_utils.nano.architecture import build_tokenizer, chat_template

WORDS = """answer in a few words the question : . , ? is it are there how many what which of on to left right behind
front object objects cube cubes sphere spheres cone cones red blue green grey yellow large small metal rubber color
shape size yes no 0 1 2 3 4 5 6 7 8 9"""
PATCH, TILE = 8, 32
HIDDEN, HEAD_DIM = 32, 12  # a head is wider than HIDDEN / 4 wherever the family lets it be
WIDTHS = dict(hidden_size=HIDDEN, intermediate_size=48)
VISION = dict(WIDTHS, num_hidden_layers=2, num_attention_heads=2, image_size=TILE, patch_size=PATCH,
              initializer_range=0.2)  # fmt: skip
SHOWN = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
SQUARE = dict(SHOWN, size={"height": TILE, "width": TILE})
CROPPED = dict(SHOWN, size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE})
TILINGS = [[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]]


def build(name: str, seed: int = 0) -> VLM:
    """A model of one family; the same seed gives the same weights."""
    config, made = FAMILIES[name]()
    torch.manual_seed(seed)
    model = tf.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():  # gates and projections that begin at zero would hide the picture
            if not weight.any() and (weight.ndim > 1 or weight.numel() == 1):
                weight.normal_(0.5, 0.2)
    tokens = made.tokenizer
    # Random weights would say image marks and end at once; every reply is to be words, as many as were asked for.
    model.generation_config.update(
        pad_token_id=tokens.pad_token_id, eos_token_id=tokens.eos_token_id, bos_token_id=tokens.bos_token_id,
        suppress_tokens=sorted(tokens.added_tokens_decoder),
    )  # fmt: skip
    return VLM(name, model, made)


def tokenizer(*special: str, **named: str):
    """A tokenizer with a family's special tokens and the names under which its processor looks for some of them."""
    return build_tokenizer(WORDS.split(), special, named)


def processor(processor_class, images, tokens, mark: str, start: str = "", **more):
    """A family's processor for pictures and text; ``mark`` stands for a picture in its chats."""
    return images_only(processor_class)(
        image_processor=images, tokenizer=tokens, chat_template=chat_template(mark, start), **more
    )


def text(tokens, **more) -> dict:
    """A decoder's settings: two layers, two query heads for each key-value head."""
    settings = dict(
        WIDTHS, vocab_size=len(tokens), num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, initializer_range=0.2, tie_word_embeddings=False, bos_token_id=tokens.bos_token_id,
        pad_token_id=tokens.pad_token_id, eos_token_id=tokens.eos_token_id,
    )  # fmt: skip
    return settings | more


def wide(tokens, **more) -> dict:
    return text(tokens, head_dim=HEAD_DIM, **more)


def clip():
    return tf.CLIPVisionConfig(**VISION, projection_dim=HIDDEN)


def siglip():
    return tf.SiglipVisionConfig(**VISION, vision_use_head=False)


def rope(*sections: int, **more) -> dict:
    """Rotary positions in time, height and width; sections add up to half of what is rotated."""
    return {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": list(sections), **more}


def _qwen(config_class, processor_class, vision: dict, **decoder):
    start, end, image, video = special = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokens = tokenizer(*special, vision_start_token=start, vision_end_token=end, image_token=image, video_token=video)
    config = config_class(
        vision_config=dict(vision, depth=2, num_heads=2, patch_size=PATCH, initializer_range=0.2),
        text_config=text(tokens, **decoder),
        image_token_id=tokens.image_token_id,
        video_token_id=tokens.video_token_id,
        vision_start_token_id=tokens.vision_start_token_id,
        vision_end_token_id=tokens.vision_end_token_id,
        tie_word_embeddings=False,
    )
    pixels = {"shortest_edge": TILE**2, "longest_edge": (2 * TILE) ** 2}
    images = Qwen2VLImageProcessorPil(size=pixels, patch_size=PATCH, **SHOWN)
    return config, processor(processor_class, images, tokens, start + image + end)


def qwen2_vl():
    vision = dict(embed_dim=HIDDEN, hidden_size=HIDDEN, mlp_ratio=2)
    return _qwen(tf.Qwen2VLConfig, tf.Qwen2VLProcessor, vision, rope_parameters=rope(2, 1, 1))


def qwen2_5_vl():
    vision = dict(WIDTHS, out_hidden_size=HIDDEN, window_size=32, fullatt_block_indexes=[1])
    return _qwen(tf.Qwen2_5_VLConfig, tf.Qwen2_5_VLProcessor, vision, rope_parameters=rope(2, 1, 1))


def qwen3_vl():
    vision = dict(WIDTHS, out_hidden_size=HIDDEN, num_position_embeddings=64, deepstack_visual_indexes=[0])
    turned = rope(2, 2, 2, mrope_interleaved=True)
    return _qwen(tf.Qwen3VLConfig, tf.Qwen3VLProcessor, vision, head_dim=HEAD_DIM, rope_parameters=turned)


def qwen3_5():
    """Layers of linear and of softmax attention in turn."""
    vision = dict(WIDTHS, out_hidden_size=HIDDEN, num_position_embeddings=64)
    return _qwen(
        tf.Qwen3_5Config, tf.Qwen3VLProcessor, vision, num_hidden_layers=4, head_dim=16,
        layer_types=["linear_attention", "full_attention"] * 2, linear_key_head_dim=8, linear_value_head_dim=8,
        linear_num_key_heads=2, linear_num_value_heads=4,
        rope_parameters=rope(2, 1, 1, mrope_interleaved=True, partial_rotary_factor=0.5),
    )  # fmt: skip


def internvl():
    """One tile for a square picture, two and a thumbnail for a wide one."""
    start, end, image, video = special = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    tokens = tokenizer(
        *special, start_image_token=start, end_image_token=end, context_image_token=image, video_token=video
    )
    config = tf.InternVLConfig(
        vision_config=VISION | dict(image_size=[TILE, TILE], patch_size=[PATCH, PATCH], layer_scale_init_value=1.0),
        text_config=tf.Qwen3Config(**wide(tokens)),
        image_token_id=tokens.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    images = GotOcr2ImageProcessorPil(crop_to_patches=True, min_patches=1, max_patches=2, **SQUARE)
    return config, processor(tf.InternVLProcessor, images, tokens, image, image_seq_length=4)


def _llava(config_class, processor_class, images, decoder_class, **more):
    tokens = tokenizer("<image>", image_token="<image>")
    decoder = decoder_class(**wide(tokens))
    config = config_class(vision_config=clip(), text_config=decoder, image_token_index=tokens.image_token_id, **more)
    seen = dict(patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1)
    return config, processor(processor_class, images, tokens, "<image>", **seen)


def llava():
    return _llava(tf.LlavaConfig, tf.LlavaProcessor, LlavaImageProcessorPil(**CROPPED), tf.LlamaConfig)


def vipllava():
    """In place of PaliGemma where a chat is read in one pass, which takes a causal model."""
    return _llava(tf.VipLlavaConfig, tf.LlavaProcessor, LlavaImageProcessorPil(**CROPPED), tf.LlamaConfig,
                  vision_feature_layers=[-1, -2])  # fmt: skip


def llava_next():
    images = LlavaNextImageProcessorPil(image_grid_pinpoints=TILINGS, **CROPPED)
    more = dict(image_grid_pinpoints=TILINGS)
    return _llava(tf.LlavaNextConfig, tf.LlavaNextProcessor, images, tf.MistralConfig, **more)


def llava_onevision():
    tokens = tokenizer("<image>", "<video>", image_token="<image>", video_token="<video>")
    config = tf.LlavaOnevisionConfig(
        vision_config=siglip(),
        text_config=tf.Qwen2Config(**wide(tokens)),
        image_token_index=tokens.image_token_id,
        video_token_index=tokens.video_token_id,
        image_grid_pinpoints=TILINGS,
    )
    images = LlavaOnevisionImageProcessorPil(image_grid_pinpoints=TILINGS, **SQUARE)
    seen = dict(num_image_tokens=16, vision_feature_select_strategy="full")
    return config, processor(tf.LlavaOnevisionProcessor, images, tokens, "<image>", **seen)


def gemma3():
    """One layer that looks a few tokens back and one that sees all; image tokens see one another."""
    start, end, image = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
    tokens = tokenizer("<bos>", start, end, image, bos_token="<bos>", boi_token=start, eoi_token=end, image_token=image)
    layers = dict(layer_types=["sliding_attention", "full_attention"], sliding_window=16)
    config = tf.Gemma3Config(
        vision_config=siglip(),
        text_config=wide(tokens, query_pre_attn_scalar=HEAD_DIM, **layers),
        mm_tokens_per_image=4,
        boi_token_index=tokens.boi_token_id,
        eoi_token_index=tokens.eoi_token_id,
        image_token_index=tokens.image_token_id,
        initializer_range=0.2,
    )
    images = Gemma3ImageProcessorPil(**SQUARE)
    return config, processor(tf.Gemma3Processor, images, tokens, start, start="<bos>", image_seq_length=4)


def paligemma():
    """Every token of a prompt sees every other."""
    # The line break that the processor puts at the end of every text is a token to this family.
    tokens = tokenizer("<bos>", "<image>", "\n", bos_token="<bos>", image_token="<image>")
    images = SiglipImageProcessorPil(image_seq_length=16, **SQUARE)
    # The processor adds words of its own to the tokenizer, so it comes before the decoder's vocabulary.
    made = processor(tf.PaliGemmaProcessor, images, tokens, "<image>")
    config = tf.PaliGemmaConfig(
        vision_config=siglip(),
        text_config=tf.GemmaConfig(**wide(tokens)),
        image_token_index=tokens.image_token_id,
        projection_dim=HIDDEN,
        hidden_size=HIDDEN,
        vocab_size=len(tokens),
    )
    return config, made


def idefics3():
    """Nine crops of a square picture, six of a wide one, and the whole."""
    crops = (f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
    tokens = tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *crops)
    config = tf.Idefics3Config(
        vision_config=VISION,
        text_config=tf.LlamaConfig(**wide(tokens)),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = Idefics3ImageProcessorPil(size={"longest_edge": 3 * TILE}, max_image_size={"longest_edge": TILE}, **SHOWN)
    return config, processor(tf.Idefics3Processor, images, tokens, "<image>", image_seq_len=4)


def mllama():
    """One layer of cross-attention among three."""
    tokens = tokenizer("<|begin|>", "<|python_tag|>", "<|image|>", image_token="<|image|>", bos_token="<|begin|>")
    config = tf.MllamaConfig(
        vision_config=dict(
            WIDTHS, num_hidden_layers=2, num_global_layers=1, attention_heads=2, vision_output_dim=2 * HIDDEN,
            image_size=TILE, patch_size=PATCH, max_num_tiles=2, supported_aspect_ratios=[[1, 1], [1, 2], [2, 1]],
            intermediate_layers_indices=[0], initializer_range=0.2,
        ),
        text_config=text(
            tokens, num_hidden_layers=3, cross_attention_layers=[1],
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        ),
        image_token_index=tokens.image_token_id,
    )  # fmt: skip
    images = MllamaImageProcessorPil(max_image_tiles=2, **SQUARE)
    return config, processor(tf.MllamaProcessor, images, tokens, "<|image|>", start="<|begin|>")


def mistral3():
    """The family's own PixtralProcessor needs torchvision; LightOnOCR's does the same but for marks between rows."""
    tokens = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]", image_token="[IMG]", image_break_token="[IMG_BREAK]",
                       image_end_token="[IMG_END]")  # fmt: skip
    config = tf.Mistral3Config(
        vision_config=tf.PixtralVisionConfig(**VISION | dict(image_size=2 * TILE)),
        text_config=tf.MistralConfig(**wide(tokens)),
        image_token_index=tokens.image_token_id,
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    merged = {"height": 2 * PATCH, "width": 2 * PATCH}
    images = PixtralImageProcessorPil(size={"longest_edge": 2 * TILE}, patch_size=merged, **SHOWN)
    seen = dict(patch_size=PATCH, spatial_merge_size=2)
    return config, processor(tf.LightOnOcrProcessor, images, tokens, "[IMG]", **seen)


def llama4():
    """A dense layer and one of experts."""
    tokens = tokenizer("<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>",
                       "<|tile_y_separator|>")  # fmt: skip
    start, end, patch = tokens.convert_tokens_to_ids(["<|image_start|>", "<|image_end|>", "<|patch|>"])
    shuffled = dict(intermediate_size=4 * HIDDEN, vision_output_dim=HIDDEN, projector_input_dim=HIDDEN,
                    projector_output_dim=HIDDEN)  # fmt: skip
    layers = dict(interleave_moe_layer_step=2, num_local_experts=2, no_rope_layers=[1, 0], attention_chunk_size=64)
    config = tf.Llama4Config(
        vision_config=VISION | shuffled,
        text_config=wide(tokens, intermediate_size_mlp=48, **layers),
        boi_token_index=start,
        eoi_token_index=end,
        image_token_index=patch,
    )
    seen = dict(patch_size=PATCH, pixel_shuffle_ratio=0.5)
    return config, processor(tf.Llama4Processor, OneTile(**SQUARE), tokens, "<|image|>", **seen)


class OneTile(SiglipImageProcessorPil):
    """Stands in for Llama 4's image processor, which exists for torchvision alone: every picture is one tile."""

    def preprocess(self, images, *args, **kwargs):
        found = super().preprocess(images, *args, **kwargs)
        return tf.BatchFeature({**found, "aspect_ratios": [(1, 1)] * len(found["pixel_values"])})


FAMILIES = {
    family.__name__: family
    for family in (qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5, internvl, llava, llava_next, llava_onevision, gemma3,
                   paligemma, vipllava, idefics3, mllama, mistral3, llama4)
}  # fmt: skip
