"""The choice of records, the measures of their pixels, and the charts."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from beam_jobs.report.charts import histogram, parts
from beam_jobs.report.reading.choice import Lowest, LowestOfEach, Place, mixed
from beam_jobs.report.reading.pictures import measure, picture_of, picture_of_jpeg
from shard_reader.dataset.shown.shown_pixels import shown_pixels


@pytest.mark.parametrize("most", [1, 7, 5000])
@pytest.mark.parametrize("values", [3, 100_000])
def test_the_lowest_are_those_of_a_sorted_list(most: int, values: int) -> None:
    rng = np.random.default_rng(most)
    lowest, every = Lowest(most), []
    for split in range(3):
        for start in range(0, 1000, 250):
            keys, numbers = rng.integers(0, values, 250).astype(float), np.arange(start, start + 250)
            keys[rng.random(250) < 0.1] = rng.choice([np.inf, np.nan])
            lowest.add(keys, split, numbers)
            hashes = mixed(split, numbers).tolist()
            every += [(*pair, Place(split, n)) for *pair, n in zip(keys, hashes, numbers.tolist(), strict=True)]
    wanted = sorted(one for one in every if np.isfinite(one[0]))[:most]
    assert lowest.places() == [place for _, _, place in wanted]


def test_the_lowest_of_each_are_those_of_a_sorted_list() -> None:
    rng = np.random.default_rng(0)
    wanted: dict[int, list[tuple[int, Place]]] = {2: [], 5: [], 9: [], 11: []}
    each = LowestOfEach(np.array([9, 2, 11, 5]), 3)
    for start in range(0, 2000, 100):
        labels, numbers = rng.integers(-1, 11, 100), np.arange(start, start + 100)
        each.add(labels, 1, numbers)
        for label, hash, number in zip(labels.tolist(), mixed(1, numbers).tolist(), numbers.tolist(), strict=True):
            if label in wanted:
                wanted[label].append((hash, Place(1, number)))
    assert each.places() == {label: [place for _, place in sorted(some)[:3]] for label, some in wanted.items()}


def test_the_choice_is_pinned() -> None:
    """Another choice gives other pictures for the same dataset."""
    assert [int(value) for value in mixed(1, np.array([0, 1, 1 << 40]))] == PINNED


PINNED = [5475725194112695399, 12083855183691838255, 3703024288793039116]


def test_measures_of_a_picture() -> None:
    flat = np.full((8, 8, 3), 51, np.uint8)
    found = measure(flat)
    assert (found.brightness, found.contrast, found.sharpness) == (pytest.approx(0.2), pytest.approx(0, abs=1e-6), 0)
    checker = np.indices((8, 8)).sum(0)[..., None].astype(np.uint8) % 2 * 255
    found = measure(checker)
    assert (found.brightness, found.contrast) == (0.5, 0.5)
    assert found.sharpness == pytest.approx((4 * 255) ** 2)  # the Laplacian is 4 * 255 or its negative
    assert measure(np.zeros((1, 2, 3), np.uint8)).sharpness == 0


@pytest.mark.parametrize(
    ("pixels", "shown", "note"),
    [
        (np.array([[[1, 2, 3]]], np.uint8), [1, 2, 3], ""),
        (np.array([[[1, 200]]], np.uint8), [1], ""),
        (np.array([[[256, 65_535, 0]]], np.uint16), [1, 255, 0], "16 bits shown as 8"),
        (np.array([[[100, 4000, 4095]]], np.uint16), [0, 249, 255], "100.00 to 4095.00 shown as 0 to 255"),
        (np.array([[[0.0, 0.5, 1.0]]], np.float32), [0, 128, 255], "0 to 1 shown as 0 to 255"),
        (np.array([[[-2.0, 0.0, 2.0]]], np.float16), [0, 128, 255], "-2.00 to 2.00 shown as 0 to 255"),
        (np.array([[[np.nan, np.inf, -1.0]]], np.float32), [255, 255, 0], "-1.00 to 0.00 shown as 0 to 255"),
        (np.array([[[5.0, 5.0, 5.0]]], np.float32), [0, 0, 0], "one value, shown as black"),
        (np.array([[[-3e38, 3e38, 0.0]]], np.float32), [0, 255, 128], None),
    ],
)
def test_values_of_every_dtype_are_shown(pixels: np.ndarray, shown: list[int], note: str | None) -> None:
    found, said = shown_pixels(pixels)
    assert (found.dtype, found.ravel().tolist()) == (np.uint8, shown)
    assert note is None or said == note


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("size", "shown"), [((300, 600), (84, 168)), ((32, 32), (32, 32)), ((1, 5000), (1, 168))])
def test_a_picture_is_small(channels: int, size: tuple[int, int], shown: tuple[int, int]) -> None:
    found = picture_of(np.zeros((*size, channels), np.uint8))
    assert (found.height, found.width) == shown
    with Image.open(io.BytesIO(base64.b64decode(found.uri.partition(",")[2]))) as image:
        assert (image.format, image.height, image.width) == ("WEBP", *shown)


def jpeg(width: int, height: int, format: str = "JPEG") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "text", ["", "?", "AAAA", jpeg(9, 9, "PNG"), jpeg(9, 9)[:-40] + "AAAA", jpeg(3000, 3000)],
    ids=["empty", "no-base64", "no-image", "png", "cut-off", "large"],
)  # fmt: skip
def test_a_thumbnail_that_is_none_is_left_out(text: str) -> None:
    assert picture_of_jpeg(text) is None


def test_a_thumbnail_is_drawn_again() -> None:
    found = picture_of_jpeg(jpeg(400, 200))
    assert found is not None
    assert (found.uri[:23], found.width, found.height) == ("data:image/webp;base64,", 168, 84)


@pytest.mark.parametrize("log", [False, True])
def test_a_histogram_has_every_value(log: bool) -> None:
    values = np.random.default_rng(0).lognormal(3, 2, 5000)
    found = histogram("Sizes", values, log=log)
    assert found is not None
    assert sum(int(bar.text.rpartition(": ")[2].replace(",", "")) for bar in found.bars) == 5000
    assert all(0 <= bar.x < 320 and 0 <= bar.y <= 88 and bar.y + bar.height == pytest.approx(88, abs=0.02)
               for bar in found.bars)  # fmt: skip


def test_histograms_of_few_values() -> None:
    assert histogram("Sizes", np.array([])) is None
    same = histogram("Sizes", np.array([7, 7]), log=True)
    assert same is not None
    assert (same.text, same.bars) == ("all 7", ())
    assert histogram("Sizes", np.array([0, 0, 5]), log=True) is not None
    nearly = histogram("Contrast", np.array([0.2, np.nextafter(0.2, 1)]))
    assert nearly is not None and (nearly.text, nearly.bars) == ("all 0.2", ())


def test_parts_of_a_bar() -> None:
    assert parts([1, 0, 2], 4) == ((0, 25), (25, 0), (25, 50))
    assert parts([], 0) == ()
