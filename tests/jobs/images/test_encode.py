"""Pixels to JPEG, PNG and WebP, and JPEG files that keep their bytes."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.pictures import (
    OPTIONS,
    SRGB,
    decode,
    fit,
    picture,
    profile,
    raw_pixels,
    refused,
    saved,
)

from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.images.process import prepare_image
from beam_jobs.options import FITS
from shard_reader.format.image_codecs.codec import RestartMarkers
from shard_reader.format.image_codecs.table import IMAGE_CODECS


def test_jpeg_and_png_payloads(class_folders: Path) -> None:
    data = saved(picture())
    jpeg = prepare_image(data, replace(OPTIONS, encoding="jpeg", quality=95))
    with Image.open(io.BytesIO(jpeg.data)) as image:
        assert (image.format, image.size, (jpeg.width, jpeg.height)) == ("JPEG", (64, 48), (64, 48))
        assert np.abs(np.asarray(image).astype(int) - fit(decode(data), OPTIONS)).mean() < 4
    small = prepare_image(data, replace(OPTIONS, encoding="jpeg", quality=20))
    assert len(small.data) < len(jpeg.data)
    png = prepare_image(data, replace(OPTIONS, encoding="png"))
    with Image.open(io.BytesIO(png.data)) as image:
        assert np.array_equal(np.asarray(image), fit(decode(data), OPTIONS))


def test_what_an_encoding_cannot_hold_is_refused() -> None:
    line = np.zeros((1, 16_384, 3), np.uint8)
    assert refused(line, encoding="webp") == "too-large"
    assert prepare_image(line, replace(OPTIONS, fit="none", encoding="jpeg")).width == 16_384
    assert refused(np.zeros((1, 65_501, 3), np.uint8)) == "too-large"


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_the_default_quality_is_90(encoding: str) -> None:
    options = replace(OPTIONS, encoding=encoding)
    default, same, less = (prepare_image(saved(picture()), replace(options, quality=q)).data for q in (None, 90, 40))
    assert default == same and len(less) < len(default)
    with Image.open(io.BytesIO(default)) as image:
        difference = np.asarray(image).astype(int) - raw_pixels(saved(picture()), fit="crop")
        assert np.abs(difference).mean() < 6


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_and_webp_hold_opacity_and_png_is_exact(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, channels), dtype=np.uint8)
    payload = prepare_image(pixels, replace(OPTIONS, encoding="png", channels="keep"))
    with Image.open(io.BytesIO(payload.data)) as image:
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)
    if channels == 4:
        payload = prepare_image(pixels, replace(OPTIONS, encoding="webp", channels="keep"))
        with Image.open(io.BytesIO(payload.data)) as image:
            assert np.array_equal(np.asarray(image)[..., 3], pixels[..., 3])


def passed(data: bytes, **changes: Any) -> bool:
    """Whether a JPEG file keeps its bytes; whatever becomes of it, it holds the right pixels."""
    options = replace(OPTIONS, **{"fit": "none", "encoding": "jpeg", **changes})
    payload = prepare_image(data, options)
    with Image.open(io.BytesIO(payload.data)) as image:
        assert (image.format, image.size) == ("JPEG", (payload.width, payload.height))
        expected = raw_pixels(data, **{**changes, "quality": None})
        assert np.abs(np.atleast_3d(np.asarray(image)).astype(int) - expected).mean() < 8
    assert payload.sums == ChannelSums.of(expected)
    return payload.data == data


def test_a_jpeg_that_needs_no_change_keeps_its_bytes() -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    for keywords in (
        {},
        {"progressive": True},
        {"exif": exif},
        {"icc_profile": SRGB},
        {"quality": 20, "subsampling": 0},
    ):
        assert passed(saved(picture(), "JPEG", **keywords))
    data, grey = saved(picture(), "JPEG"), saved(picture().convert("L"), "JPEG")
    assert passed(data, channels="keep")
    assert passed(grey, channels="keep") and passed(grey, channels="grey")
    for how in ("inside", "cover"):
        assert passed(data, fit=how, only_shrink=True, width=100, height=100)
    for how in FITS:
        assert passed(data, fit=how, width=40, height=30)


@pytest.mark.parametrize(("markers", "found"), [("auto", 5), ("row", 2), ("none", 0)])
def test_restart_markers_are_those_of_the_options(markers: RestartMarkers, found: int) -> None:
    """Of 64x48 pixels, in units of 16x16; a file that is kept has its own, or none."""
    options = replace(OPTIONS, encoding="jpeg", restart_markers=markers)
    assert len(re.findall(rb"\xff[\xd0-\xd7]", prepare_image(saved(picture()), options).data)) == found
    assert passed(saved(picture(), "JPEG"), restart_markers=markers)


def test_a_jpeg_that_needs_a_change_is_encoded_again() -> None:
    data, grey = saved(picture(), "JPEG"), saved(picture().convert("L"), "JPEG")
    assert not passed(data, quality=90)
    assert not passed(data, channels="grey")
    assert not passed(grey)
    for how in ("crop", "pad", "stretch", "cover", "inside"):
        assert not passed(data, fit=how, width=20, height=20)
    assert not passed(data, fit="pad", only_shrink=True, width=64, height=64)
    for icc in (profile(), profile()[:200], profile(space=b"GRAY")):
        assert not passed(saved(picture(), "JPEG", icc_profile=icc))
    exif = Image.Exif()
    exif[0x0112] = 3
    assert not passed(saved(picture(), "JPEG", exif=exif))
    assert not passed(saved(picture(), "JPEG", keep_rgb=True))
    assert not passed(saved(picture().convert("CMYK"), "JPEG"))
    assert not passed(saved(picture()))


def test_a_jpeg_that_libjpeg_complains_of_is_encoded_again() -> None:
    data = saved(picture(), "JPEG")
    end = data.rindex(b"\xff\xd9")
    complained = data[:end] + bytes(30) + data[end:]  # "extraneous bytes"
    assert not passed(complained)
    assert np.array_equal(decode(complained), decode(data))


def test_a_file_carries_no_orientation_on() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for encoding in (name for name, codec in IMAGE_CODECS.items() if not codec.is_raw):
        payload = prepare_image(saved(picture(), "JPEG", exif=exif), replace(OPTIONS, fit="none", encoding=encoding))
        with Image.open(io.BytesIO(payload.data)) as image:
            assert (image.size, image.getexif().get(0x0112, 1)) == ((30, 40), 1)
