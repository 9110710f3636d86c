"""Calls that are tried again: which, for how long, and that whoever waits is told so once."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace

import pytest
from support.clock import ThreadClock

from shard_reader.storage import retry
from shard_reader.storage.retry import retried


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses pass at once, and nothing else takes time; no pause is a random one."""
    monkeypatch.setattr(retry, "time", ThreadClock())
    monkeypatch.setattr(retry, "random", SimpleNamespace(uniform=lambda least, most: (least + most) / 2))
    monkeypatch.setattr(retry, "_tells", retry._Tells())


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OSError(5, "I/O"), True),
        (RuntimeError("what a store's library raises"), True),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (OSError(28, "full"), False),
        (ValueError(), False),
        (MemoryError(), False),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again(error: Exception, passes: bool) -> None:
    calls: list[None] = []

    def call() -> None:
        calls.append(None)
        raise error

    with pytest.raises(type(error)):
        retried(call)
    assert len(calls) == (8 if passes else 1)  # after pauses of 0.1, 0.2, 0.4, ... seconds, 8 seconds in all


def test_who_waits_is_told_once_what_for(caplog: pytest.LogCaptureFixture) -> None:
    def call() -> None:
        raise TimeoutError("nobody answers")

    def wait() -> None:
        with pytest.raises(TimeoutError):
            retried(call, 20, explained=lambda error: f"s3://bucket: {error}")

    threads = [threading.Thread(target=wait) for _ in range(8)]
    with caplog.at_level(logging.WARNING, "shard_reader"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    (record,) = caplog.records
    assert record.getMessage() == "s3://bucket: nobody answers; trying for 14 seconds more"


def test_what_passes_at_once_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    left = [TimeoutError(), ConnectionResetError()]

    def call() -> int:
        if left:
            raise left.pop()
        return 1

    assert retried(call, 5) == 1
    assert not caplog.records
