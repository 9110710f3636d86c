"""The timing of a reader in benchmarks/feed.py: as in read.py, or a part of an epoch if one would take minutes."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from read_data import Records
from read_timing import TASKS, Epoch, Rate, Reader, cpu_seconds, epochs, versions

LONG = 5  # times the records, in an epoch of the task "long"
WARM_UP = 2  # batches: compiling


def measure(description: str | None, readers: Mapping[str, Reader]) -> None:
    """Run the reader that the command line names, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=readers)
    parser.add_argument("task", choices=(*TASKS, "long"))
    parser.add_argument("dataset", help="ours")
    parser.add_argument("written", help="the same records in the reader's format")
    parser.add_argument("--seconds", type=float, default=3, help="how long to go on, at least")
    parser.add_argument("--window", action="store_true", help="time a part of an epoch")
    options = parser.parse_args()
    reader = readers[options.reader]
    assert reader.epochs
    try:
        epoch = reader.epochs(options.task, options.dataset, options.written)
        if options.window:
            found = window(epoch, options.seconds)
        else:
            records = len(Records(options.dataset)) * (LONG if options.task == "long" else 1)
            found = epochs(epoch, records, options.seconds, lambda: None)
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}))
    else:
        print(json.dumps(found | {"versions": versions(reader.packages)}))


def window(epoch: Epoch, seconds: float) -> Rate:
    """The rate of batches after the first two, at least one, from the end of one to the end of another."""
    batches = endless(epoch)
    for _ in range(WARM_UP):
        next(batches)
    count, began, busy = 0, time.perf_counter(), cpu_seconds()
    while count == 0 or time.perf_counter() - began < seconds:
        count += len(next(batches)[1])
    return {"rate": count / (time.perf_counter() - began), "cpu": (cpu_seconds() - busy) / count}


def endless(epoch: Epoch) -> Iterator[tuple[Any, Any]]:
    """One epoch after the other."""
    while True:
        yield from epoch()
