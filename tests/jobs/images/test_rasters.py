"""Bands, floats and signed numbers in TIFF, as tifffile writes them: from files to batches."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image
from support.command import command, prepared
from support.images import shared
from support.pictures import DISPLAY_P3, OPTIONS, numbers, profile, raw_pixels

from beam_jobs.images.decode import Decoded
from beam_jobs.images.decode import decode as decode_file
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.images.pixels.resample import resampled
from beam_jobs.images.pixels.viewable import viewable
from beam_jobs.images.process import prepare_image
from beam_jobs.options import ImageOptions
from beam_jobs.sources import BadInput
from shard_reader import RandomResizedCrop, Resize, open_dataset
from shard_reader.torch import normalization

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

KEEP = replace(OPTIONS, fit="none", channels="keep", dtype="uint16")
FLOATS = replace(KEEP, dtype="float32")
GREY: dict[str, Any] = {"photometric": "minisblack"}


def file(values: NDArray[Any], **options: Any) -> bytes:
    """A TIFF of values, `[height, width, bands]`."""
    settings = GREY | {"planarconfig": "contig"} | options
    if settings["planarconfig"] == "separate":
        values = np.moveaxis(values, 2, 0)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values, settings["planarconfig"] = np.squeeze(values), None
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **settings)
    return buffer.getvalue()


def values(bands: int, dtype: str = "float32", height: int = 20, width: int = 24) -> NDArray[Any]:
    return (np.random.default_rng(bands).random((height, width, bands)) * 250).astype(dtype)


def read(data: bytes, options: ImageOptions = KEEP) -> Decoded:
    return decode_file(data, options)


def problem(data: bytes, options: ImageOptions = FLOATS) -> BadInput:
    with pytest.raises(BadInput) as caught:
        prepare_image(data, options)
    return caught.value


# Files


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "float16", "float32", "float64", "int8", "int16", "int32", "uint32"]
)
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 13, 16])
def test_all_bands_of_a_file_are_kept(bands: int, dtype: str) -> None:
    expected = values(bands, dtype) if dtype != "int8" else values(bands).astype("int16").clip(0, 120).astype("int8")
    found = read(file(expected), KEEP if dtype in ("uint8", "uint16") else FLOATS)
    assert found.pixels.dtype == (np.dtype(dtype) if dtype in ("uint8", "uint16") else np.float32)
    assert np.array_equal(found.pixels, expected.astype(found.pixels.dtype))
    assert found.bands == (bands not in (1, 3))


@pytest.mark.parametrize(
    "layout",
    [
        *[{"compression": name} for name in ("lzw", "zlib", "zstd", "packbits", "lzma")],
        *[{"tile": (16, 16)}, {"planarconfig": "separate"}, {"bigtiff": True}, {"byteorder": ">"}],
        {"planarconfig": "separate", "tile": (16, 32), "compression": "zlib", "predictor": True, "bigtiff": True},
        {"rowsperstrip": 3, "compression": "lzw", "predictor": True, "byteorder": ">"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("bands", "dtype"), [(1, "float32"), (5, "float32"), (7, "uint16")])
def test_the_layout_of_a_file_changes_nothing(layout: dict[str, Any], bands: int, dtype: str) -> None:
    expected = values(bands, dtype)
    found = read(file(expected, **layout), FLOATS if dtype == "float32" else KEEP)
    assert np.array_equal(found.pixels, expected)


@pytest.mark.parametrize(
    ("bands", "channels", "photometric", "shape", "kinds"),
    [
        (5, "rgb", "minisblack", 3, ("bands",)),
        (5, "grey", "minisblack", 1, ("bands",)),
        (5, "grey", "rgb", 1, ("bands", "colours")),
        (5, "keep", "rgb", 5, ()),
        (3, "rgb", "minisblack", 3, ()),
        (2, "rgb", "minisblack", 3, ("bands",)),
        (1, "rgb", "minisblack", 3, ()),
        (1, "keep", "minisblack", 1, ()),
    ],
)
def test_channels_are_the_first_bands(
    bands: int, channels: str, photometric: str, shape: int, kinds: tuple[str, ...]
) -> None:
    source = values(bands, "uint16")
    options = replace(KEEP, channels=channels)
    data = file(source, photometric=photometric, planarconfig="separate" if photometric == "rgb" else "contig")
    payload = prepare_image(data, options)
    found = np.frombuffer(payload.data, "<u2").reshape(20, 24, payload.channels)
    assert (payload.channels, payload.changes) == (shape, tuple(sorted(kinds, key=["colours", "bands"].index)))
    if kinds != ("bands", "colours"):
        assert np.array_equal(found, np.broadcast_to(source[..., : shape if bands >= 3 else 1], found.shape))


def test_encodings_of_colours_hold_no_bands() -> None:
    found = problem(file(values(5, "uint16")), replace(KEEP, encoding="png"))
    assert "PNG cannot hold its bands; --encoding raw keeps them, --channels rgb takes the first three" in str(found)
    colours = prepare_image(file(values(3, "uint16")), replace(KEEP, encoding="png"))
    assert (colours.channels, colours.changes) == (3, ())


def test_floats_ask_for_options_that_hold_them() -> None:
    data = file(values(1) * 300)
    assert "--dtype float32 --encoding raw stores them as they are" in str(problem(data, KEEP))
    for normalize in ("unit", "symmetric", "imagenet"):
        found = problem(data, replace(FLOATS, normalize=normalize))
        assert f"--normalize {normalize} needs a known range; give --normalize none, dataset or per-image" in str(found)
    assert "beyond float16; give --dtype float32" in str(problem(data, replace(FLOATS, dtype="float16")))
    half = prepare_image(file(values(1)), replace(FLOATS, dtype="float16"))
    assert np.array_equal(np.frombuffer(half.data, "<f2"), values(1).astype("<f2").ravel())
    assert "infinite" in str(problem(file(np.full((4, 5, 1), np.inf, np.float32))))
    assert "infinite, or beyond float32" in str(problem(file(np.full((4, 5, 1), 1e200))))


def test_floats_are_normalized_by_their_own_mean() -> None:
    source = values(5) - 100
    own = prepare_image(file(source), replace(FLOATS, normalize="per-image"))
    found = np.frombuffer(own.data, "<f4").reshape(source.shape)
    expected = (source - source.mean((0, 1), np.float64)) / source.std((0, 1), np.float64)
    assert np.allclose(found, expected, atol=1e-5)
    everything = ChannelSums.of(source) + ChannelSums.of(source * 2)
    whole = prepare_image(file(source), replace(FLOATS, normalize="dataset"), everything)
    mean, std = everything.mean_std()
    assert np.allclose(np.frombuffer(whole.data, "<f4").reshape(source.shape), (source - mean) / std, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "nodata", "text"),
    [
        ("float32", -9999, "-9999"),
        ("float32", -3.4e38, "-3.4e+38"),
        ("float64", -1.7e308, "-1.7e308"),
        ("int16", -1, "-1"),
    ],
)
def test_pixels_without_data_are_nan(dtype: str, nodata: float, text: str) -> None:
    source = values(2, dtype)
    source[3:5, 4:9] = nodata
    found = read(file(source, extratags=[(42113, "s", 0, text, True)]), FLOATS)
    assert found.changes == ("nodata",)
    assert np.isnan(found.pixels[3:5, 4:9]).all() and np.isnan(found.pixels).sum() == 2 * 5 * 2
    missing = np.full((4, 5, 1), np.nan, np.float32)
    assert read(file(missing), FLOATS).changes == ("nodata",)


def test_integers_without_data_keep_their_number_and_are_counted() -> None:
    source = values(5, "uint16")
    source[3:5] = 7777
    found = read(file(source, extratags=[(42113, "s", 0, "7777", True)]))
    assert found.changes == ("nodata",) and np.array_equal(found.pixels, source)
    assert read(file(source, extratags=[(42113, "s", 0, "no number", True)])).changes == ()


def test_orientation_profile_pages_and_opacity_are_those_of_colours() -> None:
    source = np.asarray(numbers(3, 20, 24))
    planes: dict[str, Any] = {"planarconfig": "separate", "photometric": "rgb"}
    turned = read(file(source, **planes, extratags=[(274, "H", 1, 6, True)]))
    assert turned.stored == (24, 20) and np.array_equal(turned.pixels, np.rot90(source, -1))
    wide = read(file(source, **planes, iccprofile=profile(primaries=DISPLAY_P3)))
    assert wide.changes == ("profile", "depth")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(values(5), **GREY, planarconfig="contig")
        writer.write(values(5), **GREY, planarconfig="contig")
    assert read(buffer.getvalue(), FLOATS).changes == ("pages",)
    opaque = np.dstack([source // 2, np.full((20, 24), 65_535 // 2, np.uint16)])
    found = read(file(opaque, **planes, extrasamples=["assocalpha"]))
    assert not found.bands
    assert np.abs(found.pixels[..., :3].astype(int) - source).max() <= 3


# Untrusted files


def crafted(width: int, height: int, *, tile: tuple[int, int] | None = None, offsets: int = 1, bands: int = 5) -> bytes:
    """A TIFF of floats that claims a size, with no pixel in it."""
    parts = [8 + 2 + 12 * 14 + 4, 0]
    parts[1] = parts[0] + 4 * offsets
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 32), (259, 3, 1, 8), (262, 3, 1, 1)]
    entries += [(277, 3, 1, bands), (284, 3, 1, 1), (339, 3, 1, 3)]
    if tile:
        entries += [(322, 4, 1, tile[0]), (323, 4, 1, tile[1])]
    places, counts = (324, 325) if tile else (273, 279)
    entries += [
        (places, 4, offsets, parts[0] if offsets > 1 else 8),
        (counts, 4, offsets, parts[1] if offsets > 1 else 9),
    ]
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)
    return head.ljust(parts[0], b"\0") + struct.pack("<I", 8) * offsets + struct.pack("<I", 9) * offsets


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(crafted(1 << 20, 1 << 20), "too-large", id="size"),
        pytest.param(crafted(16_000, 10_000, bands=16), "too-large", id="bytes"),
        pytest.param(crafted(64, 64, tile=(1 << 16, 1 << 16)), "too-large", id="tile"),
        pytest.param(crafted(8000, 8000, tile=(8192, 8192), offsets=2000), "too-much-work", id="tiles"),
        pytest.param(crafted(64, 64, bands=400), "unsupported-mode", id="bands"),
        pytest.param(crafted(0, 64), "damaged", id="no pixel"),
        pytest.param(crafted(64, 64), "damaged", id="no data"),
    ],
)
def test_claims_are_checked_before_memory_is_taken(data: bytes, reason: str) -> None:
    assert problem(data).reason == reason


def test_a_strip_that_unpacks_to_more_than_its_size_is_damaged() -> None:
    import zlib

    data = bytearray(file(values(5), compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as written:
        page = written.pages.first
        where = page.tags[279].valueoffset
    bomb = zlib.compress(bytes(64 << 20))
    struct.pack_into("<I", data, page.tags[273].valueoffset, len(data))
    struct.pack_into("<I", data, where, len(bomb))
    assert problem(bytes(data) + bomb).reason == "damaged"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"compression": "zstd", "tile": (16, 16)}], ids=str)
def test_a_file_that_is_cut_off_is_damaged(options: dict[str, Any], share: float) -> None:
    data = file(values(5), **options)
    assert problem(data[: int(len(data) * share)]).reason in ("damaged", "unsupported-mode")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    found = problem(file(values(5)))
    assert found.reason == "missing-package"
    assert "5 bands: such images need tifffile: pip install 'image-shards[tiff]'" in str(found)


# Arithmetic


def test_bands_are_resampled_alone() -> None:
    for dtype in ("uint8", "uint16"):
        source = values(4, dtype, 40, 60)
        source[..., 3] = 0  # to which colours with an opacity of 0 would be lost
        found = resampled(source, (1.5, 2, 50, 30), (13, 9), "lanczos", bands=True)
        for band in range(4):
            alone = resampled(np.ascontiguousarray(source[..., band : band + 1]), (1.5, 2, 50, 30), (13, 9), "lanczos")
            assert np.array_equal(found[..., band : band + 1], alone)


@pytest.mark.parametrize("filter", ["lanczos", "bicubic", "bilinear", "area", "nearest"])
def test_floats_are_resampled_as_floats(filter: str) -> None:
    eight = np.random.default_rng(0).integers(0, 256, (40, 60, 1), np.uint8)
    expected = resampled(eight, (0, 0, 60, 40), (15, 10), filter)
    found = resampled(eight.astype(np.float32), (0, 0, 60, 40), (15, 10), filter)
    assert np.abs(found.clip(0, 255) - expected).max() <= 1.5
    small = resampled(eight.astype(np.float32) / 1e6 - 5e-5, (0, 0, 60, 40), (15, 10), filter)
    assert np.allclose(small, found / 1e6 - 5e-5, atol=1e-9)
    hole = np.ones((40, 60, 1), np.float32)
    hole[20, 30] = np.nan
    seen = resampled(hole, (0, 0, 60, 40), (15, 10), filter)
    assert np.isnan(seen).sum() <= 49 and np.allclose(seen[~np.isnan(seen)], 1)


def test_a_border_of_bands_is_grey() -> None:
    options = replace(KEEP, fit="pad", width=30, height=30, pad_color=(255, 255, 255))
    found = np.frombuffer(prepare_image(file(values(5, "uint16")), options).data, "<u2").reshape(30, 30, 5)
    assert (found[0] == 65_535).all() and found[15].max() < 65_535


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 4), st.just(2)), elements=finite))
def test_sums_of_floats_are_exact(pixels: NDArray[np.float32]) -> None:
    sums = ChannelSums.of(pixels)
    for channel in range(2):
        exact = [Fraction(float(value)) for value in pixels[..., channel].ravel()]
        assert Fraction(sums.total[channel], 1 << 176) == sum(exact)
        assert Fraction(sums.squares[channel], 1 << 352) == sum(value * value for value in exact)
    first, second = ChannelSums.of(pixels[:1]), ChannelSums.of(pixels[1:]) if len(pixels) > 1 else ChannelSums()
    assert first + second == second + first == sums


def test_sums_leave_out_pixels_without_data_and_tell_floats_from_integers() -> None:
    source = values(2)
    source[0, 0, 1] = np.nan
    sums = ChannelSums.of(source)
    assert sums.pixels == 20 * 24 - 1
    mean, std = sums.mean_std()
    rest = source.reshape(-1, 2)[1:].astype(np.float64)
    assert np.allclose(mean, rest.mean(0)) and np.allclose(std, rest.std(0))
    assert ChannelSums.of(np.full((2, 2, 1), np.nan, np.float32)) == ChannelSums()
    assert (sums + ChannelSums.of(values(2, "uint8"))).mixed


def test_bands_can_be_looked_at() -> None:
    assert viewable(values(7, "uint16"), bands=True).shape == (20, 24, 3)
    assert viewable(values(2, "uint8"), bands=True).shape == (20, 24, 1)
    shown = viewable(np.array([[[-3.0], [np.nan], [5.0]]], np.float32), bands=False)
    assert (shown.dtype, shown.ravel().tolist()) == (np.uint8, [0, 0, 255])
    assert not viewable(np.full((2, 2, 1), np.nan, np.float32), bands=False).any()
    assert viewable(np.array([[[-3e38], [3e38]]], np.float32), bands=False).ravel().tolist() == [0, 255]


# Datasets


def test_a_dataset_of_bands_goes_to_batches(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / "in" / "ab"[number % 2] / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file(np.random.default_rng(number).random((20, 24, 6), np.float32) - 7))
    words = ("--fit", "none", "--channels", "keep", "--dtype", "float32", "--workers", 1)
    output = prepared(tmp_path / "in", tmp_path / "out", *words, "--format", "tfrecord", "--format", "hdf5")
    for format in ("tfrecord", "hdf5"):
        data = open_dataset(output, "train", format=format)
        for record in data:
            name = record["id"]
            assert np.array_equal(record["image"], tifffile.imread(tmp_path / "in" / name))
        for image, shape in ((None, (6, 20, 24, 6)), (Resize(8), (6, 8, 8, 6)), (RandomResizedCrop(8), (6, 8, 8, 6))):
            batch = next(iter(data.stream(batch_size=6, seed=1, image=image)))["image"]
            assert (batch.dtype, batch.shape) == (np.float32, shape)
            assert batch.min() >= -7 and batch.max() < -6
        assert np.allclose(normalization(data).mean.numpy().ravel(), -6.5, atol=0.1)
    assert command("verify", output, "--decode", "--workers", 1).stdout.startswith(f"{output}: whole; ")
    shown = command("inspect", output).stdout
    assert "float32 [20, 24, 6], raw" in shown and "as they are" in shown
    assert command("report", output, "--output", tmp_path / "report.html").returncode == 0


def test_photos_are_the_same_in_every_container() -> None:
    cv2 = pytest.importorskip("cv2")
    for path in sorted(shared("photos").rglob("*.jpg"))[:4]:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((90, 60)))
        deep = pixels.astype(np.uint16) * 257
        planes = file(pixels, photometric="rgb", planarconfig="separate", compression="lzw")
        png = bytes(cv2.imencode(".png", deep[..., ::-1])[1])
        options = {"fit": "crop", "width": 32, "height": 32}
        expected = raw_pixels(pixels, **options)
        assert np.array_equal(raw_pixels(planes, **options), expected)
        same = raw_pixels(deep, dtype="uint16", **options)
        for data in (png, file(deep, photometric="rgb", planarconfig="separate", tile=(16, 16))):
            assert np.array_equal(raw_pixels(data, dtype="uint16", **options), same)
