"""The plan: a permutation, even shards, and nothing but ids and the seed to decide it."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.errors import UsageError
from beam_jobs.options import ShardRule
from beam_jobs.plan import fingerprint, plan_shards, read_task, shard_count, split_references
from beam_jobs.sources import Listing, Reference, Reject

ids = st.lists(st.text("abé/0", min_size=1, max_size=8), unique=True, min_size=2, max_size=80)


def references(names: list[str], split: str | None = None) -> list[Reference]:
    return [Reference(name, len(name), number % 3, split) for number, name in enumerate(names)]


def listing(found: list[Reference], splits: tuple[str, ...] | None = None) -> Listing:
    return Listing(layout="test", references=found, splits=splits)


@given(ids, st.integers(1, 9), st.integers(0, 99), st.randoms(use_true_random=False))
def test_every_reference_once_in_even_shards(names: list[str], count: int, seed: int, shuffle: random.Random) -> None:
    found = references(names)
    plan = split_references(listing(found), (("train", "0.5"), ("val", "0.5")), seed)
    with tempfile.TemporaryDirectory() as directory:
        tasks = plan_shards(plan, {"train": count, "val": count}, Path(directory))
        shards = [list(read_task(task)) for task in tasks]
    assert sorted(reference for shard in shards for reference in shard) == sorted(found)
    for split in ("train", "val"):
        sizes = [len(shard) for task, shard in zip(tasks, shards, strict=True) if task.split == split]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == len(plan[split])
    shuffle.shuffle(found)
    assert split_references(listing(found), (("train", "0.5"), ("val", "0.5")), seed) == plan
    assert fingerprint(listing(found)) == fingerprint(listing(references(names)))


def test_the_order_is_pinned() -> None:
    """Another order would give every dataset that is made again other bytes."""
    found = references(list("abcdefgh"))
    assert "".join(r.id for r in split_references(listing(found), None, 0)["train"]) == "dfhcegab"
    assert "".join(r.id for r in split_references(listing(found), None, 1)["train"]) == "cdhgafeb"


@pytest.mark.parametrize(
    ("count", "split", "sizes"),
    [
        (300, "train=0.9 val=0.1", [270, 30]),
        (10, "train=0.7 val=0.2 test=0.1", [7, 2, 1]),  # in floats 0.7 + 0.2 is below 0.9
        (3, "train=0.333 val=0.333 test=0.334", [0, 1, 2]),
        (7, "train=1", [7]),
    ],
)
def test_splits_are_exact_parts(count: int, split: str, sizes: list[int]) -> None:
    parts = [tuple(part.split("=")) for part in split.split()]
    found = listing(references([str(n) for n in range(count)]))
    if 0 in sizes:
        with pytest.raises(UsageError, match=r"train=0\.333 of 3 images is none"):
            split_references(found, parts, 0)  # type: ignore[arg-type]
    else:
        plan = split_references(found, parts, 0)  # type: ignore[arg-type]
        assert [len(references) for references in plan.values()] == sizes


def test_split_folders_stay_splits() -> None:
    found = [*references(["train/a", "train/b"], "train"), *references(["val/c"], "val")]
    plan = split_references(listing(found, ("train", "val")), None, 0)
    assert {name: sorted(r.id for r in refs) for name, refs in plan.items()} == {
        "train": ["train/a", "train/b"],
        "val": ["val/c"],
    }
    with pytest.raises(UsageError, match="INPUT already has split folders"):
        split_references(listing(found, ("train", "val")), (("train", "1"),), 0)


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


def test_the_fingerprint_sees_ids_and_sizes() -> None:
    found = references(["a", "b"])
    others = [references(["a", "c"]), [found[0], found[1]._replace(size=9)], found[:1]]
    rejects = [Reject("\udcff", "in/\udcff", "list", "file-name", "")]
    rejected = Listing(layout="test", references=found, rejects=rejects)
    assert len({fingerprint(one) for one in [rejected, *map(listing, [found, *others])]}) == 5
