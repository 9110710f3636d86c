"""Requests in threads: as many as there is room for, the urgent ones first, and none that nobody waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future

import pytest

from shard_reader.remote.client import StoreClient
from shard_reader.remote.request_pool import RequestPool, is_wanted


class Gate:
    """Calls that wait until they are let through, and how many of them are under way."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.lock, self.running, self.most, self.order = threading.Lock(), 0, 0, []  # type: Any, int, int, list[object]

    def call(self, name: object, size: int = 1) -> Callable[[], object]:
        def run() -> object:
            with self.lock:
                self.running += size
                self.most = max(self.most, self.running)
                self.order.append(name)
            self.open.wait(300)
            with self.lock:
                self.running -= size
            return name

        return run

    def reaches(self, count: int) -> bool:
        deadline = time.monotonic() + 300
        while self.running < count and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.running == count


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def test_each_request_that_has_room_gets_a_thread_at_once(gate: Gate) -> None:
    pool = RequestPool(8, 100)
    pool.submit(lambda: None, size=1, urgent=True).result(300)
    time.sleep(0.05)  # its thread is idle, and is told of the first of these, but has not taken it when the next come
    futures = [pool.submit(gate.call(n), size=1, urgent=True) for n in range(8)]
    assert gate.reaches(8)
    gate.open.set()
    assert [future.result(300) for future in futures] == list(range(8))


def test_requests_that_waited_for_a_large_one_get_a_thread_each(gate: Gate) -> None:
    pool, large = RequestPool(8, 100), threading.Event()
    pool.submit(lambda: large.wait(300), size=200, urgent=True)
    futures = [pool.submit(gate.call(n), size=1, urgent=True) for n in range(8)]
    assert gate.running == 0
    large.set()
    assert gate.reaches(8)
    gate.open.set()
    assert [future.result(300) for future in futures] == list(range(8))


def test_no_more_bytes_are_under_way_than_may_be(gate: Gate) -> None:
    pool = RequestPool(16, 10)
    futures = [pool.submit(gate.call(n, 4), size=4, urgent=True) for n in range(9)]
    assert gate.reaches(8)
    time.sleep(0.1)
    assert gate.running == 8
    large = pool.submit(gate.call("large", 50), size=50, urgent=True)
    gate.open.set()
    assert large.result(300) == "large"
    assert [future.result(300) for future in futures] == list(range(9))
    assert gate.most == 50, "what is larger than all that may be goes alone"


def test_what_is_urgent_comes_first(gate: Gate) -> None:
    pool = RequestPool(1, 10)
    pool.submit(gate.call("first"), size=1, urgent=False)
    assert gate.reaches(1)
    futures = [pool.submit(gate.call(n), size=1, urgent=n % 2 == 1) for n in range(6)]
    gate.open.set()
    for future in futures:
        future.result(300)
    assert gate.order == ["first", 1, 3, 5, 0, 2, 4]


def test_who_waits_for_what_is_cancelled_is_told_at_once(gate: Gate) -> None:
    pool = RequestPool(1, 10)
    wanted: Future[bool] = Future()

    def call() -> None:
        gate.call("under way")()
        wanted.set_result(is_wanted())

    running, waiting = (pool.submit(one, size=1, urgent=True) for one in (call, gate.call("never")))
    assert gate.reaches(1)
    for future in (running, waiting):
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(0)
    gate.open.set()
    assert wanted.result(300) is False
    assert pool.submit(lambda: "next", size=1, urgent=True).result(300) == "next"
    assert gate.order == ["under way"]
    assert is_wanted()


def test_errors_are_those_of_who_asks_and_leave_the_threads(gate: Gate) -> None:
    pool = RequestPool(1, 10)
    for error in (OSError("one"), SystemExit(2), KeyboardInterrupt()):

        def fail(error: BaseException = error) -> None:
            raise error

        future = pool.submit(fail, size=1, urgent=True)
        assert future.exception(300) is error
    assert pool.submit(lambda: 3, size=1, urgent=True).result(300) == 3


def test_a_closed_pool_leaves_what_is_not_begun(gate: Gate) -> None:
    before = set(threading.enumerate())
    pool = RequestPool(2, 10)
    begun = [pool.submit(gate.call(n), size=1, urgent=True) for n in range(2)]
    assert gate.reaches(2)
    rest = [pool.submit(gate.call(n), size=1, urgent=True) for n in range(5)]
    pool.close()
    assert all(future.cancelled() for future in rest)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(lambda: None, size=1, urgent=True)
    gate.open.set()
    assert [future.result(300) for future in begun] == [0, 1]
    for thread in set(threading.enumerate()) - before:
        thread.join(300)
        assert not thread.is_alive()


def test_threads_without_work_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard_reader.remote.request_pool._IDLE_SECONDS", 0.05)
    before = set(threading.enumerate())
    pool = RequestPool(4, 10)
    for _ in range(3):
        futures = [pool.submit(lambda: 1, size=1, urgent=True) for _ in range(9)]
        assert sum(future.result(300) for future in futures) == 9
        for thread in set(threading.enumerate()) - before:
            thread.join(300)
            assert not thread.is_alive()


def test_what_goes_on_when_a_store_is_closed_asks_for_nothing_more() -> None:
    """A shard that arrives has its pieces fetched when its index is there, which may be behind `close`."""
    store, began, go_on = StoreClient("memory://shards", 1), threading.Event(), threading.Event()

    def index() -> Future[None]:
        began.set()
        go_on.wait(300)
        return store.submit(lambda: None, size=1, urgent=False)

    arriving = store.submit(index, size=1, urgent=False)
    assert began.wait(300)
    store.close()
    go_on.set()
    with pytest.raises(RuntimeError, match="the pool is closed"):
        arriving.result(300)
    assert store.submit(lambda: "open again", size=1, urgent=False).result(300) == "open again"
    store.close()
