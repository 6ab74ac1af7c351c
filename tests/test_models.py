import subprocess
import sys

import pytest
import torch

from cogvsr_utils import HeadMap, judge, load_vlm
from cogvsr_utils.answering import MAIN, answer, conversation
from cogvsr_utils.items import open_image
from cogvsr_utils.models import images_only, nano_names


def test_the_shipped_model_is_an_ordinary_folder_of_at_most_12_mb():
    from cogvsr_utils.paths import NANO

    assert "nano-internvl" in nano_names()
    for name in nano_names():
        assert sum(f.stat().st_size for f in (NANO / name).iterdir()) <= 12e6
        assert (NANO / name / "model.safetensors").exists() and not list((NANO / name).glob("*.bin"))


def test_loads_by_name_and_by_folder_alike(vlm, tmp_path):
    from cogvsr_utils.paths import NANO

    again = load_vlm(str(NANO / "nano-internvl"))
    assert again.fingerprint == vlm.fingerprint
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    assert load_vlm(str(tmp_path)).fingerprint == vlm.fingerprint


def test_errors_say_what_was_given_and_what_is_there(tmp_path):
    with pytest.raises(ValueError, match=r"quantize is '2bit'; expected one of"):
        load_vlm("nano-internvl", quantize="2bit")
    with pytest.raises(OSError, match=r"no nano model 'nano-none'; shipped: nano-internvl"):
        load_vlm("nano-none")
    with pytest.raises(OSError, match=r"holds no config\.json"):
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
    assert set(table["head_dim"]) == {text.hidden_size // text.num_attention_heads}
    assert (table["stop"] - table["start"] == table["head_dim"]).all()
    assert (table["start"].to_numpy()[1:] == table["stop"].to_numpy()[:-1]).all() and table["start"][0] == 0
    assert not table["module"].str.contains("vision").any()
    with pytest.raises(KeyError, match="no such heads"):
        vlm.heads.columns([(99, 0)])


def test_head_width_comes_from_the_module_not_from_hidden_over_heads():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=20, vocab_size=32)  # fmt: skip
    table = HeadMap.of(Qwen3ForCausalLM(config)).table
    assert len(table) == 8 and set(table["head_dim"]) == {20}


def test_a_model_without_a_decoder_is_refused():
    with pytest.raises(ValueError, match="Linear has no text decoder"):
        HeadMap.of(torch.nn.Linear(2, 2))


def test_images_only_view_leaves_the_video_processor_out():
    from transformers import InternVLProcessor, Qwen2_5_VLProcessor

    for known in (InternVLProcessor, Qwen2_5_VLProcessor):
        view = images_only(known)
        assert "video_processor" not in view.get_attributes() and "tokenizer" in view.get_attributes()
        assert view.__name__ == known.__name__ and "video_processor" in known.get_attributes()


def test_importing_the_package_loads_neither_torch_nor_transformers():
    code = "import sys, cogvsr_utils, cogvsr_utils.items, cogvsr_utils.scenes, cogvsr_utils.stats, cogvsr_utils.run; " \
           "print([m for m in ('torch', 'transformers') if m in sys.modules])"  # fmt: skip
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_training_chat_is_what_the_chat_template_makes(vlm, items):
    """The model is trained on text put together by hand; at inference the template makes the same."""
    from cogvsr_utils.nano.data import PREFIX, chat_text

    item = items[0]
    said = [step.answer for step in item.steps]
    text = vlm.render(conversation(item, said, MAIN), prompt=True) + item.answer + "<|end|>"
    trained = PREFIX + chat_text(item.question, item.steps, item.answer)
    ids = vlm.encode([text], [open_image(item)])["input_ids"][0].tolist()
    assert ids == vlm.tokenizer(trained).input_ids
    assert vlm.tokenizer.unk_token_id not in ids
