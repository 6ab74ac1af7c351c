"""Forward, generate, capture and masking on tiny models of fifteen families, with their own processors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from families import FAMILIES, build

from cogvsr_utils.checks.parity import check_parity
from cogvsr_utils.dataset.images import grey_pictures, open_image
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.attention_edits import attend
from cogvsr_utils.models.blocks import decoder_blocks
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.head_edits import mask, mean_ablate, scale, steer
from cogvsr_utils.models.interventions import intervene
from cogvsr_utils.models.options import forced_choice
from cogvsr_utils.models.patching import patch_heads
from cogvsr_utils.models.positions import chat_spans
from cogvsr_utils.models.recording import capture
from cogvsr_utils.models.scorer import TeacherForcedScorer

LAYERS = {"qwen3_5": [1, 3], "mllama": [0, 1, 2]}  # layers of softmax attention; 0 and 1 in all others
CAUSAL = [name for name in FAMILIES if name != "paligemma"]


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request):
    return build(request.param)


@pytest.fixture(scope="module", params=CAUSAL)
def causal(request):
    return build(request.param)


def inputs_of(vlm, items, side="left"):
    texts = [vlm.render(conversation(item, [], 0), prompt=True) for item in items]
    return vlm.encode(texts, [open_image(item) for item in items], side=side)


def last(vlm, inputs, edits=None):
    with torch.no_grad(), intervene(vlm, edits):
        return vlm.model(**inputs, use_cache=False).logits[:, -1]


def test_tokens_of_a_chat_are_counted_without_its_picture_read(tiny, asked):
    for item in asked[:2]:
        chat = tiny.render(conversation(item, ["a reply"], 1), prompt=True)
        whole = tiny.encode([chat], [open_image(item)])["input_ids"].shape[1]
        text = len(tiny.tokenizer(chat, add_special_tokens=False)["input_ids"])
        assert whole == text + tiny.picture_tokens(open_image(item).size)


def test_a_forced_choice_is_read_where_the_reply_begins(tiny, asked):
    items = [replace(item, steps=[]) for item in asked[:2]]
    if tiny.name not in CAUSAL:
        with pytest.raises(ValueError, match="reads its prompt in both directions"):
            forced_choice(tiny, items)
        return
    found = forced_choice(tiny, items, batch_size=1)
    words = [tiny.tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("yes", "no")]
    for item, covered in zip(items, found["covered"], strict=True):
        prompt = tiny.render(conversation(item, [], MAIN), prompt=True)
        with torch.no_grad():
            logits = tiny.model(**tiny.encode([prompt], [open_image(item)]), use_cache=False).logits[0, -1]
        expected = logits.double().softmax(0)[[token for (token,) in words]].sum()
        assert covered == pytest.approx(expected.item(), rel=1e-3)


def test_map_masking_and_generation(tiny, asked):
    layers = LAYERS.get(tiny.name, [0, 1])
    assert sorted(set(tiny.heads.table["layer"])) == layers and len(tiny.heads) == 4 * len(layers)
    inputs = inputs_of(tiny, asked[:2])
    before = last(tiny, inputs)
    assert torch.isfinite(before).all()
    for layer in layers:
        masked = last(tiny, inputs, mask([(layer, 0)]))
        assert (masked - before).abs().max() > 1e-4, layer
    assert torch.equal(last(tiny, inputs), before)
    said = answer(tiny, asked, max_new_tokens=3)
    assert (said["prediction"].str.len() > 0).all()
    changed = answer(
        tiny, asked, max_new_tokens=3, edits=mask([(layer, head) for layer in layers for head in range(4)])
    )
    assert (changed["prediction"] != said["prediction"]).any()


def test_capture_is_what_generation_held(tiny, asked, tmp_path):
    """Stored features against hooks while the model answers, one item and one token at a time."""
    if tiny.name not in CAUSAL:
        with pytest.raises(ValueError, match="reads its prompt in both directions"):
            capture(tiny, asked, store=tmp_path)
        return
    said = answer(tiny, asked, max_new_tokens=3)
    held = capture(tiny, asked, store=tmp_path, answers=said, pool="token", batch_size=4)
    assert held.header["not_located"] == []
    modules = dict(tiny.model.named_modules())
    for item in asked[:2]:
        replies = said[(said["uid"] == item.uid) & (said["step"] != MAIN)].sort_values("step")["prediction"].tolist()
        prompt = tiny.render(conversation(item, replies[:1], 1), prompt=True)
        seen = {name: [] for name in tiny.heads.projections}
        hooks = [
            modules[n].register_forward_pre_hook(lambda m, a, n=n, seen=seen: seen[n].append(a[0][0, -1])) for n in seen
        ]
        with torch.no_grad():
            tiny.model.generate(**tiny.encode([prompt], [open_image(item)]), do_sample=False, max_new_tokens=3)
        for hook in hooks:
            hook.remove()
        live = torch.stack([torch.cat([seen[name][token] for name in seen]) for token in range(3)])
        rows = held.index[(held.index["uid"] == item.uid) & (held.index["step"] == 1)].index
        np.testing.assert_allclose(held.features[rows], live, rtol=5e-3, atol=5e-3)


def test_parity_table_passes(tiny, asked):
    if tiny.name in CAUSAL:
        table = check_parity(tiny, asked)
        assert table["passed"].all(), table


@pytest.mark.parametrize("name", ["gemma3", "mllama"])
def test_a_text_begins_once(name, asked):
    """A tokenizer that adds its first mark to texts which the template has begun already."""
    from tokenizers.processors import TemplateProcessing

    vlm = build(name)
    mark = vlm.tokenizer.bos_token
    vlm.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{mark} $A", special_tokens=[(mark, vlm.tokenizer.bos_token_id)]
    )
    assert vlm.tokenizer("red").input_ids[0] == vlm.tokenizer.bos_token_id
    ids = inputs_of(vlm, asked[:1])["input_ids"][0].tolist()
    assert ids.count(vlm.tokenizer.bos_token_id) == 1


def test_a_template_that_rewrites_earlier_turns_is_refused(asked):
    vlm = build("llava")
    vlm.processor.chat_template = vlm.processor.chat_template.replace("<|end|>", "{{ loop.length }}<|end|>")
    with pytest.raises(ValueError, match="does not keep earlier turns as they were"):
        chat_spans(vlm, asked[0], ["red", "2"])


def test_what_an_edit_leaves_as_it_is_may_be_taken_from_the_pass_without(causal, asked):
    """A sweep, which does not compute the blocks before the first edited one again, against a whole pass an edit."""
    scorer = TeacherForcedScorer(causal, asked, batch_size=2)
    layers = LAYERS.get(causal.name, [0, 1])
    last, width = (max(layers), 0), causal.heads.columns([(max(layers), 0)])[0]
    mean = scorer.means()["all"][width]
    edits = [None, *(mask([(layer, head)]) for layer in layers for head in (0, 1)), mean_ablate([last], [mean]),
             steer([last], [mean + 1], 2.0, "all"), attend([last], "multiply", 3.0, "elsewhere")]  # fmt: skip
    expected = [scorer.score(edit) for edit in edits]
    for found, whole in zip(scorer.score_each(edits, progress=False), expected, strict=True):
        assert np.array_equal(found.log_prob, whole.log_prob) and np.array_equal(found.correct, whole.correct)
    assert np.abs(expected[1].log_prob - expected[0].log_prob).max() > 1e-4


def test_several_edits_in_one_pass_are_each_alone(causal, asked):
    """Heads ablated, and heads patched from another run, two and three a pass."""
    scorer = TeacherForcedScorer(causal, asked, batch_size=3)
    layer = max(LAYERS.get(causal.name, [0, 1]))
    edits = [mask([(layer, 1)]), None, scale([(layer, 0), (layer, 2)], 3.0), mask([(layer, 0)]), scale([(layer, 1)], 2)]
    first = min(LAYERS.get(causal.name, [0, 1]))
    edits += [mask([(first, 1)]), scale([(first, 0)], 2.0), attend([(layer, 2)], "multiply", 3.0, "elsewhere"),
              attend([(first, 1)], "add", -2.0, "elsewhere")]  # fmt: skip
    expected = [scorer.score(edit).log_prob for edit in edits]
    for together in (2, 3):
        found = scorer.score_each(edits, together=together, progress=False)
        np.testing.assert_allclose([each.log_prob for each in found], expected, atol=2e-4)
    grey = TeacherForcedScorer(causal, grey_pictures(asked), batch_size=3)
    sets = [[(layer, head)] for head in range(3)]
    alone = patch_heads(grey, scorer, sets, progress=False)
    np.testing.assert_allclose(patch_heads(grey, scorer, sets, together=2, progress=False), alone, atol=2e-4)


def test_blocks_are_left_as_they_were(causal, asked):
    scorer = TeacherForcedScorer(causal, asked[:2])
    scorer.score_each([None, mask([(max(LAYERS.get(causal.name, [0, 1])), 0)])], progress=False)
    assert not any("forward" in vars(block) or block._forward_hooks for block in decoder_blocks(causal))
