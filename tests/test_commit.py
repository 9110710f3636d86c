"""Publishing: as often as it takes, on workers that are elsewhere, and OUTPUT that is claimed and cleared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import command

from beam_jobs import plan
from beam_jobs.commit import Publication, claimed, publish
from beam_jobs.errors import JobError, UsageError
from beam_jobs.options import MaxRejects, parse
from beam_jobs.sources.folder import list_folder
from beam_jobs.write import Job, WrittenShard, image_fields, write_shard
from shard_reader.format import Fingerprint, Manifest

OPTIONS = "--size 16x12 --encoding raw --format tfrecord --format hdf5 --split train=0.8,val=0.2 --shards 3"


class Made:
    """A job by hand, with the options of `raw_shards`, up to the step before it is run."""

    def __init__(self, source: Path, output: Path, **changes: Any) -> None:
        options = parse(["prepare", str(source), str(output), *OPTIONS.split()])
        listing = list_folder(str(source))
        (output / "_work/plan").mkdir(parents=True)
        splits = plan.split_references(listing, options.split, options.seed)
        self.tasks = plan.plan_shards(splits, {"train": 3, "val": 1}, output / "_work/plan")
        self.job = Job(
            input=str(source),
            attempts=str(output / "_work/attempts"),
            image=options.image,
            formats=options.formats,
            fields=image_fields(options.image, True),
            threads=2,
        )
        publication: dict[str, Any] = {
            "output": str(output),
            "fields": dict(self.job.fields),
            "formats": options.formats,
            "splits": ("train", "val"),
            "class_names": listing.class_names,
            "seed": 0,
            "options": {},
            "fingerprint": Fingerprint(inputs="", options="", codecs={}),
            "ignored": 0,
            "planned": len(listing.references),
            "listing_rejects": (),
            "max_rejects": MaxRejects(count=0),
        }
        self.publication = Publication(**publication | changes)

    def write(self) -> list[WrittenShard]:
        return [write_shard(task, self.job, None, lambda reject: None) for task in self.tasks]


def splits(output: Path) -> Any:
    return Manifest.from_json((output / "dataset.json").read_text("utf-8")).splits


def test_publishing_again_changes_nothing(class_folders: Path, raw_shards: Path, tmp_path: Path) -> None:
    made = Made(class_folders, tmp_path / "out")
    written = made.write()
    publish(written, made.publication)
    before = (tmp_path / "out/dataset.json").read_bytes()
    publish(written[::-1], made.publication)
    assert (tmp_path / "out/dataset.json").read_bytes() == before
    assert splits(tmp_path / "out") == splits(raw_shards)


def test_publishing_goes_on_where_it_was_cut_off(class_folders: Path, raw_shards: Path, tmp_path: Path) -> None:
    made = Made(class_folders, tmp_path / "out")
    written = made.write()
    for path in sorted(Path(written[1].attempt).glob("*.tfrecord*")):
        path.rename(tmp_path / "out" / path.name)
    publish(written, made.publication)
    assert splits(tmp_path / "out") == splits(raw_shards)


def test_a_second_attempt_at_a_shard_does_no_harm(class_folders: Path, raw_shards: Path, tmp_path: Path) -> None:
    """A worker that was taken for dead finishes beside the one that took over."""
    made = Made(class_folders, tmp_path / "out")
    made.write()
    publish(made.write(), made.publication)
    assert splits(tmp_path / "out") == splits(raw_shards)


def test_an_attempt_that_is_gone_is_an_error_and_no_dataset(class_folders: Path, tmp_path: Path) -> None:
    made = Made(class_folders, tmp_path / "out")
    written = made.write()
    shutil.rmtree(written[2].attempt)
    with pytest.raises(JobError, match="is gone"):
        publish(written, made.publication)
    assert not (tmp_path / "out/dataset.json").exists()


def test_too_many_rejects_are_found_before_anything_gets_its_name(class_folders: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(class_folders, tmp_path / "in"))
    (bad / "a/bad.jpg").write_bytes(b"bad")
    made = Made(bad, tmp_path / "out")
    with pytest.raises(JobError, match="of 61 images, at least 1 cannot be used"):
        publish(made.write(), made.publication)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_work"]


@pytest.mark.filterwarnings("ignore")  # of packages that Beam does not find
def test_workers_that_are_elsewhere_write_the_same_bytes(class_folders: Path, raw_shards: Path, tmp_path: Path) -> None:
    """As on a remote runner, where no pool of the launcher's can be found: every shard in its DoFn."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_jobs.pipeline import build

    made = Made(class_folders, tmp_path / "out")
    with beam.Pipeline(options=PipelineOptions([], runner="FnApiRunner")) as pipeline:
        build(pipeline, made.tasks, made.job, made.publication, run="")
    assert splits(tmp_path / "out") == splits(raw_shards)


def test_an_input_that_fails_for_a_while_fails_the_job(class_folders: Path, tmp_path: Path) -> None:
    """A directory in the place of a file stands for a disk that has a bad day: no reject, an error."""
    copy = Path(shutil.copytree(class_folders, tmp_path / "in"))
    made = Made(copy, tmp_path / "out")
    (copy / "a/000.jpg").unlink()
    (copy / "a/000.jpg").mkdir()
    with pytest.raises(JobError, match=r"a/000\.jpg: cannot be read \(Is a directory\); run the command again"):
        made.write()


def test_an_input_that_is_gone_is_rejected(class_folders: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(class_folders, tmp_path / "in"))
    made = Made(copy, tmp_path / "out", max_rejects=MaxRejects(count=1))
    (copy / "a/000.jpg").unlink()
    publish(made.write(), made.publication)
    assert '"reason": "missing", "message": "No such file or directory"' in (tmp_path / "out/rejects.jsonl").read_text()


def test_clearing_leaves_what_is_not_ours(tmp_path: Path) -> None:
    ours = ["train-00000-of-00001.h5", "val-100000-of-123456.tfrecord.index.npy", "rejects.jsonl"]
    ours += [f".dataset.json.{'0a' * 16}", f".train-00000-of-00001.h5.index.npy.{'0a' * 16}"]
    with claimed(str(tmp_path / "out")) as output:
        (output.work / "attempts").mkdir(parents=True)
        for name in (*ours, "notes.md", "train.h5", ".hidden"):
            (output.path / name).write_text("")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".hidden", "notes.md", "train.h5"]


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
    (copy / "_work/attempts/x").mkdir(parents=True)
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
