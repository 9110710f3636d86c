"""Directories on a disk and in an object store: the same interface, the same dataset, the same way to go on."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from support.command import prepared

from beam_jobs.cli.prepare import parse
from beam_jobs.errors import JobError, UsageError
from beam_jobs.shards import lock
from beam_jobs.shards.lock import locked
from beam_jobs.steps import prepare
from shard_reader.format import Manifest
from shard_reader.format.manifest import LOCK_NAME
from shard_reader.storage import object_store, retry
from shard_reader.storage.directory import Directory, Stored
from shard_reader.storage.local import LocalDirectory
from shard_reader.storage.open import directory
from shard_reader.storage.retry import retried


class FlakyFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """An object store of its own, with errors to order: the next calls of a method raise them."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012  # as in the class above
    pseudo_dirs = [""]  # noqa: RUF012
    errors: dict[str, list[Exception | None]] = {}  # noqa: RUF012

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self._fail("cat_file")
        return super().cat_file(path, start, end, **options)  # type: ignore[no-any-return]

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self._fail("put_file")
        super().put_file(lpath, rpath, **options)

    def _fail(self, name: str) -> None:
        if self.errors.get(name) and (error := self.errors[name].pop(0)) is not None:
            raise error


fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
KINDS = ["disk", "memory"]


@pytest.fixture
def bucket() -> str:
    """A prefix that nobody else uses, in an object store."""
    FlakyFileSystem.errors.clear()
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, bucket: str, tmp_path: Path) -> str:
    if request.param == "disk":
        (tmp_path / "place").mkdir()
        return str(tmp_path / "place")
    return f"{bucket}/place"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(retry, "REMOTE_SECONDS", 0.05)
    monkeypatch.setattr(retry, "LOCAL_SECONDS", 0.05)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)


def filled(place: str, names: dict[str, bytes]) -> Directory:
    files = directory(place)
    for name, data in names.items():
        if files.local is not None:
            (files.local / name).parent.mkdir(parents=True, exist_ok=True)
        files.write(name, [data[:1], data[1:]])
    return files


def copied(source: Path, url: str) -> str:
    """A local folder's files under a URL."""
    for path in source.rglob("*"):
        if path.is_file():
            directory(url).write(str(path.relative_to(source)), [path.read_bytes()])
    return url


def contents(place: str) -> dict[str, bytes]:
    files = directory(place)
    return {file.name: files.read(file.name) for file in files.walk()}


def test_what_is_written_is_read(place: str) -> None:
    data = bytes(range(256)) * 5
    files = filled(place, {"a/b/c.bin": data, "empty": b"", "lines": b"1\n22\n\n3"})
    assert files.exists()
    assert (files.read("a/b/c.bin"), files.read("empty")) == (data, b"")
    assert files.read("a/b/c.bin", 3, 700) == data[3:700]
    assert files.read("a/b/c.bin", 1000) == data[1000:]
    assert files.sha256("a/b/c.bin") == hashlib.sha256(data).hexdigest()
    assert list(files.lines("lines")) == [b"1\n", b"22\n", b"\n", b"3"]
    assert sorted(files.names()) == ["a", "empty", "lines"]
    assert files.names("a/b") == ["c.bin"]
    assert files.names("nowhere") == []
    assert sorted(files.walk()) == [Stored("a/b/c.bin", 1280), Stored("empty", 0), Stored("lines", 7)]
    assert files.uri("a/b/c.bin") == f"{place}/a/b/c.bin"


def test_what_is_put_and_deleted(place: str, tmp_path: Path) -> None:
    files = filled(place, {"kept": b"1", "folder/x": b"2", "folder/deep/y": b"3"})
    (tmp_path / "local").write_bytes(b"4")
    files.put(tmp_path / "local", "put")
    assert files.read("put") == b"4"
    files.delete_folder("folder")
    files.delete_folder("folder")
    files.delete("put")
    files.delete("put")
    assert [file.name for file in files.walk()] == ["kept"]
    with pytest.raises(FileNotFoundError):
        files.read("put")


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_gone_keeps_no_other_from_being_deleted(kind: str, bucket: str, tmp_path: Path) -> None:
    """As when a store fails half way through, and the same is asked of it again."""
    files = filled(bucket if kind == "memory" else str(tmp_path), {name: b"1" for name in "abc"})
    files.delete_all(["gone", "a", "gone too", "b", "and gone"])
    assert [file.name for file in files.walk()] == ["c"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_look_like_patterns(kind: str, bucket: str, tmp_path: Path) -> None:
    place = f"{bucket if kind == 'memory' else tmp_path}/[a]*/50% off"
    if kind == "disk":
        Path(place).mkdir(parents=True)
    files = filled(place, {"x [1]*?.jpg": b"1", "gone/x": b"2", "gone/y/z": b"3", "gone2/x": b"4"})
    assert files.read("x [1]*?.jpg") == b"1"
    files.delete_folder("gone")
    assert sorted(file.name for file in files.walk()) == ["gone2/x", "x [1]*?.jpg"]
    files.delete("x [1]*?.jpg")
    assert [file.name for file in files.walk()] == ["gone2/x"]


def test_a_place_that_is_not_there(bucket: str, tmp_path: Path) -> None:
    for files in (directory(f"{bucket}/nowhere"), LocalDirectory(tmp_path / "nowhere")):
        assert not files.exists()
        assert files.names() == []
    for name in ("with space", "run#2", "a?b", "100%"):
        quoted = name.replace("%", "%25").replace(" ", "%20")
        assert directory(f"file://{tmp_path}/{quoted}").local == tmp_path / name
        assert directory(f"file://localhost{tmp_path}/{quoted}").local == tmp_path / name
    for url in ("file://data/shards", "file://shards"):
        with pytest.raises(ValueError, match="three slashes"):
            directory(url)


def test_pieces_fit_together(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_PIECE", 3)
    files = filled(bucket, {"x": b"ab\ncdefg\n\nh\n"})
    assert list(files.lines("x")) == [b"ab\n", b"cdefg\n", b"\n", b"h\n"]
    assert files.sha256("x") == hashlib.sha256(b"ab\ncdefg\n\nh\n").hexdigest()


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OSError(5, "I/O"), True),
        (RuntimeError("what a store's library raises"), True),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (OSError(28, "full"), False),
        (ValueError(), False),
        (MemoryError(), False),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again(error: Exception, passes: bool) -> None:
    made: list[None] = []

    def call() -> None:
        made.append(None)
        raise error

    with pytest.raises(type(error)):
        retried(call)
    assert (len(made) > 2) == passes


# The whole job

pytestmark = pytest.mark.filterwarnings("ignore")  # of packages that Beam does not find
OPTIONS = "--size 16x12 --encoding raw --format tfrecord --format hdf5 --split train=0.8,val=0.2 --stratify --shards 3"


def run(source: object, output: object, *options: str) -> str:
    return prepare(parse(["prepare", str(source), str(output), *OPTIONS.split(), *options]))


def same_shards(output: str, expected: Path) -> bool:
    found = contents(output)
    other = {"dataset.json", "dataset_info.json"}  # they name INPUT, workers and OUTPUT
    splits = Manifest.from_json(found["dataset.json"].decode()).splits
    return (
        splits == Manifest.from_json((expected / "dataset.json").read_text()).splits
        and {name for name in found} == {path.name for path in expected.iterdir()}
        and all(data == (expected / name).read_bytes() for name, data in found.items() if name not in other)
    )


def test_from_a_bucket_to_a_bucket(class_folders: Path, raw_shards: Path, bucket: str) -> None:
    source = copied(class_folders, f"{bucket}/in")
    text = run(source, f"{bucket}/out")
    assert f"{bucket}/out: 60 images" in text
    assert same_shards(f"{bucket}/out", raw_shards)
    assert "is finished, nothing to do" in run(source, f"{bucket}/out")
    with pytest.raises(UsageError, match="seed is 0 there, 3 here"):
        run(source, f"{bucket}/out", "--seed", "3")
    directory(f"{bucket}/out").write("notes.txt", [b"somebody's own"])
    run(source, f"{bucket}/out", "--shards", "1", "--overwrite")
    assert sum(name.endswith(".h5") for name in contents(f"{bucket}/out")) == 2
    assert "notes.txt" in contents(f"{bucket}/out")


def test_between_a_disk_and_a_bucket(class_folders: Path, raw_shards: Path, bucket: str, tmp_path: Path) -> None:
    run(class_folders, f"{bucket}/out")
    assert same_shards(f"{bucket}/out", raw_shards)
    run(copied(class_folders, f"{bucket}/in"), tmp_path / "out")
    assert same_shards(str(tmp_path / "out"), raw_shards)
    run(f"file://{class_folders}", f"file://{tmp_path}/other")
    assert same_shards(str(tmp_path / "other"), raw_shards)


def test_rejects_in_a_bucket(bucket: str) -> None:
    files = filled(f"{bucket}/in", {"a/1.jpg": b"bad", "a/2.jpg": b"", "3.jpg": b"stray"})
    text = run(files.uri(""), f"{bucket}/out", "--max-rejects", "1.0", "--shards", "1", "--split", "train=1")
    assert "rejected   3 (1 empty, 1 no-class, 1 not-an-image)" in text
    assert f"{bucket}/in/3.jpg" in contents(f"{bucket}/out")["rejects.jsonl"].decode()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("zzz://in {}/out", "INPUT zzz://in: Protocol not known: zzz"),
        ("{}/in zzz://out", "OUTPUT zzz://out: Protocol not known: zzz"),
        ("{}/nowhere {}/out", "INPUT {}/nowhere: does not exist"),
        ("{}/in {}/in/out", "lies inside INPUT"),
        ("file://in {}/out", "INPUT file://in: a file URL has three slashes"),
        ("s3:/bucket/in {}/out", "INPUT s3:/bucket/in: a URL has two slashes"),
        ("{}/in s3:/bucket/out", "OUTPUT s3:/bucket/out: a URL has two slashes"),
        ("gs:// {}/out", "INPUT gs://: is not a place; give a bucket or a folder, as gs://bucket/photos"),
        ("{}/in {}/other", "is not empty, and what is in it is no dataset of ours"),
    ],
)
def test_wrong_urls(bucket: str, words: str, message: str) -> None:
    filled(f"{bucket}/in", {"1.jpg": b"1"})
    filled(f"{bucket}/other", {"thesis.txt": b"mine"})
    before = contents(bucket)
    with pytest.raises(UsageError) as caught:
        run(*words.replace("{}", bucket).split())
    assert message.replace("{}", bucket) in str(caught.value)
    assert contents(bucket) == before


def flaky(source: Path, name: str, errors: list[Exception | None]) -> tuple[str, str]:
    """A bucket in which calls of a method will fail; INPUT and OUTPUT in it."""
    root = f"flaky://{uuid.uuid4().hex}"
    copied(source, f"{root}/in")
    FlakyFileSystem.errors = {name: errors}
    return f"{root}/in", f"{root}/out"


def test_output_inside_input_is_seen_through_a_file_url(tmp_path: Path) -> None:
    for source, output in ((f"file://{tmp_path}", tmp_path / "out"), (tmp_path, f"file://{tmp_path}/out")):
        with pytest.raises(UsageError, match="lies inside INPUT"):
            run(source, output)


def test_a_password_is_not_shown() -> None:
    options = parse(["prepare", "ftp://me:secret@host/in", "out"])
    assert options.to_json()["input"] == "ftp://host/in"


@pytest.mark.parametrize("name", ["cat_file", "put_file"])
def test_a_store_with_hiccups(
    class_folders: Path, raw_shards: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_jobs.steps._IN_PROCESS", ("memory:", "flaky:"))
    kinds = [TimeoutError(), ConnectionResetError(), RuntimeError("503")]
    hiccups: list[Exception | None] = [one for kind in kinds * 4 for one in (None, None, None, kind)]
    source, output = flaky(class_folders, name, hiccups)
    run(source, output)
    assert same_shards(output, raw_shards)
    assert len(hiccups) < 40


def test_a_store_that_goes_away_fails_the_job_which_then_goes_on(
    class_folders: Path, raw_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_jobs.steps._IN_PROCESS", ("memory:", "flaky:"))
    away: list[Exception | None] = [*[None] * 15, *[TimeoutError("the store is away")] * 500]
    source, output = flaky(class_folders, "put_file", away)
    with pytest.raises(JobError, match=r"the store is away"):
        run(source, output)
    assert "dataset.json" not in contents(output)
    finished = [name for name in contents(output) if name.endswith("written.json")]
    assert 1 <= len(finished) < 4
    FlakyFileSystem.errors.clear()
    puts: list[str] = []
    real = FlakyFileSystem.put_file
    monkeypatch.setattr(
        FlakyFileSystem, "put_file", lambda self, here, there, **o: (puts.append(there), real(self, here, there, **o))
    )
    run(source, output)
    assert same_shards(output, raw_shards)
    assert sum(name.endswith(".h5") for name in puts) == 4 - len(finished)


# One job at a time


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_is_held_by_one(kind: str, place: str) -> None:
    files = filled(place, {"x": b""})
    with locked(place, files):
        time.sleep(0.15)
        with pytest.raises(UsageError, match="another job is writing there"), locked(place, files):
            pass
    with locked(place, files) as remove:
        assert LOCK_NAME in files.names()
        remove()
    assert LOCK_NAME not in files.names()


def test_a_lock_that_was_left_behind_is_taken(bucket: str) -> None:
    files = filled(bucket, {LOCK_NAME: b"a job that was killed 7"})
    with locked(bucket, files):
        assert b"killed" not in files.read(LOCK_NAME)


def test_of_two_that_take_a_lock_at_once_one_has_it(bucket: str) -> None:
    files = filled(bucket, {LOCK_NAME: b"a job that was killed 7"})
    held, refused = [], []
    barrier = threading.Barrier(2)

    def take() -> None:
        barrier.wait()
        try:
            with locked(bucket, files):
                held.append(1)
                time.sleep(0.5)
        except UsageError:
            refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 1)


def test_the_command_takes_urls(class_folders: Path, tmp_path: Path, raw_shards: Path) -> None:
    output = prepared(class_folders, f"file://{tmp_path}/out", *OPTIONS.split())
    assert str(output).startswith("file:")
    assert same_shards(str(tmp_path / "out"), raw_shards)
