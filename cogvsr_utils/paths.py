"""Every folder of the project; no other module names one.

In a clone the folders stand beside the package. Where the package is installed as a wheel, data travels inside it
and what runs make goes under the current folder.
"""

from pathlib import Path

from cogvsr_utils.files import digest

_PACKAGE = Path(__file__).resolve().parent
_CLONE = _PACKAGE.parent
IN_CLONE = (_CLONE / "pyproject.toml").is_file()
ROOT = _CLONE if IN_CLONE else Path.cwd()
DATA = _CLONE / "data" if IN_CLONE else _PACKAGE / "data"
NANO = DATA / "nano"
MEASURED = DATA / "measured"
PUBLISHED = DATA / "published"
NOTEBOOKS = ROOT / "notebooks"
RESULTS = ROOT / "results"
SYNTH = RESULTS / "synth"
MORE_SYNTH = RESULTS / "synth-more"  # further questions of it
COMPARISONS = RESULTS / "synth-comparisons"  # in a second form of crossed wording
BUILD = ROOT / "_build"


def results_folder(model: str, quantize: str | None, source: str, profile: str) -> Path:
    """Where results of a model on a data set under a profile go: ``results/<model>[-4bit]/<data>/<profile>``.

    A data file is named by its stem and a few characters that distinguish it from others of the same stem.

    >>> results_folder("Qwen/Qwen2.5-VL-7B-Instruct", "4bit", "synth", "light").parts[-3:]
    ('Qwen--Qwen2.5-VL-7B-Instruct-4bit', 'synth', 'light')
    """
    name = model.strip("/.").replace("/", "--") + (f"-{quantize}" if quantize else "")
    data = source if source == "synth" else f"{Path(source).stem}-{digest(str(Path(source).resolve()))[:6]}"
    return RESULTS / name / data / profile
