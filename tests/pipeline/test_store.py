"""Results are made once, never stale, and made side by side; a kill loses nothing that was finished."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from clones import cloned, environment, snakemake
from own_data import FEW

from cogvsr_utils import paths
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes
from cogvsr_utils.dataset.jsonl import read_items, write_items
from cogvsr_utils.dataset.splits import SELECTION
from cogvsr_utils.paths import ROOT
from cogvsr_utils.pipeline import recordings, selection, store
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.plan import RESULTS, results_of, rules
from cogvsr_utils.pipeline.store import Result, _from_arrays, _to_arrays

SOME = replace(FEW, control_items=3, ablation_items=20)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def poisoned(small_set, folder):
    """The same items under the same name, all of C turned round: other answers, other functions, other questions."""
    items = []
    for item in read_items(small_set):
        if item.split == "C":
            functions = [step.function for step in item.steps]
            steps = [
                replace(s, function=f, answer="red", answer_type="closed", options=None, question=s.question[::-1])
                for s, f in zip(item.steps, functions[1:] + functions[:1], strict=True)
            ]
            item = replace(item, steps=steps, question="Is it red?", answer="no", answer_type="yesno", options=None)
        items.append(item)
    shutil.copytree(small_set.parent / "images", folder / "images")
    images = [None if i.image is None else str(folder / "images" / i.image.rsplit("/", 1)[1]) for i in items]
    return write_items(folder / small_set.name, [replace(i, image=path) for i, path in zip(items, images, strict=True)])


def test_selection_reads_split_a_alone(small_set, tmp_path, results, monkeypatch):
    """Split C is poisoned: the same heads come out, and the kept results stay valid."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # on a GPU sums are taken in any order
    clean = Experiment("nano-internvl", profile=SOME, source=str(small_set))
    rankings = selection.rankings(clean)
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "other")
    (tmp_path / "data").mkdir()
    other = Experiment("nano-internvl", profile=SOME, source=str(poisoned(small_set, tmp_path / "data")))
    assert other.items("C") != clean.items("C")
    again = selection.rankings(other)
    for name, scores in rankings.scores.items():
        np.testing.assert_array_equal(scores, again.scores[name])
    assert selection.rankings.key(other) == selection.rankings.key(clean)
    assert recordings.answers["C"].key(other) != recordings.answers["C"].key(clean)
    torch.use_deterministic_algorithms(False)


def test_every_result_of_selection_declares_a_alone_and_cannot_read_more(small_set):
    for result in RESULTS.values():
        if result.make.__module__ == selection.__name__:
            for need in (result, *result.all_needs()):
                assert set(need.splits) <= {SELECTION}, need.name
    experiment = Experiment("nano-internvl", source=str(small_set))
    with pytest.raises(PermissionError, match=r"split 'C' may not be read here; this result declares \('A',\)"):
        experiment.restricted((SELECTION,)).items("C")


@dataclass(frozen=True)
class Numbers:
    one: np.ndarray
    named: dict[str, np.ndarray]


def test_dataclasses_of_arrays_go_to_disk_and_back_without_pickle(tmp_path):
    value = Numbers(np.arange(3.0), {"a b": np.array(["x", "yy"]), "c": np.eye(2)})
    np.savez(tmp_path / "x.npz", **_to_arrays(value))
    with np.load(tmp_path / "x.npz", allow_pickle=False) as saved:
        again = _from_arrays(Numbers, dict(saved))
    np.testing.assert_array_equal(again.one, value.one)
    assert again.named.keys() == value.named.keys() and again.named["a b"].tolist() == ["x", "yy"]


def test_a_key_changes_with_settings_data_weights_and_needs_and_with_nothing_else(small_set, tmp_path):
    base = Experiment("nano-internvl", source=str(small_set))
    key = RESULTS["network_probe"].key
    others = [
        Experiment("nano-internvl", profile="full", source=str(small_set)),
        Experiment("nano-mllama", source=str(small_set)),
        Experiment("nano-internvl", quantize="4bit", source=str(small_set)),
        Experiment("nano-internvl"),
    ]
    keys = {key(base), *map(key, others)}
    assert len(keys) == 5
    assert key(Experiment("nano-internvl", source=str(small_set))) == key(base)
    folder = str(ROOT / "data" / "nano" / "nano-internvl")
    assert key(Experiment(folder, source=str(small_set))) == key(base)  # the same weights by another name
    file = tmp_path / "data.jsonl"
    shutil.copy(small_set, file)
    shutil.copytree(small_set.parent / "images", tmp_path / "images")
    mine = Experiment("nano-internvl", source=str(file))
    before = key(mine)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    assert key(mine) != before, "an experiment sees that its file was edited"
    with pytest.raises(ValueError, match=r"profile is 'heavy'; expected one of \('light', 'full'\)"):
        Experiment("nano-internvl", profile="heavy")


def test_a_result_is_made_once_and_says_what_made_it(small_set, results, monkeypatch):
    experiment, result = Experiment("nano-internvl", profile=SOME, source=str(small_set)), recordings.answers["B"]
    table = result(experiment)
    stamp = json.loads(result.stamp_path(experiment).read_text())
    assert stamp["result"] == "answers-B" and stamp["weights"] == experiment.weights_digest and stamp["seconds"] > 0
    older = result.data_path(experiment).with_name("answers-B.0123456789abcdef.parquet")
    older.write_bytes(b"")
    monkeypatch.setattr(Result, "_make", lambda self, experiment: pytest.fail("made twice"))
    pd.testing.assert_frame_equal(result(experiment), table)
    monkeypatch.undo()
    monkeypatch.setattr(paths, "RESULTS", results)
    result.stamp_path(experiment).unlink()
    result(experiment)
    assert not older.exists(), "what other code made is removed when a result is made anew"


def test_results_are_named_once_and_their_arguments_are_results(monkeypatch):
    monkeypatch.setattr(store, "DECLARED", dict(store.DECLARED))

    def planned(experiment, head_map) -> pd.DataFrame: ...
    def with_a_need(experiment, rankings, table) -> pd.DataFrame: ...

    with pytest.raises(TypeError, match="planned takes 'head_map'; expected a result declared before, or in"):
        store.result()(planned)
    declared = store.result(needs={"table": RESULTS["head_table"]})(with_a_need)
    assert declared.needs == {"rankings": RESULTS["rankings"], "table": RESULTS["head_table"]}
    with pytest.raises(ValueError, match="two results are named 'with_a_need'"):
        store.result(needs={"table": RESULTS["head_table"]})(with_a_need)
    for name, each in RESULTS.items():
        assert each.name == name and all(need in RESULTS.values() for need in each.needs.values()), name


# ---------------------------------------------------------------- whole runs, in a clone of their own


@pytest.fixture(scope="module")
def clone(tmp_path_factory, small_set):
    return cloned(tmp_path_factory.mktemp("clone"), small_set)


def job(folder, model, result):
    """The name of a rule, for the user's own data."""
    (rule,) = rules(Experiment(model, source=str(folder / "mine" / "items.jsonl")), [result])
    return rule.title


def make(folder, result):
    command = [sys.executable, "-m", "cogvsr_utils.pipeline", result, "--source", "mine/items.jsonl"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_edit_of_what_a_result_rests_on_makes_it_anew_and_another_edit_does_not(clone):
    first = make(clone, "ridge_probes")
    made = first.stat().st_mtime_ns
    edit(clone / "cogvsr_utils/report/figures.py", '"font.size": 10', '"font.size": 11')
    edit(clone / "cogvsr_utils/analysis/sparsity.py", "SHARES, LEVELS = (0.1,", "SHARES, LEVELS = (0.2,")
    assert make(clone, "ridge_probes") == first and first.stat().st_mtime_ns == made
    activations = sorted((clone / "results").rglob("activations-A.*.json"))
    edit(clone / "cogvsr_utils/analysis/head_probes.py", "ridge: float = 10.0", "ridge: float = 20.0")
    second = make(clone, "ridge_probes")
    assert second != first and second.exists() and not first.exists()
    assert sorted((clone / "results").rglob("activations-A.*.json")) == activations, "its needs stay"


def test_two_results_of_two_models_are_made_side_by_side(clone):
    models = ("nano-internvl", "nano-mllama")
    done = snakemake(
        clone,
        "--cores",
        "2",
        "--config",
        f"model={','.join(models)}",
        "source=mine/items.jsonl",
        "--",
        *(job(clone, model, "answers-B") for model in models),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Execute 2 jobs..." in done.stderr
    for model in models:
        assert len(list((clone / "results" / model).rglob("answers-B.*.parquet"))) == 1


@pytest.mark.parametrize("profile", ["gpu", "slurm"])
def test_a_dry_run_lists_the_jobs_expected(clone, profile):
    done = snakemake(
        clone,
        "--profile",
        f"profiles/{profile}",
        "--dry-run",
        "--config",
        "model=nano-qwen2_5_vl",
        "quantize=4bit",
        "profile=full",
        "--",
        "results",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    listed = {
        line.split()[0]
        for line in done.stdout.splitlines() + done.stderr.splitlines()
        if line.endswith(" 1") and "__" in line
    }
    asked = Experiment("nano-qwen2_5_vl", "4bit", "full")
    expected = {rule.title for rule in rules(asked, results_of(asked))}
    left_out = {name for name in RESULTS if f"{name}__nano-qwen2_5_vl-4bit__synth__full" not in expected}
    compared = {"four_bit_answers", "four_bit_activations", "quantization"}
    known = {"planted_effects", "planted_parts", "planted_sparsity", "planted_pairs", "finder_scores", "preset_scores"}
    known |= {"set_ablations-planted_heads", "specific_damage-planted_heads"}
    assert listed == expected and left_out == compared | known, "what compares with 4-bit, what planted heads have"
    gpus = {rule.result for rule in rules(Experiment("nano-internvl"), RESULTS) if rule.gpu}
    assert "answers-A" in gpus and "network_probe" not in gpus and "ablation_matrix" not in gpus


def test_a_dry_run_has_a_job_for_each_shard_of_each_copy(clone, small_set):
    write_lookalikes(read_items(small_set), clone / "copies")
    done = snakemake(
        clone,
        "--profile",
        "profiles/slurm",
        "--dry-run",
        "--config",
        "data_root=copies",
        "shards=3",
        "model=nano-internvl,nano-mllama",
        "--",
        "benchmarks",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    listed = [
        line.split()[0] for line in done.stdout.splitlines() + done.stderr.splitlines() if line.startswith("replies__")
    ]
    assert len(set(listed)) == 5 * 3 * 2 and any("vsr__2_of_3__nano-mllama" in name for name in listed)


def test_a_kill_in_the_middle_loses_nothing(clone):
    """Killed once one result is there; it stays as it is, and the rest is made by the same command."""
    targets = [job(clone, "nano-internvl", f"answers-{split}") for split in ("A", "hard", "C")]
    arguments = ["--cores", "1", "--config", "source=mine/items.jsonl", "--", *targets]
    shutil.rmtree(clone / "results", ignore_errors=True)
    command = [sys.executable, "-m", "snakemake", "--nolock", "--rerun-incomplete", *arguments]
    child = subprocess.Popen(command, cwd=clone, env=environment(clone), start_new_session=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    def stamps():
        """Those of whole results, which are written last."""
        return [path for path in (clone / "results").rglob("answers-*.json") if ".begun." not in path.name]

    while child.poll() is None and not stamps():
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    kept = {path: path.read_bytes() for path in stamps()}
    assert kept
    done = snakemake(clone, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path: path.read_bytes() for path in kept} == kept, "seconds and all"
    assert len(stamps()) == 3


def test_pages_declare_every_result_that_they_show():
    """The calls of results in a notebook's code, and in what it draws verdicts from, are the ones its page declares."""
    import ast
    from importlib import import_module

    from cogvsr_utils.pipeline import measured
    from cogvsr_utils.report import claims
    from cogvsr_utils.report.book import PAGES

    rooms = {result.make.__module__ for result in RESULTS.values()}
    modules = {room.rpartition(".")[2]: import_module(room) for room in rooms}
    for name, page in PAGES.items():
        named = set()
        for node in ast.walk(ast.parse((ROOT / "notebooks" / f"{name}.py").read_text())):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in modules:
                value = getattr(modules[node.value.id], node.attr, None)  # a variable of a page may have such a name
                if isinstance(value, Result):
                    named.add(value)
                elif hasattr(value, "results"):
                    named |= set(value.results.values())
        of_others = (*page.nano, *page.first, *page.planted)
        declared = {*page.results, *page.heavy, *page.crossed, *page.compared, *page.cued, *of_others}
        shown, known = ({each.make for each in results} for results in (named, declared))
        assert shown <= known, (name, shown - known)
        # Verdicts show measured tables that the page's own code does not name.
        judged = {*measured.MEASURED, *claims.RESULTS, *claims.CROSSED, *claims.CUED}
        assert known - shown <= {each.make for each in judged}, (name, known - shown)
