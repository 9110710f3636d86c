"""The data of benchmarks/read.py: datasets that `image-shards prepare` makes, and their records for the peers' formats.

It needs NumPy alone, since the peers' interpreters have nothing of this project. The records are found by the
specification of the format, so that every peer gets the same bytes as the shards.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
TINY = 4  # height and width of the images of which there are many


@dataclass(frozen=True)
class Data:
    """A dataset: its images, their number for a run and for `--quick`, and the options of `prepare`."""

    source: str
    records: int
    few: int
    options: tuple[str, ...]


BOTH = ("--format", "tfrecord", "--format", "hdf5")
JPEG = ("--size", "256", "--quality", "90")
RAW_32 = ("--size", "32", "--fit", "crop", "--encoding", "raw")  # they are 32x32; with "none", they might not be
MANY = ("--size", str(TINY), "--fit", "crop", "--encoding", "raw", "--channels", "grey")
SMALL = ("--shard-bytes", "16MB")
DATA = {
    "jpeg": Data("photos", 6000, 600, (*JPEG, *BOTH)),
    "jpeg-none": Data("photos", 6000, 600, (*JPEG, *BOTH, "--restart-markers", "none")),
    "raw-224": Data("photos", 10000, 600, ("--size", "224", "--fit", "crop", "--encoding", "raw", *BOTH)),
    "raw-32": Data("cifar10", 50000, 3000, (*RAW_32, *BOTH)),
    "raw-32-100": Data("cifar10", 50000, 3000, (*RAW_32, *BOTH, "--shards", "100")),
    "remote-jpeg": Data("photos", 30000, 600, (*JPEG, *SMALL)),
    "remote-raw": Data("photos", 13000, 600, ("--size", "224", "--fit", "crop", "--encoding", "raw", *SMALL)),
    "tiny-13k": Data("arrays", 13_000, 1_000, MANY),
    "tiny-130k": Data("arrays", 130_000, 5_000, MANY),
    "tiny-1.3m": Data("arrays", 1_300_000, 10_000, MANY),
}


def prepared(name: str, photos: Path, cifar10: Path, work: Path, quick: bool) -> Path:
    """The dataset of this name in `work`, made if it is not there."""
    data, output = DATA[name], work / name
    if not (output / "dataset.json").exists():
        records = data.few if quick else data.records
        images = work / f"{data.source}-{records}"
        if data.source == "arrays":
            images = images.with_suffix(".npy")
            np.save(images, np.random.default_rng(0).integers(0, 256, (records, TINY, TINY, 1), np.uint8))
        elif not images.exists():
            repeated({"photos": photos, "cifar10": cifar10}[data.source], images, records)
        print(f"preparing {name}: {records} records", file=sys.stderr)
        command = [sys.executable, "-m", "beam_jobs", "prepare", str(images), str(output), *data.options]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
    return output


def repeated(source: Path, target: Path, count: int) -> None:
    """Links to the images of `source`, each as often as it takes to have `count`."""
    originals = sorted(path.resolve() for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for number, original in enumerate(itertools.islice(itertools.cycle(originals), count)):
        link = target / original.parent.name / f"{number:06d}{original.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(original)


@dataclass(frozen=True)
class Record:
    """The stored payload of an image, and its label and size."""

    payload: np.ndarray
    label: int
    height: int
    width: int


class Records:
    """The TFRecords of a dataset by number, in stored order: a sequence, as the peers' writers want one."""

    def __init__(self, dataset: str | Path) -> None:
        self.files = tfrecords(dataset)
        self._maps = [np.memmap(file, np.uint8, "r") for file in self.files]
        self._rows = [np.load(f"{file}.index.npy") for file in self.files]
        self._ends = np.cumsum([len(rows) for rows in self._rows])
        *_, channels = manifest(dataset)["fields"]["image"]["shape"]
        self.shape = (int(self._rows[0]["height"][0]), int(self._rows[0]["width"][0]), channels)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> Record:
        shard = int(np.searchsorted(self._ends, number, "right"))
        if shard == len(self._rows):
            raise IndexError(number)
        row = self._rows[shard][number - self._ends[shard]]
        begin = int(row["offset"])
        payload = self._maps[shard][begin : begin + int(row["length"])]
        return Record(payload, int(row["label"]), int(row["height"]), int(row["width"]))

    def __iter__(self) -> Iterator[Record]:
        return (self[number] for number in range(len(self)))


def manifest(dataset: str | Path) -> dict:
    """The contents of dataset.json."""
    return json.loads((Path(dataset) / "dataset.json").read_text())


def tfrecords(dataset: str | Path) -> list[str]:
    """The TFRecord files of the split that is read."""
    files = manifest(dataset)["splits"]["train"]["shards"]["files"]
    return [str(Path(dataset) / path) for path in files["tfrecord"]["path"]]


def drop_from_cache(path: str | Path) -> None:
    """Have the kernel forget the pages of a file, or of those in a folder, also where this process has mapped them."""
    path = Path(path).resolve()
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, access, _, _, _, *name = line.split(maxsplit=5)
        if access.startswith("r--") and name and Path(name[0]).is_relative_to(path):
            begin, end = (int(address, 16) for address in addresses.split("-"))
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
    for file in path.rglob("*") if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are not written yet would stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
