"""Pixels: against Pillow, against arithmetic, and what is refused."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageCms, ImageOps, features
from support.command import REPOSITORY

from beam_jobs.images.geometry import plan_geometry
from beam_jobs.images.process import Payload, codec_versions, prepare_image
from beam_jobs.images.process import fit as fit_geometry
from beam_jobs.images.statistics import ChannelSums
from beam_jobs.options import FILTERS, FITS, ImageOptions
from beam_jobs.sources import BadInput

OPTIONS = ImageOptions(
    width=64, height=48, fit="crop", filter="lanczos", encoding="raw", quality=None, dtype="uint8", normalize="none"
)
PILLOW_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """A smooth picture with an edge: what photographs are made of."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / max(1, width - 1), 255 * y / max(1, height - 1)
    blue = np.where(x + y < (width + height) / 2, 30, 220)
    return Image.fromarray(np.stack([red, green, blue], -1).round().astype(np.uint8))


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def prepared(data: bytes | np.ndarray, **changes: Any) -> np.ndarray:
    """The raw pixels of an image as it is, but for what the options say."""
    options = replace(OPTIONS, **{"fit": "none", **changes})
    payload = prepare_image(data, options)
    return np.frombuffer(payload.data, np.dtype(options.dtype).newbyteorder("<")).reshape(
        payload.height, payload.width, payload.channels
    )


def decode(data: bytes) -> np.ndarray:
    return prepared(data)


def fit(pixels: np.ndarray, options: ImageOptions) -> np.ndarray:
    return fit_geometry(pixels, plan_geometry(pixels.shape[1], pixels.shape[0], 1, options), options)


def refused(data: bytes | np.ndarray, **changes: Any) -> str:
    """The reason why an image is no record."""
    with pytest.raises(BadInput) as caught:
        prepared(data, **changes)
    assert str(caught.value)
    return caught.value.reason


def pixels_of(payload: bytes, height: int, width: int, dtype: str = "uint8") -> np.ndarray:
    return np.frombuffer(payload, np.dtype(dtype).newbyteorder("<")).reshape(height, width, 3)


SAVED = [
    *[(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
    *[(mode, "TIFF") for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "I;16", "I;16B")],
    *[(mode, "JPEG") for mode in ("L", "RGB", "CMYK")],
    *[(mode, "WEBP") for mode in ("RGB", "RGBA")],
    *[(mode, "AVIF") for mode in ("RGB", "RGBA") if features.check("avif")],
]


def in_mode(mode: str) -> Image.Image:
    """The picture in any mode, with transparency that changes where there is any."""
    if mode.startswith("I;16"):
        values = np.asarray(picture().convert("L")).astype(np.uint16) * 257
        return Image.frombytes(mode, (40, 30), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    image = picture()
    if mode in ("LA", "PA", "RGBA"):
        image.putalpha(image.getchannel("R"))
    return image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("mode", "format"), SAVED)
def test_every_mode_and_orientation_becomes_upright_rgb(mode: str, format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(in_mode(mode), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        image = ImageOps.exif_transpose(image)
    assert image.size == ((30, 40) if orientation > 4 else (40, 30))
    if mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    rgba = image.convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    assert np.array_equal(decode(data), np.asarray(expected))


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    pixels = decode(saved(Image.fromarray(values), "PNG"))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_transparent_16_bit_grey_goes_over_white() -> None:
    image = Image.fromarray(np.array([[5, 600]], np.uint16))
    assert decode(saved(image, "PNG", transparency=5))[0].tolist() == [[255] * 3, [2] * 3]


def test_no_other_program_is_started_for_an_image() -> None:
    """Pillow would run Ghostscript, if it is there, for an EPS file: another result on each machine."""
    with pytest.raises(BadInput) as caught:
        decode(saved(picture(), "EPS"))
    assert caught.value.reason == "not-an-image"


def test_transparency_goes_over_white() -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (100, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))
    assert decode(saved(image))[0].tolist() == [[255, 255, 255], [100, 0, 0], [204, 204, 204]]


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_decodes_as_with_pillow(quality: int, subsampling: int) -> None:
    data = saved(picture(61, 47), "JPEG", quality=quality, subsampling=subsampling)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"no image at all", "not-an-image", id="text"),
        pytest.param(saved(picture(), "JPEG")[:600], "damaged", id="truncated-jpeg"),
        pytest.param(saved(picture(), "PNG")[:-40], "damaged", id="truncated-png"),
        pytest.param(saved(picture().convert("F"), "TIFF"), "unsupported-mode", id="float"),
        pytest.param(saved(picture().convert("I"), "TIFF"), "unsupported-mode", id="int32"),
    ],
)
def test_bad_images_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadInput) as caught:
        decode(data)
    assert caught.value.reason == reason
    assert str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 10, 100, 400])
def test_any_damage_to_a_jpeg_is_an_image_or_a_reason(length: int) -> None:
    data = bytearray(saved(picture(), "JPEG"))
    rng = np.random.default_rng(length)
    for _ in range(50):
        for position in rng.integers(0, len(data), length // 10 + 1):
            data[position] = rng.integers(256)
        try:
            assert decode(bytes(data)).shape[2] == 3
        except BadInput as error:
            assert error.reason in ("damaged", "not-an-image", "too-large", "unsupported-mode")


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


@given(npst.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_sums_are_exact(pixels: np.ndarray) -> None:
    sums = ChannelSums.of(pixels)
    flat = pixels.reshape(-1, 3).astype(object)
    assert sums == ChannelSums(len(flat), tuple(flat.sum(0)), tuple((flat**2).sum(0)))
    mean, std = sums.mean_std()
    assert np.allclose(mean, pixels.reshape(-1, 3).mean(0) / 255)
    assert np.allclose(std, pixels.reshape(-1, 3).std(0) / 255)


def test_sums_of_the_largest_image_do_not_overflow() -> None:
    sums = ChannelSums.of(np.full((65_500, 2, 3), 255, np.uint8))
    assert sums.squares == (65_500 * 2 * 255**2,) * 3


# Fits and their colours


@pytest.mark.parametrize(("how", "size"), [("inside", (20, 16)), ("cover", (20, 16)), ("pad", (64, 48))])
def test_only_shrink_enlarges_nothing(how: str, size: tuple[int, int]) -> None:
    small, large = np.asarray(picture(20, 16)), np.asarray(picture(200, 160))
    kept = prepared(small, width=64, height=48, fit=how, only_shrink=True)
    assert kept.shape == (*size[::-1], 3)
    top, left = (size[1] - 16) // 2, (size[0] - 20) // 2
    assert np.array_equal(kept[top : top + 16, left : left + 20], small)
    assert kept.sum() == small.sum()  # the border is black
    both = [prepared(large, width=64, height=48, fit=how, only_shrink=only) for only in (True, False)]
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
        pixels = prepared(np.zeros(source, dtype), dtype=dtype, **changes)
        assert pixels.shape == (8, 8, len(expected))
        assert (pixels[0, 0] // scale).tolist() == (pixels[7, 7] // scale).tolist() == expected
        assert not pixels[4, 2:6, :3].any()


def test_transparency_goes_over_the_background() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (100, 0, 0, 255))
    assert prepared(saved(image), background=(1, 2, 3))[0].tolist() == [[1, 2, 3], [100, 0, 0]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert prepared(saved(palette, "GIF", transparency=0), background=(1, 2, 3))[0].tolist() == [[1, 2, 3]]


def test_opacity_is_resized_with_its_colours() -> None:
    """Black that cannot be seen must not darken what can."""
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((200, 100, 50, 255), (0, 0, 21, 40))
    for filter in FILTERS:
        pixels = prepared(saved(image), channels="keep", fit="stretch", width=10, height=10, filter=filter)
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
@pytest.mark.parametrize("encoding", ["jpeg", "png", "webp", "raw"])
def test_keep_has_as_many_channels_as_the_image(mode: str, format: str, channels: int, encoding: str) -> None:
    data = saved(in_mode(mode), format)
    payload = prepare_image(data, replace(OPTIONS, channels="keep", encoding=encoding))
    assert payload.channels == (3 if encoding == "jpeg" else 4) if channels == 4 else channels
    if encoding != "raw":
        with Image.open(io.BytesIO(payload.data)) as image:
            bands = 3 if encoding == "webp" and channels == 1 else payload.channels  # WebP has no grey
            assert (image.format, image.size, len(image.getbands())) == (encoding.upper(), (64, 48), bands)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "I;16", "CMYK"])
def test_grey_is_the_luma_of_pillow(mode: str) -> None:
    data = saved(in_mode(mode), "TIFF")
    assert np.array_equal(
        prepared(data, channels="grey"), np.asarray(Image.fromarray(decode(data)).convert("L"))[..., None]
    )


def test_grey_of_a_jpeg_is_the_luma_of_pillow() -> None:
    data = saved(picture(), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)
    assert np.abs(prepared(data, channels="grey")[..., 0] - expected).max() <= 1


@given(npst.arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_grey_of_16_bits_is_the_same_luma(pixels: np.ndarray) -> None:
    expected = pixels.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(prepared(pixels, channels="grey", dtype="uint16")[..., 0] - expected).max() <= 1


# 16 bits


def png(pixels: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16-bit grey and opacity, RGB or RGBA, with other chunks before its pixels."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = zlib.compress(b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels))
    result = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), *chunks, (b"IDAT", lines), (b"IEND", b"")):
        result += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return result


def tiff(pixels: np.ndarray, *, order: str = "<", bits: int = 16, data: bytes | None = None, **tags: int) -> bytes:
    """An uncompressed TIFF of 16-bit numbers, in any byte order."""
    height, width, channels = pixels.shape
    data = pixels.astype(f"{order}u2").tobytes() if data is None else data
    where = 8 + 2 + 12 * 12 + 4  # of what is too long for the directory of at most twelve entries
    entries = {256: width, 257: height, 259: 1, 262: 2 if channels > 1 else 1, 277: channels, 278: height}
    entries |= {279: len(data), 273: where + 8, 258: bits if channels == 1 else where}
    entries |= {{"orientation": 274, "planes": 284, "extra": 338}[name]: value for name, value in tags.items()}
    directory = b""
    for tag, value in sorted(entries.items()):
        short = tag in (258, 259, 262, 274, 277, 284, 338) and not (tag == 258 and channels > 1)
        count = channels if tag == 258 else 1
        field = struct.pack(f"{order}H2x" if short else f"{order}I", value)
        directory += struct.pack(f"{order}HHI", tag, 3 if short or tag == 258 else 4, count) + field
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    head = start + struct.pack(f"{order}H", len(entries)) + directory + bytes(4)
    return head.ljust(where, b"\0") + struct.pack(f"{order}4H", *[bits] * 4) + data


def numbers(channels: int, height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 65_536, (height, width, channels), dtype=np.uint16)


def eight(values: np.ndarray) -> np.ndarray:
    """16 bits scaled to 8: the formula."""
    return np.round(values.astype(float) * 255 / 65_535).astype(np.uint8)


DEEP = {
    "png": png(numbers(3)),
    "tiff": tiff(numbers(3)),
    "big-endian-tiff": tiff(numbers(3), order=">"),
    "tiff-with-a-fourth-channel": tiff(np.dstack([numbers(3), numbers(1)]), extra=0),
}


@pytest.mark.parametrize("name", DEEP)
def test_16_bit_colours_keep_16_bits_or_are_scaled(name: str) -> None:
    assert np.array_equal(prepared(DEEP[name], dtype="uint16"), numbers(3))
    assert np.array_equal(prepared(DEEP[name]), eight(numbers(3)))
    assert np.allclose(prepared(DEEP[name], dtype="float32"), numbers(3) / 257)
    assert np.allclose(prepared(DEEP[name], dtype="float32", normalize="unit"), numbers(3) / 65_535)


def test_16_bit_colours_with_opacity() -> None:
    pixels = numbers(4)
    for data in (png(pixels), tiff(pixels, extra=2)):
        assert np.array_equal(prepared(data, dtype="uint16", channels="keep"), pixels)
        assert np.array_equal(prepared(data, channels="keep"), eight(pixels))
        opacity = pixels[..., 3:] / 65_535
        over = pixels[..., :3] * opacity + np.array([10, 20, 30]) * 257 * (1 - opacity)
        assert np.abs(prepared(data, dtype="uint16", background=(10, 20, 30)) - over).max() <= 1
        assert np.abs(prepared(data, background=(10, 20, 30)) - over / 257).max() <= 1.5
    grey = prepared(png(numbers(2)), dtype="uint16", channels="keep")
    assert np.array_equal(grey, numbers(2)[..., [0, 0, 0, 1]])


def test_16_bit_colours_that_were_multiplied_by_their_opacity() -> None:
    opacity = numbers(1) // 2 + 20_000
    colours = (numbers(3).astype(np.uint64) * opacity // 65_535).astype(np.uint16)
    pixels = prepared(tiff(np.dstack([colours, opacity]), extra=1), dtype="uint16", channels="keep")
    assert np.array_equal(pixels[..., 3:], opacity)
    assert np.abs(pixels[..., :3].astype(int) - numbers(3)).max() <= 4


def test_a_transparent_16_bit_colour() -> None:
    pixels = numbers(3)
    key = struct.pack(">3H", *pixels[2, 3].tolist())
    result = prepared(png(pixels, (b"tRNS", key)), dtype="uint16", channels="keep")
    assert (result[..., 3] == 0).sum() == 1 and result[2, 3, 3] == 0
    assert np.array_equal(result[..., :3], pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_colours_are_turned(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    marked = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7))
    places = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(saved(marked, exif=exif)))))
    expected = numbers(3).reshape(-1, 3)[places]
    for data in (png(numbers(3), (b"eXIf", exif.tobytes()[6:])), tiff(numbers(3), orientation=orientation)):
        assert np.array_equal(prepared(data, dtype="uint16"), expected)
        geometry = prepare_image(data, replace(OPTIONS, fit="none")).geometry
        assert (geometry.stored, geometry.orientation) == ((7, 5), orientation)


def test_16_bit_colours_in_planes_are_refused() -> None:
    assert refused(tiff(numbers(3), planes=2)) == "unsupported-mode"


def test_12_bit_grey_is_scaled() -> None:
    data = tiff(np.zeros((1, 2, 1)), bits=12, data=b"\xff\xf8\x00")  # 4095 and 2048
    assert prepared(data, dtype="uint16").ravel()[::3].tolist() == [65_535, 2048 * 65_535 // 4095]


@pytest.mark.parametrize(("peak", "value", "expected"), [(65_535, 300, 300), (1023, 1023, 65_535), (1023, 512, 32_800)])
def test_a_16_bit_pgm_is_grey_up_to_its_peak(peak: int, value: int, expected: int) -> None:
    data = b"P5 1 1 %d\n" % peak + struct.pack(">H", value)
    assert prepared(data, dtype="uint16", channels="keep").ravel().tolist() == [expected]
    assert prepared(data, channels="keep").ravel().tolist() == eight(np.array([expected])).tolist()


def test_a_float_pfm_is_refused() -> None:
    assert refused(b"Pf 1 1 -1.0\n" + struct.pack("<f", 1)) == "unsupported-mode"


def test_8_bits_as_16() -> None:
    pixels = prepared(saved(picture()), dtype="uint16")
    assert np.array_equal(pixels, np.asarray(picture()).astype(int) * 257)
    payload = prepare_image(np.full((1, 1), 258, ">u2"), replace(OPTIONS, fit="none", dtype="uint16", channels="keep"))
    assert payload.data == b"\x02\x01"


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
def test_16_bits_are_resized_as_8_are(channels: int, how: str) -> None:
    image = np.dstack([np.asarray(picture(80, 60)), np.full((60, 80), 255, np.uint8)])[..., :channels]
    changes = {"fit": how, "width": 24, "height": 32, "channels": "keep"}
    deep = prepared(image.astype(np.uint16) * 257, dtype="uint16", **changes)
    shallow = prepared(np.ascontiguousarray(image), **changes)
    assert np.abs(deep / 257 - shallow).max() < 1.5
    assert len(np.unique(deep % 257)) > 9  # it has more than 8 bits


@pytest.mark.parametrize("cut", [10, 30, 60])
def test_damaged_16_bit_colours_are_refused_in_silence(cut: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert refused(png(numbers(3))[:-cut][:-60], dtype="uint16") in ("damaged", "not-an-image")
    broken = bytearray(tiff(numbers(3)))
    refused(bytes(broken[:-cut]))
    assert capfd.readouterr() == ("", "")


# Colours


def profile(*, gamma: float = 1.8, space: bytes = b"RGB ") -> bytes:
    """An ICC profile of version 2: a wide gamut (ProPhoto's), or grey, with a gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH2x", 1, round(gamma * 256))
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79)
    fixed = lambda *v: b"XYZ " + bytes(4) + struct.pack(">3i", *(round(x * 65_536) for x in v))  # noqa: E731
    tags = {b"desc": text, b"cprt": b"text" + bytes(8), b"wtpt": fixed(0.9642, 1, 0.8249)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        primaries = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))
        tags |= {name + b"XYZ": fixed(*xyz) for name, xyz in zip((b"r", b"g", b"b"), primaries, strict=True)}
        tags |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value.ljust(-(-len(value) // 4) * 4, b"\0")
    header = struct.pack(">I4sI4s4s4s12x4s", start + len(body), bytes(4), 0x02100000, b"mntr", space, b"XYZ ", b"acsp")
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63_190, 65_536, 54_061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


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
    assert np.array_equal(prepared(data, channels="keep"), expected)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_a_grey_profile(format: str) -> None:
    grey = profile(gamma=1.0, space=b"GRAY")
    data = saved(picture().convert("L"), format, icc_profile=grey)
    with Image.open(io.BytesIO(data)) as image:
        expected = converted(image, grey)
        assert np.abs(expected.astype(int)[..., 0] - np.asarray(image)).max() > 20
    assert np.abs(prepared(data, channels="keep") - expected.astype(int)).max() <= 1
    assert np.abs(decode(data) - expected.astype(int)).max() <= 1


def test_a_grey_profile_and_opacity() -> None:
    grey, image = profile(gamma=1.0, space=b"GRAY"), in_mode("LA")
    pixels = prepared(saved(image, icc_profile=grey), channels="keep")
    assert np.abs(pixels[..., :3] - converted(image.getchannel("L"), grey).astype(int)).max() <= 1
    assert np.array_equal(pixels[..., 3], np.asarray(image.getchannel("A")))


def test_16_bits_with_a_profile() -> None:
    wide = (b"iCCP", b"x\0\0" + zlib.compress(profile()))
    same = (b"iCCP", b"x\0\0" + zlib.compress(SRGB))
    assert np.array_equal(prepared(png(numbers(3), same), dtype="uint16"), numbers(3))
    expected = converted(Image.fromarray(eight(numbers(3))), profile())
    assert np.array_equal(prepared(png(numbers(3), wide)), expected)
    assert np.array_equal(prepared(png(numbers(3), wide), dtype="uint16"), expected.astype(int) * 257)


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


def test_threads_share_no_state_but_what_may_be_shared() -> None:
    files = [saved(picture(200 + n, 150), "JPEG", icc_profile=profile()) for n in range(4)] + [
        DEEP["png"],
        DEEP["tiff"],
    ]
    one_by_one = [prepared(file, fit="crop") for file in files]
    with ThreadPoolExecutor(4) as threads:
        for number, pixels in enumerate(threads.map(lambda file: prepared(file, fit="crop"), files * 8)):
            assert np.array_equal(pixels, one_by_one[number % len(files)])


def test_lab() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    pixels = decode(saved(to_lab.apply(picture()), "TIFF"))
    assert np.abs(pixels - np.asarray(picture()).astype(int)).mean() < 2


# Limits


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(picture(40, 30))
    assert prepared(data, max_pixels=1200).shape == (30, 40, 3)
    files = (data, saved(picture(40, 30), "JPEG"), saved(picture(40, 30), "TIFF"), png(numbers(3, 30, 40)))
    monkeypatch.setattr(Image.Image, "load", None)
    for file in files:
        assert refused(file, max_pixels=1199) == "too-large"
    assert refused(np.zeros((30, 40, 3), np.uint8), max_pixels=1199) == "too-large"


def test_the_limit_may_be_above_that_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = saved(picture(40, 30))
    assert refused(data, max_pixels=100) == "too-large"
    assert prepared(data, max_pixels=1200).shape == (30, 40, 3)


def test_a_bomb_inside_of_an_image_is_refused() -> None:
    """The header of an ICO says 16x16; the PNG in it is larger."""
    large = saved(Image.new("1", (20_000, 20_000)), compress_level=1)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(large), 22)
    assert refused(struct.pack("<HHH", 0, 1, 1) + entry + large) == "too-large"


def test_too_many_bytes_are_refused() -> None:
    data = saved(picture())
    assert prepared(data, max_bytes=len(data)).shape == (30, 40, 3)
    assert refused(data, max_bytes=len(data) - 1) == "too-large"


def test_what_an_encoding_cannot_hold_is_refused() -> None:
    line = np.zeros((1, 16_384, 3), np.uint8)
    assert refused(line, encoding="webp") == "too-large"
    assert prepare_image(line, replace(OPTIONS, fit="none", encoding="jpeg")).width == 16_384
    assert refused(np.zeros((1, 65_501, 3), np.uint8)) == "too-large"


# Pixels as input


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (30, 40, 3), (30, 40, 4)], ids=str)
@pytest.mark.parametrize("how", FITS)
def test_pixels_are_treated_as_the_file_that_holds_them(shape: tuple[int, ...], how: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    changes = {"fit": how, "background": (1, 2, 3), "width": 20, "height": 20}
    file = saved(Image.fromarray(pixels[..., 0] if shape[2:] == (1,) else pixels))
    for channels in ("rgb", "grey", "keep"):
        assert np.array_equal(
            prepared(pixels, channels=channels, **changes), prepared(file, channels=channels, **changes)
        )


def test_pixels_in_any_order_of_memory() -> None:
    pixels = numbers(3)
    for given_pixels in (pixels.astype(">u2"), np.asfortranarray(pixels), np.repeat(pixels, 2, 0)[::2]):
        assert np.array_equal(prepared(given_pixels, dtype="uint16"), pixels)
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


# Encodings


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_the_default_quality_is_90(encoding: str) -> None:
    options = replace(OPTIONS, encoding=encoding)
    default, same, less = (prepare_image(saved(picture()), replace(options, quality=q)).data for q in (None, 90, 40))
    assert default == same and len(less) < len(default)
    with Image.open(io.BytesIO(default)) as image:
        difference = np.asarray(image).astype(int) - prepared(saved(picture()), fit="crop")
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
        expected = prepared(data, **{**changes, "quality": None})
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
    complained = data[: end - 2] + data[end:]  # "premature end of data segment"
    assert not passed(complained)
    assert np.abs(decode(complained).astype(int) - decode(data)).mean() < 8


def test_a_file_carries_no_orientation_on() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for encoding in ("jpeg", "png", "webp"):
        payload = prepare_image(saved(picture(), "JPEG", exif=exif), replace(OPTIONS, fit="none", encoding=encoding))
        with Image.open(io.BytesIO(payload.data)) as image:
            assert (image.size, image.getexif().get(0x0112, 1)) == ((30, 40), 1)


# Sums


@st.composite
def some_images(draw: st.DrawFn) -> list[np.ndarray]:
    channels = draw(st.sampled_from([1, 3, 4]))
    shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(channels))
    kinds = st.sampled_from([np.uint8, np.uint16])
    return draw(st.lists(kinds.flatmap(lambda kind: npst.arrays(kind, shapes)), min_size=1, max_size=4))


@given(some_images(), st.randoms(use_true_random=False))
def test_sums_of_any_depth_are_those_of_numpy_in_any_order(images: list[np.ndarray], random: Any) -> None:
    total = sum(map(ChannelSums.of, images), ChannelSums())
    shuffled = random.sample(images, len(images))
    half = len(images) // 2
    halves = [sum(map(ChannelSums.of, part), ChannelSums()) for part in (shuffled[:half], shuffled[half:])]
    assert halves[0] + halves[1] == total and not total.mixed
    every = np.concatenate([i.reshape(-1, i.shape[2]) / np.float64(np.iinfo(i.dtype).max) for i in images])
    mean, std = total.mean_std()
    assert np.allclose(mean, every.mean(0), rtol=0, atol=1e-6)
    assert np.allclose(std, every.std(0), rtol=0, atol=1e-6)


@given(st.permutations([(1, np.uint8), (3, np.uint16), (3, np.uint8), (4, np.uint8)]))
def test_sums_of_different_channels_are_mixed_in_any_order(kinds: list[tuple[int, Any]]) -> None:
    sums = [ChannelSums.of(np.ones((2, 3, channels), kind)) for channels, kind in kinds]
    total = sum(sums, ChannelSums())
    assert total.mixed and total == ChannelSums(pixels=24, peak=65_535)
    assert total == sums[0] + (sums[1] + (sums[2] + sums[3]))
    assert total + ChannelSums() == ChannelSums() + total == total
    with pytest.raises(ValueError, match="different numbers of channels"):
        total.mean_std()


def test_sums_survive_json() -> None:
    deep, one = ChannelSums.of(numbers(3)), ChannelSums.of(np.ones((1, 1, 1), np.uint8))
    for sums in (ChannelSums(), deep, deep + one):
        assert ChannelSums.from_json(json.loads(json.dumps(asdict(sums)))) == sums
    assert ChannelSums().mean_std() == ((0,), (0,))


def test_sums_of_the_largest_16_bit_image_do_not_overflow() -> None:
    sums = ChannelSums.of(np.full((65_500, 2, 1), 65_535, np.uint16))
    assert sums == ChannelSums(131_000, (131_000 * 65_535,), (131_000 * 65_535**2,), 65_535)


def test_a_payload_says_what_it_is() -> None:
    payload = prepare_image(saved(in_mode("L")), replace(OPTIONS, channels="grey"))
    assert isinstance(payload, Payload)
    assert (payload.height, payload.width, payload.channels) == (48, 64, 1)
    assert payload.geometry == plan_geometry(40, 30, 1, OPTIONS)


def test_opencv_is_imported_for_16_bit_colours_only() -> None:
    program = (
        "import sys, dataclasses; from tests.test_images import *; saved_png = saved(picture());"
        " prepared(saved_png); assert 'cv2' not in sys.modules; prepared(DEEP['png']); assert 'cv2' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


def test_the_codecs_are_named() -> None:
    versions = codec_versions()
    assert versions["pixels"] == "2"
    assert {"opencv-python-headless", "pillow", "simplejpeg", "cykooz-resizer"} < set(versions)
