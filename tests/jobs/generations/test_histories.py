"""Any history of a dataset gives the records, classes, splits and statistics of one `prepare` over what remains."""

from __future__ import annotations

import csv
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import beam_jobs
from beam_jobs.generations.compaction.compact import CompactOptions
from beam_jobs.generations.compaction.in_place import compact_in_place
from beam_jobs.generations.relabeled.relabel import RelabelOptions, relabel
from beam_jobs.generations.withdraw import withdraw
from shard_reader import CenterCrop, open_dataset

pytestmark = pytest.mark.filterwarnings("ignore:.*mixes the records")
NAMES = tuple(f"{number:02d}" for number in range(12))
KEPT = NAMES[:6]  # never withdrawn, so that no split is ever empty
COMMANDS = ("append", "replace", "relabel", "withdraw", "compact")
OPTIONS: dict[str, Any] = {
    "size": "6x5",
    "encoding": "png",
    "format": ["tfrecord", "hdf5"],
    "split": "train=0.6,val=0.4",
    "workers": 1,
    "max_rejects": 1.0,
}


@dataclass
class History:
    """A dataset in memory, and what should be in it: for each id the seed of its image, and its class.

    `prepared` has the values that were given to `prepare` last.
    """

    root: Path
    place: str = field(default_factory=lambda: f"memory://{uuid.uuid4().hex}/shards")
    expected: dict[str, tuple[int, str]] = field(default_factory=dict)
    prepared: dict[str, tuple[int, str]] = field(default_factory=dict)
    made: int = 0

    def table(self, rows: dict[str, tuple[int, str]]) -> Path:
        """A table of images of these seeds and classes, in a folder of its own."""
        self.made += 1
        folder = self.root / f"{self.made}"
        folder.mkdir()
        with open(folder / "table.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label"])
            for id, (seed, label) in sorted(rows.items()):
                rng = np.random.default_rng(seed)
                Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)).save(folder / f"{id}.png")
                writer.writerow([f"{id}.png", label])
        return folder / "table.csv"

    def prepare(self, rows: dict[str, tuple[int, str]], place: str, **options: Any) -> None:
        beam_jobs.prepare(beam_jobs.PrepareOptions(input=self.table(rows), output=place, **OPTIONS, **options))


def content(place: str) -> dict[str, dict[str, tuple[bytes, str]]]:
    """For each split the images and the classes of its records, by their ids; each is given once by a stream."""
    found: dict[str, dict[str, tuple[bytes, str]]] = {}
    for split in ("train", "val"):
        with open_dataset(place, split) as data:
            names = data.class_names or ()
            records = {record["id"]: (record["image"].tobytes(), names[record["label"]]) for record in data}
            stream = data.stream(batch_size=3, seed=1, image=CenterCrop(5), fields=["image", "id"])
            given = [id for b in stream for id, weight in zip(b["id"], b["weight"], strict=True) if weight]
            assert sorted(id.decode() for id in given) == sorted(records)
            assert stream.coverage() == data.coverage()
            assert len(records) == len(data)
            found[split] = records
    return found


def classes(place: str) -> dict[str, dict[str, int]]:
    """The number of records of each class of each split, without classes that have none."""
    splits = open_dataset(place).manifest.splits
    return {name: {key: n for key, n in (split.classes or {}).items() if n} for name, split in splits.items()}


def check(history: History) -> None:
    """Compare a dataset with one that is prepared at once."""
    expected = {f"{id}.png": value for id, value in history.expected.items()}
    here = content(history.place)
    assert {id for records in here.values() for id in records} == set(expected)
    once = f"memory://{uuid.uuid4().hex}/once"
    history.prepare(history.expected, once)
    assert here == content(once)
    assert classes(history.place) == classes(once)
    one, other = (open_dataset(place).manifest.statistics for place in (history.place, once))
    assert one == other


def apply(history: History, command: str, ids: list[str], seed: int, label: str) -> None:
    """Change the dataset, and what is expected of it."""
    there = [id for id in ids if id in history.expected]
    if command == "append":
        new = {id: (seed + int(id), label) for id in ids if id not in history.expected}
        history.prepare({**{id: history.prepared[id] for id in there}, **new}, history.place, append=True)
        history.expected |= new
        history.prepared |= new
    elif command == "replace" and there:
        new = {id: (seed + int(id), label) for id in there}
        history.prepare(new, history.place, append=True, replace=True)
        history.expected |= new
        history.prepared |= new
    elif command == "relabel" and there:
        table = history.root / f"relabel-{uuid.uuid4().hex}.csv"
        table.write_text("id,label\n" + "".join(f"{id}.png,{label}\n" for id in there))
        relabel(RelabelOptions(place=history.place, table=str(table)), 1, lambda *_: None)
        history.expected |= {id: (history.expected[id][0], label) for id in there}
    elif command == "withdraw" and (there := [id for id in there if id not in KEPT]):
        withdraw(history.place, [f"{id}.png" for id in there])
        history.expected = {id: value for id, value in history.expected.items() if id not in there}
    elif command == "compact":
        compact_in_place(CompactOptions(place=history.place, workers=1), 0.0)


CHANGES = st.tuples(
    st.sampled_from(COMMANDS),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True),
    st.integers(0, 3).map(lambda number: 100 * number),
    st.sampled_from(["cat", "dog", "ant"]),
)


def follow(root: Path, changes: list[tuple[str, list[str], int, str]]) -> None:
    """Make a dataset, change it, and compare it."""
    history = History(root / uuid.uuid4().hex)
    history.root.mkdir()
    history.expected = {id: (int(id), "cat" if int(id) % 2 else "dog") for id in KEPT}
    history.prepared = dict(history.expected)
    history.prepare(history.expected, history.place)
    first = streams(history.place, 1)
    memory = fsspec.filesystem("memory")
    for change in changes:
        apply(history, *change)
        # Unlike stores, it keeps folders without a file.
        memory.pseudo_dirs[:] = [folder for folder in memory.pseudo_dirs if memory.find(folder)]
    check(history)
    if not any(command == "compact" for command, *_ in changes):
        assert streams(history.place, 1) == first
    shutil.rmtree(history.root)


def streams(place: str, generation: int) -> list[Any]:
    """The batches and the last position of a stream over a generation, bit for bit."""
    with open_dataset(place, generation=generation) as data:
        stream = data.stream(batch_size=2, seed=5, image=CenterCrop(5))
        batches = [[(name, np.asarray(batch[name]).tobytes()) for name in ("image", "label")] for batch in stream]
        return [*batches, stream.state_dict()]


@pytest.fixture
def quick_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a store without conditions, the lock waits for a part of it.
    monkeypatch.setattr("beam_jobs.shards.lock.BEAT_SECONDS", 0.01)


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(CHANGES, min_size=2, max_size=5))
@pytest.mark.usefixtures("quick_lock")
def test_any_history_gives_what_one_job_gives(changes: list[tuple[str, list[str], int, str]], tmp_path: Path) -> None:
    follow(tmp_path, changes)


@pytest.mark.nightly
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(CHANGES, min_size=1, max_size=8))
@pytest.mark.usefixtures("quick_lock")
def test_any_of_many_histories_gives_what_one_job_gives(
    changes: list[tuple[str, list[str], int, str]], tmp_path: Path
) -> None:
    follow(tmp_path, changes)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_lock")
def test_a_long_history_gives_what_one_job_gives(tmp_path: Path) -> None:
    ids = list(NAMES)
    changes = [
        ("append", ids[:8], 100, "ant"),
        ("replace", ids[2:4], 200, "cat"),
        ("relabel", ids[4:8], 0, "emu"),
        ("withdraw", ids[6:7], 0, ""),
        ("append", ids[5:12], 300, "bee"),
        ("relabel", ids[:1], 0, "bee"),
    ]
    follow(tmp_path, changes)
    follow(tmp_path, [*changes, ("compact", ids, 0, ""), ("append", ids[6:7], 400, "cat"), ("withdraw", ids, 0, "")])
