"""The timing of a reader in benchmarks/read.py, in a process of its own: the same for image-shards and the peers."""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from read_data import Records, drop_from_cache

TASKS = ("crop", "rrc", "raw", "random")

Epoch = Callable[[], Iterator[tuple[Any, Any]]]
Rate = dict[str, Any]


@dataclass(frozen=True)
class Reader:
    """A reader to measure.

    Args:
        epochs: for (task, dataset, written), returns a function whose calls return an epoch: (images, labels) of each
            batch.
        packages: packages whose versions belong to the figures.
        access: for (dataset, written), returns a function from the number of a record to its image; None without
            random access.
    """

    epochs: Callable[[str, str, str], Epoch] | None
    packages: tuple[str, ...]
    access: Callable[[str, str], Callable[[int], Any]] | None = None


def measure(description: str | None, readers: Mapping[str, Reader]) -> None:
    """Run the reader that the command line names, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=readers)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("dataset", help="ours")
    parser.add_argument("written", help="the same records in the reader's format")
    parser.add_argument("--seconds", type=float, default=3, help="how long to go on, at least")
    parser.add_argument("--cold", action="store_true", help="drop the files from the kernel's cache before each epoch")
    options = parser.parse_args()
    reader = readers[options.reader]
    records = len(Records(options.dataset))
    before = partial(drop_from_cache, options.written) if options.cold else lambda: None
    try:
        if options.task == "random":
            assert reader.access
            found = random(reader.access(options.dataset, options.written), records, options.seconds)
        else:
            assert reader.epochs
            epoch = reader.epochs(options.task, options.dataset, options.written)
            found = epochs(epoch, records, options.seconds, before)
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}))
    else:
        print(json.dumps(found | {"versions": versions(reader.packages)}))


def epochs(epoch: Epoch, records: int, seconds: float, before: Callable[[], None]) -> Rate:
    """Of whole epochs, after one that is not timed.

    The images of the batches are counted, as some readers fill the last batch up. An epoch has `records` at least.
    """
    whole_epoch(epoch, records)
    count, elapsed, busy = 0, 0.0, 0.0
    while elapsed < seconds:
        before()
        began, busy_before = time.perf_counter(), cpu_seconds()
        count += whole_epoch(epoch, records)
        elapsed += time.perf_counter() - began
        busy += cpu_seconds() - busy_before
    return {"rate": count / elapsed, "cpu": busy / count}


def whole_epoch(epoch: Epoch, records: int) -> int:
    """Read one. Returns the number of images that came."""
    count = sum(len(labels) for _, labels in epoch())
    if count < records:
        raise SystemExit(f"{count} images of {records}")
    return count


def random(access: Callable[[int], Any], records: int, seconds: float) -> Rate:
    """One after the other, in random order; each was read once before."""
    for number in range(records):
        access(number)
    numbers = np.random.default_rng(0).integers(records, size=1000).tolist()
    count, elapsed, busy = 0, 0.0, 0.0
    began, busy_before = time.perf_counter(), cpu_seconds()
    while elapsed < seconds:
        for number in numbers:
            access(number)
        count += len(numbers)
        elapsed, busy = time.perf_counter() - began, cpu_seconds() - busy_before
    return {"rate": count / elapsed, "cpu": busy / count}


def cpu_seconds() -> float:
    """Seconds of CPU that this process and its children have used; the session has no other processes."""
    ticks, session = 0, str(os.getsid(0))
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(path).read_text().rpartition(")")[2].split()
            if fields[3] == session:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of Python and of the packages that are installed."""
    found = {"Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
