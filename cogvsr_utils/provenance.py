"""What made a result: versions, machine, model and data.

stamp(vlm=None)     a dictionary for a file's header or a page's foot
"""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata

from .paths import ROOT

PACKAGES = ("torch", "transformers", "bitsandbytes", "numpy", "scikit-learn")


def stamp(vlm=None) -> dict[str, str]:
    """Commit, versions, machine and, where given, the model, its quantization and the device it ran on."""
    import torch

    row = {"commit": commit(), "python": platform.python_version(), "machine": platform.machine()}
    row |= {name: _version(name) for name in PACKAGES}
    device = torch.device("cpu") if vlm is None else vlm.device
    row["device"] = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    )
    if vlm is not None:
        row |= {"model": vlm.name, "quantize": vlm.quantize or "none", "weights": vlm.fingerprint}
    return row


def commit() -> str:
    """Short hash of the clone's commit, with a plus where files differ from it; "unknown" outside a clone."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True,
                              check=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
