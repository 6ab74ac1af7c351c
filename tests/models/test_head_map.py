"""Every vision-language model type that transformers registers and can build: the map against its configuration."""

from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModelForImageTextToText, Qwen3Config, Qwen3ForCausalLM, logging
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as REGISTERED

from cogvsr_utils.models.head_map import HeadMap

# What keeps a type out of this test; a release that mends one makes `test_exclusions_still_hold` say so.
NOT_BUILT = {
    **dict.fromkeys(("aya_vision", "chameleon", "cohere_compass", "deepseek_ocr2", "diffusion_gemma", "emu3", "evolla",
                     "granite4_vision", "hunyuan_vl", "perception_lm", "qwen4_exp"),
                    "its default configuration does not build"),
}  # fmt: skip
NEED_TIMM = ("fast_vlm", "gemma3n")  # for their vision tower
ENCODER_DECODERS = ("florence2", "pix2struct", "pp_formulanet", "t5gemma2", "udop", "vision-encoder-decoder")
DECODERS = sorted(set(REGISTERED) - set(NOT_BUILT) - set(NEED_TIMM) - set(ENCODER_DECODERS))
LINEAR = ("linear_attention", "conv", "mamba", "moe", "mlp")  # kinds of layer without softmax over keys


def build(name):
    """A model of one type from its default configuration, without memory for its weights."""
    logging.set_verbosity_error()
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(CONFIG_MAPPING[name]())


def text_config(config):
    """The language model's configuration, by the names that the types give it."""
    for name in ("text_config", "llm_config", "vlm_config", "language_config", "thinker_config"):
        if getattr(config, name, None) is not None:
            return text_config(getattr(config, name))
    return config


def expected(config):
    """(layer, kind, heads, width of a head), read from the configuration alone."""
    text = text_config(config)
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None)
    kinds = kinds or ["attention"] * text.num_hidden_layers
    crossing = getattr(text, "cross_attention_layers", None) or []
    found = []
    for layer, kind in enumerate(kinds):
        if kind in LINEAR:
            continue
        here = text.per_layer_config[layer] if hasattr(text, "per_layer_config") else text
        heads = here.num_attention_heads
        sizes = (getattr(here, "v_head_dim", None), getattr(here, "head_dim", None), here.hidden_size // heads)
        width = next(size for size in sizes if size)
        found.append((layer, "cross" if layer in crossing else "self", heads, width))
    if config.model_type == "blip":  # every layer reads the picture too
        found += [(layer, "cross", heads, width) for layer, _, heads, width in found]
    if config.model_type == "idefics":  # a block of cross-attention before every n-th layer
        found += [(layer, "cross", h, w) for layer, _, h, w in found if layer % config.cross_layer_interval == 0]
    return sorted(found)


@pytest.mark.parametrize("name", DECODERS)
def test_map_is_what_the_configuration_says(name):
    model = build(name)
    heads = HeadMap.of(model)
    table = heads.table
    sites = table.groupby(["layer", "kind", "module"]).agg(n=("head", "size"), width=("head_dim", "first"))
    found = sorted((layer, kind, n, width) for (layer, kind, _), n, width in sites.itertuples())
    assert found == expected(model.config)
    assert not table.duplicated(["layer", "head"]).any()
    assert table["start"][0] == 0 and (table["start"].to_numpy()[1:] == table["stop"].to_numpy()[:-1]).all()
    modules = dict(model.named_modules())
    for module, (start, stop) in heads.projections.items():
        assert modules[module].in_features == stop - start
        assert not any(word in module for word in ("vision", "visual", "audio", "image"))
    assert not set(heads.elsewhere["module"]) & set(table["module"])


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_encoder_decoders_are_refused_by_name(name):
    with pytest.raises(ValueError, match=r"is an encoder-decoder: .* expected a decoder-style model"):
        HeadMap.of(build(name))


@pytest.mark.parametrize("name", [*NOT_BUILT, *(() if find_spec("timm") else NEED_TIMM)])
def test_exclusions_still_hold(name):
    with pytest.raises(Exception):  # noqa: B017
        build(name)


def test_enough_types_are_covered():
    assert len(DECODERS) >= 75


def test_query_heads_share_key_heads_in_groups():
    config = Qwen3Config(hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=20, vocab_size=32)  # fmt: skip
    table = HeadMap.of(Qwen3ForCausalLM(config)).table
    assert table["key_head"].tolist() == [0, 0, 1, 1] * 2 and set(table["head_dim"]) == {20}


def test_vision_towers_are_listed_apart(vlm):
    elsewhere = vlm.heads.elsewhere
    assert len(elsewhere) == vlm.model.config.vision_config.num_hidden_layers
    assert elsewhere["module"].str.startswith("model.vision_tower").all() and set(elsewhere["width"]) == {128}


def test_a_model_without_a_decoder_is_refused():
    with pytest.raises(ValueError, match="Linear has no text decoder"):
        HeadMap.of(torch.nn.Linear(2, 2))
