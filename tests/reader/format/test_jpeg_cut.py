"""A part of a JPEG, cut out at restart markers: the pixels of the whole, or the whole is decoded."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from shard_reader.format.fields import Field
from shard_reader.format.image_codecs import jpeg_cut
from shard_reader.format.image_codecs.codec import Scratch
from shard_reader.format.image_codecs.jpeg import Jpeg
from shard_reader.format.image_codecs.table import decode_image
from shard_reader.transforms.part import Part

FIELD = Field(dtype="uint8", shape=(None, None, 3), encoding="jpeg")
SAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2), "4:4:0": (1, 2), "4:1:1": (4, 1), "grey": (1, 1)}


@pytest.fixture(autouse=True)
def always_pays() -> Iterator[None]:
    """The images of these tests are small."""
    with patch.object(jpeg_cut, "_PAYS", -(1 << 30)):
        yield


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Colours that differ a lot from pixel to pixel, over a gradient."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 120, width)[np.newaxis, :, np.newaxis]
    return (rng.integers(0, 130, (height, width, 3)) + ramp).astype(np.uint8)


def encoded(pixels: NDArray[np.uint8], sampling: str, interval: int, quality: int = 80) -> NDArray[np.uint8]:
    """A JPEG with a marker after each `interval` units, 0 for none."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    if sampling == "grey":
        pixels = pixels[..., 0]
    else:
        factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling.replace(':', '')}")
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    done, data = cv2.imencode(".jpg", pixels, options)
    assert done
    return data.ravel()


def units(width: int, sampling: str) -> int:
    return -(-width // (8 * SAMPLINGS[sampling][0]))


def part_of_whole(payload: NDArray[np.uint8], part: Part, *, fast: bool = False) -> NDArray[np.uint8]:
    """The part of the pixels of the whole image, decoded at the part's scale."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(payload)
    scale, shape = part.scale, (-(-height // part.scale), -(-width // part.scale))
    least = {"min_height": shape[0], "min_width": shape[1]} if scale > 1 else {}
    whole = simplejpeg.decode_jpeg(payload, fastdct=fast, fastupsample=fast, **least)
    assert whole.shape[:2] == shape
    top, left = part.top // scale, part.left // scale
    return whole[top : top + -(-part.height // scale), left : left + -(-part.width // scale)]


@st.composite
def parts(draw: st.DrawFn, height: int, width: int, scales: tuple[int, ...] = (1,)) -> Part:
    scale = draw(st.sampled_from(scales))
    top, left = (draw(st.integers(0, (side - 1) // scale)) * scale for side in (height, width))
    return Part(top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left)), scale)


@given(
    height=st.integers(1, 140),
    width=st.integers(1, 260),
    sampling=st.sampled_from(list(SAMPLINGS)),
    which=st.integers(0, 10),
    fast=st.booleans(),
    quality=st.sampled_from([30, 80, 97]),
    data=st.data(),
)
def test_the_pixels_are_those_of_the_whole(
    height: int, width: int, sampling: str, which: int, fast: bool, quality: int, data: st.DataObject
) -> None:
    row = units(width, sampling)
    divisors = [interval for interval in range(1, row + 1) if row % interval == 0]
    payload = encoded(noise(height, width), sampling, divisors[which % len(divisors)], quality)
    part = data.draw(parts(height, width))
    if jpeg_cut.cut(payload, height, width, part) is None:
        assert row * -(-height // (8 * SAMPLINGS[sampling][1])) == divisors[which % len(divisors)]  # a single segment
    found = decode_image(payload, FIELD, height, width, fast=fast, part=part, scratch=Scratch())
    assert np.array_equal(found, part_of_whole(payload, part, fast=fast))


@given(
    height=st.integers(64, 200),
    width=st.integers(64, 300),
    sampling=st.sampled_from(list(SAMPLINGS)),
    data=st.data(),
)
def test_the_pixels_at_a_scale_are_those_of_the_whole_at_that_scale(
    height: int, width: int, sampling: str, data: st.DataObject
) -> None:
    row = units(width, sampling)
    interval = data.draw(st.sampled_from([0, *(interval for interval in range(1, row + 1) if row % interval == 0)]))
    part = data.draw(parts(height, width, (1, 2, 4, 8)))
    payload = encoded(noise(height, width), sampling, interval)
    found = decode_image(payload, FIELD, height, width, part=part)
    assert np.array_equal(found, part_of_whole(payload, part))


@pytest.mark.parametrize("sampling", list(SAMPLINGS))
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_part_of_one_pixel_is_that_of_the_whole_at_any_scale(sampling: str, scale: int) -> None:
    """A cut that is narrow at its scale would not be interpolated."""
    payload = encoded(noise(64, 64), sampling, 1)
    for left in range(0, 64, scale):
        part = Part(0, left, 1, 1, scale)
        assert np.array_equal(decode_image(payload, FIELD, 64, 64, part=part), part_of_whole(payload, part))


@given(height=st.integers(1, 100), width=st.integers(1, 200), channels=st.sampled_from([1, 3]), data=st.data())
def test_the_markers_that_are_written_are_used(height: int, width: int, channels: int, data: st.DataObject) -> None:
    pixels = noise(height, width)[..., :channels]
    payload = np.frombuffer(Jpeg().encode(np.ascontiguousarray(pixels), None), np.uint8)
    part = data.draw(parts(height, width))
    field = Field(dtype="uint8", shape=(None, None, channels), encoding="jpeg")
    found = decode_image(payload, field, height, width, part=part)
    colours = "GRAY" if channels == 1 else "RGB"
    assert np.array_equal(found, simplejpeg.decode_jpeg(payload, colours)[part.rows, part.columns])
    assert height <= 16 or width <= 16 or jpeg_cut.cut(payload, height, width, part) is not None


def test_without_the_margin_pixels_would_differ() -> None:
    """So that the tests above can fail: colours are interpolated between neighbours."""
    payload, part = encoded(noise(160, 160), "4:2:0", 2), Part(64, 64, 32, 32)
    with patch.object(jpeg_cut, "_MARGIN", 0):
        found = decode_image(payload, FIELD, 160, 160, part=part)
    assert not np.array_equal(found, part_of_whole(payload, part))
    assert np.array_equal(decode_image(payload, FIELD, 160, 160, part=part), part_of_whole(payload, part))


def test_a_column_that_is_narrow_is_not_alone_in_a_cut() -> None:
    """In images of fewer than five pixels, libjpeg repeats colours instead of interpolating them."""
    payload, part = encoded(noise(64, 131), "4:2:2", 1), Part(0, 129, 64, 2)
    assert np.array_equal(decode_image(payload, FIELD, 64, 131, part=part), part_of_whole(payload, part))
    with patch.object(jpeg_cut, "_NARROW", 0):
        assert not np.array_equal(decode_image(payload, FIELD, 64, 131, part=part), part_of_whole(payload, part))


def test_a_cut_is_small() -> None:
    """Segments of the part and its margin alone: 5 x 3 of 20 x 10."""
    payload = encoded(noise(160, 320), "4:4:4", 2)
    found = jpeg_cut.cut(payload, 160, 320, Part(20, 50, 30, 40))
    assert found is not None
    assert (found.top, found.left, found.height, found.width) == (16, 48, 40, 48)
    assert len(found.data) < len(payload) / 10
    assert Image.open(io.BytesIO(found.data)).size == (48, 40)


def test_a_cut_that_saves_little_is_not_made() -> None:
    payload = encoded(noise(160, 160), "4:4:4", 2)
    with patch.object(jpeg_cut, "_PAYS", 1 << 14):
        assert jpeg_cut.cut(payload, 160, 160, Part(0, 0, 90, 90)) is not None  # 96 x 96 of 160 x 160
        assert jpeg_cut.cut(payload, 160, 160, Part(0, 0, 90, 100)) is None  # 96 x 112
        assert jpeg_cut.cut(payload, 160, 160, Part(10, 10, 140, 140)) is None


# What is not cut


def saved(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


PLAIN = encoded(noise(64, 128), "4:2:0", 4).tobytes()
FRAME, SCAN = PLAIN.index(b"\xff\xc0"), PLAIN.index(b"\xff\xda")
HEADER = SCAN + 14
MARKERS = [place for place in range(HEADER, len(PLAIN)) if PLAIN[place] == 0xFF and 0xD0 <= PLAIN[place + 1] < 0xD8]


def patched(place: int, value: bytes) -> bytes:
    return PLAIN[:place] + value + PLAIN[place + len(value) :]


def swapped() -> bytes:
    return patched(MARKERS[0] + 1, b"\xd1")[: MARKERS[1] + 1] + b"\xd0" + PLAIN[MARKERS[1] + 2 :]


OTHERS: dict[str, bytes] = {
    "no markers": saved(noise(64, 128)),
    "markers across rows": encoded(noise(64, 128), "4:2:0", 3).tobytes(),
    "markers of several rows": encoded(noise(64, 128), "4:2:0", 16).tobytes(),
    "progressive": saved(noise(64, 128), progressive=True),
    "progressive with markers": saved(noise(64, 128), progressive=True, restart_marker_blocks=4),
    "bytes after the end": PLAIN + b"\0\0",
    "no end": PLAIN[:-2],
    "cut off": PLAIN[: len(PLAIN) // 2],
    "a header alone": PLAIN[:HEADER],
    "half a header": PLAIN[: FRAME + 8],
    "another height": patched(FRAME + 5, struct.pack(">H", 80)),
    "another width": patched(FRAME + 7, struct.pack(">H", 144)),
    "a height of 0": patched(FRAME + 5, b"\0\0"),
    "12 bits": patched(FRAME + 4, b"\x0c"),
    "arithmetic coding": patched(FRAME + 1, b"\xc9"),
    "lossless": patched(FRAME + 1, b"\xc3"),
    "no sampling factors": patched(FRAME + 11, b"\0"),
    "a marker less": PLAIN[: MARKERS[2]] + PLAIN[MARKERS[2] + 2 :],
    "a segment less": PLAIN[: MARKERS[2]] + PLAIN[MARKERS[3] :],
    "a segment more": PLAIN[: MARKERS[2]] + PLAIN[MARKERS[1] : MARKERS[2]] + PLAIN[MARKERS[2] :],
    "markers in another order": swapped(),
    "a number of lines after the scan": PLAIN[:-2] + b"\xff\xdc\0\4\0\x40" + PLAIN[-2:],
    "fill bytes": PLAIN[: MARKERS[0]] + b"\xff" + PLAIN[MARKERS[0] :],
    "a second scan": PLAIN[:-2] + PLAIN[SCAN:],
    "two intervals": PLAIN[:SCAN] + b"\xff\xdd\0\4\0\2" + PLAIN[SCAN:],
    "two frames": PLAIN[:FRAME] + PLAIN[FRAME : FRAME + 19] + PLAIN[FRAME:],
    "a header of many segments": PLAIN[:2] + b"\xff\xfe\0\2" * 300 + PLAIN[2:],
    "nothing": b"",
    "two bytes": b"\xff\xd8",
}
PART = Part(17, 40, 30, 30)


def outcome(decode: Callable[[], NDArray[np.uint8]]) -> bytes | str:
    try:
        return decode().tobytes()
    except ValueError as error:
        return str(error)


def test_the_image_that_the_others_are_made_of_is_cut() -> None:
    assert jpeg_cut.cut(np.frombuffer(PLAIN, np.uint8), 64, 128, PART) is not None


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_unusual_is_decoded_as_a_whole(name: str) -> None:
    payload = np.frombuffer(OTHERS[name], np.uint8)
    assert jpeg_cut.cut(payload, 64, 128, PART) is None
    found = outcome(lambda: decode_image(payload, FIELD, 64, 128, part=PART))
    assert found == outcome(lambda: decode_image(payload, FIELD, 64, 128)[PART.rows, PART.columns])


def test_a_header_with_metadata_and_other_colours_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = noise(64, 128)
    for options in ({"exif": exif, "comment": b"words"}, {"icc_profile": bytes(70_000)}, {"keep_rgb": True}):
        payload = np.frombuffer(saved(pixels, restart_marker_blocks=4, subsampling=0, **options), np.uint8)
        assert jpeg_cut.cut(payload, 64, 128, PART) is not None
        assert np.array_equal(decode_image(payload, FIELD, 64, 128, part=PART), part_of_whole(payload, PART))


def test_damage_is_told_where_the_part_is_and_not_elsewhere() -> None:
    """The checksum covers the whole payload; this is what is left to a reader that does not check it."""
    part = Part(40, 70, 20, 50)  # in the third and the fourth row of units
    payload = np.frombuffer(PLAIN[: HEADER + 20] + PLAIN[MARKERS[0] :], np.uint8)  # half a segment in the first row
    with pytest.raises(ValueError) as whole_told:
        decode_image(payload, FIELD, 64, 128)
    whole = simplejpeg.decode_jpeg(np.frombuffer(PLAIN, np.uint8))
    assert np.array_equal(decode_image(payload, FIELD, 64, 128, part=part), whole[part.rows, part.columns])
    with pytest.raises(ValueError) as told:
        decode_image(payload, FIELD, 64, 128, part=Part(1, 1, 9, 9))
    assert str(told.value) == str(whole_told.value)


@given(
    edits=st.lists(st.tuples(st.integers(0, len(PLAIN)), st.integers(0, 3), st.binary(max_size=3)), max_size=5),
    scale=st.sampled_from([1, 2, 8]),
)
def test_any_bytes_end_in_an_error_or_in_the_part(edits: list[tuple[int, int, bytes]], scale: int) -> None:
    data = PLAIN
    for place, removed, added in edits:
        data = data[:place] + added + data[place + removed :]
    assume(len(data) > 2)
    part = Part(16, 32, 32, 48, scale)
    try:
        found = decode_image(np.frombuffer(data, np.uint8), FIELD, 64, 128, part=part)
    except ValueError as error:
        assert str(error)
        return
    assert found.shape in ((32 // scale, 48 // scale, 3), (32, 48, 3))


def test_a_size_that_is_the_same_when_scaled_is_noticed() -> None:
    payload = encoded(noise(64, 127), "4:2:0", 0)
    with pytest.raises(ValueError, match="has a header that says 127x64 pixels, not 128x64"):
        decode_image(payload, FIELD, 64, 128, part=Part(0, 0, 64, 128, 8))


def test_a_payload_that_is_all_markers_costs_little() -> None:
    payload = np.full(1 << 25, 0xFF, np.uint8)
    payload[: len(PLAIN)] = np.frombuffer(PLAIN, np.uint8)
    assert jpeg_cut.cut(payload, 64, 128, PART) is None


# What is written


def tables(payload: bytes) -> list[bytes]:
    """The segments of a header that decide pixels: quantization, Huffman codes and the frame."""
    found, place = [], 2
    while payload[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(payload[place + 2 : place + 4])
        if payload[place + 1] in (0xDB, 0xC0, 0xC4):
            found.append(payload[place:end])
        place = end
    return found


@pytest.mark.parametrize("quality", [1, 50, 90, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_tables_and_sampling_are_those_of_simplejpeg(channels: int, quality: int) -> None:
    pixels = np.ascontiguousarray(noise(50, 70)[..., :channels])
    kind = ("GRAY", "Gray") if channels == 1 else ("RGB", "420")
    former = simplejpeg.encode_jpeg(pixels, quality, *kind)
    assert tables(Jpeg().encode(pixels, quality)) == tables(former)


@pytest.mark.parametrize(
    ("width", "channels", "interval"),
    [
        (256, 3, 4),
        (341, 3, 2),
        (384, 3, 4),
        (400, 3, 5),
        (272, 3, 17),
        (64, 3, 2),
        (16, 3, 1),
        (784, 3, 7),
        (256, 1, 4),
        (5, 1, 1),
    ],
)
def test_the_interval_divides_a_row(width: int, channels: int, interval: int) -> None:
    pixels = np.zeros((40, width, channels), np.uint8)
    row = -(-width // (8 if channels == 1 else 16))
    for choice, expected in (("auto", interval), ("row", row), ("none", None)):
        payload = Jpeg().encode(pixels, None, choice)  # type: ignore[arg-type]
        place = payload.find(b"\xff\xdd\0\4")
        assert (None if place < 0 else int.from_bytes(payload[place + 4 : place + 6])) == expected
    alike = [simplejpeg.decode_jpeg(Jpeg().encode(pixels, None, one)).tobytes() for one in ("auto", "row", "none")]  # type: ignore[arg-type]
    assert len(set(alike)) == 1
