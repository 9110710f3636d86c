"""The command in a report makes the same dataset again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from beam_jobs.cli.prepare import parse
from beam_jobs.options import JobOptions
from beam_jobs.report.origin import prepare_command, without_places
from shard_reader.format import Counts, Field, Fingerprint, Manifest


def manifest_of(options: JobOptions, **more: Any) -> Manifest:
    return Manifest(
        fields={"image": Field(dtype="uint8", shape=(None, None, 3), encoding="jpeg")},
        formats=options.formats,
        splits={},
        class_names=None,
        statistics=None,
        counts=Counts(ignored=0, planned=0, written=0, rejected=0),
        seed=options.seed,
        options={**options.to_json(), "kind": "folder", "why": "the default", "layout": "", "shard_counts": {}, **more},
        fingerprint=Fingerprint(inputs="", options="", codecs={}),
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--size 224",
        "--size 224x224",
        "--size 224x320 --fit pad --pad-color 1,2,3",
        "--size 100x100 --fit cover",
        "--size 100x90 --fit cover",
        "--fit none --encoding png",
        "--fit inside --size 64 --only-shrink --filter area",
        "--normalize imagenet",
        "--normalize unit --dtype float16 --encoding raw",
        "--dtype uint16",
        "--channels grey --background #ffcc00 --quality 80",
        "--format hdf5",
        "--format hdf5 --format tfrecord",
        "--split train=0.9,val=0.1 --stratify --seed 7",
        "--split train=0.9,val=0.1 --group-by folder",
        "--shards 5",
        "--shard-records 100",
        "--shard-bytes 1GB",
        "--drop-duplicates --duplicate-labels drop",
        "--near-duplicates group --split train=0.5,val=0.5",
        "--near-duplicates report --near-distance 3",
        "--label-separator | --path-column a,b --fields x,y --id-column 'a b'",
        "--boxes a,b,c,d --box-format xywh --box-frame upright --points x,y",
        "--nested-classes --no-urls --max-pixels 1000 --max-bytes 5MB --max-work 77 --reject-suspects",
    ],
)
def test_the_command_has_the_options_that_decide(line: str) -> None:
    options = parse(["prepare", "in", "out", *shlex.split(line)])
    command = prepare_command(manifest_of(options))
    assert command.startswith("image-shards prepare INPUT OUTPUT")
    assert parse(shlex.split(command)[1:]).deciding() == options.deciding()


def test_files_and_folders_are_not_named(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("a\nb\n")
    words = ["--classes", str(tmp_path / "names"), "--exclude", str(tmp_path / "names"), "--root", str(tmp_path)]
    command = prepare_command(manifest_of(parse(["prepare", "in.csv", "out", *words])))
    assert command == "image-shards prepare INPUT OUTPUT --size 256 --root DIR --classes FILE --exclude FILE"


def test_options_that_mend_replace_those_that_are_there() -> None:
    options = parse(["prepare", "in", "out", "--near-duplicates", "report"])
    assert "--near-duplicates" not in prepare_command(manifest_of(options), without=["--near-duplicates group"])


@pytest.mark.parametrize(
    ("input", "text", "shown"),
    [
        ("/home/ann/photos", "INPUT /home/ann/photos: has no class folders", "INPUT: has no class folders"),
        ("/home/ann/photos", "images in /home/ann/photos/val2017, and more", "images in INPUT/val2017, and more"),
        ("/home/ann/in.json", "images in /home/ann/val2017, and more", "images in val2017, and more"),
        ("photos", "took photos for a class", "took INPUT for a class"),
        ("s3://bucket/in", "INPUT s3://bucket/in: s3://other/place/a.jpg", "INPUT: a.jpg"),
        (".", "a / b, and/or c/d", "a / b, and/or c/d"),
    ],
)
def test_texts_say_nothing_of_the_machine(input: str, text: str, shown: str) -> None:
    options = parse(["prepare", "in", "out"])
    assert without_places(manifest_of(options, input=input), text) == shown
