"""Growing a dataset: the time to append 1,000 images to 100,000, and to open a dataset of 50 generations.

    python benchmarks/append.py [--records 100000] [--more 1000] [--generations 50] [--runs 5] [--folder FOLDER]

Images are those of CIFAR's size, of noise, stored raw. Each run prepares a file of new images as a dataset of its own,
and appends the same file to the large dataset: both are commands in processes of their own, one after the other. The
ratio is that of their medians. Opening is the median of a hundred calls in one process, in turns, for a dataset of many
generations, and for one of one generation with the same records. FOLDER needs 10 kB for each image. Prints a table for
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import beam_jobs
from beam_jobs import PrepareOptions
from shard_reader import open_dataset

RECORD = "label:u1,image:u1[3,32,32]"
WORDS = ("--record", RECORD, "--fit", "none", "--encoding", "raw", "--quiet")
OPENED = 100  # times


def main() -> None:
    """Measure both, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--more", type=int, default=1000)
    parser.add_argument("--generations", type=int, default=50)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder")
    found = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, Python {platform.python_version()}, image-shards {version('image-shards')}")
    with tempfile.TemporaryDirectory(dir=found.folder) as folder:
        appending(Path(folder), found.records, found.more, found.runs)
        opening(Path(folder), found.generations)


def appending(folder: Path, records: int, more: int, runs: int) -> None:
    """Append to a large dataset, and prepare the same images alone."""
    prepare(noise(folder / "in-many", records, 0), folder / "many")
    alone, appended = list[tuple[float, float]](), list[tuple[float, float]]()
    for run in range(runs):
        source = noise(folder / f"in-more-{run}", more, run + 1)
        alone.append(prepare(source, folder / f"alone-{run}"))
        appended.append(prepare(source, folder / "many", "--append"))
    assert open_dataset(folder / "many").manifest.counts.written == records + runs * more
    for number, unit in enumerate(("CPU s", "s")):
        one, other = (median(run[number] for run in found) for found in (alone, appended))
        print(f"| {more:,} images alone, {unit} | {one:.2f} | 1 |")
        print(f"| appended to {records:,}, {unit} | {other:.2f} | {other / one:.2f} |")


def opening(folder: Path, generations: int) -> None:
    """Open a dataset of many generations, and one of the same records."""
    sources = [noise(folder / f"in-few-{number}", 8, 1000 + number) for number in range(generations)]
    # In this process, which takes a fraction of the time of fifty commands.
    for number, source in enumerate(sources):
        words = {} if number else {"record": RECORD, "fit": "none", "encoding": "raw"}
        options = PrepareOptions(input=source, output=folder / "grown", append=number > 0, workers=1, **words)
        beam_jobs.prepare(options, quiet=True)
    prepare(noise(folder / "in-at-once", 8 * generations, 999), folder / "once", "--shards", str(generations))
    times: dict[str, list[float]] = {"grown": [], "once": []}
    for _ in range(OPENED):
        for name, found in times.items():
            began = time.perf_counter()
            open_dataset(folder / name).close()
            found.append(time.perf_counter() - began)
    one, many = (1000 * median(times[name]) for name in ("once", "grown"))
    print(f"| open 1 generation | {one:.2f} ms | |")
    print(f"| open {generations} generations | {many:.2f} ms | {many - one:+.2f} ms |")


def noise(path: Path, records: int, seed: int) -> Path:
    """A folder with a file of binary records, each a label and an image: its name is part of the ids."""
    numbers = np.random.default_rng(seed)
    path.mkdir()
    with open(path / f"{path.name}.bin", "wb") as file:
        for start in range(0, records, 10_000):
            rows = numbers.integers(0, 256, (min(10_000, records - start), 3073), np.uint8)
            rows[:, 0] %= 10
            file.write(rows.tobytes())
    return path


def prepare(source: Path, output: Path, *words: str) -> tuple[float, float]:
    """The seconds of all CPUs, and those by the clock, of a command."""
    began, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "beam_jobs", "prepare", str(source), str(output), *WORDS, *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return spent, time.perf_counter() - began


if __name__ == "__main__":
    main()
