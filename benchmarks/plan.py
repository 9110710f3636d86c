"""Time, memory and disk of planning, for up to ten million references.

    python benchmarks/plan.py [--references 100000 300000 1000000 3000000 10000000] [--shard-records 4000]

The listing is made up: ids such as n01440764/00001234.jpg in a thousand classes, in an order unrelated to theirs. The
steps after it are the real ones: fingerprint, sort, resolve, plan files, cuts, a task for each shard. Each number of
references has a process of its own, with its anonymous memory sampled every 20 ms. Prints a table for
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from beam_jobs.external_sort import Spill
from beam_jobs.options import SplitRule
from beam_jobs.plan import order as plan
from beam_jobs.plan.catalog import Catalog
from beam_jobs.plan.tasks import plan_shards
from beam_jobs.sources import Entry, Layout, Problem, Reference, Source
from beam_jobs.sources.files.interface import SourceOptions

CLASSES = 1000
MIB = 1 << 20


class MadeUp(Source):
    """A thousand classes of photos."""

    def __init__(self, count: int) -> None:
        super().__init__(SourceOptions(input="made up"))
        self._count = count

    def entries(self) -> Iterator[Entry]:
        """Ids that differ, of the length of ImageNet's, with sizes that photos have."""
        for number in range(self._count):
            yield Entry(f"n{number % CLASSES:08d}/n{number % CLASSES:08d}_{number:08d}.JPEG", 110_000 + number % 9973)

    def layout(self) -> Layout:
        """Class folders."""
        return Layout(text="made up", class_names=tuple(f"n{number:08d}" for number in range(CLASSES)))

    def resolve(self, entry: Entry) -> Entry | Problem:
        """The label is in the id."""
        return entry._replace(label=entry.id[:9])

    def read(self, reference: Reference) -> bytes:
        """Nothing."""
        raise FileNotFoundError(reference.id)


def main() -> None:
    """Measure each number in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = [100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
    parser.add_argument("--references", type=int, nargs="+", default=numbers)
    parser.add_argument("--shard-records", type=int, default=4000)
    parser.add_argument("--one", action="store_true", help="measure the first number, here, and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.references[0], options.shard_records)))
        return
    print(
        f"Python {platform.python_version()}, numpy {version('numpy')}, {options.shard_records} references a shard:\n"
    )
    print("| references | list, s | arrange, s | cut, s | s per million | peak, MiB | spill, MB | plan, MB | shards |")
    print("|---|---|---|---|---|---|---|---|---|")
    for number in options.references:
        words = [sys.executable, __file__, "--one", "--references", str(number)]
        words += ["--shard-records", str(options.shard_records)]
        print(row(number, json.loads(subprocess.run(words, check=True, capture_output=True).stdout)), flush=True)


def row(number: int, found: dict[str, float]) -> str:
    """A line of the table."""
    seconds = found["list"] + found["arrange"] + found["cut"]
    return (
        f"| {number:,} | {found['list']:.1f} | {found['arrange']:.1f} | {found['cut']:.2f}"
        f" | {seconds / number * 1e6:.1f} | {found['peak'] / MIB:.0f} | {found['spill'] / 1e6:.0f}"
        f" | {found['plan'] / 1e6:.0f} | {found['shards']:,.0f} |"
    )


def measure(count: int, shard_records: int) -> dict[str, float]:
    """The time, memory and disk of planning `count` references."""
    source = MadeUp(count)
    with tempfile.TemporaryDirectory() as name, PeakMemory() as memory:
        folder = Path(name)
        (folder / "spill").mkdir()
        spill = Spill(folder / "spill")
        times = [time.perf_counter()]
        catalog = Catalog()
        plan.scan(source, 0, catalog, spill, lambda: None)
        schema = catalog.close(source.layout())
        times.append(time.perf_counter())
        spilled = sum(path.stat().st_size for path in (folder / "spill").iterdir())
        rule = SplitRule(parts=(("train", "0.9"), ("val", "0.1")))
        planned = plan.plan_inputs(spill, source, schema, rule, 0, folder)
        times.append(time.perf_counter())
        shards = {split: -(-ordered.records // shard_records) for split, ordered in planned.ordered.items()}
        tasks = plan_shards(planned.ordered, shards, folder, "")
        times.append(time.perf_counter())
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    names = ("list", "arrange", "cut")
    spent = {name: end - start for name, start, end in zip(names, times, times[1:], strict=False)}
    return {**spent, "peak": memory.peak, "spill": spilled, "plan": size, "shards": tasks}


class PeakMemory:
    """The most anonymous memory that this process has had while it was measured, looked at every 20 ms."""

    def __enter__(self) -> PeakMemory:
        self.peak, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.peak = max(self.peak, int(line.split()[1]) * 1024)


if __name__ == "__main__":
    main()
