import pytest

import cogvsr_utils


@pytest.mark.parametrize("name", cogvsr_utils.__all__)
def test_public_names_load_and_are_documented(name):
    assert getattr(cogvsr_utils, name).__doc__ or name == "FUNCTIONS"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cogvsr_utils.nothing
