"""Parts: what a transform uses of an image, and that the part alone gives what the whole image gives."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shard_reader import CenterCrop, Draws, Flip, RandomResizedCrop, Resize, Transform
from shard_reader.transforms.compose import compose
from shard_reader.transforms.part import Part, scale_for

EVERY = [
    CenterCrop((21, 33)),
    Resize(17),
    Resize((9, 80), "bilinear"),
    RandomResizedCrop((24, 32)),
    RandomResizedCrop(9),
]


def picture(height: int = 40, width: int = 50) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "shape", "scale"),
    [
        (448, 448, (224, 224), 1),
        (895, 2000, (224, 224), 1),
        (896, 896, (224, 224), 2),
        (896, 895, (224, 224), 1),
        (1792, 5000, (224, 224), 4),
        (3584, 3584, (224, 224), 8),
        (60_000, 60_000, (224, 224), 8),
        (100, 400, (10, 100), 2),
        (16, 16, (1, 1), 8),
        (0, 0, (1, 1), 1),
    ],
)
def test_twice_the_size_is_left(height: int, width: int, shape: tuple[int, int], scale: int) -> None:
    assert scale_for(height, width, shape) == scale


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    position=st.integers(0, 1 << 40),
)
def test_a_random_part_at_a_scale_is_of_whole_pixels(
    height: int, width: int, size: tuple[int, int], position: int
) -> None:
    crop, exact = RandomResizedCrop(size), RandomResizedCrop(size, exact=True)
    part, box = crop.part(height, width, Draws(1, position)), exact.box(height, width, Draws(1, position))
    assert part[:4] == crop.box(height, width, Draws(1, position))
    assert part.scale == scale_for(box[2], box[3], size) == scale_for(part.height, part.width, size)
    assert all(
        0 <= side - own < part.scale and own % part.scale == 0 for own, side in zip(part, box, strict=False)
    ) or (part.scale == 1 and part[:4] == box)
    assert exact.part(height, width, Draws(1, position)) == Part(*box, 1)


def test_what_reads_single_pixels_takes_them_from_the_whole_image() -> None:
    for filter in ("bilinear", "bicubic", "nearest"):
        assert Resize(10, filter).part(1000, 1000).scale == 1  # type: ignore[arg-type]
    assert Resize(10).part(1000, 1000) == Part(0, 0, 1000, 1000, 8)
    assert Resize(10, exact=True).part(1000, 1000) == Part(0, 0, 1000, 1000)
    assert CenterCrop(10).part(1000, 1000) == Part(495, 495, 10, 10)


@pytest.mark.parametrize(
    "chain", [[one, *more] for one in EVERY for more in ([], [Flip()], [Flip(), Resize(5)])], ids=repr
)
def test_the_part_alone_gives_what_the_whole_image_gives(chain: list[Transform]) -> None:
    transform, image = compose(chain), picture()
    for position in range(9):
        draws = Draws(1, position)
        part = transform.part(40, 50, draws)
        assert part is not None
        expected = transform(image, Draws(1, position))
        pixels, out = image[part.rows, part.columns].copy(), np.empty_like(expected)
        assert transform.of_part(pixels, draws, out) is out
        assert np.array_equal(out, expected)


def test_a_transform_that_is_not_the_first_has_no_part() -> None:
    image = picture()
    for chain in ([], [Flip(1), CenterCrop(9)], [np.flipud, CenterCrop(9)], [Transposed(9)]):
        transform = compose(chain)  # type: ignore[arg-type]
        assert transform.part(40, 50, Draws(1, 1)) is None
        assert np.array_equal(transform.of_part(image, Draws(1, 1)), transform(image, Draws(1, 1)))


class Transposed(CenterCrop):
    """A subclass with a call of its own, which may use the whole image."""

    def __call__(self, image: Any, draws: Draws | None = None, out: Any = None) -> Any:
        return super().__call__(image.swapaxes(0, 1), draws, out)


class Kept(CenterCrop):
    """A subclass that may keep its parts."""

    def of_part(self, image: Any, out: Any = None) -> Any:
        return super().of_part(image, out)


def test_a_subclass_counts_as_one_that_keeps_its_images() -> None:
    assert Transposed.keeps_image and Kept.keeps_image and not CenterCrop.keeps_image


def test_an_image_that_is_too_small_is_told_by_its_own_size() -> None:
    assert CenterCrop(10).part(9, 12) == Part(0, 0, 9, 12)
    with pytest.raises(ValueError, match="is 12x9, smaller than the crop of 10x10"):
        compose(CenterCrop(10)).of_part(picture(9, 12))


@pytest.mark.parametrize(
    "transform", [Resize(9), RandomResizedCrop(9, (0.5, 1)), Resize(9, "nearest", exact=True)], ids=repr
)
def test_a_pickle_has_all_settings(transform: Any) -> None:
    again = pickle.loads(pickle.dumps(transform))
    assert again == transform and repr(again) == repr(transform)


def test_a_pickle_of_an_earlier_version_is_not_exact() -> None:
    old = RandomResizedCrop.__new__(RandomResizedCrop)
    old.__setstate__([9, (0.5, 1.0), (0.75, 1.25), RandomResizedCrop(9, (0.5, 1), (0.75, 1.25))._log_ratio])
    assert old == RandomResizedCrop(9, (0.5, 1), (0.75, 1.25))
