"""The numbers of the records that remain, against lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shard_reader.order.remaining import Remaining


@st.composite
def splits(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """The records of each shard, and the numbers of the withdrawn ones."""
    shards = draw(st.lists(st.integers(0, 7), min_size=1, max_size=6))
    records = sum(shards)
    numbers = st.sets(st.integers(0, records - 1), max_size=records) if records else st.just(set[int]())
    return shards, sorted(draw(numbers))


@given(splits())
def test_records_that_remain_are_those_of_a_list(split: tuple[list[int], list[int]]) -> None:
    shards, withdrawn = split
    expected = [number for number in range(sum(shards)) if number not in withdrawn]
    remaining = Remaining(np.array(withdrawn, np.int64))
    assert remaining.numbers(np.arange(len(expected))).tolist() == expected
    assert [remaining.number(record) for record in range(len(expected))] == expected
    ends = np.cumsum(shards)
    assert remaining.ends(ends).tolist() == [sum(number < end for number in expected) for end in ends.tolist()]
    first = 0
    for count in shards:
        rows = [number - first for number in expected if first <= number < first + count]
        assert remaining.rows(first, count).tolist() == rows
        first += count
