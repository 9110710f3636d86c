"""Parsers of untrusted bytes, as functions for a fuzzer: each ends, or raises an error that is meant for its user."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import http.client
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from PIL import Image, ImageCms
from pyarrow import parquet
from support.pictures import profile

from beam_jobs.errors import JobError, UsageError
from beam_jobs.images.decode import decode, ignore_image_warnings
from beam_jobs.images.files import png
from beam_jobs.images.files.unread import unread
from beam_jobs.images.pixels.colour import srgb_pixels
from beam_jobs.images.pixels.matrix_profile import some_colours
from beam_jobs.images.targets.masks import exact_values
from beam_jobs.metadata.card import read_card
from beam_jobs.metadata.croissant import croissant
from beam_jobs.metadata.page import page
from beam_jobs.metadata.pictures import coloured
from beam_jobs.options import ImageOptions
from beam_jobs.report.reading.lists import read_lists
from beam_jobs.report.reading.pictures import picture_of_jpeg
from beam_jobs.shards.thumbnails import Thumbnails
from beam_jobs.sources import BadInput, Problem, Reference, SourceOptions
from beam_jobs.sources.files.annotations.panoptic import panoptic_mask
from beam_jobs.sources.files.tables.page_bodies import Damaged, Values
from beam_jobs.sources.files.tables.parquet_pages import Chunk, places
from beam_jobs.sources.known import open_source
from beam_jobs.tools.foreign.images_seen import FurtherImages
from shard_reader import open_dataset
from shard_reader.errors import ShardsError, StateError
from shard_reader.format import Field, Manifest, index, index_name
from shard_reader.format.checksum import crc32c
from shard_reader.format.image_codecs import jpeg_cut
from shard_reader.format.image_codecs.jpeg import Jpeg
from shard_reader.format.image_codecs.table import codec_of, decode_image, read_header
from shard_reader.format.manifest import (
    DUPLICATES_NAME,
    MANIFEST_NAME,
    REJECTS_NAME,
    SUSPECTS_NAME,
    THUMBNAILS_NAME,
    with_checksum,
)
from shard_reader.format.shard_formats import example, hdf5, tfrecord
from shard_reader.storage.http_ranges import HttpRanges
from shard_reader.storage.open import directory
from shard_reader.transforms.part import Part

__all__ = ["FOUND", "TARGETS", "Target", "check"]

FOUND = Path(__file__).parent / "found"
"""Inputs that once went wrong, in a folder for each target."""

GOLDEN = Path(__file__).parents[1] / "reader/format/golden/v1/encoded"
PAYLOADS = GOLDEN.parent / "payloads"
FIELDS = GOLDEN.parent / "fields"
_VALUES = b"text\n\1a\n\1\3"
_READS = 20  # images of a source that are read


@dataclass(frozen=True)
class Target:
    """A parser: `run` with bytes, inputs to begin with, and the errors that bad bytes may raise."""

    run: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    errors: tuple[type[Exception], ...]


def check(target: Target, data: bytes) -> None:
    """Run a target. Its errors must have a message, which a terminal can show; commands escape those of jobs."""
    try:
        target.run(data)
    except target.errors as error:
        text = str(error)
        assert text, f"an error without a message: {error!r}"
        assert isinstance(error, JobError) or all(character.isprintable() or character == "\n" for character in text), (
            f"not printable: {text!r}"
        )


# The reader


def _manifest(data: bytes) -> None:
    text = data.decode("utf-8", "ignore")
    Manifest.from_json(text)


def _datasets(data: bytes, golden: Path = GOLDEN) -> None:
    """A manifest with a sound checksum, over the golden files."""
    try:
        body = json.loads(data)
        text = with_checksum(body) if isinstance(body, dict) else data.decode()
        text.encode()
    except (ValueError, RecursionError):
        return
    manifest = Manifest.from_json(text)
    for split in list(manifest.splits)[:2]:
        _read_dataset(text, split, {}, golden)


def _index(data: bytes, golden: Path = GOLDEN) -> None:
    """An index that the manifest agrees with."""
    manifest = json.loads((golden / MANIFEST_NAME).read_text())
    files = manifest["splits"]["train"]["shards"]["files"]["tfrecord"]
    files["index_sha256"] = hashlib.sha256(data).hexdigest() + files["index_sha256"][64:]
    # The checksums of blocks are at the end, however long it is. Without the column, it is read as one of old.
    blocks = -(-manifest["splits"]["train"]["shards"]["records"][0] // index.BLOCK)
    files["index_crc32c"][0] = crc32c(data[-4 * blocks :])
    for known in (True, False):
        if not known:
            del files["index_crc32c"]
        _read_dataset(with_checksum(manifest), "train", {index_name(files["path"][0]): data}, golden)


def _replaced_index(data: bytes) -> None:
    """An index in place of another, with values of its own, that the manifest agrees with."""
    manifest = json.loads((FIELDS / MANIFEST_NAME).read_text())
    files = manifest["splits"]["train"]["shards"]["files"]["tfrecord"]
    files |= {"replaced_index": ["new.index.npy"], "index_values": [len(_VALUES)]}
    files["index_sha256"] = hashlib.sha256(data).hexdigest()
    files["index_crc32c"] = [crc32c(data[-len(_VALUES) - 4 : -len(_VALUES)])]
    text = with_checksum({**manifest, "requires": ["relabeled"]})
    _read_dataset(text, "train", {"new.index.npy": data}, FIELDS)


def _replaced_indexes() -> Sequence[bytes]:
    manifest = Manifest.from_json((FIELDS / MANIFEST_NAME).read_text())
    shard = manifest.splits["train"].shards[0]
    rows = index.load(FIELDS, shard.files["tfrecord"], shard.records, manifest.fields).copy()
    size = shard.files["tfrecord"].bytes
    for name, value in (("note", b"text"), ("tags", b"\n\1a"), ("label", b"\n\1\3"), ("objects/id", b"\n\1\3")):
        columns = (f"{name}_offset", f"{name}_length", f"{name}_crc32c")
        for column, number in zip(columns, (size + _VALUES.index(value), len(value), crc32c(value)), strict=True):
            rows[column][1] = number
    return [index.to_bytes(rows, values=_VALUES)]


def _read_dataset(manifest: str, split: str, files: Mapping[str, bytes], golden: Path) -> None:
    with tempfile.TemporaryDirectory(dir=_memory()) as directory:
        root = Path(directory)
        for path in golden.iterdir():
            (root / path.name).symlink_to(path)
        for name, data in {**files, MANIFEST_NAME: manifest.encode()}.items():
            (root / name).unlink(missing_ok=True)
            (root / name).write_bytes(data)
        with open_dataset(root, split) as dataset:
            for number in range(min(len(dataset), 4)):
                dataset[number]


def _further_image(data: bytes) -> None:
    """A value of a TFRecord that may be an image, or a part of one."""
    seen = FurtherImages()
    seen.see(np.frombuffer(data, np.uint8), "x.tfrecord: record 0")
    if seen.is_every and not seen.unread:
        field = seen.images.field("x", "mask")
        with contextlib.suppress(ValueError):
            height, width = (side or 0 for side in field.shape[:2])
            coloured(decode_image(np.frombuffer(data, np.uint8), field, height, width, max_pixels=1 << 20))


def _states(data: bytes) -> None:
    with open_dataset(GOLDEN.parent / "raw") as dataset:
        stream = dataset.stream(batch_size=2, seed=3)
        try:
            state = json.loads(data)
        except (ValueError, RecursionError):
            return
        stream.load_state_dict(state)
        stream.state_dict()
        stream.coverage()


def _state_seeds() -> Sequence[bytes]:
    with open_dataset(GOLDEN.parent / "raw") as dataset:
        stream = dataset.stream(batch_size=2, seed=3)
        begin = stream.state_dict()
        next(iter(stream))
        return [json.dumps(state).encode() for state in (begin, stream.state_dict())]


def _tfrecord(data: bytes) -> None:
    array = np.frombuffer(data, np.uint8)
    tfrecord.framing(array)
    for _, payload in tfrecord.read_records(array, "shard"):
        payload.tobytes()


def _example(data: bytes) -> None:
    decoded = example.decode(np.frombuffer(data, np.uint8))
    for values in decoded.values():
        assert all(not isinstance(value, slice) or value.stop <= len(data) for value in values)


def _heap(data: bytes) -> None:
    """References, and the collections that they refer to: 16 bytes each, then the file."""
    count = data[0] % 8 if data else 0
    references = np.frombuffer(data[1 : 1 + 16 * count].ljust(16 * count, b"\0"), hdf5._REFERENCE)
    file = np.frombuffer(data[1 + 16 * count :], np.uint8)
    offset, length = hdf5._heap_extents(file, references, "shard", 1)
    held = length > 0
    ends = offset[held].astype(object) + length[held].astype(object)
    assert np.all(ends <= len(file)), "an extent outside of the file"


def _heap_seed() -> bytes:
    data = b"payload!"
    objects = hdf5._OBJECT.pack(1, 1, len(data)) + data + hdf5._OBJECT.pack(2, 1, 3) + b"abc".ljust(8, b"\0")
    collection = hdf5._COLLECTION.pack(b"GCOL", hdf5._COLLECTION.size + len(objects)) + objects
    references = np.array([(8, 0, 1), (3, 0, 2)], hdf5._REFERENCE)
    return b"\x02" + references.tobytes() + collection


def _headers(data: bytes) -> None:
    read_header(np.frombuffer(data, np.uint8))


def _jpeg_part(data: bytes) -> None:
    """A part of a JPEG, by the first four bytes. Where the whole image is decoded, the part is the same."""
    payload = np.frombuffer(data[4:], np.uint8)
    header = read_header(payload)
    height, width = header.height, header.width
    if len(data) < 8 or header.encoding != "jpeg" or height * width > 1 << 14:
        return
    field = Field(dtype="uint8", shape=(None, None, header.channels), encoding="jpeg")
    top, left = data[0] % height, data[1] % width
    part = Part(top, left, 1 + data[2] % (height - top), 1 + data[3] % (width - left))
    with patch.object(jpeg_cut, "_PAYS", -(1 << 30)):
        cut = jpeg_cut.cut(payload, height, width, part)
        assert cut is None or len(cut.data) <= len(payload)
        found = decode_image(payload, field, height, width, part=part)
    assert found.shape == (part.height, part.width, header.channels)
    with contextlib.suppress(ValueError):
        whole = codec_of(field).decode(payload, field, height, width, False, None)
        assert np.array_equal(found, whole[part.rows, part.columns])


def _jpegs_with_markers() -> Sequence[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    grey = np.ascontiguousarray(pixels[..., :1])
    return [
        bytes((17, 33, 9, 20)) + Jpeg().encode(image, None, "auto") for image in (pixels, grey, pixels[:, :64].copy())
    ]


def _http(data: bytes) -> None:
    ranges = HttpRanges(SimpleNamespace(protocol="http", kwargs={}, client_kwargs={}, encode_url=str), 5)
    connection = http.client.HTTPConnection("host")
    connection.sock = _Socket(data)
    connection.auto_open = 0
    ranges._connection = lambda url: connection  # type: ignore[method-assign]
    for start, end in ((0, 8), (4, None)):
        connection.sock = _Socket(data)
        read = ranges.read("http://host/shard", start, end, 5, _library)
        assert end is None or len(read) <= end - start, "more bytes than were asked for"


class _Socket:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str, *_: object) -> io.BytesIO:
        return io.BytesIO(self._data)

    def sendall(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def fileno(self) -> int:
        return -1


def _library() -> bytes:
    raise OSError(errno.EIO, "the library does not answer")


# The job


def _thumbnail(data: bytes) -> None:
    """Pixels of a file that is rejected, as far as there are any."""
    Thumbnails(1 << 64, "train").offer_reject("id", "damaged", data, _OPTIONS)


def _files(data: bytes) -> None:
    """The parts of image files that this project parses by itself, and the headers. Only tiny images are decoded.

    Those of JPEGs are decoded twice: reduced, too.
    """
    assert str(unread(data))
    for simpler in png.simpler(data):
        assert len(simpler) <= len(data) + 8
    decode(data, replace(_OPTIONS, fit="stretch", width=1, height=1))
    decode(data, _OPTIONS)
    for options in ({"dtype": "float32", "channels": "keep"}, {"dicom_window": "default"}):
        decode(data, replace(_OPTIONS, encoding="raw", **options))


def _mask(data: bytes) -> None:
    """A file as a mask and as a depth map: one number for each pixel, of the dtype that is stored."""
    ignore_image_warnings()
    found, *_ = exact_values(data, "mask", _OPTIONS)
    assert found.ndim == 3 and found.shape[2] == 1 and found.dtype == np.uint8
    exact_values(data, "depth", replace(_OPTIONS, depth_dtype="float32"))


def _raster(data: bytes) -> None:
    """DICOM, and TIFF of bands and floats, whichever a file is."""
    ignore_image_warnings()
    floats = replace(_OPTIONS, channels="keep", dtype="float32", encoding="raw", normalize="none")
    with contextlib.suppress(BadInput):
        decode(data, replace(_OPTIONS, dicom_window="default"))
    decode(data, floats)


def _rasters() -> Sequence[bytes]:
    import tifffile
    from support.dicom import dicom, rle

    values = (np.arange(48).reshape(4, 4, 3) * 5).astype(np.uint8)
    window = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "WindowCenter": "40", "WindowWidth": "400"}
    found = [dicom(values), rle(values), dicom(values[..., 0].astype(np.int16), **window)]
    for kind, settings in (("float32", {}), ("uint16", {"compression": "zlib"}), ("int16", {"tile": (16, 16)})):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values.astype(kind), photometric="minisblack", planarconfig="contig", **settings)
        found.append(buffer.getvalue())
    return found


def _lists(data: bytes) -> None:
    """The lists beside the shards, and their thumbnails, as the report shows them."""
    manifest = Manifest.from_json((GOLDEN / MANIFEST_NAME).read_text())
    names = (REJECTS_NAME, SUSPECTS_NAME, DUPLICATES_NAME, THUMBNAILS_NAME)
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        for name in names:
            Path(folder, name).write_bytes(data)
        found = read_lists(directory(folder), replace(manifest, files=dict.fromkeys(names, "")), {})
    for thumbnail in found.thumbnails or ():
        picture_of_jpeg(thumbnail.before or thumbnail.after or "")


def _card(data: bytes) -> None:
    """The facts of an author, and the papers with them."""
    manifest = Manifest.from_json((GOLDEN / MANIFEST_NAME).read_text())
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        path = Path(folder, "card.yaml")
        path.write_bytes(data)
        card = read_card(str(path))
    page(manifest, card, "photos")
    json.dumps(croissant(manifest, card, "photos", "0" * 64, 1))


def _profile(data: bytes) -> None:
    """Pixels with any bytes for a profile, which is cached by its bytes: sRGB of the same size, or as they are."""
    pixels = some_colours()
    for given in (pixels, pixels[..., :1]):
        found = srgb_pixels(given, data)
        assert found is None or found.shape[:2] == given.shape[:2]


def _source(suffix: str, **options: Any) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=_memory()) as directory:
            path = Path(directory, f"input{suffix}")
            path.write_bytes(data)
            kind = _KINDS.get(suffix, "archive")
            source = open_source(SourceOptions(input=str(path), kind=kind, **options))
            entries = list(source.entries())
            source.layout()
            for entry in entries[:_READS]:
                found = source.resolve(entry)
                if not isinstance(found, Problem) and found.problem is None:
                    _read(source, found)

    return run


def _beside(place: str, kind: str, files: Mapping[str, bytes]) -> Callable[[bytes], None]:
    """A source of a folder, with the bytes in one of its files."""

    def run(data: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=_memory()) as directory:
            for name, content in {**files, place: data}.items():
                path = Path(directory, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            source = open_source(SourceOptions(input=directory, kind=kind, below=directory))
            entries = list(source.entries())
            source.layout()
            for entry in entries:
                source.resolve(entry)

    return run


def _read(source: Any, entry: Any) -> None:
    reference = Reference(entry.id, entry.size, entry.place, frame=entry.frame, payloads=entry.payloads)
    with contextlib.suppress(BadInput, OSError):  # of this image alone
        source.read(reference)
    for name in source.layout().payloads.keys() & entry.payloads.keys():
        with contextlib.suppress(BadInput, OSError):
            source.read_payload(reference, name)


def _panoptic(data: bytes) -> None:
    mask = panoptic_mask(data, {1: 1, 300: 2, 70_000: 300}, None)
    assert mask.ndim == 2 and set(np.unique(mask)) <= {0, 1, 2, 300}


def _panoptics() -> Sequence[bytes]:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0], pixels[1], pixels[2] = (1, 0, 0), (44, 1, 0), (112, 17, 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return [file.getvalue()]


def _pages(data: bytes) -> None:
    """A column of images in pages of Parquet; the first byte chooses the codec, and whether they are in lists."""
    codecs = ("UNCOMPRESSED", "SNAPPY", "ZSTD")
    first = data[0] if data else 0
    chunk = Chunk(
        start=1, end=len(data), codec=codecs[first % 3], definition=1 + 2 * (first > 2), repetition=first > 2, rows=20
    )
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        Path(folder, "x").write_bytes(data)
        values = Values(directory(folder))
        for place in places(lambda start, end: data[start:end], chunk):
            if place is not None:
                values.read("x", place)


def _chunks() -> Sequence[bytes]:
    """Columns of images as PyArrow writes them."""
    images = [b"x" * 9, bytes(200), None, np.random.default_rng(0).bytes(100)] * 5
    found = []
    for number, codec in enumerate(("none", "snappy", "zstd") * 2):
        column = pa.array([[image] for image in images] if number > 2 else images)
        for more in ({}, {"use_dictionary": False, "data_page_version": "2.0"}):
            parquet.write_table(pa.table({"x": column}), stored := io.BytesIO(), compression=codec, **more)
            part = parquet.ParquetFile(stored).metadata.row_group(0).column(0)
            start = part.dictionary_page_offset or part.data_page_offset
            found.append(bytes([number]) + stored.getvalue()[start : start + part.total_compressed_size])
    return found


def _parquets() -> Sequence[bytes]:
    """Files of Parquet with images and other columns."""
    found = []
    for codec, version in (("none", "1.0"), ("snappy", "2.0")):
        images = [{"bytes": bytes(20), "path": "x.jpg"}, None]
        table = pa.table({"image": images, "label": [1, 0], "objects": [{"a": [1.0], "b": ["x"]}, None]})
        parquet.write_table(table, stored := io.BytesIO(), compression=codec, data_page_version=version)
        found.append(stored.getvalue())
    return found


def _streams() -> Sequence[bytes]:
    """A stream and a file of Arrow with images."""
    images = [{"bytes": bytes(20), "path": "x.jpg"}, None]
    table = pa.table({"image": images, "label": [1, 0], "objects": [{"a": [1.0], "b": ["x"]}, None]})
    streams = [io.BytesIO(), io.BytesIO()]
    for stream, new in zip(streams, (pa.ipc.new_stream, pa.ipc.new_file), strict=True):
        with new(stream, table.schema) as writer:
            writer.write_table(table)
    return [stream.getvalue() for stream in streams]


_OPTIONS = ImageOptions(
    width=8,
    height=8,
    fit="none",
    filter="area",
    encoding="raw",
    quality=None,
    dtype="uint8",
    normalize="none",
    max_pixels=64,
)
_KINDS = {
    ".arrow": "arrow",
    ".parquet": "arrow",
    ".csv": "table",
    ".tsv": "table",
    ".jsonl": "table",
    ".json": "coco",
    ".ndjson": "ndjson",
    ".npy": "records",
    ".npz": "records",
}


@cache
def _memory() -> str | None:
    """A file system in memory, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


# Inputs to begin with


def _image(format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((9, 7)).convert("RGB").save(file, format, **options)
    return file.getvalue()


def _tars() -> Sequence[bytes]:
    made = []
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=format) as tar:
            for name, data in {"cat/1.jpg": b"one", "dog/" + "long" * 20 + ".png": b"two", "0.cls": b"3"}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("dog/2.jpg")
            link.type, link.linkname = tarfile.LNKTYPE, "cat/1.jpg"
            tar.addfile(link)
        made.append(file.getvalue())
    return made


def _zips() -> Sequence[bytes]:
    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.writestr("cat/1.jpg", b"one" * 50)
            with archive.open("dog/größer.png", "w", force_zip64=True) as member:
                member.write(b"two")
        made.append(file.getvalue())
    return made


def _arrays(suffix: str) -> Sequence[bytes]:
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    file = io.BytesIO()
    if suffix == ".npy":
        np.save(file, images)
    else:
        np.savez(file, x_train=images, y_train=np.array([1, 2]))
    return [file.getvalue()]


_COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 4}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 2, 2], "area": 4.0, "iscrowd": 0}],
    "categories": [{"id": 7, "name": "cat"}],
}
_OUTLINE_FORMS: Sequence[Any] = (
    [[0, 0, 2, 0, 2, 2.5]],
    {"size": [4, 4], "counts": [16]},
    {"size": [4, 4], "counts": "P0"},
)
_OUTLINES = {
    "images": [{"id": n, "file_name": f"{n}.jpg", "width": 4, "height": 4} for n in range(3)],
    "annotations": [
        {"id": n, "image_id": n, "category_id": 7, "bbox": [0, 0, 2, 2], "segmentation": form, "keypoints": [1, 2, 2]}
        for n, form in enumerate(_OUTLINE_FORMS)
    ],
    "categories": [{"id": 7, "name": "cat", "keypoints": ["left_eye"]}],
}
_POSES = {
    "data.yaml": b"train: images\nnames: [cat]\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\nkpt_names: {0: [a, b]}\n",
    "images/1.jpg": b"",
    "labels/1.txt": b"0 .5 .5 1 1 .1 .2 2 .3 .4 1\n",
}
_YOLO = {"data.yaml": b"train: images\nnames: [cat, dog]\n", "images/1.jpg": b"", "labels/1.txt": b"0 .5 .5 1 1\n"}
_LABELS = b"0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.2 0.1 0.2 0.3\n"
_YAML = b"path: .\ntrain: [images]\nval: images.txt\nnc: 2\nkpt_shape: [2, 3]\nnames: {0: cat, 1: 'no'}\n"
_VOC = {"JPEGImages/1.jpg": b"", "Annotations/1.xml": b"", "ImageSets/Main/train.txt": b"1\n"}
_XML = b"""<?xml version="1.0"?><annotation><size><width>4</width><height>4</height></size><object><name>cat</name>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3.5</ymax></bndbox><difficult>1</difficult></object></annotation>"""
_NDJSON = b"""{"type": "dataset", "task": "detect", "class_names": {"0": "cat"}}
{"file": "1.jpg", "width": 4, "height": 4, "split": "train", "annotations": {"boxes": [[0, 0.5, 1, 1, 1]]}}
"""
_CSV = 'path,label,split,w,tags\na.jpg,cat,train,1.5,"x;y"\nb.jpg,dog,val,,\n'
_JSONL = '{"path": "a.jpg", "label": "cat", "n": 1}\n{"path": "b.jpg", "label": ["dog"], "boxes": [[0, 0, 1, 1]]}\n'
_ANSWER = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 8\r\nContent-Range: bytes 0-7/100\r\n\r\npayload!"
_CHUNKED = b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\npayload!\r\n0\r\n\r\n"


def _golden(pattern: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [path.read_bytes() for path in sorted(GOLDEN.glob(pattern))]


def _examples() -> Sequence[bytes]:
    (shard, *_) = _golden("*00000-of-*.tfrecord")()
    return [payload.tobytes() for _, payload in tfrecord.read_records(np.frombuffer(shard, np.uint8), "golden")]


_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_PROFILE = profile()


def _images() -> Sequence[bytes]:
    """One of each common format, and some kinds with much to parse."""
    plain = [_image(format) for format in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "ICO", "JPEG2000")]
    return [*plain, _image("JPEG", progressive=True, comment=b"x" * 20), _image("TIFF", compression="tiff_lzw")]


_INPUT = (JobError,)
_LINES = b"".join(
    json.dumps(
        {"id": f"{number}.jpg", "reason": "damaged", "message": "x", "near": True, "leak": number > 0, **more}
    ).encode()
    + b"\n"
    for number in range(2)
    for more in (
        {"group": "reject", "before": base64.b64encode(_image("JPEG")).decode(), "after": None},
        {"labels": [1]},
    )
)
_CARD = b"""\
name: Photos
licence: CC-BY-4.0
source_url: https://example.org/photos
citation: "@misc{photos}"
description: |
  Text with `code`, <b>tags</b> and --- lines
date_published: 2026-05-31
creators: [Ann, Bob]
rai: {dataBiases: none known}
"""

TARGETS: Mapping[str, Target] = {
    "manifest": Target(_manifest, _golden(MANIFEST_NAME), (ShardsError,)),
    "dataset": Target(_datasets, _golden(MANIFEST_NAME), (ShardsError,)),
    "index": Target(_index, _golden("*.tfrecord.index.npy"), (ShardsError,)),
    "replaced-index": Target(_replaced_index, _replaced_indexes, (ShardsError,)),
    "payloads": Target(
        partial(_datasets, golden=PAYLOADS), lambda: [(PAYLOADS / MANIFEST_NAME).read_bytes()], (ShardsError,)
    ),
    "payloads-index": Target(
        partial(_index, golden=PAYLOADS),
        lambda: [path.read_bytes() for path in PAYLOADS.glob("*-00000-*.tfrecord.index.npy")],
        (ShardsError,),
    ),
    "further-image": Target(_further_image, _images, ()),
    "state": Target(_states, _state_seeds, (StateError,)),
    "tfrecord": Target(_tfrecord, _golden("*.tfrecord"), (ShardsError,)),
    "example": Target(_example, _examples, (ValueError,)),
    "hdf5-heap": Target(_heap, lambda: [_heap_seed()], (ShardsError,)),
    "image-header": Target(_headers, _images, (ValueError,)),
    "jpeg-part": Target(_jpeg_part, _jpegs_with_markers, (ValueError,)),
    "http-range": Target(_http, lambda: [_ANSWER, _CHUNKED], (OSError,)),
    "image-file": Target(_files, _images, (BadInput,)),
    "mask": Target(_mask, lambda: [*_images(), *_rasters()], (BadInput,)),
    "raster": Target(_raster, _rasters, (BadInput,)),
    "colour-profile": Target(_profile, lambda: [_SRGB.tobytes(), _PROFILE], ()),
    "thumbnail": Target(_thumbnail, _images, ()),
    "lists": Target(_lists, lambda: [_LINES], ()),
    "card": Target(_card, lambda: [_CARD], (UsageError,)),
    "coco": Target(_source(".json"), lambda: [json.dumps(_COCO).encode()], _INPUT),
    "outlines": Target(_source(".json", segments="mask"), lambda: [json.dumps(_OUTLINES).encode()], _INPUT),
    "panoptic": Target(_panoptic, _panoptics, (BadInput,)),
    "poses": Target(_beside("labels/1.txt", "yolo", _POSES), lambda: [_POSES["labels/1.txt"]], _INPUT),
    "poses-yaml": Target(_beside("data.yaml", "yolo", _POSES), lambda: [_POSES["data.yaml"]], _INPUT),
    "yolo-labels": Target(_beside("labels/1.txt", "yolo", _YOLO), lambda: [_LABELS], _INPUT),
    "yolo-yaml": Target(
        _beside("data.yaml", "yolo", _YOLO | {"images.txt": b"./images/1.jpg"}), lambda: [_YAML], _INPUT
    ),
    "voc": Target(_beside("Annotations/1.xml", "voc", _VOC), lambda: [_XML], _INPUT),
    "voc-set": Target(
        _beside("ImageSets/Main/train.txt", "voc", _VOC | {"Annotations/1.xml": _XML}), lambda: [b"1\n2 1\n"], _INPUT
    ),
    "ndjson": Target(_source(".ndjson", no_urls=True), lambda: [_NDJSON], _INPUT),
    "csv": Target(_source(".csv"), lambda: [_CSV.encode(), _CSV.replace(",", ";").encode("utf-16")], _INPUT),
    "jsonl": Target(
        _source(".jsonl"), lambda: [_JSONL.encode(), b"[" + _JSONL[:-1].replace("\n", ",").encode() + b"]"], _INPUT
    ),
    "parquet-pages": Target(_pages, _chunks, (Damaged,)),
    "arrow": Target(_source(".arrow"), _streams, _INPUT),
    "parquet": Target(_source(".parquet"), _parquets, _INPUT),
    "tar": Target(_source(".tar"), _tars, _INPUT),
    "zip": Target(_source(".zip"), _zips, _INPUT),
    "npy": Target(_source(".npy"), lambda: _arrays(".npy"), _INPUT),
    "npz": Target(_source(".npz"), lambda: _arrays(".npz"), _INPUT),
}
"""Every parser, by its name."""
