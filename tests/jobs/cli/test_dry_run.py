"""`--dry-run`: the plan in words, true to what the job then does, and nothing is touched."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support.command import command

from shard_reader.format import Manifest

OPTIONS = ["--size", "16x12", "--split", "train=0.8,val=0.2", "--stratify", "--shards", "3"]


def files(directory: Path) -> dict[str, int | None]:
    """Everything below a directory, files with the time of their last change."""
    found = sorted(directory.rglob("*"))
    return {str(path.relative_to(directory)): path.stat().st_mtime_ns if path.is_file() else None for path in found}


def dry_run(source: object, output: Path, *options: object) -> str:
    """What is printed; nothing may change, not even in the folder for temporary files."""
    temporary = output.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    before = files(output.parent)
    words = ["prepare", source, output, *options, "--dry-run"]
    result = command(*words, env={**os.environ, "TMPDIR": str(temporary)})
    assert result.returncode == 0, result.stderr
    assert files(output.parent) == before
    return result.stdout


@pytest.mark.slow
def test_the_plan_is_what_is_then_done(class_folders: Path, tmp_path: Path) -> None:
    text = dry_run(class_folders, tmp_path / "out", *OPTIONS, "--format", "tfrecord", "--format", "hdf5")
    assert "out: is empty, or not there. The plan, of which nothing is written:" in text
    assert "  train      48 images, 3 shards of 16 images, about " in text
    assert "  val        12 images, 1 shard of 12 images, about " in text
    assert "  classes    3: a 20, b 20, c 20" in text
    assert "  rejected   0 by the listing" in text
    assert re.search(r"  estimated  reads .*B, writes .*B of tfrecord and hdf5 \(from 48 images\)", text)
    assert re.search(r"             [\d.]+ CPU seconds, \d+:\d\d with \d+ workers? here", text)
    assert command("prepare", class_folders, tmp_path / "out", *OPTIONS).returncode == 0
    splits = Manifest.from_json((tmp_path / "out/dataset.json").read_text()).splits
    assert [[shard.records for shard in split.shards] for split in splits.values()] == [[16, 16, 16], [12]]


@pytest.mark.slow
def test_sizes_are_estimated_from_real_images(photos: Path, tmp_path: Path) -> None:
    text = dry_run(photos, tmp_path / "out", "--shard-bytes", "2MB")
    count, size = re.findall(r"train      300 images, (\d+) shards of .*, about ([\d.]+) MB", text)[0]
    result = command("prepare", photos, tmp_path / "out", "--shard-bytes", "2MB")
    assert result.returncode == 0, result.stderr
    made, written = re.findall(r"train      300 images, (\d+) shards of tfrecord, ([\d.]+) MB", result.stdout)[0]
    assert made == count
    assert float(size) == pytest.approx(float(written), rel=0.2)


@pytest.mark.slow
def test_a_pass_before_the_writing_is_shown(class_folders: Path, tmp_path: Path) -> None:
    text = dry_run(class_folders, tmp_path / "out", *OPTIONS, "--normalize", "dataset")
    assert "  pre-pass   MeasureShards: reads 48 images of train once more, " in text


@pytest.mark.slow
def test_no_engine_is_needed(class_folders: Path, tmp_path: Path) -> None:
    text = dry_run(class_folders, tmp_path / "out", *OPTIONS, "--runner", "FlinkRunner")
    assert re.search(r"[\d.]+ CPU seconds$", text, re.MULTILINE), "the number of its workers is not known"
    several = dry_run(class_folders, tmp_path / "out", *OPTIONS, "--runner", "FlinkRunner", "--parallelism", 2)
    assert re.search(r"CPU seconds, 0:00 with 2 workers of 1 CPU, without the start of the engine", several)
    cluster = command(
        "prepare",
        class_folders,
        tmp_path / "out",
        "--dry-run",
        "--runner",
        "FlinkRunner",
        "--flink_master",
        "host:8081",
    )
    assert cluster.returncode == 2
    assert "is local, and the workers of FlinkRunner are elsewhere" in cluster.stderr
    shared = [f"file://{class_folders}", f"file://{tmp_path / 'out'}", "--dry-run"]
    assert command("prepare", *shared, "--runner", "FlinkRunner", "--flink_master", "host:8081").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "state"),
    [
        (OPTIONS, "holds this dataset, finished"),
        ([*OPTIONS, "--seed", 5], "holds another dataset: --overwrite would replace it"),
    ],
)
def test_what_is_in_output_is_said(class_folders: Path, tmp_path: Path, options: list[object], state: str) -> None:
    assert command("prepare", class_folders, tmp_path / "out", *OPTIONS).returncode == 0
    assert state in dry_run(class_folders, tmp_path / "out", *options)


@pytest.mark.slow
def test_output_that_is_somebody_else_s(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    assert "is not empty: nothing could be written there" in dry_run(class_folders, tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    assert "is a file: nothing could be written there" in dry_run(class_folders, tmp_path / "file")


def test_too_many_rejects_are_found_in_the_listing(class_folders: Path, tmp_path: Path) -> None:
    os.symlink(class_folders, tmp_path / "in")
    (tmp_path / "in2").mkdir()
    for name in ("a", "b"):
        os.symlink(class_folders / name, tmp_path / "in2" / name)
        os.symlink(tmp_path / "nowhere", tmp_path / f"in2/{name}.jpg")
    result = command("prepare", tmp_path / "in2", tmp_path / "out", "--dry-run", "--max-rejects", 1)
    assert result.returncode == 1
    assert "of 42 images, at least 2 cannot be used; --max-rejects allows 1" in result.stderr
