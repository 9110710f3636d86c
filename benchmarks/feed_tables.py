"""The tables of benchmarks/feed.py: readers, their frameworks and their data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One reader, in a process of its own.

    Args:
        label: its name in the table.
        reader: its key in feed_ours.py, or for a peer in feed_peers.py.
        against: for a peer, the label of this project's row to compare it with.
        peers: whether the interpreter of `--peers` runs it.
        written: the format of read_formats.py that it reads; "folder" for the images; None for this project's files.
        task: its task, if it is another than the table's.
        data: the dataset whose payloads are written for it, if it is another than the table's.
        window: whether a part of an epoch is timed, since a whole one would take minutes.
    """

    label: str
    reader: str
    against: str | None = None
    peers: bool = False
    written: str | None = None
    task: str | None = None
    data: str | None = None
    window: bool = False

    @property
    def script(self) -> str:
        """The script that runs the reader."""
        return "feed_peers.py" if self.against else "feed_ours.py"


@dataclass(frozen=True)
class Table:
    """One workload. All rows are compared with the first. `gpu` allows its readers to use a GPU."""

    title: str
    data: str
    task: str
    rows: tuple[Row, ...]
    gpu: bool = False


TENSORFLOW, KERAS, TORCH, JAX = (f"image-shards to {name}" for name in ("TensorFlow", "Keras", "PyTorch", "JAX"))
OURS = (
    Row("the stream, NumPy", "stream"),
    Row(TENSORFLOW, "tensorflow"),
    Row(KERAS, "keras"),
    Row(TORCH, "torch"),
    Row(JAX, "jax"),
)
OWN = (
    Row("tf.data, tuned by hand", "tf.data", TENSORFLOW),
    Row("tf.data, AUTOTUNE", "tf.data-autotune", TENSORFLOW),
    Row("DataLoader, our `RecordDataset`", "torch-records", TORCH),
    Row("DataLoader, h5py", "torch-h5py", TORCH),
)
H5PY = Row("h5py, `device_put`", "jax-h5py", JAX)
GRAIN = Row("Grain on ArrayRecord, `device_put`", "jax-grain", JAX, peers=True, written="grain")
FOLDER = (
    Row("folder: `image_dataset_from_directory`", "keras-folder", TENSORFLOW, written="folder"),
    Row("folder: `ImageDataGenerator`", "keras-generator", KERAS, written="folder"),
    Row("folder: DataLoader, `ImageFolder`", "torch-folder", TORCH, written="folder"),
)
AUGMENT = (
    Row("at decode: `RandomResizedCrop`, `Flip`, to PyTorch", "torch", task="rrc"),
    Row("at decode: `RandomResizedCrop`, `Flip`, to JAX", "jax", task="rrc"),
    Row("no augmentation: `CenterCrop`, to PyTorch", "torch"),
    Row("on the device: Keras' `RandomFlip`, `RandomZoom`, `tf.function`", "keras-layers-tensorflow", window=True),
    Row("on the device: Keras' `RandomFlip`, `RandomZoom`, `jax.jit`", "keras-layers-jax", window=True),
    Row("on the device: torchvision v2, one draw for a batch", "torchvision-batch", window=True),
    Row("on the device: torchvision v2, a draw for each image", "torchvision-images", window=True),
)
IN_PROCESSES = "image-shards: torchvision v2 as `image=`, two worker processes, to PyTorch"
TORCHVISION = (
    Row(IN_PROCESSES, "torchvision-workers"),
    Row(
        "DataLoader, two workers, `ImageFolder` of the same JPEGs, the same transforms",
        "torchvision-folder",
        IN_PROCESSES,
        written="files",
        data="jpeg-none",
    ),
    Row(
        "DataLoader, two workers, `ImageFolder` of the photos, the same transforms",
        "torchvision-folder",
        IN_PROCESSES,
        written="folder",
    ),
    Row("image-shards: `RandomResizedCrop`, `Flip`, uint8, two threads, to PyTorch", "torch", task="rrc"),
)
OWN_COLOURS = "image-shards: its own, two threads, to PyTorch"
COLOURS = (
    Row(OWN_COLOURS, "augmented"),
    Row("image-shards: torchvision v2 as `image=`, two worker processes, to PyTorch", "augmented-workers", window=True),
    Row(
        "DataLoader, two workers, `ImageFolder` of the same JPEGs, torchvision v2",
        "augmented-folder",
        OWN_COLOURS,
        written="files",
        data="jpeg-none",
        window=True,
    ),
    Row(
        "DataLoader, two workers, `ImageFolder` of the photos, torchvision v2",
        "augmented-folder",
        OWN_COLOURS,
        written="folder",
        window=True,
    ),
)
SHEARED = (
    Row("image-shards: `RandomAffine` at decode, two threads, to TensorFlow", "sheared"),
    Row("no augmentation, to TensorFlow", "tensorflow"),
    Row("on the device: Keras' `RandomShear`, `RandomZoom`, `tf.function`", "keras-sheared", window=True),
)
BALANCE = (
    Row("all records, shuffled", "stream"),
    Row('`data.balanced("label", power=0.5)`', "stream-balanced"),
    Row("the same, `stratified=True`", "stream-stratified"),
    Row("`data.weighted(weights)`", "stream-weighted"),
)
TABLES = {
    "jpeg": Table("JPEG, short side 256, the middle 224x224", "jpeg", "crop", (*OURS, *OWN, GRAIN, *FOLDER)),
    "jpeg-long": Table("The same, in epochs five times as long", "jpeg", "long", OURS),
    "raw-224": Table("raw 224x224", "raw-224", "raw", (*OURS, *OWN, H5PY, GRAIN)),
    "raw-32": Table("raw 32x32", "raw-32", "raw", (*OURS, *OWN, H5PY, GRAIN)),
    "balance": Table("Balanced epochs, JPEG, short side 256, the middle 224x224", "jpeg", "crop", BALANCE),
    "balance-raw-32": Table("Balanced epochs, raw 32x32", "raw-32", "raw", BALANCE),
    "torchvision": Table(
        "torchvision v2, JPEG, short side 256: RandomResizedCrop(224), RandomHorizontalFlip, float32, Normalize",
        "jpeg",
        "crop",
        TORCHVISION,
    ),
    "colours": Table(
        "RandomResizedCrop(224), Flip, ColorJitter(0.4, 0.4, 0.4, 0.1), RandAugment, uint8, JPEG, short side 256",
        "jpeg",
        "rrc",
        COLOURS,
    ),
    "shear": Table("Shear and zoom, bilinear, JPEG, short side 256, the middle 224x224", "jpeg", "crop", SHEARED),
    "shear-32": Table("Shear and zoom, bilinear, raw 32x32", "raw-32", "raw", SHEARED),
    "augment": Table("Augmentation, JPEG, short side 256, to 224x224", "jpeg", "crop", AUGMENT, gpu=True),
}
MEMORY = {
    "tensorflow-dataset": "`model.fit`, TensorFlow, `as_dataset`",
    "tensorflow-sequence": "`model.fit`, TensorFlow, `ShardSequence`",
    "tensorflow-arrays": "`model.fit`, TensorFlow, arrays, without us",
    "jax-sequence": "`model.fit`, JAX, `ShardSequence`",
    "jax-arrays": "`model.fit`, JAX, arrays, without us",
    "torch-sequence": "`model.fit`, PyTorch, `ShardSequence`",
    "torch-arrays": "`model.fit`, PyTorch, arrays, without us",
    "torch-loop": "a loop, PyTorch, `StreamDataset`",
    "jax-loop": "a loop, JAX, `GlobalBatches`",
}
PARTS = (*TABLES, "memory", "gpu")
