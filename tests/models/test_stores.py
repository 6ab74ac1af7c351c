"""Nothing of a capture is lost or silently wrong, however it was stopped and with whatever it is taken up."""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from killing import end, start

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.dataset.loading import load_items
from cogvsr_utils.models.activations import HeadActivations, ShardedStore
from cogvsr_utils.models.chat import conversation
from cogvsr_utils.models.head_edits import mask
from cogvsr_utils.models.interventions import intervene
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.models.recording import capture

MAKING = {"batch_size": 5, "shard": 4}


def captures(folder, number, source, making):
    """A capture in a process of its own; it leaves with 3 where the store is of other settings."""
    vlm, items = load_vlm("nano-internvl", device="cpu"), load_items(source)[:6]
    yield
    try:
        capture(vlm, items, store=folder / f"store-{number}", **making)
    except ValueError as error:
        assert "made from other settings" in str(error)
        sys.exit(3)


def test_captures_killed_at_fifty_moments_give_the_bytes_of_an_undisturbed_one(small_set, tmp_path):
    making = {"batch_size": 5, "shard": 1}
    undisturbed = start(captures, tmp_path, 0, small_set, making)
    begun = time.perf_counter()
    assert end(undisturbed) == 0
    seconds = time.perf_counter() - begun
    rng, kills, refused, number = random.Random(0), 0, 0, 0
    while kills < 50:
        number += 1
        store = tmp_path / f"store-{number}"
        while not (store / "header.json").exists():
            other = (store / "settings.json").exists() and rng.random() < 0.3
            now = {"batch_size": rng.choice([2, 5]), "shard": rng.choice([3, 7])} if other else making
            process = start(captures, tmp_path, number, small_set, now)
            time.sleep(rng.random() * seconds)
            code = end(process, kill=True)
            assert code in (-signal.SIGKILL, 3 if other else 0), (code, other)
            kills += code == -signal.SIGKILL
            refused += code == 3
    assert refused
    whole = HeadActivations.open(tmp_path / "store-0")
    for each in range(1, number + 1):
        again = HeadActivations.open(tmp_path / f"store-{each}")
        assert again.features.tobytes() == whole.features.tobytes() and again.index.equals(whole.index)


@pytest.fixture
def begun(vlm, items, answers, tmp_path, monkeypatch):
    """A store in which the first shard is kept, and what went on to be captured."""
    add = ShardedStore.add

    def dies(self, first, stop, make):
        if first > 0:
            raise KeyboardInterrupt
        add(self, first, stop, make)

    monkeypatch.setattr(ShardedStore, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        capture(vlm, items, store=tmp_path / "s", answers=answers, **MAKING)
    monkeypatch.setattr(ShardedStore, "add", add)
    return tmp_path / "s"


def features(vlm, items, answers, store, **making):
    return capture(vlm, items, store=store, answers=answers, **MAKING | making).features.tobytes()


def test_other_sizes_are_refused_until_whole(vlm, items, answers, begun, tmp_path):
    for making in ({"shard": 16}, {"shard": 1}, {"batch_size": 3}, {"batch_size": None}):
        ((name, now),) = making.items()
        with pytest.raises(ValueError, match=rf"{name}: there \d, now {now}\); give those, or another store"):
            features(vlm, items, answers, begun, **making)
    whole = features(vlm, items, answers, begun)
    assert whole == features(vlm, items, answers, tmp_path / "t")
    assert whole == features(vlm, items, answers, begun, shard=16, batch_size=3)


@pytest.mark.parametrize("harm", ["cut", "text", "another's rows", "a row twice"])
def test_a_damaged_shard_is_named_and_only_it_is_made_anew(vlm, items, answers, begun, tmp_path, harm):
    path = begun / "shard-0000000-0000004.npz"
    with np.load(path) as saved:
        kept = dict(saved)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif harm == "text":
        path.write_text("not a shard")
    else:
        place = kept["place"].copy()
        place[0] = place[1] if harm == "a row twice" else [9, 0, 1, 0]
        np.savez(path, **kept | {"place": place})
    with pytest.raises(ValueError, match=rf"{path.name} is damaged .*take this one file away and run again"):
        features(vlm, items, answers, begun)
    path.unlink()
    assert features(vlm, items, answers, begun) == features(vlm, items, answers, tmp_path / "t")


@pytest.mark.parametrize("name", ["settings.json", "header.json", "features.npy", "index.parquet", "heads.parquet"])
def test_a_damaged_file_of_a_whole_store_is_named(vlm, items, answers, tmp_path, name):
    features(vlm, items, answers, tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=rf"{name} is damaged .*bring it back from a copy, or give another store"):
        features(vlm, items, answers, tmp_path)


def test_kept_answers_that_are_damaged_are_named(vlm, items, tmp_path, monkeypatch):
    monkeypatch.setattr(ShardedStore, "join", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        capture(vlm, items[:2], store=tmp_path)
    for harm in ("{", "[]", "{}", '{"replies": {}}'):
        (tmp_path / "replies.json").write_text(harm)
        with pytest.raises(ValueError, match=r"replies\.json is damaged .*take this one file away and run again"):
            capture(vlm, items[:2], store=tmp_path)


@pytest.mark.parametrize("name, harm", [
    ("features.npy", lambda path: path.write_bytes(path.read_bytes() + b"more")),
    ("features.npy", lambda path: np.save(path, np.load(path).astype(np.float64))),
    ("index.parquet", lambda path: pd.read_parquet(path).iloc[::-1].to_parquet(path)),
    ("heads.parquet", lambda path: pd.read_parquet(path)[["layer"]].to_parquet(path)),
    ("header.json", lambda path: path.write_text("[]")),
    ("settings.json", lambda path: path.write_text("7")),
])  # fmt: skip
def test_a_file_with_another_content_is_named(vlm, items, answers, tmp_path, name, harm):
    features(vlm, items, answers, tmp_path)
    harm(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        features(vlm, items, answers, tmp_path)


def test_what_else_changes_activations_is_another_setting(vlm, items, answers, tmp_path):
    features(vlm, items, answers, tmp_path)
    with (
        intervene(vlm, mask([(0, 0)])),
        pytest.raises(ValueError, match="edits: there 'none', now"),
    ):
        vlm.forward(vlm.encode([vlm.render(conversation(items[0], [], 0), prompt=True)], [open_image(items[0])]))
        features(vlm, items, answers, tmp_path)
    processor = vlm.processor.image_processor
    before = processor.image_mean
    processor.image_mean = [0.1, 0.1, 0.1]
    with pytest.raises(ValueError, match="pictures: there"):
        features(vlm, items, answers, tmp_path)
    processor.image_mean = before
    weight = vlm.model.get_submodule(next(iter(vlm.heads.projections))).weight
    kept = weight.detach().clone()
    weight.data[:, :24] = 0
    with pytest.raises(ValueError, match="weights: there"):
        features(vlm, items, answers, tmp_path)
    weight.data.copy_(kept)
    assert features(vlm, items, answers, tmp_path)


def test_labels_are_the_items_own_not_those_of_earlier_answers(vlm, items, answers, tmp_path):
    relabelled = [replace(i, steps=[replace(s, function="Math Reasoning") for s in i.steps]) for i in items]
    found = capture(vlm, relabelled, store=tmp_path, answers=answers)
    assert set(found.index["function"]) == {"Math Reasoning"}


def test_a_folder_of_other_files_is_refused_and_left_as_it_was(vlm, items, answers, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / ".thesis.part2.tex").write_text("and more")
    with pytest.raises(ValueError, match=r"has other files \(\.thesis\.part2\.tex, thesis\.tex\); give another store"):
        features(vlm, items, answers, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / ".thesis.part2.tex").read_text() == "and more"


def test_a_folder_that_cannot_be_written_to_is_named(vlm, items, answers):
    with pytest.raises(OSError, match="/sys/activations"):  # read-only for every user
        features(vlm, items, answers, "/sys/activations")


def test_one_writer_at_a_time_and_a_killed_one_leaves_no_lock(vlm, items, answers, begun, tmp_path):
    settings = json.loads((begun / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    holds = (
        "import json, sys, time; from cogvsr_utils.models.activations import ShardedStore; "
        f"s = json.load(open({str(tmp_path / 'settings.json')!r})); "
        f"store = ShardedStore({str(begun)!r}, s, {{}}); store.__enter__(); print('locked', flush=True); "
        "time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(OSError, match=r"another process writes to .*; wait for it, or give another store"):
        features(vlm, items, answers, begun)
    other.send_signal(signal.SIGKILL)
    other.wait()
    (begun / ".settings.99.part.json").write_text("{")  # as a writer leaves that was killed at it
    assert features(vlm, items, answers, begun) == features(vlm, items, answers, tmp_path / "t")
    assert not list(begun.glob(".*.part*"))


@pytest.mark.parametrize("what", ["have no", "have two", "have an unknown"])
def test_answers_that_do_not_fit_are_refused_and_right_ones_are_taken_after_them(vlm, items, answers, tmp_path, what):
    own = answers[answers["uid"] == items[0].uid]
    wrong = {"have no": answers.drop(own.index[0]), "have two": answers.loc[[*answers.index, own.index[0]]],
             "have an unknown": answers.loc[[*answers.index, own.index[0]]].assign(
                 step=[*answers["step"], 99])}[what]  # fmt: skip
    with pytest.raises(ValueError, match=rf"1 steps {what} answer, such as .*; expected one for every step"):
        features(vlm, items, wrong, tmp_path)
    assert len(capture(vlm, items, store=tmp_path, answers=answers, **MAKING).index)
