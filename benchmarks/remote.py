"""The speed of streaming shards from an object store that is 20 ms and 200 MB/s away, against other libraries.

    python benchmarks/remote.py PHOTOS --server VERSITYGW --peers PYTHON [--work FOLDER] [--rounds 3] [--seconds 3]
        [--workloads jpeg raw] [--readers ours mosaicml ...] [--records N] [--quick]

PHOTOS holds class folders of JPEGs. VERSITYGW is the S3 server (github.com/versity/versitygw): it serves files as they
lie on a disk, and costs less CPU than MinIO. benchmarks/remote_proxy.py stands before it. The server, the proxy and
the reader share two CPUs; the link is for all connections together, and an answer is 20 ms late.

Each reader is a process of its own, one after the other, in turns: an epoch with an empty cache, timed from opening the
dataset on (imports done, workers not yet started), then, for readers with a cache, epochs from it for `--seconds`. The
served files are in the kernel's page cache, and so are the files of a reader's cache.

PYTHON is an interpreter with benchmarks/requirements-remote-peers.txt. Prints tables for benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memory import family, memory_of
from read import CPUS, ENVIRONMENT, HERE, MISSING, Benchmark, machine
from read_data import DATA, REPOSITORY, tfrecords
from read_tables import Row
from remote_store import BUCKET, Store, serving, tag

INTERVAL = 0.3
MIB = 1 << 20
LOCAL = "local"
ROWS = (
    Row("image-shards, from the disk", LOCAL),
    Row("image-shards, cached", "ours"),
    Row("image-shards, uncached", "ours-uncached"),
    Row("MosaicML streaming", "mosaicml", "mosaicml", "mosaicml"),
    Row("litdata", "litdata", "litdata", "litdata"),
    Row("WebDataset, cached", "webdataset", "webdataset", "webdataset"),
    Row("WebDataset, uncached", "webdataset-uncached", "webdataset", "webdataset", against="image-shards, uncached"),
)
CACHED = ROWS[1].label
WORKLOADS = {
    "jpeg": ("JPEG, short side 256, the middle 224x224", "remote-jpeg", "crop"),
    "raw": ("Raw 224x224x3", "remote-raw", "raw"),
}


class Remote(Benchmark):
    """The options of a run, and the data for it, here in a bucket."""

    def run_workload(self, name: str) -> None:
        """Measure and print one table."""
        title, data, task = WORKLOADS[name]
        dataset = self.dataset(data)
        rows = [row for row in ROWS if row.reader in (self.options.readers or [row.reader])]
        missing = {row for row in rows if row.written and not self.made_of(dataset, row)}
        records, size = extent(dataset)
        found: dict[Row, list[dict[str, Any]]] = {row: [] for row in rows}
        folders = {self.place(dataset, row) for row in rows if row not in missing}
        for folder in folders:
            tag(folder)
        with serving(self.options.server, self.work.parent, self.options.latency, self.options.bandwidth) as store:
            for number in range(self.options.rounds):
                first = number % max(1, len(rows))
                for row in (*rows[first:], *rows[:first]):
                    run = {} if row in missing else self.stream(row, task, dataset, records, store)
                    if "rate" not in run:
                        missing.add(row)
                        continue
                    found[row].append(run)
                    shown = {key: value for key, value in run.items() if key != "versions"}
                    print(f"round {number + 1}, {row.label}: {json.dumps(shown)}", file=sys.stderr)
        print(f"\n{title} ({records:,} images, {size / 1e9:.2f} GB):\n")
        print_table(found, size / records, self.options.bandwidth)

    def place(self, dataset: Path, row: Row) -> Path:
        """The folder of a row's data."""
        return dataset.with_name(f"{dataset.name}.{row.written}") if row.written else dataset

    def made_of(self, dataset: Path, row: Row) -> bool:
        """Make the data of a peer, by its own interpreter. Returns whether they are there."""
        written = self.place(dataset, row)
        if not written.exists():
            print(f"writing {written.name}", file=sys.stderr)
            part = written.with_name("part")
            shutil.rmtree(part, ignore_errors=True)
            found = self.answer(row.peer, [str(HERE / "read_formats.py"), str(row.written), str(dataset), str(part)])
            if "missing" in found:
                return False
            part.rename(written)
        return True

    def stream(self, row: Row, task: str, dataset: Path, records: int, store: Store) -> dict[str, Any]:
        """The result of one process, its memory, and the store's work for it; empty if a package is missing."""
        script = HERE / ("remote_peers.py" if row.peer else "remote_ours.py")
        place = self.place(dataset, row)
        url = str(place) if row.reader == LOCAL else f"s3://{BUCKET}/{place.name}"
        python = (row.peer and self.options.peers) or sys.executable
        ours = {} if row.peer else {"PYTHONPATH": str(REPOSITORY)}
        with tempfile.TemporaryDirectory(dir=self.work.parent) as scratch, tempfile.TemporaryFile("w+") as errors:
            cache, temporary = Path(scratch, "cache"), Path(scratch, "temporary")
            cache.mkdir()
            temporary.mkdir()
            environment = {**os.environ, **ENVIRONMENT, **store.environment, **ours, "TMPDIR": str(temporary)}
            command = [python, str(script), row.reader, task, url, str(cache), str(records)]
            before = store.spent()
            command += ["--seconds", str(self.options.seconds)]
            pipe = subprocess.PIPE
            with (
                subprocess.Popen(
                    command, stdout=pipe, stderr=errors, text=True, env=environment, start_new_session=True
                ) as process,
                Peak(lambda: sum(map(memory_of, family(process.pid)))) as memory,
                Peak(lambda: used(Path(scratch))) as disk,
            ):
                output, _ = process.communicate()
            if process.returncode:
                errors.seek(0)
                raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}\n{errors.read()[-8000:]}")
        found: dict[str, Any] = json.loads(output.strip().rpartition("\n")[2])
        if "missing" in found:
            return {}
        numbers = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        self.versions[row.peer or "image-shards"] = numbers
        spent = dataclasses.asdict(store.spent().since(before))
        return found | spent | {"memory": memory.most, "disk": disk.most}


class Peak:
    """The maximum of a size while the block ran, sampled now and then."""

    def __init__(self, size: Callable[[], int]) -> None:
        self._size, self.most = size, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(INTERVAL):
            self.most = max(self.most, self._size())


def used(folder: Path) -> int:
    """Bytes of the disk that the files in a folder take, including bytes that are only reserved."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def extent(dataset: Path) -> tuple[int, int]:
    """The number of records of a dataset, and the bytes of its shards."""
    splits = json.loads((dataset / "dataset.json").read_text())["splits"]
    return splits["train"]["records"], sum(os.path.getsize(file) for file in tfrecords(dataset))


def print_table(found: dict[Row, list[dict[str, Any]]], size: float, bandwidth: float) -> None:
    """Medians, and ratios within a round. `size` is bytes of a record."""
    print(
        "| | first batch, s | epoch 1, images/s (median) | least | most | MB/s | of the link | of the disk's speed |",
        end="",
    )
    print(" image-shards to this | epoch 2, images/s | of the disk's speed | image-shards to this |", end="")
    print(" CPU µs for an image | memory, MiB | cache, MB | fetched, MB |")
    print("|" + "---|" * 16)
    runs = {row.label: those for row, those in found.items()}
    disk = runs.get(ROWS[0].label, [])
    for row, those in found.items():
        if not those:
            print(f"| {row.label} | {MISSING} |" + " |" * 14)
            continue
        ours = runs.get(row.against or CACHED, []) if row.peer else []
        rates = [run["rate"] for run in those]
        rate, remote = statistics.median(rates), row.reader != LOCAL
        cells = [
            f"{median(those, 'first'):.2f}",
            f"{rate:,.0f} | {min(rates):,.0f} | {max(rates):,.0f}",
            f"{rate * size / 1e6:.0f}",
            f"{rate * size / bandwidth:.2f}" if remote else "",
            ratios(those, disk, "rate") if remote else "",
            ratios(ours, those, "rate"),
            f"{median(those, 'again'):,.0f}" if "again" in those[0] else "",
            ratios(those, disk, "again") if remote else "",
            ratios(ours, those, "again"),
            f"{median(those, 'cpu') * 1e6:.3g}",
            f"{median(those, 'memory') / MIB:.0f}",
            f"{median(those, 'disk') / 1e6:.0f}",
            f"{median(those, 'fetched') / 1e6:.0f}",
        ]
        print(f"| {row.label} | {' | '.join(cells)} |")


def median(runs: list[dict[str, Any]], key: str) -> float:
    """Of all rounds."""
    return statistics.median(run[key] for run in runs)


def ratios(runs: list[dict[str, Any]], others: list[dict[str, Any]], key: str) -> str:
    """The median of the ratios within a round, and their range."""
    both = [a[key] / b[key] for a, b in zip(runs, others, strict=False) if key in a and key in b]
    return f"{statistics.median(both):.2f} ({min(both):.2f} to {max(both):.2f})" if both else ""


def main() -> None:
    """Run the workloads that the command line names."""
    options = parse()
    cpus = sorted(os.sched_getaffinity(0))[:CPUS]
    os.sched_setaffinity(0, cpus)  # and of all processes that this one starts
    if options.records:
        for name in "remote-jpeg", "remote-raw":
            DATA[name] = dataclasses.replace(DATA[name], records=options.records)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.work or temporary).resolve() / ("quick" if options.quick else "") / BUCKET
        work.mkdir(parents=True, exist_ok=True)
        benchmark = Remote(options, work)
        for name in options.workloads:
            benchmark.run_workload(name)
            if not options.work:
                shutil.rmtree(work)
                work.mkdir()
        link = f"{options.latency * 1000:g} ms, {options.bandwidth / 1e6:g} MB/s"
        print(f"\n{options.rounds} rounds, {link}, {len(cpus)} CPUs of {machine()}.\n")
        for name, numbers in benchmark.versions.items():
            print(f"- {name}: {numbers}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--server", default="versitygw", metavar="VERSITYGW")
    parser.add_argument("--peers", metavar="PYTHON", help="the interpreter of the peers")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--readers", nargs="+", choices=[row.reader for row in ROWS], help="only these")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of epochs from the cache in each process, at least")
    parser.add_argument("--records", type=int, help="other than 30,000 JPEGs and 13,000 raw images")
    parser.add_argument("--latency", type=float, default=0.02, metavar="SECONDS")
    parser.add_argument("--bandwidth", type=float, default=200e6, metavar="BYTES", help="a second")
    parser.add_argument("--work", metavar="FOLDER", help="keep the data there, and use what is there already")
    parser.add_argument("--quick", action="store_true", help="few records, one round of an instant: a smoke test")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.2
    options.peer, options.cifar10 = [], options.photos  # of benchmarks/read.py, which this is made of
    return options


if __name__ == "__main__":
    main()
