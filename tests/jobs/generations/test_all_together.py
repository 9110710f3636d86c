"""All commands that change a dataset, one after the other: nothing of it is left that no command knows."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from support.command import command, prepared

from shard_reader import open_dataset


@pytest.fixture(scope="module")
def weeks(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The images of two weeks: 40 and 20."""
    root = tmp_path_factory.mktemp("weeks")
    for number, path in enumerate(sorted(class_folders.rglob("*.*"), key=lambda path: path.name)):
        target = root / ("first" if number < 40 else "second") / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return root / "first", root / "second"


@pytest.mark.slow
def test_a_history_is_compacted_to_files_of_the_newest_generation_alone(
    weeks: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = weeks
    options = ["--size", "16x12", "--format", "tfrecord", "--format", "hdf5", "--split", "train=0.8,val=0.2"]
    shards = prepared(first, tmp_path / "shards", *options)
    prepared(second, shards, "--append")
    ids = [id.decode() for split in ("train", "val") for id in open_dataset(shards, split).ids()]
    with open(tmp_path / "table.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "label", "quality", "caption"])
        rows.writerows([id, "new" if number == 0 else id[0], number / 10, f"{id}!"] for number, id in enumerate(ids))
    (tmp_path / "gone.txt").write_text("\n".join(ids[3:6]))
    words = [
        ("relabel", shards, tmp_path / "table.csv"),
        ("withdraw", shards, tmp_path / "gone.txt"),
        ("inspect", shards),
        ("verify", shards, "--decode"),
        ("compact", shards, "--in-place", "--grace", "0"),
        ("inspect", shards),
        ("verify", shards, "--decode"),
        ("verify", shards, "--withdrawn", tmp_path / "gone.txt"),
    ]
    for line in words:
        result = command(*line)
        assert result.returncode == 0, result.stdout + result.stderr
    assert "does not know" not in result.stdout
    assert {path.name for path in shards.iterdir()} == {"g0005", "dataset.json", "README.md", "croissant.json"}
    data = open_dataset(shards)
    assert data.class_names == ("a", "b", "c", "new")
    assert [one.made for one in data.generations()] == ["prepare", "append", "relabel", "withdraw", "compact"]
    for record in data:
        number = ids.index(record["id"])
        assert record["caption"] == f"{record['id']}!"
        assert record["quality"] == pytest.approx(number / 10)
        assert data.class_names[record["label"]] == ("new" if number == 0 else record["id"][0])
