"""The examples that are killed and go on with other processes or devices: what each step was given, and its loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command import REPOSITORY
from support.images import some_of, write_image

EXAMPLES = {"torch": "torch_ddp.py", "jax": "jax_sharded.py"}
FIRST_NUMBER = {"torch": "--processes", "jax": "--devices"}

# Processes that import a framework and train: CI runs them.
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("framework", EXAMPLES)]


def run(framework: str, *arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run an example as a user would; `path` goes before all other modules."""
    words = [sys.executable, str(REPOSITORY / "examples" / EXAMPLES[framework]), *map(str, arguments)]
    modules = os.pathsep.join(str(folder) for folder in (path, REPOSITORY) if folder)
    env = os.environ | {"PYTHONPATH": modules}
    return subprocess.run(words, capture_output=True, text=True, timeout=600, env=env, cwd=REPOSITORY)


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def check(framework: str, images: Path, below: str, output: Path, batch_size: int, numbers: tuple[int, int]) -> None:
    """Run an example on the images in `images`, of which those in the folder `below` are to be trained on."""
    words = [f"--batch-size={batch_size}", f"{FIRST_NUMBER[framework]}={numbers[0]}", f"--resume-with={numbers[1]}"]
    result = run(framework, images, output, *words)
    assert result.returncode == 0, result.stdout + result.stderr
    ids = sorted(str(path.relative_to(images)) for path in (images / below).rglob("*.*"))
    steps = -(-len(ids) // batch_size)  # an epoch
    whole = lines(output / "uninterrupted/from-000000.jsonl")
    killed, resumed = (lines(log) for log in sorted((output / "interrupted").iterdir()) if log.suffix == ".jsonl")
    kept = resumed[0]["step"]
    middle = steps + steps // 2

    assert [line["step"] for line in whole] == list(range(2 * steps))
    assert [line["step"] for line in killed] == list(range(middle + 1))  # and not one more
    assert [line["step"] for line in resumed] == list(range(kept, 2 * steps))
    assert middle - 7 < kept <= middle and kept % steps
    assert {line["parts"] for line in whole + killed} == {numbers[0]}
    assert {line["parts"] for line in resumed} == {numbers[1]}
    for other in (killed, resumed):
        same = [whole[line["step"]] for line in other]
        assert [line["ids"] for line in other] == [line["ids"] for line in same]
        assert [line["loss"] for line in other] == pytest.approx([line["loss"] for line in same], rel=1e-4)
    for epoch in range(2):
        batches = [line["ids"] for line in killed[:kept] + resumed][epoch * steps : (epoch + 1) * steps]
        assert {len(batch) for batch in batches} == {batch_size}
        assert sorted(id for batch in batches for id in batch if id is not None) == ids
    assert whole[0]["ids"] != whole[steps]["ids"]
    assert len({line["loss"] for line in whole}) == 2 * steps  # it does train
    assert f"{2 * steps} global batches: the same in both, each of {len(ids)} images once in each" in result.stdout
    assert f"steps done twice: {middle - kept};" in result.stdout


def test_a_killed_training_goes_on_as_if_it_had_not_been(framework: str, tmp_path: Path) -> None:
    pytest.importorskip(framework)
    for number in range(59):  # 7 batches of 8 and one of 3, of which two processes take 2 and 1
        write_image(tmp_path / "images" / "abc"[number % 3] / f"{number}.png", number)
    numbers = {"torch": (2, 1), "jax": (4, 2)}[framework]
    check(framework, tmp_path / "images", "", tmp_path / "out", 8, numbers)


@pytest.mark.nightly
def test_with_real_images_and_more_processes(framework: str, cifar10: Path, tmp_path: Path) -> None:
    pytest.importorskip(framework)
    numbers = {"torch": (2, 3), "jax": (8, 6)}[framework]
    check(framework, some_of(cifar10, tmp_path / "images", 100), "train", tmp_path / "out", 96, numbers)


def test_what_cannot_be_is_said_at_once(framework: str, class_folders: Path, tmp_path: Path) -> None:
    pytest.importorskip(framework)
    (tmp_path / "mine").touch()
    result = run(framework, class_folders, tmp_path)
    assert (result.returncode, result.stderr) == (1, f"{tmp_path}: is not empty; give a new directory\n")
    result = run(framework, class_folders, tmp_path / "new", "--resume-with=5")
    assert result.returncode == 2 and "--batch-size 96: must be a multiple of both numbers" in result.stderr
    assert not (tmp_path / "new").exists()
    result = run(framework, class_folders, tmp_path / "new")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("60 images are 1 steps an epoch: a checkpoint every 7 steps")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"shards"}  # no training has begun


def test_without_the_framework_it_says_what_to_install(framework: str, tmp_path: Path) -> None:
    missing = f"raise ModuleNotFoundError('No module named {framework!r}', name={framework!r})"
    (tmp_path / f"{framework}.py").write_text(missing.replace(f"'{framework}'", f'"{framework}"'))
    result = run(framework, "images", path=tmp_path)
    name = {"torch": "PyTorch", "jax": "JAX"}[framework]
    expected = f"shard_reader.{framework} needs {name}: pip install 'image-shards[{framework}]'\n"
    assert (result.returncode, result.stderr) == (1, expected)
