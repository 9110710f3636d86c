"""The values by which datasets grow: the sums of each record's pixels, and the hash of each input's values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command import prepared

from beam_jobs.images.measures.statistics import ChannelSums, statistics_of
from shard_reader import Dataset, ManifestError, open_dataset
from shard_reader.format import MANIFEST_NAME, Manifest


def table(folder: Path, rows: str, header: str = "path,label,age") -> Path:
    """A table of images `0.png`, `1.png`, ..., each of its own colours."""
    folder.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "table.csv").write_text(f"{header}\n{rows}")
    return folder / "table.csv"


def hashes(data: Dataset) -> dict[str, int]:
    every = np.arange(len(data))
    ids = [id.decode() for id in data.ids(every)]
    return dict(zip(ids, data.column("values_hash", every).tolist(), strict=True))


def test_the_lines_of_pixels_are_those_of_the_records_in_order(tmp_path: Path) -> None:
    rows = "".join(f"{number}.png,c,1\n" for number in range(8))
    words = ["--split", "train=0.7,val=0.3", "--fit", "none", "--encoding", "png", "--shard-records", "2"]
    out = prepared(table(tmp_path / "in", rows), tmp_path / "out", *words, "--format", "tfrecord", "--format", "hdf5")
    data = open_dataset(out, "train")
    lines = [ChannelSums.from_line(line) for line in (out / "pixels.jsonl").read_bytes().splitlines()]
    assert lines == [ChannelSums.of(data[number]["image"]) for number in range(len(data))]
    assert data.manifest.statistics == statistics_of("train", sum(lines, ChannelSums()))
    assert data.manifest.files["pixels.jsonl"]


@pytest.mark.parametrize(
    ("row", "is_same"),
    [("0.png,c,1", True), ("0.png,c,1.0", True), ("0.png,b,1", False), ("0.png,c,2", False)],
    ids=["the same", "the same number", "another label", "another field"],
)
def test_values_hashes_are_equal_for_equal_labels_and_fields(row: str, is_same: bool, tmp_path: Path) -> None:
    # The classes of the two datasets have other numbers, and the second has no column of whole numbers.
    one = prepared(table(tmp_path / "one", "0.png,c,1\n1.png,b,0.5\n"), tmp_path / "out-1", "--size", "8")
    other = prepared(table(tmp_path / "other", f"{row}\n1.png,a,0.5\n"), tmp_path / "out-2", "--size", "8")
    first, second = hashes(open_dataset(one)), hashes(open_dataset(other))
    assert (first["0.png"] == second["0.png"]) is is_same
    assert first["1.png"] != second["1.png"]


@pytest.mark.parametrize(
    ("sums", "problem"),
    [
        ({"total": [1], "squares": [1], "peak": 255}, "must have numbers for each channel"),
        ({"total": [1, 2, 3], "squares": [1, 2, 1 << 1024], "peak": 255}, "are no sums of pixels"),
        ({"total": [1, 2, 3], "squares": [1, 2, 3], "peak": 0}, "are no sums of pixels"),
    ],
    ids=["few", "large", "peak"],
)
def test_a_manifest_with_impossible_sums_is_refused(sums: object, problem: str) -> None:
    golden = Path(__file__).parents[2] / "reader/format/golden/v1/sums" / MANIFEST_NAME
    body = json.loads(golden.read_text())
    body["statistics"]["sums"] = sums
    with pytest.raises(ManifestError, match=problem):
        Manifest.from_json(json.dumps(body), checked=False)


@pytest.mark.parametrize("line", [b"[1]", b"[1, 7, [1], [1]]", b"[1, 255, [1], []]", b'[1, 255, ["1"], [1]]', b"x"])
def test_a_line_that_is_no_sums_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"no line of sums|Expecting value"):
        ChannelSums.from_line(line)
