"""Histories with `relabel` and `join` among append and withdraw end with the records of one `prepare`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.command import command
from support.grown import SPLIT, added, assert_as_one, made, records, table

from beam_jobs.errors import UsageError
from beam_jobs.generations.joining.join import join
from beam_jobs.generations.relabeled.relabel import RelabelOptions, relabel
from beam_jobs.generations.withdraw import withdraw
from shard_reader import open_dataset

Rows = dict[str, tuple[Any, ...]]


def relabeled(place: Path, rows: Rows) -> None:
    file = place.parent / "relabel.csv"
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows([("id", "label", "age"), *((name, *values) for name, values in rows.items())])
    relabel(RelabelOptions(place=str(place), table=str(file)), 1)


def assert_whole(place: Path, expected: Rows, tmp_path: Path, **options: Any) -> None:
    """Check that a dataset is as one of these rows, and that its table and its files are, too."""
    made(table(tmp_path / "whole-in", expected), tmp_path / "whole", **options)
    assert_as_one(place, tmp_path / "whole")
    manifest = open_dataset(place).manifest
    tables = [pq.read_table(place / name).to_pylist() for name in manifest.lists("metadata.parquet")]
    found = {row["id"]: row for rows in tables for row in rows}
    assert {name: (row["label_name"], row["age"]) for name, row in found.items()} == expected
    result = command("verify", place)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "seed",
    [pytest.param(1, marks=pytest.mark.slow), *(pytest.param(n, marks=pytest.mark.nightly) for n in range(2, 6))],
)
def test_any_history_ends_as_one_dataset(tmp_path: Path, seed: int) -> None:
    rng, rows, number = np.random.default_rng(seed), Rows(), 0

    def some(count: int) -> Rows:
        nonlocal number
        names = [f"{number + one}.png" for one in range(count)]
        number += count
        return {name: (str(rng.choice(list("abcd"))), float(rng.integers(9)) / 2) for name in names}

    def chosen(count: int) -> list[str]:
        return rng.choice(sorted(rows), count, replace=False).tolist()

    rows |= some(12)
    place = tmp_path / "out"
    made(table(tmp_path / "in-0", rows), place, split=SPLIT)
    for step, what in enumerate(["relabel", *rng.permutation(["append", "relabel", "withdraw", "append"]), "relabel"]):
        if what == "append":
            more = some(4)
            added(table(tmp_path / f"in-{step + 1}", more), place)
            rows |= more
        elif what == "withdraw":
            gone = chosen(3)
            withdraw(str(place), gone)
            for name in gone:
                del rows[name]
        else:
            more = {name: (str(rng.choice(list("abxyz"))), float(rng.integers(99)) / 2) for name in chosen(5)}
            relabeled(place, more)
            rows |= more
    assert_whole(place, rows, tmp_path, split=SPLIT)


@pytest.mark.slow
def test_a_join_of_datasets_that_changed_grows_as_any(tmp_path: Path) -> None:
    parts: list[Rows] = [
        {f"{n}.png": ("ab"[n % 2], n / 2) for n in range(8)},
        {f"{n}.png": ("bc"[n % 2], 1.0) for n in range(8, 20)},
    ]
    for name, rows in zip("ab", parts, strict=True):
        made(table(tmp_path / f"in-{name}", rows), tmp_path / name, split=SPLIT)
    added(table(tmp_path / "more-a", {"25.png": ("q", 2.0)}), tmp_path / "a")
    relabeled(tmp_path / "b", {"8.png": ("w", 7.0), "9.png": ("b", 3.0)})
    withdraw(str(tmp_path / "a"), ["3.png"])
    rows = {**parts[0], "25.png": ("q", 2.0), **parts[1], "8.png": ("w", 7.0), "9.png": ("b", 3.0)}
    del rows["3.png"]
    join([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "all"), 1)
    relabeled(tmp_path / "all", {"25.png": ("a", 5.0), "10.png": ("new", 5.0)})
    rows |= {"25.png": ("a", 5.0), "10.png": ("new", 5.0)}
    assert_whole(tmp_path / "all", rows, tmp_path, split=SPLIT)
    result = command("compact", tmp_path / "all", tmp_path / "compact")
    assert result.returncode == 0, result.stderr
    assert_as_one(tmp_path / "compact", tmp_path / "whole")
    assert records(open_dataset(tmp_path / "compact", "val")) == records(open_dataset(tmp_path / "all", "val"))
    more = table(tmp_path / "more", {"30.png": ("b", 2.0)})
    with pytest.raises(UsageError, match="has shards of other datasets; append to these"):
        added(more, tmp_path / "all")
