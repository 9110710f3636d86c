"""Files of a dataset that somebody changes while it is read: an error, and never the memory of the process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.crafted import crafted_dataset, fields_of
from support.limits import limited

from shard_reader import CenterCrop, CorruptionError, Dataset, open_dataset
from shard_reader.format import index
from shard_reader.format.manifest import index_name

RAW = (4, 4, 3)
PIXELS = [np.full(RAW, 10 * number, np.uint8).tobytes() for number in range(4)]


def raw_dataset(path: Path, format: str = "tfrecord", shape: tuple[int | None, ...] = RAW) -> Path:
    return crafted_dataset(path, [(pixels, *RAW[:2]) for pixels in PIXELS], fields_of("raw", shape), format)


def overwrite(data: Dataset, row: int, **values: int) -> None:
    """Overwrite an index in place, as it is mapped."""
    shard = data.manifest.splits["train"].shards[0]
    path = Path(data.path) / index_name(shard.files[data.format].path)
    rows = np.load(path)
    for name, value in values.items():
        rows[name][row] = value
    with open(path, "r+b") as file:
        file.write(index.to_bytes(rows))


FAR = [
    {"offset": 1 << 40},
    {"offset": (1 << 64) - 48},
    {"offset": (1 << 63) + 5},
    {"length": (1 << 64) - 1},
    {"length": 1 << 62, "offset": 1 << 62},
]
NAMES = [" ".join(change) + f" {number}" for number, change in enumerate(FAR)]


@pytest.mark.parametrize("verify", ["always", "never"])
@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
@pytest.mark.parametrize("change", FAR, ids=NAMES)
def test_an_index_that_was_overwritten_gives_no_memory_away(
    tmp_path: Path, change: dict[str, int], format: str, verify: str
) -> None:
    path = raw_dataset(tmp_path / "shards", format)
    data = open_dataset(path, format=format)
    options = {"batch_size": 4, "shuffle": "none", "verify": verify}
    reads: list[Callable[[], object]] = [
        lambda: list(data.stream(**options)),  # type: ignore[arg-type]
        lambda: list(data.stream(image=CenterCrop(2), **options)),  # type: ignore[arg-type]
        lambda: data[2],
        lambda: data.image(2),
    ]
    for read in reads:
        read()
    overwrite(data, 2, **change)
    for read in reads:
        with pytest.raises(CorruptionError, match=r"index points outside of it|the image"):
            read()
    (batch,) = data.stream(batch_size=4, shuffle="none", on_error="skip")
    assert batch["weight"].tolist() == [1, 1, 0, 1] and not batch["image"][2].any()
    assert batch["image"][3].tobytes() == PIXELS[3]


def test_images_that_are_copied_one_by_one_are_bounded_too(tmp_path: Path) -> None:
    """A single byte would fill the image, and fewer would be an error of NumPy."""
    large = (80, 80, 3)
    pixels = bytes(80 * 80 * 3)
    path = crafted_dataset(tmp_path / "shards", [(pixels, 80, 80)] * 2, fields_of("raw", large))
    data = open_dataset(path)
    list(data.stream(batch_size=2))
    size = os.path.getsize(path / "train-00000-of-00001.tfrecord")
    for offset in (size - 1, size - 100, size):
        overwrite(data, 1, offset=offset)
        with pytest.raises(CorruptionError, match=r"row 1: its index points outside of it: the index was damaged"):
            list(data.stream(batch_size=2, shuffle="none", verify="never"))


@pytest.mark.parametrize("name", ["id_offset", "id_length"])
def test_strings_are_bounded(tmp_path: Path, name: str) -> None:
    data = open_dataset(raw_dataset(tmp_path / "shards"))
    assert data.ids().tolist() == [f"{number}.jpg".encode() for number in range(4)]
    overwrite(data, 1, **{name: (1 << 32) - 1})
    with pytest.raises(CorruptionError, match=r"index points outside of it: the index was damaged, or changed after"):
        data.ids()


@pytest.mark.parametrize("suffix", ["", ".index.npy"], ids=["shard", "index"])
def test_a_mapped_file_that_was_cut_off_is_an_error(tmp_path: Path, suffix: str) -> None:
    """To read past its end would end the process."""
    path = raw_dataset(tmp_path / "shards")
    code = """
import os, sys
from shard_reader import CorruptionError, open_dataset
from shard_reader.shards import local_shards, remote_shards

local_shards.CHECK_SECONDS = remote_shards.CHECK_SECONDS = 0.0
data = open_dataset(sys.argv[1])
stream = data.stream(batch_size=4)
list(stream)
os.truncate(sys.argv[2], 1)
for read in (lambda: list(stream), lambda: data[0], lambda: data.column("label")):
    try:
        read()
        raise SystemExit("no error")
    except CorruptionError as error:
        print(error)
"""
    result = limited(code, path, path / f"train-00000-of-00001.tfrecord{suffix}")
    assert result.returncode == 0, result.stderr
    assert f"train-00000-of-00001.tfrecord{suffix}: " in result.stdout


def test_a_file_of_the_cache_that_was_cut_off_is_fetched_again(tmp_path: Path) -> None:
    path = raw_dataset(tmp_path / "shards")
    code = """
import os, sys
from pathlib import Path
from shard_reader import open_dataset
from shard_reader.shards import remote_shards

remote_shards.CHECK_SECONDS = 0.0
data = open_dataset(sys.argv[1], cache=sys.argv[2], cache_bytes=2**30)
stream = data.stream(batch_size=2, shuffle="none")
for epoch in range(3):
    batches = list(stream)
(file,) = Path(sys.argv[2]).glob("*.tfrecord")
assert data._shards.record(0, 0).is_mapped
os.truncate(file, 1)
for batches in (list(stream), list(stream)):
    print([batch["image"].max().item() for batch in batches])
print(data[3]["image"].max().item())
"""
    result = limited(code, path, tmp_path / "cache")
    assert result.stdout == "[10, 30]\n[10, 30]\n30\n", result.stderr


@pytest.mark.parametrize("is_part", [False, True])
def test_what_is_no_file_in_the_cache_is_removed(tmp_path: Path, is_part: bool) -> None:
    path, cache = raw_dataset(tmp_path / "shards"), tmp_path / "cache"
    data = open_dataset(path, cache=cache)
    entry = data._shards.entry(0)  # type: ignore[union-attr]
    cache.mkdir(exist_ok=True)
    os.mkfifo(cache / (f"{entry.name}.part" if is_part else entry.name))
    for _ in range(2):
        (batch,) = data.stream(batch_size=4, shuffle="none")
        assert batch["image"][3].tobytes() == PIXELS[3]
    data.close()
    (cache / "locks").unlink()
    os.mkfifo(cache / "locks")
    with pytest.warns(RuntimeWarning, match=r"cannot be used \(is a FIFO, a device or a socket"):
        data = open_dataset(path, cache=cache)
    assert data[0]["image"].shape == RAW
