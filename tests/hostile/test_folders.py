"""Folders with what is no file, and OUTPUT with what is not the dataset's."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from support.images import write_image
from support.limits import limited_command

from shard_reader.format.manifest import with_checksum


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("1.png", "2.png"):
        write_image(tmp_path / "in" / name)
    return tmp_path / "in"


def odd_files(folder: Path, suffix: str) -> None:
    """A pipe, a device, and a socket."""
    os.mkfifo(folder / f"pipe{suffix}")
    os.symlink("/dev/zero", folder / f"zero{suffix}")
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(folder)  # a socket's path has a hundred characters
        server.bind(f"socket{suffix}")
        os.chdir(here)


def test_what_is_no_file_is_a_reject(folder: Path, tmp_path: Path) -> None:
    odd_files(folder, ".png")
    result = limited_command("prepare", folder, tmp_path / "out", "--max-rejects", 3)
    assert result.returncode == 0, result.stderr
    assert "rejected   3 (3 not-a-file)" in result.stdout


@pytest.mark.parametrize("suffix", [".tar", ".zip", ".npy", ".h5", ".tfrecord", ".csv", ".json", ".png"])
def test_what_is_no_file_as_input(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    odd_files(tmp_path / "in", suffix)
    kind = {".csv": "table", ".json": "coco", ".png": "folder"}.get(suffix)
    kind = kind or ("archive" if suffix in (".tar", ".zip") else "records")
    for path, *more in (("in/pipe",), ("in/pipe", "--source", kind), ("in/zero", "--source", kind)):
        result = limited_command("prepare", f"{tmp_path}/{path}{suffix}", tmp_path / "out", *more)
        assert result.returncode in (1, 2), result.stdout
        assert f"{path}{suffix}: " in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("suffix", [".tar", ".h5", ".csv"])
def test_a_pipe_among_files(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    odd_files(tmp_path / "in", suffix)
    result = limited_command("prepare", tmp_path / "in", tmp_path / "out")
    assert result.returncode in (1, 2)
    assert "error: " in result.stderr


@pytest.mark.parametrize("option", ["--classes", "--exclude"])
def test_an_option_s_file_that_is_a_pipe(option: str, folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = limited_command("prepare", folder, tmp_path / "out", option, tmp_path / "pipe")
    assert result.returncode == 2
    assert f"{option} {tmp_path}/pipe: is a FIFO" in result.stderr


def change_paths(output: Path, name: str) -> None:
    """Have the manifest of a dataset name another file as each of its shards."""
    path = output / "dataset.json"
    manifest = json.loads(path.read_text())
    columns = manifest["splits"]["train"]["shards"]["files"]["tfrecord"]
    columns["path"] = [name] * len(columns["path"])
    path.write_text(with_checksum(manifest))


def test_overwrite_removes_only_files_of_the_dataset(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert limited_command("prepare", folder, output, "--shards", 2).returncode == 0
    (output / "thesis.txt").write_text("mine")
    (output / "train-00001-of-00002.tfrecord").write_bytes(b"somebody else's")
    (output / "train-00000-of-00009.tfrecord").write_bytes(b"somebody else's")
    change_paths(output, "thesis.txt")
    result = limited_command("prepare", folder, output, "--shards", 1, "--overwrite")
    assert result.returncode == 0, result.stderr
    assert f"warning: OUTPUT {output}: thesis.txt: not of the name or the size" in result.stderr
    assert (output / "thesis.txt").read_text() == "mine"
    assert (output / "train-00000-of-00009.tfrecord").read_bytes() == b"somebody else's"


def test_overwrite_leaves_a_file_of_another_size(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert limited_command("prepare", folder, output, "--shards", 2).returncode == 0
    (output / "train-00001-of-00002.tfrecord").write_bytes(b"somebody else's")
    result = limited_command("prepare", folder, output, "--shards", 1, "--overwrite")
    assert result.returncode == 0, result.stderr
    assert "train-00001-of-00002.tfrecord: not of the name or the size that a file of the dataset has" in result.stderr
    assert sorted(path.name for path in output.glob("*.tfrecord*")) == [
        "train-00000-of-00001.tfrecord",
        "train-00000-of-00001.tfrecord.index.npy",
        "train-00001-of-00002.tfrecord",
    ]


@pytest.mark.parametrize("owned", ['["thesis.txt"]', '{"thesis.txt": 4}', "[[]]", "[" * 10_000, '{"a": {}}'])
def test_work_that_somebody_made_up_removes_nothing_else(owned: str, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "_work/plan").mkdir(parents=True)
    (output / "_image-shards.lock").touch()
    (output / "thesis.txt").write_text("mine")
    (output / "_work/owned.json").write_text(owned)
    (output / "_work/job.json").write_text("[" * 10_000)
    (output / "_work/plan/shards.jsonl").write_text('["../../thesis", 0, 1, 1, "x", 0, 1]\n[]\n')
    result = limited_command("prepare", folder, output, "--overwrite")
    assert result.returncode == 0, result.stderr
    assert (output / "thesis.txt").read_text() == "mine"
