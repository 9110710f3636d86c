"""The examples of PyTorch's trainers: killed and run again, and in two processes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from support.servers import free_port
from support.trainings import STEPS, finished, killed, small_shards

LIGHTNING = "lightning" if importlib.util.find_spec("lightning") else "pytorch_lightning"
NEEDS = {
    "lightning_training.py": [LIGHTNING],
    "accelerate_training.py": ["accelerate"],
    "hugging_face_trainer.py": ["accelerate", "transformers"],
    "timm_training.py": ["timm"],
}
OPTIONS = ["--epochs=2", "--batch-size=8", "--save-every=3"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("trainings"))


def two_processes() -> list[dict[str, str]]:
    """The environments of two processes of PyTorch, as torchrun makes them."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "1"}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


def examples(*nightly: str) -> list[object]:
    """The name of each example, and the kind of its test."""
    marks = {name: pytest.mark.nightly if name in nightly else pytest.mark.slow for name in NEEDS}
    return [pytest.param(name, marks=mark, id=name) for name, mark in marks.items()]


@pytest.mark.parametrize("example", examples("hugging_face_trainer.py", "lightning_training.py", "timm_training.py"))
def test_two_processes_go_on_as_if_they_had_not_been_killed(example: str, shards: Path, tmp_path: Path) -> None:
    for package in NEEDS[example]:
        pytest.importorskip(package)
    whole, other = finished(example, shards, tmp_path / "whole", *OPTIONS, ranks=two_processes())
    assert list(whole) == list(range(1, STEPS + 1)) == list(other) and len(set(whole.values())) > STEPS // 2
    first = killed(example, shards, tmp_path / "killed", *OPTIONS, after=11, ranks=two_processes())
    assert first.items() <= whole.items() and max(first) < STEPS
    # The kill is in the middle of the second epoch, after the checkpoint of step 9 of 16.
    rest, _ = finished(example, shards, tmp_path / "killed", *OPTIONS, ranks=two_processes())
    assert min(rest) in (10, 13) and rest == {step: whole[step] for step in range(min(rest), STEPS + 1)}
