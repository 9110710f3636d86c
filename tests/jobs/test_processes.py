"""Work in several processes: results in order, and what ends a process is told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import pytest

from beam_jobs.errors import JobError
from beam_jobs.processes import in_parallel, signals_wait


def die(task: int) -> int:
    os._exit(task)


def test_a_worker_that_dies_is_an_error() -> None:
    with pytest.raises(JobError, match="a worker process died"):
        list(in_parallel(die, [3, 4], 2))


def test_work_in_parallel_is_in_order() -> None:
    assert list(in_parallel(abs, [-3, 2, -1], 2)) == list(in_parallel(abs, [-3, 2, -1], 1)) == [3, 2, 1]


def test_work_that_nobody_waits_for_is_ended() -> None:
    results = in_parallel(time.sleep, [0, 60, 60], 2)
    assert next(results) is None
    results.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def fail(task: str) -> None:
    raise EOFError(task)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_work_is_raised_as_it_is(workers: int) -> None:
    """EOFError, too, by which a pipe tells that its process has ended."""
    with pytest.raises(EOFError, match="cut off"):
        list(in_parallel(fail, ["cut off", "cut off"], workers))


def test_a_signal_waits_until_a_process_has_started_whichever_thread_receives_it() -> None:
    """Python calls a handler in the main thread, though the signal is blocked there."""
    happened = list[str]()

    def receive(number: int, frame: object) -> None:
        del number, frame
        happened.append("signal")

    before = signal.signal(signal.SIGTERM, receive)
    try:
        with signals_wait():
            thread = threading.Thread(target=receive_signal_here)
            thread.start()
            thread.join()
            happened.append("started")
        assert happened == ["started", "signal"]
        assert signal.getsignal(signal.SIGTERM) is receive
    finally:
        signal.signal(signal.SIGTERM, before)


def receive_signal_here() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
