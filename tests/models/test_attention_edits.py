"""Edits of attention against an attention written out here in full, family by family, in one pass and generated."""

import json
import math
import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILIES, build
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models import edited_attention
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.attention import attention_module
from cogvsr_utils.models.attention_edits import Attend, adaptvis, attend, pai, pasta, patches_of, visual_sinks
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.edited_attention import attending
from cogvsr_utils.models.head_edits import mask
from cogvsr_utils.models.interventions import intervene
from cogvsr_utils.models.passes import question_tokens
from cogvsr_utils.models.positions import token_spans
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.models.vlm import attention_switched

SELF_ATTENTION = [name for name in FAMILIES if name != "mllama"]


@contextmanager
def written_out(vlm, change):
    """Inside, self-attention of the text decoder is computed in full: ``change(layer, scores, sees)`` gives the weights
    from scores (batch, heads, queries, keys) and what may be seen."""
    layers = {id(attention_module(vlm, r.module)): r.layer for r in vlm.heads.table.itertuples()}
    plain = AttentionInterface._global_mapping["sdpa"]

    def attention(owner, query, key, value, attention_mask, **kwargs):
        if id(owner) not in layers:
            return plain(owner, query, key, value, attention_mask, **kwargs)
        times = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(times, 1) for x in (key, value))
        scores, mask = torch.einsum("bhqd,bhkd->bhqk", query, key) * kwargs["scaling"], attention_mask
        n, m = scores.shape[-2:]
        sees = (
            torch.ones(n, m, dtype=torch.bool, device=scores.device).tril(m - n)[None, None]
            if mask is None
            else mask[..., :m]
        )
        sees = sees if sees.dtype == torch.bool else sees >= 0
        return torch.einsum("bhqk,bhkd->bqhd", change(layers[id(owner)], scores, sees), value), None

    AttentionInterface.register("written_out", attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register("written_out", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    with attention_switched(vlm, "written_out"):
        yield


def softmax(scores, sees):
    return scores.masked_fill(~sees, -torch.inf).softmax(-1)


def inputs_of(vlm, items, side="right"):
    chats = [vlm.render(conversation(item, [], 0), prompt=True) for item in items]
    return vlm.encode(chats, [open_image(item) for item in items], side=side)


def plain_edit(edit, picture, queries):
    """``edit`` written out: ``picture`` (batch, keys), ``queries`` (queries,) in its scope."""

    def change(layer, scores, sees):
        own = [head for at, head in edit.heads if at == layer]
        keys = picture if edit.to == "image" else ~picture
        new = scores.clone()
        for b in range(len(scores)):
            for h in own:
                for q in torch.arange(scores.shape[2])[queries]:
                    s = scores[b, h, q, keys[b]]
                    w = torch.tensor(edit.tokens).to(s) if edit.tokens else torch.ones_like(s)
                    new[b, h, q, keys[b]] = {"add": s + edit.amount * w, "boost": s + edit.amount * w * s.abs(),
                                             "multiply": s + (edit.amount - 1) * w * s}[edit.operation]  # fmt: skip
        return softmax(new, sees)

    return change


@pytest.mark.parametrize("operation, amount", [("add", -2.0), ("boost", 1.5), ("multiply", 2.0)])
@pytest.mark.parametrize("name", SELF_ATTENTION)
def test_scores_are_edited_as_written_out(name, operation, amount, asked):
    vlm = build(name)
    inputs = inputs_of(vlm, asked[:1])
    picture = inputs["input_ids"] == vlm.image_token_id
    for to in ("image", "elsewhere"):
        edit = attend([vlm.heads.pairs[1], vlm.heads.pairs[-1]], operation, amount, to)
        queries = torch.ones(picture.shape[1], dtype=torch.bool)
        with torch.inference_mode():
            before = vlm.model(**inputs).logits
            with attending(vlm, edit) as fired:
                found = vlm.model(**inputs).logits
            with written_out(vlm, plain_edit(edit, picture, queries)):
                expected = vlm.model(**inputs).logits
            after = vlm.model(**inputs).logits
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert (found - before)[:, -1].abs().max() > 1e-4 and torch.equal(before, after)
        assert fired["all"] == len({layer for layer, _ in edit.heads})


def tokens_of(vlm, item, words):
    """Tokens of all occurrences of some words in an item's prompt, by its characters: (1, tokens)."""
    (text,), (ids,) = [vlm.render(conversation(item, [], 0), prompt=True)], inputs_of(vlm, [item])["input_ids"].tolist()
    places = [(m.start(), m.end()) for m in re.finditer(rf"\b{words}\b", text)]
    found = torch.zeros(1, len(ids), dtype=torch.bool)
    for tokens in token_spans(vlm, text, places, ids):
        found[0, tokens] = True
    return found


@pytest.mark.parametrize("operation, amount", [("add", -2.0), ("multiply", 2.0)])
@pytest.mark.parametrize("name", [name for name in SELF_ATTENTION if name != "paligemma"])  # it adds to the text's end
def test_words_and_questions_are_edited_as_written_out(name, operation, amount, asked):
    vlm = build(name)
    inputs = inputs_of(vlm, asked[:1])
    spans = ["is the cube behind the sphere", "what color is the cube"]
    for to, words, scope in (("words", "the cube", "all"), ("elsewhere", "the cube", "all"), ("question", "", "all"),
                             ("words", "color", "question")):  # fmt: skip
        edit = attend([vlm.heads.pairs[1], vlm.heads.pairs[-1]], operation, amount, to, scope, words=words)
        asks = question_tokens(vlm, inputs["input_ids"])
        for span in spans:
            assert asks[tokens_of(vlm, asked[0], span)].all()
        marked = tokens_of(vlm, asked[0], words) if words else asks
        assert marked.any() and not marked.all()
        keys = marked if to != "elsewhere" else ~marked
        queries = asks[0] if scope == "question" else torch.ones_like(asks[0])
        by_hand = plain_edit(replace(edit, to="image", words=""), keys, queries.cpu())
        with torch.inference_mode():
            before = vlm.model(**inputs).logits
            with attending(vlm, edit):
                found = vlm.model(**inputs).logits
            with written_out(vlm, by_hand):
                expected = vlm.model(**inputs).logits
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert (found - before).abs().max() > 1e-4
    absent = pasta(edit.heads, words="zebra")
    with pytest.raises(RuntimeError, match="of the words 'zebra' never fired: no chat"):  # noqa: SIM117
        with torch.inference_mode(), attending(vlm, absent):
            vlm.model(**inputs)


def test_words_are_attended_to_at_every_token_that_is_generated(vlm, items):
    """With all other scores far below, a head gives the words what attention it has."""
    inputs, seen, values = inputs_of(vlm, items[:1]), [], []
    word = items[0].steps[0].question.lower().split()[1]
    marked, edit = tokens_of(vlm, items[0], word), pasta([(3, 0), (6, 5)], 1e-9, words=word)
    projection = vlm.heads.locate([(3, 0)])[0][0]
    owner, output = attention_module(vlm, projection), vlm.model.get_submodule(projection)
    handles = [
        output.register_forward_pre_hook(lambda _, given: seen.append(given[0])),
        owner.v_proj.register_forward_hook(lambda *given: values.append(given[-1])),
    ]
    try:
        with torch.inference_mode(), attending(vlm, edit):
            ids = vlm.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    finally:
        for handle in handles:
            handle.remove()
    assert len(seen) == ids.shape[1] - marked.shape[1] > 1
    among = values[0][0, marked[0], :24]
    for state in seen:  # within the span of what the words hold
        head = state[0, -1, :24]
        assert (head <= among.amax(0) + 1e-3).all() and (head >= among.amin(0) - 1e-3).all()


@pytest.mark.parametrize("name", SELF_ATTENTION)
def test_padding_and_rows_of_their_own_change_nothing_else(name, asked):
    """A padded batch with an edit in one row is the rows alone, one edited."""
    vlm = build(name)
    long, short = asked[0], asked[2]
    edit = attend([vlm.heads.pairs[0], vlm.heads.pairs[-1]], "add", 1.5)
    chats = [vlm.render(conversation(item, ["red"] * n, n), prompt=True) for item, n in ((long, 1), (short, 0))]
    pictures = [open_image(item) for item in (long, short)]
    for side in ("left", "right"):
        batch = vlm.encode(chats, pictures, side=side)
        with torch.inference_mode(), attending(vlm, [], rows=[[], [edit]]):
            found = vlm.model(**batch).logits
        for row, edits in enumerate(([], [edit])):
            alone = vlm.encode(chats[row : row + 1], pictures[row : row + 1])
            with torch.inference_mode(), attending(vlm, edits):
                expected = vlm.model(**alone).logits[0]
            real = batch["attention_mask"][row].bool()
            torch.testing.assert_close(found[row, real], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["greedy", "beams", "sampled"])
@pytest.mark.parametrize("scope", ["all", "prompt_last", "answer"])
def test_generation_with_a_cache_is_each_token_computed_anew(asked, scope, method):
    vlm = build("qwen2_5_vl")
    inputs = inputs_of(vlm, asked[:1])
    edit = attend([(0, 1), (1, 3)], "boost", 2.0, scope=scope)
    n_prompt = inputs["input_ids"].shape[1]
    torch.manual_seed(0)
    with torch.inference_mode():
        with attending(vlm, edit):
            given = vlm.model.generate(
                **inputs, max_new_tokens=5, do_sample=method == "sampled", num_beams=1 + (method == "beams"),
                top_k=0, return_dict_in_generate=True,
                output_logits=True, output_scores=True,
            )  # fmt: skip
        ids = given.sequences
        whole = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in inputs:
            whole["mm_token_type_ids"] = torch.nn.functional.pad(
                inputs["mm_token_type_ids"], (0, ids.shape[1] - n_prompt)
            )
        queries = torch.ones(ids.shape[1], dtype=torch.bool)
        queries[: n_prompt - 1] = scope == "all"
        queries[n_prompt:] = scope != "prompt_last"
        with written_out(vlm, plain_edit(edit, ids == vlm.image_token_id, queries)):
            expected = vlm.model(**whole).logits[0, n_prompt - 1 : -1]
    if method != "beams":
        found = torch.stack(given.logits)[:, 0]
        torch.testing.assert_close(found, expected[: len(found)], rtol=1e-3, atol=1e-3)
    else:  # the score of a beam is the mean log-probability of its tokens
        words = ids[0, n_prompt:]
        log_prob = expected.log_softmax(-1).gather(1, words[:, None]).sum()
        assert given.sequences_scores[0] * len(words) == pytest.approx(log_prob.item(), rel=1e-3)


def test_step_by_step_answers_have_the_edit_at_every_turn(vlm, items):
    """Prompts that go on from a kept cache know where the picture is."""
    edit = attend([(layer, head) for layer in range(8) for head in range(24)], "add", -30.0)
    with attending(vlm, edit):
        kept = answer(vlm, items[:4])
        alone = pd.concat([answer(vlm, [item]) for item in items[:4]])
    both = kept.merge(alone, on=["uid", "step"], suffixes=("", "_alone"))
    assert len(both) == len(kept) and (both["prediction"] == both["prediction_alone"]).all()
    plain = answer(vlm, items[:4])
    assert (kept["prediction"] != plain["prediction"]).mean() > 0.2  # no head sees the picture


@pytest.mark.parametrize("reading", [(), (0.1, 0.25), (0.4, 0.9), "as published"])
def test_sinks_lose_what_the_pictures_other_tokens_gain(vlm, items, asked, monkeypatch, reading):
    published = reading == "as published"
    vlm, asked = (vlm, items) if published else (build("llava"), asked)
    inputs = inputs_of(vlm, asked[:1])
    picture = (inputs["input_ids"] == vlm.image_token_id)[0]
    sink = torch.zeros_like(picture)
    sink[0], sink[picture.nonzero().flatten()[1]] = True, True
    monkeypatch.setattr(edited_attention, "sink_tokens", lambda state: sink.expand(state.shape[:2]))
    # In one pass no prompt ends, so the preset is asked of all tokens.
    edit = (
        replace(visual_sinks(vlm), scope="all")
        if published
        else attend(vlm.heads.pairs, "redistribute", 0.25, reading=reading)
    )
    kept, reading = (0.6, (0.2, 0.5)) if published else (0.25, reading)
    heads = [(layer, head) for layer in range(2, 7) for head in range(24)] if published else vlm.heads.pairs

    def change(layer, scores, sees):
        weights = softmax(scores, sees)
        new = weights.clone()
        for index in np.ndindex(*weights.shape[:3]):
            if (layer, index[1]) not in heads:
                continue
            w, others = weights[index], picture & ~sink
            share, on_sinks = w[picture].sum(), w[picture & sink].sum()
            if reading and (share < reading[0] or on_sinks > reading[1] * share):
                passed.append(index)
            elif w[others].sum() > 0:
                freed = (1 - kept) * w[sink].sum()
                new[index][sink] = kept * w[sink]
                new[index][others] = w[others] + freed * w[others] / w[others].sum()
        return new

    passed: list = []
    with torch.inference_mode():
        with attending(vlm, edit):
            found = vlm.model(**inputs).logits
        with written_out(vlm, change):
            expected = vlm.model(**inputs).logits
        before = vlm.model(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 if published else 1e-4)
    assert (found - before).abs().max() > 1e-3
    assert bool(passed) == bool(reading) and len(passed) < len(heads) * len(picture)


def test_edits_of_one_head_go_one_after_the_other_and_a_neutral_one_changes_no_bit(asked):
    vlm = build("internvl")
    inputs, head = inputs_of(vlm, asked[:1]), [(1, 0)]
    first, second = attend(head, "add", 1.0), attend(head, "multiply", 3.0)
    picture = inputs["input_ids"] == vlm.image_token_id

    def change(layer, scores, sees):
        new = scores.clone()
        if layer == 1:
            new[:, 0][..., picture[0]] = 3 * (scores[:, 0][..., picture[0]] + 1)
        return softmax(new, sees)

    with torch.inference_mode():
        before = vlm.model(**inputs).logits
        with attending(vlm, [first, second]):
            both = vlm.model(**inputs).logits
        with written_out(vlm, change):
            expected = vlm.model(**inputs).logits
        nothing = [attend(head, "add", 0.0), attend(head, "boost", 0.0), attend(head, "multiply", 1.0),
                   attend(head, "redistribute", 1.0)]  # fmt: skip
        with attending(vlm, nothing) as fired:
            same = vlm.model(**inputs).logits
    torch.testing.assert_close(both, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(same, before) and fired["all"] == 4


def test_cross_attention_to_the_picture_can_be_edited(asked):
    """All its keys are the picture's, so that adding one number to all scores changes nothing."""
    vlm = build("mllama")
    inputs = inputs_of(vlm, asked[:1])
    cross = vlm.heads.table[vlm.heads.table["kind"] == "cross"]
    heads = list(cross[["layer", "head"]].itertuples(index=False, name=None))
    with torch.inference_mode():
        before = vlm.model(**inputs).logits
        with attending(vlm, attend(heads, "add", 5.0)):
            same = vlm.model(**inputs).logits
        with attending(vlm, attend(heads, "multiply", 0.0)):  # all keys alike
            other = vlm.model(**inputs).logits
    torch.testing.assert_close(same, before, rtol=1e-3, atol=1e-4)
    assert (other - before).abs().max() > 1e-4


def test_published_methods_are_what_their_papers_say(vlm, asked):
    assert pasta([(0, 0)]).amount == pytest.approx(math.log(0.01)) and pasta([(0, 0)]).to == "elsewhere"
    boosted = pai(vlm)
    assert {layer for layer, _ in boosted.heads} == set(range(2, 8)) and boosted.scope == "answer"
    assert boosted.operation == "boost" and boosted.amount == 0.2
    assert [adaptvis(vlm, confidence).amount for confidence in (0.2, 0.9)] == [0.5, 1.5]
    assert adaptvis(vlm, 0.2).scope == "prompt_last"
    kept = visual_sinks(vlm)
    assert {layer for layer, _ in kept.heads} == {2, 3, 4, 5, 6} and kept.amount == 0.6
    assert kept.reading == (0.2, 0.5) and kept.scope == "answer"


@pytest.mark.parametrize("method", ["PASTA", "PAI", "unsure AdaptVis", "sure AdaptVis"])
def test_published_methods_change_the_first_token_as_their_formulas_say(vlm, items, method):
    """Written out here as the papers state them, for the first new token: PASTA on the weights, the others on the
    scores of the prompt's last token."""
    inputs, last_layer = inputs_of(vlm, items[:1]), 4
    picture = (inputs["input_ids"] == vlm.image_token_id)[0]
    edit, changed = {
        "PASTA": (pasta([(2, 0), (5, 7)]), None),
        "PAI": (pai(vlm, 0.2), lambda s: s + 0.2 * s.abs()),
        "unsure AdaptVis": (adaptvis(vlm, 0.3, last_layer=last_layer), lambda s: 0.5 * s),
        "sure AdaptVis": (adaptvis(vlm, 0.31, last_layer=last_layer), lambda s: 1.5 * s),
    }[method]

    def change(layer, scores, sees):
        if method == "PASTA":
            weights = softmax(scores, sees)
            for head in [head for at, head in ((2, 0), (5, 7)) if at == layer]:
                weights[:, head][..., ~picture] *= 0.01
                weights[:, head] /= weights[:, head].sum(-1, keepdim=True)
            return weights
        new = scores.clone()
        if (layer > 1) if method == "PAI" else layer <= last_layer:
            new[:, :, -1, picture] = changed(scores[:, :, -1, picture])
        return softmax(new, sees)

    asked = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with torch.inference_mode():
        before = vlm.model.generate(**inputs, **asked).logits[0]
        with attending(vlm, edit):
            found = vlm.model.generate(**inputs, **asked).logits[0]
        with written_out(vlm, change):
            expected = vlm.model(**inputs).logits[:, -1]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (found - before).abs().max() > 0.01


def test_a_region_weighs_the_patches_in_it(vlm, items):
    item = items[0]
    assert np.reshape(patches_of(vlm, item, (0, 0, 0.5, 0.25)), (4, 4)).tolist() == [[1, 1, 0, 0]] + [[0] * 4] * 3
    soft = np.reshape(patches_of(vlm, item, (0, 0, 0.25, 0.25), softness=0.25), (4, 4))
    assert soft[0, 0] == 1 and soft[0, 1] == pytest.approx(np.exp(-0.5 * (0.125 / 0.25) ** 2)) and soft[3, 3] < 0.01
    inputs = inputs_of(vlm, [item])
    picture = inputs["input_ids"] == vlm.image_token_id
    edit = attend([(2, 0), (2, 9)], "add", 4.0, tokens=soft.ravel())
    with torch.inference_mode():
        with attending(vlm, edit):
            found = vlm.model(**inputs).logits
        with written_out(vlm, plain_edit(edit, picture, torch.ones(picture.shape[1], dtype=torch.bool))):
            expected = vlm.model(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_what_runs_inside_is_kept_apart_from_what_runs_without(vlm, items, tmp_path):
    edit = attend([(layer, head) for layer in (1, 2) for head in range(24)], "add", -30.0)
    scorer, fresh = (TeacherForcedScorer(vlm, items[:4]) for _ in range(2))
    intact = scorer.score().log_prob
    with attending(vlm, edit):
        inside = scorer.score(mask([(5, 0)])).log_prob  # layers 1 and 2 are not taken from the intact run
        first = fresh.score().log_prob
    after = fresh.score(mask([(5, 0)])).log_prob  # nothing is taken from the run inside
    assert np.abs(inside - intact).max() > 0.01 and np.abs(first - intact).max() > 0.01
    np.testing.assert_allclose(after, scorer.score(mask([(5, 0)])).log_prob, atol=1e-4)
    answer(vlm, items[:2], resume=tmp_path / "replies.json")
    with pytest.raises(ValueError, match="edits"), attending(vlm, edit):
        answer(vlm, items[:2], resume=tmp_path / "replies.json")


def test_where_a_prompt_ends_is_known_in_generation_alone(vlm, items):
    scorer = TeacherForcedScorer(vlm, items[:3])
    with pytest.raises(ValueError, match="outside generate"), attending(vlm, pai(vlm)):
        scorer.score()


def test_what_cannot_be_is_refused(vlm, items):
    for wrong, message in (
        ({"operation": "double"}, "operation is 'double'"), ({"to": "sky"}, "to is 'sky'"),
        ({"scope": "image"}, "scope is 'image'"), ({"amount": math.inf}, "not finite"), ({"heads": []}, "no heads"),
        ({"to": "elsewhere", "tokens": [1.0]}, "picture alone"), ({"to": "words"}, "expected words"),
        ({"words": "red"}, "expected words"), ({"heads": [(0, 0), (0, 0)]}, "more than once"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            attend(**{"heads": [(0, 0)], "operation": "add", "amount": 1.0} | wrong)
    with pytest.raises(KeyError, match="no such heads"), attending(vlm, attend([(99, 0)], "add", 1.0)):
        pass
    with pytest.raises(RuntimeError, match="never fired"), attending(vlm, attend([(0, 0)], "add", 1.0)):
        pass
    one = attend([(0, 0)], "add", 1.0)
    with pytest.raises(RuntimeError, match="inside others"), attending(vlm, one), attending(vlm, one):
        pass
    crossing = build("mllama")
    cross = crossing.heads.table.query("kind == 'cross'")[["layer", "head"]].itertuples(index=False, name=None)
    edit = attend(cross, "redistribute", 0.5)
    with pytest.raises(ValueError, match="attend to the picture alone, in which no sinks"), attending(crossing, edit):
        pass
    few, inputs = attend([(0, 0)], "add", 1.0, tokens=[1, 0, 0]), inputs_of(vlm, items[:1])
    with pytest.raises(ValueError, match="3 weights for pictures of"), torch.inference_mode(), attending(vlm, few):
        vlm.forward(inputs)
    with pytest.raises(ValueError, match="is not an attention edit"):
        Attend.from_json(json.dumps({"heads": [[0, 0]], "how": "add"}))
    assert edited_attention.NAME not in AttentionInterface._global_mapping and MAIN == -1


def test_sinks_are_redistributed_at_every_turn(vlm, items, monkeypatch):
    """Step by step, though a kept cache has not the tokens among which sinks are found."""
    monkeypatch.setattr(edited_attention, "sink_tokens", lambda state: state[..., 0] > state[..., 0].mean(1, True))
    edit = replace(visual_sinks(vlm, share=0.0, least=0.0, most_sinks=1.0), scope="all")
    with attending(vlm, edit):
        kept = answer(vlm, items[:3])
    with attending(vlm, edit):
        alone = pd.concat([answer(vlm, [item]) for item in items[:3]])
    both = kept.merge(alone, on=["uid", "step"], suffixes=("", "_alone"))
    assert len(both) == len(kept) and (both["prediction"] == both["prediction_alone"]).all()
    replies = kept[kept["uid"] == items[0].uid].set_index("step")["prediction"]
    before = [replies[step] for step in range(len(items[0].steps))]
    prompt = vlm.render(conversation(items[0], before, MAIN), prompt=True)
    inputs = vlm.encode([prompt], [open_image(items[0])])
    with torch.inference_mode(), attending(vlm, edit):  # the whole chat at once
        ids = vlm.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    text = vlm.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text.strip() == replies[MAIN]


def test_each_row_has_its_own_edit_in_all_its_beams(vlm, items):
    edits = [[attend([(1, 3)], "boost", 2.0)], [mask([(6, head) for head in range(12)])]]
    asked = {"max_new_tokens": 4, "do_sample": False, "num_beams": 3, "output_scores": True,
             "return_dict_in_generate": True}  # fmt: skip
    batch = inputs_of(vlm, items[:2], side="left")
    with torch.inference_mode(), intervene(vlm, None, rows=edits):
        both = vlm.model.generate(**batch, **asked)
    for row, edit in enumerate(edits):
        inputs = inputs_of(vlm, items[row : row + 1])
        with torch.inference_mode(), intervene(vlm, edit):
            alone = vlm.model.generate(**inputs, **asked)
        new = alone.sequences[0, inputs["input_ids"].shape[1] :]
        assert torch.equal(both.sequences[row, batch["input_ids"].shape[1] :][: len(new)], new)
        assert both.sequences_scores[row].item() == pytest.approx(alone.sequences_scores[0].item(), abs=1e-3)


def test_an_edit_that_does_nothing_in_its_own_row_is_no_edit(vlm, items):
    """Whatever the other rows say."""
    asked = next(item for item in items if item.question.split()[-2] not in items[0].question)
    word = asked.question.split()[-2]
    edit = attend([(3, 0)], "add", 1.0, to="words", words=word)
    inputs = inputs_of(vlm, [items[0], asked], side="left")
    with torch.inference_mode():
        with attending(vlm, [], rows=[[], [edit]]):
            vlm.model(**inputs)
        with (
            pytest.raises(RuntimeError, match="never fired: no chat that carries one"),
            attending(vlm, [], [[edit], []]),
        ):
            vlm.model(**inputs)
        with (
            pytest.raises(RuntimeError, match="of the question never fired"),
            attending(vlm, attend([(3, 0)], "add", 1.0, to="question")),
        ):
            vlm.model(**vlm.on_device(vlm.tokenizer("red", return_tensors="pt")))


@pytest.mark.parametrize("name", ["internvl", "qwen2_5_vl", "mllama"])
def test_a_model_that_runs_eager_keeps_it(name, asked):
    vlm = build(name)
    vlm.model.set_attn_implementation("eager")
    inputs = inputs_of(vlm, asked[:2])
    heads = sorted(vlm.heads.cross) or [(1, 0)]
    with torch.inference_mode():
        before = vlm.model(**inputs).logits
        with attending(vlm, attend(heads, "multiply", 1.0)):
            same = vlm.model(**inputs).logits
        with attending(vlm, attend(heads, "multiply", 4.0)):
            other = vlm.model(**inputs).logits
    assert torch.equal(before, same) and (other - before).abs().max() > 1e-5
    vlm.model.set_attn_implementation("sdpa")
    with torch.inference_mode(), attending(vlm, attend(heads, "multiply", 4.0)):
        torch.testing.assert_close(vlm.model(**inputs).logits, other, rtol=1e-3, atol=1e-4)


def test_heads_that_read_the_picture_elsewhere_are_not_made_to_attend_to_its_placeholder(asked):
    vlm = build("mllama")
    own = [head for head in vlm.heads.pairs if head not in vlm.heads.cross]
    with pytest.raises(ValueError, match="attend to text alone"), attending(vlm, attend(own, "multiply", 2.0)):
        pass
    inputs, cross = inputs_of(vlm, asked[:1]), sorted(vlm.heads.cross)
    with torch.inference_mode():
        with attending(vlm, attend(cross, "multiply", 4.0)):
            alone = vlm.model(**inputs).logits
        with attending(vlm, attend(vlm.heads.pairs, "multiply", 4.0)):
            together = vlm.model(**inputs).logits
    assert torch.equal(alone, together)


@pytest.mark.parametrize("scope", ["prompt_last", "answer"])
def test_scores_are_computed_for_the_tokens_in_scope_alone(vlm, items, scope, monkeypatch):
    seen, edited = [], edited_attention._State._edited

    def counted(self, module, query, *given):
        seen.append(query.shape[2])
        return edited(self, module, query, *given)

    monkeypatch.setattr(edited_attention._State, "_edited", counted)
    with torch.inference_mode(), attending(vlm, attend([(2, 0), (5, 7)], "multiply", 2.0, scope=scope)):
        vlm.model.generate(**inputs_of(vlm, items[:1]), max_new_tokens=2, do_sample=False)
    assert set(seen) == {1} and len(seen) >= 2
