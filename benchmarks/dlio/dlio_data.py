"""The data of benchmarks/dlio/run.py: the same JPEGs as image-shards' dataset, as TFRecords and as files for DLIO.

DLIO takes its training files from the folder `train` of its data folder, by their suffix, and counts on the same number
of records in each.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shard_reader import open_dataset
from shard_reader.dataset.records import Records
from shard_reader.format.shard_formats.example import encode
from shard_reader.format.shard_formats.tfrecord import write_record

TRAIN, VALID = "train", "valid"  # DLIO lists both
FILES = 8  # TFRecords, of which DLIO's readers read several side by side


@dataclass(frozen=True)
class Layout:
    """A data folder of DLIO, and the numbers by which DLIO is told what it holds."""

    folder: Path
    files: int
    records_per_file: int
    subfolders: int = 0

    @property
    def overrides(self) -> list[str]:
        """DLIO's options for this data."""
        return [
            f"++workload.dataset.data_folder={self.folder}",
            f"++workload.dataset.num_files_train={self.files}",
            f"++workload.dataset.num_samples_per_file={self.records_per_file}",
            f"++workload.dataset.num_subfolders_train={self.subfolders}",
        ]


def shards(dataset: Path, folder: Path) -> Layout:
    """A data folder whose `train` is the dataset itself: DLIO counts the shards, the plug-in opens the dataset."""
    with open_dataset(dataset, format="tfrecord") as data:
        files, records = data.shard_count, len(data)
    (folder / VALID).mkdir(parents=True, exist_ok=True)
    if not (folder / TRAIN).is_symlink():
        (folder / TRAIN).symlink_to(dataset.resolve(), target_is_directory=True)
    return Layout(folder, files, records // files)


def tfrecords(dataset: Path, folder: Path, files: int = FILES) -> Layout:
    """TFRecords with the features that DLIO's readers parse: `image`, the JPEG, and `size`, its number of bytes.

    Raises:
        ValueError: the records cannot be divided evenly.
    """
    with open_dataset(dataset, format="tfrecord") as data:
        each, rest = divmod(len(data), files)
        if rest:
            raise ValueError(
                f"{len(data)} records: must be a multiple of {files}, since DLIO wants files of one length"
            )

        def write(part: Path) -> None:
            for file in range(files):
                with open(part / f"img_{file}_of_{files}.tfrecord", "wb") as stream:
                    for number in range(file * each, (file + 1) * each):
                        jpeg = data.payload(number).tobytes()
                        write_record(stream, encode({"image": jpeg, "size": len(jpeg)}))

        _once(folder, write)
    return Layout(folder, files, each)


def jpegs(dataset: Path, folder: Path) -> Layout:
    """A file for each JPEG, in a folder for each class."""
    with open_dataset(dataset, format="tfrecord") as data:
        labels = _labels(data)

        def write(part: Path) -> None:
            for label in set(labels):
                (part / f"{label:04d}").mkdir()
            for number, label in enumerate(labels):
                (part / f"{label:04d}" / f"{number:06d}.jpeg").write_bytes(data.payload(number))

        _once(folder, write)
    return Layout(folder, len(labels), 1, len(set(labels)))


def mean_bytes(dataset: Path) -> int:
    """The mean number of bytes of a stored image, of 256 at most."""
    with open_dataset(dataset, format="tfrecord") as data:
        numbers = np.linspace(0, len(data) - 1, min(len(data), 256)).astype(int).tolist()
        return round(sum(len(data.payload(number)) for number in numbers) / len(numbers))


def _labels(data: Records) -> list[int]:
    if "label" not in data.fields:
        return [0] * len(data)
    labels: list[int] = data.column("label").tolist()
    return labels


def _once(folder: Path, write: Callable[[Path], None]) -> None:
    """Have `folder/train` written, unless it is there. An interrupted one is written again."""
    if (folder / TRAIN).exists():
        return
    (folder / VALID).mkdir(parents=True, exist_ok=True)
    part = folder / "part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    write(part)
    os.rename(part, folder / TRAIN)
