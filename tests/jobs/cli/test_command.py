"""`image-shards prepare` as its user runs it: results, repeats, wrong use, and every way to be cut off."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command import command, new_process, prepared
from support.images import write_image
from support.store_jobs import ABOUT_PLACES

from shard_reader import open_dataset
from shard_reader.format import Manifest, index_name
from shard_reader.format.checksum import sha256_file

LINUX = Path("/proc/self/status").exists()


def manifest(output: Path) -> Manifest:
    return Manifest.from_json((output / "dataset.json").read_text("utf-8"))


def checksums(output: Path) -> dict[str, str]:
    """The SHA-256 of every shard file."""
    shards = [shard for split in manifest(output).splits.values() for shard in split.shards]
    return {file.path: file.sha256 for shard in shards for file in shard.files.values()}


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


BOTH = ["--format", "tfrecord", "--format", "hdf5"]
SPLIT = ("--split", "train=0.8,val=0.2", "--stratify")


# What comes out


@pytest.mark.slow
def test_what_is_in_the_output(raw_shards: Path) -> None:
    shards = [f"train-0000{n}-of-00003" for n in range(3)] + ["val-00000-of-00001"]
    parts = {
        f"{shard}{suffix}{index}" for shard in shards for suffix in (".tfrecord", ".h5") for index in ("", ".index.npy")
    }
    others = {
        "dataset.json",
        "duplicates.jsonl",
        "rejects.jsonl",
        "suspects.jsonl",
        "dataset_info.json",
        "features.json",
        "label.labels.txt",
        "thumbnails.jsonl",
        "metadata.parquet",
        "pixels.jsonl",
        "README.md",
        "croissant.json",
        *(f"card-{number}.jpg" for number in (1, 2, 3)),
    }
    assert files(raw_shards) == parts | others
    for name in parts:
        if not name.endswith(".npy"):
            assert checksums(raw_shards)[name]


def test_the_summary_says_what_was_made_and_what_comes_next(class_folders: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(class_folders, tmp_path / "in"))
    (bad / "a/broken.jpg").write_bytes(b"not a JPEG")
    (bad / "a/notes.txt").write_text("...")
    result = command("prepare", bad, tmp_path / "out", "--max-rejects", 1, "--size", "16x16")
    assert result.returncode == 0, result.stderr
    assert "in: 3 class folders, 61 images, 1 file ignored" in result.stderr
    assert "61/61 images" in result.stderr
    assert "train      60 images, 1 shard of tfrecord" in result.stdout
    assert "image      16x16 (crop, lanczos), uint8, jpeg quality 90" in result.stdout
    assert "classes    3: a, b, c" in result.stdout
    assert "rejected   1 (1 not-an-image), listed in" in result.stdout
    assert "a/broken.jpg: not-an-image: no image format that Pillow knows" in result.stdout
    _, _, following = result.stdout.partition("next:\n")
    shown = subprocess.run(following.strip(), shell=True, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "'label': " in shown.stdout
    (line,) = (tmp_path / "out/rejects.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line) == {
        "id": "a/broken.jpg",
        "uri": str(bad / "a/broken.jpg"),
        "stage": "read",
        "reason": "not-an-image",
        "message": "no image format that Pillow knows",
    }
    counts = manifest(tmp_path / "out").counts
    assert (counts.planned, counts.written, counts.rejected, counts.ignored) == (61, 60, 1, 1)


def test_one_and_two_workers_give_the_same_bytes_and_another_seed_another_order(
    class_folders: Path, raw_shards: Path, tmp_path: Path
) -> None:
    options = ["--size", "16x12", "--encoding", "raw", *BOTH, *SPLIT, "--shards", 3]
    one = prepared(class_folders, tmp_path / "one", *options, "--workers", 1)
    two = tmp_path / "two"
    assert new_process("prepare", class_folders, two, *options, "--workers", 2).returncode == 0  # with other hashes
    assert checksums(one) == checksums(two) == checksums(raw_shards)
    for name in files(raw_shards) - ABOUT_PLACES:
        assert (one / name).read_bytes() == (raw_shards / name).read_bytes()
    other = prepared(class_folders, tmp_path / "other", *options, "--seed", 1)
    orders = [open_dataset(path).ids(np.arange(48)).tolist() for path in (one, other)]
    assert orders[0] != orders[1]
    assert not set(checksums(other).values()) & set(checksums(one).values())


def test_a_shard_whose_images_are_all_rejected(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "in/a").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"in/a/{number}.jpg").write_bytes(b"bad")
    write_image(tmp_path / "in/a/good.png")
    output = prepared(tmp_path / "in", tmp_path / "out", *BOTH, "--shard-records", 1, "--max-rejects", 1.0)
    sizes = [shard.records for shard in manifest(output).splits["train"].shards]
    assert sorted(sizes) == [0, 0, 0, 1]
    for format in ("tfrecord", "hdf5"):
        data = open_dataset(output, format=format)
        assert [data[n]["id"] for n in range(len(data))] == ["a/good.png"]


def test_images_that_are_all_rejected(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.jpg").write_bytes(b"bad")
    result = command("prepare", tmp_path / "in", tmp_path / "out", *BOTH, "--max-rejects", "1.0")
    assert result.returncode == 1
    assert "none of 1 images can be used, and a dataset has a record. The first:\n" in result.stderr
    assert not (tmp_path / "out/dataset.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_normalized_by_the_dataset(class_folders: Path, tmp_path: Path, dtype: str) -> None:
    options = ["--size", "16x12", "--normalize", "dataset", "--dtype", dtype, *BOTH, "--shards", 2]
    data = open_dataset(prepared(class_folders, tmp_path / "out", *options))
    pixels = np.stack([data[n]["image"] for n in range(len(data))]).astype(np.float64)
    assert np.allclose(pixels.mean((0, 1, 2)), 0, atol=1e-3)
    assert np.allclose(pixels.std((0, 1, 2)), 1, atol=1e-3)


@pytest.mark.slow
def test_the_statistics_are_those_of_train_alone(tmp_path: Path) -> None:
    """What a model is evaluated on must not shape what it is trained on."""
    for split, value in (("train", 0), ("train", 100), ("val", 255)):
        path = tmp_path / f"in/{split}/a/{value}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (value, value, value)).save(path)
    output = prepared(tmp_path / "in", tmp_path / "out", "--size", "8x8", "--normalize", "dataset")
    statistics = manifest(output).statistics
    assert statistics is not None
    assert np.allclose([statistics.mean[0], statistics.std[0]], [50 / 255, 50 / 255])
    train, val = open_dataset(output, "train"), open_dataset(output, "val")
    assert sorted(round(float(train[n]["image"].mean()), 3) for n in range(2)) == [-1, 1]
    assert np.allclose(val[0]["image"], 205 / 50)


def test_the_checksums_of_the_manifest_are_those_of_the_files(raw_shards: Path) -> None:
    for split in manifest(raw_shards).splits.values():
        for file in (file for shard in split.shards for file in shard.files.values()):
            assert sha256_file(raw_shards / file.path) == file.sha256
            assert sha256_file(raw_shards / index_name(file.path)) == file.index_sha256
            assert (raw_shards / file.path).stat().st_size == file.bytes


@pytest.mark.slow
def test_statistics_need_an_image(tmp_path: Path) -> None:
    write_image(tmp_path / "in/val/a/1.png")
    (tmp_path / "in/train/a").mkdir(parents=True)
    (tmp_path / "in/train/a/1.png").write_bytes(b"bad")
    result = command("prepare", tmp_path / "in", tmp_path / "out", "--normalize", "dataset", "--max-rejects", "1.0")
    assert result.returncode == 1
    assert "--normalize dataset: of the split that is measured, no image can be used" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("1 of 2 shards measured and kept")
    plain = command("prepare", tmp_path / "in", tmp_path / "out", "--max-rejects", "1.0")
    _, _, following = plain.stdout.partition("next:\n")
    assert subprocess.run(following.strip(), shell=True, capture_output=True).returncode == 0


def test_split_folders_become_splits(tmp_path: Path) -> None:
    for number in range(9):
        write_image(tmp_path / f"in/{'train' if number % 3 else 'val'}/{'ab'[number % 2]}/{number}.png", number)
    output = prepared(tmp_path / "in", tmp_path / "out", "--size", "8x8")
    for split, size in (("train", 6), ("val", 3)):
        data = open_dataset(output, split)
        found = [data[n]["id"] for n in range(len(data))]
        assert len(found) == size
        assert all(id.startswith(f"{split}/") for id in found)


@pytest.mark.slow
def test_relative_paths_and_where_a_reject_is(tmp_path: Path) -> None:
    write_image(tmp_path / "in/a/1.png")
    (tmp_path / "in/a/2.png").write_bytes(b"bad")
    (tmp_path / "in/stray.png").write_bytes(b"")
    result = command("prepare", "in", "../" + tmp_path.name + "/out", "--max-rejects", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text("utf-8").splitlines()]
    assert [reject["uri"] for reject in rejects] == [str(tmp_path / "in/stray.png"), str(tmp_path / "in/a/2.png")]


@pytest.mark.slow
def test_an_output_that_is_empty_is_used_and_a_parent_is_made(tmp_path: Path) -> None:
    write_image(tmp_path / "in/1.png")
    (tmp_path / "out").mkdir()
    assert len(open_dataset(prepared(tmp_path / "in", tmp_path / "out"))) == 1
    assert len(open_dataset(prepared(tmp_path / "in", tmp_path / "deep/er/out"))) == 1


def test_a_finished_dataset_is_left_alone(class_folders: Path, raw_shards: Path) -> None:
    options = ["--size", "16x12", "--encoding", "raw", *BOTH, *SPLIT, "--shards", 3]
    before = {name: (raw_shards / name).stat().st_mtime_ns for name in files(raw_shards)}
    again = command("prepare", class_folders, raw_shards, *options, "--workers", 1)
    assert (again.returncode, again.stdout) == (
        0,
        f"{raw_shards}: is finished, nothing to do (60 images, 0 rejected)\n",
    )
    other = command("prepare", class_folders, raw_shards, *options, "--seed", 9, "--fit", "pad")
    assert other.returncode == 2
    assert "was made differently: image.fit is 'crop' there, 'pad' here; seed is 0 there, 9 here" in other.stderr
    assert {name: (raw_shards / name).stat().st_mtime_ns for name in files(raw_shards)} == before


# Wrong use


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("IN/missing OUT", "INPUT {}/missing: does not exist"),
        ("IN/a/000.jpg OUT", "INPUT {}/a/000.jpg: is a file"),
        ("EMPTY OUT", "holds no images"),
        ("IN OTHER", "OUTPUT {}: is not empty, and holds no dataset of image-shards"),
        ("IN OTHER/file", "OUTPUT {}/file: is a file"),
        ("IN IN/out", "lies inside INPUT"),
        ("IN OUT --sise 3", "unknown option --sise"),
        ("IN OUT --max_num_worker 3", "unknown option --max_num_worker"),
        ("IN OUT --quality 101", "must be 1 to 100, got 101"),
        ("IN OUT --size 0", "must be 1 to 65500 pixels, got '0'"),
        ("IN OUT --split train=0.8,val=0.1", "sum to 0.9, not to 1"),
        ("IN OUT --shards 100", "--shards 100: the largest split has only 60 images"),
        ("IN OUT --split train=0.001,val=0.999", "--split: train=0.001 of 60 images gives no image"),
        ("IN OUT --runner Dataflw", "--runner Dataflw: Apache Beam knows"),
        ("IN OUT --runner FlinkRunner --reject-crashers", "--reject-crashers: is for this machine's processes"),
        ("IN OUT --runner FlinkRunner --streaming", "--streaming: this command waits for the job that it starts"),
        ("IN OUT --runner DataflowRunner", "INPUT {}: is local, and the workers of DataflowRunner are elsewhere"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(class_folders: Path, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    places = {"IN": class_folders, "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty", "OTHER": tmp_path / "other"}
    words = []
    for word in line.split():
        head, _, tail = word.partition("/")
        words.append(places[head] / tail if head in places else word)
    result = command("prepare", *words)
    assert result.returncode == 2
    (error,) = [row for row in result.stderr.splitlines() if row.startswith("image-shards: error: ")]
    assert message.format(places["OTHER"] if "OTHER" in line else class_folders) in error
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "other/file").read_text() == "mine"


def test_too_many_rejects_fail_and_name_the_first(class_folders: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(class_folders, tmp_path / "in"))
    for number in range(3):
        (bad / f"a/{number}.jpg").write_bytes(b"bad")
    result = command("prepare", bad, tmp_path / "out", "--max-rejects", 2)
    assert result.returncode == 1
    assert "of 63 images, at least 3 cannot be used; --max-rejects allows 2. The first:" in result.stderr
    assert f"{bad}/a/" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
    command("prepare", bad, tmp_path / "deep/er/out", "--max-rejects", 2)
    assert not (tmp_path / "deep").exists()


@pytest.mark.slow
def test_a_fraction_of_rejects(class_folders: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(class_folders, tmp_path / "in"))
    (bad / "a/bad.jpg").write_bytes(b"bad")
    assert command("prepare", bad, tmp_path / "out", "--max-rejects", "0.01").returncode == 1  # 0.61 of 61
    assert command("prepare", bad, tmp_path / "out", "--max-rejects", "0.02").returncode == 0


@pytest.mark.slow
def test_a_runner_that_cannot_be_reached_is_an_error_without_a_traceback(class_folders: Path, tmp_path: Path) -> None:
    options = ["--runner", "PortableRunner", "--job_endpoint", "localhost:1", "--job_server_timeout", 1]
    result = command("prepare", class_folders, tmp_path / "out", *options)
    assert result.returncode == 1
    assert "image-shards: error: PortableRunner failed: " in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_terminal_that_knows_no_more_than_ascii(tmp_path: Path) -> None:
    write_image(tmp_path / "in/猫/1.png")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = command("prepare", tmp_path / "in", tmp_path / "out", "--size", "8x8", env=environment)
    assert result.returncode == 0, result.stderr
    assert "classes    1: \\u732b" in result.stdout
    assert open_dataset(tmp_path / "out").class_names == ("猫",)


# Real images


def test_photos_in_both_formats(photos: Path, tmp_path: Path) -> None:
    options = ["--size", 256, "--encoding", "jpeg", *BOTH, "--split", "train=0.9,val=0.1"]
    output = prepared(photos, tmp_path / "out", *options)
    everything: list[bytes] = []
    grey = 0
    for split, size in (("train", 269), ("val", 31)):
        one, other = (open_dataset(output, split, format=format) for format in ("tfrecord", "hdf5"))
        numbers = np.arange(len(one))
        assert len(one) == size
        assert one.ids(numbers).tolist() == other.ids(numbers).tolist()
        everything += one.ids(numbers).tolist()
        for number in range(0, size, 7):
            image = one[number]["image"]
            assert image.shape[2] == 3
            assert min(image.shape[:2]) == 256
            assert np.array_equal(image, other[number]["image"])
            assert one.class_names is not None
            assert one.class_names[one[number]["label"]] == one[number]["id"].split("/")[0]
        for number in numbers.tolist():
            with Image.open(photos / one.ids(numbers)[number].decode()) as image:
                if image.mode == "L":
                    pixels = one[number]["image"].astype(int)
                    assert np.abs(pixels - pixels.mean(-1, keepdims=True)).max() <= 2
                    grey += 1
    assert grey == 6
    expected = sorted(str(path.relative_to(photos)).encode() for path in photos.rglob("*.jpg"))
    assert sorted(everything) == expected
    assert len(expected) == 300


def test_odd_files_are_records_or_named(odd: Path, tmp_path: Path) -> None:
    result = command("prepare", odd, tmp_path / "out", "--size", "64x64", "--fit", "pad", "--max-rejects", "1.0")
    assert result.returncode == 0, result.stderr
    found, done = result.stderr.splitlines()  # and nothing else: what decoders print, and warnings, are no news
    assert "a flat folder without classes, 40 images" in found
    assert done.startswith("40/40 images")
    data = open_dataset(tmp_path / "out")
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text("utf-8").splitlines()]
    named = sorted([reject["id"] for reject in rejects] + [data[n]["id"] for n in range(len(data))])
    assert named == sorted(path.name for path in odd.iterdir())
    assert {reject["reason"] for reject in rejects} == {"damaged", "not-an-image", "too-large", "unsupported-mode"}
    assert "label" not in data[0]
    assert not (tmp_path / "out/label.labels.txt").exists()


# How it looks


@pytest.mark.slow
def test_a_terminal_shows_a_bar(class_folders: Path, tmp_path: Path) -> None:
    terminal, end = os.openpty()
    words = [sys.executable, "-m", "beam_jobs", "prepare", str(class_folders), str(tmp_path / "out"), "--size", "8x8"]
    job = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=end)
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
        while part := os.read(terminal, 65536):
            shown += part
    job.communicate()
    os.close(terminal)
    last = shown.decode().replace("\n", "\r").replace("\x1b[K", "").split("\r")
    bars = [line for line in last if "/60 [" in line]
    assert bars[0].startswith("  0%|")
    assert re.search(r"100%\|.*\| 60/60 \[\d\d:\d\d<\d\d:\d\d, .* images/s, 0 rejected\]", bars[-1])


def test_elsewhere_a_line_tells_how_far_it_is(class_folders: Path, tmp_path: Path) -> None:
    result = command("prepare", class_folders, tmp_path / "out", "--size", "8x8")
    assert re.search(r"^60/60 images, [\d.]+ images/s, 0 rejected, 0:00 left$", result.stderr, re.MULTILINE)
    assert "\r" not in result.stderr
