"""Peak memory of `image-shards prepare` for Parquet of large row groups, all its processes together.

    python benchmarks/parquet_memory.py FOLDER [--gigabytes 5] [--row-group-gigabytes 1] [--compression snappy none]
        [--workers 2]

FOLDER holds class folders of JPEGs. They are repeated up to the size of the file, each with a comment of its own, so
that no two are equal. PyArrow writes the file with its usual pages: of 1,024 images, or 100 MB.
As a peer, PyArrow reads the images of the first row group, one at a time. Memory is measured as by `memory.py`. Linux
only. Prints a table for benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from memory import MIB, sizes_of
from pyarrow import parquet

GIGA = 10**9
ONE_BY_ONE = """
import sys
from pyarrow import parquet
file = parquet.ParquetFile(sys.argv[1])
for batch in file.iter_batches(1, row_groups=[0], columns=["image.bytes"]):
    batch.column(0)[0].as_py()
"""


def main() -> None:
    """Write, measure and remove each file, and print the table."""
    options = parse()
    rows = []
    for compression in options.compression:
        with tempfile.TemporaryDirectory(dir=options.temporary) as directory:
            path = Path(directory, "photos.parquet")
            count = write(path, options, compression)
            file = parquet.ParquetFile(path).metadata
            what = f"{compression} | {path.stat().st_size / GIGA:.1f} GB | {file.num_row_groups} | {count:,}"
            peer, _ = sizes_of([sys.executable, "-c", ONE_BY_ONE, str(path)])
            rows.append(f"| PyArrow, one row group | {what} | 1 | {max(peer) / MIB:,.0f} | |")
            for name, more in (("prepare --dry-run", ["--dry-run"]), ("prepare", [])):
                start = time.monotonic()
                sizes, processes = sizes_of(command(path, os.path.join(directory, "out"), options, more))
                seconds = time.monotonic() - start
                rows.append(f"| {name} | {what} | {processes} | {max(sizes) / MIB:,.0f} | {seconds:,.0f} |")
                print(rows[-1], file=sys.stderr)
    print(f"{options.workers} workers, row groups of {options.row_group_gigabytes:g} GB:\n")
    print("| command | compression | file | row groups | images | processes | peak, MiB | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=5)
    parser.add_argument("--row-group-gigabytes", type=float, default=1)
    parser.add_argument("--compression", nargs="+", default=["snappy", "none"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--temporary", type=Path, default=None)
    return parser.parse_args()


def write(path: Path, options: argparse.Namespace, compression: str) -> int:
    """Write the file, and count its images."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": kind, "label": pa.string()})
    count = 0
    with parquet.ParquetWriter(path, schema, compression=compression) as writer:
        for group in groups(options):
            columns = {"image": pa.array([image for image, _ in group], kind), "label": [label for _, label in group]}
            writer.write_table(pa.table(columns, schema), row_group_size=len(group))
            count += len(group)
    return count


def groups(options: argparse.Namespace) -> Iterator[list[tuple[dict[str, object], str]]]:
    """The images of each row group, with their labels."""
    photos = sorted(path for path in options.folder.rglob("*.*") if path.read_bytes()[:2] == b"\xff\xd8")
    group: list[tuple[dict[str, object], str]] = []
    held = total = number = 0
    while total < options.gigabytes * GIGA:
        photo, comment = photos[number % len(photos)], f"{number:012d}".encode()
        data = photo.read_bytes()
        data = data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + data[2:]
        group.append(({"bytes": data, "path": f"{number:08d}.jpg"}, photo.parent.name))
        held, total, number = held + len(data), total + len(data), number + 1
        if held >= options.row_group_gigabytes * GIGA or total >= options.gigabytes * GIGA:
            yield group
            group, held = [], 0


def command(path: Path, output: str, options: argparse.Namespace, more: list[str]) -> list[str]:
    """The command that is measured."""
    settings = ["--size", "64", "--workers", str(options.workers), "--shard-records", "5000", *more]
    return [sys.executable, "-m", "beam_jobs", "prepare", str(path), output, *settings]


if __name__ == "__main__":
    main()
