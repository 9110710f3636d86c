"""Shards in the format of each peer of benchmarks/read.py: the same payloads in the same order.

    PYTHON benchmarks/read_formats.py \\
        {ffcv,dali,webdataset,litdata,mosaicml,grain,datasets,lancedb,spdl,memmap,files} DATASET OUTPUT

PYTHON is the peer's own interpreter; a missing package is reported as JSON. tf.data reads the TFRecords of a dataset
as they are; DALI, too, with an index beside them.
"""

from __future__ import annotations

import argparse
import json
import struct
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from read_data import Record, Records

CHUNK_BYTES = 64 << 20  # what litdata and MosaicML take by default, and for WebDataset's tar files
ARROW_ROWS = 1000  # what `datasets` writes at once
LABEL = struct.Struct("<q")  # before the payload, where the peer stores nothing but bytes


def main() -> None:
    """Write the format that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=sorted(WRITERS))
    parser.add_argument("dataset")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    try:
        WRITERS[options.format](Records(options.dataset), options.output)
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}))


def pixels(record: Record, shape: tuple[int, int, int]) -> np.ndarray:
    """A raw image."""
    return record.payload.reshape(shape)


def is_raw(records: Records) -> bool:
    """Whether pixels are stored, and not JPEGs."""
    return len(records[0].payload) == np.prod(records.shape)


def write_ffcv(records: Records, output: Path) -> None:
    """One .beton file. FFCV's writer would decode and encode images; here, JPEGs are stored unchanged."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.types import TYPE_ID_HANDLER
    from ffcv.writer import DatasetWriter

    class StoredJPEGs(RGBImageField):
        """The same field, of JPEGs that are stored as they are."""

        def encode(self, destination, record, malloc) -> None:
            destination["mode"] = 0  # "jpg"
            destination["height"], destination["width"] = record.height, record.width
            destination["data_ptr"], storage = malloc(len(record.payload))
            storage[:] = record.payload

    class Samples:
        """Its writer's processes index this."""

        def __len__(self) -> int:
            return len(records)

        def __getitem__(self, number: int) -> tuple:
            record = records[number]
            return (pixels(record, records.shape) if raw else record), record.label

    raw = is_raw(records)
    image = RGBImageField(write_mode="raw") if raw else StoredJPEGs(write_mode="jpg")
    # The file says that the field is an RGBImageField, so that its own decoders read it.
    number = next(number for number, field in TYPE_ID_HANDLER.items() if field is RGBImageField)
    TYPE_ID_HANDLER[number] = type(image)
    writer = DatasetWriter(str(output), {"image": image, "label": IntField()}, num_workers=2)
    writer.from_indexed_dataset(Samples())


def write_dali(records: Records, output: Path) -> None:
    """For each TFRecord file the offsets and sizes of its records, framing included, as tfrecord2idx does."""
    output.mkdir()
    for file in records.files:
        position, data = 0, np.memmap(file, np.uint8, "r")
        with open(output / f"{Path(file).name}.idx", "w") as lines:
            while position < len(data):
                size = int(data[position : position + 8].view("<u8")[0]) + 16
                lines.write(f"{position} {size}\n")
                position += size


def write_webdataset(records: Records, output: Path) -> None:
    """Tar files, an even number of them, so that two workers have as many each."""
    output.mkdir()
    suffix = "raw" if is_raw(records) else "jpg"
    total = sum(len(record.payload) for record in records)
    files = 2 * max(1, round(total / CHUNK_BYTES / 2))
    ends = np.linspace(0, len(records), files + 1).astype(int)
    for file in range(files):
        with tarfile.open(output / f"{file:05d}.tar", "w") as archive:
            for number in range(ends[file], ends[file + 1]):
                record = records[number]
                for name, data in (suffix, record.payload.tobytes()), ("cls", str(record.label).encode()):
                    member = tarfile.TarInfo(f"{number:08d}.{name}")
                    member.size = len(data)
                    archive.addfile(member, BytesIO(data))


def write_litdata(records: Records, output: Path) -> None:
    """Chunks of 64 MB."""
    from litdata import optimize

    def sample(number: int) -> dict:
        record = records[number]
        return {"image": record.payload.tobytes(), "label": record.label}

    optimize(
        fn=sample,
        inputs=list(range(len(records))),
        output_dir=str(output),
        num_workers=1,
        chunk_bytes=CHUNK_BYTES,
        reorder_files=False,
        start_method="fork",
        verbose=False,
    )


def write_mosaicml(records: Records, output: Path) -> None:
    """MDS shards of 64 MB, without compression or hashes."""
    from streaming import MDSWriter

    with MDSWriter(out=str(output), columns={"image": "bytes", "label": "int"}, size_limit=CHUNK_BYTES) as writer:
        for record in records:
            writer.write({"image": record.payload.tobytes(), "label": record.label})


def write_grain(records: Records, output: Path) -> None:
    """One ArrayRecord file, a record a group, for random access."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(output), "group_size:1,uncompressed")
    for record in records:
        writer.write(LABEL.pack(record.label) + record.payload.tobytes())
    writer.close()


def arrow_batches(records: Records) -> Iterator[Any]:
    """Arrow's record batches of payloads and labels."""
    import pyarrow as pa

    schema = pa.schema({"image": pa.binary(), "label": pa.int64()})
    for begin in range(0, len(records), ARROW_ROWS):
        rows = [records[number] for number in range(begin, min(begin + ARROW_ROWS, len(records)))]
        columns = {"image": [row.payload.tobytes() for row in rows], "label": [row.label for row in rows]}
        yield pa.RecordBatch.from_pydict(columns, schema)


def write_datasets(records: Records, output: Path) -> None:
    """A dataset of Hugging Face datasets, as `save_to_disk` writes one."""
    import pyarrow as pa
    from datasets import Dataset

    Dataset(pa.Table.from_batches(arrow_batches(records))).save_to_disk(output)


def write_lancedb(records: Records, output: Path) -> None:
    """A table of LanceDB."""
    import lancedb

    first, *rest = arrow_batches(records)
    table = lancedb.connect(output).create_table("images", first)
    for batch in rest:
        table.add(batch)
    table.optimize()


def write_spdl(records: Records, output: Path) -> None:
    """Files of JPEGs, or one .npy file of all pixels, and one of the labels."""
    output.mkdir()
    np.save(output / "labels.npy", [record.label for record in records])
    if is_raw(records):
        write_memmap(records, output / "images.npy")
    else:
        for number, record in enumerate(records):
            (output / f"{number:06d}.jpg").write_bytes(record.payload)


def write_files(records: Records, output: Path) -> None:
    """A folder of JPEGs for each class, as `ImageFolder` reads them."""
    for number, record in enumerate(records):
        file = output / f"{record.label:04d}" / f"{number:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(record.payload)


def write_memmap(records: Records, output: Path) -> None:
    """One .npy file of all pixels."""
    images = np.lib.format.open_memmap(output, "w+", np.uint8, (len(records), *records.shape))
    for number, record in enumerate(records):
        images[number] = pixels(record, records.shape)
    images.flush()


WRITERS = {
    "ffcv": write_ffcv,
    "dali": write_dali,
    "webdataset": write_webdataset,
    "litdata": write_litdata,
    "mosaicml": write_mosaicml,
    "grain": write_grain,
    "datasets": write_datasets,
    "lancedb": write_lancedb,
    "spdl": write_spdl,
    "memmap": write_memmap,
    "files": write_files,
}

if __name__ == "__main__":
    main()
