"""Colour profiles: pixels become sRGB."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from support.pictures import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    decode,
    eight,
    gamma_curve,
    in_mode,
    numbers,
    picture,
    png,
    profile,
    raw_pixels,
    saved,
    srgb_curve,
    table_curve,
)

from beam_jobs.images.pixels import colour
from beam_jobs.images.pixels.matrix_profile import MatrixProfile, some_colours
from beam_jobs.images.pixels.rgbx import colours_of, rgbx_below


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
    found = raw_pixels(data, channels="keep")
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.array_equal(found[..., 3:], expected[..., 3:])


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
    found = raw_pixels(png(numbers(3), wide))
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.array_equal(raw_pixels(png(numbers(3), wide), dtype="uint16"), found.astype(int) * 257)


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


# Profiles of a matrix and curves

P3 = profile(primaries=DISPLAY_P3, curves=[srgb_curve()] * 3)
ADOBE = profile(primaries=ADOBE_RGB, gamma=2.19921875)
TABLES = profile(primaries=ADOBE_RGB, curves=[table_curve(np.linspace(0, 1, n) ** 2.2) for n in (17, 256, 4096)])
MATRICES = {"display-p3": P3, "adobe-rgb": ADOBE, "prophoto": profile(), "tables": TABLES}
RANDOM = np.random.default_rng(11).integers(0, 256, (300, 1000, 3), np.uint8)


def matrix_of(icc: bytes) -> MatrixProfile | None:
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return MatrixProfile.of(source, ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB"))


@pytest.mark.parametrize("name", MATRICES)
def test_a_matrix_does_what_littlecms_does(name: str) -> None:
    matrix = matrix_of(MATRICES[name])
    assert matrix is not None
    dark = RANDOM // 16
    for pixels in (RANDOM, dark, some_colours()):
        expected = converted(Image.fromarray(pixels), MATRICES[name]).astype(int)
        assert np.abs(expected - pixels).max() > 2
        difference = np.abs(matrix.to_srgb(pixels) - expected)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.1


@pytest.mark.parametrize("name", MATRICES)
def test_all_colours_are_within_a_level_of_littlecms(name: str) -> None:
    matrix = matrix_of(MATRICES[name])
    assert matrix is not None
    levels = np.arange(256, dtype=np.uint8)
    for reds in np.split(levels, 16):
        colours = np.stack(np.meshgrid(reds, levels, levels), -1).reshape(1024, 1024, 3)
        expected, found = converted(Image.fromarray(colours), MATRICES[name]), matrix.to_srgb(colours)
        assert (np.maximum(expected, found) - np.minimum(expected, found)).max() <= 1


@pytest.mark.parametrize("name", MATRICES)
def test_photos_with_a_profile_are_those_of_littlecms(photos: Path, name: str) -> None:
    matrix = matrix_of(MATRICES[name])
    assert matrix is not None
    for path in sorted(photos.rglob("*.jpg"))[::40]:
        image = Image.open(path).convert("RGB")
        expected = converted(image, MATRICES[name]).astype(int)
        assert np.abs(matrix.to_srgb(np.asarray(image)) - expected).max() <= 1


def test_pixels_in_four_bytes_stay_in_four_bytes() -> None:
    matrix = matrix_of(P3)
    assert matrix is not None
    four = np.concatenate([RANDOM, RANDOM[..., :1]], 2)
    found = matrix.to_srgb(colours_of(four))
    assert rgbx_below(found) is not None and rgbx_below(matrix.to_srgb(RANDOM)) is None
    assert np.array_equal(found, matrix.to_srgb(RANDOM))


NUMBERS = st.floats(-2, 2, allow_nan=False)
GAMMAS = st.floats(0.1, 100)
CURVES = st.one_of(GAMMAS.map(gamma_curve), st.lists(st.floats(0, 1), min_size=2, max_size=40).map(table_curve))


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=3, max_size=3), st.lists(CURVES, min_size=3, max_size=3))
def test_any_matrix_and_curves_are_those_of_littlecms(primaries: list[tuple[float]], curves: list[bytes]) -> None:
    icc = profile(primaries=primaries, curves=curves)
    try:
        expected = converted(Image.fromarray(RANDOM[:20]), icc).astype(int)
    except ImageCms.PyCMSError:
        expected = RANDOM[:20].astype(int)
    found = colour.srgb_pixels(RANDOM[:20], icc)
    if found is not None:
        difference = np.abs(found - expected)
        assert difference.max() <= 2 and (difference > 1).mean() < 1e-4


def test_a_matrix_too_wide_for_16_bits_is_left_to_littlecms() -> None:
    icc = profile(primaries=[(1.0, 1.0, 0.0), (1.0, 1.0, 0.0), (-1.0, 1 / 128, 0.0)], gamma=1.0)
    assert matrix_of(icc) is None
    found = colour.srgb_pixels(RANDOM, icc)
    assert found is not None and np.array_equal(found, converted(Image.fromarray(RANDOM), icc))


def lookup_table(levels: np.ndarray) -> bytes:
    """The tag of a profile with a table in place of a matrix: an inverted cube of 2 x 2 x 2 colours, in Lab."""
    matrix = struct.pack(">9i", *(65_536 * (i % 4 == 0) for i in range(9)))
    curve = bytes(range(256)) * 3
    return b"mft1" + bytes(4) + struct.pack(">4B", 3, 3, 2, 0) + matrix + curve + levels.tobytes() + curve


def test_a_table_is_left_to_littlecms() -> None:
    """A profile may have both. A table then decides the colours."""
    table = lookup_table(np.random.default_rng(4).integers(0, 256, 24, np.uint8))
    icc = profile(primaries=ADOBE_RGB, more={b"A2B0": table})
    assert matrix_of(icc) is None
    found = colour.srgb_pixels(RANDOM, icc)
    assert found is not None and np.array_equal(found, converted(Image.fromarray(RANDOM), icc))


def test_profiles_of_a_large_photo_are_those_of_a_small_one() -> None:
    """More pixels than a block has, and a number of them that no block divides."""
    matrix = matrix_of(ADOBE)
    assert matrix is not None
    large = np.random.default_rng(1).integers(0, 256, (331, 211, 3), np.uint8)
    assert np.array_equal(matrix.to_srgb(large), np.concatenate([matrix.to_srgb(row[None]) for row in large]))
