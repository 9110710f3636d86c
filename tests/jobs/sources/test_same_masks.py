"""Every source that holds further images: the same photos with the same masks and bytes, whatever they come in."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from support.command import prepared
from support.sources import Found, example, make, write_tfrecord

from beam_jobs.sources import Reference
from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.known import open_source, recognised
from shard_reader import open_dataset

NAMES = ["a", "b", "c", "d"]
SIZE = (12, 8)


def png(seed: int, mode: str) -> bytes:
    shape = (SIZE[1], SIZE[0], 3) if mode == "RGB" else SIZE[::-1]
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 200, shape, np.uint8)).save(file, "PNG")
    return file.getvalue()


PHOTOS = {name: png(number, "RGB") for number, name in enumerate(NAMES)}
MASKS = {name: png(number + 10, "L") for number, name in enumerate(NAMES)}

Options = dict[str, Any]


def files(root: Path, images: str, masks: str) -> None:
    for of, data in ((images, PHOTOS), (masks, MASKS)):
        for name in NAMES:
            path = root / of.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[name])


def as_folders(root: Path) -> tuple[Path, Options]:
    files(root, "images/{}.png", "masks/{}.png")
    return root, {}


def as_files_beside(root: Path) -> tuple[Path, Options]:
    files(root, "{}.png", "{}_mask.png")
    return root, {}


def as_table(root: Path) -> tuple[Path, Options]:
    files(root / "in", "{}.png", "m/{}.png")
    (root / "t.csv").write_text("path,mask\n" + "".join(f"{name}.png,m/{name}.png\n" for name in NAMES))
    return root / "t.csv", {"root": str(root / "in"), "mask_column": "mask"}


def as_image_folder(root: Path) -> tuple[Path, Options]:
    files(root, "{}.png", "m/{}.png")
    lines = "".join(f"{name}.png,m/{name}.png\n" for name in NAMES)
    (root / "metadata.csv").write_text("file_name,mask_file_name\n" + lines)
    return root, {}


def _table() -> Any:
    columns = {"image": list(PHOTOS.values()), "mask": list(MASKS.values()), "id": NAMES}
    return pa.table(columns)


def as_parquet(root: Path) -> tuple[Path, Options]:
    parquet.write_table(_table(), root / "t.parquet", row_group_size=2)
    return root / "t.parquet", {"id_column": "id"}


def as_arrow(root: Path) -> tuple[Path, Options]:
    with pa.OSFile(str(root / "t.arrow"), "wb") as file, pa.ipc.new_file(file, _table().schema) as writer:
        writer.write_table(_table(), 2)
    return root / "t.arrow", {"id_column": "id"}


def as_webdataset(root: Path) -> tuple[Path, Options]:
    members = {f"{name}.png": PHOTOS[name] for name in NAMES} | {f"{name}.mask.png": MASKS[name] for name in NAMES}
    return make(root / "t.tar", members), {}


def as_zip(root: Path) -> tuple[Path, Options]:
    members = {f"{name}.png": PHOTOS[name] for name in NAMES} | {f"{name}.truth.png": MASKS[name] for name in NAMES}
    members |= {f"{name}.txt": b"a text" for name in NAMES}
    return make(root / "t.zip", members), {"mask_column": "truth.png"}


def as_tfrecord(root: Path) -> tuple[Path, Options]:
    records = [example(image=PHOTOS[name], mask=MASKS[name], name=name) for name in NAMES]
    return write_tfrecord(root / "t.tfrecord", *records), {"id_column": "name"}


def as_hdf5(root: Path) -> tuple[Path, Options]:
    with h5py.File(root / "t.h5", "w") as file:
        for array, data in (("image", PHOTOS), ("mask", MASKS)):
            rows = file.create_dataset(array, (len(NAMES),), h5py.vlen_dtype(np.uint8))
            for row, name in enumerate(NAMES):
                rows[row] = np.frombuffer(data[name], np.uint8)
        file["name"] = NAMES
    return root / "t.h5", {"id_column": "name"}


def as_voc(root: Path) -> tuple[Path, Options]:
    files(root, "JPEGImages/{}.png", "SegmentationClass/{}.png")
    for name in NAMES:
        path = root / f"Annotations/{name}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("<annotation></annotation>")
    return root, {"segments": "mask"}


FORMS: list[Callable[[Path], tuple[Path, Options]]] = [
    *(as_folders, as_files_beside, as_table, as_image_folder, as_parquet, as_arrow, as_webdataset, as_zip),
    *(as_tfrecord, as_hdf5, as_voc),
]


def read(place: Path, options: Options) -> Iterator[tuple[str, bytes, bytes]]:
    """The name, the image and the mask of every input, read by a second source as a worker does."""
    known, _ = recognised(SourceOptions(input=str(place), **options))
    listing, worker = Found(open_source(known)), open_source(known)
    assert listing.layout.payloads == {"mask": "mask"} and not listing.rejects
    for id, entry in listing.entries.items():
        reference = Reference(id, entry.size, entry.place, payloads=entry.payloads)
        yield Path(id).stem, bytes(worker.read(reference)), bytes(worker.read_payload(reference, "mask"))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_same_masks_in_every_form(form: Callable[[Path], tuple[Path, Options]], tmp_path: Path) -> None:
    place, options = form(tmp_path)
    assert sorted(read(place, options)) == [(name, PHOTOS[name], MASKS[name]) for name in NAMES]


@pytest.mark.slow
@pytest.mark.parametrize("form", [as_folders, as_table, as_parquet, as_webdataset, as_tfrecord, as_voc])
def test_masks_in_every_form_are_stored_pixel_for_pixel(
    form: Callable[[Path], tuple[Path, Options]], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    place, options = form(tmp_path / "in")
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    data = open_dataset(prepared(place, tmp_path / "out", *words, "--fit", "none", "--encoding", "png"))
    assert len(data) == len(NAMES)
    for record in (data[number] for number in range(len(data))):
        expected = np.asarray(Image.open(io.BytesIO(MASKS[Path(record["id"]).stem])))
        assert np.array_equal(record["mask"], expected)


def test_masks_in_a_folder_of_photos(photos: Path, tmp_path: Path) -> None:
    """Photos of any format and orientation, with a mask drawn for each."""
    chosen = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:12]
    for number, path in enumerate(chosen):
        with Image.open(path) as image:
            size = image.size
        for folder in ("images", "masks"):
            (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "in/images" / f"{number}{path.suffix}").symlink_to(path)
        Image.new("L", size, number + 1).save(tmp_path / f"in/masks/{number}.png")
    data = open_dataset(prepared(tmp_path / "in", tmp_path / "out", "--size", 32))
    for record in (data[number] for number in range(len(data))):
        assert record["mask"].shape == record["image"].shape[:2]
        assert (record["mask"] == int(Path(record["id"]).stem) + 1).all()
    assert len(data) == len(chosen)
