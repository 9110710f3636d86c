"""Threads that share a loop, and threads that are still in one when Python ends."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
from support.crafted import BOMBS, SIDE, crafted_dataset, fields_of
from support.limits import limited

from shard_reader import CenterCrop, open_dataset

RECORDS = 40
AT_EXIT = """
import sys, threading
from shard_reader import CenterCrop, open_dataset

data = open_dataset(sys.argv[1], cache=sys.argv[2] or None, cache_bytes=2**30 if sys.argv[2] else None)
begun = threading.Event()

def train():
    stream, ids = data.stream(batch_size=1, image=CenterCrop(8), fields=["image", "id"], seed=0), []
    for epoch in range(2):
        for batch in stream:
            ids += batch["id"].tolist()
            begun.set()
            # Wait until the main thread has ended: from then on Python starts no tasks in pools.
            threading.main_thread().join()
    print(len(ids), len(set(ids)), flush=True)

threading.Thread(target=train).start()
begun.wait()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make, _ = BOMBS["jpeg"]
    return crafted_dataset(tmp_path / "shards", [(make(SIDE, SIDE), SIDE, SIDE)] * RECORDS, fields_of("jpeg"))


@pytest.mark.parametrize("is_cached", [False, True], ids=["from the disk", "through a cache"])
def test_a_thread_that_outlives_the_main_one_finishes_its_epochs(path: Path, tmp_path: Path, is_cached: bool) -> None:
    result = limited(AT_EXIT, path, tmp_path / "cache" if is_cached else "")
    assert result.stdout == f"{2 * RECORDS} {RECORDS}\n", result.stderr
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.filterwarnings("ignore:.*mixes the records")
def test_a_loop_goes_on_where_python_starts_no_threads(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for cache in (None, tmp_path / "cache"):
        for source in (str(path), f"file://{path}"):
            data = open_dataset(source, cache=cache)
            stream = data.stream(batch_size=8, image=CenterCrop(8), fields=["image", "id"])
            ids = [id for batch in stream for id in batch["id"]]
            assert len(ids) == len(set(ids)) == RECORDS
            assert len(data.ids()) == RECORDS
            data.close()


def test_threads_that_share_a_loop_get_each_batch_once(path: Path) -> None:
    data = open_dataset(path)
    stream = data.stream(batch_size=1, image=CenterCrop(8), fields=["image", "id"])
    loop, found, failures = iter(stream), Counter[bytes](), list[BaseException]()
    ready = threading.Barrier(4)

    def take() -> None:
        ready.wait()
        try:
            for batch in loop:
                found.update(batch["id"].tolist())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(found) == RECORDS and set(found.values()) == {1}
    assert stream.coverage().covers(data.coverage()) and stream.next == (1, 0)
