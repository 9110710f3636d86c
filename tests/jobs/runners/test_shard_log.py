"""The log of finished shards: a line for each, of this run and of earlier ones, and files that cannot be written."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from support.command import command

from beam_jobs.errors import JobError, UsageError
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.meter import STAGES
from beam_jobs.runners.shard_log import ShardLog, log_file
from beam_jobs.shards.output import PLAN, Work
from shard_reader.format import Manifest
from shard_reader.storage.open import directory

WORK = Work("x")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_line_for_each_shard(class_folders: Path, tmp_path: Path) -> None:
    words = ["--size", "16", "--split", "train=0.8,val=0.2", "--shards", "3", "--workers", "2"]
    result = command("prepare", class_folders, tmp_path / "out", *words, "--log-json", tmp_path / "log")
    assert result.returncode == 0, result.stderr
    found = {line["shard"]: line for line in lines(tmp_path / "log")}
    splits = Manifest.from_json((tmp_path / "out/dataset.json").read_text()).splits
    assert len(found) == sum(len(split.shards) for split in splits.values()) == len(lines(tmp_path / "log"))
    for name, split in splits.items():
        for shard in split.shards:
            (file,) = shard.files.values()
            line = found[file.path.removesuffix(".tfrecord")]
            assert (line["split"], line["records"], line["bytes_out"]) == (name, shard.records, file.bytes)
            assert (line["kept"], line["rejected"], line["reasons"]) == (False, 0, {})
            assert set(line["cpu_seconds"]) == set(line["wall_seconds"]) == set(STAGES)
            assert 0 < line["cpu_seconds"]["decode"] < line["seconds"] < 600
    assert sum(line["bytes_in"] for line in found.values()) == sum(p.stat().st_size for p in class_folders.rglob("*.*"))
    assert "  time       " in result.stdout
    assert "seconds" not in (tmp_path / "out/dataset.json").read_text().replace("max_seconds", "")


def written(folder: Path, number: int, run_id: str) -> None:
    """A finished shard, as a worker leaves it."""
    name = f"train-{number:05d}-of-00003"
    times = dict.fromkeys(STAGES, 1.0)
    metrics = {"run_id": run_id, "seconds": 3, "bytes_read": 10, "cpu": times, "wall": times, "rejects": {"damaged": 1}}
    file = {"path": f"{name}.tfrecord", "bytes": 7, "sha256": "0" * 64, "index_sha256": "0" * 64, "index_crc32c": 1}
    body = {
        "shard": {"records": 2, "files": {"tfrecord": file}},
        "rejected": 1,
        "suspects": 0,
        "shapes": {},
        "sums": asdict(ChannelSums()),
        "changed": {},
        "beside": {},
        "metrics": metrics,
        "listed": {"rejects": [], "suspects": [], "classes": ["<u2", ""], "hosts": {}, "thumbnails": []},
    }
    place = folder / WORK.shards / name
    place.mkdir(parents=True)
    (place / "written.json").write_text(json.dumps(body))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / PLAN).mkdir(parents=True)
    tasks = [["train", number, 3, 3, f"{PLAN}train.jsonl", 0, 9] for number in range(3)]
    (tmp_path / PLAN / "shards.jsonl").write_text("".join(f"{json.dumps(task)}\n" for task in tasks))
    (tmp_path / WORK.shards).mkdir(parents=True)
    return tmp_path


def test_shards_of_earlier_runs_are_kept_and_come_last(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_jobs.runners.shard_log._SECONDS", 0)
    written(output, 0, "earlier")
    file = io.BytesIO()
    log = ShardLog(directory(str(output)), WORK, "this", file)
    log.update()
    assert file.getvalue() == b""  # it may be damaged, and be written again
    written(output, 1, "this")
    log.update()
    log.update()
    assert [json.loads(line)["shard"] for line in file.getvalue().splitlines()] == ["train-00001-of-00003"]
    written(output, 2, "the one before")
    log.close()
    found = {line["shard"][6:11]: line for line in map(json.loads, file.getvalue().splitlines())}
    assert {number: line["kept"] for number, line in found.items()} == {"00000": True, "00001": False, "00002": True}
    assert found["00000"]["reasons"] == found["00002"]["reasons"] == {"damaged": 1}
    assert log.total.cpu == dict.fromkeys(STAGES, 1.0)
    assert log.total.bytes_read == 10


def test_a_description_of_another_program_does_not_pass_for_one(output: Path) -> None:
    written(output, 0, "this")
    path = output / WORK.shards / "train-00000-of-00003/written.json"
    path.write_text(path.read_text().replace('"read": 1.0', '"read": "long"', 1))
    with pytest.raises(JobError, match="the dataset is whole, but the descriptions for --log-json cannot be read"):
        ShardLog(directory(str(output)), WORK, "this", io.BytesIO()).close()


def test_without_a_file_a_store_that_is_away_costs_the_time_only(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (output / WORK.shards / "train-00000-of-00003").mkdir()
    log = ShardLog(directory(str(output)), WORK, "this", None)
    log.close()
    assert capsys.readouterr().err.startswith("warning: the time of the shards is not known: ")
    assert not sum(log.total.cpu.values())


def test_a_full_disk_is_said_at_once_and_fails_at_the_end(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        written(output, number, "this")
    with open("/dev/full", "wb", buffering=0) as file:
        log = ShardLog(directory(str(output)), WORK, "this", file)
        with pytest.raises(JobError, match="the dataset is whole, but --log-json /dev/full cannot be written"):
            log.close()
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert log.total.cpu["read"] == 3


def test_a_file_that_cannot_be_written_is_found_before_the_job(class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"), log_file(str(tmp_path / "no/log")):
        pass
    result = command("prepare", class_folders, tmp_path / "out", "--log-json", tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"--log-json {tmp_path}: cannot be written (Is a directory)" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--log-json", "s3://bucket/log"], "--log-json s3://bucket/log: is a URL; give a file of this machine"),
        (["--log-json", "log", "--dry-run"], "--log-json log: --dry-run writes no shards; leave it out"),
        (["--log-json", "out/log"], "--log-json out/log: lies inside OUTPUT out"),
        (["--log-json", "in/log"], "--log-json in/log: lies inside INPUT in"),
        (["--price", "0.38"], "--price: is for --dry-run; give that, too, or leave it out"),
        (["--price", "-1", "--dry-run"], "expected a number above 0, as 0.38"),
        (["--price", "nan", "--dry-run"], "expected a number above 0, as 0.38, got 'nan'"),
    ],
)
def test_options_that_do_not_fit(words: list[str], message: str) -> None:
    result = command("prepare", "in", "out", *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
