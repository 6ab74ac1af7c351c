"""Where a model's weights are, and a hash of them without loading them.

QUANTIZE                  how weights may be quantized on loading
nano_names()              the small models that the package ships; planted_names(), those whose heads are known
find_weights(name)        the folder or hub id that a name means
weights_digest(name)      a hash that changes with the weights
"""

from pathlib import Path

from cogvsr_utils.files import digest
from cogvsr_utils.paths import NANO

QUANTIZE = (None, "4bit", "8bit")
PARTS = ("*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt")  # what a saved model consists of
SAMPLE = 2**20  # bytes of each end of a file of weights that its digest is taken of


def nano_names() -> list[str]:
    """Names of the small models that the package ships."""
    return sorted(path.parent.name for path in NANO.glob("nano-*/config.json"))


def planted_names() -> list[str]:
    """Names of the shipped models whose heads are known, see ``checks.known_heads``."""
    return sorted(path.parent.name for path in NANO.glob("*/planted.json"))


def find_weights(name: str) -> str:
    """The folder or hub id that a name means; raises OSError for an unknown nano name or a folder without a model."""
    if (NANO / name / "config.json").is_file():
        return str(NANO / name)
    if name.startswith("nano-"):
        raise OSError(f"no nano model {name!r}; shipped: {', '.join(nano_names()) or 'none'}")
    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise OSError(f"the folder {name!r} has no config.json; expected a saved transformers model")
    return name


def weights_digest(name: str, revision: str | None = None) -> str:
    """A hash that changes with a model's weights, without loading them.

    For a folder a hash over its configuration, tokenizer and chat template and over the size, head and tail of each
    file of weights; for a hub id over its commit: the cached one, or the one that the hub would send, so that a model
    has one hash before and after its download; over the id and revision where the hub is not reached.
    """
    folder = Path(find_weights(name))
    if folder.is_dir():
        parts: list[str | bytes] = []
        for path in sorted(path for pattern in PARTS for path in folder.glob(pattern)):
            with path.open("rb") as file:
                head = file.read(SAMPLE)
                file.seek(max(path.stat().st_size - SAMPLE, 0))
                parts += [path.name, str(path.stat().st_size), head, file.read()]
        return digest(*parts)
    from huggingface_hub import model_info, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    if isinstance(cached, str):
        return digest(name, Path(cached).parent.name)
    try:
        commit = model_info(name, revision=revision, timeout=10).sha
    except Exception:  # of several libraries: no network, no such model; loading it will tell
        commit = None
    return digest(name, commit or revision or "main")
