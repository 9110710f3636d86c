"""Jobs in buckets that are killed, or meet another one: a finished dataset or none, and the same bytes at last."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.command import prepared
from support.fault_proxy import FaultProxy, Faults, Request
from support.servers import Store
from support.store_jobs import finished, is_as

from shard_reader.format.manifest import LOCK_NAME

OPTIONS = "--size 32 --format tfrecord --format hdf5 --split train=0.8,val=0.2 --shards 8"


@pytest.fixture(scope="module")
def expected(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(class_folders, tmp_path_factory.mktemp("expected") / "shards", *OPTIONS.split())


@contextlib.contextmanager
def started(source: str, store: Store, output: str) -> Iterator[subprocess.Popen[str]]:
    """The job, in a process group of its own: all its processes are killed at once, unless it has ended."""
    words = [sys.executable, "-m", "beam_jobs", "prepare", source, output, *OPTIONS.split()]
    environment, pipe = {**os.environ, **store.environment}, subprocess.PIPE
    process = subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        yield process
    finally:
        if process.returncode is None:  # it has not been waited for: the group is there
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something holds, which it must before the process ends."""
    deadline = time.monotonic() + 300
    while not holds():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def unlock(store: Store) -> None:
    """Spare the next job the wait for a lock that nobody holds."""
    if LOCK_NAME in store.names("out"):
        store.write(f"out/{LOCK_NAME}", b"killed free")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minio", *(pytest.param(n, marks=pytest.mark.nightly) for n in ("gcs", "azurite"))])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_killed_again_and_again(
    name: str, seed: int, class_folders: Path, expected: Path, new_store: Callable[[str], Store]
) -> None:
    store, chance = new_store(name), random.Random(seed)
    source, output = store.copy(class_folders, "in"), f"{store.url}/out"
    with FaultProxy(store.endpoint, {"get": Faults(latency=0.2), "put": Faults(latency=0.2)}) as proxy:
        slow = store.through("127.0.0.1", proxy.port)
        for _ in range(4):
            with started(source, slow, output):
                time.sleep(chance.uniform(1.5, 5))
            unlock(store)
            found = store.contents("out")
            if "dataset.json" in found:  # then all of it is there
                assert set(found) >= {path.name for path in expected.iterdir()}
    finished(source, output, store, options=OPTIONS)
    is_as(store.contents("out"), expected)  # and nothing is left of the work


@pytest.mark.slow
def test_shards_that_were_finished_are_kept(
    class_folders: Path, expected: Path, new_store: Callable[[str], Store]
) -> None:
    store = new_store("moto")
    source, output = store.copy(class_folders, "in"), f"{store.url}/out"

    def written() -> int:
        return sum(name.endswith("written.json") for name in store.names("out"))

    finishing = set[str]()

    def away_once_two_are_finished(request: Request) -> str | None:
        """The job tries again until it is killed: it does not end before."""
        if len(finishing) >= 2 and request.path not in finishing:  # those two may be tried again
            return "resets"
        if request.path.endswith("written.json"):
            finishing.add(request.path)
        return None

    with (
        FaultProxy(store.endpoint, {"put": Faults(script=away_once_two_are_finished)}) as proxy,
        started(source, store.through("127.0.0.1", proxy.port), output) as process,
    ):
        wait_for(lambda: written() >= 2, process)
    kept = written()
    unlock(store)
    text = finished(source, output, store, options=OPTIONS)
    assert f"{kept} of 11 shards are finished: they are checked and kept" in text
    is_as(store.contents("out"), expected)


@pytest.mark.slow
def test_of_two_jobs_in_one_bucket_one_is_refused(
    class_folders: Path, expected: Path, new_store: Callable[[str], Store]
) -> None:
    store = new_store("minio")
    source, output = store.copy(class_folders, "in"), f"{store.url}/out"
    with (
        FaultProxy(store.endpoint, {"put": Faults(latency=1)}) as proxy,
        started(source, store.through("127.0.0.1", proxy.port), output) as one,
    ):
        wait_for(lambda: LOCK_NAME in store.names("out"), one)
        with started(source, store, output) as other:
            refused = other.communicate(timeout=300)[1]
        assert other.returncode == 2, refused
        said = one.communicate(timeout=300)[1]
    assert one.returncode == 0, said
    assert refused.splitlines()[-1] == f"image-shards: error: OUTPUT {output}: another job is writing there"
    is_as(store.contents("out"), expected)


@pytest.mark.slow
def test_a_bucket_that_fails_now_and_then(
    class_folders: Path, expected: Path, new_store: Callable[[str], Store]
) -> None:
    """What may pass is tried again, wherever it happens: listing, reading, writing, deleting."""
    store = new_store("minio")
    source, output = store.copy(class_folders, "in"), f"{store.url}/out"
    often = Faults(errors=0.1, resets=0.05, lost=0.05, limit=3, statuses=(500, 503))
    with FaultProxy(store.endpoint, {"get": often, "*": often}, seed=1) as proxy:
        finished(source, output, store.through("127.0.0.1", proxy.port), options=OPTIONS)
        assert sum(proxy.counts[name] for name in ("errors", "resets", "lost")) > 10
    is_as(store.contents("out"), expected)
