"""The timing of a reader in benchmarks/remote.py, in a process of its own: the same for image-shards and the peers."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from read_timing import Epoch, cpu_seconds, versions

TASKS = ("crop", "raw")


@dataclass(frozen=True)
class Streamer:
    """A reader to measure.

    Args:
        opening: for (task, place, cache), imports its packages, and returns a function that opens the dataset. A place
            is a URL or a folder; the folder `cache` exists, and is empty.
        packages: packages whose versions belong to the figures.
        keeps: whether an epoch leaves its bytes on the disk, for the next ones.
    """

    opening: Callable[[str, str, str], Callable[[], Epoch]]
    packages: tuple[str, ...]
    keeps: bool = True


def measure(description: str | None, readers: Mapping[str, Streamer]) -> None:
    """Run the reader that the command line names, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=readers)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("place", help="the URL of what it reads")
    parser.add_argument("cache", help="an empty folder")
    parser.add_argument("records", type=int, help="that there are")
    parser.add_argument("--seconds", type=float, default=3, help="how long to go on with cached epochs, at least")
    options = parser.parse_args()
    reader = readers[options.reader]
    try:
        opening = reader.opening(options.task, options.place, options.cache)
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}))
        return
    found = first_epoch(opening, options.records)
    epoch = found.pop("epoch")
    if reader.keeps:
        found |= further_epochs(epoch, options.records, options.seconds)
    if stats := getattr(epoch, "stats", None):
        found["stats"] = stats()
    print(json.dumps(found | {"versions": versions(reader.packages)}))


def first_epoch(opening: Callable[[], Epoch], records: int) -> dict[str, Any]:
    """Opening the dataset and all of an epoch, in which images are counted: seconds to its first batch, images/s."""
    began, busy, count, first = time.perf_counter(), cpu_seconds(), 0, 0.0
    epoch = opening()
    for _, labels in epoch():
        first = first or time.perf_counter() - began
        count += len(labels)
    elapsed, busy = time.perf_counter() - began, cpu_seconds() - busy
    if not records <= count < records + 256:  # the last batch may be padded
        raise SystemExit(f"{count} images of {records}")
    return {"epoch": epoch, "first": first, "rate": records / elapsed, "cpu": busy / records}


def further_epochs(epoch: Epoch, records: int, seconds: float) -> dict[str, float]:
    """Images/s of whole epochs after the first one."""
    done, elapsed = 0, 0.0
    while elapsed < seconds:
        began = time.perf_counter()
        for _ in epoch():
            pass
        elapsed += time.perf_counter() - began
        done += 1
    return {"again": done * records / elapsed}
