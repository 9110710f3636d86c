"""CPU time, memory and disk of planning, for up to ten million references.

    python benchmarks/plan.py [--references 100000 300000 1000000 3000000 10000000] [--shard-records 4000]
    python benchmarks/plan.py --folder FOLDER --beside CHECKOUT [--runs 5]

The listing is made up: ids such as n01440764/00001234.jpg in a thousand classes, in an order unrelated to theirs. The
steps after it are the real ones: fingerprint, sort, resolve, plan files, cuts, a task for each shard. Each number of
references has a process of its own, with its anonymous memory sampled every 20 ms. Prints a table for
benchmarks/README.md.

With --beside, another checkout of this project plans the same references, in turns with this one, and the table has the
ratios. With --folder, the references are 200,000 empty files in a thousand folders, which are made in FOLDER if need
be: the listing is that of a disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, os.environ.get("PLANNED_BY") or str(Path(__file__).resolve().parent.parent))

from beam_jobs.external_sort import Spill
from beam_jobs.options import SplitRule
from beam_jobs.plan import order as plan
from beam_jobs.plan.schema.catalog import Catalog
from beam_jobs.plan.tasks import plan_shards
from beam_jobs.sources import Entry, Layout, Problem, Reference, Source
from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.folder import Folder

CLASSES = 1000
FILES = 200  # of a class, in a folder
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
    parser.add_argument("--folder", help="of empty files to list")
    parser.add_argument("--beside", help="another checkout, for the ratio")
    parser.add_argument("--runs", type=int, default=5, help="of each checkout, with --beside")
    parser.add_argument("--one", action="store_true", help="measure the first number, here, and print JSON")
    options = parser.parse_args()
    if options.folder is not None:
        options.references = [CLASSES * FILES]
    if options.one:
        source = MadeUp(options.references[0]) if options.folder is None else folder(options.folder)
        print(json.dumps(measure(source, options.shard_records)))
        return
    print(
        f"Python {platform.python_version()}, numpy {version('numpy')}, {options.shard_records} references a shard:\n"
    )
    if options.beside is not None:
        compare(options)
        return
    print("| references | list, CPU s | arrange | cut | s per million | peak, MiB | spill, MB | plan, MB | shards |")
    print("|---|---|---|---|---|---|---|---|---|")
    for number in options.references:
        print(row(number, planned(options, number)), flush=True)


def compare(options: argparse.Namespace) -> None:
    """Plan in turns with another checkout, and print the medians."""
    print("| references | CPU s per million, this | the other | the other to this (least to most) |")
    print("|---|---|---|---|")
    for number in options.references:
        pairs = [
            (cpu(planned(options, number)), cpu(planned(options, number, options.beside))) for _ in range(options.runs)
        ]
        this, other = (statistics.median(times) / number * 1e6 for times in zip(*pairs, strict=True))
        ratios = sorted(theirs / ours for ours, theirs in pairs)
        print(
            f"| {number:,} | {this:.1f} | {other:.1f}"
            f" | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |",
            flush=True,
        )


def planned(options: argparse.Namespace, number: int, checkout: str | None = None) -> dict[str, float]:
    """What a process of its own measures."""
    words = [sys.executable, __file__, "--one", "--references", str(number)]
    words += ["--shard-records", str(options.shard_records)]
    words += [] if options.folder is None else ["--folder", options.folder]
    environment = os.environ | ({} if checkout is None else {"PLANNED_BY": checkout})
    environment.pop("PYTHONPATH", None)
    found = subprocess.run(words, check=True, capture_output=True, env=environment).stdout
    return dict(json.loads(found))


def cpu(found: dict[str, float]) -> float:
    """The CPU seconds of all steps."""
    return found["list"] + found["arrange"] + found["cut"]


def row(number: int, found: dict[str, float]) -> str:
    """A line of the table."""
    return (
        f"| {number:,} | {found['list']:.1f} | {found['arrange']:.1f} | {found['cut']:.2f}"
        f" | {cpu(found) / number * 1e6:.1f} | {found['peak'] / MIB:.0f} | {found['spill'] / 1e6:.0f}"
        f" | {found['plan'] / 1e6:.0f} | {found['shards']:,.0f} |"
    )


def folder(place: str) -> Folder:
    """A folder of empty files in class folders."""
    for label in range(CLASSES):
        path = Path(place, f"n{label:08d}")
        if not path.exists():
            path.mkdir(parents=True)
            for number in range(FILES):
                (path / f"n{label:08d}_{number * CLASSES + label:08d}.JPEG").touch()
    return Folder(SourceOptions(input=place))


def measure(source: Source, shard_records: int) -> dict[str, float]:
    """The CPU time, memory and disk of planning the references of a source."""
    with tempfile.TemporaryDirectory() as name, PeakMemory() as memory:
        folder = Path(name)
        (folder / "spill").mkdir()
        spill = Spill(folder / "spill")
        times = [time.process_time()]
        catalog = Catalog()
        plan.scan(source, 0, catalog, spill, lambda: None)
        schema = catalog.close(source.layout())
        times.append(time.process_time())
        spilled = sum(path.stat().st_size for path in (folder / "spill").iterdir())
        rule = SplitRule(parts=(("train", "0.9"), ("val", "0.1")))
        planned = plan.plan_inputs(spill, source, schema, rule, 0, folder)
        times.append(time.process_time())
        shards = {split: -(-ordered.records // shard_records) for split, ordered in planned.ordered.items()}
        tasks = plan_shards(planned.ordered, shards, folder, "")
        times.append(time.process_time())
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
            self.peak = max(self.peak, anonymous_memory())


def anonymous_memory(process: int | str = "self") -> int:
    """The anonymous memory of a process now, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


if __name__ == "__main__":
    main()
