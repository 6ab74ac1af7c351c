from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.items import Item
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.attention_edits import attend
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.edited_attention import attending
from cogvsr_utils.models.head_edits import SCOPES, Edit, mask, mean_ablate, patch, resample, scale, steer
from cogvsr_utils.models.head_map import heads_of
from cogvsr_utils.models.hooks import projection_hooks
from cogvsr_utils.models.interventions import intervene
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.positions import chat_spans
from cogvsr_utils.models.recording import capture
from cogvsr_utils.models.scorer import TeacherForcedScorer
from cogvsr_utils.models.steering import directions

HEADS = [(1, 2), (4, 0)]


@pytest.fixture(scope="module")
def inputs(vlm, items):
    texts = [chat_spans(vlm, item, [s.answer for s in item.steps])[0] for item in items[:3]]
    return vlm.encode(texts, [open_image(item) for item in items[:3]], side="right")


def logits(vlm, inputs, edits=None, **settings):
    with torch.no_grad(), intervene(vlm, edits, **settings):
        return vlm.model(**inputs).logits


def test_factor_one_changes_nothing_and_hooks_come_off_even_after_an_error(vlm, inputs):
    before = logits(vlm, inputs)
    assert torch.equal(logits(vlm, inputs, scale(HEADS, 1.0)), before)
    with pytest.raises(ZeroDivisionError), intervene(vlm, mask(HEADS)):
        _ = 1 / 0
    assert torch.equal(logits(vlm, inputs), before)


def test_zeroing_a_head_is_zeroing_its_columns_of_the_weight(vlm, inputs):
    """The oracle edits the weights instead of the activations."""
    edited = logits(vlm, inputs, mask(HEADS, factor=0.0))
    modules, kept = dict(vlm.model.named_modules()), {}
    try:
        for name, start, stop in vlm.heads.locate(HEADS):
            weight, first = modules[name].weight, vlm.heads.projections[name][0]
            kept.setdefault(name, weight.detach().clone())
            weight.data[:, start - first : stop - first] = 0
        expected = logits(vlm, inputs)
    finally:
        for name, weight in kept.items():
            modules[name].weight.data.copy_(weight)
    torch.testing.assert_close(edited, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(edited, logits(vlm, inputs), atol=1e-3)


def test_steering_is_a_bias_on_the_projection(vlm, inputs):
    """A shift d of the slice adds W d to the layer's output at every token, which a bias of the projection holds."""
    vector = np.linspace(-1, 1, 24)
    edited = logits(vlm, inputs, steer([HEADS[0]], [vector], strength=2.0, scope="all"))
    ((name, start, _),) = vlm.heads.locate([HEADS[0]])
    projection = dict(vlm.model.named_modules())[name]
    start -= vlm.heads.projections[name][0]
    bias = projection.weight[:, start : start + 24] @ torch.tensor(2.0 * vector, dtype=torch.float32, device=vlm.device)
    assert projection.bias is None
    try:
        projection.bias = torch.nn.Parameter(bias)
        expected = logits(vlm, inputs)
    finally:
        projection.bias = None
    torch.testing.assert_close(edited, expected, rtol=1e-4, atol=1e-4)
    assert (edited - logits(vlm, inputs)).abs().max() > 0.01


@pytest.mark.parametrize("key_head", [None, 1])
def test_a_layer_or_a_group_without_its_heads_is_one_without_its_values(vlm, inputs, key_head):
    heads = heads_of(vlm.heads, 2, key_head)
    found = logits(vlm, inputs, mask(heads, 0.0))

    def emptied(module, args, out):
        out = out.clone()
        out[..., slice(None) if key_head is None else slice(24 * key_head, 24 * (key_head + 1))] = 0
        return out

    values = vlm.model.get_decoder().layers[2].self_attn.v_proj
    hook = values.register_forward_hook(emptied)
    expected = logits(vlm, inputs)
    hook.remove()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(heads) == (24 if key_head is None else 6)


def test_layers_and_groups_that_are_not_there_are_named(vlm):
    with pytest.raises(KeyError, match=r"no heads in layer 8; layers are \[0, 1, "):
        heads_of(vlm.heads, 8)
    with pytest.raises(KeyError, match="no key-value head 9 in layer 0; expected one of"):
        heads_of(vlm.heads, 0, key_head=9)


def test_in_4bit_an_edit_is_of_what_the_packed_projection_is_given(inputs):
    four = load_vlm("nano-internvl", quantize="4bit", dtype=torch.float32)
    head = (4, 7)
    ((name, start, stop),) = four.heads.locate([head])
    start, stop = (column - four.heads.projections[name][0] for column in (start, stop))
    found = logits(four, inputs, steer([head], [np.ones(stop - start)], 2.0, scope="all"))

    def moved(module, args):
        x = args[0].clone()
        x[..., start:stop] += 2.0
        return (x,)

    hook = four.model.get_submodule(name).register_forward_pre_hook(moved)
    expected = logits(four, inputs)
    hook.remove()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, logits(four, inputs), atol=1e-2)


def test_each_row_of_a_batch_may_carry_its_own_edit(vlm, inputs):
    mixed = logits(vlm, inputs, rows=[[], [mask(HEADS)], [scale(HEADS, 2.0)]])
    plain, masked, doubled = (logits(vlm, inputs, e) for e in (None, mask(HEADS), scale(HEADS, 2.0)))
    for row, whole in enumerate((plain, masked, doubled)):
        torch.testing.assert_close(mixed[row], whole[row], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="edits for 2 rows, but the batch has 3"):
        logits(vlm, inputs, rows=[[], [mask(HEADS)]])


def test_edits_after_one_another_compose(vlm, inputs):
    vector = np.ones(24)
    two = logits(vlm, inputs, [scale([HEADS[0]], 3.0), steer([HEADS[0]], [vector], 1.0, scope="all")])
    other = logits(vlm, inputs, [steer([HEADS[0]], [vector], 1 / 3, scope="all"), scale([HEADS[0]], 3.0)])
    torch.testing.assert_close(two, other, rtol=1e-4, atol=1e-4)


def test_scopes_touch_their_tokens_only(vlm, items):

    text = vlm.render(conversation(items[0], [], 0), prompt=True)
    inputs = vlm.encode([text], [open_image(items[0])])
    name = list(vlm.heads.projections)[1]
    module = dict(vlm.model.named_modules())[name]
    is_image = (inputs["input_ids"] == vlm.model.config.image_token_id)[0].cpu()
    n = inputs["input_ids"].shape[1]
    expected = {"all": torch.ones(n, dtype=bool), "prompt": torch.ones(n, dtype=bool), "image": is_image,
                "prompt_last": torch.arange(n) == n - 1, "answer": torch.arange(n) == n - 1,
                "question": asked_tokens(vlm, inputs["input_ids"][0].cpu())}  # fmt: skip
    for scope, tokens in expected.items():
        seen = []
        with torch.no_grad(), intervene(vlm, mask([(1, 0)], 0.0, scope)) as fired:
            hook = module.register_forward_hook(lambda m, a, out, seen=seen: seen.append(a[0][0, :, :24].clone()))
            vlm.model.generate(**inputs, do_sample=False, max_new_tokens=2, min_new_tokens=2)
            hook.remove()
        zero = (seen[0] == 0).all(1).cpu()
        assert torch.equal(zero, tokens), scope
        assert bool((seen[1] == 0).all()) == (scope in ("all", "answer")), scope
        assert fired[scope] == (2 if scope in ("all", "answer") else 1)


@pytest.mark.parametrize("scope", ["all", "prompt_last", "answer"])
@pytest.mark.parametrize("method", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}])
def test_beams_and_samples_have_the_edit_at_every_token(vlm, items, scope, method):
    """The log-probability of each new token is the one that the whole text has in one pass, head by head set by hand;
    top tokens and temperatures are left out, so that samples come from that distribution."""
    torch.manual_seed(0)
    inputs = vlm.encode([vlm.render(conversation(items[0], [], 0), prompt=True)], [open_image(items[0])])
    n_prompt, edit = inputs["input_ids"].shape[1], mask([(layer, 5) for layer in range(8)], scope=scope)
    with torch.inference_mode(), intervene(vlm, edit):
        given = vlm.model.generate(**{"do_sample": False, "top_k": 0, "max_new_tokens": 4} | method, **inputs,
                                   output_scores=True, return_dict_in_generate=True)  # fmt: skip
    given_log_prob = vlm.model.compute_transition_scores(
        given.sequences, given.scores, getattr(given, "beam_indices", None), normalize_logits="num_beams" not in method
    )
    n = len(given.sequences)
    whole = {"input_ids": given.sequences, "attention_mask": torch.ones_like(given.sequences),
             "pixel_values": inputs["pixel_values"].repeat(n, 1, 1, 1)}  # fmt: skip
    edited = torch.zeros(given.sequences.shape[1], dtype=torch.bool, device=vlm.device)
    edited[0 if scope == "all" else n_prompt - 1 : n_prompt if scope == "prompt_last" else None] = True

    def hook_for(name, *_):
        (start,) = (vlm.heads.locate([head])[0][1] for head in edit.heads if vlm.heads.locate([head])[0][0] == name)
        start -= vlm.heads.projections[name][0]

        def hook(module, args):
            x = args[0].clone()
            x[:, edited, start : start + 24] *= edit.factor
            return (x, *args[1:])

        return hook

    with torch.inference_mode(), projection_hooks(vlm, hook_for):
        expected = vlm.model(**whole).logits[:, n_prompt - 1 : -1].log_softmax(-1)
    words = given.sequences[:, n_prompt:]
    expected = expected.gather(2, words[..., None])[..., 0]
    ends = (words == vlm.tokenizer.eos_token_id).cumsum(1)
    scored = (ends == 0) | ((ends == 1) & (words == vlm.tokenizer.eos_token_id))  # up to the first end mark
    torch.testing.assert_close(given_log_prob[scored], expected[scored], rtol=1e-3, atol=1e-3)
    assert scored.sum() >= len(words)


def test_scopes_that_need_a_prompt_s_end_are_refused_where_none_ends(vlm, inputs):
    for scope in ("prompt", "prompt_last", "answer"):
        with pytest.raises(ValueError, match=f"scope '{scope}' outside generate"):
            logits(vlm, inputs, mask(HEADS, scope=scope))


def test_an_edit_that_never_fires_is_an_error(vlm):
    with pytest.raises(RuntimeError, match="never fired"), intervene(vlm, mask(HEADS)):
        pass
    with pytest.raises(KeyError, match="no such heads"), intervene(vlm, mask([(99, 0)])):
        pass


def test_each_edit_has_to_fire_whatever_others_do(asked):
    """Where no chat has a picture, heads of cross-attention do not run."""
    vlm = load_vlm("nano-mllama")
    kinds = vlm.heads.table.groupby("kind")[["layer", "head"]].first()
    own, cross = (mask([tuple(map(int, kinds.loc[kind]))]) for kind in ("self", "cross"))
    text = [replace(item, image=None) for item in asked[:2]]
    with pytest.raises(RuntimeError, match="never fired: their layers did not run"):
        answer(vlm, text, edits=[own, cross], progress=False)
    assert len(answer(vlm, asked[:1], edits=[own, cross], progress=False)) == len(asked[0].steps) + 1


@pytest.fixture(scope="module")
def captured(vlm, asked, tmp_path_factory):
    """Activations of the same chats at three positions."""
    folder, replies = tmp_path_factory.mktemp("captured"), answer(vlm, asked)
    return {
        position: capture(vlm, asked, store=folder / position, position=position, answers=replies)
        for position in ("answer", "answer_content", "prompt_last", "image")
    }


@pytest.mark.parametrize("position", ["prompt_last", "answer", "image"])
@pytest.mark.parametrize("method", ["patch", "resample"])
def test_a_head_that_is_carried_over_is_what_it_was_in_the_other_run(vlm, asked, captured, position, method):
    """The oracle writes the numbers of the other run by a hook of its own."""
    found, place = captured[position], asked[0].uid
    index = found.index.reset_index(drop=True)
    own, other = (
        int(index.index[(index["uid"] == item.uid) & (index["step"] == 0)][0]) for item in (asked[0], asked[1])
    )
    edit = patch(HEADS, found, other)
    if method == "resample":
        edit = resample(HEADS, found, place)
        (other, *_) = (row for row in index.index if patch(HEADS, found, row).shift == edit.shift)
        assert index.loc[other, "group_id"] != asked[0].group_id
    prompt = vlm.render(conversation(asked[0], [], 0), prompt=True)
    inputs = vlm.encode([prompt], [open_image(asked[0])])
    picture = (inputs["input_ids"] == vlm.image_token_id)[0]

    def generated(edits):
        with torch.inference_mode(), intervene(vlm, edits):
            return torch.cat(vlm.model.generate(**inputs, do_sample=False, max_new_tokens=2, min_new_tokens=2,
                                                return_dict_in_generate=True, output_logits=True).logits)  # fmt: skip

    handles = []
    for head, (name, start, stop) in zip(HEADS, vlm.heads.locate(HEADS), strict=True):
        values = torch.tensor(np.asarray(found.features[other, vlm.heads.columns([head])[0]], np.float32))
        at = slice(start - vlm.heads.projections[name][0], stop - vlm.heads.projections[name][0])

        def hook(module, args, at=at, values=values):
            x, prefill = args[0].clone(), args[0].shape[1] > 1
            if position == "image":
                x[:, picture if prefill else [], at] = values.to(x)
            elif prefill or position == "answer":
                x[:, -1, at] = values.to(x)
            return (x,)

        handles.append(vlm.model.get_submodule(name).register_forward_pre_hook(hook))
    expected = generated(None)
    for handle in handles:
        handle.remove()
    before, carried = generated(None), generated(edit)
    finite = torch.isfinite(before)
    torch.testing.assert_close(carried[finite], expected[finite], rtol=1e-4, atol=1e-4)
    assert (carried - before)[finite].abs().max() > 1e-3
    if position == "prompt_last":  # one token, so that nothing changes but for the rounding of what was kept
        itself = generated(patch(vlm.heads.pairs, found, own))
        torch.testing.assert_close(itself[finite], before[finite], rtol=1e-2, atol=5e-2)


def test_heads_are_resampled_from_another_scene(vlm, asked, captured):
    found = captured["answer"]
    index = found.index.reset_index(drop=True)
    others = index.index[index["group_id"] != asked[0].group_id]
    known = {patch(HEADS, found, row).shift for row in others}
    drawn = {resample(HEADS, found, asked[0].uid, seed).shift for seed in range(40)}
    assert drawn <= known and len(drawn) > 3
    items = [Item(f"{n}", "mine", f"{n}", "?", "yes", "yesno", []) for n in range(40)]
    values = np.tile(np.arange(40, dtype=np.float16)[:, None], vlm.heads.width)
    index = pd.DataFrame({"uid": [item.uid for item in items], "group_id": [item.group_id for item in items]})
    many = SimpleNamespace(features=values, heads=vlm.heads, header=found.header, index=index)
    donors = {resample(HEADS, many, item.uid).shift for item in items}
    assert len(donors) > 15, "each item has a donor of its own"
    edit = resample(HEADS, found, asked[0].uid)
    assert (edit.method, edit.factor, edit.scope) == ("resample", 0.0, "answer")
    assert Edit.from_json(edit.to_json()) == edit


def test_what_cannot_be_patched_is_refused(asked, captured):
    with pytest.raises(ValueError, match="captured at 'answer_content'"):
        patch(HEADS, captured["answer_content"], 0)
    with pytest.raises(IndexError, match="row 99 of"):
        patch(HEADS, captured["answer"], 99)
    with pytest.raises(KeyError, match="no activations of item 'nobody'"):
        resample(HEADS, captured["answer"], "nobody")


def test_every_item_may_have_edits_of_its_own(vlm, asked, items):
    heads = [(layer, head) for layer in range(2, 8) for head in range(24)]
    edits = {asked[0].uid: mask(heads), asked[2].uid: [attend(heads, "add", -30.0), scale(heads, 1.5, "answer")]}
    together = answer(vlm, asked, edits=edits)
    alone = [answer(vlm, [item], edits=edits.get(item.uid)) for item in asked]
    columns = ["uid", "step", "prediction"]
    pd.testing.assert_frame_equal(together[columns], pd.concat(alone, ignore_index=True)[columns])
    assert not together["prediction"].equals(answer(vlm, asked)["prediction"])
    with pytest.raises(ValueError, match="edits of items \\['nobody'\\], which are not asked"):
        answer(vlm, asked, edits={"nobody": mask(heads)})
    blind = [asked[0], replace(asked[1], image=None)]
    for edit in (mask(heads, scope="image"), attend(heads, "add", 1.0)):
        with pytest.raises(ValueError, match=f"{asked[1].uid!r} has no picture"):
            answer(vlm, blind, edits={asked[1].uid: edit})
        with pytest.raises(RuntimeError, match="never fired"):
            answer(vlm, blind[1:], edits=edit)
        assert len(answer(vlm, blind, edits=edit))
    with pytest.raises(TypeError, match="'nobody' is not an edit"):
        answer(vlm, asked, edits=["nobody"])


def test_edits_of_heads_and_of_attention_go_together(vlm, items):
    heads = [(layer, head) for layer in range(2, 8) for head in range(24)]
    sees, weaker = attend(heads, "add", -30.0), scale(heads, 0.5)
    with attending(vlm, sees):
        expected = answer(vlm, items[:4], edits=weaker)
        forced = TeacherForcedScorer(vlm, items[:4]).score(weaker).log_prob
    with intervene(vlm, [sees, weaker]) as fired:
        found = answer(vlm, items[:4])
    pd.testing.assert_frame_equal(found, expected)
    pd.testing.assert_frame_equal(answer(vlm, items[:4], edits=[weaker, sees]), expected)
    np.testing.assert_allclose(TeacherForcedScorer(vlm, items[:4]).score([weaker, sees]).log_prob, forced, atol=1e-4)
    assert (
        fired["all"] and fired.attention["all"] and found["prediction"].ne(answer(vlm, items[:4])["prediction"]).any()
    )


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=6), st.floats(-3, 3))
def test_edits_go_to_json_and_back(heads, factor):
    heads = list(dict.fromkeys(heads))
    edits = [scale(heads, factor, "answer"), mean_ablate(heads, [np.full(24, factor)] * len(heads))]
    assert [Edit.from_json(e.to_json()) for e in edits] == edits


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mask(HEADS, scope="somewhere"), "scope is 'somewhere'; expected one of"),
        (lambda: Edit("erase", ((0, 1),)), "method is 'erase'; expected one of"),
        (lambda: mask([]), "mask of no heads; expected at least one"),
        (lambda: mask([(0, 1), (0, 1)]), r"heads \[\(0, 1\)\] are given more than once"),
        (lambda: mask((0, 1)), r"\(0,\) is not a head; expected \(layer, head\)"),
        (lambda: mask([(0.9, 1.7)]), r"\(0.9, 1.7\) is not a head"),
        (lambda: mask([(0, -1)]), r"\(0, -1\) is not a head"),
        (lambda: mask([(0, 1, 2)]), r"\(0, 1, 2\) is not a head"),
        (lambda: scale(HEADS, float("nan")), "factor is nan; expected a finite number"),
        (lambda: mask(HEADS, float("inf")), "factor is inf; expected a finite number"),
        (lambda: mean_ablate(HEADS, []), "0 vectors for mean_ablate of 2 heads; expected 2"),
        (lambda: mean_ablate(HEADS, [np.ones(24)]), "1 vectors for mean_ablate of 2 heads; expected 2"),
        (lambda: steer(HEADS, [], 2.0), "0 vectors for steer of 2 heads; expected 2"),
        (lambda: Edit("mask", ((0, 1),), 0.5, ((1.0,),)), "1 vectors for mask of 1 heads; expected 0"),
        (lambda: steer([(0, 1)], [np.full(24, np.nan)], 1.0), r"vector of head \(0, 1\) .* expected finite numbers"),
        (lambda: steer([(0, 1)], [np.ones(24)], float("inf")), r"vector of head \(0, 1\) .* expected finite numbers"),
        (lambda: mask([(True, False)]), r"\(True, False\) is not a head"),
        (lambda: Edit("mask", ((0.5, 1),)), r"\(0.5, 1\) is not a head"),
        (lambda: Edit("mask", (0, 1)), r"\(0,\) is not a head"),
        (lambda: mean_ablate([(0, 1)], [np.ones((2, 12))]), r"shape \(2, 12\) is not a vector"),
        (lambda: mean_ablate([(0, 1)], [np.ones(24) * 1j]), "complex128 .* is not a vector; expected real numbers"),
        (lambda: Edit.from_json("{}"), "'{}' is not an edit"),
        (lambda: Edit.from_json("[]"), "is not an edit"),
        (lambda: Edit.from_json('{"method": "mask", "heads": [[0, 1]], "shift": null}'), "is not an edit"),
        (lambda: Edit.from_json('{"method": "mask", "heads": [[0, 1]], "shift": [], "factor": "2"}'), "is not an edit"),
        (lambda: mean_ablate([(0, 1)], [np.ones(0)]), r"vector of head \(0, 1\) .* at least one"),
    ],
)
def test_bad_edits_are_refused_when_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_edits_are_refused_when_bound_to_a_model(vlm, inputs):
    for width in (1, 23, 25):
        with pytest.raises(ValueError, match=rf"head \(1, 2\) has width {width}; expected 24"):
            logits(vlm, inputs, steer([(1, 2)], [np.ones(width)], 1.0))
    with pytest.raises(TypeError, match=r"\(0, 0\) is not an edit; expected one made by mask"):
        logits(vlm, inputs, [(0, 0)])
    with pytest.raises(KeyError, match="no such heads"):
        logits(vlm, inputs, mask([(0, 24)]))
    for huge in (scale(HEADS, 1e300), steer(HEADS, [np.full(24, 1e39)] * 2, 1.0)):
        with pytest.raises(ValueError, match=r"are not finite in torch\.float32; expected smaller numbers"):
            logits(vlm, inputs, huge)
    with pytest.raises(ValueError, match="edits for all rows and for each row; expected one of the two"):
        logits(vlm, inputs, mask(HEADS), rows=[[], [], []])


def test_the_scorer_takes_no_scope_that_its_one_pass_cannot_tell_apart(vlm, asked):
    scorer = TeacherForcedScorer(vlm, asked)
    for edit in (mask(HEADS, scope="answer"), steer(HEADS, [np.ones(24)] * 2, 1.0), mask(HEADS, scope="prompt_last")):
        with pytest.raises(ValueError, match=r"edits of scope \['\w+'\] in teacher-forced chats; expected one of"):
            scorer.score(edit)


def test_a_scope_without_tokens_is_an_error_in_all_chats_and_counted_in_some(vlm, items, asked, caplog):
    """The picture's tokens: in chats without a picture there are none."""
    blind = [replace(item, image=None) for item in asked]
    edit = mask(HEADS, scope="image")
    with pytest.raises(RuntimeError, match=r"edits of scope \['image'\] never fired"):
        answer(vlm, blind, edits=edit)
    with intervene(vlm, edit) as fired:
        answer(vlm, [*asked[:1], *blind[1:]])
    assert fired.without["image"] / fired.chats["image"] == 3 / 4 and "had no token in" in caplog.text
    with intervene(vlm, edit) as fired:
        answer(vlm, asked)
    assert fired["image"] and not fired.without["image"]


heads_of_nano = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=4, unique=True)


@st.composite
def edits_of_nano(draw):
    """Up to three edits of any kind and scope, as a row of a batch may carry them."""
    made = []
    for _ in range(draw(st.integers(0, 3))):
        heads, scope = draw(heads_of_nano), draw(st.sampled_from(SCOPES))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        vectors = rng.normal(size=(len(heads), 24))
        factor = draw(st.floats(-2, 2))
        made.append(draw(st.sampled_from([
            mask(heads, scope=scope), scale(heads, factor, scope), mean_ablate(heads, vectors, scope),
            steer(heads, vectors, factor, scope),
        ])))  # fmt: skip
    return made


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_edits_in_generate_are_those_of_a_loop_by_hand(vlm, asked, data):
    """The oracle has no cache, no batch and no padding: token by token it runs the whole chat anew, and writes
    ``factor * x + shift`` into the slices of each projection's input at the positions that a scope means."""
    rows = [data.draw(edits_of_nano()) for _ in range(2)]
    texts = [vlm.render(conversation(item, [], 0), prompt=True) for item in asked[:2]]
    pictures = [open_image(item) for item in asked[:2]]
    if any(rows):
        with intervene(vlm, None, rows=rows):
            out = vlm.model.generate(**vlm.encode(texts, pictures), do_sample=False, max_new_tokens=3, min_new_tokens=3,
                                     return_dict_in_generate=True, output_logits=True)  # fmt: skip
        for number, edits in enumerate(rows):
            inputs = vlm.encode([texts[number]], [pictures[number]])
            n_prompt = inputs["input_ids"].shape[1]
            for step in range(3):
                with torch.no_grad():
                    expected = by_hand(vlm, inputs, edits, n_prompt)[0, -1]
                got = out.logits[step][number]
                finite = torch.isfinite(got)  # the end of text is suppressed
                torch.testing.assert_close(got[finite], expected[finite], rtol=1e-3, atol=2e-3)
                token = out.sequences[number, len(out.sequences[number]) - 3 + step]
                for name, value in (("input_ids", token), ("attention_mask", 1)):
                    inputs[name] = torch.cat([inputs[name], inputs[name].new_full((1, 1), int(value))], dim=1)


def asked_tokens(vlm, ids):
    """Token by token: what stands between the marks of a user's turn."""
    said, inside = [], False
    for token in vlm.tokenizer.convert_ids_to_tokens(ids.tolist()):
        inside = token == "<|user|>" or (inside and token != "<|end|>")
        said.append(inside and not token.startswith("<"))
    return torch.tensor(said, device=ids.device)


def by_hand(vlm, inputs, edits, n_prompt):
    ids, handles = inputs["input_ids"][0], []
    at = torch.arange(len(ids), device=ids.device)
    tokens = {"all": at >= 0, "prompt": at < n_prompt, "prompt_last": at == n_prompt - 1, "answer": at >= n_prompt - 1,
              "image": (ids == vlm.image_token_id) & (at < n_prompt),
              "question": asked_tokens(vlm, ids) & (at < n_prompt)}  # fmt: skip
    table = vlm.heads.table.set_index(["layer", "head"])

    def hook_of(module):
        def hook(_, args):
            x = args[0].clone()
            for edit in edits:
                for i, head in enumerate(edit.heads):
                    row = table.loc[head]
                    if row["module"] == module:
                        start = row["start"] - vlm.heads.projections[module][0]
                        shift = torch.tensor(edit.shift[i] if edit.shift else 0.0, device=x.device)
                        here = x[0, tokens[edit.scope], start : start + 24]
                        x[0, tokens[edit.scope], start : start + 24] = edit.factor * here + shift
            return (x,)

        return hook

    for name in vlm.heads.projections:
        handles.append(vlm.model.get_submodule(name).register_forward_pre_hook(hook_of(name)))
    try:
        return vlm.model(**inputs).logits
    finally:
        for handle in handles:
            handle.remove()


def test_direction_points_from_wrong_to_right(vlm):
    class Activations:
        heads = vlm.heads
        features = np.random.default_rng(0).normal(size=(400, vlm.heads.width)).astype(np.float32)

    right = np.arange(400) % 2 == 0
    columns = vlm.heads.columns([(2, 3)])[0]
    Activations.features[right, columns.start + 5] += 4.0
    (direction,) = directions(Activations, [(2, 3)], np.ones(400, dtype=bool), right)
    assert np.abs(direction).argmax() == 5 and direction[5] > 0
    assert np.linalg.norm(direction) == pytest.approx(np.sqrt(1 + 4), rel=0.15)
    with pytest.raises(ValueError, match="expected some of both"):
        directions(Activations, [(2, 3)], np.ones(400, dtype=bool), np.ones(400, dtype=bool))
    for wrong in (np.ones(399, dtype=bool), np.ones(400)):
        with pytest.raises(ValueError, match=r"correct is \w+ \(\d+,\); expected bool \(400,\)"):
            directions(Activations, [(2, 3)], np.ones(400, dtype=bool), wrong)


def test_scored_steps_are_right_where_each_alone_would_be(vlm, items):
    """The oracle scores one step at a time: is each token of the true answer the likeliest after the true ones
    before?"""

    edit = mask([(1, head) for head in range(8)])
    scorer = TeacherForcedScorer(vlm, items, batch_size=5)
    for edits in (None, edit):
        keys = zip(scorer.index["uid"], scorer.index["step"], strict=True)
        right = dict(zip(keys, scorer.score(edits).correct.tolist(), strict=True))
        expected = {}
        for item in items:
            replies = [step.answer for step in item.steps]
            for step, reply in enumerate(replies):
                prompt = vlm.render(conversation(item, replies[:step], step), prompt=True)
                inputs = vlm.encode([prompt + reply], [open_image(item)])
                n = len(vlm.tokenizer(reply).input_ids)
                best = logits(vlm, inputs, edits)[0, -n - 1 : -1].argmax(-1)
                expected[item.uid, step] = torch.equal(best, inputs["input_ids"][0, -n:])
        assert right == expected and 0 < sum(expected.values()) < len(expected)


def test_a_mean_in_a_head_s_place_is_that_of_the_tokens_of_its_kind(vlm, items):
    """The oracle writes the means into the projection's input itself, over whole unpadded chats."""

    scorer, head = TeacherForcedScorer(vlm, items[:4], batch_size=3), (2, 5)
    ((name, start, stop),) = vlm.heads.locate([head])
    first, projection, seen = vlm.heads.projections[name][0], dict(vlm.model.named_modules())[name], []
    chats = []
    for item in items[:4]:
        text, _ = chat_spans(vlm, item, [step.answer for step in item.steps])
        chats.append(vlm.encode([text], [open_image(item)]))
        hook = projection.register_forward_hook(lambda m, a, out: seen.append(a[0][0, :, start - first : stop - first]))
        logits(vlm, chats[-1])
        hook.remove()
    picture = torch.cat([chat["input_ids"][0] == vlm.image_token_id for chat in chats])
    means = scorer.means()
    for scope, own in {"all": ~picture, "image": picture}.items():
        expected = torch.cat(seen)[own].mean(0).cpu()
        np.testing.assert_allclose(means[scope][start:stop], expected, rtol=1e-3, atol=1e-4)

    edits = [mean_ablate([head], [mean[start:stop]], scope) for scope, mean in means.items()]
    log_prob = dict(
        zip(zip(scorer.index["uid"], scorer.index["step"], strict=True), scorer.score(edits).log_prob, strict=True)
    )

    def replaced(module, args):
        x, here = args[0].clone(), chats[0]["input_ids"] == vlm.image_token_id
        for scope, tokens in {"all": ~here, "image": here}.items():
            x[..., start - first : stop - first][tokens] = torch.tensor(means[scope][start:stop], device=x.device)
        return (x,)

    hook = projection.register_forward_pre_hook(replaced)
    scores = logits(vlm, chats[0])[0].log_softmax(-1)
    hook.remove()
    item, ids = items[0], chats[0]["input_ids"][0].tolist()
    answer = vlm.tokenizer(item.steps[-1].answer).input_ids
    assert ids[-len(answer) :] == answer
    expected = sum(float(scores[i - 1, ids[i]]) for i in range(len(ids) - len(answer), len(ids)))
    assert log_prob[item.uid, len(item.steps) - 1] == pytest.approx(expected, abs=1e-3)
