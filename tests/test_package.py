import subprocess
import sys

import pytest

import cogvsr_utils


def test_public_names_are_functions_and_classes_whoever_imports_first():
    code = "from cogvsr_utils.evaluation import compare; import cogvsr_utils.scarcity; " \
           "from cogvsr_utils import capture, scarcity; print(callable(capture), callable(scarcity))"  # fmt: skip
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        == ["True"] * 2
    )


@pytest.mark.parametrize("name", cogvsr_utils.__all__)
def test_public_names_load_and_are_documented(name):
    assert getattr(cogvsr_utils, name).__doc__ or name == "FUNCTIONS"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cogvsr_utils.nothing
