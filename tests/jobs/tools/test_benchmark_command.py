"""`image-shards benchmark`: real runs, and the advice that follows from what was seen."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.command import command
from support.several import several_images
from support.stored import FIELDS, record, write_manifest

from beam_jobs.errors import UsageError
from beam_jobs.shards.write import store
from beam_jobs.tools.benchmark import BenchmarkOptions, Counter, Report, advice, describe, measure
from shard_reader.format import Field, shard_name

OPTIONS = BenchmarkOptions(
    dataset="shards",
    split=None,
    format=None,
    batch_size=256,
    shuffle="full",
    crop=224,
    random_crop=None,
    threads=10_000,
    verify="first-epoch",
    fast=True,
    seconds=10,
)
REPORT = Report(
    name="split 'train' of shards",
    options=OPTIONS,
    encoding="jpeg",
    records=1000,
    first_epoch=Counter(1000, 3.0),
    later=Counter(1000, 1.0),
    first_batch=0.1,
    from_disk=0,
    image_bytes=20_000,
    stored_pixels=256 * 341,
    batch_pixels=224 * 224,
    batch_bytes=224 * 224 * 3,
    stages={"look up": 1.0, "checksum": 4.0, "decode": 400.0, "transform": 15.0},
)


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
@pytest.mark.parametrize(
    ("name", "options", "stages"),
    [
        ("jpeg_shards", "--crop 16 --threads 1", ["look up", "checksum", "decode", "transform"]),
        ("jpeg_shards", "--random-crop 20 --fast --verify never --shuffle none", ["look up", "decode", "transform"]),
        ("raw_shards", "--batch-size 10 --split val --shuffle window", ["look up", "checksum", "copy"]),
    ],
)
def test_it_says_how_fast_and_where_the_time_goes(
    request: pytest.FixtureRequest, name: str, options: str, stages: list[str], format: str
) -> None:
    path: Path = request.getfixturevalue(name)
    result = command("benchmark", path, "--seconds", "1", "--format", format, *options.split())
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert re.fullmatch(rf"split '(train|val)' of {path}: [\d,]+ images read, of \d+; batch size .*", lines[0])
    assert re.match(
        r"  [\d,]+ images/s, [\d,]+ MB/s of (jpeg|raw), first batch after \d+\.\d\d s, first epoch [\d,]+ images/s, ",
        lines[1],
    )
    assert [line[2:12].strip() for line in lines[3 : 3 + len(stages)]] == stages
    assert "what to change" in lines
    assert len(lines) < 24 and all(len(line) < 200 for line in lines)


@pytest.mark.parametrize(
    ("fields", "encoding", "further"),
    [
        (("image", "mask"), "jpeg and png", ["mask"]),
        (("all",), "jpeg and png", ["mask", "instances", "depth", "right"]),
        (("depth", "label"), "png", []),
    ],
)
def test_each_image_of_a_record_has_its_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: tuple[str, ...], encoding: str, further: list[str]
) -> None:
    monkeypatch.setattr("beam_jobs.tools.benchmark._STAGE_SECONDS", 0.01)
    path = several_images(tmp_path / "data", 2, formats=["tfrecord"])
    report = measure(replace(OPTIONS, dataset=str(path), crop=32, threads=1, batch_size=2, fields=fields, seconds=0.1))
    stages = ["checksum", "decode", "transform"]
    assert list(report.stages) == ["look up", *stages, *(f"{stage} {name}" for name in further for stage in stages)]
    assert report.encoding == encoding and report.batch_pixels == 32 * 32
    text = describe(report)
    assert "one record on one thread" in text and f"MB/s of {encoding}" in text
    assert all(f"\n  decode {name} " in text for name in further)


def test_raw_masks_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_jobs.tools.benchmark._STAGE_SECONDS", 0.01)
    (tmp_path / "data").mkdir()
    fields = {**FIELDS, "mask": Field(dtype="uint8", shape=(2, 1, 1), encoding="raw", role="mask")}
    fields["image"] = replace(fields["image"], shape=(2, 1, 3))
    shard = store(
        [record(str(n), mask=bytes([n, n])) for n in range(4)],
        {"tfrecord": tmp_path / "data" / shard_name("train", 0, 1, "tfrecord")},
        fields,
    )
    write_manifest(tmp_path / "data", fields, [shard], formats=["tfrecord"], class_names=("a", "b"))
    options = replace(OPTIONS, dataset=str(tmp_path / "data"), crop=None, batch_size=2, threads=1, seconds=0.1)
    report = measure(replace(options, fields=("image", "mask"), verify="never"))
    assert list(report.stages) == ["look up", "decode", "transform", "copy mask"]


def test_a_batch_without_an_image_is_refused(tmp_path: Path) -> None:
    path = several_images(tmp_path / "data", 1, formats=["tfrecord"])
    with pytest.raises(UsageError, match="--fields label: has no image, and images take the time: image, mask, inst"):
        measure(replace(OPTIONS, dataset=str(path), fields=("label",)))
    with pytest.raises(UsageError, match="'masks' is not one of"):
        measure(replace(OPTIONS, dataset=str(path), fields=("image", "masks")))


def test_advice_counts_the_stages_of_all_images() -> None:
    stages = {"look up": 1.0, "decode": 30.0, "decode mask": 40.0, "transform": 29.0}
    report = replace(REPORT, encoding="png and jpeg", options=replace(OPTIONS, fast=False), stages=stages)
    text = "\n".join(advice(report))
    assert "decoding is 70% of the work" in text and "fast=True" in text


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "may differ in size"),
        (["--crop", 17], 2, "smaller than the crop of 17x17"),
        (["--crop", 17, "--random-crop", 8], 2, "--crop and --random-crop: give one of them"),
        (["--split", "tran", "--crop", 3], 2, "split='tran': must be one of train"),
        (["--crops", 3], 2, "unknown option --crops: image-shards has no such option; did you mean --crop?"),
        (["--crop", 0], 2, "--crop"),
    ],
    ids=str,
)
def test_wrong_use_is_one_line(jpeg_shards: Path, words: list[Any], status: int, message: str) -> None:
    result = command("benchmark", jpeg_shards, *words)
    assert (result.returncode, result.stdout) == (status, "")
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_what_is_no_dataset_is_one_line(tmp_path: Path) -> None:
    result = command("benchmark", tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["decoding is 95% of the work", "more CPUs"]),
        ({"from_disk": 500}, ["the disk is the limit", "decoding", "more CPUs"]),
        ({"options": replace(OPTIONS, fast=False)}, ["fast=True", "decoding", "more CPUs"]),
        ({"stored_pixels": 1e6}, ["images are stored with 19.9 times the pixels", "decoding", "more CPUs"]),
        ({"options": replace(OPTIONS, threads=1), "encoding": "raw", "stages": {"look up": 1, "copy": 10}},
         None),
        ({"encoding": "raw", "stages": {"look up": 1, "copy": 10}}, ["nothing that this can see"]),
        ({"encoding": "raw", "stages": {"look up": 1, "checksum": 9, "copy": 10},
          "options": replace(OPTIONS, verify="always")}, ['verify="first-epoch"']),
        ({"encoding": "raw", "stages": {"look up": 9, "copy": 10},
          "options": replace(OPTIONS, batch_size=8)}, ["a larger batch_size"]),
        ({"stages": {"look up": 1, "decode": 10, "transform": 20}}, ["transforms are 65% of the work"]),
    ],
)  # fmt: skip
def test_the_advice_follows_from_what_was_seen(
    changes: dict[str, Any], expected: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_jobs.tools.benchmark.available_cpus", lambda: 16)
    lines = list(advice(replace(REPORT, **changes)))
    wanted = ["--threads 16"] if expected is None else expected
    assert [line[: len(text)] for line, text in zip(lines, wanted, strict=True)] == wanted
    assert "what to change" in describe(replace(REPORT, **changes))
