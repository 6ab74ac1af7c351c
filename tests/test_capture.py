import json

import numpy as np
import pytest
import torch

from cogvsr_utils import HeadActivations, capture
from cogvsr_utils.answering import MAIN, conversation
from cogvsr_utils.capture import chat_spans, read_heads
from cogvsr_utils.items import open_image


@pytest.fixture(scope="module")
def held(vlm, items, answers, tmp_path_factory):
    return capture(vlm, items, store=tmp_path_factory.mktemp("store"), answers=answers, batch_size=5, shard=7)


def watch(vlm, text, image):
    """Inputs of every output projection in one plain pass over one text: (tokens, width)."""
    seen, modules = {}, dict(vlm.model.named_modules())
    hooks = [modules[n].register_forward_pre_hook(lambda m, a, k=k: seen.__setitem__(k, a[0][0].clone()))
             for k, n in enumerate(vlm.heads.projections)]  # fmt: skip
    with torch.no_grad():
        vlm.model(**vlm.encode([text], [image]))
    for hook in hooks:
        hook.remove()
    return torch.cat([seen[k] for k in sorted(seen)], dim=1)


def test_features_are_those_of_a_plain_pass_one_step_at_a_time(vlm, items, answers, held):
    """An oracle without batches, padding, offsets or pooling code: prompts and answers are tokenised apart."""
    for item in items[:4]:
        said = (
            answers[(answers["uid"] == item.uid) & (answers["step"] != MAIN)].sort_values("step")["prediction"].tolist()
        )
        for step in range(len(item.steps)):
            prompt = vlm.render(conversation(item, said[:step], step), prompt=True)
            n_answer = len(vlm.tokenizer(said[step], add_special_tokens=False).input_ids)
            x = watch(vlm, prompt + said[step], open_image(item))
            expected = x[-n_answer - 1 : -1].mean(0).numpy()
            row = held.index[(held.index["uid"] == item.uid) & (held.index["step"] == step)].index[0]
            np.testing.assert_allclose(held.features[row], expected, rtol=2e-3, atol=2e-3)
            assert held.index.loc[row, "n_tokens"] == n_answer


def test_teacher_forced_is_what_generation_held(vlm, items, answers, held):
    """The head inputs while a one-token answer is generated equal the stored ones."""
    first = held.index[(held.index["step"] == 0) & (held.index["n_tokens"] == 1)].iloc[0]
    item = next(item for item in items if item.uid == first["uid"])
    prompt = vlm.render(conversation(item, [], 0), prompt=True)
    seen, modules = {}, dict(vlm.model.named_modules())

    def note(layer):
        def hook(module, args):
            seen.setdefault(layer, args[0][0, -1].clone())

        return hook

    hooks = [modules[name].register_forward_pre_hook(note(layer)) for layer, name in enumerate(vlm.heads.projections)]
    with torch.no_grad():
        vlm.model.generate(**vlm.encode([prompt], [open_image(item)]), do_sample=False, max_new_tokens=1)
    for hook in hooks:
        hook.remove()
    x = torch.cat([seen[k] for k in sorted(seen)]).numpy()
    np.testing.assert_allclose(held.features[first.name], x, rtol=2e-3, atol=2e-3)


def test_heads_through_the_projection_are_the_layers_own_output(vlm, items):
    """The sum over heads of slice times weight columns is what the attention block adds."""
    item, name = items[0], list(vlm.heads.projections)[2]
    projection = dict(vlm.model.named_modules())[name]
    caught = {}
    hook = projection.register_forward_hook(lambda m, a, out: caught.update(x=a[0], out=out))
    text, _ = chat_spans(vlm, item, [step.answer for step in item.steps])
    with torch.no_grad():
        vlm.model(**vlm.encode([text], [open_image(item)]))
    hook.remove()
    start = vlm.heads.projections[name][0]
    rows = vlm.heads.table[vlm.heads.table["layer"] == 2]
    total = sum(caught["x"][..., r.start - start : r.stop - start] @ projection.weight[:, r.start - start : r.stop - start].T
                for r in rows.itertuples())  # fmt: skip
    torch.testing.assert_close(total, caught["out"], rtol=1e-4, atol=1e-4)


def test_a_killed_run_goes_on_and_gives_the_same_bytes(vlm, items, answers, held, tmp_path, monkeypatch):
    import importlib

    module = importlib.import_module("cogvsr_utils.capture")

    calls = []

    def dies(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read_heads(*args)

    monkeypatch.setattr(module, "read_heads", dies)
    settings = dict(store=tmp_path, answers=answers, batch_size=5, shard=7)
    with pytest.raises(KeyboardInterrupt):
        capture(vlm, items, **settings)
    kept = sorted(p.name for p in tmp_path.glob("shard-*.npz"))
    assert kept == ["shard-0000000.npz"]
    monkeypatch.setattr(module, "read_heads", read_heads)
    again = capture(vlm, items, **settings)
    assert again.features.tobytes() == held.features.tobytes()
    assert again.index.equals(held.index)


def test_batch_size_does_not_change_the_features(vlm, items, answers, held, tmp_path):
    alone = capture(vlm, items, store=tmp_path, answers=answers, batch_size=1, shard=100)
    np.testing.assert_allclose(alone.features, held.features, rtol=2e-3, atol=2e-3)


def test_a_store_of_another_making_is_refused(vlm, items, answers, held, tmp_path):
    capture(vlm, items[:3], store=tmp_path, answers=answers)
    with pytest.raises(ValueError, match=r"made from other settings .*data: there"):
        capture(vlm, items[:4], store=tmp_path, answers=answers)
    with pytest.raises(ValueError, match="at: there 'predicts', now 'reads'"):
        capture(vlm, items[:3], store=tmp_path, answers=answers, at="reads")
    with pytest.raises(FileNotFoundError, match="no finished activations"):
        HeadActivations.open(tmp_path / "none")


def test_reads_is_one_token_to_the_right_of_predicts(vlm, items, answers, tmp_path):
    item = items[0]
    reads = capture(vlm, [item], store=tmp_path, answers=answers, at="reads")
    first = reads.index["step"].iloc[0]
    said = answers[(answers["uid"] == item.uid) & (answers["step"] == first)]["prediction"].iloc[0]
    prompt = vlm.render(conversation(item, [], 0), prompt=True)
    n_answer = len(vlm.tokenizer(said, add_special_tokens=False).input_ids)
    expected = watch(vlm, prompt + said, open_image(item))[-n_answer:].mean(0).numpy()
    np.testing.assert_allclose(reads.features[0], expected, rtol=2e-3, atol=2e-3)


def test_dry_run_and_unknown_words(vlm, items, held, tmp_path):
    foretold = capture(vlm, items, store=tmp_path / "x", dry_run=True)
    assert foretold["rows"] == len(held.features) and foretold["bytes"] == held.features.nbytes
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="at is 'sees'; expected one of"):
        capture(vlm, items, store=tmp_path, at="sees")


def test_store_is_self_describing_and_unpickled(held, vlm):
    header = json.loads(json.dumps(held.header))
    assert header["model"] == "nano-internvl" and header["weights"] == vlm.fingerprint
    assert isinstance(held.features, np.memmap) and held.features.dtype == np.float16
    assert held.by_head().shape == (len(held.index), len(vlm.heads), 24)
