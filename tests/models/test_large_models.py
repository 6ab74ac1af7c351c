"""What matters where a model is large, on a GPU or from a hub: precision of logits, memory, settings that it brings."""

from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import torch

from cogvsr_utils.functions import NAMES
from cogvsr_utils.models import scorer as scorer_module
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.attribution import attribution_patching, image_attention, output_norms
from cogvsr_utils.models.head_edits import mask
from cogvsr_utils.models.hooks import unrounded_logits
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.patching import patch_heads, path_attribution
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.models.weights import weights_digest
from tests.families import FAMILIES, build

CAUSAL = [name for name in FAMILIES if name != "paligemma"]


def log_probs_by_hand(vlm, scorer):
    """The sum of log-probabilities of each step's answer, from whole passes of the model itself."""
    total = np.zeros(len(scorer.index))
    for inputs, (row, token), owner in scorer.batches:
        with torch.no_grad():
            logits = vlm.model(**vlm.on_device(inputs), use_cache=False).logits
        for r, t, step in zip(row.tolist(), token.tolist(), owner.tolist(), strict=True):
            total[step] += float(logits[r, t - 1].double().log_softmax(0)[inputs["input_ids"][r, t]])
    return total


@pytest.mark.parametrize("family", CAUSAL)
def test_chats_without_a_picture_are_scored_as_the_model_reads_them(family, asked):
    """Where there is no picture a model of cross-attention skips the blocks that read it."""
    vlm = build(family)
    text = TeacherForcedScorer(vlm, [replace(item, image=None) for item in asked], batch_size=4)
    layers = sorted(set(vlm.heads.table.query("kind == 'self'")["layer"]))
    edits = [None, *(mask([(layer, 0)]) for layer in layers)]
    scores = text.score_each(edits, progress=False)
    np.testing.assert_allclose(scores[0].log_prob, log_probs_by_hand(vlm, text), atol=2e-4)
    for edit, found in zip(edits, scores, strict=True):
        assert np.array_equal(found.log_prob, text.score(edit).log_prob)
    sets = [[], *([(layer, 1)] for layer in layers)]
    same = patch_heads(text, text, sets, progress=False)  # from the same run: nothing changes
    np.testing.assert_allclose(same, np.tile(scores[0].log_prob, (len(sets), 1)), atol=2e-4)


def test_heads_of_cross_attention_do_nothing_without_a_picture(asked):
    vlm = build("mllama")
    (layer,) = set(vlm.heads.table.query("kind == 'cross'")["layer"])
    cross, bare = mask([(layer, 0)]), [replace(item, image=None) for item in asked]
    text, mixed = TeacherForcedScorer(vlm, bare), TeacherForcedScorer(vlm, [*asked[:2], *bare[2:]])
    with pytest.raises(RuntimeError, match="never fired: no chat has a picture"):
        text.score(cross)
    intact, edited = mixed.score_each([None, cross], progress=False)
    seen = mixed.index["uid"].isin([item.uid for item in asked[:2]])
    assert np.array_equal(edited.log_prob[~seen], intact.log_prob[~seen])
    assert not np.isclose(edited.log_prob[seen], intact.log_prob[seen]).any()
    with pytest.raises(ValueError, match="has no picture; expected edits that do not need one"):
        answer(vlm, bare[:1], edits={bare[0].uid: cross})
    of_cross = np.array([pair in vlm.heads.cross for pair in vlm.heads.pairs])
    named = [name for name in NAMES if name in set(text.index["function"])]
    for found in (attribution_patching(text, named), path_attribution(text, text, named)):
        assert np.isfinite(found).all() and not found[:, of_cross].any()
    assert attribution_patching(text, named)[:, ~of_cross].any()
    assert not image_attention(text, named).any()
    assert (output_norms(text) > 0).tolist() == (~of_cross).tolist()


def test_logits_of_a_model_in_bfloat16_are_not_rounded(asked):
    vlm = build("gemma3")  # with a cap on its logits
    vlm.model.to(torch.bfloat16)
    scorer = TeacherForcedScorer(vlm, asked)
    ((inputs, (row, token), _),) = scorer.batches
    with torch.no_grad():
        hidden = vlm.forward(inputs).last_hidden_state[row, token - 1].double()
        exact = hidden @ vlm.model.get_output_embeddings().weight.double().T
        found = vlm.next_logits(inputs, row, token - 1)
        rounded = vlm.model(**inputs, use_cache=False).logits[row, token - 1]
        with unrounded_logits(vlm):
            whole = vlm.model(**inputs, use_cache=False).logits[row, token - 1]
    cap = vlm.model.config.get_text_config().final_logit_softcapping
    exact = exact if cap is None else cap * torch.tanh(exact / cap)
    assert found.dtype == whole.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole, found, rtol=1e-5, atol=1e-5)
    assert (rounded.double() - exact).abs().max() > 100 * (found.double() - exact).abs().max()


@pytest.mark.parametrize("parts", [1, 7, 10_000])
def test_the_vocabulary_may_be_read_in_parts(parts, asked, monkeypatch):
    vlm = build("llava")
    hidden = torch.randn(3, vlm.model.get_output_embeddings().in_features, dtype=torch.bfloat16)
    vlm.model.to(torch.bfloat16)
    monkeypatch.setattr("cogvsr_utils.models.vlm.VOCABULARY", parts)
    expected = hidden.double() @ vlm.model.get_output_embeddings().weight.double().T
    torch.testing.assert_close(vlm.output_logits(hidden).double(), expected, rtol=1e-5, atol=1e-5)


def test_replies_are_the_likeliest_whatever_the_model_s_own_settings_say(vlm, items, answers, tmp_path):
    """Such as Qwen2.5-VL-Instruct's penalty for repetition."""
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    brought = vlm.model.generation_config.to_dict() | {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1}
    type(vlm.model.generation_config)(**brought).save_pretrained(tmp_path)
    again = load_vlm(str(tmp_path), dtype=torch.float32)
    assert again.model.generation_config.eos_token_id == vlm.model.generation_config.eos_token_id is not None
    assert answer(again, items)["prediction"].tolist() == answers["prediction"].tolist()


def test_a_template_that_writes_the_day_gives_the_same_chat_on_all_days():
    vlm = build("llava")
    vlm.processor.chat_template = (
        "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }} " + vlm.processor.chat_template
    )
    chat = vlm.render([{"role": "user", "content": [{"type": "text", "text": "where?"}]}], prompt=True)
    assert chat.startswith("26 Jul 2024 ")


def test_what_does_not_fit_is_computed_again(vlm, items, monkeypatch):
    """Image features of all chats, and blocks' outputs, beyond the memory that is set aside for them."""
    edits, kept = [None, mask([(5, 0)]), mask([(7, 1)])], TeacherForcedScorer(vlm, items[:6], batch_size=2)
    expected = kept.score_each(edits, progress=False)
    assert all(kept._features)
    monkeypatch.setattr(scorer_module, "ROOM", 1)
    bare = TeacherForcedScorer(vlm, items[:6], batch_size=2)
    for found, score in zip(bare.score_each(edits, progress=False), expected, strict=True):
        np.testing.assert_allclose(found.log_prob, score.log_prob, atol=1e-5)
    assert not any(bare._features)


def test_gradients_of_few_chats_at_once_come_to_those_of_all(vlm, items, monkeypatch):
    scorer = TeacherForcedScorer(vlm, items[:6], batch_size=6)
    parts = list(scorer.smaller_batches(2))
    assert {len(inputs["input_ids"]) for inputs, *_ in parts} == {2}
    owners = np.concatenate([owner for *_, owner in parts])
    assert sorted(owners) == sorted(scorer.batches[0][2]), "every answer token once, with its step"
    found = []
    for batches in (scorer.batches, parts):
        monkeypatch.setattr(scorer, "batches_for_gradients", lambda batches=batches: batches)
        found.append([attribution_patching(scorer, NAMES), image_attention(scorer, NAMES), output_norms(scorer)])
    for whole, by_parts in zip(*found, strict=True):
        np.testing.assert_allclose(whole, by_parts, atol=1e-4)
        assert np.nan_to_num(whole).any()


def test_a_step_without_tokens_is_left_out_not_right(vlm, items, caplog):
    item = replace(items[0], steps=[replace(items[0].steps[0], answer=""), *items[0].steps[1:]])
    scorer = TeacherForcedScorer(vlm, [item, items[1]])
    assert len(scorer.index) == len(item.steps) + len(items[1].steps) - 1
    assert (item.uid, 0) not in set(scorer.index[["uid", "step"]].itertuples(index=False, name=None))
    assert "1 of" in caplog.text and "have no answer tokens" in caplog.text
    np.testing.assert_allclose(scorer.score().log_prob, log_probs_by_hand(vlm, scorer), atol=1e-4)
    silent = replace(items[2], steps=[replace(items[2].steps[0], answer="")])
    alone = TeacherForcedScorer(vlm, [item, silent], batch_size=1)  # a batch of which nothing is left
    edits = [None, mask([(5, 0)]), mask([(5, 1)])]
    for found, edit in zip(alone.score_each(edits, together=2, progress=False), edits, strict=True):
        np.testing.assert_allclose(found.log_prob, alone.score(edit).log_prob, atol=1e-4)
    with pytest.raises(ValueError, match="no step has an answer with tokens of its own"):
        TeacherForcedScorer(vlm, [silent])


def test_means_of_cross_attention_are_over_chats_in_which_it_runs(asked):
    vlm, bare = build("mllama"), [replace(item, image=None, uid=f"{item.uid} bare") for item in asked]
    alone, mixed = (TeacherForcedScorer(vlm, items).means()["all"] for items in (asked, [*asked, *bare]))
    crossed = np.isin(vlm.heads.of_column, [vlm.heads.pairs.index(pair) for pair in vlm.heads.cross])
    np.testing.assert_allclose(mixed[crossed], alone[crossed], atol=1e-6)
    assert crossed.any() and np.abs(alone[crossed]).max() > 0.01
    assert np.abs(mixed[~crossed] - alone[~crossed]).max() > 1e-4


def test_a_model_of_a_hub_has_one_hash_before_and_after_its_download(monkeypatch, tmp_path):
    """The hub is stood in for: what it says of a model, and what its download leaves in the cache."""
    commit, there = "c" * 40, {"commit": "c" * 40, "path": None}

    class Info:
        sha = commit

    monkeypatch.setattr(huggingface_hub, "model_info", lambda name, revision, timeout: Info)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file, revision: there["path"])
    before = weights_digest("someone/a-model")
    there["path"] = str(tmp_path / "snapshots" / commit / "config.json")
    assert weights_digest("someone/a-model") == before
    Info.sha, there["path"] = "d" * 40, None
    assert weights_digest("someone/a-model") != before

    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "model_info", unreachable)
    assert weights_digest("someone/a-model") == weights_digest("someone/a-model", "main") != before
