"""Publishing: as often as it takes, on workers that are elsewhere, and OUTPUT that is claimed and cleared."""

from __future__ import annotations

import errno
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.clock import ThreadClock
from support.command import command

from beam_jobs.cli.prepare import parse
from beam_jobs.errors import JobError, UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.options import MaxRejects
from beam_jobs.plan import order as plan
from beam_jobs.plan import tasks
from beam_jobs.plan.schema.catalog import Catalog
from beam_jobs.shards.job import Job, Watcher
from beam_jobs.shards.output import PLAN, Output, claimed
from beam_jobs.shards.publish import Publication, publish
from beam_jobs.shards.records.record import image_fields
from beam_jobs.shards.write import hash_shard, hashes_of, measure_shard, write_shard
from beam_jobs.shards.written_shard import WrittenShard
from beam_jobs.sources import Layout
from beam_jobs.sources.folder import Folder
from shard_reader import open_dataset
from shard_reader.format import Fingerprint, Manifest
from shard_reader.storage import local as storage
from shard_reader.storage import retry
from shard_reader.storage.local import LocalDirectory
from shard_reader.storage.open import directory

OPTIONS = "--size 16x12 --encoding raw --format tfrecord --format hdf5 --split train=0.8,val=0.2 --stratify --shards 3"


FINGERPRINT = {"inputs": "a", "options": "b", "codecs": {}}


class Made:
    """A job by hand, with the options of `raw_shards`, up to the step before it is run."""

    def __init__(self, source: str | Path, output: str | Path, scratch: Path, **changes: Any) -> None:
        options = parse(["prepare", str(source), str(output), *OPTIONS.split()])
        folder, catalog = Folder(options.source), Catalog()
        self.output = Output(str(output), directory(str(output)))
        self.work = self.output.begin({"fingerprint": FINGERPRINT, "options": {}})
        (scratch / "plan").mkdir()
        spill = Spill(scratch)
        plan.scan(folder, options.seed, catalog, spill, lambda: None)
        schema = catalog.close(folder.layout())
        planned = plan.plan_inputs(spill, folder, schema, options.split, options.seed, scratch / "plan")
        tasks.plan_shards(planned.ordered, {"train": 3, "val": 1}, scratch / "plan", PLAN)
        for path in (scratch / "plan").iterdir():
            self.output.files.put(path, PLAN + path.name)
        self.tasks = list(tasks.read_tasks(self.output.files, PLAN + tasks.TASKS_NAME))
        self.job = Job(
            source=options.source,
            output=str(output),
            work=self.work,
            image=options.image,
            formats=options.formats,
            fields=image_fields(options.image, schema.fields),
            boxes={},
            points={},
            count_classes=True,
            class_names=schema.class_names,
            statistics_split="train",
            threads=2,
        )
        publication: dict[str, Any] = {
            "output": str(output),
            "work": self.work,
            "fields": dict(self.job.fields),
            "formats": options.formats,
            "splits": ("train", "val"),
            "class_names": schema.class_names,
            "count_classes": True,
            "seed": 0,
            "options": {},
            "fingerprint": Fingerprint(inputs="", options="", codecs={}),
            "layout": Layout(text=""),
            "planned": planned.planned,
            "shards": 4,
            "listing_rejected": planned.rejected,
            "listing_dropped": 0,
            "max_rejects": MaxRejects(count=0),
            "statistics_split": "train",
        }
        self.publication = Publication(**publication | changes)

    def write(self) -> list[WrittenShard]:
        return [write_shard(task, self.job, None, Watcher()) for task in self.tasks]

    def publish(self) -> None:
        self.write()
        publish(self.publication)

    def folder(self, written: WrittenShard) -> Path:
        assert self.output.files.local is not None
        return self.output.files.local / self.work.shards / written.task.name


@pytest.fixture
def made(class_folders: Path, tmp_path: Path) -> Made:
    return Made(class_folders, tmp_path / "out", scratch(tmp_path))


def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def splits(output: Path) -> Any:
    return Manifest.from_json((output / "dataset.json").read_text("utf-8")).splits


def test_publishing_again_changes_nothing(made: Made, raw_shards: Path, tmp_path: Path) -> None:
    made.publish()
    before = (tmp_path / "out/dataset.json").read_bytes()
    publish(made.publication)
    assert (tmp_path / "out/dataset.json").read_bytes() == before
    assert splits(tmp_path / "out") == splits(raw_shards)


@pytest.mark.parametrize("name", ["metadata.parquet", "card-2.jpg", "README.md", "croissant.json", "dataset.json"])
def test_a_publication_that_ends_before_a_paper_goes_on(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    written, write = made.write(), LocalDirectory.write

    def fail(self: LocalDirectory, path: str, chunks: Any) -> None:
        if path == name:
            raise KeyboardInterrupt
        write(self, path, chunks)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(LocalDirectory, "write", fail)
        publish(made.publication)
    assert not (tmp_path / "out/dataset.json").exists()
    kept = made.write()  # of which none is made again
    assert kept == written
    publish(made.publication)
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert {"README.md", "croissant.json", "metadata.parquet", "dataset.json"} <= set(after)
    publish(made.publication)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == after


def test_publishing_goes_on_where_it_was_cut_off(made: Made, raw_shards: Path, tmp_path: Path) -> None:
    written = made.write()
    for path in sorted(made.folder(written[1]).glob("*.tfrecord*")):
        path.rename(tmp_path / "out" / path.name)
    assert made.write() == written  # all of them are found, wherever their files are
    publish(made.publication)
    assert splits(tmp_path / "out") == splits(raw_shards)


def test_a_second_attempt_at_a_shard_does_no_harm(
    made: Made, raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was taken for dead finishes beside the one that took over."""
    from beam_jobs.shards import write

    with monkeypatch.context() as patch:  # both begin before either is finished
        real, calls = write._finished, list[None]()
        patch.setattr(write, "_finished", lambda *a: calls.append(None) or (real(*a) if len(calls) > 8 else None))
        first, second = made.write(), made.write()
    assert first == second
    publish(made.publication)
    assert splits(tmp_path / "out") == splits(raw_shards)


def test_a_shard_that_is_gone_is_an_error_and_no_dataset(made: Made, tmp_path: Path) -> None:
    written = made.write()
    shutil.rmtree(made.folder(written[2]))
    with pytest.raises(JobError, match="is gone"):
        publish(made.publication)
    made.write()
    with pytest.raises(JobError, match="of 5 shards, 4 were written"):
        publish(replace(made.publication, shards=5))
    assert not (tmp_path / "out/dataset.json").exists()


def test_too_many_rejects_are_found_before_anything_gets_its_name(class_folders: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(class_folders, tmp_path / "in"))
    (bad / "a/bad.jpg").write_bytes(b"bad")
    made = Made(bad, tmp_path / "out", scratch(tmp_path))
    with pytest.raises(JobError, match="of 61 images, at least 1 cannot be used"):
        made.publish()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_work"]


@pytest.mark.filterwarnings("ignore")  # of packages that Beam does not find
def test_workers_that_are_elsewhere_write_the_same_bytes(made: Made, raw_shards: Path, tmp_path: Path) -> None:
    """As on a remote runner, where no pool of the launcher's can be found: every shard in its DoFn."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_jobs.runners.pipeline import build

    with beam.Pipeline(options=PipelineOptions([], runner="FnApiRunner")) as pipeline:
        build(pipeline, made.job, made.publication, run="")
    assert splits(tmp_path / "out") == splits(raw_shards)


# What is finished is kept


def inodes(made: Made, written: list[WrittenShard]) -> list[int]:
    """What tells a file that was kept from one that was written again."""
    return [path.stat().st_ino for one in written for path in sorted(made.folder(one).iterdir())]


def test_a_finished_shard_is_kept(made: Made) -> None:
    written = made.write()
    before = inodes(made, written)
    assert made.write() == written
    assert inodes(made, written) == before


def test_a_measured_shard_is_not_measured_again(class_folders: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(class_folders, tmp_path / "in"))
    made = Made(source, tmp_path / "out", scratch(tmp_path))
    measured = [measure_shard(task, made.job, None, Watcher()) for task in made.tasks]
    assert all(sums.pixels == 16 * 12 * task.records for sums, task in zip(measured, made.tasks, strict=True))
    assert made.output.measured() == 4
    shutil.rmtree(source)
    assert [measure_shard(task, made.job, None, Watcher()) for task in made.tasks] == measured


@pytest.mark.parametrize("suffix", [".tfrecord", ".h5", ".tfrecord.index.npy", ".h5.index.npy"])
def test_a_finished_shard_that_is_damaged_is_made_again(made: Made, suffix: str) -> None:
    written = made.write()
    before = {one.task.name: inodes(made, [one]) for one in written}
    (path,) = made.folder(written[1]).glob(f"*{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert made.write() == written
    assert path.read_bytes() == data
    kept = [one.task.name for one in written if inodes(made, [one]) == before[one.task.name]]
    assert kept == [one.task.name for one in written if one != written[1]]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"shard": 1}'], ids=str)
def test_what_is_said_of_a_finished_shard_may_be_nonsense(made: Made, content: bytes) -> None:
    written = made.write()
    (made.folder(written[0]) / "written.json").write_bytes(content)
    assert made.write() == written


def test_a_finished_shard_of_an_earlier_version_is_written_again(made: Made, raw_shards: Path, tmp_path: Path) -> None:
    written = made.write()
    path = made.folder(written[0]) / "written.json"
    body = json.loads(path.read_text())
    assert body["listed"].pop("classes")
    # As before class counts were read from the files: they were a value of the shard.
    path.write_text(json.dumps(body | {"classes": {"0": 99}, "hosts": 0, "thumbnails": 0}))
    before = inodes(made, written)
    assert made.write() == written
    assert sum(a != b for a, b in zip(before, inodes(made, written), strict=True)) == -(-len(before) // 4)
    publish(made.publication)
    assert splits(tmp_path / "out") == splits(raw_shards)


def test_shards_of_several_runs_are_counted_as_those_of_one(made: Made, raw_shards: Path, tmp_path: Path) -> None:
    """A job that was killed after two shards, and went on."""
    for number, task in enumerate(made.tasks):
        write_shard(task, replace(made.job, run_id=f"run {number // 2}"), None, Watcher())
    made.publish()
    assert splits(tmp_path / "out") == splits(raw_shards)
    for split, found in splits(tmp_path / "out").items():
        data = open_dataset(tmp_path / "out", split)
        assert found.classes == Counter(data.manifest.class_names[data[number]["label"]] for number in range(len(data)))


def test_hashes_of_an_earlier_run_are_found_without_a_listing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one for each task, the time would grow with the square of their number."""
    monkeypatch.setattr(LocalDirectory, "names", lambda self, name="": pytest.fail("lists"))
    first = [hash_shard(task, made.job, None, Watcher()) for task in made.tasks]
    hashes = [hashes_of(task, made.job, made.output.files).tolist() for task in made.tasks]
    monkeypatch.setattr("beam_jobs.shards.write.hash_reference", lambda *_: pytest.fail("hashes again"))
    assert [hash_shard(task, made.job, None, Watcher()) for task in made.tasks] == first
    assert [hashes_of(task, made.job, made.output.files).tolist() for task in made.tasks] == hashes


def test_a_straggler_of_a_job_that_was_overwritten_leaves_nothing(made: Made, tmp_path: Path) -> None:
    made.output.clear()
    with pytest.raises((JobError, OSError)):
        made.write()
    assert not (tmp_path / "out/_work").exists()


# Inputs on a bad day


def flaky(monkeypatch: pytest.MonkeyPatch, name: str, *errors: Exception) -> list[str]:
    """Have reading one input fail so many times; the names of all that were tried."""
    left, tried, real = list(errors), list[str](), open

    def opened(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).endswith(name):
            tried.append(str(path))
            if left:
                raise left.pop(0)
        return real(path, *arguments, **options)

    monkeypatch.setattr(storage, "open", opened, raising=False)
    monkeypatch.setattr(retry, "time", ThreadClock())
    return tried


def test_an_input_that_fails_for_a_while_is_tried_again(
    made: Made, raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = flaky(monkeypatch, "a/000.jpg", TimeoutError(), OSError(errno.EIO, "I/O"), ConnectionResetError())
    made.publish()
    assert len(tried) == 4
    assert splits(tmp_path / "out") == splits(raw_shards)


def test_an_input_that_goes_on_failing_fails_the_job(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = flaky(monkeypatch, "a/000.jpg", *[OSError(errno.EIO, "Input/output error")] * 99)
    with pytest.raises(JobError, match=r"a/000\.jpg: cannot be read \(Input/output error\)"):
        made.write()
    assert len(tried) > 2


def test_what_lasts_is_not_tried_again(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = flaky(monkeypatch, "a/000.jpg", *[PermissionError(errno.EACCES, "Permission denied")] * 99)
    (rejected,) = [one for one in made.write() if one.rejected]
    assert '"unreadable", "Permission denied"' in (made.folder(rejected) / "written.json").read_text("utf-8")
    assert len(tried) == 1


@pytest.mark.parametrize("reason", ["missing", "changed"])
def test_an_input_that_is_gone_or_another_is_rejected(class_folders: Path, tmp_path: Path, reason: str) -> None:
    copy = Path(shutil.copytree(class_folders, tmp_path / "in"))
    made = Made(copy, tmp_path / "out", scratch(tmp_path), max_rejects=MaxRejects(count=1))
    if reason == "missing":
        (copy / "a/000.jpg").unlink()
        message = "was listed, and is gone"
    else:
        size = (copy / "a/000.jpg").stat().st_size
        (copy / "a/000.jpg").write_bytes(b"123")
        message = f"has 3 bytes, and had {size} when it was listed"
    made.publish()
    expected = f'"reason": "{reason}", "message": "{message}"'
    assert expected in (tmp_path / "out/rejects.jsonl").read_text()


def test_an_input_that_is_cut_short_each_time_elsewhere_fails_the_job(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, cuts = LocalDirectory.read, iter(range(1, 99))

    def read(self: LocalDirectory, name: str, start: int = 0, end: int | None = None) -> bytes:
        data = real(self, name, start, end)
        return data[: -next(cuts)] if name == "a/000.jpg" else data

    monkeypatch.setattr(LocalDirectory, "read", read)
    with pytest.raises(JobError, match=r"a/000\.jpg: cannot be read \(\d+ bytes the first time, \d+ the second\)"):
        made.write()


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_an_input_that_is_gone_as_a_whole_fails_the_job(
    class_folders: Path, tmp_path: Path, error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is not mounted: no image is to blame, and none may be rejected."""
    copy = Path(shutil.copytree(class_folders, tmp_path / "in"))
    made = Made(copy, tmp_path / "out", scratch(tmp_path))
    for folder in copy.iterdir():
        shutil.rmtree(folder)
        folder.mkdir()
    if error is PermissionError:
        flaky(monkeypatch, ".jpg", *[PermissionError(errno.EACCES, "Permission denied")] * 99)
        flaky(monkeypatch, ".png", *[PermissionError(errno.EACCES, "Permission denied")] * 99)
    with pytest.raises(JobError, match=r"cannot be read \(.*\), nor anything beside it"):
        made.write()
    assert made.output.finished() == 0


# OUTPUT


def test_clearing_leaves_what_is_not_ours(made: Made, tmp_path: Path) -> None:
    shards = ["train-00000-of-00003.h5", "val-00000-of-00001.tfrecord.index.npy"]  # of the plan
    ours = [*shards, "duplicates.jsonl", "rejects.jsonl", f".dataset.json.{'0a' * 16}", f".rejects.jsonl.{'0a' * 16}"]
    others = [
        "train-00000-of-00009.h5",
        "val-00001-of-00001.tfrecord",
        "notes.md",
        "train.h5",
        ".hidden",
        "dataset.jso",
    ]
    for name in (*ours, *others):
        (tmp_path / "out" / name).write_text("")
    made.output.clear()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(others)


def test_overwriting_leaves_what_is_not_ours(class_folders: Path, jpeg_shards: Path, tmp_path: Path) -> None:
    """Files that are named as ours are, and another format's metadata."""
    copy = Path(shutil.copytree(jpeg_shards, tmp_path / "copy"))
    theirs = ["extra-00000-of-00001.tfrecord", "train-00007-of-00008.h5.index.npy"]
    for name in theirs:
        (copy / name).write_text("mine")
    result = command("prepare", class_folders, copy, "--size", 8, "--format", "hdf5", "--overwrite")
    assert result.returncode == 0, result.stderr
    assert [(copy / name).read_text() for name in theirs] == ["mine", "mine"]
    shard = "train-00000-of-00001.h5"
    assert {path.name for path in copy.iterdir()} == {
        *theirs,
        shard,
        f"{shard}.index.npy",
        "dataset.json",
        "duplicates.jsonl",
        "suspects.jsonl",
        "rejects.jsonl",
        "thumbnails.jsonl",
        "metadata.parquet",
        "pixels.jsonl",
        "README.md",
        "croissant.json",
        *(f"card-{number}.jpg" for number in (1, 2, 3)),
    }


@pytest.mark.parametrize(
    "options", [["--shards", 50, "--split", "train=0.5,val=0.5"], ["--max-rejects", 0], ["--split", "a=0.001,b=0.999"]]
)
def test_what_cannot_be_done_removes_nothing(
    class_folders: Path, jpeg_shards: Path, tmp_path: Path, options: list[object]
) -> None:
    source = Path(shutil.copytree(class_folders, tmp_path / "in"))
    (source / "stray.jpg").write_bytes(b"")
    copy = Path(shutil.copytree(jpeg_shards, tmp_path / "copy"))
    before = sorted((path.name, path.stat().st_mtime_ns) for path in copy.iterdir())
    assert command("prepare", source, copy, "--overwrite", *options).returncode in (1, 2)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in copy.iterdir()) == before


def test_removing_a_dataset_that_was_cut_off_is_gone_on_with(
    jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(jpeg_shards, tmp_path / "copy"))
    (copy / "notes.md").write_text("mine")
    output = Output(str(copy), directory(str(copy)))
    with monkeypatch.context() as patch:
        patch.setattr(LocalDirectory, "delete_all", lambda self, names: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            output.discard()
    assert not (copy / "dataset.json").exists()
    output.clear()
    assert [path.name for path in copy.iterdir()] == ["notes.md"]


def test_a_store_that_stutters_does_not_lose_what_is_finished(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = made.write()
    (tmp_path / "out/_image-shards.lock").write_bytes(b"")
    real = LocalDirectory.read

    def read(self: LocalDirectory, name: str, start: int = 0, end: int | None = None) -> bytes:
        if name.endswith("job.json"):
            raise ValueError("Bad Request: invalid")  # as a store's library has it
        return real(self, name, start, end)

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="invalid"):
        patch.setattr(LocalDirectory, "read", read)
        with claimed(str(tmp_path / "out")):
            pass
    assert made.write() == written
    assert made.output.finished() == 4
    assert (tmp_path / "out/_image-shards.lock").exists()


def test_another_job_s_straggler_meets_no_shard_of_this_one(class_folders: Path, tmp_path: Path) -> None:
    straggler = Made(class_folders, tmp_path / "out", scratch(tmp_path))
    (tmp_path / "scratch").rename(tmp_path / "before")
    made = Made(class_folders, tmp_path / "out", scratch(tmp_path))  # the same job: the same place
    assert made.work == straggler.work
    job = {"fingerprint": {**FINGERPRINT, "options": "c"}, "options": {}}
    other = made.output.begin(job)
    assert other != made.work
    with pytest.raises((JobError, OSError)):
        straggler.write()
    assert made.output.finished() == 0


@pytest.mark.parametrize("left", [[], ["_work"], ["_work", "train-00000-of-00001.tfrecord"]], ids=str)
def test_what_a_killed_job_left_is_taken_over(class_folders: Path, tmp_path: Path, left: list[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/_image-shards.lock").write_bytes(b"")
    for name in left:
        (tmp_path / "out" / name).mkdir()  # a folder where it should be a file is removed by nobody
    expected = 1 if len(left) == 2 else 0
    assert command("prepare", class_folders, tmp_path / "out", "--size", 8).returncode == expected


def test_what_a_job_left_that_was_killed_behind_its_manifest_is_cleared(jpeg_shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(jpeg_shards, tmp_path / "copy"))
    before = sorted(copy.iterdir())
    (copy / "_image-shards.lock").write_bytes(b"")
    (copy / "_work/abc/attempts/x").mkdir(parents=True)
    with claimed(str(copy)) as output:
        assert output.manifest() is not None
    assert sorted(copy.iterdir()) == before


def test_somebody_else_s_work_is_not_touched(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "_work").mkdir()
    (tmp_path / "_work/thesis.txt").write_text("mine")
    (tmp_path / "features.json").write_text("mine")
    assert "is not empty" in command("prepare", class_folders, tmp_path).stderr
    (tmp_path / "dataset.json").write_text("{}")
    assert "another program wrote it" in command("prepare", class_folders, tmp_path).stderr
    assert (tmp_path / "_work/thesis.txt").read_text() == (tmp_path / "features.json").read_text() == "mine"


def test_a_manifest_that_cannot_be_read_is_not_overwritten(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"format": "image-shards", "version": 9}')
    result = command("prepare", class_folders, tmp_path)
    assert result.returncode == 2
    assert "format version 9, this reader knows version 1" in result.stderr
    assert (tmp_path / "dataset.json").read_text().endswith("9}")


def test_an_output_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"), claimed(str(tmp_path / "file/out")):
        pass
