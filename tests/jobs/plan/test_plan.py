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

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.options import ShardRule, SplitRule
from beam_jobs.plan import order as plan
from beam_jobs.plan import tasks
from beam_jobs.plan.order import PlannedInputs
from beam_jobs.plan.schema import entry_json
from beam_jobs.plan.schema.catalog import Catalog
from beam_jobs.plan.tasks import TASKS_NAME, ShardTask, shard_count
from beam_jobs.sources import Entry, Problem, Reference, Source
from beam_jobs.sources.files.interface import SourceOptions
from shard_reader.storage.local import LocalDirectory

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=10),
    max_leaves=12,
)
texts = st.text(st.characters(exclude_categories=[]), max_size=6)  # with surrogates, as names that are not UTF-8 have
ids = st.lists(st.text("abé/0\n", min_size=1, max_size=8), unique=True, min_size=2, max_size=80)


class Listed(Source):
    """A source that has what it is given."""

    def __init__(self, entries: list[Entry]) -> None:
        super().__init__(SourceOptions(input="in"))
        self._entries = entries

    def entries(self) -> Iterator[Entry]:
        return iter(self._entries)

    def read(self, reference: Reference) -> bytes:
        raise NotImplementedError


def entries(names: list[str]) -> list[Entry]:
    return [Entry(name, len(name)) for name in names]


@given(texts, st.integers(-1, 1 << 40), values, values, st.dictionaries(texts, values, max_size=10), st.booleans())
def test_lines_are_those_of_json(
    id: str, size: int, place: object, label: object, fields: dict[str, object], has_problem: bool
) -> None:
    entry = Entry(id, size, place, label, "val", fields, (3, 4), Problem("a", "b") if has_problem else None)
    assert entry_json.entry_json(entry) == json.dumps(entry[:-1])
    assert entry_json.entry_json(Entry(id)) == json.dumps(Entry(id)[:-1])
    reference = Reference(id, size, place, fields)
    assert entry_json.reference_json(reference) == json.dumps(reference[:-1])
    more = {"mask": place}
    assert entry_json.entry_json(entry._replace(payloads=more)) == json.dumps(entry._replace(payloads=more))
    assert entry_json.reference_json(reference._replace(payloads=more)) == json.dumps(reference._replace(payloads=more))
    for bad in (Entry(id, size, {1, 2}), Entry(id, size, None, None, None, {"a": b"b"})):
        with pytest.raises(TypeError):
            entry_json.entry_json(bad)


@pytest.mark.parametrize("piece", [1, 100, 1 << 16])
def test_lines_that_are_parsed_and_written_together_are_the_same(
    tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Entry(f"{'x' * (number % 50)}{number}", number, label=number % 3) for number in range(300)]
    before = arranged(found, tmp_path / "before")
    monkeypatch.setattr(plan, "_PIECE", piece)
    after = arranged(found, tmp_path / "after")
    for one, other in zip(before.ordered.values(), after.ordered.values(), strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
        assert one.ends.read_bytes() == other.ends.read_bytes()
        lines = one.path.read_bytes().splitlines(keepends=True)
        assert one.starts([0, 1, 300]) == [0, len(lines[0]), sum(map(len, lines))]


def arranged(
    found: list[Entry],
    directory: Path,
    split: str = "train=1",
    seed: int = 0,
    buckets: int = 1024,
    memory: int = 1 << 26,
) -> PlannedInputs:
    """What `prepare` does: list, spill, plan."""
    (directory / "spill").mkdir(parents=True)
    spill, catalog, source = Spill(directory / "spill", buckets, memory), Catalog(), Listed(found)
    plan.scan(source, seed, catalog, spill, lambda: None)
    parts = tuple(tuple(part.split("=")) for part in split.split(",")) if split else None
    schema = catalog.close(source.layout())
    return plan.plan_inputs(spill, source, schema, SplitRule(parts=parts), seed, directory)  # type: ignore[arg-type]


def fingerprint(found: list[Entry], seed: int = 0) -> str:
    return plan.scan(Listed(found), seed, Catalog(), None, lambda: None).fingerprint


def ordered_ids(planned: PlannedInputs, split: str = "train") -> list[str]:
    return [json.loads(line)[0] for line in planned.ordered[split].path.read_bytes().splitlines()]


def shards(found: list[Entry], count: int, seed: int, buckets: int, memory: int) -> list[tuple[ShardTask, list[str]]]:
    """Every task of a split, with the ids of its references."""
    with tempfile.TemporaryDirectory() as folder:
        planned = arranged(found, Path(folder), "train=1", seed, buckets, memory)
        written = tasks.plan_shards(planned.ordered, {"train": count}, Path(folder), "")
        directory = LocalDirectory(Path(folder))
        found_tasks = list(tasks.read_tasks(directory, TASKS_NAME))
        assert len(found_tasks) == written == count
        return [(task, [r.id for r in tasks.read_references(directory, task)]) for task in found_tasks]


@pytest.mark.slow
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
    sizes = [len(shard) for _, shard in planned]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == [task.records for task, _ in planned]
    shuffle.shuffle(found)
    assert shards(found, count, seed, buckets, memory) == planned
    assert fingerprint(found) == fingerprint(entries(names))


def test_the_order_is_pinned(tmp_path: Path) -> None:
    """Another order would give every dataset that is made again other bytes."""
    found = entries(list("abcdefgh"))
    assert "".join(ordered_ids(arranged(found, tmp_path / "0", seed=0))) == "dfhcegab"
    assert "".join(ordered_ids(arranged(found, tmp_path / "1", seed=1))) == "cdhgafeb"
    split = arranged(found, tmp_path / "2", "train=0.6,val=0.4")
    assert ["".join(ordered_ids(split, name)) for name in ("train", "val")] == ["dfhc", "egab"]


def test_splits_of_inputs_stay_splits(tmp_path: Path) -> None:
    found = [Entry("1", split="val"), Entry("2", split="train"), Entry("3", split="train"), Entry("4", split="b")]
    planned = arranged(found, tmp_path, "")
    assert list(planned.ordered) == ["train", "val", "b"]
    assert sorted(ordered_ids(planned, "train")) == ["2", "3"]
    assert tasks.plan_shards(planned.ordered, {"train": 1, "val": 1, "b": 1}, tmp_path, "") == 3


def test_an_id_that_is_there_twice_is_taken_once(tmp_path: Path) -> None:
    problem = Entry("c", 1, problem=Problem("too-large", "..."))
    planned = arranged([Entry("a", 1), Entry("b", 1), Entry("a", 1), Entry("a", 7), problem], tmp_path)
    rejects = [json.loads(line) for line in planned.rejects.read_bytes().splitlines()]
    assert sorted((r["id"], r["reason"], r["stage"]) for r in rejects) == [
        ("a", "duplicate-id", "list"),
        ("a", "duplicate-id", "list"),
        ("c", "too-large", "list"),
    ]
    assert (planned.planned, planned.rejected, sorted(ordered_ids(planned))) == (2, 3, ["a", "b"])


def test_a_name_that_is_no_text_reaches_the_rejects(tmp_path: Path) -> None:
    planned = arranged([Entry("\udcff", 1, problem=Problem("file-name", "..."))], tmp_path)
    assert json.loads(planned.rejects.read_bytes())["id"] == "\udcff"


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
    assert shard_count(records, rule, largest=100, record_bytes=110.0) == expected


def test_more_shards_than_images_are_refused() -> None:
    with pytest.raises(UsageError, match="--shards 5: the largest split has only 4 images"):
        shard_count(4, ShardRule(by="shards", value=5), largest=4, record_bytes=1.0)


def test_more_shards_than_any_engine_is_good_for_are_refused() -> None:
    with pytest.raises(UsageError, match="--shard-records 1: would make 100000 shards, more than 99999"):
        shard_count(100_000, ShardRule(by="records", value=1), largest=100_000, record_bytes=1.0)


def test_the_fingerprint_sees_all_of_the_listing_and_not_the_seed() -> None:
    found = entries(["a", "b"])
    second = found[1]
    others = [
        *(entries(["a", "c"]), found[:1], [*found, Entry("\udcff", 0)]),
        *([found[0], second._replace(size=9)], [found[0], second._replace(label="x")]),
        *([found[0], second._replace(place=[1])], [found[0], second._replace(fields={"age": 3})]),
        *([found[0], second._replace(split="val")], [found[0], second._replace(frame=(3, 4))]),
    ]
    assert len({fingerprint(one) for one in [found, *others]}) == 10
    assert fingerprint(found, seed=1) == fingerprint(found)
    # Sums of equal things must not cancel each other out.
    assert fingerprint([*found, *found]) != fingerprint(found)


def test_references_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"größe/{number:04d}" for number in range(500)]
    planned = arranged(entries(names), tmp_path)
    tasks.plan_shards(planned.ordered, {"train": 3}, tmp_path, "")
    directory = LocalDirectory(tmp_path)
    found_tasks = list(tasks.read_tasks(directory, TASKS_NAME))
    whole = [list(tasks.read_references(directory, task)) for task in found_tasks]
    monkeypatch.setattr(tasks, "_PIECE", 37)
    assert [list(tasks.read_references(directory, task)) for task in found_tasks] == whole
    assert tasks.reference_at(directory, found_tasks[1], 5) == whole[1][5]
    first = tasks.first_references("train", planned.ordered["train"], 7, "")
    assert list(tasks.read_references(directory, first)) == whole[0][:7]


def test_a_plan_that_was_cut_short_is_an_error(tmp_path: Path) -> None:
    planned = arranged(entries(list("abc")), tmp_path)
    tasks.plan_shards(planned.ordered, {"train": 1}, tmp_path, "")
    (task,) = tasks.read_tasks(LocalDirectory(tmp_path), TASKS_NAME)
    (tmp_path / task.plan).write_bytes(b"")
    with pytest.raises(OSError, match="ends before byte"):
        list(tasks.read_references(LocalDirectory(tmp_path), task))
