"""The work with an image, counted from its headers: the same on every machine, and before anything is decoded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import GifImagePlugin, TiffImagePlugin
from support.hostile_images import LONG_ANIMATIONS, TOO_MUCH_WORK, progressive
from support.images import shared
from support.pictures import OPTIONS, picture, refused, saved

from beam_jobs.images.decode import decode
from beam_jobs.images.files.work import check_file
from beam_jobs.options import MAX_WORK
from beam_jobs.sources import BadInput

WORK = 100_000_000


@pytest.mark.parametrize("name", TOO_MUCH_WORK)
def test_a_file_of_too_many_parts_is_refused(name: str) -> None:
    assert refused(TOO_MUCH_WORK[name], max_work=WORK) == "too-much-work"


@pytest.mark.parametrize("name", LONG_ANIMATIONS)
def test_of_a_long_animation_the_frames_are_not_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for image in (GifImagePlugin.GifImageFile, TiffImagePlugin.TiffImageFile):
        monkeypatch.delattr(image, "n_frames")
    assert decode(LONG_ANIMATIONS[name], replace(OPTIONS, max_work=WORK)).changes[-1:] in (("frames",), ("pages",))


def test_the_message_says_what_it_counts_and_what_to_do() -> None:
    with pytest.raises(BadInput) as caught:
        check_file(progressive(200, 50), 1_000_000)
    assert str(caught.value) == (
        "200x200 pixels in 27 of 60 scans: decoding goes over 1,034,000 pixels, more than --max-work 1,000,000;"
        " save it again, or allow more"
    )


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_progressive_photo_has_ten_scans(subsampling: int) -> None:
    """The figure behind the default: fourteen times its pixels without subsampling, eight times with it."""
    photo = saved(picture(640, 480), "JPEG", progressive=True, subsampling=subsampling)
    times = 14 if subsampling == 0 else 8
    check_file(photo, 640 * 480 * times + 20_000 + 10_000)
    with pytest.raises(BadInput, match="640x480 pixels in 10 scans"):
        check_file(photo, 640 * 480 * times - 1)


def test_no_real_image_comes_near_the_default() -> None:
    for path in [*shared("photos").rglob("*"), *shared("odd").rglob("*")]:
        if path.is_file():
            check_file(path.read_bytes(), MAX_WORK // 100)


@pytest.mark.parametrize("cut", range(0, 60, 20))
def test_damaged_headers_are_no_errors_of_another_kind(cut: int) -> None:
    for data in TOO_MUCH_WORK.values():
        try:
            check_file(data[:cut], WORK)
            check_file(data[: len(data) // 2] + data[len(data) // 2 + cut :], WORK)
        except BadInput:
            pass


def test_a_list_of_orientations_is_broken_metadata() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0" + b"\x01\0\x12\x01\x03\0\x02\0\0\0\x06\0\x06\0" + bytes(4)
    decoded = decode(saved(picture(), "PNG", exif=exif), OPTIONS)
    assert (decoded.orientation, decoded.changes) == (1, ("metadata",))
