"""Calls in threads: results in order, few at a time, and errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from beam_jobs.parallel import in_order, readers_of
from shard_reader.storage.open import directory


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    taken = list[int]()

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    for number, result in enumerate(in_order(lambda item: item * item, items(), threads)):
        assert result == number * number
        assert len(taken) <= number + 1 + (0 if threads == 1 else 2 * threads)
    assert len(taken) == 50


def test_threads_work_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=60)
    assert list(in_order(lambda _: together.wait() is not None, range(3), 3)) == [True] * 3


def test_an_error_ends_the_calls() -> None:
    def call(number: int) -> int:
        if number == 5:
            raise ValueError(number)
        return number

    results, done = in_order(call, iter(range(1000)), 2), list[int]()
    with pytest.raises(ValueError, match="5"):
        done.extend(results)
    assert done == [0, 1, 2, 3, 4]


def test_a_disk_is_read_by_one_thread_and_a_store_by_several() -> None:
    assert readers_of(directory("/tmp")) == 1
    assert readers_of(directory("memory://x")) > 1
