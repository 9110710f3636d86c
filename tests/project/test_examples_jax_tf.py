"""The examples of Flax with Orbax and of MultiWorkerMirroredStrategy: killed and run again, and in two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.servers import free_port
from support.trainings import STEPS, finished, killed, small_shards

pytestmark = pytest.mark.slow
OPTIONS = ["--epochs=2", "--batch-size=8", "--save-every=3"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("trainings"))


def test_flax_goes_on_as_if_it_had_not_been_killed(shards: Path, tmp_path: Path) -> None:
    for package in ("flax", "orbax.checkpoint", "optax"):
        pytest.importorskip(package)
    (whole,) = finished("flax_training.py", shards, tmp_path / "whole", *OPTIONS)
    assert list(whole) == list(range(1, STEPS + 1)) and len(set(whole.values())) > STEPS // 2
    first = killed("flax_training.py", shards, tmp_path / "killed", *OPTIONS, after=11)
    assert first.items() <= whole.items() and max(first) < STEPS
    (rest,) = finished("flax_training.py", shards, tmp_path / "killed", *OPTIONS)
    # Orbax writes in the background: the last checkpoint is that of step 9, or was not whole.
    assert min(rest) in (7, 10) and rest == {step: whole[step] for step in range(min(rest), STEPS + 1)}


def test_flax_trains_in_two_processes(shards: Path, tmp_path: Path) -> None:
    for package in ("flax", "orbax.checkpoint", "optax"):
        pytest.importorskip(package)
    common = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    ranks = [common | {"JAX_PROCESS_ID": str(rank)} for rank in range(2)]
    first, second = finished("flax_training.py", shards, tmp_path, *OPTIONS, ranks=ranks)
    assert first == second and list(first) == list(range(1, STEPS + 1))
    assert {path.name for path in tmp_path.iterdir()} == {"12", "15"}


def workers() -> list[dict[str, str]]:
    """The environments of two processes of TensorFlow."""
    cluster = {"worker": [f"127.0.0.1:{free_port()}" for _ in range(2)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": rank}} for rank in range(2)]
    return [{"TF_CONFIG": json.dumps(task), "CUDA_VISIBLE_DEVICES": ""} for task in tasks]


def test_workers_of_tensorflow_go_on_as_if_they_had_not_been_killed(shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    whole, _ = finished("multiworker_tensorflow.py", shards, tmp_path / "whole", *OPTIONS, ranks=workers())
    assert list(whole) == list(range(1, STEPS + 1)) and len(set(whole.values())) > STEPS // 2
    first = killed("multiworker_tensorflow.py", shards, tmp_path / "killed", *OPTIONS, after=14, ranks=workers())
    assert first.items() <= whole.items() and max(first) < STEPS
    rest, _ = finished("multiworker_tensorflow.py", shards, tmp_path / "killed", *OPTIONS, ranks=workers())
    assert min(rest) in (12, 15) and rest == {step: whole[step] for step in range(min(rest), STEPS + 1)}
