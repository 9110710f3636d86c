"""The plan: a permutation, even shards, and nothing but ids and the seed to decide it."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from beam_jobs import plan
from beam_jobs.errors import UsageError
from beam_jobs.options import ShardRule
from beam_jobs.plan import Arrangement, ShardTask, shard_count
from beam_jobs.sources import Entry, Layout, Problem, Reference
from beam_jobs.spill import Spill
from shard_reader.storage import LocalDirectory

ids = st.lists(st.text("abé/0\n", min_size=1, max_size=8), unique=True, min_size=2, max_size=80)


class Listed:
    """A source that has what it is given; ids that begin with a split's name are in that split."""

    def __init__(self, entries: list[Entry], splits: tuple[str, ...] | None = None) -> None:
        self._entries, self._splits = entries, splits

    def entries(self) -> Iterator[Entry]:
        return iter(self._entries)

    def layout(self) -> Layout:
        return Layout(text="test", ignored=0, splits=self._splits)

    def resolve(self, entry: Entry) -> tuple[Reference, str | None] | Problem:
        split = entry.id.partition("/")[0] if self._splits else None
        return entry.problem or (Reference(entry.id, entry.size, len(entry.id) % 3), split)

    def uri(self, id: str) -> str:
        return f"in/{id}"

    def read(self, id: str) -> bytes:
        raise NotImplementedError


def entries(names: list[str]) -> list[Entry]:
    return [Entry(name, len(name)) for name in names]


def arranged(source: Listed, directory: Path, seed: int = 0, buckets: int = 1024, memory: int = 1 << 26) -> Arrangement:
    """What `prepare` does: list, spill, arrange."""
    (directory / "spill").mkdir(parents=True)
    spill = Spill(directory / "spill", buckets, memory)
    plan.scan(source, seed, spill, lambda: None)
    return plan.arrange(spill, source, source.layout().splits, directory)


def fingerprint(found: list[Entry], seed: int = 0) -> str:
    return plan.scan(Listed(found), seed, None, lambda: None).fingerprint


def ordered_ids(arrangement: Arrangement, split: str = "") -> list[str]:
    return [json.loads(line)[0] for line in arrangement.ordered[split].path.read_bytes().splitlines()]


def shards(found: list[Entry], count: int, seed: int, buckets: int, memory: int) -> list[tuple[ShardTask, list[str]]]:
    """Every task of two even splits, with the ids of its references."""
    with tempfile.TemporaryDirectory() as folder:
        arrangement = arranged(Listed(found), Path(folder), seed, buckets, memory)
        parts = plan.cut(arrangement, (("train", "0.5"), ("val", "0.5")))
        written = plan.plan_shards(parts, {"train": count, "val": count}, Path(folder), "")
        directory = LocalDirectory(Path(folder))
        tasks = list(plan.read_tasks(directory, ""))
        assert len(tasks) == written == 2 * count
        return [(task, [r.id for r in plan.read_references(directory, task)]) for task in tasks]


@given(
    names=ids,
    count=st.integers(1, 9),
    seed=st.integers(0, 99),
    buckets=st.integers(1, 3000),
    memory=st.sampled_from([0, 300, 1 << 26]),
    shuffle=st.randoms(use_true_random=False),
)
@example(names=["a", "b"], count=9, seed=0, buckets=65536, memory=0, shuffle=random.Random(0))
def test_every_reference_once_in_even_shards_whatever_the_buckets_and_the_order(
    names: list[str], count: int, seed: int, buckets: int, memory: int, shuffle: random.Random
) -> None:
    found = entries(names)
    planned = shards(found, count, seed, 1, 1 << 26)
    assert sorted(id for _, shard in planned for id in shard) == sorted(names)
    for split in ("train", "val"):
        sizes = [len(shard) for task, shard in planned if task.split == split]
        assert max(sizes) - min(sizes) <= 1
        assert sizes == [task.records for task, _ in planned if task.split == split]
    shuffle.shuffle(found)
    assert shards(found, count, seed, buckets, memory) == planned
    assert fingerprint(found) == fingerprint(entries(names))


def test_the_order_is_pinned(tmp_path: Path) -> None:
    """Another order would give every dataset that is made again other bytes."""
    found = Listed(entries(list("abcdefgh")))
    assert "".join(ordered_ids(arranged(found, tmp_path / "0", seed=0))) == "dfhcegab"
    assert "".join(ordered_ids(arranged(found, tmp_path / "1", seed=1))) == "cdhgafeb"


@pytest.mark.parametrize(
    ("count", "split", "sizes"),
    [
        (300, "train=0.9 val=0.1", [270, 30]),
        (10, "train=0.7 val=0.2 test=0.1", [7, 2, 1]),  # in floats 0.7 + 0.2 is below 0.9
        (3, "train=0.333 val=0.333 test=0.334", [0, 1, 2]),
        (7, "train=1", [7]),
    ],
)
def test_splits_are_exact_parts(count: int, split: str, sizes: list[int], tmp_path: Path) -> None:
    cuts = [tuple(part.split("=")) for part in split.split()]
    arrangement = arranged(Listed(entries([str(n) for n in range(count)])), tmp_path)
    if 0 in sizes:
        with pytest.raises(UsageError, match=r"train=0\.333 of 3 images is none"):
            plan.cut(arrangement, cuts)  # type: ignore[arg-type]
    else:
        assert [part.records for part in plan.cut(arrangement, cuts)] == sizes  # type: ignore[arg-type]


def test_split_folders_stay_splits(tmp_path: Path) -> None:
    source = Listed(entries(["train/a", "train/b", "val/c"]), ("train", "val", "test"))
    arrangement = arranged(source, tmp_path)
    assert sorted(ordered_ids(arrangement, "train")) == ["train/a", "train/b"]
    assert ordered_ids(arrangement, "val") == ["val/c"]
    parts = plan.cut(arrangement, None)
    assert [(part.split, part.records) for part in parts] == [("train", 2), ("val", 1), ("test", 0)]
    assert plan.plan_shards(parts, {"train": 1, "val": 1, "test": 1}, tmp_path, "") == 3
    with pytest.raises(UsageError, match="INPUT already has split folders"):
        plan.cut(arrangement, (("train", "1"),))


def test_an_id_that_is_there_twice_is_taken_once(tmp_path: Path) -> None:
    found = [Entry("a", 1), Entry("b", 1), Entry("a", 1), Entry("a", 7), Entry("c", 1, Problem("too-large", "..."))]
    arrangement = arranged(Listed(found), tmp_path)
    rejects = [json.loads(line) for line in arrangement.rejects.read_bytes().splitlines()]
    assert sorted((r["id"], r["reason"], r["stage"]) for r in rejects) == [
        ("a", "duplicate", "list"),
        ("a", "duplicate", "list"),
        ("c", "too-large", "list"),
    ]
    assert (arrangement.planned, arrangement.rejected, sorted(ordered_ids(arrangement))) == (2, 3, ["a", "b"])


def test_a_name_that_is_no_text_reaches_the_rejects(tmp_path: Path) -> None:
    arrangement = arranged(Listed([Entry("\udcff", 1, Problem("file-name", "..."))]), tmp_path)
    assert json.loads(arrangement.rejects.read_bytes())["id"] == "\udcff"


@pytest.mark.parametrize(
    ("rule", "records", "expected"),
    [
        (ShardRule(by="shards", value=4), 100, 4),
        (ShardRule(by="shards", value=4), 26, 2),
        (ShardRule(by="shards", value=3), 1, 1),
        (ShardRule(by="records", value=30), 100, 4),
        (ShardRule(by="records", value=100), 100, 1),
        (ShardRule(by="bytes", value=1000), 100, 11),  # of 110 bytes each
        (ShardRule(by="bytes", value=1), 100, 100),
        (ShardRule(by="bytes", value=10**9), 0, 1),
    ],
    ids=str,
)
def test_number_of_shards(rule: ShardRule, records: int, expected: int) -> None:
    assert shard_count(records, rule, largest=100, record_bytes=lambda: 110.0) == expected


def test_more_shards_than_images_are_refused() -> None:
    with pytest.raises(UsageError, match="--shards 5: the largest split has only 4 images"):
        shard_count(4, ShardRule(by="shards", value=5), largest=4, record_bytes=lambda: 1.0)


def test_more_shards_than_any_engine_is_good_for_are_refused() -> None:
    with pytest.raises(UsageError, match="--shard-records 1: would make 100000 shards, more than 99999"):
        shard_count(100_000, ShardRule(by="records", value=1), largest=100_000, record_bytes=lambda: 1.0)


def test_the_fingerprint_sees_ids_and_sizes_and_not_the_seed() -> None:
    found = entries(["a", "b"])
    others = [entries(["a", "c"]), [found[0], found[1]._replace(size=9)], found[:1], [*found, Entry("\udcff", 0)]]
    assert len({fingerprint(one) for one in [found, *others]}) == 5
    assert fingerprint(found, seed=1) == fingerprint(found)
    # Sums of equal things must not cancel each other out.
    assert fingerprint([*found, *found]) != fingerprint(found)


def test_references_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"größe/{number:04d}" for number in range(500)]
    arrangement = arranged(Listed(entries(names)), tmp_path)
    (part,) = plan.cut(arrangement, None)
    plan.plan_shards([part], {"train": 3}, tmp_path, "")
    directory = LocalDirectory(tmp_path)
    tasks = list(plan.read_tasks(directory, ""))
    whole = [list(plan.read_references(directory, task)) for task in tasks]
    monkeypatch.setattr(plan, "_PIECE", 37)
    assert [list(plan.read_references(directory, task)) for task in tasks] == whole
    assert plan.reference_at(directory, tasks[1], 5) == whole[1][5]
    first = plan.first_references(part, 7, "")
    assert list(plan.read_references(directory, first)) == whole[0][:7]


def test_a_plan_that_was_cut_short_is_an_error(tmp_path: Path) -> None:
    arrangement = arranged(Listed(entries(list("abc"))), tmp_path)
    plan.plan_shards(plan.cut(arrangement, None), {"train": 1}, tmp_path, "")
    (task,) = plan.read_tasks(LocalDirectory(tmp_path), "")
    (tmp_path / task.plan).write_bytes(b"")
    with pytest.raises(OSError, match="ends before byte"):
        list(plan.read_references(LocalDirectory(tmp_path), task))
