"""Masks and depth maps beside images: recognised by names, paired, and named where they have no image."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.sources import Found, refusal

from beam_jobs.sources.files.interface import BadInput, Reading, Reference, SourceOptions
from beam_jobs.sources.folder import Folder


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def found(root: Path, *names: str, **options: object) -> Found:
    write(root, *names)
    return Found(Folder(SourceOptions(input=str(root), **options)))  # type: ignore[arg-type]


def masks(found: Found) -> dict[str, dict[str, str]]:
    return {id: {name: place[0] for name, place in one.payloads.items()} for id, one in found.entries.items()}


LAYOUTS = {
    "folders": (["images/1.jpg", "masks/1.png"], {"images/1.jpg": {"mask": "masks/1.png"}}),
    "inside a folder": (["a/b/imgs/1.jpg", "a/b/mask/1.gif"], {"a/b/imgs/1.jpg": {"mask": "a/b/mask/1.gif"}}),
    "in split folders": (
        ["train/images/1.jpg", "train/masks/1.png", "val/images/2.jpg", "val/masks/2_mask.png"],
        {"train/images/1.jpg": {"mask": "train/masks/1.png"}, "val/images/2.jpg": {"mask": "val/masks/2_mask.png"}},
    ),
    "with split folders inside": (
        ["images/training/1.jpg", "annotations/training/1.png"],
        {"images/training/1.jpg": {"mask": "annotations/training/1.png"}},
    ),
    "among annotations of other kinds": (
        ["images/a_1.jpg", "annotations/trimaps/a_1.png", "annotations/xmls/a_1.xml", "annotations/list.txt"],
        {"images/a_1.jpg": {"mask": "annotations/trimaps/a_1.png"}},
    ),
    "of VOC without XML": (
        ["JPEGImages/1.jpg", "SegmentationClass/1.png", "SegmentationObject/1.png"],
        {"JPEGImages/1.jpg": {"mask": "SegmentationClass/1.png", "instances": "SegmentationObject/1.png"}},
    ),
    "depth": (["rgb/1.png", "depth/1.png"], {"rgb/1.png": {"depth": "depth/1.png"}}),
    "files": (
        ["1.jpg", "1_mask.png", "1_depth.tif", "2.jpg"],
        {"1.jpg": {"mask": "1_mask.png", "depth": "1_depth.tif"}, "2.jpg": {}},
    ),
    "files in class folders": (
        ["cat/1.jpg", "cat/1_mask.png", "dog/1.jpg", "dog/1_mask.png"],
        {"cat/1.jpg": {"mask": "cat/1_mask.png"}, "dog/1.jpg": {"mask": "dog/1_mask.png"}},
    ),
    "a mask of an image that is named so": (
        ["images/1.jpg", "images/1_mask.jpg", "masks/1_mask.png"],
        {"images/1.jpg": {}, "images/1_mask.jpg": {"mask": "masks/1_mask.png"}},
    ),
}


@pytest.mark.parametrize(("names", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_masks_are_found(tmp_path: Path, names: list[str], expected: dict[str, dict[str, str]]) -> None:
    listed = found(tmp_path, *names)
    assert masks(listed) == expected
    fields = {name for one in expected.values() for name in one}
    assert listed.layout.payloads == {name: "depth" if name == "depth" else "mask" for name in fields}
    source = Folder(SourceOptions(input=str(tmp_path)))
    for id, files in expected.items():
        reference = Reference(id, -1, None, payloads=listed.entries[id].payloads)
        assert {name: source.read_payload(reference, name).decode() for name in files} == files  # type: ignore[union-attr]


def test_classes_and_splits_are_the_folders_below_those_of_images(tmp_path: Path) -> None:
    names = [f"{kind}/{of}.x" for kind in ("images", "masks") for of in ("train/cat/1", "train/dog/2", "test/dog/3")]
    listed = found(tmp_path, *names)
    assert listed.labels == {
        "images/train/cat/1.x": ("cat", "train"),
        "images/train/dog/2.x": ("dog", "train"),
        "images/test/dog/3.x": ("dog", "test"),
    }
    assert listed.text == "split folders (test, train) of 2 class folders, with mask in masks"


def test_a_mask_without_an_image_is_a_reject_and_an_image_without_a_mask_has_none(tmp_path: Path) -> None:
    listed = found(tmp_path, "images/1.jpg", "images/2.jpg", "masks/1.png", "masks/3.png", "masks/note.txt")
    assert masks(listed) == {"images/1.jpg": {"mask": "masks/1.png"}, "images/2.jpg": {}}
    assert listed.rejects == {"masks/3.png": ("unknown-image", "is the mask of an image that is not there")}
    assert listed.ignored == 1


def test_two_masks_of_an_image_are_a_reject(tmp_path: Path) -> None:
    listed = found(tmp_path, "images/1.jpg", "images/2.jpg", "masks/1.png", "masks/1.gif", "masks/2.png")
    message = "has two files for mask: masks/1.gif and masks/1.png; keep one"
    assert listed.rejects == {"images/1.jpg": ("several-masks", message)}


def test_a_mask_that_is_a_broken_link_rejects_its_image(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/1.png").symlink_to(tmp_path / "gone")
    listed = found(tmp_path, "images/1.jpg", "images/2.jpg", "masks/2.png")
    assert listed.rejects["images/1.jpg"] == ("not-a-file", "its mask is a link to nowhere, a pipe or a device")


def test_other_folders_beside_them_are_named(tmp_path: Path) -> None:
    listed = found(tmp_path, "images/1.jpg", "masks/1.png", "previews/1.jpg", "previews/2.jpg")
    (left_out,) = listed.layout.left_out
    assert left_out.what == "2 .jpg files, as previews/1.jpg"
    assert left_out.why == "beside the folders of images and of masks"


NO_MASKS = {
    "class folders": ["with_mask/1.jpg", "without_mask/1.jpg"],
    "one pair among many": ["dog.jpg", "dog_mask.jpg", *(f"{n}.jpg" for n in range(9))],
    "labels of boxes": ["images/1.jpg", "images/cat/2.jpg", "labels/1.txt"],
}


@pytest.mark.parametrize("names", NO_MASKS.values(), ids=NO_MASKS)
def test_other_folders_have_no_masks(tmp_path: Path, names: list[str]) -> None:
    assert not found(tmp_path, *names).layout.payloads


def test_two_folders_of_masks_are_refused(tmp_path: Path) -> None:
    for name in ("images/1.jpg", "masks/1.png", "mask/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert refusal(Folder, tmp_path) == (
        "INPUT: mask and masks would both be mask; move one of them away, or give a table with the paths of images and"
        " masks (--mask-column)"
    )


def test_a_mask_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    listed = found(tmp_path, "images/1.jpg", "masks/1.png")
    source = Folder(SourceOptions(input=str(tmp_path)))
    source.reading = Reading(max_bytes=4)
    with pytest.raises(BadInput, match="--max-bytes") as caught:
        source.read_payload(
            Reference("images/1.jpg", -1, None, payloads=listed.entries["images/1.jpg"].payloads), "mask"
        )
    assert caught.value.reason == "too-large"


def test_a_frame_of_boxes_is_that_of_masks_and_of_nothing_else(tmp_path: Path) -> None:
    listed = found(tmp_path / "with", "images/1.jpg", "masks/1.png", box_frame="upright")
    assert masks(listed) == {"images/1.jpg": {"mask": "masks/1.png"}}
    write(tmp_path / "without", "1.jpg")
    assert "--box-frame upright: has no meaning" in refusal(Folder, tmp_path / "without", box_frame="upright")
