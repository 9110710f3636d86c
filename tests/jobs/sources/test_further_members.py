"""Further members of WebDataset samples: masks by their names, and others that the options name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.sources import Found, found_archive, make, refusal

from beam_jobs.sources import Reference
from beam_jobs.sources.archive import Archive
from beam_jobs.sources.files.interface import BadInput, Reading, SourceOptions

FILES = {
    "0.jpg": b"jpg0", "0.mask.png": b"mask0", "0.depth.png": b"depth0", "0.right.jpg": b"right0", "0.wav": b"wav0",
    "0.json": b'{"age": 3}', "1.jpg": b"jpg1", "1.json": b'{"age": 4}',
}  # fmt: skip


def payloads(path: Path, **options: Any) -> dict[str, dict[str, bytes]]:
    listing = found_archive(path, **options)
    worker = Archive(SourceOptions(input=str(path), **options))
    references = [Reference(id, -1, one.place, payloads=one.payloads) for id, one in listing.entries.items()]
    return {one.id: {name: worker.read_payload(one, name) for name in one.payloads} for one in references}


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_masks_and_depth_maps_come_by_their_names(suffix: str, tmp_path: Path) -> None:
    path = make(tmp_path / f"a{suffix}", FILES)
    listing = found_archive(path)
    assert listing.layout.payloads == {"mask": "mask", "depth": "depth"}
    assert payloads(path) == {"0.jpg": {"mask": b"mask0", "depth": b"depth0"}, "1.jpg": {}}
    assert {one.what: one.why for one in listing.layout.left_out} == {
        "1 .jpg file, as 0.right.jpg": "another image of its record; --image-columns jpg,right.jpg stores it",
        "1 .wav file, as 0.wav": "not images; --image-columns jpg,wav:bytes stores it",
    }
    assert [one.fields for one in listing.entries.values()] == [{"age": 3}, {"age": 4}]


def test_the_options_name_members(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar", FILES)
    options = {"image_columns": ("jpg", "mask.png", "right:photo", "wav:bytes")}
    assert found_archive(path, **options).layout.payloads == {"mask": "mask", "right": "photo", "wav": "bytes"}
    assert payloads(path, **options)["0.jpg"] == {"mask": b"mask0", "right": b"right0", "wav": b"wav0"}
    (left_out,) = found_archive(path, **options).layout.left_out
    assert left_out.what == "1 .png file, as 0.depth.png"


def test_the_member_of_masks_becomes_the_field_mask(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar", {"0.jpg": b"", "0.truth.png": b"mask", "0.cls": b"1"})
    assert payloads(path, mask_column="truth") == {"0.jpg": {"mask": b"mask"}}


def test_an_image_and_its_mask_alone_are_a_sample(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar", {"a/0.jpg": b"", "a/0.seg.png": b"mask", "b/0.jpg": b"", "b/0.seg.png": b"mask"})
    listing = found_archive(path)
    assert listing.text == "a tar archive in WebDataset layout of 2 class folders, with seg (mask)"
    assert listing.labels == {"a/0.jpg": ("a", None), "b/0.jpg": ("b", None)}


def test_with_ids_of_a_column(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar", {"0.jpg": b"", "0.mask.png": b"mask", "0.json": b'{"id": "zero"}'})
    assert payloads(path, id_column="id") == {"zero": {"mask": b"mask"}}


def test_two_members_of_one_field_are_a_reject(tmp_path: Path) -> None:
    files = {"0.jpg": b"", "0.mask.png": b"", "0.mask.gif": b"", "1.jpg": b"", "1.mask.png": b""}
    rejects = found_archive(make(tmp_path / "a.tar", files)).rejects
    assert rejects == {"0.jpg": ("several-masks", "has .mask.gif and .mask.png for mask; keep one")} or rejects == {
        "0.jpg": ("several-masks", "has .mask.png and .mask.gif for mask; keep one")
    }


def test_a_member_that_is_too_large_is_not_unpacked(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", {"0.jpg": b"", "0.mask.png": bytes(1 << 20)})
    (entry,) = found_archive(path).entries.values()
    source = Archive(SourceOptions(input=str(path)))
    source.reading = Reading(max_bytes=1000)
    with pytest.raises(BadInput, match="has 1,048,576 bytes, more than --max-bytes 1,000"):
        source.read_payload(Reference("0.jpg", -1, entry.place, payloads=entry.payloads), "mask")


def test_a_name_that_no_sample_has_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar", FILES)
    message = "--image-columns flac: INPUT has no sample with such a member, as 0.flac"
    assert refusal(Archive, path, image_columns=("jpg", "flac:bytes")) == message
    message = "--mask-column truth: INPUT has no sample with such a member, as 0.truth"
    assert refusal(Archive, path, mask_column="truth") == message


def test_an_archive_of_images_takes_no_further_ones(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar", {"cat/0.jpg": b"", "dog/1.jpg": b""})
    assert not Found(Archive(SourceOptions(input=str(path)))).layout.payloads
