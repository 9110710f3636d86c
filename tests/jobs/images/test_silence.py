"""Values that decoders misread or leave out, without a word: each is mended, refused by name, or counted."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.pictures import OPTIONS, decode, in_mode, numbers, picture, png, profile, saved, tiff

from beam_jobs.images.changes import CHANGES, change_lines
from beam_jobs.images.decode import decode as decode_file
from beam_jobs.images.process import prepare_image
from beam_jobs.sources import BadInput
from shard_reader.format.image_codecs.table import read_header

NOISE = np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)
JPEG = saved(Image.fromarray(NOISE), "JPEG", quality=90)


def read(data: bytes, **changes: Any) -> Any:
    return decode_file(data, replace(OPTIONS, **{"fit": "none", "channels": "keep", "dtype": "uint16", **changes}))


def changes(data: bytes | np.ndarray, **options: Any) -> tuple[str, ...]:
    return prepare_image(data, replace(OPTIONS, **{"fit": "none", **options})).changes


def problem(data: bytes, **options: Any) -> BadInput:
    with pytest.raises(BadInput) as caught:
        prepare_image(data, replace(OPTIONS, **{"fit": "none", **options}))
    return caught.value


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def with_chunk(data: bytes, *chunks: bytes) -> bytes:
    """A PNG file with more chunks after its header."""
    return data[:33] + b"".join(chunks) + data[33:]


# TIFF


@given(values=st.lists(st.integers(0, 65_535), min_size=6, max_size=6))
def test_white_is_zero_is_inverted(values: list[int]) -> None:
    pixels = np.array(values, np.uint16).reshape(2, 3, 1)
    assert np.array_equal(read(tiff(pixels, photometric=0)).pixels, 65_535 - pixels)


def palette_tiff(colours: np.ndarray, scale: int) -> bytes:
    """A TIFF with a palette, whose 16-bit numbers are the colours times `scale`."""
    entries = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 3), (273, 4, 1, 8)]
    entries += [(277, 3, 1, 1), (278, 3, 1, 2), (279, 4, 1, 4), (320, 3, 768, 12)]
    table = (colours.T.astype(np.uint16) * scale).astype("<u2").tobytes()
    start = 12 + len(table)
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", start) + bytes([0, 1, 2, 3]) + table + directory + bytes(4)


@pytest.mark.parametrize("scale", [1, 257])
def test_a_palette_of_8_bit_values_gives_its_colours(scale: int) -> None:
    colours = np.random.default_rng(1).integers(1, 256, (256, 3))
    assert np.array_equal(decode(palette_tiff(colours, scale)).reshape(-1, 3), colours[:4])


@pytest.mark.parametrize(("sign", "name"), [(2, "signed"), (3, "float")])
def test_pixels_without_a_known_range_are_refused_by_name(sign: int, name: str) -> None:
    found = problem(tiff(np.zeros((2, 3, 1), np.uint8), bits=8, data=bytes(6), sample_format=sign))
    assert found.reason in ("unsupported-mode", "not-an-image")
    assert name in str(found)


def test_a_band_that_is_no_opacity_is_kept_where_all_are_and_counted_elsewhere() -> None:
    data = tiff(numbers(4), extra=0)
    found = read(data)
    assert found.bands and np.array_equal(found.pixels, numbers(4))
    assert changes(data, channels="keep", dtype="uint16") == ()
    assert changes(data, dtype="uint16") == ("bands",)
    opaque = tiff(numbers(4), extra=2)
    assert np.array_equal(read(opaque).pixels, numbers(4))
    assert changes(opaque, channels="keep", dtype="uint16") == ()


def test_of_several_pages_and_frames_the_first_is_kept_and_the_rest_counted() -> None:
    pages = [Image.fromarray(np.full((4, 5, 3), level, np.uint8)) for level in (10, 200, 90)]
    for format, kind in (("TIFF", "pages"), ("GIF", "frames"), ("WEBP", "frames"), ("PNG", "frames")):
        lossless = {"lossless": True} if format == "WEBP" else {}
        data = saved(pages[0], format, save_all=True, append_images=pages[1:], **lossless)
        assert decode(data)[0, 0].tolist() == [10] * 3
        assert changes(data) == (kind,)
        assert changes(saved(pages[0], format)) == ()


def test_unread_tiffs_are_named() -> None:
    assert "17 bands: an image has at most 16" in str(problem(tiff(numbers(17), data=bytes(5 * 7 * 17 * 2))))
    assert "32-bit grey, 1 band, compressed as LERC, which is not read" in str(
        problem(tiff(numbers(1), bits=32, data=bytes(140), compression=34887, sample_format=3), dtype="float32")
    )


# Bits


def deep_file(format: str) -> bytes:
    """A file of 10- or 16-bit colours, in a format of which Pillow keeps 8 bits."""
    if format == "sgi":
        return saved(Image.fromarray(NOISE), "SGI", bpc=2)
    if format == "ppm":
        return b"P6 7 5 65535\n" + numbers(3).astype(">u2").tobytes()
    cv2 = pytest.importorskip("cv2")
    pixels = numbers(3, 64, 64) >> (6 if format == "avif" else 0)
    return bytes(cv2.imencode(f".{format}", pixels, [cv2.IMWRITE_AVIF_DEPTH, 10] if format == "avif" else [])[1])


@pytest.mark.parametrize("format", ["sgi", "ppm", "jp2", "avif"])
def test_bits_that_a_decoder_leaves_out_are_counted(format: str) -> None:
    assert changes(deep_file(format), dtype="uint16") == ("bits",)
    usual = {"jp2": "JPEG2000"}.get(format, format.upper())
    assert changes(saved(Image.fromarray(NOISE), usual), dtype="uint16") == ()


def rle4_bmp(rows: list[bytes], width: int) -> bytes:
    """A BMP of 16 greys in runs, from the bottom row up."""
    body = b"".join(row + b"\0\0" for row in rows) + b"\0\1"
    palette = b"".join(bytes([17 * n] * 3 + [0]) for n in range(16))
    header = struct.pack("<IiiHHIIiiII", 40, width, len(rows), 1, 4, 2, len(body), 0, 0, 16, 0)
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + header + palette + body


def test_runs_of_4_bit_colours_are_those_of_the_file() -> None:
    """Of colours one by one (0 and their number), and of one or two colours in turns."""
    rows = [b"\0\x06\x12\x34\x56\0", b"\x06\x9a", b"\0\x04\xfe\xdc\x02\x77"]
    expected = [[15, 14, 13, 12, 7, 7], [9, 10, 9, 10, 9, 10], [1, 2, 3, 4, 5, 6]]
    assert np.array_equal(decode(rle4_bmp(rows, 6))[..., 0], np.array(expected) * 17)


# PNG


def test_the_default_image_of_a_deep_animation_is_read() -> None:
    still, frame = numbers(3), numbers(3)[::-1].copy()
    data = png(still)
    height, width = still.shape[:2]
    head = chunk(b"acTL", struct.pack(">II", 1, 0))
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in frame)
    animation = control + chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress(rows))
    end = data.rindex(b"IEND") - 4
    found = read(with_chunk(data[:end], head) + animation + data[end:])
    assert np.array_equal(found.pixels, still)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(3 << 20))), id="large text"),
        pytest.param(chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(3 << 20))), id="large profile"),
        pytest.param(chunk(b"iCCP", b"name\0\1" + zlib.compress(b"profile")), id="method of a profile"),
        pytest.param(chunk(b"tEXt", b"note\0text", crc=1), id="checksum"),
        pytest.param(chunk(b"eXIf", b"garbage" * 9), id="exif"),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_optional_chunks_do_not_make_an_image_bad(bad: bytes, deep: bool) -> None:
    pixels = numbers(3) if deep else NOISE
    data = png(pixels) if deep else saved(Image.fromarray(pixels))
    found = read(with_chunk(data, bad))
    assert np.array_equal(found.pixels, pixels)
    assert "metadata" in found.changes or b"eXIf" in bad
    assert problem(with_chunk(data[:-60], bad)).reason in ("damaged", "not-an-image")


def test_transparency_is_kept_where_optional_chunks_are_dropped() -> None:
    data = saved(Image.fromarray(np.array([[0, 1]], np.uint8)), transparency=1)
    assert decode(with_chunk(data, chunk(b"tEXt", b"note\0text", crc=1)))[0].tolist() == [[0] * 3, [255] * 3]


# JPEG


def cut_in_half(data: bytes) -> bytes:
    return data[: len(data) // 2] + b"\xff\xd9"


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_lost_pixels_are_rejects_in_the_words_of_libjpeg(mode: str) -> None:
    data = saved(Image.fromarray(NOISE).convert(mode), "JPEG", quality=90)
    found = problem(cut_in_half(data))
    assert (found.reason, "premature end" in str(found).lower()) == ("damaged", True)


def test_lost_pixels_of_a_multi_picture_file_are_rejects() -> None:
    data = saved(Image.fromarray(NOISE), "MPO", save_all=True, append_images=[picture()], quality=90)
    start = data.rindex(b"\xff\xd8")
    assert np.array_equal(decode(data), simplejpeg.decode_jpeg(data[:start]))
    assert changes(data) == ("frames",)
    scan = data.index(b"\xff\xda")
    assert problem(data[: scan + 500] + b"\xff\xd9" * 40 + data[start:]).reason == "damaged"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(JPEG[:-2] + bytes(30) + JPEG[-2:], id="after the scan"),
        pytest.param(JPEG[:20] + b"\1\2\3" + JPEG[20:], id="in the header"),
    ],
)
def test_mere_complaints_are_suspects_with_all_pixels(data: bytes) -> None:
    found = read(data)
    assert "extraneous bytes" in found.suspect
    assert np.array_equal(found.pixels, simplejpeg.decode_jpeg(JPEG))
    payload = prepare_image(data, replace(OPTIONS, fit="none", encoding="jpeg"))
    assert payload.suspect == found.suspect
    assert payload.data != data  # the stored file has no complaint
    assert problem(data, reject_suspects=True).reason == "suspect"


def test_a_loss_after_a_mere_complaint_is_a_reject() -> None:
    assert problem(cut_in_half(JPEG[:20] + b"\1\2\3" + JPEG[20:])).reason == "damaged"


def test_harmless_files_are_no_suspects() -> None:
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}, {"comment": b"x" * 999}):
        data = saved(Image.fromarray(NOISE), "JPEG", **options)
        assert read(data + b"bytes after the end" * 9).suspect == read(data).suspect == ""


def test_a_subsampling_without_a_name_is_read_and_encoded_again() -> None:
    colour = np.full((64, 64, 3), (200, 60, 30), np.uint8)
    data = bytearray(saved(Image.fromarray(colour), "JPEG", subsampling=2))
    # 4:4:1, in the frame's header. Its blocks are as many as those of 4:2:0.
    data[data.index(b"\xff\xc0") + 11] = 0x14
    with pytest.raises(KeyError):
        simplejpeg.decode_jpeg_header(bytes(data))
    found = read(bytes(data))
    assert not found.clean and np.abs(found.pixels.astype(int) - colour).max() <= 4
    with pytest.raises(ValueError, match="a colour space or a subsampling of colours, 6, that is not known"):
        read_header(np.frombuffer(data, np.uint8))


# All of them


def test_orientation_is_that_of_exif_alone() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    xmp += b' xmlns:tiff="http://ns.adobe.com/tiff/1.0/"><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    for format in ("JPEG", "WEBP"):
        data = saved(picture(), format, xmp=xmp)
        with Image.open(io.BytesIO(data)) as image:
            assert image.getexif().get(0x0112) == 6
        assert decode(data).shape == (30, 40, 3)


def test_an_icon_that_looks_like_a_targa_is_an_icon() -> None:
    data = saved(Image.fromarray(NOISE), "ICO", sizes=[(64, 64)])
    for size in (1 << 16, 100_000):  # its third byte is that of Targa's plain colours
        entry = bytearray(data + bytes(size))
        struct.pack_into("<I", entry, 14, size)
        with Image.open(io.BytesIO(bytes(entry)), formats=["ICO"]) as image:
            expected = np.asarray(image.convert("RGB"))
        assert np.array_equal(decode(bytes(entry)), expected)


def test_changes_are_counted_by_kind() -> None:
    assert changes(numbers(3)) == ("depth",)
    assert changes(numbers(3), dtype="uint16") == ()
    assert changes(saved(in_mode("RGBA"))) == ("transparency",)
    assert changes(saved(picture()), channels="grey") == ("colours",)
    assert changes(saved(picture(), icc_profile=profile())) == ("profile",)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert changes(saved(picture(), "JPEG", exif=exif)) == ("orientation",)
    assert changes(saved(picture()), fit="crop", width=80, height=10) == ("enlarged",)
    assert changes(saved(picture()), fit="crop", width=20, height=20) == ()


def test_every_change_has_a_sentence() -> None:
    assert [line.split()[0] for line in change_lines(dict.fromkeys(CHANGES, 7))] == ["7"] * len(CHANGES)
    assert change_lines({"depth": 2, "unknown": 3}) == ["2 from 16 to 8 bits; --dtype uint16 keeps them"]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\x0a" + bytes(9), "JPEG XL"),
        (b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg width="9">', "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"<!DOCTYPE html><html>404", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"%PDF-1.7\n", "PDF"),
        (bytes(100), "zeros"),
        (b"\0\0\0\x18ftypisom", "video"),
    ],
)
def test_other_files_are_named(data: bytes, name: str) -> None:
    found = problem(data)
    assert found.reason in ("not-an-image", "damaged")
    assert name in str(found)
