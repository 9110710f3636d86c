"""Sets of records: as Python's, for any additions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_reader.order.record_set import RecordSet


@given(st.integers(1, 70), st.data())
def test_it_has_what_was_added(size: int, data: st.DataObject) -> None:
    found, expected = RecordSet(size), set[int]()
    numbers = st.lists(st.integers(0, size - 1), max_size=20)
    for _ in range(data.draw(st.integers(0, 6))):
        added, asked = data.draw(numbers), data.draw(numbers)
        found.add(np.array(added, np.int64))
        expected |= set(added)
        assert found.lacks(np.array(asked, np.int64)).tolist() == [number not in expected for number in asked]
        assert found.is_full == (len(expected) == size)
    found.add_all()
    assert found.is_full and not found.lacks(np.arange(size)).any()


def test_records_beyond_its_memory_are_never_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard_reader.order.record_set._MOST", 16)
    found = RecordSet(20)
    found.add(np.arange(20))
    assert found.lacks(np.arange(20)).tolist() == [False] * 16 + [True] * 4 and not found.is_full


def test_an_empty_one_is_full() -> None:
    found = RecordSet(0)
    found.add(np.arange(0))
    assert found.is_full and found.lacks(np.arange(0)).tolist() == []


def test_numbers_that_threads_counted_twice_do_not_make_it_full() -> None:
    found = RecordSet(20)
    found._missing = 3
    found.add(np.arange(5))
    assert not found.is_full and found.lacks(np.arange(20)).sum() == 15
    found.add(np.arange(20))
    assert found.is_full
