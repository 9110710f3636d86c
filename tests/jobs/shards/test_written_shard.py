"""Descriptions of finished shards: what is said comes back, and the sums of all are those of a plain count."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.errors import JobError
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.meter import STAGES
from beam_jobs.plan.tasks import ShardTask
from beam_jobs.shards import written_shard
from beam_jobs.shards.output import Work
from beam_jobs.shards.written_shard import AllShards, Listed, ShardMetrics, WrittenShard, each_written, read_written
from beam_jobs.sources.files.interface import Reject, Suspect, Thumbnail
from shard_reader.format import Shard, ShardFile
from shard_reader.storage.open import directory

WORK = Work("x")
labels = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 20)
counts = st.dictionaries(labels, st.integers(1, 1 << 32) | st.integers(1, 9), max_size=12)


def task(number: int, split: str = "train") -> ShardTask:
    return ShardTask(split=split, number=number, count=99, records=2, plan="", start=0, end=0)


def written(number: int, split: str = "train", **changes: Any) -> WrittenShard:
    times = dict.fromkeys(STAGES, 1.0)
    file = ShardFile(path=f"{split}-{number}.tfrecord", bytes=7, sha256="a" * 64, index_sha256="b" * 64, index_crc32c=1)
    values: dict[str, Any] = {
        "task": task(number, split),
        "shard": Shard(records=2, files={"tfrecord": file}),
        "rejected": 0,
        "suspects": 0,
        "shapes": {"image": (8, 8, 3)},
        "sums": ChannelSums(64, (1, 2, 3), (4, 5, 6)),
        "changed": {},
        "beside": {},
        "metrics": ShardMetrics(run_id="r", seconds=1.0, bytes_read=1, cpu=times, wall=times, rejects={}),
    }
    return WrittenShard(**values | changes)


def lists(classes: dict[int, int], **changes: Any) -> Listed:
    pairs = np.array([[*classes], [*classes.values()]], np.int64)
    values: dict[str, Any] = {"rejects": [], "suspects": [], "classes": pairs, "hosts": {}, "thumbnails": []}
    return Listed(**values | changes)  # type: ignore[typeddict-item]


def store(place: Path, shard: WrittenShard, listed: Listed) -> None:
    folder = place / WORK.shards / shard.task.name
    folder.mkdir(parents=True)
    (folder / "written.json").write_bytes(shard.to_json(listed))


@given(counts)
def test_what_is_said_of_a_shard_comes_back(tmp_path_factory: pytest.TempPathFactory, classes: dict[int, int]) -> None:
    place = tmp_path_factory.mktemp("said")
    listed = lists(
        classes,
        rejects=[Reject("a", "in/a", "read", "damaged", "is cut off")],
        suspects=[Suspect("b", "train", "extra bytes")],
        hosts={"example.org": [3, 30]},
        thumbnails=[(7, Thumbnail("b", "train", "suspect", "extra bytes", "x", None))],
    )
    store(place, written(0), listed)
    shard, found = read_written(task(0), WORK, directory(str(place)))
    assert shard == written(0)
    assert found["classes"].tolist() == [[*classes], [*classes.values()]]
    assert all(list(found[key]) == list(listed[key]) for key in ("rejects", "suspects", "hosts", "thumbnails"))


@given(st.lists(st.tuples(st.sampled_from(["train", "val"]), counts), max_size=12), st.sampled_from([0, 5, 1 << 16]))
def test_the_classes_of_all_shards_are_those_of_a_plain_count(
    tmp_path_factory: pytest.TempPathFactory, shards: list[tuple[str, dict[int, int]]], held: int
) -> None:
    expected = {"train": Counter[int](), "val": Counter[int]()}
    for split, classes in shards:
        expected[split].update(classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written_shard, "_HELD", held)
        described = ((written(number, split), lists(found)) for number, (split, found) in enumerate(shards))
        found = AllShards(described, ("train", "val"), [], tmp_path_factory.mktemp("sums")).classes
    assert found == expected
    assert all(list(classes) == sorted(classes) for classes in found.values())


def test_sums_and_lists_are_those_of_all_shards(tmp_path: Path) -> None:
    rejects = [Reject(str(number), "", "read", "duplicate" if number % 2 else "damaged", "") for number in range(12)]
    described = [
        (
            written(
                number,
                "val" if number == 3 else "train",
                rejected=3,
                suspects=1,
                shapes={"image": (8, 8 + number, 3)},
            ),
            lists(
                {5: number},
                rejects=rejects[3 * number : 3 * number + 3],
                suspects=[Suspect(str(number), "train", "")],
                hosts={"one": [1, 10], f"{number}": [1, 1]},
            ),
        )
        for number in range(4)
    ]
    listed = Reject("first", "", "list", "duplicate", "").to_line()
    found = AllShards(iter(described), ("train", "val"), [listed], tmp_path)
    assert [len(shards) for shards in found.shards.values()] == [3, 1]
    assert found.classes == {"train": {5: 3}, "val": {5: 3}}
    assert (found.rejected, found.suspects, found.shapes) == (12, 4, {"image": (8, None, 3)})
    assert found.sums["train"] == ChannelSums(192, (3, 6, 9), (12, 15, 18))
    assert {name: host.images for name, host in found.hosts.items()} == {"one": 4, **{str(n): 1 for n in range(4)}}
    assert [reject.id for reject in found.first] == ["first", "0", "1"]
    assert [reject.id for reject in found.first_defects] == ["0", "2", "4"]
    lines = [path.read_bytes().splitlines(keepends=True) for path in found.lists]
    assert lines[0] == [listed, *map(Reject.to_line, rejects)]
    assert [json.loads(line)["id"] for line in lines[1]] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("store_away", [False, True], ids=["disk", "store"])
def test_descriptions_are_read_one_after_the_other(
    tmp_path: Path, store_away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a store in threads, a few ahead; those of all shards are in no memory."""
    read = list[int]()

    def noted(one: ShardTask, work: Work, output: object) -> tuple[WrittenShard, Listed]:
        read.append(one.number)
        return written(one.number), lists({})

    monkeypatch.setattr(written_shard, "read_written", noted)
    monkeypatch.setattr(written_shard, "readers_of", lambda output: 4 if store_away else 1)
    found = each_written((task(number) for number in range(60)), WORK, directory(str(tmp_path)))
    for number, (shard, _) in enumerate(found):
        assert shard.task.number == number
        assert len(read) <= number + 1 + (9 if store_away else 0)


def test_a_description_that_is_gone_or_damaged_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"train-00000-of-00099/written\.json: is gone; run the command again"):
        list(each_written([task(0)], WORK, directory(str(tmp_path))))
    store(tmp_path, written(1), lists({}))
    path = tmp_path / WORK.shards / task(1).name / "written.json"
    path.write_text(path.read_text().replace('"listed"', '"lists"'))
    with pytest.raises(JobError, match=r"written\.json: cannot be read \(KeyError\('listed'\)\); run the command"):
        list(each_written([task(1)], WORK, directory(str(tmp_path))))
