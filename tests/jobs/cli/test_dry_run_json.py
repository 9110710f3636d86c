"""`--dry-run --json`: the plan as one object, with keys that stay; time and price from the sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command import command
from support.images import write_image

from shard_reader.format import Manifest

OPTIONS = ["--size", "16", "--split", "train=0.8,val=0.2", "--shards", "3"]
KEYS = {
    "": "output state formats splits image fields classes largest_classes rejected unusable passes estimate reached",
    "splits": "images shards shard_images bytes shard_bytes",
    "passes": "step images bytes cpu_seconds why",
    "estimate": "sampled bytes_in bytes_out cpu_hours cpus seconds price cost",
}


def plan(*words: object) -> dict[str, Any]:
    result = command("prepare", *words, "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


def test_keys_stay_and_values_are_those_of_the_job(class_folders: Path, tmp_path: Path) -> None:
    found = plan(class_folders, tmp_path / "out", *OPTIONS, "--price", "0.38", "--workers", "1")
    assert list(found) == KEYS[""].split()
    assert all(list(split) == KEYS["splits"].split() for split in found["splits"].values())
    assert [list(one) for one in found["passes"]] == [KEYS["passes"].split()]
    assert list(found["estimate"]) == KEYS["estimate"].split()
    assert (found["classes"], found["largest_classes"]) == (3, {"a": 20, "b": 20, "c": 20})
    estimate = found["estimate"]
    assert estimate["bytes_in"] == sum(path.stat().st_size for path in class_folders.rglob("*.*"))
    assert estimate["cost"] == pytest.approx(0.38 * estimate["cpu_hours"])
    assert estimate["cpus"] == 1 and estimate["seconds"] > 3600 * estimate["cpu_hours"] > 0
    assert command("prepare", class_folders, tmp_path / "out", *OPTIONS).returncode == 0
    splits = Manifest.from_json((tmp_path / "out/dataset.json").read_text()).splits
    assert {name: (split["images"], split["shards"]) for name, split in found["splits"].items()} == {
        name: (split.records, len(split.shards)) for name, split in splits.items()
    }
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tfrecord*"))
    assert estimate["bytes_out"] == pytest.approx(written, rel=0.3)


@pytest.mark.slow
def test_passes_before_the_writing_are_in_the_sums(class_folders: Path, tmp_path: Path) -> None:
    more = ["--normalize", "dataset", "--near-duplicates", "drop"]
    found = plan(class_folders, tmp_path / "out", *OPTIONS, *more)
    steps = {one["step"]: one for one in found["passes"]}
    assert list(steps) == ["HashInputs", "MeasureShards", "WriteShards"]
    train = found["splits"]["train"]["images"]
    assert [one["images"] for one in found["passes"]] == [60, train, 60]
    assert 0 < steps["HashInputs"]["cpu_seconds"] < steps["WriteShards"]["cpu_seconds"]  # which makes thumbnails
    assert found["estimate"]["bytes_in"] == sum(one["bytes"] for one in found["passes"])
    assert found["estimate"]["cpu_hours"] * 3600 == pytest.approx(sum(one["cpu_seconds"] for one in found["passes"]))
    fewer = plan(class_folders, tmp_path / "out", *OPTIONS, "--drop-duplicates")
    assert fewer["passes"][0]["cpu_seconds"] < fewer["passes"][1]["cpu_seconds"]
    only_listed = plan(class_folders, tmp_path / "out", *OPTIONS, "--near-duplicates", "report")
    assert [one["step"] for one in only_listed["passes"]] == ["WriteShards"]


@pytest.mark.parametrize(
    ("words", "cpus"),
    [
        (["--parallelism", "2"], 2),
        (["--parallelism", "50"], 4),  # no more than there are shards
        (["--num_workers", "1", "--max_num_workers", "2", "--worker_machine_type", "n2-standard-8"], 4),
        (["--max_num_workers", "1", "--worker_machine_type", "n2-highmem-2"], 2),
        (["--max_num_workers", "3", "--worker_machine_type", "e2-micro"], 3),
        ([], None),
    ],
)
def test_the_time_of_an_engine_is_that_of_its_workers(
    class_folders: Path, tmp_path: Path, words: list[str], cpus: int | None
) -> None:
    estimate = plan(class_folders, tmp_path / "out", *OPTIONS, "--runner", "FlinkRunner", *words)["estimate"]
    assert estimate["cpus"] == cpus
    expected = None if cpus is None else pytest.approx(3600 * estimate["cpu_hours"] / cpus)
    assert estimate["seconds"] == expected


def test_the_largest_classes_come_first_and_no_name_leaves_its_string(tmp_path: Path) -> None:
    for name, count in (('"}\x1b[2J', 3), ("b", 1), ("a", 2)):
        for number in range(count):
            write_image(tmp_path / "in" / name / f"{number}.png", number)
    found = plan(tmp_path / "in", tmp_path / "out")
    assert list(found["largest_classes"].items()) == [('"}\x1b[2J', 3), ("a", 2), ("b", 1)]
    text = command("prepare", tmp_path / "in", tmp_path / "out", "--dry-run", "--price", "0.01").stdout
    assert '  classes    3: "}\\x1b[2J 3, a 2, b 1' in text
    assert "             less than 0.01 at 0.01 a CPU hour" in text


def test_inputs_of_unknown_size_count_as_those_of_the_sample(tmp_path: Path) -> None:
    write_image(tmp_path / "in/1.png", 1)
    size = (tmp_path / "in/1.png").stat().st_size
    (tmp_path / "t.csv").write_text("path\n" + f"file://{tmp_path}/in/1.png\n" + "in/1.png\n")
    found = plan(tmp_path / "t.csv", tmp_path / "out", "--source", "table", "--max-rejects", "1.0")
    assert found["estimate"]["bytes_in"] == pytest.approx(2 * size, rel=0.01)


def test_credentials_of_places_are_not_in_it(class_folders: Path) -> None:
    result = command("prepare", class_folders, "memory://me:secret@out/x?sig=hidden", "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    assert "secret" not in result.stdout and "hidden" not in result.stdout
    json.loads(result.stdout)
