"""Strings and lists have checksums of their own: one that is damaged is named or skipped, never handed out."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.recfunctions import repack_fields
from numpy.typing import NDArray
from support.command import REPOSITORY, command
from support.remote_data import OTHER_FIELDS
from support.stored import write_manifest

from beam_jobs.shards.write import store
from beam_jobs.tools.checks.verify import Verification
from shard_reader import CorruptionError, DatasetError, open_dataset
from shard_reader.format import Field, Manifest, Shard, index, index_name, shard_name
from shard_reader.format.checksum import crc32c, sha256_file
from shard_reader.format.manifest import with_checksum

GOLDEN = REPOSITORY / "tests/reader/format/golden/v1"
FORMATS = ("tfrecord", "hdf5")
FIELDS = {
    "image": Field(dtype="uint8", shape=(2, 2, 3), encoding="raw"),
    **OTHER_FIELDS,
}
STORED = ("id", "note", "tags", "scores", "objects/bbox")  # whose bytes the index has extents of
COUNT, ROW = 12, 7  # records, and the one that is damaged


def record(number: int, **others: Any) -> dict[str, Any]:
    return {
        "image": bytes(range(number, number + 12)),
        "label": number,
        "id": f"größe/{number}",
        "height": 2,
        "width": 2,
        "note": f"note {number}",
        "tags": [f"tag {number}", "é"],
        "scores": np.array([number, -1, 2**40]),
        "objects/bbox": np.full((1, 4), number / 16, np.float32),
        **others,
    }


def write(path: Path, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """A dataset of one shard in each of some formats."""
    path.mkdir(exist_ok=True)
    files = {}
    for format, rows in records.items():
        shard = store(rows, {format: path / shard_name("train", 0, 1, format)}, FIELDS)
        files |= shard.files
    return write_manifest(path, FIELDS, [Shard(records=shard.records, files=files)], formats=tuple(records))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "data", {format: [record(n) for n in range(COUNT)] for format in FORMATS})


def file_of(path: Path, format: str) -> Path:
    return path / shard_name("train", 0, 1, format)


def extent(path: Path, format: str, name: str, row: int) -> range:
    """The places of a field's bytes in the shard."""
    rows = np.load(index_name(str(file_of(path, format))))
    prefix = "" if name == "image" else f"{name}_"
    start = int(rows[f"{prefix}offset"][row])
    return range(start, start + int(rows[f"{prefix}length"][row]))


def flip(path: Path, format: str, place: int, bit: int = 0) -> None:
    with open(file_of(path, format), "r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def same(one: Any, other: Any) -> bool:
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else bool(one == other)


# The error


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", STORED)
def test_each_flipped_byte_is_named_however_the_field_is_read(path: Path, name: str, format: str) -> None:
    whole = open_dataset(path, format=format).column(name)
    places = extent(path, format, name, ROW)
    assert len(places) > 3
    known = "" if name == "id" else f", id 'größe/{ROW}'"
    message = f"{file_of(path, format)}: row {ROW}{known}: {name!r} is damaged (CRC mismatch)"
    for place in places:
        flip(path, format, place)
        with open_dataset(path, format=format) as data:
            for read in (lambda data=data: data[ROW], lambda data=data: data.column(name)):
                with pytest.raises(CorruptionError) as caught:
                    read()
                assert str(caught.value) == message
            others = [number for number in range(COUNT) if number != ROW]
            assert all(map(same, data.column(name, others), whole[others]))
        flip(path, format, place)
    flip(path, format, places[-1])
    for verify in ("always", "first-epoch", "never"):  # which are about images
        stream = open_dataset(path, format=format).stream(batch_size=4, fields=("image", name), verify=verify)
        with pytest.raises(CorruptionError) as caught:
            list(stream)
        assert str(caught.value) == message
    assert len(list(open_dataset(path, format=format).stream(batch_size=4))) == COUNT // 4, "which does not ask for it"


@pytest.mark.parametrize("format", FORMATS)
def test_a_record_whose_id_is_damaged_is_named_by_its_row(path: Path, format: str) -> None:
    flip(path, format, extent(path, format, "id", ROW)[0])
    data, where = open_dataset(path, format=format), f"{file_of(path, format)}: row {ROW}"
    assert data.describe(ROW) == where
    assert data.describe(ROW - 1) == f"{file_of(path, format)}: row {ROW - 1}, id 'größe/{ROW - 1}'"
    assert np.array_equal(data.image(ROW).ravel(), np.arange(ROW, ROW + 12)), "which is whole"
    for name, message in (("tags", "'tags' is damaged (CRC mismatch)"), ("image", "the image is damaged")):
        flip(path, format, extent(path, format, name, ROW)[0])
        for batches in (data.stream(batch_size=3, fields=(name,)), data.stream(batch_size=3, fields=(name, "label"))):
            with pytest.raises(CorruptionError) as caught:
                list(batches)
            assert str(caught.value).startswith(f"{where}: {message}")
    with pytest.raises(CorruptionError, match="'id' is damaged"):
        data.where(id=f"größe/{ROW}")


# Skipped


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("with_image", [True, False], ids=["with image", "without"])
def test_a_damaged_string_or_list_is_skipped_the_same_under_resume(
    path: Path, name: str, format: str, with_image: bool
) -> None:
    fields = ("image", "label", name) if with_image else ("label", name)
    options: dict[str, Any] = {"batch_size": 5, "fields": fields, "on_error": "skip", "ragged": "pad", "seed": 3}
    clean = open_dataset(path, format=format).stream(**options)
    undamaged = [batch for _ in range(2) for batch in clean]
    flip(path, format, extent(path, format, name, ROW)[-1], 3)
    whole = open_dataset(path, format=format).stream(**options)
    batches = [batch for _ in range(2) for batch in whole]
    assert sum(batch["weight"].sum() for batch in batches) == 2 * (COUNT - 1)
    for batch, before in zip(batches, undamaged, strict=True):
        damaged = before["label"] == ROW
        assert batch["weight"].tolist() == np.where(damaged, 0, before["weight"]).tolist()
        assert all(map(same, batch[name][~damaged], before[name][~damaged]))
        assert not np.any(batch[name][damaged])
    (skipped,) = {one.record: one.reason for one in whole.skipped}.items()
    assert skipped[0] == ROW and f"{name!r} is damaged" in skipped[1]
    for step in range(len(batches)):
        resumed = open_dataset(path, format=format).stream(**options)
        resumed.load_state_dict(whole.state_dict() | {"epoch": step // 3, "step": step % 3})
        rest = list(resumed)
        assert [batch["weight"].tolist() for batch in rest] == [
            batch["weight"].tolist() for batch in batches[step : step // 3 * 3 + 3]
        ]


# The index


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_empty_has_no_bytes_and_the_checksum_0(tmp_path: Path, format: str) -> None:
    nothing: dict[str, Any] = {"note": "", "tags": [], "scores": np.array([], np.int64)}
    empty = record(0, **nothing, **{"objects/bbox": np.zeros((0, 4), np.float32)})
    path = write(tmp_path / "data", {format: [empty, record(1)]})
    rows = np.load(index_name(str(file_of(path, format))))
    for name in ("note", "scores", "objects/bbox"):
        assert (rows[f"{name}_length"][0], rows[f"{name}_crc32c"][0]) == (0, 0)
        assert rows[f"{name}_crc32c"][1] != 0
    found = open_dataset(path, format=format)[0]
    assert (found["note"], found["tags"], found["scores"].size, found["objects/bbox"].shape) == ("", [], 0, (0, 4))


VALUES = st.fixed_dictionaries(
    {
        "note": st.text("aé\n", max_size=40),
        "tags": st.lists(st.text("bß", max_size=9), max_size=4),
        "scores": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(lambda v: np.array(v, np.int64)),
        "objects/bbox": st.integers(0, 3).map(lambda n: np.full((n, 4), n / 8, np.float32)),
    }
)


@settings(max_examples=40)
@given(st.lists(VALUES, min_size=1, max_size=5), st.sampled_from(FORMATS), st.data())
def test_any_flipped_bit_of_any_value_is_an_error_of_that_value_alone(
    values: list[dict[str, Any]], format: str, data: st.DataObject
) -> None:
    records = [record(number, **value) for number, value in enumerate(values)]
    with tempfile.TemporaryDirectory() as directory:
        path = write(Path(directory), {format: records})
        rows = np.load(index_name(str(file_of(path, format))))
        stored = file_of(path, format).read_bytes()
        places = {(name, row): extent(path, format, name, row) for name in STORED for row in range(len(records))}
        for (name, row), place in places.items():
            assert rows[f"{name}_crc32c"][row] == crc32c(stored[place.start : place.stop])
        (name, row), place = data.draw(st.sampled_from([one for one in places.items() if len(one[1])]))
        flip(path, format, data.draw(st.sampled_from(place)), data.draw(st.integers(0, 7)))
        with open_dataset(path, format=format) as opened:
            for other, number in places:
                if (other, number) == (name, row):
                    with pytest.raises(CorruptionError, match=rf"row {row}\b.*'{name}' is damaged \(CRC mismatch\)"):
                        opened.column(other, [number])
                else:
                    (value,) = opened.column(other, [number])
                    given = records[number][other]
                    if isinstance(given, list):
                        given = [text.encode() for text in given]
                    assert same(value, given.encode() if isinstance(given, str) else given)


def without_checksums(path: Path, *, foreign: bool = False) -> None:
    """Make the indexes those of an earlier development version, and the manifest one of these."""
    manifest = Manifest.from_json((path / "dataset.json").read_text("utf-8"))
    text = manifest.to_json()
    if foreign:
        text = replace(
            manifest, fields={name: replace(field, feature=name) for name, field in manifest.fields.items()}
        ).to_json()
    for file in path.glob("*.index.npy"):
        rows: NDArray[np.void] = np.load(file)
        old = sha256_file(file)
        kept = [name for name in rows.dtype.names or () if not name.endswith("_crc32c")]
        file.write_bytes(index.to_bytes(repack_fields(rows[kept]), has_checksums=False))
        text = text.replace(old, sha256_file(file))
    (path / "dataset.json").write_text(with_checksum(json.loads(text)), "utf-8")


@pytest.mark.parametrize("name", ["encoded", "fields", "raw"])
def test_an_index_of_a_development_version_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(GOLDEN.parent / "earlier" / name, tmp_path / "data"))
    without_checksums(path)
    message = r"npy: an earlier development version made it, .*: `image-shards prepare` .* --overwrite"
    for read in (
        lambda: open_dataset(path)[0],
        lambda: list(open_dataset(path).stream(batch_size=1, fields=("id",))),
        lambda: list(open_dataset(path, format="hdf5").stream(batch_size=1, fields=("id",), on_error="skip")),
    ):
        with pytest.raises(DatasetError, match=message):
            read()
    without_checksums(path, foreign=True)
    with pytest.raises(DatasetError, match=r"remove dataset.json beside it, and index the files again with `image-sh"):
        open_dataset(path)[0]


@pytest.mark.parametrize(
    "words", [["inspect"], ["verify", "--workers", "1"], ["index", "--workers", "2"]], ids=" ".join
)
def test_the_commands_refuse_it_in_one_line(tmp_path: Path, words: list[str]) -> None:
    path = Path(shutil.copytree(GOLDEN / "raw", tmp_path / "data"))
    without_checksums(path)
    result = command(*words, path)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "an earlier development version made it" in line and line.endswith("and --overwrite")


# Verified


def problems(path: Path) -> list[str]:
    found = list[str]()
    Verification(str(path), decode=False).run(1, found.append, lambda: None)
    return [problem.removeprefix(f"{path}/").split("; ")[0] for problem in found]


def test_verify_says_which_string_or_list_is_damaged(path: Path) -> None:
    assert problems(path) == []
    for name, row in (("note", 2), ("image", 4), ("tags", 4), ("id", 5), ("id", 6), ("scores", 6)):
        flip(path, "hdf5", extent(path, "hdf5", name, row)[-1])
    assert problems(path) == [
        "train-00000-of-00001.h5: row 2, id 'größe/2': 'note' is damaged (CRC mismatch)",
        "train-00000-of-00001.h5: row 4, id 'größe/4': the image, 'tags' are damaged (CRC mismatch)",
        "train-00000-of-00001.h5: row 5: 'id' is damaged (CRC mismatch)",
        "train-00000-of-00001.h5: row 6: 'id', 'scores' are damaged (CRC mismatch)",
    ]


def test_verify_compares_the_strings_of_both_formats(tmp_path: Path) -> None:
    path = write(
        tmp_path / "data",
        {"tfrecord": [record(0), record(1)], "hdf5": [record(0), record(1, note="another")]},
    )
    assert problems(path) == [
        "train-00000-of-00001.h5: row 1: not the same as in train-00000-of-00001.tfrecord: note",
    ]
