"""Peak memory of `image-shards prepare`, all its processes together, for few and for many images.

    python benchmarks/memory.py FOLDER [--images 1000 20000] [--shard-records 250] [--workers 2] [--runs 3]

FOLDER holds class folders of JPEGs; they are repeated, as links, up to each number of images. Shards are of the
same size, so that the number of processes is the same. Memory is that of no file: of anonymous pages and shared
memory, a page that n processes share counted as 1/n in each (Pss_Anon and Pss_Shmem of /proc/PID/smaps_rollup),
summed over the process and all below it, every 50 ms. Linux only. Prints a table for benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prepare import repeated

INTERVAL = 0.05
MIB = 1 << 20


def main() -> None:
    """Measure in turn, and print the table."""
    options = parse()
    peaks: dict[int, list[int]] = {count: [] for count in options.images}
    usual: dict[int, list[int]] = {count: [] for count in options.images}
    processes: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as directory:
        for count in options.images:
            repeated(options.folder, Path(directory) / str(count), count)
        for run in range(options.runs):
            for count in options.images:
                output = os.path.join(directory, f"output-{count}-{run}")
                sizes, processes[count] = sizes_of(command(os.path.join(directory, str(count)), output, options))
                peak = max(sizes)
                peaks[count].append(peak)
                # Of the second half: all processes are there.
                usual[count].append(round(statistics.median(sizes[len(sizes) // 2 :])))
                print(f"run {run + 1}, {count} images: {peak / MIB:.0f} MiB", file=sys.stderr)
    print(f"--shard-records {options.shard_records}, {options.workers} workers, {options.runs} runs of each in turn:\n")
    print("| images | processes | peak, MiB (median) | least | most | ratio | at most times, MiB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    first = statistics.median(peaks[options.images[0]])
    for count, those in peaks.items():
        median = statistics.median(those)
        bounds = f"{median / MIB:.0f} | {min(those) / MIB:.0f} | {max(those) / MIB:.0f}"
        mostly = statistics.median(usual[count])
        ratio = mostly / statistics.median(usual[options.images[0]])
        ratios = f"{median / first:.2f} | {mostly / MIB:.0f} | {ratio:.2f}"
        print(f"| {count} | {processes[count]} | {bounds} | {ratios} |")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 20000])
    parser.add_argument("--shard-records", type=int, default=250)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


def command(images: str, output: str, options: argparse.Namespace) -> list[str]:
    """The command that is measured."""
    settings = ["--size", "256", "--filter", "lanczos", "--quality", "90"]
    settings += ["--shard-records", str(options.shard_records), "--workers", str(options.workers)]
    return [sys.executable, "-m", "beam_jobs", "prepare", images, output, *settings]


def sizes_of(arguments: list[str]) -> tuple[list[int], int]:
    """The bytes that a command and all below it held, time after time, and the most processes that they were."""
    held, processes = list[int](), 0
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            sizes = [size for size in map(memory_of, family(process.pid)) if size]
            held.append(sum(sizes))
            processes = max(processes, len(sizes))
            time.sleep(INTERVAL)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit status {process.returncode}")
    return held, processes


def family(pid: int) -> list[int]:
    """A process and all below it. One that ends meanwhile has no children."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return [pid, *(descendant for child in children for descendant in family(child))]


def memory_of(pid: int) -> int:
    """Bytes of a process that are of no file; 0 if it has ended."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
        return 1024 * (sizes["Pss_Anon"] + sizes["Pss_Shmem"])
    return 0


if __name__ == "__main__":
    main()
