import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.functions import MAIN
from cogvsr_utils.models import recording
from cogvsr_utils.models.activations import HeadActivations
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.positions import POSITIONS, chat_spans
from cogvsr_utils.models.recording import capture, estimate_capture, read_heads


@pytest.fixture(scope="module")
def captured(vlm, items, answers, tmp_path_factory):
    return capture(vlm, items, store=tmp_path_factory.mktemp("store"), answers=answers, batch_size=5, shard=7)


def watch(vlm, text, image):
    """Inputs of every output projection in one plain pass over one text: (tokens, width)."""
    seen, modules = {}, dict(vlm.model.named_modules())
    hooks = [
        modules[n].register_forward_pre_hook(lambda m, a, k=k: seen.__setitem__(k, a[0][0].clone()))
        for k, n in enumerate(vlm.heads.projections)
    ]
    with torch.no_grad():
        vlm.model(**vlm.encode([text], [image]))
    for hook in hooks:
        hook.remove()
    return torch.cat([seen[k] for k in sorted(seen)], dim=1).float().cpu()


def test_features_are_those_of_a_plain_pass_one_step_at_a_time(vlm, items, answers, captured):
    """An oracle without batches, padding, offsets or pooling code: prompts and answers are tokenised apart."""
    for item in items[:4]:
        replies = (
            answers[(answers["uid"] == item.uid) & (answers["step"] != MAIN)].sort_values("step")["prediction"].tolist()
        )
        for step in range(len(item.steps)):
            prompt = vlm.render(conversation(item, replies[:step], step), prompt=True)
            n_answer = len(vlm.tokenizer(replies[step], add_special_tokens=False).input_ids)
            x = watch(vlm, prompt + replies[step], open_image(item))
            expected = x[-n_answer - 1 : -1].mean(0).numpy()
            row = captured.index[(captured.index["uid"] == item.uid) & (captured.index["step"] == step)].index[0]
            np.testing.assert_allclose(captured.features[row], expected, rtol=2e-3, atol=2e-3)
            assert captured.index.loc[row, "n_tokens"] == n_answer


def test_teacher_forced_is_what_generation_captured(vlm, items, answers, captured):
    """The head inputs while a one-token answer is generated equal the stored ones."""
    first = captured.index[(captured.index["step"] == 0) & (captured.index["n_tokens"] == 1)].iloc[0]
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
    x = torch.cat([seen[k] for k in sorted(seen)]).float().cpu().numpy()
    np.testing.assert_allclose(captured.features[first.name], x, rtol=2e-3, atol=2e-3)


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
    slices = [slice(r.start - start, r.stop - start) for r in rows.itertuples()]
    total = sum(caught["x"][..., own] @ projection.weight[:, own].T for own in slices)
    torch.testing.assert_close(total, caught["out"], rtol=1e-4, atol=1e-4)


def test_a_killed_run_resumes_and_gives_the_same_bytes(vlm, items, answers, captured, tmp_path, monkeypatch):
    module = recording

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
    assert kept == ["shard-0000000-0000007.npz"]
    monkeypatch.setattr(module, "read_heads", read_heads)
    again = capture(vlm, items, **settings)
    np.testing.assert_allclose(again.features, captured.features, rtol=0, atol=0 if vlm.device.type == "cpu" else 1e-4)
    assert again.index.equals(captured.index)


def test_batch_size_does_not_change_the_features(vlm, items, answers, captured, tmp_path):
    alone = capture(vlm, items, store=tmp_path, answers=answers, batch_size=1, shard=100)
    np.testing.assert_allclose(alone.features, captured.features, rtol=2e-3, atol=2e-3)


def test_a_store_of_another_making_is_refused(vlm, items, answers, captured, tmp_path):
    capture(vlm, items[:3], store=tmp_path, answers=answers)
    with pytest.raises(ValueError, match=r"made from other settings .*data: there"):
        capture(vlm, items[:4], store=tmp_path, answers=answers)
    with pytest.raises(ValueError, match="at: there 'predicts', now 'reads'"):
        capture(vlm, items[:3], store=tmp_path, answers=answers, at="reads")
    with pytest.raises(ValueError, match="data: there"):
        capture(vlm, [replace(items[0], image=items[3].image), *items[1:3]], store=tmp_path, answers=answers)
    with pytest.raises(ValueError, match="answers: there"):
        capture(vlm, items[:3], store=tmp_path, answers=answers.assign(prediction="green"))
    with pytest.raises(FileNotFoundError, match="no finished activations"):
        HeadActivations.open(tmp_path / "none")


def test_reads_is_one_token_to_the_right_of_predicts(vlm, items, answers, tmp_path):
    item = items[0]
    reads = capture(vlm, [item], store=tmp_path, answers=answers, at="reads")
    first = reads.index["step"].iloc[0]
    replies = answers[(answers["uid"] == item.uid) & (answers["step"] == first)]["prediction"].iloc[0]
    prompt = vlm.render(conversation(item, [], 0), prompt=True)
    n_answer = len(vlm.tokenizer(replies, add_special_tokens=False).input_ids)
    expected = watch(vlm, prompt + replies, open_image(item))[-n_answer:].mean(0).numpy()
    np.testing.assert_allclose(reads.features[0], expected, rtol=2e-3, atol=2e-3)


def test_estimate_and_unknown_words(vlm, items, captured, tmp_path):
    estimate = estimate_capture(vlm, items)
    assert estimate.rows == len(captured.features) and estimate.bytes == captured.features.nbytes
    assert estimate.seconds > 0
    right = [step.answer for item in items for step in item.steps]
    n_tokens = sum(len(vlm.tokenizer(each, add_special_tokens=False).input_ids) for each in right)
    assert estimate_capture(vlm, items, pool="token").rows == n_tokens
    with pytest.raises(ValueError, match="position is 'nowhere'; expected one of"):
        estimate_capture(vlm, items, position="nowhere")
    with pytest.raises(ValueError, match="at is 'sees'; expected one of"):
        capture(vlm, items, store=tmp_path, at="sees")


def test_store_is_self_describing_and_unpickled(captured, vlm):
    header = json.loads(json.dumps(captured.header))
    assert header["model"] == "nano-internvl" and header["weights"] == vlm.weights_digest
    assert isinstance(captured.features, np.memmap) and captured.features.dtype == np.float16
    assert captured.by_head().shape == (len(captured.index), len(vlm.heads), 24)


def replies_of(answers, item):
    rows = answers[(answers["uid"] == item.uid) & (answers["step"] != MAIN)]
    return rows.sort_values("step")["prediction"].tolist()


@pytest.mark.parametrize("position", POSITIONS)
def test_every_position_is_where_its_words_are(vlm, items, answers, tmp_path, position):
    """The oracle finds each place in the decoded tokens of the whole chat, not by character offsets."""
    item = items[0]
    replies = replies_of(answers, item)
    text, _ = chat_spans(vlm, item, replies)
    x = watch(vlm, text, open_image(item))
    ids = vlm.encode([text], [open_image(item)])["input_ids"][0].tolist()
    marks = [i for i, t in enumerate(ids) if vlm.tokenizer.decode([t]) == "<|assistant|>"]
    words = [vlm.tokenizer(step.question).input_ids for step in item.steps]
    expected = {
        "answer": [range(m + 1, m + 1 + len(vlm.tokenizer(s).input_ids)) for m, s in zip(marks, replies, strict=True)],
        "prompt_last": [[m] for m in marks],
        "question": [range(m - 1 - len(w), m - 1) for m, w in zip(marks, words, strict=True)],
        "image": [[i for i, t in enumerate(ids) if vlm.tokenizer.decode([t]) == "<IMG_CONTEXT>"]] * len(replies),
    }
    expected["answer_content"] = expected["answer"]  # all answers here are short of three tokens
    for word, tokens in zip(words, expected["question"], strict=True):
        assert [ids[t] for t in tokens] == word
    captured = capture(vlm, [item], store=tmp_path, answers=answers, position=position, at="reads")
    means = torch.stack([x[list(tokens)].mean(0) for tokens in expected[position]])
    np.testing.assert_allclose(captured.features, means, rtol=2e-3, atol=2e-3)
    assert captured.index["n_tokens"].tolist() == [len(tokens) for tokens in expected[position]]


def test_content_tokens_are_the_most_surprising(vlm, items, answers, tmp_path):
    """Long replies of our own; the oracle is the model's full softmax, one chat at a time."""
    import pandas as pd

    long = "the large red cube is behind the small blue metal sphere"
    rows = [{"uid": i.uid, "step": s, "function": step.function, "answer_type": step.answer_type, "answer": step.answer,
             "options": step.options, "prediction": long, "group_id": i.group_id, "subset": i.subset}
            for i in items[:3] for s, step in enumerate(i.steps)]  # fmt: skip
    settings = dict(answers=pd.DataFrame(rows), position="answer_content", pool="token", content_tokens=3)
    captured = capture(vlm, items[:3], store=tmp_path, **settings)
    for item in items[:3]:
        text, _ = chat_spans(vlm, item, [long] * len(item.steps))
        inputs = vlm.encode([text], [open_image(item)])
        ids = inputs["input_ids"][0]
        with torch.no_grad():
            surprisal = -vlm.model(**inputs).logits[0].log_softmax(-1)
        marks = [i for i, t in enumerate(ids.tolist()) if vlm.tokenizer.decode([t]) == "<|assistant|>"]
        for step, mark in enumerate(marks):
            scores = [float(surprisal[t - 1, ids[t]]) for t in range(mark + 1, mark + 12)]
            best = sorted(np.argsort(scores)[-3:].tolist())
            own = captured.index[(captured.index["uid"] == item.uid) & (captured.index["step"] == step)]
            assert own["token"].tolist() == best


def test_token_rows_average_to_the_mean(vlm, items, answers, captured, tmp_path):
    rows = capture(vlm, items, store=tmp_path, answers=answers, pool="token")
    keys = ["uid", "step"]
    assert (rows.index.groupby(keys, sort=False).size().to_numpy() == captured.index["n_tokens"]).all()
    number = rows.index.groupby(keys, sort=False).ngroup().to_numpy()
    total = np.zeros(captured.features.shape)
    np.add.at(total, number, np.asarray(rows.features, dtype=np.float64))
    np.testing.assert_allclose(
        total / captured.index["n_tokens"].to_numpy()[:, None], captured.features, rtol=5e-3, atol=5e-3
    )


def test_an_answer_that_cannot_be_located_is_named_not_replaced(vlm, items, answers, tmp_path, caplog):
    silent = answers.copy()
    where = (silent["uid"] == items[0].uid) & (silent["step"] == 1)
    silent.loc[where, "prediction"] = ""
    captured = capture(vlm, items[:2], store=tmp_path, answers=silent[silent["uid"].isin([i.uid for i in items[:2]])])
    assert captured.header["not_located"] == [f"{items[0].uid}:1"] and f"{items[0].uid}:1" in caplog.text
    assert len(captured.index) == sum(len(i.steps) for i in items[:2]) - 1


def test_out_of_memory_halves_the_batch_and_logs_it(vlm, items, answers, captured, tmp_path, monkeypatch, caplog):
    module = recording

    def small_gpu(vlm, inputs, *args):
        if len(inputs["input_ids"]) > 3:
            raise torch.cuda.OutOfMemoryError("a batch too many")
        return read_heads(vlm, inputs, *args)

    monkeypatch.setattr(module, "read_heads", small_gpu)
    again = capture(vlm, items, store=tmp_path, answers=answers, batch_size=8)
    assert "out of memory at a batch of 8: continuing with 4" in caplog.text
    np.testing.assert_allclose(again.features, captured.features, rtol=2e-3, atol=2e-3)


def test_what_is_not_finite_is_refused_and_good_shards_stay(vlm, items, answers, tmp_path, monkeypatch):
    module = recording
    passes = []

    def broken(*args):
        passes.append(1)
        return read_heads(*args) * (1 if len(passes) == 1 else np.inf)

    monkeypatch.setattr(module, "read_heads", broken)
    with pytest.raises(ValueError, match=r"not finite in float16, first item \d+, step 0; expected none"):
        # On a GPU a pass more would find the size of a batch.
        capture(vlm, items, store=tmp_path, answers=answers, shard=4, batch_size=16)
    assert [p.name for p in tmp_path.glob("shard-*")] == ["shard-0000000-0000004.npz"]


def test_a_full_disk_is_named_and_good_shards_stay(vlm, items, answers, tmp_path, monkeypatch):
    import errno
    import shutil

    save, saved = np.savez, []

    def full(file, **arrays):
        saved.append(1)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"cannot write .*No space left.* the 1 shards before it are kept: make room"):
        capture(vlm, items, store=tmp_path / "a", answers=answers, shard=4)
    assert sorted(p.name for p in (tmp_path / "a").glob("shard-*")) == ["shard-0000000-0000004.npz"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match=r"needs 0\.0 GB .* 0\.0 GB are free"):
        capture(vlm, items, store=tmp_path / "b", answers=answers)


def test_an_unreadable_picture_names_its_item(vlm, items, answers, tmp_path):
    from dataclasses import replace

    torn = tmp_path / "torn.png"
    torn.write_bytes(b"\x89PNG but no more")
    with pytest.raises(ValueError, match=rf"item {items[0].uid!r}: cannot read the picture .*torn\.png"):
        capture(vlm, [replace(items[0], image=str(torn))], store=tmp_path / "s", answers=answers)


def test_kill_nine_and_go_on(items, answers, captured, tmp_path, small_set):
    """A process of its own, killed between shards; what it left is taken up and the bytes are the same."""
    import signal
    import subprocess
    import sys
    import time

    answers.to_parquet(tmp_path / "answers.parquet")
    code = (
        "import pandas as pd, cogvsr_utils as c; "
        f"capture = c.capture; items = c.load_items({str(small_set)!r})[:12]; "
        f"capture(c.load_vlm('nano-internvl', device='cpu'), items, store={str(tmp_path / 's')!r}, "
        f"answers=pd.read_parquet({str(tmp_path / 'answers.parquet')!r}), batch_size=5, shard=1)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while child.poll() is None and len(list((tmp_path / "s").glob("shard-*.npz"))) < 3:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = len(list((tmp_path / "s").glob("shard-*.npz")))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert left >= 3 or (tmp_path / "s" / "header.json").exists()
    again, once = HeadActivations.open(tmp_path / "s"), tmp_path / "t"
    whole = subprocess.run([sys.executable, "-c", code.replace(str(tmp_path / "s"), str(once))], capture_output=True)
    assert whole.returncode == 0
    assert again.features.tobytes() == HeadActivations.open(once).features.tobytes()
