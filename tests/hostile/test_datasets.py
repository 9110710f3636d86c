"""Datasets that strangers crafted: each ends in a line, however it is opened, read, inspected, verified or indexed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.crafted import BOMBS, SIDE, change_manifest, crafted_dataset, fields_of
from support.limits import limited, limited_command
from support.stored import edit_shard

from shard_reader import CorruptionError, DatasetError, ManifestError, open_dataset
from shard_reader.format import Field, index
from shard_reader.format.checksum import sha256_file
from shard_reader.format.manifest import Manifest, index_name

TFRECORD, HDF5 = "train-00000-of-00001.tfrecord", "train-00000-of-00001.h5"
ESCAPES = "\x1b]0;owned\x07\x1b[2Jname\nimage-shards: forged\x9b31m\u202e"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return dataset(tmp_path / "shards")


def dataset(path: Path, format: str = "tfrecord", **fields: Field) -> Path:
    make, _ = BOMBS["png"]
    values = {name: ["a"] if field.shape else "a" for name, field in fields.items()}
    return crafted_dataset(
        path, [(make(SIDE, SIDE), SIDE, SIDE)] * 3, fields_of("png", (SIDE, SIDE, 3), **fields), format, **values
    )


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


def put_socket(path: Path) -> None:
    # The name of a socket is short: it is made in its folder.
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def put_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [put_fifo, put_socket, put_device], ids=["fifo", "socket", "device"])
@pytest.mark.parametrize("name", ["dataset.json", TFRECORD, f"{TFRECORD}.index.npy"])
def test_only_regular_files_are_opened(path: Path, name: str, put: Callable[[Path], None]) -> None:
    (path / name).unlink()
    put(path / name)
    code = """
import sys
from shard_reader import ShardsError, open_dataset
try:
    data = open_dataset(sys.argv[1])
    (batch,) = data.stream(batch_size=3, on_error="skip")
    assert not batch["weight"].any()
    data[0]
except ShardsError as error:
    print(error)
"""
    result = limited(code, path, seconds=30)
    assert f"{path / name}: is a FIFO, a device or a socket, and not a regular file" in result.stdout, result.stderr


@pytest.mark.parametrize("name", ["dataset.json", TFRECORD, f"{TFRECORD}.index.npy"])
def test_commands_open_only_regular_files(path: Path, name: str) -> None:
    (path / name).unlink()
    put_fifo(path / name)
    for command in ("verify", "inspect", "index", "export"):
        workers = () if command == "inspect" else ("--workers", "1")
        more = (path.parent / "out", "--to", "folder") if command == "export" else ()
        result = limited_command(command, path, *more, *workers, seconds=30)
        if command == "index" and name == TFRECORD:
            continue  # its index is whole
        assert result.returncode == 1, (command, result.stdout, result.stderr)
        assert "not a regular file" in result.stdout + result.stderr or "made again" in result.stdout, command


def nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


ABSURD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "records": (lambda m: records(m, 2**62), "has 4611686018427387904 records in"),
    "records and bytes": (lambda m: records(m, 2**62, 2**63 - 1), "has 4611686018427387904 records in"),
    "bytes": (lambda m: records(m, 3, 2**63 - 1), "has 3 records in 9223372036854775807 bytes"),
    "side": (lambda m: m["fields"]["image"].update(shape=[2**62, 2**62, 3]), "is that of no image"),
    "no side": (lambda m: m["fields"]["image"].update(shape=[0, 16, 3]), "is that of no image"),
    "channels": (lambda m: m["fields"]["image"].update(shape=[16, 16, 2**40]), "is that of no image"),
    "sizes": (lambda m: m["fields"]["label"].update(shape=[2**40] * 100_000), "100000 sizes are more than 8"),
    "values": (
        lambda m: m["fields"].update({f"f{n}": vector(60_000) for n in range(50)}),
        "values in a row of an index",
    ),
    "fields": (lambda m: m["fields"].update({f"f{n}": vector(1) for n in range(300_000)}), "are more than 4096"),
    "name": (lambda m: m["fields"].update({"a\0b": vector(1)}), "'a\\x00b' is no name"),
    "dtype": (lambda m: m["fields"]["label"].update(dtype="V" * 1_000_000), "dtype: expected one of"),
    "depth": (lambda m: m["options"].update(a=nested(300)), "$.options: are nested more than"),
    "deep version": (lambda m: m.update(version=nested(500)), "has format version"),
    "deep requires": (lambda m: m.update(requires=nested(500)), "requires[0]: expected str"),
    "statistics": (
        lambda m: m.update(statistics={"split": "train", "pixels": 1, "mean": [0.5] * 3, "std": [1.0]}),
        "statistics.std: must be a number for each channel",
    ),
    "outside": (lambda m: edit_shard(m, "tfrecord", path="../../x"), "must be a plain file name"),
    "absolute": (lambda m: edit_shard(m, "tfrecord", path="/etc/passwd"), "must be a plain file name"),
    "nul": (lambda m: edit_shard(m, "tfrecord", path="a\0b"), "must be a plain file name"),
    "other file": (lambda m: m.update(files={"../x": "0"}), "must be a plain file name"),
    "raw": (
        lambda m: m["fields"]["image"].update(shape=[60_000, 60_000, 3], encoding="raw"),
        "a record has at least 10800000016",
    ),
    "role": (lambda m: m["fields"]["image"].update(role="R" * 1_000_000), "image.role: is 'RRR"),
    "names": (lambda m: m["fields"]["label"].update(names=["a"] * 100_000), "only keypoints have names"),
    "pairs": (
        lambda m: m["fields"].update(k=points(flip_pairs=[[n, n + 1] for n in range(0, 200_000, 2)])),
        "k.flip_pairs: must be pairs of different numbers from 0 to 3",
    ),
    "keypoints": (lambda m: m["fields"].update(k=points(shape=[None, 2**40, 3])), "k.shape: more than 65536 values"),
    "columns": (
        lambda m: m["fields"].update(
            {"label_height": vector(1), "label": image("png", None), "label_width": vector(1)}
        ),
        "label.dtype: is uint8, expected int64",
    ),
    "same columns": (
        lambda m: m.update(
            requires=["payloads"], fields={**m["fields"], "a": image("png", None), "a_width": vector(1)}
        ),
        "two of them need an index column a_width",
    ),
    "raw mask": (
        lambda m: m.update(requires=["payloads"], fields={**m["fields"], "a": image("raw", 60_000)}),
        "a record has at least 10800000016",
    ),
}


def points(**changes: Any) -> dict[str, Any]:
    return {"dtype": "float32", "shape": [None, 4, 3], "role": "keypoints", **changes}


def image(encoding: str, side: int | None) -> dict[str, Any]:
    return {"dtype": "uint8", "shape": [side, side, 3], "encoding": encoding}


def vector(size: int) -> dict[str, Any]:
    return {"dtype": "int64", "shape": [size]}


def records(manifest: dict[str, Any], count: int, size: int | None = None) -> None:
    manifest["splits"]["train"]["records"] = count
    edit_shard(manifest, records=count)
    if size is not None:
        edit_shard(manifest, "tfrecord", bytes=size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ABSURD)
def test_what_cannot_be_is_a_problem_of_the_manifest(path: Path, name: str) -> None:
    change, said = ABSURD[name]
    change_manifest(path, change)
    with pytest.raises(DatasetError) as found:
        open_dataset(path)
    assert said in str(found.value) and len(str(found.value)) < 8_000
    assert str(found.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"format": "image-shards", "version": 1, "fields": ' + '{"a":' * 100_000,
        "1" * 100_000,
        "[" + "{}," * 9_000_000,
    ],
    ids=["lists", "objects", "digits", "values"],
)
def test_a_manifest_of_any_text_is_bounded(path: Path, text: str) -> None:
    (path / "dataset.json").write_text(text)
    result = limited("import sys; from shard_reader import open_dataset; open_dataset(sys.argv[1])", path)
    assert result.stderr.splitlines()[-1].startswith("shard_reader.errors."), result.stderr
    assert len(result.stderr.splitlines()[-1]) < 1_000


def test_a_text_that_is_no_unicode_is_a_problem(path: Path) -> None:
    text = (path / "dataset.json").read_text("utf-8")
    (path / "dataset.json").write_text(text.replace('"a"', '"\\ud800"'))
    with pytest.raises(ManifestError, match="a text is no Unicode"):
        open_dataset(path)


def test_a_manifest_of_a_terabyte_is_not_read(path: Path) -> None:
    os.truncate(path / "dataset.json", 1 << 40)
    for command in ("inspect", "verify", "index", "benchmark"):
        result = limited_command(command, path)
        assert result.returncode in (1, 2) and "dataset.json" in result.stderr, (command, result.stderr)
    with pytest.raises(ManifestError, match=r"has more than 134,217,728 bytes"):
        open_dataset(path)


def test_records_that_a_shard_cannot_hold_take_no_memory(path: Path) -> None:
    """Its file would have to have a petabyte: it is missing before a column is made."""
    change_manifest(path, lambda m: records(m, 2**40, 2**49))
    data = open_dataset(path)
    assert len(data) == 2**40
    for read in (lambda: data.column("label"), data.ids, lambda: data[2**39], lambda: data.where(label=1)):
        with pytest.raises(CorruptionError, match=rf"{TFRECORD}: has \d+ bytes, the manifest says {2**49}"):
            read()
    for shuffle in ("none", "full", "window"):
        with pytest.raises(CorruptionError, match="the manifest says"):
            next(iter(data.stream(batch_size=2, shuffle=shuffle)))  # type: ignore[arg-type]


def test_names_reach_no_terminal_as_they_are(path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["class_names"] = [ESCAPES, ESCAPES + "2"]
        manifest["splits"][ESCAPES] = manifest["splits"].pop("train") | {"classes": {ESCAPES: 3}}
        manifest["options"] = {"input": ESCAPES, ESCAPES: ESCAPES, "command": ESCAPES}
        manifest["statistics"] = {"split": ESCAPES, "pixels": 1, "mean": [0.5] * 3, "std": [0.5] * 3}
        manifest["counts"]["written"] = 7
        manifest["files"] = {}

    change_manifest(path, change)
    (path / f"other{ESCAPES[:-1].replace('/', '')}").touch()
    commands: list[tuple[object, ...]] = [
        ("inspect", path),
        ("inspect", path, "--json"),
        ("verify", path),
        ("benchmark", path, "--seconds", "1"),
        ("benchmark", path, "--split", "\x1b[31m"),
        ("export", path, path.parent / "out", "--to", "folder", "--workers", "1"),
        ("inspect", f"{path}\x1b[31m"),
        ("verify", "\x1b[2J"),
    ]
    for words in commands:
        result = limited_command(*words)
        shown = result.stdout + result.stderr
        assert all(line.isprintable() for line in shown.split("\n")), shown
        assert not any(line.startswith("image-shards: forged") for line in shown.split("\n")), shown
    facts = json.loads(limited_command("inspect", path, "--json").stdout)
    assert facts["classes"]["names"][0] == ESCAPES and ESCAPES in facts["splits"]
    with pytest.raises(ValueError) as found:
        open_dataset(path, "test")
    assert str(found.value).isprintable()


def as_elsewhere(kind: str, secret: Path) -> Callable[[h5py.File], None]:
    """Replace a dataset by one whose values are in another file."""

    def change(file: h5py.File) -> None:
        rows = len(file["label"])
        del file["label"]
        if kind == "link":
            file["label"] = h5py.ExternalLink(str(secret), "/label")
        elif kind == "soft link":
            file["label"] = h5py.SoftLink("/height")
        elif kind == "storage":
            file.create_dataset("label", (rows,), "<i8", external=[(str(secret), 0, 8 * rows)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((rows,), "<i8")
            layout[:] = h5py.VirtualSource(str(secret), "label", (rows,))
            file.create_virtual_dataset("label", layout)
        elif kind == "compressed":
            file.create_dataset("label", data=np.zeros(rows, "<i8"), compression="gzip")
        elif kind == "sparse":
            file.create_dataset("label", (1 << 40,), "<i8", chunks=(1 << 20,))
        elif kind == "rows":
            file.create_dataset("label", data=np.zeros(rows + 1, "<i8"))
        else:
            file.create_dataset("label", data=np.zeros(rows, "<f8"))

    return change


ELSEWHERE = {
    "link": "is a link to '/label' in another file, '.*secret.h5'",
    "soft link": "is a link to '/height'",
    "storage": r"has its values in other files \(.*secret.h5\)",
    "virtual": r"is virtual, with values in other files \(.*secret.h5\)",
    "compressed": "is compressed or has another filter",
    "sparse": r"has the shape \(1099511627776,\), and the file only",
    "rows": r"different numbers of rows: \[3, 4\]",
    "type": r"'label' is float64",
}


def rehashed(path: Path) -> None:
    """Have the manifest give a changed HDF5 shard its checksum; its index stays the one of before."""
    change_manifest(
        path,
        lambda m: edit_shard(
            m, "hdf5", bytes=os.path.getsize(path / HDF5), sha256=sha256_file(path / HDF5), index_sha256="0" * 64
        ),
    )


def with_labels_elsewhere(folder: Path, kind: str) -> Path:
    """A dataset whose HDF5 shard has its labels in another file, or nowhere."""
    path, secret = dataset(folder / "shards", "hdf5"), folder / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["label"] = np.arange(3, dtype="<i8")
    with h5py.File(path / HDF5, "r+") as file:
        as_elsewhere(kind, secret)(file)
    rehashed(path)
    return path


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_an_hdf5_shard_has_its_values_in_itself(tmp_path: Path, kind: str) -> None:
    path = with_labels_elsewhere(tmp_path, kind)
    fields = Manifest.from_json((path / "dataset.json").read_text("utf-8")).fields
    with pytest.raises(CorruptionError, match=rf"{HDF5}: .*{ELSEWHERE[kind]}"):
        index.build(path / HDF5, "hdf5", fields)


@pytest.mark.parametrize("kind", ["link", "storage", "virtual", "sparse"])
def test_commands_refuse_values_in_other_files(tmp_path: Path, kind: str) -> None:
    path = with_labels_elsewhere(tmp_path, kind)
    (path / index_name(HDF5)).unlink()
    for command in ("verify", "index"):
        result = limited_command(command, path, "--workers", "1")
        assert result.returncode == 1 and "'label'" in result.stdout, (command, result.stdout, result.stderr)
        assert not (path / index_name(HDF5)).exists()


def test_heaps_that_overlap_are_damage(tmp_path: Path) -> None:
    """Each reference leads to a collection of its own, and each collection goes on to the end of the file."""
    from shard_reader.format.shard_formats.hdf5 import _REFERENCE, _heap_extents

    count = 50_000
    data = np.frombuffer((b"GCOL\1\0\0\0" + (1 << 40).to_bytes(8, "little")) * count, np.uint8)
    references = np.zeros(count, _REFERENCE)
    references["address"], references["length"], references["number"] = 16 * np.arange(count), 1, 1
    with pytest.raises(CorruptionError, match=r"s\.h5: (the heap at byte 16 overlaps|object \d+ of the heap)"):
        _heap_extents(data, references, "s.h5", 1)


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_lists_of_any_bytes_are_damage(tmp_path: Path, format: str) -> None:
    from shard_reader.format.shard_formats.table import SHARD_FORMATS

    texts = Field(dtype="string", shape=(None,))
    for value in (b"[" * 100_000, b"5", b"[5]", b"{}", b'["\\ud800"]', b"\xff", b"[null]"):
        try:
            found = SHARD_FORMATS[format].value(np.frombuffer(value, np.uint8), texts)
        except ValueError:
            continue
        assert all(isinstance(text, bytes) for text in found)


def with_mask(path: Path, change: Callable[[np.ndarray], object], format: str = "tfrecord") -> Path:
    """A dataset of records with a mask and bytes, whose index says something else."""
    mask = Field(dtype="uint8", shape=(None, None, 3), encoding="png", role="mask")
    fields = fields_of("png", mask=mask, note=Field(dtype="bytes"))
    make, _ = BOMBS["png"]
    payload = make(SIDE, SIDE)
    crafted_dataset(path, [(payload, SIDE, SIDE)] * 3, fields, format, mask=payload, note=b"note")
    file = next(path.glob("*.index.npy"))
    rows = np.load(file)
    change(rows)
    file.write_bytes(index.to_bytes(rows))
    checksums = {"index_sha256": sha256_file(file), "index_crc32c": index.checksums_crc32c(rows)}
    return change_manifest(path, lambda m: edit_shard(m, format, **checksums))


def at_row_1(column: str, value: int) -> Callable[[np.ndarray], object]:
    def change(rows: np.ndarray) -> None:
        rows[column][1] = value

    return change


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("mask_offset", 2**40, "its index points outside of it"),
        ("mask_length", 2**64 - 10, "its index points outside of it"),
        ("note_offset", 2**64 - 10, "its index points outside of it"),
        ("note_length", 2**63, "its index points outside of it"),
        ("mask_offset", 4, "the image 'mask' is damaged (CRC mismatch)"),
        ("note_offset", 4, "'note' is damaged (CRC mismatch)"),
        ("mask_height", SIDE + 1, "the image 'mask' has a header that says 16x16 pixels, not 16x17"),
        ("mask_width", 0, "the image 'mask' has a header that says 16x16 pixels, not 0x16"),
        ("mask_height", 2**31, "the image 'mask' has 16x2147483648 pixels, more than max_pixels="),
    ],
)
@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_an_index_that_lies_of_a_further_image_is_damage(
    tmp_path: Path, format: str, column: str, value: int, said: str
) -> None:
    path = with_mask(tmp_path / "shards", at_row_1(column, value), format)
    data = open_dataset(path)
    assert data[0]["mask"].shape == data[2]["mask"].shape == (SIDE, SIDE, 3)
    with pytest.raises(CorruptionError) as found:
        data[1]
    assert said in str(found.value) and str(found.value).isprintable()


def test_commands_name_an_index_that_lies(tmp_path: Path) -> None:
    path = with_mask(tmp_path / "shards", at_row_1("mask_height", 2**31))
    result = limited_command("verify", path, "--decode", "--workers", "1")
    assert result.returncode == 1 and "row 1, id '1.jpg': mask_height is not what the shard says" in result.stdout
    assert limited_command("inspect", path).returncode == 0
    assert limited_command("report", path, "--output", tmp_path / "report.html").returncode == 0
    for to in ("folder", "webdataset", "parquet"):
        result = limited_command("export", path, tmp_path / to, "--to", to, "--workers", "1")
        assert result.returncode in (0, 1), result.stderr


def test_a_header_that_lies_of_a_further_image_is_found_when_it_is_indexed(tmp_path: Path) -> None:
    path = with_mask(tmp_path / "shards", lambda rows: None)
    fields = open_dataset(path).fields
    other = {**fields, "mask": replace(fields["mask"], encoding="jpeg")}
    with pytest.raises(CorruptionError, match=r"row 0: 'mask': the image is encoded as png, not as jpeg"):
        index.build(path / TFRECORD, "tfrecord", other)


@pytest.mark.parametrize("to", ["folder", "webdataset", "parquet"])
def test_an_export_writes_below_its_folder_alone(path: Path, tmp_path: Path, to: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["class_names"] = ["../../escaped"]
        manifest["splits"]["../escaped"] = manifest["splits"].pop("train")
        manifest["splits"]["/escaped"] = manifest["splits"]["../escaped"]

    change_manifest(path, change)
    result = limited_command("export", path, tmp_path / "deep/er/out", "--to", to, "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert sorted(name.name for name in tmp_path.iterdir()) == ["deep", "shards"]
    assert not Path("/escaped").exists()
    escaped = [found for found in tmp_path.rglob("*escaped*") if not found.is_relative_to(tmp_path / "deep/er/out")]
    assert not escaped and [found for found in tmp_path.rglob("*escaped*")]


def test_a_label_without_a_class_is_no_other_class(tmp_path: Path) -> None:
    make, _ = BOMBS["png"]
    images = [(make(SIDE, SIDE), SIDE, SIDE)] * 3
    crafted_dataset(tmp_path / "shards", images, fields_of("png", (SIDE, SIDE, 3)), label=-2)
    result = limited_command("export", tmp_path / "shards", tmp_path / "out", "--to", "folder", "--workers", "1")
    assert result.returncode == 1 and "has the label -2, and the 1 classes have the numbers from 0 on" in result.stderr
    assert not (tmp_path / "out").exists()
