"""The whole job on a disk and in buckets: the same dataset, and INPUT and OUTPUT by any kind of URL."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import prepared
from support.places import contents, copied, filled
from support.store_jobs import OPTIONS, is_as
from support.stored import PNG

from beam_jobs.cli.prepare import parse
from beam_jobs.errors import UsageError
from beam_jobs.shards import lock
from beam_jobs.steps.prepare import prepare
from shard_reader.storage.open import directory

pytestmark = pytest.mark.filterwarnings("ignore")  # of packages that Beam does not find


@pytest.fixture(autouse=True)
def quick_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody competes for OUTPUT here."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)


def run(source: object, output: object, *options: str) -> str:
    return prepare(parse(["prepare", str(source), str(output), *OPTIONS.split(), *options])).text


def test_from_a_bucket_to_a_bucket(class_folders: Path, raw_shards: Path, bucket: str) -> None:
    source = copied(class_folders, f"{bucket}/in")
    text = run(source, f"{bucket}/out")
    assert f"{bucket}/out: 60 images" in text
    is_as(contents(f"{bucket}/out"), raw_shards)
    assert "is finished, nothing to do" in run(source, f"{bucket}/out")
    with pytest.raises(UsageError, match="seed is 0 there, 3 here"):
        run(source, f"{bucket}/out", "--seed", "3")
    directory(f"{bucket}/out").write("notes.txt", [b"somebody's own"])
    run(source, f"{bucket}/out", "--shards", "1", "--overwrite")
    assert sum(name.endswith(".h5") for name in contents(f"{bucket}/out")) == 2
    assert "notes.txt" in contents(f"{bucket}/out")


def test_between_a_disk_and_a_bucket(class_folders: Path, raw_shards: Path, bucket: str, tmp_path: Path) -> None:
    run(class_folders, f"{bucket}/out")
    is_as(contents(f"{bucket}/out"), raw_shards)
    run(copied(class_folders, f"{bucket}/in"), tmp_path / "out")
    is_as(contents(str(tmp_path / "out")), raw_shards)
    run(f"file://{class_folders}", f"file://{tmp_path}/other")
    is_as(contents(str(tmp_path / "other")), raw_shards)


def test_rejects_in_a_bucket(bucket: str) -> None:
    files = filled(f"{bucket}/in", {"a/1.jpg": b"bad", "a/2.jpg": b"", "3.jpg": b"stray", "a/4.png": PNG})
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
        ("{}/in {}/other", "is not empty, and holds no dataset of image-shards"),
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


def test_output_inside_input_is_seen_through_a_file_url(tmp_path: Path) -> None:
    for source, output in ((f"file://{tmp_path}", tmp_path / "out"), (tmp_path, f"file://{tmp_path}/out")):
        with pytest.raises(UsageError, match="lies inside INPUT"):
            run(source, output)


def test_a_password_is_not_shown() -> None:
    options = parse(["prepare", "ftp://me:secret@host/in", "out"])
    assert options.to_json()["input"] == "ftp://host/in"


def test_the_command_takes_urls(class_folders: Path, tmp_path: Path, raw_shards: Path) -> None:
    output = prepared(class_folders, f"file://{tmp_path}/out", *OPTIONS.split())
    assert str(output).startswith("file:")
    is_as(contents(str(tmp_path / "out")), raw_shards)
