import pytest

import cogvsr_utils


@pytest.mark.parametrize("name", cogvsr_utils.__all__)
def test_public_names_load_and_are_documented(name):
    assert getattr(cogvsr_utils, name).__doc__ or name == "FUNCTIONS"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cogvsr_utils.nothing


def test_every_public_name_has_an_example():
    """But for what needs a model that cannot be shipped."""
    public = {name: getattr(cogvsr_utils, name) for name in cogvsr_utils.__all__}
    without = {name for name, value in public.items() if callable(value) and ">>>" not in (value.__doc__ or "")}
    assert without == {"LocalModel"}
