"""What made a result: commit, versions, machine and model.

environment(model)    a dictionary for a result's stamp or a page's head
"""

import platform
import subprocess
from functools import cache
from importlib import metadata

from cogvsr_utils.paths import ROOT

PACKAGES = ("torch", "transformers", "bitsandbytes", "numpy", "scikit-learn")


def environment(model: str | None = None) -> dict[str, str]:
    """Commit, versions, machine, device and, where given, the model."""
    row = {"commit": commit(), "python": platform.python_version(), "machine": platform.machine()}
    row |= {name: _version(name) for name in PACKAGES} | {"device": _device()}
    return row | {"model": model} if model else row


@cache
def commit() -> str:
    """Short hash of the clone's commit, with a plus where files differ from it; "unknown" outside a clone."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{threads} CPU thread" + "s" * (threads > 1)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
