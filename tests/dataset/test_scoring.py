import pandas as pd
import pytest

from cogvsr_utils.dataset.scoring import judge, normalise, parse


@pytest.mark.parametrize("reply, kind, options, meaning", [
    ("Yes.", "yesno", None, "yes"), ("no, it is not", "yesno", None, "no"), ("yes and no", "yesno", None, None),
    ("none", "yesno", None, None), ("nothing", "yesno", None, None),
    ("3", "int", None, "3"), ("There are ten.", "int", None, "10"), ("3 or 4", "int", None, None),
    ("", "int", None, None),
    ("The red cube.", "choice", ["red cube", "blue cube"], "red cube"),
    ("red cube or blue cube", "choice", ["red cube", "blue cube"], None),
    ("A man", "choice", ["a", "b"], None),
    ("1", "choice", ["1", "10"], "1"), ("10", "choice", ["1", "10"], "10"),
    ("The  Metal", "closed", None, "metal"), ("", "closed", None, None),
])  # fmt: skip
def test_replies_are_read_by_type_and_never_guessed(reply, kind, options, meaning):
    assert parse(reply, kind, options) == meaning


def test_unparsed_is_wrong_and_counted():
    table = pd.DataFrame({"answer": ["yes", "no"], "answer_type": "yesno", "options": [None, None],
                          "prediction": ["yes", "perhaps"]})  # fmt: skip
    judged = judge(table)
    assert judged["correct"].tolist() == [True, False] and judged["parsed"].isna().tolist() == [False, True]
    with pytest.raises(ValueError, match="scorer is 'kind'"):
        judge(table, "kind")


def test_letters_of_every_script_count():
    """A vowel sign is a part of its word, and a letter is the same however its accent is written."""
    assert normalise("की") != normalise("का")
    assert normalise("cafe\N{COMBINING ACUTE ACCENT}") == normalise("café!")
    assert normalise("A") == "a" and normalise("a cube") == "cube"
