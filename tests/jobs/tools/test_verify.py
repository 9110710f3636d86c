"""`image-shards verify`: a dataset that is whole, and every kind of damage, each found and said where it is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import REPOSITORY, command
from support.stored import FIELDS, PNG, cut, dataset, edit_shard, flip, record, remove, write_manifest
from support.torture import draws

from beam_jobs.shards.write import store
from beam_jobs.tools.checks.verify import Verification
from shard_reader.format import Field, Shard, index, index_name, shard_name
from shard_reader.format.checksum import sha256_file
from shard_reader.format.manifest import with_checksum

GOLDEN = REPOSITORY / "tests/reader/format/golden/v1"

SHARD = "train-00000-of-00002"

TFRECORD, HDF5 = f"{SHARD}.tfrecord", f"{SHARD}.h5"
BYTES = Field(dtype="bytes")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "encoded", tmp_path / "data"))


def verify(path: Path, *options: object) -> tuple[int, list[str], str]:
    """The exit status, the lines about problems, and the last line."""
    result = command("verify", path, "--workers", 1, *options)
    assert result.stderr == ""
    *problems, last = result.stdout.splitlines()
    return result.returncode, problems, last


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest."""
    body = json.loads((path / "dataset.json").read_text("utf-8"))
    change(body)
    (path / "dataset.json").write_text(with_checksum(body), "utf-8")


@pytest.mark.parametrize(
    "name", [f"{version}/{name}" for version in ("v1", "earlier") for name in ("encoded", "raw", "fields")]
)
def test_the_golden_datasets_are_whole(name: str) -> None:
    check_whole(GOLDEN.parent / name)


def test_the_golden_dataset_with_further_images_is_whole() -> None:
    check_whole(GOLDEN / "payloads")


def check_whole(path: Path) -> None:
    status, problems, last = verify(path, "--decode")
    assert (status, problems) == (0, [])
    assert last.startswith(f"{path}: whole; ")


@pytest.mark.parametrize("fixture", ["raw_shards", "jpeg_shards"])
def test_what_prepare_wrote_is_whole(fixture: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(fixture)
    result = command("verify", path, "--decode", "--workers", 2)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{path}: whole; 60 records in ")
    assert "shards of tfrecord and hdf5, " in result.stdout


def test_files_of_others_are_named_and_are_no_problem(copy: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    (copy / "old").mkdir()
    status, lines, last = verify(copy)
    assert (status, lines) == (0, [f"{copy}: 2 files that the dataset does not know: 'notes.txt', 'old'"])
    assert ": whole; " in last


def index_rows(path: Path, name: str) -> np.ndarray:
    rows: np.ndarray = np.load(path / index_name(name))
    return rows


def flip_image(format: str) -> Callable[[Path], None]:
    name = TFRECORD if format == "tfrecord" else HDF5
    return lambda path: flip(path / name, int(index_rows(path, name)["offset"][1]) + 20)


def flip_id(format: str) -> Callable[[Path], None]:
    name = TFRECORD if format == "tfrecord" else HDF5
    return lambda path: flip(path / name, int(index_rows(path, name)["id_offset"][2]) + 3)


def swap(suffix: str) -> Callable[[Path], None]:
    """Exchange the two shards."""

    def change(path: Path) -> None:
        other = path / f"train-00001-of-00002{suffix}"
        (path / f"{SHARD}{suffix}").rename(path / "between")
        other.rename(path / f"{SHARD}{suffix}")
        (path / "between").rename(other)

    return change


def flip_field(field: str, place: int = 0, format: str = "hdf5") -> Callable[[Path], None]:
    name = TFRECORD if format == "tfrecord" else HDF5
    return lambda path: flip(path / name, int(index_rows(path, name)[f"{field}_offset"][0]) + place)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (flip_field("mask"), "row 0, id 'a': the image 'mask' is damaged (CRC mismatch); restore it from a copy"),
        (flip_field("instances"), "row 0, id 'a': the image 'instances' is damaged (CRC mismatch)"),
        (flip_field("audio/wav"), "row 0, id 'a': 'audio/wav' is damaged (CRC mismatch)"),
        (flip_field("objects/keypoints"), "row 0, id 'a': 'objects/keypoints' is damaged (CRC mismatch)"),
        (lambda path: flip(path / HDF5, 8), "is damaged beside its images, bytes, strings and lists (SHA"),
        (
            lambda path: os.truncate(path / HDF5, int(index_rows(path, HDF5)["small_offset"][1])),
            "it was cut off; lost are row 1, id 'b'",
        ),
    ],
)
def test_damage_of_a_further_field_is_named(tmp_path: Path, damage: Callable[[Path], None], expected: str) -> None:
    path = Path(shutil.copytree(GOLDEN / "payloads", tmp_path / "data"))
    damage(path)
    verification = Verification(str(path), decode=False)
    problems = list[str]()
    verification.run(1, problems.append, lambda: None)
    assert expected in problems[0] and f"{path / HDF5}: " in problems[0], problems


def test_each_image_of_a_record_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    """Two that have the size of the index and no pixels, and bytes that differ between the formats."""
    path = tmp_path / "data"
    path.mkdir()
    image = Field(dtype="uint8", shape=(None, None, 3), encoding="png")
    fields = {**FIELDS, "after": image, "mask": replace(image, shape=(None, None, 1), role="mask"), "note": BYTES}
    empty = PNG[: PNG.index(b"IDAT") + 4] + b"\0" * 30
    values = {"after": empty, "mask": PNG, "note": b"1"}
    shards = [
        store([record("a", **values | other)], {format: path / shard_name("train", 0, 1, format)}, fields)
        for format, other in (("tfrecord", {}), ("hdf5", {"note": b"2"}))
    ]
    both = Shard(records=1, files={format: file for shard in shards for format, file in shard.files.items()})
    write_manifest(path, fields, [both])
    problems = list[str]()
    Verification(str(path), decode=True).run(1, problems.append, lambda: None)
    for problem, name in zip(problems, ["'after' cannot be", "'mask' cannot be"] * 2, strict=False):
        assert f"row 0, id 'a': the image {name} decoded" in problem, problems
    assert "row 0: not the same as in train-00000-of-00001.tfrecord: note; make" in problems[-1], problems
    assert len(problems) == 5


def more_records(path: Path) -> None:
    def change(body: dict[str, Any]) -> None:
        edit_shard(body, records=4)
        body["splits"]["train"]["records"] = body["counts"]["written"] = 4

    edit(path, change)


def append(path: Path) -> None:
    with open(path / HDF5, "ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (flip_image("tfrecord"), [f"{TFRECORD}: row 1, id 'b/größer.png': the record at byte 175 is damaged (CRC"]),
        (flip_image("hdf5"), [f"{HDF5}: row 1, id 'b/größer.png': the image is damaged (CRC mismatch); restore it"]),
        (flip_id("tfrecord"), [f"{TFRECORD}: row 2: the record at byte 356 is damaged (CRC mismatch)"]),
        (flip_id("hdf5"), [f"{HDF5}: row 2: 'id' is damaged (CRC mismatch); restore it from a copy"]),
        (lambda path: flip(path / TFRECORD, 175), [f"{TFRECORD}: row 1, id 'b/größer.png': the framing at byte 175"]),
        (lambda path: flip(path / TFRECORD, 184), [f"{TFRECORD}: row 1, id 'b/größer.png': the framing at byte 175"]),
        (lambda path: flip(path / TFRECORD, 694), [f"{TFRECORD}: row 2, id 'b/longlong"]),
        (lambda path: flip(path / HDF5, 8), [f"{HDF5}: is damaged beside its images, strings and lists (SHA"]),
        (
            lambda path: flip(path / index_name(HDF5), -1),
            [f"{index_name(HDF5)}: is damaged (SHA-256 mismatch); `image"],
        ),
        (remove(index_name(TFRECORD)), [f"{index_name(TFRECORD)}: is missing; `image-shards index "]),
        (remove(TFRECORD), [f"{TFRECORD}: is missing; restore it from a copy, or make the dataset again"]),
        (
            cut(TFRECORD, 300),
            [f"{TFRECORD}: has 300 bytes, the manifest says 695: it was cut off; lost are row 1, id"],
        ),
        (cut(TFRECORD, 0), [f"{TFRECORD}: has 0 bytes, the manifest says 695: it was cut off; lost are row 0"]),
        (cut(HDF5, 8000), [f"{HDF5}: has 8,000 bytes, the manifest says 17,080: it was cut off"]),
        (append, [f"{HDF5}: is damaged beside its images, strings and lists (SHA-256 mismatch), and has 17,084 bytes"]),
        (
            lambda path: (flip(path / HDF5, 8), remove(index_name(HDF5))(path)),
            [f"{index_name(HDF5)}: is missing; ", f"{HDF5}: is damaged (SHA-256 mismatch); restore it from a copy"],
        ),
        (
            swap(".tfrecord"),
            [
                f"{TFRECORD}: has 0 bytes, the manifest says 695: it was cut off; lost are row 0",
                "train-00001-of-00002.tfrecord: is whole in itself (3 records), and not the file of the manifest",
            ],
        ),
        (
            swap(".h5.index.npy"),
            [
                f"{HDF5}.index.npy: is damaged (SHA-256 mismatch); `image-shards index ",
                "train-00001-of-00002.h5.index.npy: is damaged (SHA-256 mismatch)",
            ],
        ),
        (
            more_records,
            [
                f"{TFRECORD}: has 3 records, the manifest says 4; restore dataset.json",
                f"{HDF5}: has 3 records, the manifest says 4; restore dataset.json",
            ],
        ),
        (
            lambda path: edit(path, lambda body: body["splits"]["train"].update(classes={"a": 2, "b": 2})),
            ["dataset.json: split train has 1 of class 'a', not 2; restore dataset.json"],
        ),
        (
            lambda path: edit(path, lambda body: body["counts"].update(written=7)),
            ["dataset.json: counts.written is 7, its splits hold 3; restore dataset.json"],
        ),
        (
            lambda path: (path / "rejects.jsonl").write_text("{}\n"),
            ["rejects.jsonl: was changed, or is damaged"],
        ),
        (
            lambda path: edit(path, lambda body: edit_shard(body, "tfrecord", index_sha256="00")),
            [
                f"{index_name(TFRECORD)}: is damaged (SHA-256 mismatch)",
                f"{TFRECORD}: the manifest's index_sha256 is not that of the index that the shard gives; restore",
            ],
        ),
        (
            lambda path: edit(path, lambda body: edit_shard(body, "hdf5", index_crc32c=1)),
            [f"{HDF5}: the manifest's index_crc32c is not that of its index; restore dataset.json from a copy"],
        ),
        (
            lambda path: edit(path, lambda body: edit_shard(body, "hdf5", bytes=17_081)),
            [f"{HDF5}: has 17,080 bytes, the manifest says 17,081; restore dataset.json"],
        ),
        (
            lambda path: edit(path, lambda body: body["fields"].update(age={"dtype": "int64", "shape": []})),
            [
                f"{TFRECORD}: is not as the manifest says: the record at byte 12 has no feature 'age'",
                f"{HDF5}: is not as the manifest says: ",
                "train-00001-of-00002.tfrecord: the manifest's index_sha256 is not that of the index",
                "train-00001-of-00002.h5: is not as the manifest says: ",
            ],
        ),
    ],
    ids=lambda value: None if callable(value) else value[0].split(";")[0][:60],
)
def test_damage_is_found_where_it_is(copy: Path, damage: Callable[[Path], object], expected: list[str]) -> None:
    damage(copy)
    status, problems, last = verify(copy)
    assert status == 1
    assert len(problems) == len(expected), problems
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(f"{copy}/{start}"), problem
    count = len(expected)
    assert last.startswith(f"{copy}: {count} problem{'s' if count > 1 else ''}; ")


def test_swapped_shards_of_one_size_are_found(raw_shards: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(raw_shards, tmp_path / "data"))
    first, second = path / "train-00000-of-00003.h5", path / "train-00001-of-00003.h5"
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    status, problems, _ = verify(path)
    assert status == 1
    what = "has none of the images of its index: another file was put in its place (SHA-256 mismatch)"
    assert [problem.split(";")[0] for problem in problems] == [f"{first}: {what}", f"{second}: {what}"]


def test_a_terminal_shows_how_far_it_is(raw_shards: Path) -> None:
    terminal, end = os.openpty()
    words = [sys.executable, "-m", "beam_jobs", "verify", str(raw_shards), "--workers", "1"]
    result = subprocess.run(words, stdout=subprocess.PIPE, stderr=end)
    os.close(end)
    data = b""
    with contextlib.suppress(OSError):  # the end, which nobody writes to any more
        while piece := os.read(terminal, 65536):  # it may come in pieces
            data += piece
    os.close(terminal)
    shown = data.decode()
    assert result.returncode == 0
    assert shown.startswith("\r\x1b[K1/4 shards, 0 problems")
    assert shown.endswith("\r\x1b[K")


def test_every_problem_is_found(jpeg_shards: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(jpeg_shards, tmp_path / "data"))
    first, second = path / TFRECORD, path / "train-00001-of-00002.h5"
    for row in (3, 4, 20):
        flip(first, int(index_rows(path, first.name)["offset"][row]) + 50)
    for row in (0, 7):
        flip(second, int(index_rows(path, second.name)["offset"][row]) + 50)
    (path / index_name(HDF5)).unlink()
    result = command("verify", path, "--workers", 2)
    *problems, last = result.stdout.splitlines()
    assert result.returncode == 1
    places = [problem.removeprefix(f"{path}/").split(",")[0] for problem in problems]
    assert places == [
        *(f"{TFRECORD}: row {row}" for row in (3, 4, 20)),
        f"{index_name(HDF5)}: is missing; `image-shards index {path}` makes it again",
        *(f"{second.name}: row {row}" for row in (0, 7)),
    ]
    assert last.startswith(f"{path}: 6 problems; ")


def test_a_wrong_but_plausible_index_is_found(copy: Path) -> None:
    path = copy / index_name(HDF5)
    rows = np.load(path).copy()
    rows["offset"][1] += 1
    rows["label"][2] = 0
    path.write_bytes(index.to_bytes(rows))
    checksums = {"index_sha256": sha256_file(path), "index_crc32c": index.checksums_crc32c(rows)}
    edit(copy, lambda body: edit_shard(body, "hdf5", **checksums))
    status, problems, _ = verify(copy)
    assert status == 1
    starts = [f"{path}: row 1, id 'b/größer.png': offset is not what the shard says", f"{path}: row 2, id 'b/longlong"]
    assert [problem.startswith(start) for problem, start in zip(problems, starts, strict=True)] == [True, True]
    assert "': label is not what the shard says; make the dataset again" in problems[1]


def test_ids_are_unique_over_all_shards(tmp_path: Path) -> None:
    path = dataset(tmp_path / "data", [record("a"), record("b")], [], [record("c"), record("b"), record("a")])
    status, problems, _ = verify(path)
    third = "train-00002-of-00003.tfrecord"
    assert status == 1
    assert [problem.split(": ids must")[0] for problem in problems] == [
        f"{path}/{third}: row 1: the id 'b' is that of row 1 of train-00000-of-00003.tfrecord, too",
        f"{path}/{third}: row 2: the id 'a' is that of row 0 of train-00000-of-00003.tfrecord, too",
    ]


def test_both_formats_hold_the_same(tmp_path: Path) -> None:
    records = [record("a"), record("b"), record("c", 1)]
    one = dataset(tmp_path / "one", records)
    other = dataset(tmp_path / "other", [records[1], records[0], record("c", 0)])
    manifest = json.loads((other / "dataset.json").read_text("utf-8"))
    hdf5 = manifest["splits"]["train"]["shards"]["files"]["hdf5"]
    edit(one, lambda body: body["splits"]["train"]["shards"]["files"].update(hdf5=hdf5))
    for name in ("train-00000-of-00001.h5", "train-00000-of-00001.h5.index.npy"):
        shutil.copy(other / name, one / name)
    status, problems, _ = verify(one)
    assert status == 1
    names = [problem.partition("same as in train-00000-of-00001.tfrecord: ")[2].split(";")[0] for problem in problems]
    assert names == ["id", "id", "label"]


def test_images_that_cannot_be_decoded_need_decoding_to_be_found(tmp_path: Path) -> None:
    wrong = record("wrong", image=PNG[:50] + b"\0" * (len(PNG) - 50))
    path = dataset(tmp_path / "data", [record("a"), wrong, record("large", height=3)])
    assert verify(path)[:2] == (0, [])
    status, problems, _ = verify(path, "--decode")
    assert status == 1
    assert len(problems) == 4  # two images, in two formats
    assert [f"id {id!r}" in problem for problem, id in zip(problems, ["wrong", "large"] * 2, strict=True)] == [True] * 4
    assert "the image has a header that says 1x2 pixels, not 1x3" in problems[1]


def test_labels_are_among_the_classes(tmp_path: Path) -> None:
    path = dataset(tmp_path / "data", [record("a"), record("b", 1), record("c", 2)], classes={"a": 1, "b": 1})
    status, problems, _ = verify(path)
    assert status == 1
    assert [problem.split(";")[0] for problem in problems] == [
        f"{path}/dataset.json: split train has 1 of class '2', not 0"
    ]


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("missing", 2, "does not exist"),
        ("file", 2, "is a file, not a directory"),
        ("empty", 2, "is no dataset, it has no dataset.json"),
        ("records", 2, "is no dataset, it has no dataset.json; `image-shards index` makes one of TFRecords"),
        ("unfinished", 2, "is not finished, it has no dataset.json; the `image-shards prepare` that began it goes on"),
        ("other", 2, 'dataset.json has no "format": "image-shards": another program wrote it'),
        ("damaged", 1, "dataset.json is not a valid manifest: $: not JSON"),
    ],
)
@pytest.mark.parametrize("name_of_command", ["verify", "inspect"])
def test_what_is_no_dataset_is_one_line(
    tmp_path: Path, name_of_command: str, name: str, status: int, message: str
) -> None:
    for folder, file in {
        "empty": None,
        "records": "train.tfrecord",
        "unfinished": "_image-shards.lock",
        "other": "dataset.json",
        "damaged": "dataset.json",
    }.items():
        (tmp_path / folder).mkdir()
        if file:
            (tmp_path / folder / file).write_text("{}" if folder == "other" else "{")
    (tmp_path / "file").write_text("")
    result = command(name_of_command, tmp_path / name)
    assert (result.returncode, result.stdout) == (status, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"image-shards: error: {tmp_path / name}: {message}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify"], "the following arguments are required: DATASET (see image-shards verify --help)"),
        (["verify", "a", "b"], "unexpected argument 'b'"),
        (["verify", "a", "--decod"], "unknown option --decod: image-shards has no such option; did you mean --decode?"),
        (["verify", "a", "--workers", "0"], "must be 1 or more, got 0"),
        (
            ["index", "gs://bucket/a"],
            "gs://bucket/a: is in an object store, where nothing is changed; copy it to a disk",
        ),
        (["verfy", "a"], "invalid choice: 'verfy'"),
        ([], "the following arguments are required: COMMAND (see image-shards --help)"),
    ],
    ids=str,
)
def test_wrong_use_is_one_line(words: list[str], message: str) -> None:
    result = command(*words)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("image-shards: error: ")
    assert message in line


# Any damage


def found_in(path: Path) -> list[str]:
    problems = list[str]()
    Verification(str(path), decode=False).run(1, problems.append, lambda: None)
    return problems


@pytest.mark.torture
@pytest.mark.parametrize("name", ["encoded", "raw", "fields"])
def test_any_flipped_bit_is_one_problem_and_so_is_any_cut(
    tmp_path: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    path = Path(shutil.copytree(GOLDEN / name, tmp_path / "data"))
    rng, flips = draws(0), 0
    for file in sorted(path.iterdir()):
        data = file.read_bytes()
        if file.suffix in (".json", ".jsonl") or not data:
            continue
        for position in rng.integers(0, len(data), 12).tolist():
            flips += 1
            damaged = bytearray(data)
            damaged[position] ^= 1 << rng.integers(8)
            for bytes_ in (bytes(damaged), data[:position]):
                file.write_bytes(bytes_)
                problems = found_in(path)
                assert len(problems) == 1 and problems[0].startswith(f"{file}: "), (file, position, problems)
        file.write_bytes(data)
    assert found_in(path) == []
    record_property("flipped bits", flips)
    record_property("cuts", flips)
