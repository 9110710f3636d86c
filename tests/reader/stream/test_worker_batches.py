"""Batches of worker processes are those of threads, bit for bit: any number of them, any order, after any resume."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.remote_data import ALL_FIELDS, FORMATS, digest, digests, write_dataset
from support.several import several_images
from support.worker_processes import TRANSFORMS, Noise, processes, says_its_process

from shard_reader import CenterCrop, Flip, RandomResizedCrop, Resize, Stream, mix, open_dataset
from shard_reader.stream.workers import pool
from shard_reader.system import cpus

METHODS = multiprocessing.get_all_start_methods()


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Raw pixels and JPEGs, with every other kind of field: 75 records in 14 shards."""
    root = tmp_path_factory.mktemp("data")
    return {encoding: write_dataset(root / encoding, encoding=encoding) for encoding in ("raw", "jpeg")}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records with masks, depth maps, a second photo, bytes, boxes and keypoints."""
    return several_images(tmp_path_factory.mktemp("several") / "data", 12)


@pytest.fixture
def start_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has processes start by a method."""
    return lambda method: monkeypatch.setattr(pool, "new_context", lambda: multiprocessing.get_context(method))


def pair(path: Path, *, threads: int = 2, format: str = "tfrecord", **options: Any) -> tuple[Stream, Stream]:
    """The same stream with threads, and with processes."""
    data = open_dataset(path, format=format)
    options = {"batch_size": 8, "fields": ALL_FIELDS, "seed": 3, **options}
    return data.stream(**options), data.stream(**options, workers="processes", threads=threads)


def test_are_made_in_other_processes(datasets: dict[str, Path]) -> None:
    """Every n-th batch in each."""
    with pair(datasets["raw"], image=says_its_process, fields=("image",), threads=3)[1] as stream:
        made = [np.unique(batch["image"]).tolist() for batch in stream]
        assert made == [[processes(stream)[step % 3]] for step in range(10)]
        assert [np.unique(batch["image"]).tolist() for batch in stream] == made  # they stay


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "transform", [pytest.param(one, marks=pytest.mark.slow if one == "torchvision" else ()) for one in TRANSFORMS]
)
def test_two_epochs_and_all_that_is_told_of_them(datasets: dict[str, Path], format: str, transform: str) -> None:
    if transform == "torchvision":
        # Before a process is forked, which would not get the lock of a module that a thread imports.
        pytest.importorskip("torchvision.transforms.v2", reason="needs torchvision")
    fields = ALL_FIELDS if transform != "torchvision" else ALL_FIELDS[:-1]  # without boxes
    threads, workers = pair(datasets["jpeg"], format=format, image=TRANSFORMS[transform], fields=fields)
    with workers:
        for _ in range(2):
            for expected, found in zip(threads, workers, strict=True):
                assert digest(found) == digest(expected)
                assert workers.state_dict() == threads.state_dict()
                assert workers.coverage() == threads.coverage()
        assert workers.specs == threads.specs
        assert workers.next == threads.next
        assert (workers.stats().batches, workers.stats().records) == (20, 150)
        assert (threads.stats().batches, threads.stats().records) == (20, 150)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_processes_start_in_any_way(
    datasets: dict[str, Path], encoding: str, method: str, start_by: Callable[[str], None]
) -> None:
    start_by(method)
    image = [CenterCrop(12), Noise()] if encoding == "jpeg" else Noise()
    threads, workers = pair(datasets[encoding], image=image)
    with workers:
        assert digests(workers) == digests(threads)


@given(
    workers=st.integers(1, 4),
    prefetch=st.integers(1, 4),
    batch_size=st.sampled_from([2, 6, 8, 30, 100]),
    shuffle=st.sampled_from(["none", "full", "window"]),
    remainder=st.sampled_from(["pad", "drop", "keep"]),
    ranks=st.sampled_from([(0, 1), (0, 2), (1, 2)]),
    ragged=st.sampled_from(["list", "pad", 3]),
    place=st.tuples(st.integers(0, 2), st.floats(0, 1)),
    encoding=st.sampled_from(["raw", "jpeg"]),
)
@settings(max_examples=10)
def test_any_options_from_any_place(
    datasets: dict[str, Path],
    workers: int,
    prefetch: int,
    batch_size: int,
    shuffle: str,
    remainder: str,
    ranks: tuple[int, int],
    ragged: Any,
    place: tuple[int, float],
    encoding: str,
) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "remainder": remainder, "ragged": ragged}
    options |= {"rank": ranks[0], "world_size": ranks[1], "prefetch": prefetch, "lanes": 2, "window": 2}
    image = [RandomResizedCrop(13), Flip()] if encoding == "jpeg" else None
    expected, found = pair(datasets[encoding], threads=workers, image=image, **options)
    with found:
        state = expected.state_at(int(place[1] * len(expected)), place[0])
        for one in (expected, found):
            one.load_state_dict(state)
        for _ in range(2):
            assert digests(found) == digests(expected)
            assert (found.coverage(), found.state_dict()) == (expected.coverage(), expected.state_dict())


def test_masks_boxes_and_keypoints_move_with_the_pixels(several: Path) -> None:
    options = {"image": [RandomResizedCrop(32), Flip()], "batch_size": 5, "fields": list(open_dataset(several).fields)}
    options["fields"] = [name for name in options["fields"] if name not in ("height", "width")]
    threads, workers = pair(several, **options)
    with workers:
        assert [digests(workers) for _ in range(2)] == [digests(threads) for _ in range(2)]


def test_a_step_alone_and_records_by_number_are_made_here(datasets: dict[str, Path]) -> None:
    """In the process that asks."""
    image = [RandomResizedCrop(14), functools.partial(np.flip, axis=0)]
    threads, workers = pair(datasets["jpeg"], image=image, fields=("image", "id"))
    assert digest(workers.batch(3, 4)) == digest(threads.batch(3, 4))
    assert digest(workers.take([7, 3, 7], epoch=2)) == digest(threads.take([7, 3, 7], epoch=2))
    assert processes(workers) == []


def test_other_epochs_and_every_nth_step_beside_a_loop(datasets: dict[str, Path]) -> None:
    """By the same processes."""
    threads, workers = pair(datasets["jpeg"], image=TRANSFORMS["own"])
    with workers:
        loop, found = iter(workers), []
        found.append(digest(next(loop)))
        before = processes(workers)
        assert digests(workers.batches(4, 1, every=3)) == digests(threads.batches(4, 1, every=3))
        other = workers.batches(2)
        for batch in loop:
            found.append(digest(batch))
            next(other)
        assert found == digests(threads) and processes(workers) == before


def test_a_rank_without_a_batch_has_an_empty_epoch(datasets: dict[str, Path]) -> None:
    options = {"batch_size": 74, "world_size": 74, "rank": 73, "remainder": "keep", "lanes": 74}
    threads, workers = pair(datasets["raw"], **options)
    assert len(workers) == len(list(workers)) == len(list(threads)) == 1
    last = pair(datasets["raw"], **options | {"batch_size": 100, "world_size": 100, "rank": 99, "lanes": 100})[1]
    assert list(last) == [] and last.next == (1, 0) and processes(last) == []


def test_a_copy_by_pickle_goes_on_with_processes(datasets: dict[str, Path]) -> None:
    threads, workers = pair(datasets["jpeg"], image=TRANSFORMS["class"])
    with workers:
        expected = digests(threads)
        loop = iter(workers)
        next(loop)
        with pickle.loads(pickle.dumps(workers)) as again:
            assert digests(again) == expected[1:] == digests(loop)
            assert not set(processes(again)) & set(processes(workers)) and processes(again)
        with workers.for_rank(0, 2) as rank:
            assert next(iter(rank))["label"].shape == (4,) and processes(rank)


def test_a_mixture_and_a_subset(datasets: dict[str, Path]) -> None:
    data = open_dataset(datasets["raw"])
    for source in (data.select(np.arange(40)), mix([data, open_dataset(datasets["jpeg"])], [0.75, 0.25])):
        options: dict[str, Any] = {"batch_size": 8, "image": [Resize((14, 14)), Flip()], "seed": 1}
        with source.stream(**options, workers="processes", threads=2) as workers:
            assert digests(workers) == digests(source.stream(**options))


@pytest.mark.parametrize("verify", ["always", "first-epoch", "never"])
def test_images_are_checked_as_often_as_asked(datasets: dict[str, Path], verify: str) -> None:
    threads, workers = pair(datasets["raw"], image=Noise(), verify=verify)
    with workers:
        for _ in range(2):
            assert digests(workers) == digests(threads)
            assert workers._reader.has_checked_all == threads._reader.has_checked_all == (verify == "first-epoch")


def test_cpus_are_shared_among_the_ranks_of_a_machine(
    datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpus, "available_cpus", lambda: 6)
    for local, expected in (("", 6), ("2", 3), ("4", 1), ("100", 1), ("x", 6)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        options: dict[str, Any] = {"batch_size": 8, "image": Noise()}
        assert open_dataset(datasets["raw"]).stream(**options)._reader._threads.count == expected
        if local in ("2", "4"):
            with open_dataset(datasets["raw"]).stream(**options, workers="processes") as workers:
                next(iter(workers))
                assert len(processes(workers)) == expected
