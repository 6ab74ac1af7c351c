"""What SECURITY.md promises: nothing is unpickled, evaluated, fetched or run from what a user loads."""

import ast
import json
import shutil
import socket
from dataclasses import replace

import pytest

from cogvsr_utils.dataset.images import open_image
from cogvsr_utils.models.loading import load_vlm
from cogvsr_utils.paths import NANO, ROOT

SOURCES = [
    *sorted((ROOT / "cogvsr_utils").rglob("*.py")),
    *sorted((ROOT / "notebooks").glob("*.py")),
    ROOT / "Snakefile",
]
UNPICKLING = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FETCHING = {"urllib", "requests", "httpx", "http", "socket", "aiohttp", "pooch", "openai"}
MAY_FETCH = {"dataset/benchmarks/downloads.py", "dataset/language_models.py"}  # and only where a user asks for it


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


def faults(source):
    """What a module does that the project promises not to do."""
    tree = ast.parse(source)
    yield from (UNPICKLING | FETCHING) & set(imported(tree))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name, given = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name in ("eval", "exec", "compile", "__import__", "os.system", "yaml.load"):
            yield name
        if name == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only"
        for word in ("allow_pickle", "shell", "trust_remote_code"):
            if given.get(word) == "True":
                yield f"{word}=True"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.suffix == ".py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_nothing_is_unpickled_evaluated_or_fetched(path):
    found = set(faults(path.read_text(encoding="utf-8")))
    if str(path).endswith(tuple(MAY_FETCH)):
        assert found & FETCHING
        found -= FETCHING
    assert not found


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from joblib import load", "eval('1')", "torch.load(path)", "np.load(p, allow_pickle=True)",
     "import urllib.request", "subprocess.run(c, shell=True)", "yaml.load(text)"],
)  # fmt: skip
def test_each_fault_is_seen(line):
    assert list(faults(line))


def test_code_beside_weights_is_not_run(tmp_path):
    folder, trace = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(NANO / "nano-internvl", folder)
    (folder / "remote.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Config: ...\nclass Model: ...\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "remote.Config", "AutoModelForImageTextToText": "remote.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    assert len(load_vlm(str(folder)).heads) == 192 and not trace.exists()


def test_addresses_in_data_are_never_fetched(items, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(ValueError, match="download the picture"):
        open_image(replace(items[0], image="https://example.org/picture.png"))
