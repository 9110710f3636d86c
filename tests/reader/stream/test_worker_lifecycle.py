"""What worker processes take, they give back: processes, memory, files. And they disturb nobody."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import REPOSITORY
from support.remote_data import digests, write_dataset
from support.worker_processes import Noise, memory_of, processes, says_its_process, shared_files

from shard_reader import Stream, open_dataset
from shard_reader.stream.workers import child
from shard_reader.stream.workers.messages import Drop
from shard_reader.stream.workers.pool import WorkerPool
from shard_reader.stream.workers.shared_buffers import SharedBuffers

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux to see its memory")
SIZE = (64, 64, 3)
BATCH_BYTES = 8 * 64 * 64 * 3


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 12 KB, so that a batch of eight is large enough for shared memory."""
    return write_dataset(tmp_path_factory.mktemp("data") / "raw", (10, 20, 10), size=SIZE)


def stream(path: Path, **options: Any) -> Stream:
    options = {"batch_size": 8, "image": Noise(), "threads": 2, "workers": "processes", "seed": 5, **options}
    return open_dataset(path).stream(**options)


def sentinels(one: Stream) -> list[Any]:
    """What becomes ready when a process has ended, also where its stream is gone."""
    assert one._pool is not None
    return [os.dup(worker.process.sentinel) for worker in one._pool._workers]


def have_ended(found: list[Any]) -> bool:
    """Wait until processes have ended."""
    for one in found:
        multiprocessing.connection.wait([one], 300)
        os.close(one)
    return True


@pytest.mark.parametrize("leave", ["close", "with", "forget", "exception", "other epoch"])
def test_no_process_stays(path: Path, leave: str) -> None:
    gc.collect()
    gc.disable()  # references must do
    try:
        one: Any = stream(path)
        loop: Any = iter(one)
        batch = next(loop)
        ends, kept = sentinels(one), batch["image"].copy()
        if leave == "close":
            one.close()
        elif leave == "with":
            with one:
                pass
        elif leave == "exception":
            with pytest.raises(ZeroDivisionError):
                for _ in one:
                    1 / 0  # noqa: B018
            one = loop = None
        elif leave == "other epoch":
            other = stream(path)
            ends += [] if next(iter(other)) is None else sentinels(other)
            one = loop = other = None
        else:
            one = loop = None
        assert have_ended(ends)
        assert not multiprocessing.active_children()
        assert np.array_equal(batch["image"], kept)  # a batch outlives its stream
    finally:
        gc.enable()


def test_processes_stay_from_loop_to_loop(path: Path) -> None:
    with stream(path) as one:
        expected = [digests(one.batches(epoch)) for epoch in range(3)]
        first = processes(one)
        for _ in one:  # a loop that breaks off ends its epoch
            break
        assert digests(one) == expected[1]
        loop = iter(one)
        next(loop)
        assert digests(one) == digests(stream(path, workers="threads").batches(3))
        with pytest.raises(RuntimeError, match="this loop is over"):
            next(loop)
        assert processes(one) == first


def test_a_closed_stream_opens_again(path: Path) -> None:
    one = stream(path)
    loop = iter(one)
    next(loop)
    first = processes(one)
    one.close()
    with pytest.raises(RuntimeError, match=r"this loop is over: .*closed"):
        next(loop)
    assert digests(one) == digests(stream(path, workers="threads").batches(1))
    assert not set(first) & set(processes(one))
    one.close()


def test_what_a_user_keeps_is_not_overwritten(path: Path) -> None:
    """Whole batches, views of them, and the arrays of one by one."""
    threads, workers = stream(path, workers="threads"), stream(path)
    with workers:
        kept = [batch for _ in range(3) for batch in workers]
        views = [batch["image"][3:5, ..., 1].T for _ in range(3) for batch in workers]
        list(workers)
        expected = [batch for _ in range(3) for batch in threads]
        assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(kept, expected, strict=True))
        expected = [batch for _ in range(3) for batch in threads]
        assert all(
            np.array_equal(view, batch["image"][3:5, ..., 1].T) for view, batch in zip(views, expected, strict=True)
        )


def test_batches_lie_in_shared_memory_without_a_copy(path: Path) -> None:
    """And are aligned, and may be written to."""
    with stream(path) as one:
        for batch in one:
            pool: Any = one._pool
            maps = [memory for worker in pool._workers for memory in worker.buffers["image"]._maps.values()]
            assert any(np.shares_memory(batch["image"], memory) for memory in maps)
            assert batch["image"].ctypes.data % 4096 == 0 and batch["image"].flags.writeable


@pytest.fixture
def files() -> Iterator[list[int]]:
    """Files to close."""
    found = list[int]()
    yield found
    for file in found:
        os.close(file)


@linux
def test_memory_does_not_grow_over_epochs(path: Path, files: list[int]) -> None:
    with stream(path, prefetch=3) as one:
        for epoch in range(60):
            for batch in one:
                if epoch % 7 == 3:  # left in the middle
                    break
                del batch
            if epoch == 0:
                files += shared_files(one)
        # Those of a loop, and of one that was left, and one in use of each.
        assert 0 < memory_of(files) <= 2 * (2 + 3 + 1) * BATCH_BYTES


@linux
def test_memory_of_kept_batches_is_given_back(path: Path, files: list[int]) -> None:
    with stream(path) as one:
        kept = [batch for _ in range(8) for batch in one]
        files += shared_files(one)
        most = memory_of(files)
        assert most >= len(kept) * BATCH_BYTES
        del kept
        for batch in one:
            del batch
        assert memory_of(files) < most - 10 * BATCH_BYTES
        last = next(iter(one))
    # One batch that is kept keeps no other one's memory.
    assert memory_of(files) == BATCH_BYTES and last["image"].any()
    del last, one
    assert memory_of(files) == 0


def test_no_file_stays_open(path: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see open files")
    digests(stream(path))
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with stream(path, threads=3) as one:
            next(iter(one))
    del one
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_loops_that_break_off_leave_nothing_behind(path: Path) -> None:
    # Only the first process is asked for a batch. Answers of the second one would fill its pipe, and then both
    # processes would wait for each other.
    with stream(path) as one:
        for _ in range(40):
            next(iter(one))
        assert one._pool is not None
        assert sum(len(worker.asked) for worker in one._pool._workers) < 20


def test_answers_are_taken_where_a_process_reads_no_messages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stream(path) as one:
        loop = iter(one)
        next(loop)
        assert one._pool is not None
        pool, worker = one._pool, one._pool._workers[1]
        process = worker.process.pid
        assert process is not None
        multiprocessing.connection.wait([worker._pipe], 300)  # its answer is there
        os.kill(process, signal.SIGSTOP)
        while worker.send(Drop(-1), wait=False):
            pass
        keep = pool._keep
        monkeypatch.setattr(pool, "_keep", lambda *found: (keep(*found), os.kill(process, signal.SIGCONT)))
        pool._make_room(worker)
        assert sum(1 for _ in loop) == len(one) - 1


def test_two_streams_at_once_and_one_for_an_evaluation_inside(path: Path) -> None:
    expected = [digests(stream(path, workers="threads", seed=seed).batches(0)) for seed in range(3)]
    one, other, evaluation = (stream(path, seed=seed) for seed in range(3))
    with one, other, evaluation:
        found = []
        for step, pair in enumerate(zip(one, other, strict=True)):
            found.append([digests([batch])[0] for batch in pair])
            if step in (1, 3):
                evaluation.load_state_dict(evaluation.state_at(0, 0))
                assert digests(evaluation) == expected[2]
        assert [list(column) for column in zip(*found, strict=True)] == expected[:2]


def test_threads_share_the_processes_of_a_stream(path: Path) -> None:
    with stream(path) as one:
        expected = {epoch: digests(stream(path, workers="threads").batches(epoch)) for epoch in range(6)}
        found: dict[int, list[str]] = {}
        next(iter(one))

        def read(epoch: int) -> None:
            found[epoch] = digests(one.batches(epoch))

        threads = [threading.Thread(target=read, args=(epoch,)) for epoch in expected]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert found == expected


def read_until_closed(one: Stream, errors: list[Exception]) -> None:
    try:
        for _ in range(50):
            list(one)
    except Exception as error:
        errors.append(error)


def test_a_stream_is_closed_while_another_thread_reads(path: Path) -> None:
    for number in range(5):
        one, errors = stream(path, threads=1), list[Exception]()
        thread = threading.Thread(target=read_until_closed, args=(one, errors))
        thread.start()
        threading.Event().wait(0.01 * number)
        while thread.is_alive():  # it may not have begun its loop when it is closed first
            one.close()
            thread.join(0.2)
        assert all("is over" in str(error) or "have ended" in str(error) for error in errors), errors
        one.close()


def test_a_fork_has_no_part_in_the_processes(path: Path) -> None:
    one = stream(path)
    with one:
        expected = digests(one.batches(1))
        loop: Iterator[Any] | None = iter(one)
        other = one.batches(2)
        assert loop is not None
        next(loop)
        next(other)
        number, ok = os.fork(), False
        if number == 0:
            try:
                with pytest.raises(RuntimeError, match="forked"):
                    next(other)
                loop = None
                ok = digests(one.batches(1)) == expected
                one.close()
            finally:
                os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 0
        assert len(list(loop)) == len(one) - 1


SCRIPT = """
import multiprocessing, os, sys
from support.worker_processes import Noise, processes
from shard_reader import open_dataset
stream = open_dataset({path!r}).stream(batch_size=8, image=Noise(), threads=2, workers="processes", seed=5)
loop = iter(stream)
next(loop)
{then}
"""


def script(path: Path, then: str, **options: Any) -> subprocess.Popen[str]:
    """A script that is in the middle of a loop, in a session of its own."""
    places = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(path=str(path), then=then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": places},
        **options,
    )


def test_processes_of_a_killed_process_end(path: Path) -> None:
    """Its output ends when the last process that has it is gone."""
    process = script(path, "print('begun', flush=True); next(loop); multiprocessing.Event().wait()")
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.kill()
    assert process.communicate(timeout=300)[0] == ""


def test_a_script_that_ends_in_the_middle_of_a_loop_ends(path: Path) -> None:
    out, errors = script(path, "print('end')").communicate(timeout=300)
    assert (out, errors) == ("end\n", "")


def test_ctrl_c_reaches_the_parent_alone(path: Path) -> None:
    """The loop ends, and the next one has the same processes."""
    process = script(
        path,
        """
before = processes(stream)
try:
    print("begun", flush=True)
    multiprocessing.Event().wait()
except KeyboardInterrupt:
    pass
try:
    for batch in loop:
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
print(len(list(stream)), before == processes(stream), len(multiprocessing.active_children()), flush=True)
""",
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=300)
    assert (out, errors, process.returncode) == ("5 True 2\n", "", 0)


def test_ctrl_c_in_the_middle_of_a_message_ends_the_processes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of the message would be taken for another one."""
    with stream(path) as one:
        loop = iter(one)
        next(loop)
        first = processes(one)

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(WorkerPool, "_keep", interrupt)
            with pytest.raises(KeyboardInterrupt):
                list(loop)
        one.load_state_dict(one.state_dict() | {"step": 0})
        assert digests(one) == digests(stream(path, workers="threads").batches(0))
        assert not set(first) & set(processes(one))


def test_in_a_process_that_may_have_none_the_stream_works_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a DataLoader's worker."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    one = stream(path, image=says_its_process)
    assert {int(pixel) for batch in one for pixel in np.unique(batch["image"])} == {os.getpid()}
    assert processes(one) == []


def test_processes_are_daemons_with_names_of_their_own(path: Path) -> None:
    with stream(path) as one:
        next(iter(one))
        children = multiprocessing.active_children()
        assert sorted(child.name for child in children) == ["shard_reader-worker-1", "shard_reader-worker-2"]
        assert all(child.daemon for child in children)


GUARDLESS = """
import multiprocessing
multiprocessing.set_start_method("spawn")
print("top", flush=True)
from support.worker_processes import Noise
from shard_reader import open_dataset
def own(image): return image // 2
stream = open_dataset({path!r}).stream(batch_size=8, image={image}, fields=("image",), workers="processes", threads=1)
print(len(list(stream)))
"""


@pytest.mark.parametrize("image", ["Noise()", "own"])
def test_a_script_needs_a_guard_for_its_own_functions_alone(path: Path, image: str, tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(GUARDLESS.format(path=str(path), image=image))
    places = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"
    done = subprocess.run(
        [sys.executable, file], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": places}
    )
    if image == "own":
        assert done.stderr.endswith('transforms needs if __name__ == "__main__": around its loop\n'), done.stderr
    else:
        assert (done.stdout, done.stderr) == ("top\n5\n", "")


@pytest.mark.parametrize("has_memory", [True, False])
def test_buffers_are_used_again_when_nobody_holds_them(has_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the system has no files in memory."""
    if not has_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    buffers, dtype = SharedBuffers(10_000, 2), np.dtype(np.float32)
    held = [buffers.lease(buffers.take(), (5, 100), dtype) for _ in range(4)]
    for number, array in enumerate(held):
        array[...] = number + 1
    views = [array[2:, ::3] for array in held]
    del array, held
    assert buffers.take() == 4 and [view.max() for view in views] == [1, 2, 3, 4]
    del views
    # The last one that was used; beyond two free ones the memory of the oldest goes.
    taken = [buffers.take() for _ in range(4)]
    assert sorted(taken) == [0, 1, 2, 3]
    assert not buffers.memory(taken[-1]).any() and buffers.memory(taken[0]).any()
    assert buffers.take() == 5
    buffers.give_back(5)
    assert buffers.take() == 5


def test_a_process_without_a_parent_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another process holds what would tell."""
    ended, (reader, writer) = threading.Event(), os.pipe()

    class Parent:
        sentinel = reader

    def end(status: int) -> None:
        ended.set()
        raise SystemExit(status)

    monkeypatch.setattr(child, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(child.multiprocessing, "parent_process", Parent)
    monkeypatch.setattr(child.os, "_exit", end)
    found = [7, 7, 7, 1, 1, 1]
    monkeypatch.setattr(child.os, "getppid", lambda: found.pop(0) if len(found) > 1 else 1)
    with pytest.raises(SystemExit):
        child._watch(7)
    assert ended.is_set()
    os.close(reader)
    os.close(writer)
