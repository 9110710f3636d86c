"""Datasets that grow, of small images of noise."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beam_jobs import PrepareOptions, prepare
from beam_jobs.steps.result import PrepareResult
from shard_reader import Dataset, open_dataset

WORDS: Mapping[str, Any] = {"fit": "none", "encoding": "png", "workers": 1, "shards": 2, "max_rejects": 0}
SPLIT = {"train": 0.7, "val": 0.3}


def image(path: Path, seed: int) -> None:
    """A file with noise of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def folder(path: Path, classes: str, numbers: Iterable[int]) -> Path:
    """A folder of classes: image `n` is of class `classes[n % len(classes)]`."""
    for number in numbers:
        image(path / classes[number % len(classes)] / f"{number}.png", number)
    return path


def table(path: Path, rows: Mapping[str, tuple[Any, ...]], header: str = "path,label,age") -> Path:
    """A table of images, each with its seed in its name, as `3.png`."""
    path.mkdir(parents=True, exist_ok=True)
    for name in rows:
        image(path / name, int(Path(name).stem))
    with open(path / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *([name, *values] for name, values in rows.items())])
    return path / "table.csv"


def made(source: Path, output: Path, **options: Any) -> PrepareResult:
    """A new dataset."""
    return prepare(PrepareOptions(input=source, output=output, **{**WORDS, **options}), quiet=True)


def added(source: Path, output: Path, **options: Any) -> PrepareResult:
    """The same, with more records."""
    given = {"workers": 1, "max_rejects": 0, "append": True, **options}
    return prepare(PrepareOptions(input=source, output=output, **given), quiet=True)


def records(data: Dataset) -> dict[str, dict[str, Any]]:
    """All records by their ids, with the names of their classes."""
    found = {}
    for number in range(len(data)):
        record = {name: one.tolist() if isinstance(one, np.ndarray) else one for name, one in data[number].items()}
        if "label" in record and data.manifest.class_names is not None:
            record["label"] = data.manifest.class_names[record["label"]]
        assert record["id"] not in found
        found[record["id"]] = record
    return found


def assert_as_one(grown: Path, whole: Path) -> None:
    """Check that two datasets have the same records, classes, splits and statistics."""
    one, other = open_dataset(grown).manifest, open_dataset(whole).manifest
    assert list(one.splits) == list(other.splits)
    assert one.statistics == other.statistics
    for name in one.splits:
        assert records(open_dataset(grown, name)) == records(open_dataset(whole, name))
        counted = [
            {c: n for c, n in (split.classes or {}).items() if n} for split in (one.splits[name], other.splits[name])
        ]
        assert counted[0] == counted[1]
