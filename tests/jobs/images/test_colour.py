"""Colour profiles: pixels become sRGB."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.pictures import (
    SRGB,
    decode,
    eight,
    in_mode,
    numbers,
    picture,
    png,
    profile,
    raw_pixels,
    saved,
)


def converted(image: Image.Image, icc: bytes, mode: str = "RGB") -> np.ndarray:
    """By Pillow's own simplest call."""
    result = ImageCms.profileToProfile(image, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode=mode)
    assert result is not None
    return np.asarray(result)


@pytest.mark.parametrize(
    ("mode", "format"),
    [("RGB", "JPEG"), ("RGB", "PNG"), ("RGB", "TIFF"), ("RGB", "WEBP"), ("RGBA", "PNG"), ("P", "PNG")],
)
def test_a_wide_gamut_becomes_srgb(mode: str, format: str) -> None:
    data = saved(in_mode(mode), format, icc_profile=profile())
    with Image.open(io.BytesIO(data)) as image:
        kept = "RGBA" if mode == "RGBA" else "RGB"
        expected = converted(image.convert(kept), profile(), kept)
        assert np.abs(expected.astype(int) - np.asarray(image.convert(kept))).max() > 20
    assert np.array_equal(raw_pixels(data, channels="keep"), expected)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_a_grey_profile(format: str) -> None:
    grey = profile(gamma=1.0, space=b"GRAY")
    data = saved(picture().convert("L"), format, icc_profile=grey)
    with Image.open(io.BytesIO(data)) as image:
        expected = converted(image, grey)
        assert np.abs(expected.astype(int)[..., 0] - np.asarray(image)).max() > 20
    assert np.abs(raw_pixels(data, channels="keep") - expected.astype(int)).max() <= 1
    assert np.abs(decode(data) - expected.astype(int)).max() <= 1


def test_a_grey_profile_and_opacity() -> None:
    grey, image = profile(gamma=1.0, space=b"GRAY"), in_mode("LA")
    pixels = raw_pixels(saved(image, icc_profile=grey), channels="keep")
    assert np.abs(pixels[..., :3] - converted(image.getchannel("L"), grey).astype(int)).max() <= 1
    assert np.array_equal(pixels[..., 3], np.asarray(image.getchannel("A")))


def test_16_bits_with_a_profile() -> None:
    wide = (b"iCCP", b"x\0\0" + zlib.compress(profile()))
    same = (b"iCCP", b"x\0\0" + zlib.compress(SRGB))
    assert np.array_equal(raw_pixels(png(numbers(3), same), dtype="uint16"), numbers(3))
    expected = converted(Image.fromarray(eight(numbers(3))), profile())
    assert np.array_equal(raw_pixels(png(numbers(3), wide)), expected)
    assert np.array_equal(raw_pixels(png(numbers(3), wide), dtype="uint16"), expected.astype(int) * 257)


@pytest.mark.parametrize(
    ("mode", "icc"),
    [
        pytest.param("RGB", b"nothing of a profile", id="short"),
        pytest.param("RGB", profile()[:200], id="cut"),
        pytest.param("RGB", profile(space=b"GRAY"), id="grey-for-rgb"),
        pytest.param("L", profile(), id="rgb-for-grey"),
        pytest.param("CMYK", profile(), id="rgb-for-cmyk"),
        pytest.param("RGB", SRGB, id="srgb"),
    ],
)
def test_a_profile_that_does_not_fit_is_ignored(mode: str, icc: bytes) -> None:
    for format in ("JPEG", "TIFF"):
        data = saved(in_mode(mode), format, icc_profile=icc)
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(decode(data), np.asarray(image.convert("RGB")))


def test_a_profile_that_is_srgb_in_effect_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (saved(picture(9, size), "JPEG", icc_profile=SRGB) for size in (8, 9))
    decode(first)
    monkeypatch.setattr(ImageCms, "buildTransform", None)
    monkeypatch.setattr(ImageCms.ImageCmsTransform, "apply", None)
    monkeypatch.setattr(Image.Image, "load", None)  # libjpeg-turbo decodes it
    assert decode(second).shape == (9, 9, 3)


def test_lab() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    pixels = decode(saved(to_lab.apply(picture()), "TIFF"))
    assert np.abs(pixels - np.asarray(picture()).astype(int)).mean() < 2
