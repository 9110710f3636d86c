"""HEIC through pillow-heif and AVIF through Pillow: files as phones write them."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.images import shared
from support.pictures import OPTIONS, picture, profile, refused, saved

from beam_jobs.images.decode import Decoded, image_formats
from beam_jobs.images.decode import decode as decode_file
from beam_jobs.images.files import unread
from beam_jobs.sources import BadInput

heif = pytest.importorskip("pillow_heif")
BEST = {"HEIF": {"quality": -1, "chroma": "444"}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}


def read(data: bytes) -> Decoded:
    return decode_file(data, replace(OPTIONS, fit="none", channels="keep", dtype="uint16"))


def file(image: Image.Image, format: str, **options: Any) -> bytes:
    assert format in image_formats()  # which registers pillow-heif's
    return saved(image, format, **{**BEST[format], **options})


def difference(pixels: np.ndarray, expected: Image.Image) -> float:
    assert pixels.shape[:2] == expected.size[::-1]
    return float(np.abs(pixels.astype(int) - np.asarray(expected).reshape(pixels.shape)).max())


def exif_with(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = orientation, "Camera"
    return exif.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", BEST)
def test_an_image_is_turned_once(format: str, orientation: int) -> None:
    """Phones write both a rotation of the container and an orientation in Exif, for the same turn."""
    data = file(picture(64, 48), format, exif=exif_with(orientation))
    assert (b"irot" in data or b"imir" in data) == (orientation != 1)
    upright = picture(64, 48)
    upright.getexif()[0x0112] = orientation
    assert difference(read(data).pixels, ImageOps.exif_transpose(upright)) <= 4


def test_a_grid_of_tiles_is_one_image() -> None:
    image = picture(700, 500)
    data = file(image, "HEIF", tile_size=256)
    assert b"grid" in data
    assert difference(read(data).pixels, image) <= 4


@pytest.mark.parametrize(
    ("format", "mode", "shape"),
    [
        ("HEIF", "L", (48, 64, 1)),  # Pillow gives RGB for a grey AVIF
        *[(format, mode, (48, 64, count)) for format in BEST for mode, count in (("RGB", 3), ("RGBA", 4))],
    ],
)
def test_channels_are_those_of_the_file(format: str, mode: str, shape: tuple[int, ...]) -> None:
    image = picture(64, 48).convert(mode)
    if mode == "RGBA":
        image.putalpha(picture(64, 48).getchannel("R"))
    found = read(file(image, format))
    assert (found.pixels.shape, found.pixels.dtype, found.changes) == (shape, np.uint8, ())
    assert difference(found.pixels, image) <= 4


def test_more_than_8_bits_are_counted() -> None:
    values = np.asarray(picture(64, 48)).astype("<u2") * 257
    buffer = io.BytesIO()
    heif.from_bytes("RGB;16", (64, 48), values.tobytes()).save(buffer)
    assert read(buffer.getvalue()).changes == ("bits",)


@pytest.mark.parametrize("primary", [0, 1])
def test_of_several_images_the_primary_one_is_read_and_the_rest_counted(primary: int) -> None:
    images = heif.HeifFile()
    images.add_from_pillow(picture(64, 48))
    images.add_from_pillow(picture(40, 30))
    buffer = io.BytesIO()
    images.save(buffer, primary_index=primary)
    found = read(buffer.getvalue())
    assert (found.stored, found.changes) == ([(64, 48), (40, 30)][primary], ("frames",))


@pytest.mark.parametrize("format", BEST)
def test_colours_become_srgb_by_their_profile(format: str) -> None:
    found = read(file(picture(64, 48), format, icc_profile=profile()))
    plain = read(saved(picture(64, 48), icc_profile=profile()))
    assert found.changes == plain.changes == ("profile",)
    assert np.abs(found.pixels.astype(int) - plain.pixels).mean() < 1


@pytest.mark.parametrize("format", BEST)
def test_sizes_are_checked_before_pixels_are_made(format: str) -> None:
    assert refused(file(picture(64, 48), format), max_pixels=64 * 48 - 1) == "too-large"


@pytest.mark.parametrize("format", BEST)
def test_a_file_that_is_cut_off_is_damaged(format: str) -> None:
    data = file(picture(64, 48), format)
    for end in (len(data) // 4, len(data) // 2, len(data) - 40):
        assert refused(data[:end]) in ("damaged", "not-an-image")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = file(picture(64, 48), "HEIF")
    with monkeypatch.context() as patch:
        patch.setattr("beam_jobs.images.decode.image_formats", lambda: ("JPEG", "PNG", "AVIF"))
        patch.setattr(unread, "installed", lambda name: name != "pillow_heif")
        with pytest.raises(
            BadInput, match=r"HEIC images need pillow-heif: pip install 'image-shards\[heic\]'"
        ) as caught:
            read(data)
    assert caught.value.reason == "missing-package"


@pytest.mark.parametrize("format", BEST)
def test_real_photos_are_those_of_the_files_they_were_made_from(format: str) -> None:
    for path in sorted(shared("photos").rglob("*.jpg"))[:6]:
        with Image.open(path) as image:
            photo = ImageOps.exif_transpose(image).convert("RGB").resize((96, 64))
        found = read(file(photo, format))
        assert np.abs(found.pixels.astype(int) - np.asarray(photo)).mean() < 1.5
