"""`verify` of a dataset with several generations: what an earlier one alone has, and files that none knows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import command, prepared
from support.generations import GONE, OPTIONS, images, withdrawn


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of three generations."""
    root = tmp_path_factory.mktemp("history")
    dataset = withdrawn(prepared(images(root / "in"), root / "out", *OPTIONS), *GONE[:2])
    return withdrawn(dataset, *GONE[2:])


def damage(name: str) -> Callable[[Path], None]:
    def change(dataset: Path) -> None:
        with (dataset / name).open("ab") as file:
            file.write(b"more")

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda dataset: (dataset / name).unlink()


def test_a_dataset_with_a_history_is_whole(grown: Path) -> None:
    result = command("verify", grown)
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 1 and "whole; 22 records" in result.stdout


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (remove("dataset.g0001.json"), "dataset.g0001.json: is missing; restore it from a copy"),
        (damage("dataset.g0002.json"), "dataset.g0002.json: is not the manifest that dataset.json names"),
        (damage("metadata.parquet"), "metadata.parquet: an earlier generation has it, and it is damaged"),
        (remove("g0002/metadata.parquet"), "g0002/metadata.parquet: an earlier generation has it, and it is missing"),
        (damage("g0003/metadata.parquet"), "g0003/metadata.parquet: was changed, or is damaged"),
        (damage("g0003/withdrawn-train.npy"), "g0003/withdrawn-train.npy: has 148 bytes"),
    ],
    ids=["no-manifest", "manifest", "table", "no-table", "newest-table", "withdrawn"],
)
def test_each_problem_is_a_line(grown: Path, tmp_path: Path, change: Callable[[Path], None], line: str) -> None:
    dataset = Path(shutil.copytree(grown, tmp_path / "out"))
    change(dataset)
    result = command("verify", dataset)
    assert result.returncode == 1
    assert f"{dataset}/{line}" in result.stdout + result.stderr


def test_files_that_no_generation_knows_are_named(grown: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(grown, tmp_path / "out"))
    (dataset / "notes.txt").write_text("mine")
    (dataset / "g0002/other.npy").write_text("mine")
    (dataset / "g0009").mkdir()
    result = command("verify", dataset)
    assert result.returncode == 0
    assert "3 files that the dataset does not know: 'g0002/other.npy', 'g0009', 'notes.txt'" in result.stdout
