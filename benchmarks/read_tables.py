"""The tables of benchmarks/read.py: their readers and their data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One reader.

    Args:
        label: its name in the table.
        reader: its key in read_ours.py, or in read_peers.py if `peer` is given.
        peer: the peer whose interpreter runs it (`--peer`); None for this project's.
        written: the format of read_formats.py that it reads; None for this project's files.
        data: another dataset with the same records than the table's.
        against: the label of the row to compare it with; None for the first row of the table.
    """

    label: str
    reader: str
    peer: str | None = None
    written: str | None = None
    data: str | None = None
    against: str | None = None


@dataclass(frozen=True)
class Table:
    """One workload."""

    title: str
    data: str
    task: str
    rows: tuple[Row, ...]
    cold: bool = False


OURS = "image-shards"
FAST = "image-shards, fast=True (fast DCT, chroma not interpolated)"


def peer(label: str, reader: str, against: str | None = None, data: str | None = None) -> Row:
    """A peer that has an interpreter, a format and a reader of one name; "-fast" is another reader of the same."""
    name = reader.partition("-")[0]
    return Row(label, reader, name, None if name == "tf.data" else name, data, against)


PYTHON_PEERS = (
    ("WebDataset", "webdataset"),
    ("litdata", "litdata"),
    ("MosaicML streaming", "mosaicml"),
    ("Grain, ArrayRecord", "grain"),
    ("Hugging Face datasets, Arrow", "datasets"),
    ("LanceDB", "lancedb"),
)
PLAIN = "jpeg-none"  # the peers' JPEGs have no restart markers: all of them read these faster
# Rows with less work than ours (the fast DCT alone) stand against our exact row, so that no ratio favours us.
JPEG_ROWS = (
    Row(OURS, "ours"),
    Row(f"{OURS}, HDF5", "hdf5"),
    Row(f"{OURS}, no restart markers", "ours", data=PLAIN),
    Row(FAST, "fast"),
    Row("FFCV, patched to the exact DCT", "ffcv", "ffcv-exact", "ffcv", PLAIN),
    peer("FFCV, fast DCT (it has no other)", "ffcv", data=PLAIN),
    peer("DALI", "dali", data=PLAIN),
    peer("DALI, fast DCT", "dali-fast", data=PLAIN),
    peer("tf.data", "tf.data", data=PLAIN),
    peer("tf.data, fast DCT, chroma not interpolated", "tf.data-fast", FAST, PLAIN),
    *(peer(label, reader, data=PLAIN) for label, reader in PYTHON_PEERS),
    peer("SPDL, simplejpeg", "spdl", data=PLAIN),
    peer("SPDL, its own decoder (FFmpeg)", "spdl-own", data=PLAIN),
)
RAW_PEERS = (
    peer("FFCV", "ffcv"),
    peer("DALI", "dali"),
    peer("tf.data", "tf.data"),
    *(peer(label, reader) for label, reader in PYTHON_PEERS),
    peer("SPDL, NumPy memory map", "spdl"),
)
NUMPY = Row("NumPy memory map, one thread", "memmap", written="memmap")
VERIFY = tuple(Row(f'verify="{how}"', f"verify-{how}") for how in ("first-epoch", "always", "never"))
THREADS = tuple(Row(f"threads={count}", f"threads-{count}") for count in (1, 2, 4))

TABLES = {
    "jpeg-crop": Table("JPEG, short side 256, the middle 224x224", "jpeg", "crop", JPEG_ROWS),
    "jpeg-rrc": Table("JPEG, short side 256, RandomResizedCrop(224) and flip", "jpeg", "rrc", JPEG_ROWS),
    "raw-224": Table(
        "raw 224x224", "raw-224", "raw", (Row(OURS, "ours"), Row(f"{OURS}, HDF5", "hdf5"), *RAW_PEERS, NUMPY)
    ),
    "raw-32": Table(
        "raw 32x32",
        "raw-32",
        "raw",
        (
            Row(OURS, "ours"),
            Row(f"{OURS}, HDF5", "hdf5"),
            Row(f"{OURS}, 100 shards", "ours", data="raw-32-100"),
            Row(f"{OURS}, 100 shards, HDF5", "hdf5", data="raw-32-100"),
            *RAW_PEERS,
            NUMPY,
        ),
    ),
    "raw-224-cold": Table(
        "raw 224x224, files not in memory",
        "raw-224",
        "raw",
        (
            Row(OURS, "ours"),
            peer("FFCV, memory map", "ffcv"),
            peer("FFCV, its own cache, quasi-random order", "ffcv-quasi"),
            NUMPY,
        ),
        cold=True,
    ),
    "random": Table(
        "raw 224x224, one record after the other, one thread",
        "raw-224",
        "random",
        (
            Row(OURS, "ours"),
            Row(f"{OURS}, HDF5", "hdf5"),
            NUMPY,
            Row("h5py, our HDF5 files", "h5py"),
            peer("litdata", "litdata"),
            peer("MosaicML streaming", "mosaicml"),
            peer("Grain, ArrayRecord", "grain"),
        ),
    ),
    "threads-jpeg-crop": Table("JPEG, the middle 224x224, by threads", "jpeg", "crop", THREADS),
    "threads-raw-224": Table("raw 224x224, by threads", "raw-224", "raw", THREADS),
    "verify-jpeg-crop": Table("JPEG, the middle 224x224, by checks", "jpeg", "crop", VERIFY),
    "verify-raw-224": Table("raw 224x224, by checks", "raw-224", "raw", VERIFY),
    "verify-raw-32": Table("raw 32x32, by checks", "raw-32", "raw", VERIFY),
}
GROWTH = ("tiny-13k", "tiny-130k", "tiny-1.3m")  # read_growth.py's, a table of another kind
