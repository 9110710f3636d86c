"""Accelerator utilisation by DLIO's clock: image-shards as a data loader of DLIO, against DLIO's own readers.

    python benchmarks/dlio/run.py PHOTOS --python PYTHON [--work FOLDER] [--rounds 3] [--accelerators a100 h100]
        [--workloads resnet50_tfrecord resnet50_jpeg] [--rows crops ...] [--quick]

PHOTOS holds class folders of JPEGs; they are repeated up to 6,000, and `image-shards prepare` makes a dataset of them,
with a short side of 256. The peers get the same JPEGs, without restart markers, as TFRecords and as files. PYTHON is an
interpreter with benchmarks/requirements-dlio.txt and this project.

DLIO (argonne-lcf/dlio_benchmark) is the engine of MLPerf Storage. It asks a loader for a batch, sleeps for the seconds
that a step takes on an accelerator, and so on for an epoch. The utilisation is the share of the time that it slept,
from the second step on. Each run is a process of DLIO on the same two CPUs, and the rows take turns, another first each
round. A run beside which other programs used much of the CPUs is repeated, up to --attempts times. The numbers are
those of DLIO's summary.json, which --work keeps. This is not an MLPerf result.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import dlio_data
from dlio_data import Layout
from dlio_rows import STEPS, WORKLOADS, Result, Row, table
from read import CPUS, ENVIRONMENT, machine
from read_data import REPOSITORY, prepared

HERE = Path(__file__).resolve().parent
LIMIT = 600  # seconds of a run; DLIO's own readers of 2.0.0 take up to 90
SHARDS, PLAIN = "jpeg", "jpeg-none"  # of read_data.py: with restart markers, and without
PACKAGES = ("dlio_benchmark", "tensorflow-cpu", "tensorflow", "torch", "torchvision", "nvidia-dali-cuda130", "pillow")
SETTINGS = {
    "DFTRACER_ENABLE": "0",  # DLIO's tracer, which it offers to do without
    "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, HERE, HERE.parent))),
}


class Dlio:
    """The options of a run of this script, and the data for it."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work = options, work
        self._layouts: dict[str, Layout] = {}

    def run(self, workload: str, accelerator: str) -> None:
        """Measure and print one table."""
        rows = [row for row in WORKLOADS[workload] if row.key in (self.options.rows or [row.key])]
        results: dict[str, list[Result]] = {row.key: [] for row in rows}
        failed: set[str] = set()
        for number in range(self.options.rounds):
            first = number % max(1, len(rows))
            for row in (*rows[first:], *rows[:first]):
                if row.key in failed:
                    continue
                result = self.quiet(workload, accelerator, row, number)
                if result is None:
                    failed.add(row.key)
                    continue
                results[row.key].append(result)
                print(f"round {number + 1}, {row.label}: {result}", file=sys.stderr)
        step = self.step(accelerator)
        print(f"\n{workload}, a step of {step:g} s for {self.batch} images ({self.batch / step:,.0f}/s at most):\n")
        print(table(rows, results))

    @property
    def batch(self) -> int:
        """The size of a batch."""
        return 40 if self.options.quick else 400

    def step(self, accelerator: str) -> float:
        """The seconds of a step."""
        return STEPS[accelerator] * self.batch / 400

    def quiet(self, workload: str, accelerator: str, row: Row, number: int) -> Result | None:
        """A result, repeated while other programs use more CPUs than `--others`; of these, that with the fewest."""
        found: list[Result] = []
        while len(found) < self.options.attempts:
            name = f"{workload}.{accelerator}.{row.key}.{number}.{len(found)}"
            result = self.measured(workload, accelerator, row, self.work / "dlio.runs" / name)
            if result is None:
                return None
            found.append(result)
            if result.others <= self.options.others:
                break
        return min(found, key=lambda result: result.others)

    def measured(self, workload: str, accelerator: str, row: Row, output: Path) -> Result | None:
        """The result of one process of DLIO; None where it failed, and says why on stderr."""
        shutil.rmtree(output, ignore_errors=True)
        command = [self.options.python, "-m", "dlio_benchmark.main", f"--config-dir={HERE / 'configs'}"]
        command += [f"workload={workload}", f"hydra.run.dir={output}", *row.overrides, *self.layout(row.data).overrides]
        command += [f"++workload.train.computation_time={self.step(accelerator)}"]
        command += [f"++workload.dataset.record_length={dlio_data.mean_bytes(self.dataset(SHARDS))}"]
        command += [f"++workload.reader.batch_size={self.batch}"]
        command += [
            f"++workload.checkpoint.checkpoint_folder={output / 'checkpoints'}"
        ]  # DLIO makes it, and keeps it empty
        environment = {**os.environ, **ENVIRONMENT, **SETTINGS}
        clock = Clock()
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            print(f"{row.label}: not done after {LIMIT} s", file=sys.stderr)
            return None
        said = done.stdout + done.stderr
        if done.returncode:
            print(f"{row.label}: exit status {done.returncode}\n{said[-4000:]}", file=sys.stderr)
            return None
        if row.plugged_in and row.plugged_in not in said:
            raise SystemExit(f"{row.label}: DLIO did not take {row.plugged_in}: {' '.join(command)}")
        return Result.of(json.loads((output / "summary.json").read_text()), clock.others())

    def layout(self, kind: str) -> Layout:
        """The data of this kind, made if they are not there."""
        if kind not in self._layouts:
            dataset, folder = self.dataset(SHARDS if kind == "shards" else PLAIN), self.work / f"dlio.{kind}"
            make = {"shards": dlio_data.shards, "tfrecords": dlio_data.tfrecords, "jpegs": dlio_data.jpegs}[kind]
            self._layouts[kind] = make(dataset, folder)
        return self._layouts[kind]

    def dataset(self, name: str) -> Path:
        """A dataset of this project."""
        return prepared(name, self.options.photos, self.options.photos, self.work, self.options.quick)


class Clock:
    """CPU time from now on: that of the machine, and that of this process's children which have ended."""

    def __init__(self) -> None:
        self._began = self._read()

    def others(self) -> float:
        """The mean number of CPUs that programs other than these children have used."""
        now, machine, children = (new - old for new, old in zip(self._read(), self._began, strict=True))
        return max(0.0, (machine - children) / now)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = user + nice + system + sum(rest)  # interrupts, and the time that other machines had
        return time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), usage.ru_utime + usage.ru_stime


def versions(python: str) -> str:
    """Of the packages that the interpreter has.

    Raises:
        SystemExit: it has no DLIO.
    """
    script = (
        "import sys\nfrom importlib.metadata import PackageNotFoundError, version\n"
        "for name in sys.argv[1:]:\n    try: print(name, version(name))\n    except PackageNotFoundError: pass"
    )
    found = subprocess.run([python, "-c", script, *PACKAGES], capture_output=True, text=True, check=True).stdout
    if not found.startswith(PACKAGES[0]):
        raise SystemExit(f"{python} has no {PACKAGES[0]}: give an interpreter with benchmarks/requirements-dlio.txt")
    return ", ".join(found.splitlines())


def main() -> None:
    """Run the workloads that the command line names."""
    options = parse()
    installed = versions(options.python)
    cpus = sorted(os.sched_getaffinity(0))[:CPUS]
    os.sched_setaffinity(0, cpus)  # and of all processes that this one starts
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.work or temporary).resolve() / ("quick" if options.quick else "")
        work.mkdir(parents=True, exist_ok=True)
        dlio = Dlio(options, work)
        for workload in options.workloads:
            for accelerator in options.accelerators:
                dlio.run(workload, accelerator)
    print(f"\n{options.rounds} rounds, {len(cpus)} CPUs of {machine()}; {installed}.")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--python", default=sys.executable, help="the interpreter with DLIO; by default this one")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--accelerators", nargs="+", choices=STEPS, default=list(STEPS), help="of which DLIO has steps")
    keys = sorted({row.key for rows in WORKLOADS.values() for row in rows})
    parser.add_argument("--rows", nargs="+", choices=keys, metavar="ROW", help=f"only these of {', '.join(keys)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--others", type=float, default=0.2, help="repeat a run in which other programs used more CPUs")
    parser.add_argument("--attempts", type=int, default=3, help="runs of which the one with the fewest of them counts")
    parser.add_argument("--work", metavar="FOLDER", help="keep the data there, and use what is there already")
    parser.add_argument("--quick", action="store_true", help="few records, one round: a smoke test")
    options = parser.parse_args()
    if options.quick:
        options.rounds = options.attempts = 1
    return options


if __name__ == "__main__":
    main()
