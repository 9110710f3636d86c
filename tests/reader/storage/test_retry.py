"""What is tried again says so, once."""

from __future__ import annotations

import logging
import threading

import pytest

from shard_reader.storage import retry
from shard_reader.storage.retry import retried


def test_who_waits_is_told_once_what_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name, value in (("_QUIET_SECONDS", 0.05), ("_FIRST_PAUSE", 0.01), ("_tells", retry._Tells())):
        monkeypatch.setattr(retry, name, value)

    def call() -> None:
        raise TimeoutError("nobody answers")

    def wait() -> None:
        with pytest.raises(TimeoutError):
            retried(call, 0.3, explained=lambda error: f"s3://bucket: {error}")

    threads = [threading.Thread(target=wait) for _ in range(8)]
    with caplog.at_level(logging.WARNING, "shard_reader"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    (record,) = caplog.records
    assert record.getMessage() == "s3://bucket: nobody answers; trying for 0 seconds more"


def test_what_passes_at_once_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    left = [TimeoutError(), ConnectionResetError()]

    def call() -> int:
        if left:
            raise left.pop()
        return 1

    assert retried(call, 5) == 1
    assert not caplog.records
