"""Errors in worker processes: those of threads, and those of processes that end."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from support.remote_data import digest, digests, file_of, write_dataset
from support.worker_processes import Breaks, Kills, Noise, processes

from shard_reader import CorruptionError, Stream, open_dataset
from shard_reader.stream.workers import child, pool, start


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "raw")


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "new_context", lambda: multiprocessing.get_context("spawn"))


def stream(path: Path, **options: Any) -> Stream:
    options = {"batch_size": 8, "fields": ("image", "id", "tags"), "threads": 2, "workers": "processes", **options}
    return open_dataset(path).stream(**options)


def until_it_fails(one: Stream) -> tuple[list[str], BaseException]:
    """The batches before the error, and the error."""
    given = []
    with pytest.raises(Exception) as failure:
        for batch in one:
            given.append(digest(batch))
    return given, failure.value


def damaged(path: Path, target: Path) -> Path:
    """A copy with a damaged image in shards 2 and 5, and without shard 9."""
    copy = Path(shutil.copytree(path, target))
    for number in (2, 5):
        file = file_of(copy, number)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    file_of(copy, 9).unlink()
    return copy


@pytest.mark.parametrize("shuffle", ["none", "full"])
def test_a_damaged_record_ends_the_loop_as_with_threads(path: Path, tmp_path: Path, shuffle: str) -> None:
    copy = damaged(path, tmp_path / "copy")
    expected = until_it_fails(stream(copy, shuffle=shuffle, workers="threads"))
    one = stream(copy, shuffle=shuffle)
    with one:
        found = until_it_fails(one)
        assert found[0] == expected[0] and isinstance(found[1], CorruptionError)
        assert (type(found[1]), str(found[1])) == (type(expected[1]), str(expected[1]))
        # The position is before the batch that failed, and the processes are as good as before.
        before, state = processes(one), one.state_dict()
        one.load_state_dict(state)
        assert until_it_fails(one)[0] == [] and one.state_dict() == state and processes(one) == before


def test_damaged_records_are_skipped_as_with_threads(path: Path, tmp_path: Path) -> None:
    copy = damaged(path, tmp_path / "copy")
    threads, workers = (stream(copy, on_error="skip", workers=kind) for kind in ("threads", "processes"))
    with workers:
        for _ in range(2):
            for expected, found in zip(threads, workers, strict=True):
                assert digest(found) == digest(expected)
                assert workers.skipped == threads.skipped and workers.coverage() == threads.coverage()
        assert len(workers.skipped) >= 6


@pytest.mark.parametrize("kind", ["KeyError", "ValueError"])
def test_an_error_of_a_transform_has_its_type_its_notes_and_its_traceback(path: Path, kind: str) -> None:
    options: dict[str, Any] = {"image": Breaks(kind=kind), "shuffle": "none"}
    (given, expected), workers = until_it_fails(stream(path, **options, workers="threads")), stream(path, **options)
    with workers:
        found = until_it_fails(workers)
    assert found[0] == given and type(found[1]) is type(expected) and str(found[1]) == str(expected)
    notes = getattr(expected, "__notes__", [])
    assert getattr(found[1], "__notes__", []) == notes
    assert "id 'größe/" in f"{expected} {notes}"
    assert "worker_processes.py" in str(found[1].__cause__) and "in __call__" in str(found[1].__cause__)


def test_an_error_that_cannot_be_pickled_keeps_its_name_and_its_notes(path: Path) -> None:
    with stream(path, image=Breaks(kind="own")) as workers:
        error = until_it_fails(workers)[1]
    assert isinstance(error, RuntimeError) and str(error) == "_Own: 1 and 2"
    assert "in the image of " in error.__notes__[0]


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "exit"])
def test_a_process_that_ends_ends_the_loop(path: Path, how: str) -> None:
    """With one error that says which, and what may help."""
    one = stream(path, image=Kills(os.getpid(), how))
    given, error = until_it_fails(one)
    assert given == [] and isinstance(error, RuntimeError)
    why = "ended with exit status 3" if how == "exit" else f"was ended by {how}"
    assert str(error).startswith("worker process 1 of 2 (process ") and f") {why}" in str(error)
    assert ("take fewer processes (threads=)" in str(error)) == (how == "SIGKILL")
    assert processes(one) == [] or not any(map(is_alive, processes(one)))


def test_a_process_that_is_killed_between_loops_is_replaced(path: Path) -> None:
    with stream(path, image=Noise(), seed=2) as one:
        expected = [digests(one.batches(epoch)) for epoch in range(2)]
        assert digests(one) == expected[0]
        first = processes(one)
        os.kill(first[1], signal.SIGKILL)
        one._pool._workers[1].process.join()  # type: ignore[union-attr]
        assert digests(one) == expected[1] and not set(first) & set(processes(one))


def test_a_process_that_is_killed_in_a_loop_ends_it(path: Path) -> None:
    one = stream(path, image=Noise(), seed=2, prefetch=1)
    with one:
        loop = iter(one)
        next(loop)
        os.kill(processes(one)[0], signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"^worker process 1 of 2 .* SIGKILL"):
            list(loop)
        with pytest.raises(RuntimeError, match="this loop failed before the end"):
            next(loop)
        one.load_state_dict(one.state_dict())
        rest = digests(one)
        assert rest == digests(one.batches(0))[-len(rest) :]


def test_a_transform_that_cannot_be_pickled_is_named(path: Path, spawned: None) -> None:
    with pytest.raises(TypeError, match=r"^image=.*<lambda>.* begin by 'spawn' .*: define functions at the top"):
        next(iter(stream(path, image=lambda image: image, fields=("image",))))


def test_a_process_that_cannot_begin_says_why(path: Path, spawned: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here since its module cannot be found, as of a notebook."""
    monkeypatch.setattr(Noise, "__module__", "nowhere")
    monkeypatch.setattr(start, "pickle", _PickledByName())
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        next(iter(stream(path, image=Noise())))


def test_a_class_below_the_guard_of_a_script_is_not_found_and_says_so() -> None:
    with pytest.raises(TypeError, match=r"^a transform is not found .*attribute 'Noise'.*: define functions"):
        child._unpacked(b"cos\nNoise\n.")


class _PickledByName:
    """pickle, which would find that a class is not where it says."""

    PicklingError = ValueError

    @staticmethod
    def dumps(value: object) -> bytes:
        return b"cnowhere\nNoise\n."


def test_a_process_that_the_system_does_not_start_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start_none(process: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(start, "_start", start_none)
    with pytest.raises(RuntimeError, match=r"^a worker process cannot be started \(Resource temporarily"):
        next(iter(stream(path, image=Noise())))


def test_a_choice_that_is_none_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="workers='fibres': must be threads or processes"):
        stream(path, workers="fibres")


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_lists_that_are_too_long_are_told_as_with_threads(path: Path) -> None:
    found = [until_it_fails(stream(path, ragged=2, workers=kind, shuffle="none")) for kind in ("threads", "processes")]
    assert found[0][0] == found[1][0] and str(found[0][1]) == str(found[1][1])
    assert isinstance(found[1][1], ValueError) and "ragged=2" in str(found[1][1])


def test_skipping_and_other_choices_hold_in_every_process(path: Path, tmp_path: Path) -> None:
    """Pixels of a damaged image are 0, in memory that held another image before."""
    copy = damaged(path, tmp_path / "copy")
    with stream(copy, on_error="skip", fields=("image", "id"), image=Noise(), batch_size=15) as one:
        for _ in range(3):
            for batch in one:
                assert not batch["image"][batch["weight"] == 0].any()
                assert batch["image"][batch["weight"] > 0].any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("workers", [4, "fibers"])
def test_a_number_of_workers_is_called_threads(jpeg_shards: Path, workers: Any) -> None:
    with pytest.raises(ValueError, match="must be threads or processes; threads= is the number of either"):
        open_dataset(jpeg_shards).stream(batch_size=4, workers=workers)
