"""Pixels to what is stored of them: sizes and filters against Pillow, borders, channels, normalization."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageOps
from support.pictures import (
    OPTIONS,
    PILLOW_FILTERS,
    decode,
    fit,
    in_mode,
    numbers,
    picture,
    pixels_of,
    raw_pixels,
    refused,
    saved,
)

from beam_jobs.images.geometry import plan_geometry
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.images.process import Payload, codec_versions, prepare_image
from beam_jobs.options import FILTERS, FITS
from beam_jobs.sources import BadInput
from shard_reader.format.image_codecs.table import IMAGE_CODECS


def contained(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The size of `source` scaled to fit into `target`."""
    scale = min(target[0] / source[0], target[1] / source[1])
    return round(source[0] * scale), round(source[1] * scale)


PILLOW_FITS: dict[str, Callable[[Image.Image, tuple[int, int], Any], Image.Image]] = {
    "stretch": lambda image, size, filter: image.resize(size, filter),
    "inside": ImageOps.contain,
    "cover": ImageOps.cover,
    "crop": ImageOps.fit,
    "pad": lambda image, size, filter: ImageOps.pad(image, size, filter),
}


@pytest.mark.parametrize(
    "source", [(40, 30), (30, 40), (1, 1), (1, 5000), (5000, 1), (7, 3), (64, 48), (501, 333)], ids=str
)
@pytest.mark.parametrize("target", [(64, 48), (48, 64), (5, 5), (1, 9)], ids=str)
@pytest.mark.parametrize("how", PILLOW_FITS)
def test_sizes_and_pixels_are_those_of_pillow(source: tuple[int, int], target: tuple[int, int], how: str) -> None:
    image, options = picture(*source), replace(OPTIONS, width=target[0], height=target[1], fit=how)
    if how == "cover" and 5000 in source and max(target) > 9:
        with pytest.raises(BadInput, match="would become"):
            fit(np.asarray(image), options)
        return
    result = fit(np.asarray(image), options)
    if how in ("pad", "inside") and min(contained(source, target)) < 1:
        assert min(result.shape[:2]) >= 1  # Pillow fails: a side would round to nothing
        return
    expected = np.asarray(PILLOW_FITS[how](image, target, Image.Resampling.LANCZOS))
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).mean() < 0.5


@given(st.tuples(*[st.integers(1, 60)] * 2), st.tuples(*[st.integers(1, 60)] * 2), st.sampled_from(FITS))
def test_every_size_becomes_every_size(source: tuple[int, int], target: tuple[int, int], how: str) -> None:
    result = fit(
        np.zeros((source[1], source[0], 3), np.uint8), replace(OPTIONS, width=target[0], height=target[1], fit=how)
    )
    if how == "cover":
        assert result.shape[0] >= target[1] and result.shape[1] >= target[0]
        assert result.shape[0] == target[1] or result.shape[1] == target[0]
    elif how == "inside":
        assert result.shape[0] <= target[1] and result.shape[1] <= target[0]
        assert result.shape[0] == target[1] or result.shape[1] == target[0]
    else:
        assert result.shape == (*(source if how == "none" else target)[::-1], 3)


def test_a_long_thin_image_is_cropped_but_not_blown_up() -> None:
    line = np.zeros((50_000, 1, 3), np.uint8)
    assert fit(line, replace(OPTIONS, width=256, height=256, fit="crop")).shape == (256, 256, 3)
    assert fit(line, replace(OPTIONS, width=256, height=256, fit="pad")).shape == (256, 256, 3)
    with pytest.raises(BadInput, match="1x50000 would become 256x12800000 pixels") as caught:
        fit(line, replace(OPTIONS, width=256, height=256, fit="cover"))
    assert caught.value.reason == "too-large"


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("target", [(16, 12), (123, 77)], ids=["down", "up"])
def test_filters_are_those_of_pillow(name: str, target: tuple[int, int]) -> None:
    image = picture(80, 60)
    options = replace(OPTIONS, width=target[0], height=target[1], fit="stretch", filter=name)
    expected = np.asarray(image.resize(target, PILLOW_FILTERS[name])).astype(int)
    assert np.abs(fit(np.asarray(image), options) - expected).mean() < 0.5


def test_filters_are_those_of_pillow_on_photos(photos: Path) -> None:
    for path in sorted(photos.rglob("*.jpg"))[::10]:
        image = Image.open(path).convert("RGB")
        expected = ImageOps.cover(image, (256, 256), Image.Resampling.LANCZOS)
        result = fit(np.asarray(image), replace(OPTIONS, width=256, height=256, fit="cover"))
        assert np.abs(result.astype(int) - np.asarray(expected)).mean() < 0.5


@pytest.mark.parametrize("how", FITS)
def test_an_image_of_the_right_size_is_left_alone(how: str) -> None:
    pixels = np.asarray(picture(64, 48))
    assert np.array_equal(fit(pixels, replace(OPTIONS, fit=how)), pixels)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("how", ["none", "unit", "symmetric", "imagenet", "dataset", "per-image"])
def test_normalization_is_its_formula(how: str, dtype: str) -> None:
    data = saved(picture())
    unit = fit(decode(data), OPTIONS).astype(np.float64) / 255
    statistics = ChannelSums(pixels=2, total=(100, 200, 300), squares=(10_000, 30_000, 50_000))
    mean, std = statistics.mean_std()
    assert np.allclose(mean, np.array([50, 100, 150]) / 255)
    assert np.allclose(std, np.array([50, 5000**0.5, 2500**0.5]) / 255)
    expected = {
        "none": unit * 255,
        "unit": unit,
        "symmetric": unit * 2 - 1,
        "imagenet": (unit - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        "dataset": (unit - mean) / std,
        "per-image": (unit - unit.mean((0, 1))) / unit.std((0, 1)),
    }[how]
    payload = prepare_image(data, replace(OPTIONS, dtype=dtype, normalize=how), statistics)
    result = pixels_of(payload.data, 48, 64, dtype)
    assert result.dtype == dtype
    assert np.allclose(result, expected, atol=2e-3 if dtype == "float16" else 1e-5, rtol=1e-3)


def test_one_colour_is_normalized_to_zero() -> None:
    data = saved(Image.new("RGB", (9, 9), (3, 4, 5)))
    payload = prepare_image(data, replace(OPTIONS, dtype="float32", normalize="per-image"))
    assert np.allclose(pixels_of(payload.data, 48, 64, "float32"), 0, atol=1e-6)


@pytest.mark.parametrize(("how", "size"), [("inside", (20, 16)), ("cover", (20, 16)), ("pad", (64, 48))])
def test_only_shrink_enlarges_nothing(how: str, size: tuple[int, int]) -> None:
    small, large = np.asarray(picture(20, 16)), np.asarray(picture(200, 160))
    kept = raw_pixels(small, width=64, height=48, fit=how, only_shrink=True)
    assert kept.shape == (*size[::-1], 3)
    top, left = (size[1] - 16) // 2, (size[0] - 20) // 2
    assert np.array_equal(kept[top : top + 16, left : left + 20], small)
    assert kept.sum() == small.sum()  # the border is black
    both = [raw_pixels(large, width=64, height=48, fit=how, only_shrink=only) for only in (True, False)]
    assert np.array_equal(*both)


@pytest.mark.parametrize(
    ("source", "channels", "expected"),
    [
        pytest.param((4, 2, 3), "rgb", [10, 20, 200], id="rgb"),
        pytest.param((4, 2, 1), "keep", [38], id="grey"),
        pytest.param((4, 2, 4), "keep", [10, 20, 200, 255], id="opacity"),
    ],
)
def test_the_border_has_its_colour(source: tuple[int, ...], channels: str, expected: list[int]) -> None:
    changes = {"fit": "pad", "width": 8, "height": 8, "pad_color": (10, 20, 200), "channels": channels}
    for dtype, scale in (("uint8", 1), ("uint16", 257)):
        pixels = raw_pixels(np.zeros(source, dtype), dtype=dtype, **changes)
        assert pixels.shape == (8, 8, len(expected))
        assert (pixels[0, 0] // scale).tolist() == (pixels[7, 7] // scale).tolist() == expected
        assert not pixels[4, 2:6, :3].any()


def test_opacity_is_resized_with_its_colours() -> None:
    """Black that cannot be seen must not darken what can."""
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((200, 100, 50, 255), (0, 0, 21, 40))
    for filter in FILTERS:
        pixels = raw_pixels(saved(image), channels="keep", fit="stretch", width=10, height=10, filter=filter)
        expected = np.asarray(image.resize((10, 10), PILLOW_FILTERS[filter]))
        seen = expected[..., 3] > 20
        assert np.abs(pixels.astype(int) - expected)[seen].max() <= 3
        assert np.abs(pixels[..., 3].astype(int) - expected[..., 3]).max() <= 1


@pytest.mark.parametrize(
    ("mode", "format", "channels"),
    [
        *[("L", "PNG", 1), ("1", "PNG", 1), ("I;16", "PNG", 1), ("L", "JPEG", 1), ("RGB", "JPEG", 3), ("P", "PNG", 3)],
        *[("CMYK", "JPEG", 3), ("RGB", "PNG", 3), ("RGBA", "PNG", 4), ("LA", "PNG", 4), ("PA", "TIFF", 4)],
    ],
)
@pytest.mark.parametrize("encoding", IMAGE_CODECS)
def test_keep_has_as_many_channels_as_the_image(mode: str, format: str, channels: int, encoding: str) -> None:
    data = saved(in_mode(mode), format)
    payload = prepare_image(data, replace(OPTIONS, channels="keep", encoding=encoding))
    codec = IMAGE_CODECS[encoding]
    assert payload.channels == (4 if 4 in codec.channels else 3) if channels == 4 else channels
    if not codec.is_raw:
        with Image.open(io.BytesIO(payload.data)) as image:
            bands = payload.channels if payload.channels in codec.channels else 3  # WebP has no grey
            assert (image.format, image.size, len(image.getbands())) == (encoding.upper(), (64, 48), bands)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "I;16", "CMYK"])
def test_grey_is_the_luma_of_pillow(mode: str) -> None:
    data = saved(in_mode(mode), "TIFF")
    assert np.array_equal(
        raw_pixels(data, channels="grey"), np.asarray(Image.fromarray(decode(data)).convert("L"))[..., None]
    )


def test_grey_of_a_jpeg_is_the_luma_of_pillow() -> None:
    data = saved(picture(), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)
    assert np.abs(raw_pixels(data, channels="grey")[..., 0] - expected).max() <= 1


@given(npst.arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_grey_of_16_bits_is_the_same_luma(pixels: np.ndarray) -> None:
    expected = pixels.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(raw_pixels(pixels, channels="grey", dtype="uint16")[..., 0] - expected).max() <= 1


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (30, 40, 3), (30, 40, 4)], ids=str)
@pytest.mark.parametrize("how", FITS)
def test_pixels_are_treated_as_the_file_that_holds_them(shape: tuple[int, ...], how: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    changes = {"fit": how, "background": (1, 2, 3), "width": 20, "height": 20}
    file = saved(Image.fromarray(pixels[..., 0] if shape[2:] == (1,) else pixels))
    for channels in ("rgb", "grey", "keep"):
        assert np.array_equal(
            raw_pixels(pixels, channels=channels, **changes), raw_pixels(file, channels=channels, **changes)
        )


def test_a_payload_says_what_it_is() -> None:
    payload = prepare_image(saved(in_mode("L")), replace(OPTIONS, channels="grey"))
    assert isinstance(payload, Payload)
    assert (payload.height, payload.width, payload.channels) == (48, 64, 1)
    assert payload.geometry == plan_geometry(40, 30, 1, OPTIONS)


def test_the_codecs_are_named() -> None:
    versions = codec_versions()
    assert versions["pixels"] == "5"
    assert {"opencv-python-headless", "pillow", "simplejpeg", "cykooz-resizer"} < set(versions)


def test_pixels_in_any_order_of_memory() -> None:
    pixels = numbers(3)
    for given_pixels in (pixels.astype(">u2"), np.asfortranarray(pixels), np.repeat(pixels, 2, 0)[::2]):
        assert np.array_equal(raw_pixels(given_pixels, dtype="uint16"), pixels)
        jpeg = replace(OPTIONS, fit="none", encoding="jpeg")
        assert prepare_image(given_pixels, jpeg).data == prepare_image(pixels, jpeg).data


@pytest.mark.parametrize(
    "pixels",
    [
        *[np.zeros(shape, np.uint8) for shape in ((3,), (2, 2, 2), (2, 2, 5), (0, 2, 3), (2, 2, 0), (1, 2, 2, 3), ())],
        *[np.zeros((2, 2, 3), dtype) for dtype in ("int8", "int64", "float32", "bool", "U1")],
    ],
    ids=lambda a: f"{a.dtype}{list(a.shape)}",
)
def test_what_is_no_array_of_pixels_is_refused(pixels: np.ndarray) -> None:
    assert refused(pixels) == "bad-array"
