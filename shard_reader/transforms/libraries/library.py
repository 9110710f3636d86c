"""A transform of another library, between the arrays and the draws of a stream."""

from __future__ import annotations

import contextlib
import functools
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.base import Transform, qualified_name
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.libraries.generators import seeded
from shard_reader.transforms.libraries.pixels import as_array

__all__ = ["JointRecord", "LibraryTransform", "described"]

Image = NDArray[Any]


@dataclass(frozen=True, slots=True)
class JointRecord:
    """An image, and all that moves with it.

    Attributes:
        image: `[height, width, channels]`.
        photos: further images, `[height, width, channels]` each.
        masks: masks and depth maps, `[height, width]` each, whose values are not mixed.
        boxes: float64 `[n, 4]`: x and y of the first and of the last corner, in pixels; None without a field of boxes.
        rows: int64 `[n]`: the number of each box, since boxes may be dropped.
        points: float64 `[k, 2]`: x, y in pixels, where 0 is the edge of the image and 0.5 the centre of its first
            pixel; None without a field of points. None of them is dropped.
    """

    image: Image
    photos: dict[str, Image]
    masks: dict[str, Image]
    boxes: NDArray[np.float64] | None
    rows: NDArray[np.int64]
    points: NDArray[np.float64] | None


class LibraryTransform(Transform):
    """A transform of another library, as it is.

    Args:
        original: the object.
        is_random: whether it may draw.
        draws_globally: whether it draws from generators of the process. Those are seeded for each call.
        keeps_image: whether it may use an image after the call.

    Attributes:
        library: its name.
        joins: whether one call takes the masks, boxes and keypoints of a record together with its image.
        is_function: whether it runs code of the user alone, so that nobody knows for sure whether that draws.
    """

    library: ClassVar[str]
    joins: ClassVar[bool] = False
    is_function: ClassVar[bool] = False

    def __init__(self, original: Any, *, is_random: bool, draws_globally: bool, keeps_image: bool) -> None:
        self.original, self.draws_globally = original, draws_globally
        # One class has random and other objects.
        self.is_random, self.keeps_image = is_random, keeps_image  # type: ignore[misc]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.original,)

    def __call__(self, image: Image, draws: Draws | None = None, out: Image | None = None) -> Image:
        """The result, `[height, width, channels]`, of the dtype that the library gives."""
        with self.seeding(draws):
            return as_array(self.called(image, draws))

    def seeding(self, draws: Draws | None) -> contextlib.AbstractContextManager[None]:
        """The generators of the process, seeded where it draws from them."""
        return seeded(draws) if self.draws_globally and draws is not None else contextlib.nullcontext()

    def check_joined(self, boxes: str | None, points: str | None) -> None:
        """Check that one call can take fields of these names together with the image.

        Raises:
            ValueError: it cannot, as it is declared.
        """

    @property
    def takes_points(self) -> bool:
        """Whether a call can take points."""
        return self.joins

    def joined(self, record: JointRecord, draws: Draws | None) -> JointRecord:
        """All of a record after one call.

        Raises:
            ValueError: the library gives something else. The message continues "the image".
        """
        raise NotImplementedError(f"{self!r} takes images alone")

    def of_masks(self) -> Transform:
        """This transform for masks and depth maps, whose values are not mixed.

        Raises:
            ValueError: the library has none.
        """
        if self.is_function:
            return self
        raise ValueError(
            f"{self!r} may mix the values of a mask: take torchvision.transforms.v2, Albumentations or transforms of"
            " shard_reader for it"
        )

    @abstractmethod
    def called(self, image: Image, draws: Draws | None) -> Any:
        """What the library gives for an image."""

    def __repr__(self) -> str:
        return described(self.original)


def described(value: Any) -> str:
    """One line about an object, the same in every process."""
    if isinstance(value, functools.partial):
        settings = [*map(repr, value.args), *(f"{name}={one!r}" for name, one in value.keywords.items())]
        return f"partial({', '.join([described(value.func), *settings])})"
    if hasattr(value, "__qualname__"):
        return qualified_name(value)
    # A callable object. The default `repr` has its address, which is another one in each process.
    has_words = getattr(type(value), "__repr__", None) is not object.__repr__
    return " ".join(repr(value).split()) if has_words else qualified_name(type(value))
