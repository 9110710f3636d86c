"""Arrays as input: HDF5, npz and npy, as the formats' own libraries write them."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.images import write_image
from support.sources import found_records, images, refused_records, save, upload

from beam_jobs.sources import BadInput, Reference
from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.records import RecordFiles
from shard_reader.format import Field

ARRAYS = {
    "grey": (5, 8, 6),
    "grey with a channel": (5, 8, 6, 1),
    "colour": (5, 8, 6, 3),
    "transparent": (5, 8, 6, 4),
    "planes": (5, 3, 8, 6),
    "grey planes": (5, 1, 8, 6),
}


@pytest.mark.parametrize("dtype", ["uint8", "<u2", ">u2"])
@pytest.mark.parametrize("shape", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("suffix", [".h5", ".npz", ""])
def test_arrays_of_every_shape(tmp_path: Path, suffix: str, shape: tuple[int, ...], dtype: str) -> None:
    pixels = images(*shape, dtype=dtype)
    listed = found_records(save(tmp_path / f"a{suffix}", {"images": pixels, "labels": np.arange(5)}))
    assert [entry.label for entry in listed.entries.values()] == list(range(5))
    assert listed.entries["00000002"].size == pixels[2].nbytes
    expected = np.moveaxis(pixels, 1, 3) if shape[1] in (1, 3) else pixels
    for id, image in zip(listed.entries, expected, strict=True):
        read = listed.read(id)
        assert read.dtype == (np.uint8 if dtype == "uint8" else np.uint16)
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("suffix", [".h5", ".npz", ""])
def test_arrays_beside_the_images_are_fields(tmp_path: Path, suffix: str) -> None:
    arrays = {
        "x": images(3, 4, 4),
        "y": np.array([[7], [8], [9]], np.uint8),
        "weight": np.array([0.5, 1, 2]),
        "flag": np.array([True, False, True]),
        "name": np.array([b"a", b"bc", "ü".encode()]),
        "points": np.arange(12, dtype=np.int16).reshape(3, 2, 2),
        "test": np.arange(4),
    }
    listed = found_records(save(tmp_path / f"a{suffix}", arrays))
    assert [entry.label for entry in listed.entries.values()] == [7, 8, 9]
    assert listed.entries["00000001"].fields == {"weight": 1.0, "flag": False, "name": "bc", "points": [4, 5, 6, 7]}
    assert listed.layout.fields == {"points": Field(dtype="int64", shape=(2, 2))}
    assert listed.text.endswith("(images in x, labels in y; left out: test)")
    listed = found_records(tmp_path / f"a{suffix}", label_column="name", fields=("flag",))
    assert [entry.label for entry in listed.entries.values()] == ["a", "bc", "ü"]
    assert listed.entries["00000001"].fields == {"flag": False}
    assert refused_records(tmp_path / f"a{suffix}", fields=("test",)) == (
        "INPUT: the array test is int64 [4], and x is uint8 [3, 4, 4]: expected a row for each image"
    )


def test_hdf5_of_encoded_files(tmp_path: Path, bucket: str) -> None:
    write_image(tmp_path / "1.jpg")
    files = [(tmp_path / "1.jpg").read_bytes(), b"two", b""]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (3,), h5py.vlen_dtype(np.uint8))[:] = [np.frombuffer(f, np.uint8) for f in files]
        file.create_dataset("label", data=["cat", "dog", "ü"], dtype=h5py.string_dtype())
        file.create_dataset("parts", (3,), h5py.vlen_dtype(np.int32))[:] = [np.arange(n) for n in range(3)]
    for place in (tmp_path / "a.h5", upload(tmp_path / "a.h5", f"{bucket}/a.h5")):
        listed = found_records(place)
        assert listed.text == "an HDF5 file (images in image, labels in label)"
        assert [entry.label for entry in listed.entries.values()] == ["cat", "dog", "ü"]
        assert [entry.fields["parts"] for entry in listed.entries.values()] == [[], [0], [0, 1]]
        assert listed.layout.fields == {"parts": Field(dtype="int64", shape=(None,))}
        assert [listed.read(id) for id in listed.entries] == files


def test_hdf5_in_groups_and_compressed(tmp_path: Path) -> None:
    pixels = images(10, 4, 4, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("train/pixels", data=pixels, compression="gzip", chunks=(4, 4, 4, 3))
        file["train/kind"] = np.arange(10)
    assert refused_records(tmp_path / "a.h5") == (
        "INPUT: no array is named image or images or x or X or data or x_train; name one of its own with --image-key:"
        " train/kind (int64 [10]), train/pixels (uint8 [10, 4, 4, 3])"
    )
    listed = found_records(tmp_path / "a.h5", image_key="train/pixels", label_column="train/kind")
    assert listed.entries["00000009"].label == 9
    np.testing.assert_array_equal(listed.read("00000009"), pixels[9])


SPLITS = [
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "y_train", "X_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("train_set_x", "train_set_y", "test_set_x", "test_set_y"),
    ("xtrain", "ytrain", "xtest", "ytest"),
    ("trainImages", "trainLabels", "testImages", "testLabels"),
    ("train/images", "train/labels", "test/images", "test/labels"),
    ("Train/image", "Train/label", "Test/image", "Test/label"),
    ("images/train", "labels/train", "images/test", "labels/test"),
]


@pytest.mark.parametrize("suffix", [".h5", ".npz", ""])
@pytest.mark.parametrize("names", SPLITS, ids=[names[2] for names in SPLITS])
def test_arrays_of_splits(tmp_path: Path, suffix: str, names: tuple[str, ...]) -> None:
    if "/" in names[0] and suffix != ".h5":
        return
    x_train, y_train, x_test, y_test = names
    train, test = images(3, 4, 4), images(3, 4, 4) // 2
    arrays = {x_train: train, y_train: np.arange(3), x_test: test, y_test: np.arange(3) + 5}
    path = save(tmp_path / f"a{suffix}", arrays)
    listed = found_records(path)
    assert listed.labels == {f"{x_train}/{n:08d}": (n, "train") for n in range(3)} | {
        f"{x_test}/{n:08d}": (n + 5, "test") for n in range(3)
    }
    assert listed.layout.splits == ("train", "test")
    assert listed.text.startswith("splits (train, test) of ")
    assert listed.text.endswith(f" (images in {x_train} and {x_test}, labels in {y_train} and {y_test})")
    np.testing.assert_array_equal(listed.read(f"{x_test}/00000001"), test[1])
    listed = found_records(path, image_key=x_test)
    assert listed.labels == {f"{n:08d}": (n + 5, None) for n in range(3)}
    assert listed.layout.splits is None
    assert listed.text.endswith(
        f" (images in {x_test}, labels in {y_test}; left out: {min(x_train, y_train)}, {max(x_train, y_train)})"
    )
    np.testing.assert_array_equal(listed.read("00000001"), test[1])


def test_labels_of_another_split_are_no_labels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", {"x_train": images(3, 4, 4), "y_train": np.arange(3), "x_test": images(3, 4, 4)})
    listed = found_records(path, image_key="x_test")
    assert {label for label, _ in listed.labels.values()} == {None}
    assert listed.text == "an npz file (images in x_test, without labels; left out: x_train, y_train)"
    listed = found_records(path, image_key="x_test", label_column="y_train")
    assert [label for label, _ in listed.labels.values()] == [0, 1, 2]
    path = save(
        tmp_path / "a.h5", {"test/images": images(3, 4, 4), "labels": np.arange(3), "test/labels": np.ones(3, int)}
    )
    listed = found_records(path, image_key="test/images")
    assert [label for label, _ in listed.labels.values()] == [1, 1, 1]
    path = save(tmp_path / "b.h5", {"test/images": images(3, 4, 4), "labels": np.arange(3)})
    assert found_records(path, image_key="test/images").text == "an HDF5 file (images in test/images, without labels)"


def test_arrays_of_splits_with_fields(tmp_path: Path) -> None:
    arrays = {"classes": np.arange(7)}
    for number, split in enumerate(("test", "train", "val")):
        rows = number + 1
        arrays[f"{split}_images"] = images(rows, 4, 4, 3)
        arrays[f"{split}_labels"] = np.full((rows, 1), number)
        arrays[f"{split}_weight"] = np.full(rows, number / 2)
        arrays[f"{split}_box"] = np.ones((rows, 4), np.float32)
    path = save(tmp_path / "medmnist.npz", arrays)
    listed = found_records(path)
    assert listed.layout.splits == ("train", "val", "test")
    assert listed.text == (
        "splits (train, val, test) of an npz file (images in train_images and val_images and test_images, labels in"
        " train_labels and val_labels and test_labels; left out: classes)"
    )
    assert len(listed.entries) == 6
    assert listed.labels["val_images/00000002"] == (2, "val")
    assert listed.entries["val_images/00000002"].fields == {"weight": 1.0, "box": [1.0] * 4}
    assert listed.layout.fields == {"box": Field(dtype="float32", shape=(4,))}
    assert found_records(path, fields=("train_weight",)).entries["test_images/00000000"].fields == {"weight": 0.0}
    assert refused_records(path, fields=("colour",)).startswith("--fields colour: INPUT has no such values; it has ")
    upload_dir = tmp_path / "several"
    upload_dir.mkdir()
    save(upload_dir / "a.npz", arrays)
    save(upload_dir / "b.npz", arrays)
    assert found_records(upload_dir).labels["b.npz/val_images/00000002"] == (2, "val")
    save(upload_dir / "c.npz", {"images": images(1, 4, 4)})
    assert "c.npz: holds no arrays of splits, as others do" in refused_records(upload_dir)


def test_a_folder_of_hdf5_of_splits(tmp_path: Path) -> None:
    for name in ("train_1.h5", "test_1.h5"):
        save(tmp_path / name, {"x_train": images(2, 4, 4), "y_train": np.arange(2)})
    (tmp_path / "photo.jpg").write_bytes(b"")
    listed = found_records(tmp_path)
    assert listed.labels == {
        "test_1.h5/00000000": (0, "test"),
        "test_1.h5/00000001": (1, "test"),
        "train_1.h5/00000000": (0, "train"),
        "train_1.h5/00000001": (1, "train"),
    }
    assert listed.text == "split files (test, train) of 2 HDF5 files (images in x_train, labels in y_train)"
    assert listed.rejects == {"photo.jpg": ("other-file", "is another kind of file than INPUT's")}


def _sum(source: RecordFiles, reference: Reference) -> int:
    return int(np.sum(source.read(reference)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_hdf5_is_read_by_threads_and_after_a_fork(tmp_path: Path) -> None:
    pixels = images(64, 8, 8, 3)
    save(tmp_path / "a.h5", {"images": pixels})
    source = RecordFiles(SourceOptions(input=str(tmp_path / "a.h5")))
    references = [Reference(str(n), -1, place=["hdf5", "", "images", n]) for n in range(64)]
    sums = [int(image.sum()) for image in pixels]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(_sum, itertools.repeat(source), references)) == sums
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put([_sum(source, reference) for reference in references]))
    child.start()
    child.join(300)
    assert child.exitcode == 0
    assert queue.get() == sums


@pytest.mark.parametrize("suffix", [".h5", ".npz", ""])
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": np.zeros((3, 4, 4)), "labels": np.zeros(3, int)},
            "the array images is float64 [3, 4, 4]: EXPECTED; scale them to 0..255 and save them as uint8",
        ),
        ({"images": images(3, 16)}, "the array images is uint8 [3, 16]: EXPECTED"),
        ({"images": images(3, 6, 6, 5)}, "the array images is uint8 [3, 6, 6, 5]: EXPECTED"),
        ({"images": images(3, 6, 6, dtype="int32")}, "the array images is int32 [3, 6, 6]: EXPECTED"),
        (
            {"images": images(3, 6, 6), "labels": np.zeros(4, int)},
            "the array labels is int64 [4], and images is uint8 [3, 6, 6]: expected a row for each image",
        ),
        (
            {"images": images(3, 6, 6), "labels": np.eye(3, dtype=np.uint8)},
            "the labels labels are uint8 [3, 3]: expected a whole number or a name for each image (of one-hot labels,"
            " save the argmax)",
        ),
        (
            {"images": images(2, 6, 6), "map": np.zeros((2, 100, 100), np.uint8)},
            "the array map is uint8 [2, 100, 100]: a field has at most 4,096 values; leave it out with --fields",
        ),
        (
            {"images": images(2, 6, 6), "z": np.zeros(2, complex)},
            "the array z is complex128 [2]: a field is of numbers or texts; save it as such, or leave it out with"
            " --fields",
        ),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path: Path, suffix: str, arrays: dict[str, Any], message: str) -> None:
    expected = (
        "expected uint8 or uint16 of [n, height, width], [n, height, width, channels] or [n, channels, height, width],"
        " with 1, 3 or 4 channels"
    )
    message = message.replace("EXPECTED", expected)
    assert refused_records(save(tmp_path / f"a{suffix}", arrays)) == f"INPUT: {message}"


def test_hdf5_that_is_broken(tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5", {"images": images(9, 40, 40)})
    os.truncate(path, 9000)
    assert refused_records(path).startswith(
        "INPUT: cannot be read as HDF5 (Unable to synchronously open file (truncated file"
    )
    path = save(tmp_path / "b.h5", {"images": images(3, 4, 4)})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<3Q", 3, 4, 4), struct.pack("<3Q", 3, 4, 5), 1))
    assert refused_records(path).startswith("INPUT: cannot be read as HDF5 (")
    path.write_bytes(b"no")
    assert refused_records(path).startswith(
        "INPUT: cannot be read as HDF5 (Unable to synchronously open file (file signature"
    )
    save(path, {"images": images(3, 4, 4)})
    reference = Reference("9", -1, place=["hdf5", "", "images", 9])
    with pytest.raises(BadInput, match="the file has no row 9 in images any more"):
        RecordFiles(SourceOptions(input=str(path))).read(reference)
    with pytest.raises(FileNotFoundError):
        RecordFiles(SourceOptions(input=str(tmp_path / "gone.h5"))).read(reference)


def test_one_array(tmp_path: Path, bucket: str) -> None:
    pixels = images(4, 5, 6, 3)
    np.save(tmp_path / "a.npy", pixels)
    for place in (tmp_path / "a.npy", upload(tmp_path / "a.npy", f"{bucket}/a.npy")):
        listed = found_records(place)
        assert listed.text == "a NumPy array (images in a, without labels)"
        np.testing.assert_array_equal(np.stack([listed.read(id) for id in listed.entries]), pixels)


def test_arrays_in_split_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "images.npy", images(1, 4, 4))
        np.save(tmp_path / split / "labels.npy", np.array(["cat"]))
    listed = found_records(tmp_path)
    assert listed.labels == {"test/00000000": ("cat", "test"), "train/00000000": ("cat", "train")}
    np.testing.assert_array_equal(listed.read("test/00000000"), images(1, 4, 4)[0])


def test_an_npz_in_a_bucket(tmp_path: Path, bucket: str) -> None:
    pixels = images(4, 5, 6, 3)
    path = save(tmp_path / "a.npz", {"x_train": pixels, "y_train": np.arange(4), "x_test": images(2, 5, 6)})
    listed = found_records(upload(path, f"{bucket}/a.npz"))
    text = (
        "splits (train, test) of an npz file (images in x_train and x_test, labels in y_train, x_test without labels)"
    )
    assert listed.text == text
    np.testing.assert_array_equal(listed.read("x_train/00000003"), pixels[3])


def test_numpy_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=images(2, 4, 4))
    assert refused_records(path) == (
        "INPUT: the array images is compressed, as numpy.savez_compressed does, without random access; save it again"
        " with numpy.savez"
    )
    path.write_bytes(b"x")
    assert refused_records(path).startswith("INPUT: is no zip archive, or was cut off")
    path = tmp_path / "a.npy"
    np.save(path, np.asfortranarray(images(2, 4, 4)))
    assert refused_records(path) == "INPUT: a is in Fortran's order; save numpy.ascontiguousarray of it"
    np.save(path, np.array([{}, {}], object), allow_pickle=True)
    assert refused_records(path).startswith(
        "INPUT: the array a is object [2]: expected uint8 or uint16 of [n, height, width]"
    )
    np.save(path, images(2, 4, 4))
    os.truncate(path, 140)
    assert refused_records(path) == "INPUT: was cut off: a, uint8 [2, 4, 4], needs 32 bytes and has 12"
    path.write_bytes(b"x")
    assert "is no array of NumPy's" in refused_records(path)


def in_hdf5(path: Path) -> h5py.File:
    file = h5py.File(path, "w")
    file["images"], file["meta/y"] = images(3, 4, 4), np.arange(3)
    return file


def test_soft_links_inside_of_hdf5_are_followed(tmp_path: Path) -> None:
    with in_hdf5(tmp_path / "a.h5") as file:
        file["labels"], file["all"] = h5py.SoftLink("/meta/y"), h5py.SoftLink("/")
    assert [entry.label for entry in found_records(tmp_path / "a.h5").entries.values()] == [0, 1, 2]
    found = found_records(tmp_path / "a.h5", label_column="meta/y")
    assert [entry.label for entry in found.entries.values()] == [0, 1, 2]


def link_out(file: h5py.File) -> None:
    file["labels"] = h5py.ExternalLink("other.h5", "/y")


def link_to_nothing(file: h5py.File) -> None:
    file["meta/label"] = h5py.SoftLink("/gone")


def stored_elsewhere(file: h5py.File) -> None:
    file.create_dataset("weight", (3,), "u1", external=[("weights.bin", 0, 3)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, 4, 4), "u1")
    layout[:] = h5py.VirtualSource("gone.h5", "images", (3, 4, 4))
    del file["images"]
    file.create_virtual_dataset("images", layout)


def written_in_part(file: h5py.File) -> None:
    del file["images"]
    file.create_dataset("images", (3, 4, 4), "u1", chunks=(1, 4, 4))[:2] = 1


def never_written(file: h5py.File) -> None:
    file.create_dataset("labels", (3,), "i8")


def filtered(file: h5py.File) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((3, 4, 4))
    creation.set_filter(32008, h5py.h5z.FLAG_OPTIONAL, (0, 2))  # bitshuffle, which is not installed
    space = h5py.h5s.create_simple((3, 4, 4))
    del file["images"]
    made = h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_UINT8, space, creation)
    h5py.Dataset(made)[:] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link_out, "INPUT: labels is a link to /y in another file, other.h5; copy it into this file with h5copy"),
        (link_to_nothing, "INPUT: meta/label is a link to /gone, which is not in the file"),
        (stored_elsewhere, "INPUT: the array weight has its values in other files (weights.bin)"),
        (virtual, "INPUT: the array images is virtual: its values are in other arrays (files: gone.h5)"),
        (written_in_part, "INPUT: the array images was not written as a whole: 1 of 3 chunks are missing"),
        (never_written, "INPUT: the array labels was not written as a whole: 1 of 1 chunks are missing"),
        (filtered, "INPUT: the array images is compressed by bitshuffle (HDF5's filter 32008), which is not installed"),
    ],
)
def test_values_that_hdf5_would_make_up_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    with in_hdf5(tmp_path / "a.h5") as file:
        change(file)
    assert refused_records(tmp_path / "a.h5").startswith(message)


def test_arrays_that_are_not_read_are_named(tmp_path: Path) -> None:
    arrays = {"images": images(3, 4, 4), "other": np.arange(4), "weight": np.arange(3), "height": np.arange(3)}
    arrays["version"] = np.array(7)
    left_out = found_records(save(tmp_path / "a.npz", arrays), fields=("weight",)).layout.left_out
    reasons = {one.what: one.why for one in left_out}
    assert reasons == {
        "height, other": "--fields does not name them",
        "version": "one value, not a row for each image",
    }
    left_out = found_records(tmp_path / "a.npz").layout.left_out
    assert {one.what: one.why for one in left_out} == {
        "height": "they describe the file of an image, not the stored one; --fields keeps them",
        "other": "int64 [4]: not a row for each image",
        "version": "one value, not a row for each image",
    }
