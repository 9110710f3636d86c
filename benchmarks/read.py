"""Images/s of the reader against other readers of images for training.

    python benchmarks/read.py PHOTOS CIFAR10 [--workloads jpeg-crop raw-224] [--rounds 5] [--peers PYTHON]
                              [--peer ffcv=PYTHON] [--work FOLDER] [--quick]

PHOTOS and CIFAR10 hold class folders of JPEGs; they are repeated, as links, up to the number of records in
read_data.py, and `image-shards prepare` makes datasets of them. The peers' formats are written from these shards, with
the same payloads. All data are kept in --work, by default a folder that is removed at the end: some 20 GB.

Each reader runs in a process of its own, on the same two CPUs, in batches of 256, shuffled. One epoch is not measured,
then whole epochs are timed for some seconds, each up to its last batch. The readers take turns, another first each
round, so that a machine that slows down slows all. The CPU time for an image, of all processes of a reader, hardly
depends on other work of the machine.

The files of "raw-224-cold" are dropped from the kernel's cache before each timed epoch. The kernel's read-ahead stays
in the cache, though; to have less memory than data, run it in a cgroup of, say, 1 GB (`systemd-run`).

PYTHON is an interpreter with benchmarks/requirements-read-peers.txt, for FFCV another one with
benchmarks/requirements-read-peers-ffcv.txt. A missing peer is "not installed" in the table. The peers are ffcv,
ffcv-exact, dali, tf.data (by default the interpreter that runs this), webdataset, litdata, mosaicml and grain.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from read_data import REPOSITORY, prepared
from read_tables import GROWTH, TABLES, Row, Table

HERE = Path(__file__).parent
CPUS = 2
ENVIRONMENT = {
    "LITDATA_DISABLE_VERSION_CHECK": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "NUMBA_NUM_THREADS": str(CPUS),
    "OMP_NUM_THREADS": "1",  # of PyTorch and OpenCV in each worker
}
MISSING = "not installed"


class Benchmark:
    """The options of a run, and the data for it."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work = options, work
        self.interpreters = dict(pair.split("=", 1) for pair in options.peer)
        self.versions: dict[str, str] = {}

    def run(self, table: Table) -> None:
        """Measure and print one table."""
        rows = [row for row in table.rows if row.reader in (self.options.readers or [row.reader])]
        found: dict[Row, list[dict[str, Any]]] = {row: [] for row in rows}
        missing = {row for row in rows if not self.made(row, table)}
        for number in range(self.options.rounds):
            first = number % max(1, len(rows))
            for row in (*rows[first:], *rows[:first]):
                rate = {} if row in missing else self.rate(row, table)
                if "rate" in rate:
                    found[row].append(rate)
                    print(f"round {number + 1}, {row.label}: {rate['rate']:,.0f} images/s", file=sys.stderr)
                else:
                    missing.add(row)
        if rows:
            print_table(table, found)

    def rate(self, row: Row, table: Table) -> dict[str, Any]:
        """Images/s and seconds of CPU for an image of one process; neither where a package is missing."""
        script = HERE / ("read_peers.py" if row.peer else "read_ours.py")
        paths = [str(self.dataset(row.data or table.data)), str(self.written(row, table))]
        cold = ["--cold"] if table.cold else []
        seconds = ["--seconds", str(self.options.seconds)]
        found = self.answer(row.peer, [str(script), row.reader, table.task, *paths, *seconds, *cold])
        if "versions" in found:
            numbers = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
            self.versions[row.peer or "image-shards"] = numbers
        return found

    def made(self, row: Row, table: Table) -> bool:
        """Make the data of a row, by its own interpreter. Returns whether they are there."""
        written, dataset = self.written(row, table), self.dataset(row.data or table.data)
        if not written.exists():
            print(f"writing {written.name}", file=sys.stderr)
            part = written.with_name("part")
            shutil.rmtree(part, ignore_errors=True)
            found = self.answer(row.peer, [str(HERE / "read_formats.py"), row.written, str(dataset), str(part)])
            if "missing" in found:
                return False
            part.rename(written)
        return True

    def dataset(self, name: str) -> Path:
        """A dataset of this project."""
        return prepared(name, self.options.photos, self.options.cifar10, self.work, self.options.quick)

    def written(self, row: Row, table: Table) -> Path:
        """The data of a row."""
        name = row.data or table.data
        return self.work / (f"{name}.{row.written}" if row.written else name)

    def answer(self, peer: str | None, command: list[str]) -> dict[str, Any]:
        """The JSON in the last line of a process's output, if it is JSON. A failure ends this process.

        The process has a temporary folder of its own: litdata empties $TMPDIR/data and $TMPDIR/chunks.
        """
        python = sys.executable
        if peer is not None:
            python = self.interpreters.get(peer) or (peer != "tf.data" and self.options.peers) or python
        ours = {} if peer else {"PYTHONPATH": str(REPOSITORY)}
        with tempfile.TemporaryDirectory() as temporary:
            environment = {**os.environ, **ENVIRONMENT, **ours, "TMPDIR": temporary}
            done = subprocess.run(
                [python, *command], capture_output=True, text=True, env=environment, start_new_session=True
            )
        if done.returncode:
            raise SystemExit(f"{python} {' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
        last = done.stdout.strip().rpartition("\n")[2]
        return json.loads(last) if last.startswith("{") else {}

    def growth(self) -> None:
        """Measure and print time to the first batch, and memory, by the number of records."""
        found: dict[str, list[dict[str, float]]] = {name: [] for name in GROWTH}
        for _ in range(self.options.rounds):
            for name in GROWTH:
                found[name].append(self.answer(None, [str(HERE / "read_growth.py"), str(self.dataset(name))]))
        print("\nBy the number of records, tiny ones:\n")
        print("| records | first batch, ms (median) | least | most | RssAnon before, MiB | most of an epoch, MiB |")
        print("|---|---|---|---|---|---|")
        for runs in found.values():
            first = [1000 * run["first"] for run in runs]
            before, most = (statistics.median(run[key] for run in runs) for key in ("before", "most"))
            bounds = f"{statistics.median(first):.1f} | {min(first):.1f} | {max(first):.1f}"
            print(f"| {runs[0]['records']:,} | {bounds} | {before:.1f} | {most:.1f} |")


def main() -> None:
    """Run the workloads that the command line names."""
    options = parse()
    cpus = sorted(os.sched_getaffinity(0))[:CPUS]
    os.sched_setaffinity(0, cpus)  # and of all processes that this one starts
    options.work = options.work and Path(options.work).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)) / ("quick" if options.quick else "")
        work.mkdir(parents=True, exist_ok=True)
        benchmark = Benchmark(options, work)
        for name in options.workloads:
            benchmark.growth() if name == "growth" else benchmark.run(TABLES[name])
        print(f"\n{options.rounds} rounds, {len(cpus)} CPUs of {machine()}.\n")
        for name, numbers in benchmark.versions.items():
            print(f"- {name}: {numbers}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("cifar10", type=Path)
    names = [*TABLES, "growth"]
    parser.add_argument("--workloads", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--readers", nargs="+", metavar="NAME", help="only these, as read_tables.py calls them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of timed epochs in each process, at least")
    parser.add_argument("--peers", metavar="PYTHON", help="the interpreter of all peers that --peer does not name")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="that of one; repeatable")
    parser.add_argument("--work", metavar="FOLDER", help="keep the data there, and use what is there already")
    parser.add_argument("--quick", action="store_true", help="few records, one round of an instant: a smoke test")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.2
    return options


def print_table(table: Table, found: dict[Row, list[dict[str, Any]]]) -> None:
    """Medians, the range of each, and the ratios to image-shards, round by round."""
    rates = {row.label: [run["rate"] for run in runs] for row, runs in found.items()}
    print(f"\n{table.title}:\n\n| | images/s (median) | least | most | image-shards to this | CPU µs for an image |")
    print("|---|---|---|---|---|---|")
    for row, runs in found.items():
        those, ours = rates[row.label], rates.get(row.against or table.rows[0].label, [])
        if not those:
            print(f"| {row.label} | {MISSING} | | | | |")
            continue
        ratios = [a / b for a, b in zip(ours, those, strict=False) if ours is not those]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        bounds = f"{statistics.median(those):,.0f} | {min(those):,.0f} | {max(those):,.0f}"
        cpu = float(f"{statistics.median(run['cpu'] for run in runs) * 1e6:.3g}")
        print(f"| {row.label} | {bounds} | {ratio} | {cpu:g} |")


def machine() -> str:
    """The processor, its CPUs and the memory."""
    information = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in information if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{os.cpu_count()} ({model}), {memory:.0f} GiB"


if __name__ == "__main__":
    main()
