"""What a stream takes, it gives back: threads, maps, memory. And it works in other processes, and beside others."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shard_reader import CenterCrop, Flip, RandomResizedCrop, Stream, open_dataset

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to see its memory")
OPTIONS: dict[str, dict[str, Any]] = {
    "raw_shards": {},
    "jpeg_shards": {"image": [RandomResizedCrop(16), Flip()], "fields": ("image", "label", "id")},
}


@pytest.fixture(params=OPTIONS)
def new_stream(request: pytest.FixtureRequest) -> Callable[..., Stream]:
    path: Path = request.getfixturevalue(request.param)
    return lambda **more: open_dataset(path).stream(**{"batch_size": 10, **OPTIONS[request.param], **more})


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def shard_maps() -> int:
    return sum(".tfrecord" in line for line in Path("/proc/self/maps").read_text().splitlines())


def own_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("shard_reader")}


def ended(threads: set[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(300)
    return not any(thread.is_alive() for thread in threads)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("leave", ["close", "with", "forget", "exception"])
def test_a_stream_left_in_the_middle_of_an_epoch_gives_everything_back(
    new_stream: Callable[..., Stream], leave: str
) -> None:
    gc.collect()
    gc.disable()  # references must do
    try:
        before, maps = own_threads(), shard_maps()
        stream = new_stream(threads=3, prefetch=4)
        loop = iter(stream)
        next(loop)
        threads = own_threads() - before
        assert (threads or stream.data.fields["image"].encoding == "raw") and shard_maps() > maps
        if leave == "close":
            stream.close()
            stream.data.close()
        elif leave == "with":
            with stream.data, stream:
                pass
        elif leave == "exception":
            with pytest.raises(ZeroDivisionError):
                for _ in stream:
                    1 / 0  # noqa: B018
            stream = loop = None
        else:
            stream = loop = None
        assert ended(threads)
        assert shard_maps() == maps
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["plain", "balanced", "weighted", "buckets"])
def test_a_stream_that_nobody_holds_is_gone_at_once(jpeg_shards: Path, kind: str) -> None:
    """In a circle of references, its shards would stay open, and files of a cache in use, until Python collects it."""
    data: Any = open_dataset(jpeg_shards)
    views = {"balanced": data.balanced(), "weighted": data.weighted(range(1, 61)), "buckets": data.buckets([8])}
    image = RandomResizedCrop if kind == "buckets" else RandomResizedCrop(8)
    gc.collect()
    gc.disable()
    try:
        stream = views.get(kind, data).stream(batch_size=8, image=image, shuffle="window", lanes=1, window=1)
        list(stream)
        parts = [weakref.ref(part) for part in (stream, stream._reader, stream.order.record_order)]
        del stream
        assert [part() for part in parts] == [None] * 3
    finally:
        gc.enable()


def test_what_is_closed_opens_again(new_stream: Callable[..., Stream]) -> None:
    stream = new_stream()
    loop = iter(stream)
    next(loop)
    stream.close()
    stream.data.close()
    with pytest.raises(RuntimeError, match=r"this loop is over: .*closed"):
        next(loop)
    assert len(list(stream)) == len(stream)


@linux
def test_memory_does_not_grow_over_200_epochs(new_stream: Callable[..., Stream]) -> None:
    stream = new_stream()
    for _ in range(20):
        for _ in stream:
            pass
    gc.collect()
    before = anonymous_memory()
    for epoch in range(200):
        for batch in stream:
            if epoch % 7 == 3:  # left in the middle
                break
            del batch
    gc.collect()
    assert anonymous_memory() - before < 1_500_000


def test_several_streams_at_a_time(new_stream: Callable[..., Stream]) -> None:
    """Of one dataset, in one thread and in several."""
    alone = [[batch["image"].tobytes() for batch in new_stream(seed=seed)] for seed in range(4)]
    data = new_stream().data
    options = {
        "batch_size": 10,
        **next(o for o in OPTIONS.values() if ("image" in o) == (not data.fields["image"].is_fixed)),
    }
    together: list[Iterator[Any]] = [iter(data.stream(seed=seed, **options)) for seed in range(4)]
    seen = [[next(loop)["image"].tobytes() for loop in together] for _ in alone[0]]
    assert [list(column) for column in zip(*seen, strict=True)] == alone
    results: dict[int, list[bytes]] = {}

    def read(seed: int) -> None:
        results[seed] = [batch["image"].tobytes() for batch in data.stream(seed=seed, **options)]

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert [results[seed] for seed in range(4)] == alone


def send_epoch(stream: Stream, connection: Connection) -> None:
    connection.send([batch["image"].tobytes() for batch in stream])
    connection.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_stream_goes_on_in_another_process(new_stream: Callable[..., Stream], method: str) -> None:
    """Also one that is in the middle of an epoch, with threads at work."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"there is no {method} here")
    stream = new_stream(prefetch=3)
    loop = iter(stream)
    next(loop)
    state = stream.state_dict()
    other = new_stream(prefetch=3)
    other.load_state_dict(state)
    expected = [batch["image"].tobytes() for batch in other]
    fresh = new_stream(prefetch=3)
    fresh.load_state_dict(state)
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_epoch, args=(fresh, sender))
    process.start()
    assert receiver.poll(300)
    assert receiver.recv() == expected
    process.join(300)
    assert process.exitcode == 0
    assert [batch["image"].tobytes() for batch in loop] == expected


def test_a_loop_does_not_go_on_behind_a_fork(new_stream: Callable[..., Stream]) -> None:
    """Its threads are in the other process: it would wait for ever."""
    loop = iter(new_stream(prefetch=3))
    next(loop)
    child = os.fork()
    if child == 0:
        try:
            next(loop)
        except RuntimeError as error:
            os._exit(7 if "forked" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_pickled_streams_take_neither_threads_nor_maps(new_stream: Callable[..., Stream]) -> None:
    import pickle

    stream = new_stream()
    loop = iter(stream)
    next(loop)
    assert len(pickle.dumps(stream)) < 20_000
    again = pickle.loads(pickle.dumps(stream))
    assert np.array_equal(again.batch(2, 1)["image"], stream.batch(2, 1)["image"])
    assert again.state_dict() == stream.state_dict()


def test_a_crop_is_not_shared_by_threads(jpeg_shards: Path) -> None:
    """Each task decodes into memory of its own."""
    stream = open_dataset(jpeg_shards).stream(batch_size=60, image=CenterCrop(15), threads=8)
    first = [batch["image"].tobytes() for batch in stream]
    for _ in range(10):
        stream.load_state_dict(stream.state_dict() | {"epoch": 0, "step": 0})
        assert [batch["image"].tobytes() for batch in stream] == first


@linux
def test_skipping_frees_what_it_skipped_at_once(raw_shards: Path, jpeg_shards: Path, tmp_path: Path) -> None:
    """An exception that is kept keeps its frames, and these the batch."""
    copy = Path(shutil.copytree(jpeg_shards, tmp_path / "copy"))
    next(copy.glob("*00001*.tfrecord")).unlink()
    stream = open_dataset(copy).stream(batch_size=20, image=CenterCrop(16), on_error="skip")
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            list(stream)
        objects = len(gc.get_objects())
        for _ in range(5):
            list(stream)
        assert len(gc.get_objects()) - objects < 300
    finally:
        gc.enable()


def read_until_closed(stream: Stream, errors: list[Exception]) -> None:
    try:
        for _ in range(50):
            list(stream)
    except Exception as error:
        errors.append(error)


def test_a_stream_is_closed_while_another_thread_reads(new_stream: Callable[..., Stream]) -> None:
    for number in range(20):
        stream, errors = new_stream(prefetch=3, threads=2), []
        thread = threading.Thread(target=read_until_closed, args=(stream, errors))
        thread.start()
        threading.Event().wait(0.002 * number)
        stream.close()
        thread.join(300)
        assert not thread.is_alive()
        assert all(isinstance(error, RuntimeError) and "loop is over" in str(error) for error in errors), errors


@pytest.mark.slow
def test_a_fork_drops_a_loop_without_waiting(new_stream: Callable[..., Stream]) -> None:
    """What the parent's threads held when it was forked, nobody gives back here."""
    for _ in range(30):
        stream = new_stream(prefetch=4, threads=3)
        loop = iter(stream)
        next(loop)
        child = os.fork()
        if child == 0:
            stream.close()
            del loop
            os._exit(0 if len(list(stream)) == len(stream) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
