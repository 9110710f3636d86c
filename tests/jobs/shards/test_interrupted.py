"""Every way to be cut off: what is said, what is kept, what is left, and how the same command goes on."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.command import command, prepared
from support.images import write_image
from support.servers import first_of
from support.torture import draws, times

from shard_reader import open_dataset

LINUX = Path("/proc/self/status").exists()
linux = pytest.mark.skipif(not LINUX, reason="looks for processes in /proc")


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
    """1,000 images of 400x300: some seconds of work."""
    return linked_images(tmp_path_factory.mktemp("many"), 1000, "jpg", (400, 300))


@pytest.fixture(scope="module")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6,000 images of 16x12: work that is mostly talk between processes."""
    return linked_images(tmp_path_factory.mktemp("tiny"), 6000, "png", (16, 12))


def started(source: Path, output: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """The command, running in a process group of its own."""
    words = [sys.executable, "-m", "beam_jobs", "prepare", str(source), str(output), *options]
    pipe, variables = subprocess.PIPE, {**os.environ, **environment}
    return subprocess.Popen(words, text=True, stdout=pipe, stderr=pipe, start_new_session=True, env=variables)


HOLD = """
import glob
import os
import time
import simplejpeg
real = simplejpeg.decode_jpeg
calls = 0
def decode_jpeg(*arguments, **options):
    global calls
    calls += 1
    pattern, enough, release, test = (os.environ["HOLD_" + name] for name in ("PATTERN", "ENOUGH", "RELEASE", "TEST"))
    while calls > 20 and len(glob.glob(pattern)) >= int(enough) and not os.path.exists(release):
        os.kill(int(test), 0)  # nobody releases it when that is gone
        time.sleep(0.01)
    return real(*arguments, **options)
simplejpeg.decode_jpeg = decode_jpeg
"""


def held(source: Path, folder: Path, finished: int, *options: str, **environment: str) -> subprocess.Popen[str]:
    """The command, with OUTPUT `out` in a folder, which stops at work on a shard when so many are finished.

    So it is at the same place however long this process, or that one, is held up. `release` lets it go on.
    """
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(HOLD)
    environment |= {
        "HOLD_PATTERN": str(folder / "out/_work/*/shards/*/written.json"),
        "HOLD_ENOUGH": str(finished),
        "HOLD_RELEASE": str(folder / "release"),
        "HOLD_TEST": str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")])),
    }
    return started(source, folder / "out", "--shards", "8", *options, **environment)


def release(folder: Path) -> None:
    """Let a command that is `held` go on."""
    (folder / "release").touch()


def catches(process: int, number: signal.Signals) -> bool:
    """Whether a process, also one that has ended, has a handler of its own for a signal."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), None)
    return "Z (zombie)" in status or (caught is not None and bool(int(caught, 16) >> (number - 1) & 1))


def finished_shards(output: Path) -> list[Path]:
    return sorted(output.glob("_work/*/shards/*/written.json"))


def wait_for(process: subprocess.Popen[str], there: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not there():
        assert process.poll() is None or there(), process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def at_work(source: Path, folder: Path, finished: int) -> Iterator[subprocess.Popen[str]]:
    (folder / "tmp").mkdir()
    process = held(source, folder, finished, "--workers", "2", TMPDIR=str(folder / "tmp"))
    try:
        wait_for(process, lambda: len(finished_shards(folder / "out")) >= finished)
        wait_for(process, lambda: list((folder / "out").glob("_work/*/attempts/*/*.tfrecord")))
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def starting(many_images: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A job of eight shards at its first two: none is finished."""
    with at_work(many_images, tmp_path, 0) as process:
        yield process


@pytest.fixture
def running(many_images: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The same job with two shards finished, or three, and at work on the next."""
    with at_work(many_images, tmp_path, 2) as process:
        yield process


@pytest.fixture(scope="module")
def undisturbed(many_images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of the dataset that the same job makes when nothing cuts it off."""
    return contents(prepared(many_images, tmp_path_factory.mktemp("undisturbed") / "out", "--shards", 8))


def contents(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


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
    deadline = time.monotonic() + 300
    while children(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# Ctrl-C


def interrupt(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send a signal as a terminal or a batch system does; what the command says at last."""
    if number == signal.SIGINT:  # a terminal sends it to every process of the group
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert nobody_is_left(process.pid)
    return str(errors.splitlines()[-1])


@pytest.mark.slow
@linux
@pytest.mark.parametrize("number", first_of(signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
def test_ctrl_c_before_any_shard_is_finished_leaves_output_as_it_was(
    starting: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    assert interrupt(starting, number) == "image-shards: error: interrupted; OUTPUT is as it was"
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
@linux
def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(
    running: subprocess.Popen[str], many_images: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    last = interrupt(running, signal.SIGINT)
    finished = finished_shards(output)
    assert last == (
        f"image-shards: error: interrupted; {len(finished)} of 8 shards finished and kept:"
        " the same command goes on from there"
    )
    assert sorted(path.name for path in output.iterdir()) == ["_image-shards.lock", "_work"]
    assert list(output.glob("_work/*/attempts")) == []
    shards = [path for one in finished for path in one.parent.glob("train-*.tfrecord")]
    inodes = {path.name: path.stat().st_ino for path in shards}
    again = command("prepare", many_images, output, "--shards", 8)
    assert again.returncode == 0, again.stderr
    assert f"{len(finished)} of 8 shards are finished: they are checked and kept" in again.stderr
    assert {name: (output / name).stat().st_ino for name in inodes} == inodes
    assert contents(output) == undisturbed


@pytest.mark.slow
@linux
def test_another_job_does_not_go_on_with_what_is_kept(
    running: subprocess.Popen[str], many_images: Path, tmp_path: Path
) -> None:
    interrupt(running, signal.SIGINT)
    before = contents(tmp_path / "out")
    other = command("prepare", many_images, tmp_path / "out", "--shards", 8, "--quality", 80)
    assert other.returncode == 2
    assert "was made differently: image.quality is None there, 80 here." in other.stderr
    assert contents(tmp_path / "out") == before
    dry = command("prepare", many_images, tmp_path / "out", "--shards", 8, "--dry-run")
    assert "finished shards of this job, which would be kept" in dry.stdout
    assert contents(tmp_path / "out") == before
    output = prepared(many_images, tmp_path / "out", "--shards", 4, "--quality", 80, "--overwrite")
    assert sorted(output.glob("*.tfrecord")) == [output / f"train-0000{n}-of-00004.tfrecord" for n in range(4)]
    assert not (output / "_work").exists()


@pytest.mark.slow
@linux
def test_ctrl_c_while_clearing_up_clears_up(tiny_images: Path, tmp_path: Path) -> None:
    job = started(
        tiny_images, tmp_path / "out", "--size", "8x8", "--shards", "500", "--log-json", tmp_path / "log.jsonl"
    )
    wait_for(job, (tmp_path / "out/dataset.json").exists)
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=300)
    assert job.returncode in (0, 130)
    assert not (tmp_path / "out/_work").exists()
    assert not (tmp_path / "out/_image-shards.lock").exists()
    assert len(open_dataset(tmp_path / "out")) == 6000
    if job.returncode == 0:  # the log is as whole as the dataset
        assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 500


# Death


@linux
def test_kill_9_leaves_no_process_and_the_next_run_goes_on(
    running: subprocess.Popen[str], many_images: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    running.kill()
    running.communicate()
    assert nobody_is_left(running.pid)
    assert not (tmp_path / "out/dataset.json").exists()
    assert contents(prepared(many_images, tmp_path / "out", "--shards", 8)) == undisturbed


@pytest.mark.slow
@linux
def test_kill_9_and_another_job_with_overwrite(
    running: subprocess.Popen[str], many_images: Path, tmp_path: Path
) -> None:
    running.kill()
    running.communicate()
    (tmp_path / "out/train-00001-of-00008.tfrecord").write_bytes(b"a shard that was just renamed")
    (tmp_path / "out/notes.txt").write_text("somebody's own")
    output = prepared(many_images, tmp_path / "out", "--shards", 4, "--overwrite")
    assert sorted(output.glob("*.tfrecord")) == [output / f"train-0000{n}-of-00004.tfrecord" for n in range(4)]
    assert (output / "notes.txt").read_text() == "somebody's own"
    data = open_dataset(output)
    assert len(set(data.ids(np.arange(len(data))).tolist())) == len(data) == 1000


@pytest.mark.slow
@linux
def test_a_killed_worker_is_an_error_in_seconds_that_names_its_images(
    running: subprocess.Popen[str], many_images: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    os.kill(worker_processes(running.pid)[0], signal.SIGKILL)
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 1
    (line,) = [line for line in errors.splitlines() if "a worker process died" in line]
    assert "died (SIGKILL, by the system for want of memory, or by hand)" in line
    named = line.partition("The images it was on: ")[2].partition(". Possible remedy")[0].split(", ")
    assert named == ["none"] or all((many_images / name).is_file() for name in named)
    assert errors.splitlines()[-1].endswith("of 8 shards finished and kept: the same command goes on from there")
    assert "Traceback" not in errors
    assert nobody_is_left(running.pid)
    assert contents(prepared(many_images, tmp_path / "out", "--shards", 8)) == undisturbed


CRASHES = """
import os
import simplejpeg
real = simplejpeg.decode_jpeg
def decode_jpeg(data, *arguments, **options):
    if bytes(data).endswith(b"a bug in a decoder"):
        os.abort()
    return real(data, *arguments, **options)
simplejpeg.decode_jpeg = decode_jpeg
"""


@pytest.mark.slow
@linux
def test_an_image_that_crashes_its_decoder_is_named_and_can_be_rejected(class_folders: Path, tmp_path: Path) -> None:
    """Two of them, and a decoder that is made to crash, as one with a bug does: the whole process is gone."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(CRASHES)
    copy = Path(shutil.copytree(class_folders, tmp_path / "in"))
    for name in ("000", "004"):
        with open(copy / f"{'ab'[name == '004']}/{name}.jpg", "ab") as file:
            file.write(b"a bug in a decoder")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    options = ["--shards", 4, "--size", "8x8", "--max-rejects", 2]
    result = command("prepare", copy, tmp_path / "out", *options, env=environment)
    assert result.returncode == 1
    assert "a worker process died (SIGABRT)" in result.stderr
    assert "a/000.jpg" in result.stderr or "b/004.jpg" in result.stderr
    assert "Possible remedy: leave the image out with --reject-crashers" in result.stderr
    again = command("prepare", copy, tmp_path / "out", *options, "--reject-crashers", env=environment)
    assert again.returncode == 0, again.stderr
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert sorted((reject["id"], reject["reason"], reject["message"]) for reject in rejects) == [
        (id, "crash", "ends the process that decodes it (SIGABRT)") for id in ("a/000.jpg", "b/004.jpg")
    ]
    assert len(open_dataset(tmp_path / "out")) == 58


# A disk that fills, files that go


@pytest.mark.slow
def test_a_file_that_cannot_grow_is_an_error_and_leaves_nothing(many_images: Path, tmp_path: Path) -> None:
    """What a full disk does, without one: no file may grow beyond a megabyte."""
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    for format in ("tfrecord", "hdf5"):
        result = command("prepare", many_images, tmp_path / "out", "--format", format, preexec_fn=limit)
        assert result.returncode == 1
        assert "File too large" in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of some megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a tmpfs here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_is_full_for_the_sample_is_named(many_images: Path, small_disk: Path) -> None:
    with open(small_disk / "full", "wb") as file:
        file.write(bytes((4 << 20) - (200 << 10)))
    result = command("prepare", many_images, small_disk / "out", "--size", 256, "--encoding", "raw")
    assert result.returncode == 1
    assert f"error: {small_disk}/out" in result.stderr
    assert "cannot be written (No space left on device)" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("format", first_of("tfrecord", "hdf5"))
def test_a_full_disk_keeps_what_is_finished(many_images: Path, small_disk: Path, format: str) -> None:
    options = ["--shards", 20, "--format", format]
    result = command("prepare", many_images, small_disk / "out", *options)
    assert result.returncode == 1
    assert "cannot be written (No space left on device)" in result.stderr
    assert "of 20 shards finished and kept: the same command goes on from there" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    assert len(open_dataset(prepared(many_images, small_disk / "out", *options))) == 1000


@linux
def test_an_input_that_is_removed_in_the_middle_is_rejected(tmp_path: Path) -> None:
    source = linked_images(tmp_path, 800, "jpg", (400, 300))
    job = held(source, tmp_path, 1, "--workers", "1")
    wait_for(job, lambda: finished_shards(tmp_path / "out"))
    plan = [json.loads(line)[0] for line in (tmp_path / "out/_work/plan/train.jsonl").read_text().splitlines()]
    (source / plan[-1]).unlink()  # of the last shard, or, for another order of work, of one that is done
    (source / plan[0]).unlink()
    release(tmp_path)
    _, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert 1 <= len(rejects) <= 2
    assert all(reject["id"] in (plan[0], plan[-1]) and reject["reason"] == "missing" for reject in rejects)
    data = open_dataset(tmp_path / "out")
    found = sorted(data.ids(np.arange(len(data))).tolist() + [reject["id"].encode() for reject in rejects])
    assert found == sorted(id.encode() for id in plan)


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


def test_nobody_has_to_listen(class_folders: Path, tmp_path: Path) -> None:
    """Standard error is closed, as by `2>&1 | head -1`: the dataset is made all the same."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "beam_jobs", "prepare", str(class_folders), str(tmp_path / "out"), "--size", "8x8"]
    assert subprocess.run(words, stderr=writer, stdout=subprocess.DEVNULL).returncode == 0
    os.close(writer)
    assert len(open_dataset(tmp_path / "out")) == 60


# Two jobs


@linux
def test_two_jobs_cannot_share_an_output(running: subprocess.Popen[str], class_folders: Path, tmp_path: Path) -> None:
    for option in ((), ("--overwrite",)):
        second = command("prepare", class_folders, tmp_path / "out", *option)
        assert second.returncode == 2
        assert "another job is writing there" in second.stderr
    release(tmp_path)
    running.communicate(timeout=300)
    assert running.returncode == 0
    assert len(open_dataset(tmp_path / "out")) == 1000


def test_a_finished_dataset_is_overwritten_when_asked_for(class_folders: Path, tmp_path: Path) -> None:
    output = prepared(class_folders, tmp_path / "out", "--size", "8x8", "--shards", 3, "--format", "hdf5")
    (output / "notes.txt").write_text("somebody's own")
    refused = command("prepare", class_folders, output, "--size", "9x9")
    assert refused.returncode == 2
    assert "Give another OUTPUT, or --overwrite" in refused.stderr
    prepared(class_folders, output, "--size", "9x9", "--overwrite")
    expected = {"dataset.json", "duplicates.jsonl", "rejects.jsonl", "dataset_info.json", "features.json"}
    expected |= {"label.labels.txt", "notes.txt", "suspects.jsonl", "thumbnails.jsonl", "metadata.parquet"}
    expected |= {"README.md", "croissant.json", "card-1.jpg", "card-2.jpg", "card-3.jpg", "pixels.jsonl"}
    shard = "train-00000-of-00001.tfrecord"
    assert set(contents(output)) == expected | {shard, f"{shard}.index.npy"}
    assert open_dataset(output)[0]["image"].shape == (9, 9, 3)


def test_overwrite_touches_nothing_that_is_not_ours(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    assert command("prepare", class_folders, tmp_path / "out", "--overwrite").returncode == 2
    (tmp_path / "out/dataset.json").write_text("{}")
    assert command("prepare", class_folders, tmp_path / "out", "--overwrite").returncode == 2
    assert contents(tmp_path / "out") == {"thesis.txt": b"mine", "dataset.json": b"{}"}


@pytest.mark.slow
def test_an_unguarded_script_makes_its_dataset_all_the_same(class_folders: Path, tmp_path: Path) -> None:
    """Each spawned process runs the script again; the lock refuses what it starts."""
    script = tmp_path / "script.py"
    call = f"main(['prepare', {str(class_folders)!r}, {str(tmp_path / 'out')!r}])"
    script.write_text(f"from beam_jobs.cli.main import main\n{call}\n")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert len(open_dataset(tmp_path / "out")) == 60


@pytest.mark.slow
@pytest.mark.torture
@linux
def test_killed_many_times_it_ends_with_the_same_bytes(
    many_images: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    rng = draws(2)
    (tmp_path / "tmp").mkdir()
    kills = 0
    while kills < times(20):
        job = started(many_images, tmp_path / "out", "--shards", "8", TMPDIR=str(tmp_path / "tmp"))
        time.sleep(rng.uniform(0.2, 3.0))
        job.kill()
        job.communicate()
        kills += 1
        assert nobody_is_left(job.pid)
        if (tmp_path / "out/dataset.json").exists():  # so far: begin again, to be killed more often
            assert len(open_dataset(tmp_path / "out")) == 1000
            shutil.rmtree(tmp_path / "out")
    assert contents(prepared(many_images, tmp_path / "out", "--shards", 8)) == undisturbed
    record_property("kills", kills)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
@pytest.mark.torture
@linux
def test_a_worker_killed_at_any_moment_never_hangs_the_job(
    tiny_images: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A lock that a killed process takes with it shows only now and then."""
    rng = draws(0)
    ended = 0
    for trial in range(times(20)):
        job = started(tiny_images, tmp_path / f"out{trial}", "--size", "8x8", "--shards", "12", "--workers", "4")
        workers = list[int]()
        while job.poll() is None and len(workers) < 4:
            workers = worker_processes(job.pid)
            time.sleep(0.005)
        time.sleep(rng.uniform(0.1, 1.0))
        with contextlib.suppress(ProcessLookupError):
            for worker in workers[trial % 4 : trial % 4 + 1]:
                os.kill(worker, signal.SIGKILL)
        _, errors = job.communicate(timeout=300)
        assert job.returncode == 0 or "a worker process died" in errors
        assert (tmp_path / f"out{trial}/dataset.json").exists() == (job.returncode == 0)
        assert nobody_is_left(job.pid)
        ended += job.returncode != 0
    assert ended >= times(5)  # the others had finished before
    record_property("killed workers", ended)


@pytest.mark.slow
@pytest.mark.torture
@linux
def test_ctrl_c_at_any_moment_leaves_a_whole_dataset_or_none(
    tiny_images: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rng = draws(1)
    for trial in range(times(25)):
        output = tmp_path / f"out{trial}"
        job = started(tiny_images, output, "--size", "8x8", "--shards", "12")
        while not catches(job.pid, signal.SIGTERM):  # Python itself is starting
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 5.0 if trial % 5 else 0.5))  # at times while the command is imported
        with contextlib.suppress(ProcessLookupError):
            for _ in range(1 + trial % 3):  # impatient
                os.killpg(job.pid, signal.SIGINT)
                time.sleep(0.01)
        _, errors = job.communicate(timeout=300)
        assert "Traceback" not in errors, (trial, errors)
        assert job.returncode in (0, 130)
        assert nobody_is_left(job.pid)
        assert output.exists() or job.returncode != 0
        if job.returncode == 0:
            assert len(open_dataset(output)) == 6000
            assert not (output / "_work").exists() and not (output / "_image-shards.lock").exists()
    record_property("interrupts", trial + 1)


LOST = """
import os, signal, sys, time
import beam_jobs.cli.main
from beam_jobs.__main__ import command

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100_000):
            pass

def main():
    Finalized()
    time.sleep(600)

beam_jobs.cli.main._run = lambda words: main()
command()
"""


def test_an_interrupt_that_python_drops_comes_again() -> None:
    """Python drops the error of a finalizer; the signals after the first are ignored."""
    result = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (130, "image-shards: error: interrupted\n")
