"""The speed of batches for TensorFlow, Keras, PyTorch and JAX, beside other ways to feed them, and the memory.

    python benchmarks/feed.py PHOTOS CIFAR10 [--parts jpeg raw-224] [--rounds 3] [--seconds 3] [--work FOLDER]
                              [--peers PYTHON] [--readers stream torch] [--quick]

PHOTOS and CIFAR10 are as for benchmarks/read.py, and so are the datasets that are made of them in --work, by default
a folder that is removed at the end: some 6 GB. The parts:

- jpeg, raw-224, raw-32: images/s of this project's adapters, against the bare stream; of each framework's own best way
  on the same shards; for jpeg, also of the common ways on the folder of images that the shards were made of.
- jpeg-long: the adapters in longer epochs, which begin and end less often.
- balance, balance-raw-32: balanced and weighted epochs, against all records once.
- augment: random crops and flips while an image is decoded, against those on the device, a CPU unless noted.
- colours, shear, shear-32: this project's augmentations at decode, against torchvision's and Keras'.
- memory: memory of trainings, after their second epoch and after their last.
- gpu: the time that ResNet-50 waits for data, copies to the GPU, and decoding on it; skipped without a GPU.

Each reader runs in a process of its own, on the same two CPUs, in batches of 256, shuffled. One epoch is not measured,
then whole epochs are timed for some seconds; for readers that are too slow, a part of an epoch of that time. The
readers take turns, another first each round. TensorFlow, Keras, PyTorch and JAX see no GPU, except in the parts augment
(PyTorch) and gpu, which has all CPUs.

PYTHON is an interpreter with benchmarks/requirements-feed-peers.txt, for Grain. The row of a reader that fails has the
reason.
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

from feed_tables import MEMORY, PARTS, TABLES, Row, Table
from read import machine
from read_data import DATA, REPOSITORY, prepared

HERE = Path(__file__).parent
CPUS = 2
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
Runs = dict[Row, list[dict[str, Any]]]


class Benchmark:
    """The options of a run, and the data for it."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work = options, work
        self.versions: dict[str, dict[str, str]] = {}

    def speed(self, name: str) -> None:
        """Measure and print one table of images/s."""
        table = TABLES[name]
        rows = [row for row in table.rows if row.reader in (self.options.readers or [row.reader])]
        found: Runs = {row: [] for row in rows}
        failed = {row: self.unmade(row, table) for row in rows}
        for number in range(self.options.rounds):
            first = number % max(1, len(rows))
            for row in (*rows[first:], *rows[:first]):
                if failed[row]:
                    continue
                rate = self.rate(row, table)
                failed[row] = rate.get("failed", "")
                if not failed[row]:
                    found[row].append(rate)
                    print(f"round {number + 1}, {row.label}: {rate['rate']:,.0f} images/s", file=sys.stderr)
        if rows:
            print_table(table, found, failed)

    def rate(self, row: Row, table: Table) -> dict[str, Any]:
        """Images/s and seconds of CPU for an image, or the reason of a failure."""
        paths = [str(self.dataset(table.data)), str(self.written(row, table))]
        command = [row.script, row.reader, row.task or table.task, *paths, "--seconds", str(self.options.seconds)]
        found = self.answer([*command, *(["--window"] if row.window else [])], row.peers, gpu=table.gpu)
        if "versions" in found:
            self.versions.setdefault("peers" if row.peers else "image-shards", {}).update(found["versions"])
        return found

    def unmade(self, row: Row, table: Table) -> str:
        """Make the data of a row, by the interpreter that reads them. Returns the reason of a failure, or ""."""
        dataset, written = self.dataset(row.data or table.data), self.written(row, table)
        if written.exists():
            return ""
        print(f"writing {written.name}", file=sys.stderr)
        part = written.with_name("part")
        shutil.rmtree(part, ignore_errors=True)
        found = self.answer(["read_formats.py", str(row.written), str(dataset), str(part)], row.peers)
        if "failed" not in found:
            part.rename(written)
        return str(found.get("failed", ""))

    def dataset(self, name: str) -> Path:
        """A dataset of this project."""
        return prepared(name, self.options.photos, self.options.cifar10, self.work, self.options.quick)

    def written(self, row: Row, table: Table) -> Path:
        """The data of a row."""
        name = row.data or table.data
        data = DATA[name]
        if row.written == "folder":
            return self.work / f"{data.source}-{data.few if self.options.quick else data.records}"
        return self.work / (f"{name}.{row.written}" if row.written else name)

    def memory(self) -> None:
        """Measure and print the memory of trainings."""
        dataset = prepared("raw-32", self.options.photos, self.options.cifar10, self.quick(), True)
        epochs = 4 if self.options.quick else 20
        print(f"\nRssAnon in MiB, {DATA['raw-32'].few:,} raw images of 32x32, {epochs} epochs, one run of each:\n")
        print(f"| | after epoch 2 | after epoch {epochs} | most since | more |\n|---|---|---|---|---|")
        for loop, label in MEMORY.items():
            found = self.answer(["feed_memory.py", loop, str(dataset), "--epochs", str(epochs)])
            if "failed" in found:
                print(f"| {label} | {found['failed']} | | | |")
                continue
            second, last, most = (found[name] for name in ("second", "last", "most"))
            print(f"| {label} | {second:.1f} | {last:.1f} | {most:.1f} | {last - second:+.1f} |")

    def quick(self) -> Path:
        """The folder of small datasets."""
        folder = self.work if self.options.quick else self.work / "quick"
        folder.mkdir(exist_ok=True)
        return folder

    def gpu(self) -> None:
        """Measure and print the rows that need a GPU, if there is one."""
        asked = self.answer(["feed_gpu.py"], gpu=True)
        why = asked.get("absent") or asked.get("failed")
        if why:
            print(f"\n{why}: waiting for data, copies to it and decoding on it are not measured")
            return
        found = self.answer(["feed_gpu.py", str(self.dataset("jpeg")), str(self.dataset("raw-224"))], gpu=True)
        print(f"\n{found.get('device', 'GPU')}, PyTorch {found.get('torch')}, batches of 256, all CPUs:\n")
        print("| | |\n|---|---|")
        for name, result in found.get("rows", [("all", found.get("failed"))]):
            print(f"| {name} | {result} |")

    def answer(self, command: list[str], peers: bool = False, gpu: bool = False) -> dict[str, Any]:
        """The JSON in the last line of a script's output, if it is JSON, or the reason of a failure."""
        if peers and self.options.peers is None:
            return {"failed": "not measured: no --peers"}
        python = self.options.peers if peers else sys.executable
        environment = {**os.environ, **ENVIRONMENT, **({} if gpu else NO_GPU)}
        if not peers:
            environment["PYTHONPATH"] = str(REPOSITORY)
        command = [python, str(HERE / command[0]), *command[1:]]
        cpus = ALL_CPUS if gpu and "feed_gpu.py" in command[1] else sorted(ALL_CPUS)[:CPUS]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
        last = (done.stderr if done.returncode else done.stdout).strip().rpartition("\n")[2]
        if done.returncode:
            print(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}", file=sys.stderr)
            return {"failed": f"failed: {last[:100] or f'exit status {done.returncode}'}".replace("|", "/")}
        found = json.loads(last) if last.startswith("{") else {}
        return {"failed": f"not installed: {found['missing']}"} if "missing" in found else found


ALL_CPUS = os.sched_getaffinity(0)


def main() -> None:
    """Run the parts that the command line names."""
    options = parse()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.work or temporary).resolve() / ("quick" if options.quick else "")
        work.mkdir(parents=True, exist_ok=True)
        benchmark = Benchmark(options, work)
        for name in options.parts:
            benchmark.speed(name) if name in TABLES else getattr(benchmark, name)()
        print(
            f"\nRounds: {options.rounds}, of {options.seconds:g} s; {min(CPUS, len(ALL_CPUS))} CPUs of {machine()}.\n"
        )
        for name, numbers in benchmark.versions.items():
            print(f"- {name}: {', '.join(f'{package} {number}' for package, number in numbers.items())}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--readers", nargs="+", metavar="NAME", help="only these, as feed_tables.py calls them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of timed epochs in each process, at least")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has Grain and JAX")
    parser.add_argument("--work", metavar="FOLDER", help="keep the data there, and use what is there already")
    parser.add_argument("--quick", action="store_true", help="few records, one round of an instant: a smoke test")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.2
    return options


def print_table(table: Table, found: Runs, failed: dict[Row, str]) -> None:
    """Medians, the range of each, and ratios within each round."""
    rates = {row.label: [run["rate"] for run in runs] for row, runs in found.items()}
    base = rates.get(table.rows[0].label, [])
    print(f"\n{table.title}:\n")
    print("| | images/s (median) | least | most | to the first row | image-shards to this | CPU µs for an image |")
    print("|---|---|---|---|---|---|---|")
    for row, runs in found.items():
        those = rates[row.label]
        if not those or failed[row]:
            print(f"| {row.label} | {failed[row]} | | | | | |")
            continue
        bounds = f"{statistics.median(those):,.0f} | {min(those):,.0f} | {max(those):,.0f}"
        first = "" if row is table.rows[0] else ratio(those, base)
        ours = ratio(rates.get(row.against, []), those) if row.against else ""
        cpu = float(f"{statistics.median(run['cpu'] for run in runs) * 1e6:.3g}")
        print(f"| {row.label} | {bounds} | {first} | {ours} | {cpu:g} |")


def ratio(ours: list[float], theirs: list[float]) -> str:
    """The ratios of speeds, round by round: the median and the range."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=False)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""


if __name__ == "__main__":
    main()
