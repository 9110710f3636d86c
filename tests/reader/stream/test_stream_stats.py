"""What a stream counts of its loops: exact numbers of batches and records, the time of the loop, and of the work."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shard_reader import CenterCrop, Flip, Stats, Stream, open_dataset
from shard_reader.order.coverage import Coverage
from shard_reader.stream import loop
from shard_reader.stream.batch_reader import Made
from shard_reader.stream.prefetch import Prefetch
from shard_reader.system.stats import Counters


def stream(path: Path, **options: Any) -> Stream:
    return open_dataset(path, split="train").stream(**{"batch_size": 10, "threads": 2, **options})


def counts(one: Stream) -> tuple[int, int]:
    return one.stats().batches, one.stats().records


def slow(image: np.ndarray) -> np.ndarray:
    time.sleep(0.002)
    return image


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Making:
    """Three batches of 5 records, for each of which the loop waits 2 seconds."""

    def __init__(self, clock: Clock, workers: int) -> None:
        self.clock, self.workers, self.counters, self.has_waited = clock, workers, Counters(), False
        self.tally = self.counters.new_tally()

    def __iter__(self) -> Iterator[Made]:
        for step in range(3):
            self.clock.now += 2
            yield Made(step, Coverage(5, 0), {}, [])

    def cancel(self) -> None: ...


@pytest.mark.parametrize("workers", [0, 4])
def test_waits_and_the_time_of_the_loop(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ends = Clock(), []
    monkeypatch.setattr(loop, "perf_counter", clock)
    making = Making(clock, workers)
    timed = loop.TimedBatches(making, lambda: ends.append(making.counters.total.loop_seconds))  # type: ignore[arg-type]
    clock.now += 1000  # between the loop's making and its first batch
    for number, _ in enumerate(timed, 1):
        found = making.counters.total
        assert (found.batches, found.records) == (number, 5 * number)
        assert (found.waited_seconds, found.loop_seconds) == (2 * number, 10 * number - 8)
        clock.now += 8
    timed.cancel()
    clock.now += 1000  # between two epochs
    busy = 30 * workers if workers else 6
    assert making.counters.total == Stats(batches=3, records=15, waited_seconds=6, loop_seconds=30, worker_seconds=busy)
    assert ends == [30]


def test_a_loop_that_fails_has_taken_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(loop, "perf_counter", clock)

    class Failing(Making):
        def __iter__(self) -> Iterator[Made]:
            yield Made(0, Coverage(5, 0), {}, [])
            self.clock.now += 3
            raise OSError("the disk")

    making = Failing(clock, 1)
    timed = loop.TimedBatches(making, lambda: pytest.fail("it has not come to its end"))  # type: ignore[arg-type]
    with pytest.raises(OSError, match="the disk"):
        list(timed)
    assert making.counters.total.waited_seconds == making.counters.total.loop_seconds == 3


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_batches_and_records_are_counted_as_they_are_given(raw_shards: Path, workers: str) -> None:
    with stream(raw_shards, workers=workers) as one:
        assert counts(one) == (0, 0)
        for number, _ in enumerate(one, 1):
            assert counts(one) == (number, min(48, 10 * number))  # without padding
        assert counts(one) == (5, 48)
        for _ in itertools.islice(one, 2):
            pass
        assert counts(one) == (7, 68)
        assert len(list(one.batches(7, 0, every=4))) == 2
        assert counts(one) == (9, 86)
        one.batch(0, 0)
        one.take([1, 2])
        assert counts(one) == (9, 86)  # these are no loops


def test_ranks_add_up_to_the_epoch(raw_shards: Path) -> None:
    ranks = [stream(raw_shards, rank=rank, world_size=2) for rank in range(2)]
    for one in ranks:
        list(one)
    total = ranks[0].stats() + ranks[1].stats()
    assert (total.batches, total.records) == (10, 48)


@pytest.mark.parametrize("step", range(6))
def test_an_epoch_in_two_parts_adds_up(raw_shards: Path, step: int) -> None:
    first, second = stream(raw_shards), stream(raw_shards)
    list(itertools.islice(first, step))
    second.load_state_dict(first.state_at(step, 0))
    list(second)
    total = first.stats() + second.stats()
    expected = (5, 48) if step < 5 else (10, 96)  # at the end of an epoch, the next loop is the next one
    assert (total.batches, total.records) == expected


@pytest.mark.parametrize(
    ("shards", "options", "stages"),
    [
        ("raw_shards", {}, ["read"]),
        ("raw_shards", {"image": Flip()}, ["read", "transform"]),  # to look them up is read
        ("jpeg_shards", {"image": CenterCrop(12)}, ["read", "decode", "transform"]),
        ("jpeg_shards", {"image": CenterCrop(12), "workers": "processes"}, ["read", "decode", "transform"]),
        ("raw_shards", {"fields": ("id",)}, ["read"]),
    ],
    ids=["gathered", "transformed", "decoded", "processes", "ids"],
)
def test_each_stage_is_counted(
    shards: str, options: dict[str, Any], stages: list[str], request: pytest.FixtureRequest
) -> None:
    with stream(request.getfixturevalue(shards), **options) as one:
        list(one)
        stats = one.stats()
    found = {name: getattr(stats, f"{name}_seconds") for name in ("read", "decode", "transform")}
    assert [name for name, seconds in found.items() if seconds > 0] == stages
    assert 0 < stats.waited_seconds <= stats.loop_seconds
    count = {"gathered": None, "ids": None}.get(request.node.callspec.id, 2)
    expected = stats.waited_seconds if count is None else count * stats.loop_seconds
    assert stats.worker_seconds == pytest.approx(expected)
    assert stats.requests == stats.bytes_fetched == stats.stalled_seconds == 0


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_a_transform_that_sleeps_makes_the_loop_wait(raw_shards: Path, workers: str) -> None:
    with stream(raw_shards, image=slow, workers=workers) as one:
        list(one)
        stats = one.stats()
    assert stats.transform_seconds >= 48 * 0.002
    assert stats.waited_seconds > 0.01


def test_bytes_that_may_come_from_a_disk_are_read_before_they_are_decoded(jpeg_shards: Path) -> None:
    """And are the same."""
    warm, cold = (stream(jpeg_shards, image=CenterCrop(12), verify="never") for _ in range(2))
    cold._was_cold = True
    for expected, found in zip(warm, cold, strict=True):
        assert np.array_equal(expected["image"], found["image"])


def test_pages_from_a_disk_are_counted(raw_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = itertools.count(7, 3)
    monkeypatch.setattr("shard_reader.stream.prefetch.major_faults", lambda: next(faults))
    one = stream(raw_shards)
    list(one)
    assert one.stats().page_waits == 3 * 6  # before each of 5 batches, and at the end


def test_two_streams_of_the_same_data_count_for_themselves(raw_shards: Path) -> None:
    data = open_dataset(raw_shards, split="train")
    one, other = (data.stream(batch_size=10) for _ in range(2))
    list(one)
    assert counts(other) == (0, 0)
    list(other.batches(0, 3))
    assert (counts(one), counts(other)) == ((5, 48), (2, 18))


def test_loops_of_several_threads_add_up(raw_shards: Path) -> None:
    one = stream(raw_shards)
    threads = [threading.Thread(target=lambda: list(one.batches(1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(one) == (20, 192)


def test_a_copy_begins_with_zero(raw_shards: Path) -> None:
    one = stream(raw_shards)
    list(one)
    assert pickle.loads(pickle.dumps(one)).stats() == Stats()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_forked_process_counts_for_itself(raw_shards: Path) -> None:
    one = stream(raw_shards)
    list(one)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        begun = one.stats()
        list(one.batches(0, 3))
        sender.send((begun, counts(one)))

    process = context.Process(target=child)
    process.start()
    assert receiver.poll(60)
    assert receiver.recv() == (Stats(), (2, 18))
    process.join(60)
    assert counts(one) == (5, 48)


def test_loops_that_are_over_take_no_memory(raw_shards: Path) -> None:
    one = stream(raw_shards)
    for _ in range(20):
        next(iter(one))
    gc.collect()
    assert counts(one) == (20, 200)
    (count,) = one._reader.counters._by_process.values()
    assert count._tallies == []


def test_loops_of_a_worker_process_that_are_over_take_no_memory(raw_shards: Path) -> None:
    one = stream(raw_shards, workers="processes")
    for epoch in range(3):
        made = Prefetch(one._reader, one.order, epoch, 0, cold=False, ahead=0)
        assert len(list(made)) == 5
        made.cancel()
    assert one.stats().read_seconds > 0
    (count,) = one._reader.counters._by_process.values()
    assert count._tallies == []


def test_an_epoch_reports_to_stderr_once_it_is_over(raw_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = stream(raw_shards, rank=1, world_size=2, report=True)
    list(one)
    next(iter(one))
    list(pickle.loads(pickle.dumps(one)))
    whole, rest = capsys.readouterr().err.splitlines()  # a loop that breaks off has no epoch to report
    assert whole.startswith("shard_reader: rank 1 of 2, epoch 0: 5 batches, 24 records, ")
    assert rest.startswith("shard_reader: rank 1 of 2, epoch 1: 4 batches, 19 records, ")
    assert " a second; the loop waited for data for " in whole


def test_only_who_asks_gets_a_report(raw_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list(stream(raw_shards))
    assert capsys.readouterr().err == ""


def test_a_worker_of_a_loader_reports_nothing(
    raw_shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True})
    list(stream(raw_shards, report=True))
    assert capsys.readouterr().err == ""


def test_a_program_without_stderr_trains(raw_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    assert len(list(stream(raw_shards, report=True))) == 5


@pytest.mark.parametrize("value", [1, "stderr", None])
def test_report_is_true_or_false(raw_shards: Path, value: Any) -> None:
    with pytest.raises(TypeError, match="report="):
        stream(raw_shards, report=value)
