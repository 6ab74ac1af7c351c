import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cogvsr_utils.models import answering
from cogvsr_utils.models.answering import answer
from cogvsr_utils.models.batching import LARGEST, in_halves, measure_batch, rows_that_fit


@given(st.integers(1, 10**12), st.integers(1, 64), st.integers(0, 10**13))
def test_what_fits_never_takes_more_than_is_free(used, rows, free):
    fitting = rows_that_fit(used, rows, free)
    assert 1 <= fitting <= LARGEST
    assert fitting == 1 or fitting * used / rows <= free


@given(st.lists(st.integers(), min_size=1, max_size=40), st.integers(1, 8))
def test_a_batch_too_large_is_halved_until_it_fits_and_keeps_its_order(batch, memory):
    sizes = []

    def run(some):
        sizes.append(len(some))
        if len(some) > memory:
            raise torch.cuda.OutOfMemoryError("too many")
        return [x + 1 for x in some]

    assert in_halves(run, batch) == [x + 1 for x in batch]
    assert max(sizes) == len(batch) and min(sizes) <= memory


def test_one_row_that_does_not_fit_is_an_error():
    def run(some):
        raise torch.cuda.OutOfMemoryError("too many")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        in_halves(run, [1, 2, 3])


def test_a_cpu_has_no_such_limit():
    assert measure_batch(lambda batch: batch, [1, 2], torch.device("cpu")) == ([1, 2], None)


def test_the_first_batch_measures_and_the_others_take_what_it_found(vlm, items, answers, monkeypatch):
    """As on a GPU: no stated size, a first batch of the longest chats, then as many as fit."""
    sizes = []

    def measured(run, batch, device):
        sizes.append(len(batch))
        return run(batch), 5

    def halves(run, batch):
        sizes.append(len(batch))
        return run(batch)

    for name, value in (("CPU_BATCH", None), ("FIRST", 2), ("measure_batch", measured), ("in_halves", halves)):
        monkeypatch.setattr(answering, name, value)
    found = answer(vlm, items)
    assert found["prediction"].tolist() == answers["prediction"].tolist()
    longest = max(len(item.steps) for item in items)
    assert sizes[0] == min(2, sum(len(item.steps) == longest for item in items))
    assert max(sizes[1:]) <= 5 and sum(sizes) == len(items)
    sizes.clear()
    answer(vlm, items, batch_size=3)
    assert max(sizes) == 3, "a stated size wins"
