import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cogvsr_utils.dataset.scoring import judge
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.loading import images_only, load_vlm
from cogvsr_utils.models.vlm import VLM
from cogvsr_utils.models.weights import nano_names, planted_names
from cogvsr_utils.nano.architecture import build_tokenizer
from cogvsr_utils.nano.chats import OPENING, Chat
from cogvsr_utils.nano.train import FAMILIES, pixels
from cogvsr_utils.paths import NANO


def loud(model):
    """Weights in place of the zeros that a decoder begins training with."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.get_decoder().parameters():
            if not weight.any():
                weight.normal_(std=0.05)
    return model.eval()


def test_the_shipped_models_are_ordinary_folders_of_at_most_16_mb():

    assert "nano-internvl" in nano_names()
    for name in nano_names():
        assert sum(f.stat().st_size for f in (NANO / name).iterdir()) <= 16e6
        assert (NANO / name / "model.safetensors").exists() and not list((NANO / name).glob("*.bin"))


def test_loads_by_name_and_by_folder_alike(vlm, tmp_path):

    again = load_vlm(str(NANO / "nano-internvl"), dtype=vlm.model.dtype)
    assert again.weights_digest == vlm.weights_digest
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    assert load_vlm(str(tmp_path), dtype=vlm.model.dtype).weights_digest == vlm.weights_digest


def test_errors_say_what_was_given_and_what_is_there(tmp_path):
    with pytest.raises(ValueError, match=r"quantize is '2bit'; expected one of"):
        load_vlm("nano-internvl", quantize="2bit")
    with pytest.raises(OSError, match=r"no nano model 'nano-none'; shipped: nano-internvl"):
        load_vlm("nano-none")
    with pytest.raises(OSError, match=r"has no config\.json"):
        load_vlm(str(tmp_path))


def test_4bit_weights_are_packed_and_answers_stay_close(vlm, items, answers):
    four = load_vlm("nano-internvl", quantize="4bit")
    packed = [n for n, p in four.model.named_parameters() if p.dtype == torch.uint8]
    assert any("o_proj" in n for n in packed)
    assert four.heads.table.equals(vlm.heads.table)
    full, small = judge(answers)["correct"].mean(), judge(answer(four, items))["correct"].mean()
    assert abs(full - small) < 0.1


def test_map_agrees_with_the_configuration(vlm):
    text = vlm.model.config.text_config
    table = vlm.heads.table
    assert len(table) == text.num_hidden_layers * text.num_attention_heads
    assert set(table["head_dim"]) == {text.head_dim} == {24}
    with pytest.raises(KeyError, match="no such heads"):
        vlm.heads.columns([(99, 0)])


@pytest.mark.parametrize("name", nano_names() + planted_names())
def test_processors_are_the_same_with_and_without_torchvision(name):
    """The shipped folders describe no video processor, so none may be asked for; pictures are prepared by PIL."""
    from cogvsr_utils.paths import NANO

    assert "video_processor" not in (NANO / name / "processor_config.json").read_text()
    assert not list((NANO / name).glob("*video*"))
    processor = load_vlm(name).processor
    assert "video_processor" not in processor.get_attributes() and not hasattr(processor, "video_processor")
    assert type(processor.image_processor).__name__.endswith("Pil")


def test_images_only_view_leaves_the_video_processor_out():
    from transformers import InternVLProcessor, Qwen2_5_VLProcessor

    for known in (InternVLProcessor, Qwen2_5_VLProcessor):
        view = images_only(known)
        assert "video_processor" not in view.get_attributes() and "tokenizer" in view.get_attributes()
        assert view.__name__ == known.__name__ and "video_processor" in known.get_attributes()


def test_importing_the_package_loads_neither_torch_nor_transformers():
    code = (
        "import sys, cogvsr_utils, cogvsr_utils.dataset.loading, cogvsr_utils.stats, cogvsr_utils.models.weights; "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_training_sees_what_inference_sees(name, items):
    """Training takes the chat and the pictures apart by hand; template, processor and model make the same of them."""
    family, item = FAMILIES[name], items[0]
    answers = [step.answer for step in item.steps]
    trained = family.PREFIX + OPENING + Chat(item.question, item.steps, item.answer).text
    words = re.findall(r"\w+|[^\w\s]", trained.lower())
    tokenizer = build_tokenizer(words, family.SPECIAL, family.NAMED)
    vlm = VLM(name, loud(family.build_model(tokenizer)), family.build_processor(tokenizer))

    text = vlm.render(conversation(item, answers, MAIN), prompt=True) + item.answer + "<|end|>"
    images = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)) for i in range(2)]
    inputs = vlm.encode([text, text], images, side="right")
    assert inputs["input_ids"][0].tolist() == tokenizer(trained).input_ids
    assert tokenizer.unk_token_id not in inputs["input_ids"]
    with torch.no_grad():
        features = family.tower_features(vlm.model, pixels(np.stack([np.asarray(i) for i in images]), "cpu"))
        by_hand = family.decode(vlm.model, inputs["input_ids"], family.project(vlm.model, features))
        torch.testing.assert_close(by_hand, vlm.model.model(**inputs, use_cache=False).last_hidden_state)


@pytest.mark.parametrize("name", FAMILIES)
def test_image_tokens_show_the_patches_that_training_takes_them_for(name):
    family = FAMILIES[name]
    tokenizer = build_tokenizer(["a"], family.SPECIAL, family.NAMED)
    model = family.build_model(tokenizer)
    features = torch.randn(family.tower_features(model, torch.zeros(1, 3, 64, 64)).shape, requires_grad=True)
    tokens = family.project(model, features)[0, -len(family.PATCHES) :]
    for token, patches in zip(tokens, family.PATCHES, strict=True):
        (slope,) = torch.autograd.grad(token.square().sum(), features, retain_graph=True)
        assert set(slope[0, -64:].abs().sum(1).nonzero().flatten().tolist()) == set(patches.tolist())
