"""The digest of a function's code: what it rests on counts, however far, and nothing else does."""

import importlib
import sys
import textwrap

import pytest

from cogvsr_utils.source_code import code_digest

FILES = {
    "__init__.py": "",
    "low.py": '''
        """Ground."""
        FACTOR = 2
        OTHER = 3

        def double(x):
            """Twice x."""
            return FACTOR * x

        def unrelated(x):
            return OTHER * x
        ''',
    "high.py": """
        from small import low
        from small.low import double as twice

        class Box:
            def __init__(self, x):
                self.x = x

            def size(self):
                return low.double(self.x)

        def top(x):
            if x is None:
                raise ValueError(f"expected a number; {low.OTHER} would do")
            return Box(twice(x)).size()

        def lazy(x):
            from small.low import unrelated

            return unrelated(x)
        """,
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A package of its own, and a function that gives the digest of ``high.NAME`` as its files are now."""
    folder = tmp_path / "small"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "small"]:
        monkeypatch.delitem(sys.modules, name)
    high = importlib.import_module("small.high")

    def digest_of(name, **settings):
        from cogvsr_utils import source_code

        for cached in (source_code._read, source_code._define):
            cached.cache_clear()
        return code_digest(getattr(high, name), package=folder, **settings)

    yield folder, digest_of
    for name in [name for name in sys.modules if name.split(".")[0] == "small"]:
        sys.modules.pop(name)


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name, file, old, new, differs", [
    ("top", "low.py", "FACTOR * x", "FACTOR + x", True),  # two steps away, through an import and through a module
    ("top", "low.py", "FACTOR = 2", "FACTOR = 5", True),
    ("top", "high.py", "return low.double", "return 1 + low.double", True),  # a method of a class that it makes
    ("top", "low.py", "OTHER = 3", "OTHER = 4", False),
    ("top", "low.py", "Twice x.", "Two times x.", False),
    ("top", "low.py", "FACTOR * x", "FACTOR  *  x  # a remark", False),
    ("top", "high.py", "expected a number", "expected some number", False),
    ("top", "high.py", "raise ValueError", "raise TypeError", True),
    ("top", "high.py", "if x is None", "if not x", True),
    ("lazy", "low.py", "OTHER = 3", "OTHER = 4", True),  # imported within the function
    ("lazy", "low.py", "FACTOR = 2", "FACTOR = 5", False),
])  # fmt: skip
def test_what_a_function_rests_on_counts_and_nothing_else(small, name, file, old, new, differs):
    folder, digest_of = small
    before = digest_of(name)
    change(folder / file, old, new)
    assert (digest_of(name) != before) == differs


def test_the_digest_is_the_same_on_every_python_and_machine(small):
    """Kept and measured results would all count as stale after an update of Python if it were not."""
    _, digest_of = small
    assert digest_of("top") == "5dd7012eed64159b"


def test_what_is_ignored_does_not_count_and_calls_at_import_do(small):
    folder, digest_of = small
    before, without = digest_of("top"), digest_of("top", ignore=frozenset({"FACTOR"}))
    change(folder / "low.py", "FACTOR = 2", "FACTOR = 5")
    assert digest_of("top") != before and digest_of("top", ignore=frozenset({"FACTOR"})) == without
    (folder / "low.py").write_text((folder / "low.py").read_text() + "\nprint(double(1))\n")
    assert digest_of("top", ignore=frozenset({"FACTOR"})) != without


def test_a_function_that_is_not_at_the_top_of_a_module_is_refused():
    def inner():
        pass

    inner.__module__ = "cogvsr_utils.stats"
    with pytest.raises(KeyError, match="no top-level definition 'inner'"):
        code_digest(inner)
