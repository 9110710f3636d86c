"""`--config`: a file of options, whose values those of the command line replace; `--json`: the result as an object."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from support.images import write_image

from beam_jobs.cli.main import main
from beam_jobs.cli.prepare import parse
from beam_jobs.errors import UsageError
from beam_jobs.options import JobOptions
from beam_jobs.steps.result import plain_json


def options(tmp_path: Path, config: str, line: str = "in out") -> JobOptions:
    (tmp_path / "job.yaml").write_text(config)
    return parse(["prepare", *shlex.split(line), "--config", str(tmp_path / "job.yaml")])


CONFIG = """
# The photos of May.
size: 64x32
fit: pad
pad-color: [1, 2, 3]
split: {train: 0.9, val: 0.1}
format: [tfrecord, hdf5]
fields: [age, place]
max_rejects: 0.5
shard_bytes: 3MB
stratify: true
overwrite: false
seed: null
"""
LINE = "--size 64x32 --fit pad --pad-color 1,2,3 --split train=0.9,val=0.1 --format tfrecord --format hdf5"
LINE += " --fields age,place --max-rejects 0.5 --shard-bytes 3MB --stratify"


def test_a_file_of_options_means_the_same_as_a_command_line(tmp_path: Path) -> None:
    assert options(tmp_path, CONFIG) == parse(["prepare", "in", "out", *shlex.split(LINE)])


def test_the_command_line_wins(tmp_path: Path) -> None:
    found = options(tmp_path, CONFIG, "in out --size 8 --format hdf5 --split train=1")
    assert (found.image.width, found.formats, found.split.parts) == (8, ("hdf5",), (("train", "1"),))


@pytest.mark.parametrize(
    "line", ["", "--size 8", "--runner FlinkRunner --size 8", "other shards", "--size 8 other shards"]
)
def test_input_and_output_may_be_in_the_file(tmp_path: Path, line: str) -> None:
    found = options(tmp_path, "input: photos\noutput: -out\n", line)
    expected = ("other", "shards") if "other" in line else ("photos", "-out")
    assert (found.source.input, found.output) == expected


def test_an_option_of_beam_may_be_in_the_file(tmp_path: Path) -> None:
    found = options(tmp_path, "beam: {runner: FlinkRunner, parallelism: 4}")
    assert found.beam == {"runner": "FlinkRunner", "parallelism": 4}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("sizes: 3", "there is no option 'sizes'; did you mean size?"),
        ("dry_run: true", "there is no option 'dry_run'; "),
        ("- size", "is no mapping of options to values, as `size: 256`"),
        ("", "is no mapping of options"),
        ("size: [1, 2", "is not YAML (while parsing a flow sequence"),
        ("size: !!python/object/apply:os.system [ls]", "is not YAML (could not determine a constructor"),
        ("pad-color: red\npad_color: blue", "pad_color is there twice"),
        ("size: {w: 3}", "size: expected a text, a number or a list, got {'w': 3}"),
        ("size: 2026-11-30", "size: expected a text, a number or a list, got datetime.date(2026, 11, 30)"),
        ("fit: fill", "--fit: invalid choice: 'fill'"),
        ("input: photos", "has input alone; give input and output, or none of them"),
        ("size: &a 3\nquality: *a", "has an alias (*name); write the value again"),
        ("[" * 100_000, "nests lists and keys more than 20 levels deep"),
        ("size: \x00", "is not YAML"),
    ],
    ids=str,
)
def test_a_wrong_file_is_one_line(tmp_path: Path, config: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        options(tmp_path, config)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for name, message in (("none.yaml", "No such file"), ("latin.yaml", "is not UTF-8 at byte 6"), ("big", "bytes")):
        (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
        (tmp_path / "big").write_bytes(b"#" * (1 << 21))
        with pytest.raises(UsageError, match=message):
            parse(["prepare", "in", "out", "--config", str(tmp_path / name)])


def test_one_place_on_the_command_line_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unexpected argument 'shards'"):
        options(tmp_path, "input: a\noutput: b", "shards")


def test_the_result_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/1.png", "b/2.png"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in/b/3.png").write_bytes(b"no image")
    words = ["prepare", str(tmp_path / "in"), str(tmp_path / "out"), "--max-rejects", "1", "--workers", "1", "--json"]
    assert main(["--quiet", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["manifest"] == f"{tmp_path}/out/dataset.json" and Path(found["rejects"]).is_file()
    assert found["counts"]["written"] == 2 and found["counts"]["rejected"] == 1 and not found["was_finished"]
    assert found["splits"]["train"]["records"] == 2 and found["classes"] == 2
    assert main(["--quiet", *words]) == 0
    assert json.loads(capsys.readouterr().out) == found | {"was_finished": True, "seconds": 0.0}


def test_the_secrets_of_urls_are_in_no_json() -> None:
    texts = ["s3://me:hidden@bucket/x", 'https://host/x?sig=hidden" and more', "hidden? no"]
    shown = json.dumps(plain_json({"a": texts, "b": {"c": texts[0], "d": 3}}))
    assert json.loads(shown) == {"a": ["s3://bucket/x", 'https://host/x?sig=***" and more', texts[2]]} | {
        "b": {"c": "s3://bucket/x", "d": 3}
    }
