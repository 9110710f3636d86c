"""JPEGs that are far larger than their stored size: decoded at 1/2, 1/4 or 1/8, to the same image."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.pictures import OPTIONS, picture, pixels_of, saved

from beam_jobs.images import decode as decoding
from beam_jobs.images.decode import Decoded, decode
from beam_jobs.images.files.jpeg import decode_jpeg
from beam_jobs.images.geometry import Geometry, plan_geometry, reduced
from beam_jobs.images.pixels.resample import resampled
from beam_jobs.images.pixels.rgbx import colours_of, packed, rgbx_below, rgbx_of
from beam_jobs.images.process import Payload, prepare_image
from beam_jobs.options import FILTERS, FITS, ImageOptions
from beam_jobs.sources import BadInput

SIDES = st.tuples(*[st.integers(1, 900)] * 2)
TARGETS = st.tuples(*[st.integers(1, 120)] * 2)
SHRINKING = ("cover", "crop", "pad", "inside", "stretch")


def textured(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A picture with edges, and with texture of every size, as a photo has it."""
    random = np.random.default_rng([seed, width, height])
    pixels = np.asarray(picture(width, height)).astype(np.float32)
    for cell in (1, 2, 5, 16):
        rough = random.normal(0, 3 * cell**0.5, (-(-height // cell), -(-width // cell), 3)).clip(-99, 99)
        pixels += rough.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return pixels.clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, orientation: int = 1, mode: str = "RGB", **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels).convert(mode)
    return saved(image, "JPEG", quality=92, exif=exif, **options)


def sized(fit: str, size: tuple[int, int], **changes: Any) -> ImageOptions:
    return replace(OPTIONS, fit=fit, width=size[0], height=size[1], **changes)


def both(data: bytes, options: ImageOptions) -> tuple[Payload, Payload, float]:
    """The payloads by default and by an exact decode, and the decibels between them (PSNR)."""
    payloads = prepare_image(data, options), prepare_image(data, replace(options, exact_decode=True))
    one, other = (np.frombuffer(payload.data, np.uint8).astype(int) for payload in payloads)
    error = ((one - other) ** 2).mean()
    return *payloads, 99.0 if error == 0 else 10 * math.log10(255**2 / error)


# The rule


@given(SIDES, TARGETS, st.sampled_from(FITS), st.integers(1, 8), st.booleans())
def test_what_is_shown_keeps_twice_the_pixels_and_no_larger_reduction_would(
    source: tuple[int, int], target: tuple[int, int], fit: str, orientation: int, only_shrink: bool
) -> None:
    geometry = plan_geometry(*source, orientation, sized(fit, target, only_shrink=only_shrink))
    scale = geometry.reduction
    assert scale in (1, 2, 4, 8)
    room = [geometry.box[2] / geometry.scaled[0], geometry.box[3] / geometry.scaled[1]]
    if scale > 1:
        assert min(room) / scale >= 2
    if scale < 8 and max(source) >= 8:
        assert min(room) / (2 * scale) < 2
    if not geometry.resizes:
        assert scale == 1


@pytest.mark.parametrize(
    ("source", "fit", "target", "scale"),
    [
        pytest.param((4000, 3000), "cover", (256, 256), 4, id="12 megapixels"),
        pytest.param((4000, 3000), "cover", (376, 376), 2, id="3000 over 376 is less than 8"),
        pytest.param((4000, 3000), "inside", (256, 256), 4, id="by the long side"),
        pytest.param((4096, 3072), "inside", (256, 256), 8, id="exactly twice"),
        pytest.param((4096, 512), "crop", (256, 256), 1, id="the middle of a panorama is small"),
        pytest.param((4096, 512), "stretch", (256, 128), 2, id="by the direction that shrinks least"),
        pytest.param((4096, 1024), "pad", (256, 256), 8, id="without the border"),
        pytest.param((500, 400), "cover", (256, 256), 1, id="a small photo"),
        pytest.param((1024, 768), "none", (0, 0), 1, id="its own size"),
    ],
)
def test_reductions(source: tuple[int, int], fit: str, target: tuple[int, int], scale: int) -> None:
    assert plan_geometry(*source, 1, sized(fit, target)).reduction == scale
    assert plan_geometry(*source[::-1], 6, sized(fit, target)).reduction == scale  # turned


@given(SIDES, st.sampled_from(SHRINKING), TARGETS, st.integers(1, 8))
def test_the_box_of_a_reduced_image_lies_where_it_does_in_the_whole_one(
    source: tuple[int, int], fit: str, target: tuple[int, int], orientation: int
) -> None:
    geometry = plan_geometry(*source, orientation, sized(fit, target))
    scale = geometry.reduction
    width, height = reduced(geometry.upright, scale)
    left, top, wide, high = geometry.box_in(width, height)
    assert left >= 0 and top >= 0 and left + wide <= width and top + high <= height
    # Unturned, a reduced pixel stands for the same pixels of the file from the left and from the top on.
    stored = {"x": (left, left + wide, width), "y": (top, top + high, height)}
    for axis, mirrored in (("x", orientation in (2, 3, 6, 7)), ("y", orientation in (3, 4, 7, 8))):
        start, end, side = stored[axis]
        whole, at, length = (
            (geometry.upright[0], geometry.box[0], geometry.box[2])
            if axis == "x"
            else (geometry.upright[1], geometry.box[1], geometry.box[3])
        )
        if mirrored:
            start, at = side - end, whole - at - length
        assert start * scale == pytest.approx(at, abs=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_both_decoders_reduce_by_what_they_are_asked_for(mode: str, scale: int) -> None:
    for width, height in ((8, 3), (8, 8), (9, 1), (17, 33), (64, 65), (101, 207), (250, 199)):
        data = jpeg(np.zeros((height, width, 3), np.uint8), mode=mode)
        size = reduced((width, height), scale)
        assert decode_jpeg(data, {"L": "GRAY"}.get(mode, mode), size)[0].shape[1::-1] == size
        with Image.open(io.BytesIO(data)) as image:
            if min(width, height) >= scale:
                image.draft(None, (width // scale, height // scale))
                image.load()
                assert image.size == size


# The pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", SHRINKING)
def test_the_image_is_that_of_an_exact_decode(fit: str, orientation: int) -> None:
    random = np.random.default_rng([SHRINKING.index(fit), orientation])
    for subsampling in (0, 1, 2):
        size, target = random.integers(300, 700, 2).tolist(), random.integers(20, 70, 2).tolist()
        data = jpeg(textured(*size), orientation, subsampling=subsampling)
        options = sized(fit, target)
        assert decode(data, options).pixels.shape < decode(data, replace(options, exact_decode=True)).pixels.shape
        default, exact, decibels = both(data, options)
        assert decibels > 40, (size, target)
        assert default.geometry == exact.geometry and default.changes == exact.changes
        assert (default.height, default.width) == (exact.height, exact.width)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_nothing_moves(orientation: int) -> None:
    """A ramp of 2 levels a stored pixel would show a shift by a quarter of a stored pixel."""
    width, height = 1003, 757
    y, x = np.mgrid[0:height, 0:width]
    ramp = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    data = jpeg(ramp.round().astype(np.uint8), orientation, subsampling=0)
    options = sized("cover", (90, 90))
    assert plan_geometry(width, height, 1, options).reduction == 4
    one, other, _ = both(data, options)
    shape = (one.height, one.width)
    difference = pixels_of(one.data, *shape).astype(int) - pixels_of(other.data, *shape)
    assert np.abs(difference.mean((0, 1))).max() < 0.1
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("filter", FILTERS)
def test_every_filter(filter: str) -> None:
    default, exact, decibels = both(jpeg(textured(900, 640)), sized("cover", (70, 70), filter=filter))
    assert (default.data == exact.data) == (filter == "nearest")
    assert decibels > 38


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("format", ["JPEG", "MPO"])
def test_grey_and_cmyk_are_reduced_too(mode: str, format: str) -> None:
    image, options = Image.fromarray(textured(903, 641)).convert(mode), sized("cover", (70, 70))
    data = saved(image, format, quality=92)
    assert decode(data, options).pixels.shape[:2] == (161, 226)
    assert both(data, options)[2] > 40


def test_what_only_pillow_reads_is_reduced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    data, options = jpeg(textured(903, 641), 6), sized("cover", (70, 70))
    expected = decode(data, options).pixels

    def unread(*_: Any) -> None:
        raise ValueError("a kind of JPEG that simplejpeg does not know")

    monkeypatch.setattr(decoding, "decode_jpeg", unread)
    found = decode(data, options)
    assert found.pixels.shape == expected.shape == (226, 161, 3)
    assert np.abs(found.pixels.astype(int) - expected).mean() < 1
    assert both(data, options)[2] > 40


def test_photos_keep_their_quality(photos: Path) -> None:
    found = {path: both(path.read_bytes(), sized("cover", (56, 56))) for path in sorted(photos.rglob("*.jpg"))[::25]}
    assert sum(default.data != exact.data for default, exact, _ in found.values()) > len(found) / 2
    assert min(decibels for *_, decibels in found.values()) > 38


@given(st.tuples(*[st.integers(1, 130)] * 2), st.sampled_from(FITS), st.integers(1, 8), st.sampled_from(["L", "RGB"]))
def test_small_photos_are_the_same_bytes(size: tuple[int, int], fit: str, orientation: int, mode: str) -> None:
    data = jpeg(np.asarray(picture(*size)), orientation, mode)
    for options in (sized(fit, (64, 48)), sized(fit, (64, 48), encoding="jpeg")):
        if plan_geometry(*size, orientation, options).reduction == 1:
            one, other = (prepare_image(data, replace(options, exact_decode=exact)) for exact in (False, True))
            assert one.data == other.data and one.sums == other.sums and one.hashes == other.hashes


# What does not change


def outcome(data: bytes, options: ImageOptions) -> tuple[str, ...]:
    """The reason of a reject, or the complaint and the changes of a payload."""
    try:
        payload = prepare_image(data, options)
    except BadInput as error:
        return "rejected", error.reason
    return "stored", payload.suspect, *payload.changes


BASELINE, PROGRESSIVE = (jpeg(textured(320, 200), progressive=progressive) for progressive in (False, True))


@given(st.sampled_from([BASELINE, PROGRESSIVE]), st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_damage_is_found_as_by_an_exact_decode(data: bytes, place: int, other: bytes) -> None:
    place %= len(data)
    options = sized("cover", (24, 24))
    for damaged in (data[:place], data[:place] + other + data[place + len(other) :]):
        assert outcome(damaged, options) == outcome(damaged, replace(options, exact_decode=True))


def test_suspects_are_the_same() -> None:
    options = sized("cover", (24, 24))
    for data in (BASELINE[:20] + b"\1\2\3" + BASELINE[20:], BASELINE[:-2] + bytes(30) + BASELINE[-2:]):
        suspect = prepare_image(data, options).suspect
        assert "extraneous bytes" in suspect
        assert suspect == prepare_image(data, replace(options, exact_decode=True)).suspect


def test_limits_are_those_of_the_whole_image() -> None:
    options = sized("cover", (24, 24), max_pixels=320 * 200 - 1)
    with pytest.raises(BadInput, match="320x200 pixels are more than the limit"):
        prepare_image(BASELINE, options)


def test_headers_that_disagree_are_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "decode_jpeg", lambda *_: (np.zeros((50, 81, 4), np.uint8), ""))
    with pytest.raises(BadInput, match="states 320x200 pixels, and has others") as caught:
        prepare_image(BASELINE, sized("cover", (24, 24)))
    assert caught.value.reason == "damaged"


def test_a_reduced_file_is_never_stored_as_it_is() -> None:
    options = sized("cover", (24, 24), encoding="jpeg")
    assert prepare_image(BASELINE, options).data != BASELINE
    assert prepare_image(BASELINE, replace(options, fit="none")).data == BASELINE


# Pixels in four bytes


@given(st.tuples(*[st.integers(1, 40)] * 2), st.tuples(*[st.integers(1, 40)] * 2), st.sampled_from(FILTERS))
def test_pixels_in_four_bytes_are_resampled_as_those_in_three(
    source: tuple[int, int], size: tuple[int, int], filter: str
) -> None:
    rgbx = np.random.default_rng(0).integers(0, 256, (*source, 4), np.uint8).copy()  # the owner of its memory
    view, dense = colours_of(rgbx), rgbx[..., :3].copy()
    assert rgbx_below(view) is rgbx_of(view) is rgbx and rgbx_below(dense) is None
    assert rgbx_below(rgbx[..., 1:]) is None
    assert np.array_equal(packed(view), dense) and packed(view).flags.c_contiguous
    box = (float(source[1] // 8), 0.0, float(max(1, source[1] // 2)), float(source[0]))
    found = [resampled(pixels, box, size, filter) for pixels in (view, dense)]
    assert np.array_equal(*found)
    # Each channel alone, as grey: no channel reaches into another one.
    for channel in range(3):
        grey = np.ascontiguousarray(rgbx[..., channel : channel + 1])
        assert np.array_equal(resampled(grey, box, size, filter)[..., 0], found[0][..., channel])


def test_the_default_is_a_reduction() -> None:
    for orientation, shape in ((1, (50, 80, 3)), (6, (80, 50, 3))):
        decoded = decode(jpeg(textured(320, 200), orientation), sized("cover", (24, 24)))
        assert isinstance(decoded, Decoded)
        assert (decoded.pixels.shape, decoded.stored) == (shape, (320, 200))
        assert rgbx_below(decoded.pixels) is not None  # as the resizer takes them
    geometry = prepare_image(BASELINE, sized("cover", (24, 24))).geometry
    assert isinstance(geometry, Geometry) and geometry.upright == (320, 200)
