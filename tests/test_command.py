"""`image-shards prepare` as its user runs it: results, repeats, wrong use, and every way to be cut off."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import command, prepared, write_image
from PIL import Image

from shard_reader import open_dataset
from shard_reader.checksum import sha256_file
from shard_reader.format import Manifest, index_name

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


# What comes out


def test_what_is_in_the_output(raw_shards: Path) -> None:
    shards = [f"train-0000{n}-of-00003" for n in range(3)] + ["val-00000-of-00001"]
    parts = {
        f"{shard}{suffix}{index}" for shard in shards for suffix in (".tfrecord", ".h5") for index in ("", ".index.npy")
    }
    others = {"dataset.json", "rejects.jsonl", "dataset_info.json", "features.json", "label.labels.txt"}
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
    options = ["--size", "16x12", "--encoding", "raw", *BOTH, "--split", "train=0.8,val=0.2", "--shards", 3]
    one = prepared(class_folders, tmp_path / "one", *options, "--workers", 1)
    two = prepared(class_folders, tmp_path / "two", *options, "--workers", 2)
    assert checksums(one) == checksums(two) == checksums(raw_shards)
    for name in files(raw_shards) - {"dataset.json", "dataset_info.json"}:  # those name workers and OUTPUT
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
    output = prepared(tmp_path / "in", tmp_path / "out", *BOTH, "--max-rejects", 1.0)
    assert len(open_dataset(output)) == 0
    assert manifest(output).statistics is None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_normalized_by_the_dataset(class_folders: Path, tmp_path: Path, dtype: str) -> None:
    options = ["--size", "16x12", "--normalize", "dataset", "--dtype", dtype, *BOTH, "--shards", 2]
    data = open_dataset(prepared(class_folders, tmp_path / "out", *options))
    pixels = np.stack([data[n]["image"] for n in range(len(data))]).astype(np.float64)
    assert np.allclose(pixels.mean((0, 1, 2)), 0, atol=1e-3)
    assert np.allclose(pixels.std((0, 1, 2)), 1, atol=1e-3)


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


def test_statistics_need_an_image(tmp_path: Path) -> None:
    write_image(tmp_path / "in/val/a/1.png")
    (tmp_path / "in/train/a").mkdir(parents=True)
    (tmp_path / "in/train/a/1.png").write_bytes(b"bad")
    result = command("prepare", tmp_path / "in", tmp_path / "out", "--normalize", "dataset", "--max-rejects", "1.0")
    assert result.returncode == 1
    assert "--normalize dataset: of the split that is measured, no image can be used" in result.stderr
    assert not (tmp_path / "out").exists()
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


def test_relative_paths_and_where_a_reject_is(tmp_path: Path) -> None:
    write_image(tmp_path / "in/a/1.png")
    (tmp_path / "in/a/2.png").write_bytes(b"bad")
    (tmp_path / "in/stray.png").write_bytes(b"")
    result = command("prepare", "in", "../" + tmp_path.name + "/out", "--max-rejects", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text("utf-8").splitlines()]
    assert [reject["uri"] for reject in rejects] == [str(tmp_path / "in/stray.png"), str(tmp_path / "in/a/2.png")]


def test_an_output_that_is_empty_is_used_and_a_parent_is_made(tmp_path: Path) -> None:
    write_image(tmp_path / "in/1.png")
    (tmp_path / "out").mkdir()
    assert len(open_dataset(prepared(tmp_path / "in", tmp_path / "out"))) == 1
    assert len(open_dataset(prepared(tmp_path / "in", tmp_path / "deep/er/out"))) == 1


def test_a_finished_dataset_is_left_alone(class_folders: Path, raw_shards: Path) -> None:
    options = ["--size", "16x12", "--encoding", "raw", *BOTH, "--split", "train=0.8,val=0.2", "--shards", 3]
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
        ("IN OTHER", "OUTPUT {}: is not empty, and what is in it is no dataset of ours"),
        ("IN OTHER/file", "OUTPUT {}/file: is a file"),
        ("IN IN/out", "lies inside INPUT"),
        ("IN OUT --sise 3", "unknown option --sise"),
        ("IN OUT --max_num_worker 3", "unknown option --max_num_worker"),
        ("IN OUT --quality 101", "must be 1 to 100, got 101"),
        ("IN OUT --size 0", "must be 1 to 65500 pixels, got '0'"),
        ("IN OUT --split train=0.8,val=0.1", "sum to 0.9, not to 1"),
        ("IN OUT --shards 100", "--shards 100: the largest split has only 60 images"),
        ("IN OUT --split train=0.001,val=0.999", "--split: train=0.001 of 60 images is none"),
        ("IN OUT --runner Dataflw", "--runner Dataflw: Apache Beam knows"),
        ("IN OUT --runner DataflowRunner", "is local, and Dataflow's workers cannot write there"),
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


def test_a_fraction_of_rejects(class_folders: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(class_folders, tmp_path / "in"))
    (bad / "a/bad.jpg").write_bytes(b"bad")
    assert command("prepare", bad, tmp_path / "out", "--max-rejects", "0.01").returncode == 1  # 0.61 of 61
    assert command("prepare", bad, tmp_path / "out", "--max-rejects", "0.02").returncode == 0


def test_a_runner_that_cannot_be_reached_is_an_error_without_a_traceback(class_folders: Path, tmp_path: Path) -> None:
    options = ["--runner", "PortableRunner", "--job_endpoint", "localhost:1", "--job_server_timeout", 1]
    result = command("prepare", class_folders, tmp_path / "out", *options)
    assert result.returncode == 1
    assert "image-shards: error: PortableRunner failed: " in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


# Being cut off


def linked_images(root: Path, count: int, suffix: str, size: tuple[int, int]) -> Path:
    """A folder with `count` links to 20 images, in three class folders."""
    for number in range(20):
        write_image(root / f"source/{number}.{suffix}", number, size)
    for number in range(count):
        target = root / f"in/{number % 3}/{number:04d}.{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(root / f"source/{number % 20}.{suffix}", target)
    return root / "in"


@pytest.fixture(scope="module")
def many_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 images of 400x300: some seconds of work."""
    return linked_images(tmp_path_factory.mktemp("many"), 2000, "jpg", (400, 300))


@pytest.fixture(scope="module")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6,000 images of 16x12: work that is mostly talk between processes."""
    return linked_images(tmp_path_factory.mktemp("tiny"), 6000, "png", (16, 12))


def started(source: Path, output: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """The command, running in a process group of its own."""
    words = [sys.executable, "-m", "beam_jobs", "prepare", str(source), str(output), *options]
    pipe, variables = subprocess.PIPE, {**os.environ, **environment}
    return subprocess.Popen(words, text=True, stdout=pipe, stderr=pipe, start_new_session=True, env=variables)


@pytest.fixture
def running(many_images: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A job in the middle of its work."""
    (tmp_path / "tmp").mkdir()
    process = started(many_images, tmp_path / "out", "--shards", "8", TMPDIR=str(tmp_path / "tmp"))
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("_work/attempts/*/*.tfrecord")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def children(group: int) -> list[int]:
    """The processes of a session, but for its leader and for those that have ended."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == group and int(status.parent.name) != group and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def worker_processes(group: int) -> list[int]:
    found = []
    for pid in children(group):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def nobody_is_left(group: int) -> bool:
    deadline = time.monotonic() + 10
    while children(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.skipif(not LINUX, reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_ends_it_with_one_line_and_leaves_nothing(
    running: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    if number == signal.SIGINT:  # a terminal sends it to every process of the group
        os.killpg(running.pid, number)
    else:
        running.send_signal(number)
    _, errors = running.communicate(timeout=10)
    assert running.returncode == 130
    assert errors.splitlines()[-1].startswith("image-shards: error: interrupted; nothing unfinished is left")
    assert "Traceback" not in errors
    assert nobody_is_left(running.pid)
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.skipif(not LINUX, reason="looks for processes in /proc")
def test_kill_9_leaves_no_process_and_the_next_run_is_whole(
    running: subprocess.Popen[str], many_images: Path, tmp_path: Path
) -> None:
    running.kill()
    running.communicate()
    assert nobody_is_left(running.pid)
    assert not (tmp_path / "out/dataset.json").exists()
    (tmp_path / "out/train-00001-of-00008.tfrecord").write_bytes(b"a shard that was just renamed")
    output = prepared(many_images, tmp_path / "out", "--shards", 4)
    assert sorted(output.glob("*.tfrecord")) == [output / f"train-0000{n}-of-00004.tfrecord" for n in range(4)]
    assert not (output / "_work").exists()
    data = open_dataset(output)
    assert len(set(data.ids(np.arange(len(data))).tolist())) == len(data) == 2000


@pytest.mark.skipif(not LINUX, reason="looks for processes in /proc")
def test_a_killed_worker_is_an_error_in_seconds(running: subprocess.Popen[str], tmp_path: Path) -> None:
    os.kill(worker_processes(running.pid)[0], signal.SIGKILL)
    _, errors = running.communicate(timeout=20)
    assert running.returncode == 1
    assert "a worker process died" in errors
    assert "Traceback" not in errors
    assert nobody_is_left(running.pid)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not LINUX, reason="counts on Linux's limits")
def test_too_few_files_is_one_line_and_leaves_nothing_that_the_next_run_minds(
    class_folders: Path, tmp_path: Path
) -> None:
    for files in range(12, 24, 2):
        limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (files, files))
        result = command("prepare", class_folders, tmp_path / "a/out", "--workers", 3, preexec_fn=limit)
        assert "Traceback" not in result.stderr
        assert result.returncode in (0, 1)
    again = command("prepare", class_folders, tmp_path / "a/out")
    assert again.returncode == 0, again.stderr


@pytest.mark.skipif(not LINUX, reason="looks for processes in /proc")
def test_ctrl_c_while_clearing_up_clears_up(tiny_images: Path, tmp_path: Path) -> None:
    job = started(tiny_images, tmp_path / "out", "--size", "8x8", "--shards", "500")
    while not (tmp_path / "out/dataset.json").exists():
        assert job.poll() is None
        time.sleep(0.001)
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=20)
    assert job.returncode in (0, 130)
    assert not (tmp_path / "out/_work").exists()
    assert not (tmp_path / "out/_image-shards.lock").exists()
    assert len(open_dataset(tmp_path / "out")) == 6000


def test_nobody_has_to_listen(class_folders: Path, tmp_path: Path) -> None:
    """Standard error is closed, as by `2>&1 | head -1`: the dataset is made all the same."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "beam_jobs", "prepare", str(class_folders), str(tmp_path / "out"), "--size", "8x8"]
    assert subprocess.run(words, stderr=writer, stdout=subprocess.DEVNULL).returncode == 0
    os.close(writer)
    assert len(open_dataset(tmp_path / "out")) == 60


def test_two_jobs_cannot_share_an_output(running: subprocess.Popen[str], class_folders: Path, tmp_path: Path) -> None:
    second = command("prepare", class_folders, tmp_path / "out")
    assert second.returncode == 2
    assert "another job is writing there" in second.stderr
    assert running.wait(60) == 0
    assert len(open_dataset(tmp_path / "out")) == 2000


def test_a_file_that_cannot_grow_is_an_error_and_leaves_nothing(many_images: Path, tmp_path: Path) -> None:
    """What a full disk does, without one: no file may grow beyond a megabyte."""

    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    for format in ("tfrecord", "hdf5"):
        result = command("prepare", many_images, tmp_path / "out", "--format", format, preexec_fn=limit)
        assert result.returncode == 1
        assert "File too large" in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "out").exists()


def test_an_unguarded_script_makes_its_dataset_all_the_same(class_folders: Path, tmp_path: Path) -> None:
    """Each spawned process runs the script again; the lock refuses what it starts."""
    script = tmp_path / "script.py"
    call = f"main(['prepare', {str(class_folders)!r}, {str(tmp_path / 'out')!r}])"
    script.write_text(f"from beam_jobs.__main__ import main\n{call}\n")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert len(open_dataset(tmp_path / "out")) == 60


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="looks for processes in /proc")
def test_a_worker_killed_at_any_moment_never_hangs_the_job(tiny_images: Path, tmp_path: Path) -> None:
    """A lock that a killed process takes with it shows only now and then."""
    rng = np.random.default_rng(0)
    ended = 0
    for trial in range(20):
        job = started(tiny_images, tmp_path / f"out{trial}", "--size", "8x8", "--shards", "12", "--workers", "4")
        while job.poll() is None and len(workers := worker_processes(job.pid)) < 4:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.1, 1.0))
        with contextlib.suppress(ProcessLookupError):
            os.kill(workers[trial % len(workers)], signal.SIGKILL)
        _, errors = job.communicate(timeout=30)
        assert job.returncode == 0 or "a worker process died" in errors
        assert (tmp_path / f"out{trial}").exists() == (job.returncode == 0)
        assert nobody_is_left(job.pid)
        ended += job.returncode != 0
    assert ended >= 5  # the others had finished before


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="looks for processes in /proc")
def test_ctrl_c_at_any_moment_leaves_a_whole_dataset_or_none(tiny_images: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for trial in range(25):
        output = tmp_path / f"out{trial}"
        job = started(tiny_images, output, "--size", "8x8", "--shards", "12")
        time.sleep(rng.uniform(0.3, 5.0))
        with contextlib.suppress(ProcessLookupError):
            for _ in range(1 + trial % 3):  # impatient
                os.killpg(job.pid, signal.SIGINT)
                time.sleep(0.01)
        _, errors = job.communicate(timeout=20)
        assert "Traceback" not in errors, (trial, errors)
        assert job.returncode in (0, 130, -signal.SIGINT)  # the last before Python has begun
        assert nobody_is_left(job.pid)
        assert output.exists() or job.returncode != 0
        if output.exists():
            assert len(open_dataset(output)) == 6000
            assert not (output / "_work").exists() and not (output / "_image-shards.lock").exists()


# Real images


def test_photos_in_both_formats(photos: Path, tmp_path: Path) -> None:
    options = ["--size", 256, "--encoding", "jpeg", *BOTH, "--split", "train=0.9,val=0.1"]
    output = prepared(photos, tmp_path / "out", *options)
    everything: list[bytes] = []
    grey = 0
    for split, size in (("train", 270), ("val", 30)):
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
    assert "a flat folder without classes, 40 images" in result.stderr
    data = open_dataset(tmp_path / "out")
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text("utf-8").splitlines()]
    named = sorted([reject["id"] for reject in rejects] + [data[n]["id"] for n in range(len(data))])
    assert named == sorted(path.name for path in odd.iterdir())
    assert {reject["reason"] for reject in rejects} == {"damaged", "not-an-image", "too-large"}
    assert "label" not in data[0]
    assert not (tmp_path / "out/label.labels.txt").exists()


# How it looks


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
    last = shown.decode().replace("\n", "\r").split("\r")
    bars = [line for line in last if "/60 [" in line]
    assert bars[0].startswith("  0%|")
    assert re.search(r"100%\|.*\| 60/60 \[\d\d:\d\d<\d\d:\d\d, .* images/s, 0 rejected\]", bars[-1])


def test_elsewhere_a_line_tells_how_far_it_is(class_folders: Path, tmp_path: Path) -> None:
    result = command("prepare", class_folders, tmp_path / "out", "--size", "8x8")
    assert re.search(r"^60/60 images, \d+ images/s, 0 rejected, 0:00 left$", result.stderr, re.MULTILINE)
    assert "\r" not in result.stderr
