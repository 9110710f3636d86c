"""Streams that decode a part of each image, or fewer of its pixels: the images of whole ones, or images near them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.crafted import crafted_dataset, fields_of

from shard_reader import CenterCrop, CorruptionError, Draws, Flip, RandomResizedCrop, Resize, mix, open_dataset
from shard_reader.format.image_codecs import jpeg_cut
from shard_reader.format.image_codecs.jpeg import Jpeg
from shard_reader.order.shuffle import key
from shard_reader.transforms.compose import compose

SIZES = [(240, 320), (320, 240), (256, 256), (300, 272), (250, 411)]
CROPS = [
    [CenterCrop(64)],
    [RandomResizedCrop(48, exact=True), Flip()],
    [RandomResizedCrop(96, (0.1, 0.5)), Flip()],
    [Resize((64, 80), exact=True)],
]


def photo(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Colours of many sizes, as in a photo: noise, most of it coarse."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), np.float32)
    for cells in (3, 9, 27, 81):
        coarse = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        pixels += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * (120 / cells**0.5)
    return (pixels + 128).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["auto", "row", "none"])
def markers(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def shards(markers: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 photos with restart markers."""
    images = []
    for number in range(20):
        height, width = SIZES[number % len(SIZES)]
        images.append((Jpeg().encode(photo(height, width, number), None, markers), height, width))  # type: ignore[arg-type]
    return crafted_dataset(tmp_path_factory.mktemp(markers) / "shards", images, fields_of("jpeg"))


@pytest.fixture
def cuts() -> Iterator[list[Any]]:
    """All cuts that are made."""
    made: list[Any] = []
    joined = jpeg_cut._joined
    with patch.object(jpeg_cut, "_joined", lambda *given: made.append(given) or joined(*given)):
        yield made


def read(path: Path, image: Any, **options: Any) -> list[NDArray[Any]]:
    with open_dataset(path).stream(batch_size=4, seed=5, image=image, **options) as stream:
        return [batch["image"] for _ in range(2) for batch in stream]


def from_whole_images(path: Path, image: Any) -> list[NDArray[Any]]:
    """The images of two epochs, each decoded as a whole."""
    data, chain = open_dataset(path), compose(image)
    order, found = data.stream(batch_size=4, seed=5, image=image).order, []
    for epoch in range(2):
        positions = np.arange(20)
        for position, record in zip(positions, order.record_order.at(epoch, positions), strict=True):
            draws = Draws(key(5, epoch, "draws"), int(position))
            found.append(chain(data.image(int(record)), draws).copy())
    return found


@pytest.mark.parametrize("image", CROPS, ids=repr)
def test_a_stream_gives_what_whole_images_give(shards: Path, markers: str, image: Any, cuts: list[Any]) -> None:
    expected = from_whole_images(shards, image)
    assert not cuts
    assert np.array_equal(np.concatenate(read(shards, image)), np.stack(expected))
    assert bool(cuts) == (markers != "none" and not isinstance(image[0], Resize))


@pytest.mark.parametrize("image", [*CROPS, [Resize(24)], [RandomResizedCrop(24), Flip()]], ids=repr)
def test_threads_ranks_and_a_resume_change_nothing(shards: Path, image: Any) -> None:
    once = read(shards, image, threads=1)
    for options in ({"threads": 5}, {"prefetch": 5}, {"verify": "never"}, {"verify": "always"}):
        again = read(shards, image, **options)
        assert all(np.array_equal(one, other) for one, other in zip(once, again, strict=True)), options
    ranks = [read(shards, image, rank=rank, world_size=2) for rank in range(2)]
    both = [np.stack([first, second], 1).reshape(once[0].shape) for first, second in zip(*ranks, strict=True)]
    whole = [sorted(image.tobytes() for image in batch) for batch in once]
    assert [sorted(image.tobytes() for image in batch) for batch in both] == whole
    stream = open_dataset(shards).stream(batch_size=4, seed=5, image=image)
    next(loop := iter(stream))
    resumed = open_dataset(shards).stream(batch_size=4, seed=5, image=image)
    resumed.load_state_dict(stream.state_dict())
    assert [batch["image"].tobytes() for batch in resumed] == [batch.tobytes() for batch in once[1:5]]
    del loop


def psnr(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.parametrize("image", [Resize, RandomResizedCrop])
@pytest.mark.parametrize("size", [10, 16, 28, (20, 30)])
def test_images_from_fewer_pixels_are_near_to_the_exact_ones(shards: Path, image: Any, size: Any) -> None:
    pairs = zip(np.concatenate(read(shards, image(size))), from_whole_images(shards, image(size)), strict=True)
    found = [psnr(*pair) for pair in pairs if not np.array_equal(*pair)]
    assert len(found) > 10 and np.median(found) > 40 and min(found) > 30


def test_the_exact_images_are_others(shards: Path) -> None:
    assert not np.array_equal(read(shards, Resize(24))[0], read(shards, Resize(24, exact=True))[0])
    assert np.array_equal(read(shards, Resize(80))[0], read(shards, Resize(80, exact=True))[0])


def test_a_mixture_decodes_parts(shards: Path) -> None:
    data = open_dataset(shards)
    one, other = (
        [batch["image"] for batch in mix([data, data.select([1, 2])], [1, 1]).stream(batch_size=4, seed=1, image=image)]
        for image in (CenterCrop(64), lambda image: CenterCrop(64)(image))
    )
    assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def test_the_checksum_is_that_of_the_whole_payload(shards: Path, tmp_path: Path, markers: str) -> None:
    """A byte far from the crop is found; without checksums it is not decoded."""
    path = tmp_path / "shards"
    height, width = 256, 256
    payload = bytearray(Jpeg().encode(photo(height, width, 1), None, markers))  # type: ignore[arg-type]
    crafted_dataset(path, [(bytes(payload), height, width)], fields_of("jpeg"))
    sound = read(path, CenterCrop(64))[0]
    (shard,) = path.glob("*.tfrecord")
    data = bytearray(shard.read_bytes())
    place = data.index(payload) + payload.index(b"\xff\xda") + 30  # in the first row
    data[place] ^= 0x40 if data[place] != 0xFF else 0
    shard.write_bytes(data)
    for verify in ("always", "first-epoch"):
        with pytest.raises(CorruptionError, match="CRC mismatch"):
            read(path, CenterCrop(64), verify=verify)
    skipped = open_dataset(path).stream(batch_size=1, image=CenterCrop(64), on_error="skip")
    assert [batch["weight"].tolist() for batch in skipped] == [[0.0]]
    if markers != "none":
        assert np.array_equal(read(path, CenterCrop(64), verify="never")[0], sound)


class Broken(RandomResizedCrop):
    """A subclass whose part cannot be said."""

    def box(self, height: int, width: int, draws: Draws) -> tuple[int, int, int, int]:
        raise ValueError("is of no use")


def test_an_error_about_a_part_is_one_of_the_transform(shards: Path) -> None:
    with pytest.raises(ValueError, match=r"row \d+, id '.*': the image is of no use"):
        read(shards, Broken(8), on_error="skip")
