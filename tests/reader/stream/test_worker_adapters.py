"""Adapters of streams whose batches are made in worker processes give what they give with threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.remote_data import write_dataset
from support.worker_processes import Noise, processes, says_its_process

from shard_reader import Stream, open_dataset

KINDS = ("threads", "processes")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """75 images of 3 KB; a batch is large enough for shared memory."""
    return write_dataset(tmp_path_factory.mktemp("data") / "raw", size=(32, 32, 3))


def stream(path: Path, workers: str, **options: Any) -> Stream:
    options = {"batch_size": 24, "image": Noise(), "threads": 2, "seed": 5, **options}
    return open_dataset(path).stream(workers=workers, **options)


def epochs(loop: Callable[[], Any], count: int = 2) -> list[Any]:
    """The values of some epochs, one array after the other."""
    return [[[np.asarray(part).copy() for part in element] for element in loop()] for _ in range(count)]


def are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(are_equal, one, other))
    return one.dtype == other.dtype and np.array_equal(one, other)


@pytest.mark.slow
def test_stream_dataset(path: Path) -> None:
    """Tensors are views of the shared memory, and the state is that of the loop."""
    torch = pytest.importorskip("shard_reader.torch", reason="needs PyTorch")
    found, states = [], []
    for kind in KINDS:
        with stream(path, kind) as one:
            dataset = torch.StreamDataset(one, inputs="image", targets="label")
            found.append(epochs(lambda dataset=dataset: dataset))  # type: ignore[misc]
            for images, *_ in dataset:
                assert kind == "threads" or images.data_ptr() % 4096 == 0
                del images
                break
            states.append(dataset.state_dict())
            dataset.load_state_dict(states[-1])
            found[-1] += epochs(lambda dataset=dataset: dataset, 1)  # type: ignore[misc]
            assert bool(processes(one)) == (kind == "processes")
    assert are_equal(*found) and states[0] == states[1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.nightly)])
def test_workers_of_a_dataloader_have_none_of_their_own(path: Path, method: str) -> None:
    """They make the batches by themselves, each in one thread."""
    torch = pytest.importorskip("shard_reader.torch", reason="needs PyTorch")
    from torch.utils.data import DataLoader

    found = []
    for kind in KINDS:
        dataset = torch.StreamDataset(stream(path, kind), inputs="image", targets="label")
        loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=method)
        found.append(epochs(lambda loader=loader: loader))  # type: ignore[misc]
    assert are_equal(*found)
    dataset = torch.StreamDataset(stream(path, "processes", image=says_its_process, remainder="drop"), inputs="image")
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=method)
    made = {int(number) for images, *_ in loader for number in np.unique(images)}
    assert len(made) == 2 and os.getpid() not in made


@pytest.mark.slow
def test_tf_data(path: Path) -> None:
    """Processes are spawned: a fork of a process with TensorFlow may wait for ever."""
    tf_data = pytest.importorskip("shard_reader.tf_data", reason="needs TensorFlow")
    found = []
    for kind in KINDS:
        with stream(path, kind) as one:
            dataset = tf_data.as_dataset(one, inputs="image", targets="label")
            found.append(epochs(lambda dataset=dataset: dataset))  # type: ignore[misc]
    assert are_equal(*found)


@pytest.mark.slow
def test_shard_sequence(path: Path) -> None:
    keras = pytest.importorskip("shard_reader.keras", reason="needs Keras")
    found = []
    for kind in KINDS:
        with stream(path, kind) as one:
            sequence = keras.ShardSequence(one)
            found.append(epochs(lambda sequence=sequence: sequence))  # type: ignore[misc]
    assert are_equal(*found)


@pytest.mark.slow
def test_global_batches(path: Path) -> None:
    """Also where JAX takes the memory of the stream as its own."""
    jax = pytest.importorskip("shard_reader.jax", reason="needs JAX")
    found = []
    for kind in KINDS:
        with stream(path, kind) as one:
            batches = jax.GlobalBatches(one, inputs="image", targets="label")
            kept = [list(batches) for _ in range(3)]
            found.append([[[np.asarray(part) for part in element] for element in epoch] for epoch in kept])
    assert are_equal(*found)
