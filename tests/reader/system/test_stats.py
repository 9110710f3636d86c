"""Stats: numbers that add up, the limit that they show, and counters for many threads."""

from __future__ import annotations

import dataclasses
import pickle
import threading

import pytest

from shard_reader import Stats
from shard_reader.system.stats import Counters

LOOP = {"batches": 100, "records": 6400, "loop_seconds": 50.0, "worker_seconds": 200.0}


@pytest.mark.parametrize(
    ("numbers", "limit", "words"),
    [
        ({"waited_seconds": 0.49, "decode_seconds": 190}, "nothing", "for 1.0% of 50.0 s: there is nothing to gain"),
        ({"waited_seconds": 0.1, "stalled_seconds": 0.1}, "nothing", "for 0.2% of 50.0 s"),
        ({"waited_seconds": 20, "stalled_seconds": 10, "decode_seconds": 190}, "store", "cache="),
        ({"waited_seconds": 20, "stalled_seconds": 9, "decode_seconds": 190}, "decoding", "fast=True"),
        ({"waited_seconds": 1.5, "read_seconds": 110, "decode_seconds": 60, "page_waits": 9}, "disk", "local disk"),
        ({"waited_seconds": 1.5, "read_seconds": 110, "decode_seconds": 60}, "copies", "copies of stored bytes"),
        ({"waited_seconds": 1.5, "read_seconds": 60, "decode_seconds": 110, "page_waits": 9}, "decoding", "threads="),
        ({"waited_seconds": 1.5, "decode_seconds": 60, "transform_seconds": 110}, "transforms", "on the device"),
        ({"waited_seconds": 1.5, "decode_seconds": 60, "transform_seconds": 30}, "unevenness", "prefetch="),
    ],
    ids=["little", "little, remote", "store", "CPU and store", "disk", "memory", "CPU", "transforms", "first batches"],
)
def test_stats_explain_the_limit_in_one_line(numbers: dict[str, float], limit: str, words: str) -> None:
    stats = Stats(**{**LOOP, **numbers})  # type: ignore[arg-type]
    assert stats.limit == limit
    assert words in stats.explain()
    assert stats.explain().startswith("the loop waited for data for ") and "\n" not in stats.explain()


def test_images_that_the_thread_of_the_loop_copies_are_copies() -> None:
    """It makes batches only while the loop waits for them."""
    stats = Stats(**{**LOOP, "waited_seconds": 4.0, "read_seconds": 3.5, "worker_seconds": 4.0})  # type: ignore[arg-type]
    assert stats.limit == "copies"


def test_no_loop_explains_nothing() -> None:
    assert Stats().explain() == "no loop has asked for a batch"
    assert (Stats().waited, Stats().busy) == (0, 0)


def test_shares_are_of_the_loop_and_of_the_workers() -> None:
    stats = Stats(loop_seconds=10, waited_seconds=2.5, worker_seconds=40, read_seconds=4, decode_seconds=15, batches=1)
    assert (stats.waited, stats.busy) == (0.25, 0.475)


def test_stats_add_up_and_subtract() -> None:
    names = [field.name for field in dataclasses.fields(Stats)]
    one = Stats(**{name: number for number, name in enumerate(names)})
    other = Stats(**{name: 100 * number for number, name in enumerate(names)})
    assert one + other == Stats(**{name: 101 * number for number, name in enumerate(names)})
    assert one + other - other == one
    assert pickle.loads(pickle.dumps(one)) == one


def test_counters_of_many_threads_lose_nothing() -> None:
    counters = Counters()

    def count() -> None:
        tally = counters.new_tally()
        for _ in range(1000):
            counters.add(requests=1, bytes_fetched=3)
            tally.batches += 1
        tally.is_done = True

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.total == Stats(requests=8000, bytes_fetched=24000, batches=8000)
    assert counters.total == Stats(requests=8000, bytes_fetched=24000, batches=8000)  # those that are done count once
    assert pickle.loads(pickle.dumps(counters)).total == Stats()


def test_what_stats_do_not_have_is_not_counted() -> None:
    with pytest.raises(KeyError):
        Counters().add(request=1)
