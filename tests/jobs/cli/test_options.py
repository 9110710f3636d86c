"""The command line: what it means, and one line for each way to get it wrong."""

from __future__ import annotations

import pytest

from beam_jobs.cli.commands import choose
from beam_jobs.cli.prepare import parse
from beam_jobs.errors import UsageError
from beam_jobs.options import JobOptions, MaxRejects, ShardRule, SplitRule
from beam_jobs.sources.files.interface import SourceOptions


def options(line: str = "") -> JobOptions:
    return parse(["prepare", "in", "out", *line.split()])


def test_defaults() -> None:
    found = options()
    assert (found.source, found.output, found.formats) == (SourceOptions(input="in"), "out", ("tfrecord",))
    assert (found.split, found.seed) == (SplitRule(), 0)
    assert (found.image.width, found.image.height, found.image.fit, found.image.filter) == (
        256,
        256,
        "cover",
        "lanczos",
    )
    assert (found.image.encoding, found.image.quality, found.image.dtype) == ("jpeg", None, "uint8")
    assert found.shards == ShardRule(by="bytes", value=128_000_000)
    assert found.max_rejects == MaxRejects(fraction="0.01")
    assert found.workers >= 1
    assert found.beam == {}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--size 300", {"width": 300, "height": 300, "fit": "cover"}),
        ("--size 224x320", {"width": 224, "height": 320, "fit": "crop"}),
        ("--size 224 --fit pad", {"width": 224, "height": 224, "fit": "pad"}),
        ("--encoding raw", {"encoding": "raw", "quality": None, "dtype": "uint8"}),
        ("--normalize imagenet", {"encoding": "raw", "dtype": "float32", "quality": None}),
        ("--dtype float16", {"encoding": "raw", "dtype": "float16", "normalize": "none"}),
        ("--quality 75", {"encoding": "jpeg", "quality": 75}),
        ("", {"restart_markers": "auto"}),
        ("--encoding jpeg --restart-markers row", {"restart_markers": "row"}),
        ("--fit none", {"fit": "none", "width": 0, "height": 0}),
        ("--fit inside --only-shrink", {"fit": "inside", "width": 256, "only_shrink": True}),
        ("--exact-decode", {"exact_decode": True}),
        ("--encoding webp --quality 80", {"encoding": "webp", "quality": 80}),
        ("--dtype uint16", {"encoding": "raw", "dtype": "uint16"}),
        ("--dtype uint16 --encoding png", {"encoding": "png", "dtype": "uint16"}),
        ("--fit pad --pad-color 1,2,3", {"pad_color": (1, 2, 3)}),
        ("--background #ff8000", {"background": (255, 128, 0)}),
        ("--background navy", {"background": (0, 0, 128)}),
        ("--channels grey", {"channels": "grey"}),
        ("--max-pixels 100 --max-bytes 1MB", {"max_pixels": 100, "max_bytes": 1_000_000}),
    ],
)
def test_image_options(line: str, expected: dict[str, object]) -> None:
    image = options(line).image
    assert {name: getattr(image, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("--format hdf5 --format tfrecord --format hdf5", "formats", ("tfrecord", "hdf5")),
        ("--split train=0.9,val=.1", "split", SplitRule(parts=(("train", "0.9"), ("val", "0.1")))),
        ("--split a=1 --stratify", "split", SplitRule(parts=(("a", "1"),), stratify=True)),
        ("--split a=1 --group-by patient", "split", SplitRule(parts=(("a", "1"),), group_by="patient")),
        ("--shards 7", "shards", ShardRule(by="shards", value=7)),
        ("--shard-records 7", "shards", ShardRule(by="records", value=7)),
        ("--shard-bytes 64MiB", "shards", ShardRule(by="bytes", value=64 * 2**20)),
        ("--shard-bytes 1.5GB", "shards", ShardRule(by="bytes", value=1_500_000_000)),
        ("--max-rejects 0", "max_rejects", MaxRejects(count=0)),
        ("--max-rejects 1.0", "max_rejects", MaxRejects(fraction="1.0")),
        ("--seed -5", "seed", -5),
    ],
)
def test_other_options(line: str, name: str, expected: object) -> None:
    assert getattr(options(line), name) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--size 0", "argument --size: must be 1 to 65500 pixels, got '0'"),
        ("--size 12x", "argument --size: expected N or WxH"),
        ("--size 70000", "must be 1 to 65500"),
        ("--fit squeeze", "argument --fit: invalid choice: 'squeeze'"),
        ("--quality 101", "argument --quality: must be 1 to 100, got 101"),
        ("--quality x", "expected a whole number, got 'x'"),
        ("--quality 90 --encoding png", "--quality 90 is for JPEG, WebP and AVIF, the encoding is png"),
        ("--dtype float32 --encoding jpeg", "--encoding jpeg holds uint8 pixels only"),
        ("--dtype uint8 --normalize unit", "--normalize unit gives floats"),
        ("--split train=0.9,val=0.2", "sum to 1.1, not to 1"),
        ("--split train=0.9", "sum to 0.9, not to 1"),
        ("--split train=1.5,val=-0.5", "the part of train must be above 0"),
        ("--split train=nan,val=1", "the part of train must be above 0"),
        ("--split a=1e-9999999,b=1", "the part of a must be above 0"),
        ("--direct_num_workers=4", "--direct_num_workers: give --workers"),
        ("--split train", "the part of train must be above 0"),
        ("--split tra/in=1", "expected NAME=FRACTION"),
        ("--split a=0.5,a=0.5", "a name is there twice"),
        ("--shards 0", "argument --shards: must be 1 to 99999, got 0"),
        ("--shards 2 --shard-records 3", "not allowed with argument"),
        ("--shard-bytes 12XB", "expected a size as 128MB"),
        ("--max-rejects 1.5", "expected a count as 20 or a fraction"),
        ("--max-rejects -1", "argument --max-rejects"),
        ("--workers 0", "must be 1 or more, got 0"),
        ("--format zip", "argument --format: invalid choice: 'zip'"),
        ("--siz 3", "unknown option --siz: neither image-shards nor Apache Beam has it; did you mean --size?"),
        ("--max_num_worker=3", "unknown option --max_num_worker.* did you mean --max_num_workers?"),
        ("--streamin", "unknown option --streamin"),
        ("--runner Flnk", "--runner Flnk: Apache Beam knows .*DirectRunner.*FlinkRunner"),
        ("third", "unexpected argument 'third'"),
        (
            "--normalize unit --encoding jpeg",
            "--normalize unit gives floats, and --encoding jpeg stores integers: give"
            " --encoding raw, or normalise on the device",
        ),
        (
            "--normalize imagenet --encoding webp",
            "--normalize imagenet gives floats, and --encoding webp stores integers",
        ),
        ("--normalize unit --dtype uint16", "--normalize unit gives floats: give --dtype float32"),
        ("--channels grey --encoding webp", "WebP has no grey images"),
        ("--channels keep --normalize dataset", "--normalize dataset: needs the same channels in every image"),
        ("--channels grey --normalize imagenet", "--normalize imagenet: needs three channels"),
        ("--fit none --size 7", "--size: --fit none keeps the size of each image"),
        ("--fit none --exact-decode", "--exact-decode: --fit none and --filter nearest decode whole"),
        ("--filter nearest --exact-decode", "--exact-decode: --fit none and --filter nearest decode whole"),
        ("--fit crop --only-shrink", "--only-shrink: is for --fit cover, inside or pad, not for crop"),
        ("--pad-color red", "--pad-color: is for --fit pad, not for cover"),
        ("--background 1,2", "expected R,G,B from 0 to 255, #rrggbb or a name, got '1,2'"),
        ("--background 1,2,256", "expected R,G,B from 0 to 255"),
        ("--stratify", "--stratify: says how to split; give --split"),
        ("--split a=1 --stratify --group-by x", "--stratify: does not go with --group-by"),
        ("--boxes a,b", "--boxes a,b: give one column of lists, or 4 columns"),
        ("--points a,b,c", "--points a,b,c: give one column of lists, or 2 columns"),
        ("--fields a,,b", "expected names with commas between"),
        (
            "--source tables",
            "expected one of folder, imagefolder, .*, archive, records, or module:Class, got 'tables'",
        ),
        ("--classes nowhere/classes.txt", "--classes nowhere/classes.txt: No such file or directory"),
    ],
)
def test_a_wrong_option_is_one_line(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        options(line)
    assert "\n" not in str(caught.value)


def test_help_is_short_and_begins_with_common_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse(["prepare", "--help"])
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 165
    assert text.index("common options") < text.index("where images and labels are") < text.index("--seed")


@pytest.mark.parametrize("line", [[], ["prepare"], ["prepare", "in"], ["prepar", "in", "out"]], ids=str)
def test_an_incomplete_line_is_one_line(line: list[str]) -> None:
    with pytest.raises(UsageError, match="--help") as caught:
        parse(choose(line)[1])
    assert "\n" not in str(caught.value)


def test_an_empty_path_is_not_the_working_directory() -> None:
    with pytest.raises(UsageError, match="OUTPUT is empty"):
        parse(["prepare", "in", ""])


def test_places() -> None:
    found = parse(["prepare", "gs://bucket/in/", "./out/"])
    assert (found.source.input, found.output) == ("gs://bucket/in", "out")


def test_beam_s_options_are_passed_on_in_every_form() -> None:
    line = "--runner FlinkRunner --parallelism=4 --experiments a --experiments=b --no_use_public_ips --size 9"
    found = options(line)
    assert found.image.width == 9
    assert found.beam["runner"] == "FlinkRunner"
    assert found.beam["parallelism"] == 4
    assert found.beam["experiments"] == ["a", "b"]
    assert found.beam["use_public_ips"] is False
    assert set(found.beam) == {"runner", "parallelism", "experiments", "use_public_ips"}


def test_a_fraction_of_rejects_is_exact() -> None:
    assert MaxRejects(fraction="0.29").of(100) == 29  # in floats 28.999...
    assert MaxRejects(count=3).of(100) == 3


def test_what_does_not_decide_the_result_is_not_in_the_fingerprint() -> None:
    assert options("--workers 1 --max-rejects 3").deciding() == options("--workers 2").deciding()
    assert options("--seed 1").deciding() != options().deciding()
    markers = [options(f"--restart-markers {name}").deciding() for name in ("auto", "row", "none")]
    assert markers[0] == options().deciding() and markers[0] != markers[1] != markers[2] != markers[0]


def test_restart_markers_are_for_jpeg() -> None:
    with pytest.raises(UsageError, match="--restart-markers none is for jpeg, the encoding is png: leave it out"):
        options("--encoding png --restart-markers none")


@pytest.mark.parametrize("text", ["dataflow", "dataflowrunner", "DataflowRunner", "apache_beam.runners.DataflowRunner"])
def test_a_runner_has_one_name(text: str) -> None:
    assert options(f"--runner {text}").beam["runner"] == "DataflowRunner"


def test_parts_of_a_split_are_exact_and_have_one_spelling() -> None:
    assert options("--split train=.90,val=0.10").split.parts == (("train", "0.9"), ("val", "0.1"))
    with pytest.raises(UsageError, match="not to 1"):
        options("--split a=0.5,b=0.49999999999999999999999999999999999")


def test_a_path_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UsageError, match=r"INPUT .*is not UTF-8"):
        parse(["prepare", "\udcff", "out"])


def test_secrets_of_beam_are_not_kept() -> None:
    found = options("--runner DirectRunner --s3_secret_access_key hush")
    assert "hush" not in str(found.to_json())
    assert found.to_json()["runner"] == "DirectRunner"
