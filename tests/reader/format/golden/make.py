"""Makes the golden datasets of format version 1, from payloads that are written out here.

    python tests/reader/format/golden/make.py

They are frozen: whatever later versions of this project do, they read these files bit for bit, and a
change to what is written shows as a difference here. Make new ones under a new version's name only.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from beam_jobs.options import ImageOptions
from beam_jobs.shards.records.record import image_fields
from beam_jobs.shards.write import store
from shard_reader.format import (
    Counts,
    Field,
    Fingerprint,
    Manifest,
    Shard,
    ShardTable,
    Split,
    Statistics,
    index,
    shard_name,
)
from shard_reader.format.checksum import crc32c, sha256_file
from shard_reader.format.manifest import MANIFEST_NAME, Generation, Sums, Withdrawn, checksum_of, generation_manifest
from shard_reader.format.shard_table import ShardFile, withdrawn_to_bytes

HERE = Path(__file__).parent / "v1"

PNGS = [  # one colour each: 1x2 red, 2x1 green, 3x2 of (1, 2, 3)
    "89504e470d0a1a0a0000000d494844520000000100000002080200000016e32170"
    "0000001049444154789c63f8cfc0c0c4c0c000000709010294d05c3b0000000049454e44ae426082",
    "89504e470d0a1a0a0000000d49484452000000020000000108020000007b40e8dd"
    "0000000f49444154789c6364f8cfc0c0c000000509010142b9425c0000000049454e44ae426082",
    "89504e470d0a1a0a0000000d49484452000000030000000208020000001216f14d"
    "0000001549444154789c63646462666060606060606280010000a6000a01de682f0000000049454e44ae426082",
]
ENCODED = [  # the last shard holds no record
    [
        {"image": bytes.fromhex(PNGS[0]), "id": "a/1.png", "height": 2, "width": 1, "label": 0},
        {"image": bytes.fromhex(PNGS[1]), "id": "b/größer.png", "height": 1, "width": 2, "label": 1},
        {"image": bytes.fromhex(PNGS[2]), "id": "b/" + "long" * 40, "height": 2, "width": 3, "label": 1},
    ],
    [],
]
FIELDS = {  # of every kind that inputs can bring along
    "label": Field(dtype="int64", shape=(None,)),
    "age": Field(dtype="float32"),
    "note": Field(dtype="string"),
    "tags": Field(dtype="string", shape=(None,)),
    "camera": Field(dtype="float32", shape=(2, 2)),
    "objects/bbox": Field(dtype="float32", shape=(None, 4)),
    "objects/id": Field(dtype="int64", shape=(None,)),
}
RECORDS = [
    [
        {
            "image": bytes.fromhex(PNGS[0]),
            "id": "1",
            "height": 2,
            "width": 1,
            "content_hash": -5,
            "label": np.array([-1, 2**40]),
            "age": 0.5,
            "note": "naïve",
            "tags": ["x", "größer"],
            "camera": np.array([1, 2, 3, 4], np.float32).reshape(2, 2),
            "objects/id": np.array([7, 8]),
            "objects/bbox": np.array([[0, 0.25, 0.5, 1], [0.5, 0.5, 1, 1]], np.float32),
        },
        {
            "image": bytes.fromhex(PNGS[1]),
            "id": "2",
            "height": 1,
            "width": 2,
            "content_hash": 2**62,
            "label": np.array([], np.int64),
            "age": -2.0,
            "note": "",
            "tags": list[str](),
            "camera": np.zeros((2, 2), np.float32),
            "objects/id": np.array([], np.int64),
            "objects/bbox": np.zeros((0, 4), np.float32),
        },
    ]
]
INPUTS = [  # with the fields that describe the input of a record; the second image has one colour, and so no hash
    [
        {
            "image": bytes.fromhex(PNGS[0]),
            "id": "a.png",
            "height": 2,
            "width": 1,
            "original_height": 200,
            "original_width": 2**31,
            "content_hash": -(2**63),
            "phash": -(2**63),
            "dhash": 2**63 - 1,
        },
        {
            "image": bytes.fromhex(PNGS[1]),
            "id": "b.png",
            "height": 1,
            "width": 2,
            "original_height": 1,
            "original_width": 2,
            "content_hash": 7,
            "phash": 0,
            "dhash": 0,
        },
    ]
]
HASHED = [[INPUTS[0][0] | {"values_hash": 2**63 - 1}, INPUTS[0][1] | {"values_hash": -2}]]  # of datasets that can grow
SUMS = Sums(total=(765, 255, 0), squares=(195_075, 65_025, 0), peak=255)
PIXELS = "[2, 255, [510, 0, 0], [130050, 0, 0]]\n[2, 255, [255, 255, 0], [65025, 65025, 0]]\n"
NOTED = {"label": Field(dtype="int64"), "note": Field(dtype="string")}
GROWN = [  # the shard of the first generation, and that of the second
    [
        {"image": bytes.fromhex(PNGS[0]), "id": "a/1.png", "height": 2, "width": 1, "label": 0, "note": "one"},
        {"image": bytes.fromhex(PNGS[1]), "id": "b/2.png", "height": 1, "width": 2, "label": 1, "note": "two"},
    ],
    [{"image": bytes.fromhex(PNGS[2]), "id": "b/3.png", "height": 2, "width": 3, "label": 1, "note": "three"}],
]
GREY_PNGS = [  # 1x2 of 1 and 255, 2x1 of 0 and 2; in 16 bits 1x2 of 40000 and 1, 2x1 of 0 and 65535
    "89504e470d0a1a0a0000000d4948445200000001000000020800000000bceae9fb"
    "0000000c4944415478da636064f80f0001060101c3f2edc70000000049454e44ae426082",
    "89504e470d0a1a0a0000000d4948445200000002000000010800000000d1492056"
    "0000000b4944415478da6360600200000500038c42f1110000000049454e44ae426082",
    "89504e470d0a1a0a0000000d4948445200000001000000021000000000ec7a35b8"
    "0000000e4944415478da6398e3c0c0c00800041300de372aee5d0000000049454e44ae426082",
    "89504e470d0a1a0a0000000d494844520000000200000001100000000081d9fc15"
    "0000000d4944415478da636060f8ff1f00030201ff392919be0000000049454e44ae426082",
]
PAYLOADS = {  # further images of each role, bytes, and lists that move with the pixels
    "mask": Field(dtype="uint8", shape=(None, None, 1), encoding="png", role="mask"),
    "instances": Field(dtype="uint16", shape=(None, None, 1), encoding="raw", role="mask"),
    "depth": Field(dtype="uint16", shape=(None, None, 1), encoding="png", role="depth"),
    "small": Field(dtype="float32", shape=(1, 1, 1), encoding="raw", role="depth"),
    "after": Field(dtype="uint8", shape=(None, None, 3), encoding="png", role="photo"),
    "audio/wav": Field(dtype="bytes"),
    "objects/bbox": Field(dtype="float32", shape=(None, 4), role="boxes"),
    "objects/centre": Field(dtype="float32", shape=(None, 2), role="points"),
    "objects/keypoints": Field(
        dtype="float32",
        shape=(None, 3, 3),
        role="keypoints",
        names=("nose", "left eye", "right eye"),
        flip_pairs=((1, 2),),
    ),
}
KEYPOINTS = [[[0.5, 0.25, 2], [0.25, -0.5, 1], [0, 0, 0]]]
TALL = {  # records with images of two sizes: 2x1, and 1x2
    "image": bytes.fromhex(PNGS[0]),
    "height": 2,
    "width": 1,
    "mask": bytes.fromhex(GREY_PNGS[0]),
    "instances": bytes([1, 0, 44, 1]),
    "depth": bytes.fromhex(GREY_PNGS[2]),
    "small": np.float32(0.5).tobytes(),
    "after": bytes.fromhex(PNGS[2]),
    "audio/wav": b"\0\xffRIFF",
    "objects/bbox": np.array([[0, 0.25, 0.5, 1]], np.float32),
    "objects/centre": np.array([[0.25, 0.625]], np.float32),
    "objects/keypoints": np.array(KEYPOINTS, np.float32),
}
WIDE = {
    "image": bytes.fromhex(PNGS[1]),
    "height": 1,
    "width": 2,
    "mask": bytes.fromhex(GREY_PNGS[1]),
    "instances": bytes([0, 0, 2, 0]),
    "depth": bytes.fromhex(GREY_PNGS[3]),
    "small": np.float32(-2).tobytes(),
    "after": bytes.fromhex(PNGS[2]),
    "audio/wav": b"",
    "objects/bbox": np.zeros((0, 4), np.float32),
    "objects/centre": np.zeros((0, 2), np.float32),
    "objects/keypoints": np.zeros((0, 3, 3), np.float32),
}
# In the second shard, all raw images have one size: HDF5 has them as an array.
PAIRS = [[TALL | {"id": "a"}, WIDE | {"id": "b"}], [WIDE | {"id": "c"}]]
RAW = [[{"image": bytes(range(n, n + 18)), "id": f"{n}.png", "height": 2, "width": 3} for n in range(5)], []]


def make(directory: Path) -> None:
    """Write the datasets below `directory`."""
    options = {"width": 2, "height": 2, "fit": "cover", "filter": "lanczos", "quality": None, "dtype": "uint8"}
    encoded = ImageOptions(**options, encoding="png", normalize="none")
    write_dataset(directory / "encoded", encoded, ENCODED, ("a", "b"), {"label": Field(dtype="int64")})
    raw = ImageOptions(**{**options, "width": 3, "fit": "crop"}, encoding="raw", normalize="none")
    write_dataset(directory / "raw", raw, RAW, None, {})
    write_dataset(directory / "fields", encoded, RECORDS, None, FIELDS)
    write_dataset(directory / "inputs", encoded, INPUTS, None, {})
    write_dataset(directory / "payloads", encoded, PAIRS, None, PAYLOADS)
    write_dataset(directory / "sums", encoded, HASHED, None, {}, SUMS)
    write_grown(directory / "grown", encoded)
    write_joined(directory / "joined", directory / "grown")


def write_grown(directory: Path, image: ImageOptions) -> None:
    """A dataset of four generations: one more shard, a withdrawn record, and new values of another."""
    write_dataset(directory, image, GROWN[:1], ("a", "b"), NOTED)
    manifest = read(directory)
    (directory / "g0002").mkdir()
    added = moved(write_shard(directory / "g0002", 0, 1, GROWN[1], manifest.fields), "g0002/")
    shards = [*manifest.splits["train"].shards, added]
    manifest = publish(directory, manifest, "append", "g0002", Split(records=3, shards=ShardTable.of(shards)))
    (directory / "g0003").mkdir()
    path = "g0003/withdrawn-train.npy"
    (directory / path).write_bytes(withdrawn_to_bytes(np.array([1], np.int64)))
    manifest = replace(manifest, files={**manifest.files, path: sha256_file(directory / path)})
    gone = Withdrawn(records=1, path=path)
    split = Split(records=2, shards=ShardTable.of(shards), withdrawn=gone)
    manifest = publish(directory, manifest, "withdraw", "g0003", split)
    (directory / "g0004").mkdir()
    files = {format: relabeled(directory, format, file, manifest) for format, file in shards[0].files.items()}
    shards[0] = Shard(records=2, files=files)
    publish(directory, manifest, "relabel", "g0004", replace(split, shards=ShardTable.of(shards)))


def relabeled(directory: Path, format: str, file: ShardFile, manifest: Manifest) -> ShardFile:
    """A shard with another index: the first record has another label, and a note that no shard has."""
    rows, note = index.build(directory / file.path, format, manifest.fields), "größer".encode()
    rows["label"][0], rows["note_offset"][0], rows["note_length"][0] = 1, file.bytes, len(note)
    rows["note_crc32c"][0] = crc32c(note)
    name = f"g0004/1-{file.index}"
    (directory / name).write_bytes(index.to_bytes(rows, values=note))
    return replace(
        file,
        replaced_index=name,
        index_values=len(note),
        index_sha256=sha256_file(directory / name),
        index_crc32c=index.checksums_crc32c(rows),
    )


def write_joined(directory: Path, part: Path) -> None:
    """A dataset over the first shard of another one, where that is."""
    directory.mkdir()
    manifest = read(part, generation_manifest(1))
    shards = [moved(shard, f"../{part.name}/") for shard in manifest.splits["train"].shards]
    split = Split(records=2, shards=ShardTable.of(shards))
    own = Generation(number=1, made="join", records=2, fingerprint=manifest.fingerprint)
    manifest = replace(manifest, splits={"train": split}, files={}, generations=(own,))
    (directory / MANIFEST_NAME).write_text(manifest.to_json(), "utf-8")


def read(directory: Path, name: str = MANIFEST_NAME) -> Manifest:
    return Manifest.from_json((directory / name).read_text("utf-8"))


def moved(shard: Shard, place: str) -> Shard:
    files = {format: replace(file, path=f"{place}{file.path}") for format, file in shard.files.items()}
    return replace(shard, files=files)


def publish(directory: Path, before: Manifest, made: str, folder: str, split: Split) -> Manifest:
    """The manifest of the next generation, which is written beside those of earlier ones."""
    text = (directory / MANIFEST_NAME).read_text("utf-8")
    number = before.generation
    (directory / generation_manifest(number)).write_text(text, "utf-8")
    earlier = (*before.history[:-1], replace(before.history[-1], checksum=checksum_of(text)))
    fingerprint = replace(before.fingerprint, inputs=f"{number + 1:064x}")
    own = Generation(number=number + 1, made=made, records=split.records, fingerprint=fingerprint, folder=folder)
    manifest = replace(
        before,
        splits={"train": split},
        counts=replace(before.counts, written=split.records),
        fingerprint=fingerprint,
        generations=(*earlier, own),
    )
    (directory / MANIFEST_NAME).write_text(manifest.to_json(), "utf-8")
    return read(directory)


def write_dataset(
    directory: Path,
    image: ImageOptions,
    shards: list[list[dict[str, Any]]],
    names: tuple[str, ...] | None,
    others: dict[str, Field],
    sums: Sums | None = None,
) -> None:
    """Write the shards, and a manifest with values of the test's own."""
    directory.mkdir(parents=True)
    fields = {name: field for name, field in image_fields(image, others).items() if name in shards[0][0]}
    made = tuple(write_shard(directory, number, len(shards), records, fields) for number, records in enumerate(shards))
    records = sum(len(shard) for shard in shards)
    manifest = Manifest(
        fields=fields,
        formats=("tfrecord", "hdf5"),
        splits={"train": Split(records=records, shards=ShardTable.of(made))},
        class_names=names,
        statistics=Statistics(split="train", pixels=8, mean=(0.25, 0.5, 0.75), std=(0.1, 0.2, 0.3), sums=sums),
        counts=Counts(ignored=1, planned=records, written=records, rejected=0),
        seed=7,
        options={"size": "2"},
        fingerprint=Fingerprint(inputs="1f" * 32, options="2e" * 32, codecs={"pillow": "12.3.0"}),
    )
    (directory / "rejects.jsonl").write_text("")
    lists = ["rejects.jsonl"]
    if sums is not None:
        (directory / "pixels.jsonl").write_text(PIXELS)
        lists.append("pixels.jsonl")
    manifest = replace(manifest, files={name: sha256_file(directory / name) for name in lists})
    (directory / "dataset.json").write_text(manifest.to_json(), "utf-8")


def write_shard(directory: Path, number: int, count: int, records: list[dict[str, Any]], fields: Any) -> Shard:
    """One shard in both formats."""
    paths = {format: directory / shard_name("train", number, count, format) for format in ("tfrecord", "hdf5")}
    return store(records, paths, fields)


if __name__ == "__main__":
    if HERE.exists():
        sys.exit(f"{HERE} is frozen: make the files of another version under another name")
    make(HERE)
