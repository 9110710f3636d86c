"""The estimates of `image-shards prepare --dry-run` against the job.

    python benchmarks/dry_run.py FOLDER [--images 300 3000] [--runs 5] [--workers 2]

FOLDER holds class folders of JPEGs. They are copied up to the number of images, each copy with a name and a comment of
its own, so that no two files are alike. Each run has another seed, and so another sample of 128 images. The dry run and
the job take turns. Bytes are those of the inputs and of the shards with their indexes, CPU seconds the sum over all
shards in `--log-json`, and seconds the time in the summary: it begins when the interpreter has started. Prints a table
for benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("apache-beam", "cykooz-resizer", "numpy", "pillow", "simplejpeg")
ROWS = {
    "bytes_in": ("MB read", 1e6),
    "bytes_out": ("MB written", 1e6),
    "cpu": ("CPU seconds", 1),
    "wall": ("seconds", 1),
}
Values = dict[str, float]


def main() -> None:
    """Compare for each number of images, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[300, 3000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"{options.workers} workers, {options.runs} runs; Python {platform.python_version()}, {versions}:\n")
    print("| images | | estimated (median) | measured (median) | estimated to measured (least to most) |")
    print("|---|---|---|---|---|")
    for images in options.images:
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory)
            copied(options.folder, place / "in", images)
            pairs = [compared(place, seed, options.workers) for seed in range(options.runs)]
        for key, (name, unit) in ROWS.items():
            print(row(images, name, [(a[key] / unit, b[key] / unit) for a, b in pairs]), flush=True)


def copied(source: Path, target: Path, count: int) -> None:
    """Copies of the images of `source`, each as often as it takes to have `count`."""
    originals = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for number, original in enumerate(itertools.islice(itertools.cycle(originals), count)):
        data, comment = original.read_bytes(), b"copy %06d" % number
        marker = b"\xff\xfe" + (len(comment) + 2).to_bytes(2)
        copy = target / original.parent.name / f"{number:06d}{original.suffix}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(data[:2] + marker + comment + data[2:])


def compared(place: Path, seed: int, workers: int) -> tuple[Values, Values]:
    """The values of the plan, and those of the job."""
    output, log = place / f"out-{seed}", place / "log"
    words = [str(place / "in"), str(output), "--size", "256", "--seed", str(seed), "--workers", str(workers)]
    plan = json.loads(prepare(*words, "--dry-run", "--json"))["estimate"]
    text = prepare(*words, "--log-json", str(log))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (seconds,) = re.findall(r" images in ([\d.]+) s ", text)
    done = {
        "bytes_in": sum(line["bytes_in"] for line in lines),
        "bytes_out": sum(path.stat().st_size for path in output.glob("*.tfrecord*")),
        "cpu": sum(sum(line["cpu_seconds"].values()) for line in lines),
        "wall": float(seconds),
    }
    print(f"{seed}: {plan}\n   {done}", file=sys.stderr)
    return {**plan, "cpu": plan["cpu_hours"] * 3600, "wall": plan["seconds"]}, done


def prepare(*words: str) -> str:
    """The output of the command."""
    command = [sys.executable, "-m", "beam_jobs", "prepare", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def row(images: int, name: str, pairs: list[tuple[float, float]]) -> str:
    """A line of the table."""
    ratios = [estimated / measured for estimated, measured in pairs]
    estimated, measured = (statistics.median(values) for values in zip(*pairs, strict=True))
    return f"| {images} | {name} | {estimated:.1f} | {measured:.1f} | {min(ratios):.2f} to {max(ratios):.2f} |"


if __name__ == "__main__":
    main()
