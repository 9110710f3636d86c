"""A transform of another library, between the arrays and the draws of a stream."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.base import Transform, qualified_name
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.libraries.functions import own_generator
from shard_reader.transforms.libraries.generators import seeded
from shard_reader.transforms.libraries.pixels import as_array

__all__ = ["JointRecord", "LibraryTransform", "described", "of_batches", "warn_of_generators"]

Image = NDArray[Any]

_MOST_SHOWN = 300  # characters of a message, which may print a whole image
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


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
        code: functions and objects of the user that it calls. They may keep images.

    Attributes:
        library: the name of its package.
        joins: whether one call takes the masks, boxes and keypoints of a record together with its image.
        is_function: whether it runs code of the user alone, so that nobody knows for sure whether that draws.
    """

    library: ClassVar[str]
    joins: ClassVar[bool] = False
    is_function: ClassVar[bool] = False

    def __init__(self, original: Any, *, is_random: bool, draws_globally: bool, code: Sequence[Any]) -> None:
        self.original, self.draws_globally = original, draws_globally
        # One class has random and other objects.
        self.is_random, self.keeps_image = is_random, bool(code)  # type: ignore[misc]
        for one in code:
            warn_of_generators(one, original)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.original,)

    def __call__(self, image: Image, draws: Draws | None = None, out: Image | None = None) -> Image:
        """The result, `[height, width, channels]`, of the dtype that the library gives."""
        with self.seeding(draws):
            return as_array(self.called(image, draws))

    def seeding(self, draws: Draws | None) -> contextlib.AbstractContextManager[None]:
        """The generators of the process, seeded where it draws from them."""
        return seeded(draws) if self.draws_globally and draws is not None else contextlib.nullcontext()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Have the messages of a library, which may have many lines, continue "the image" in one."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, ValueError) and type(error).__module__.partition(".")[0] != self.library:
                raise  # a bug, or a kind of image that nobody thought of: its traceback tells more
            text = " ".join(str(error).split())
            shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
            raise ValueError(f"is refused by {type(self.original).__qualname__}: {shown}") from error

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


def warn_of_generators(code: Any, shown: Any) -> None:
    """Warn of a function or an object that keeps a random generator of its own, which nobody can seed for a record."""
    kind = own_generator(code)
    if kind is not None:
        warnings.warn(
            f"{described(shown)}: keeps a random generator of its own ({kind}), which is no part of a stream's"
            " position: its draws differ after a resume, and repeat in worker processes. Draw from random, np.random or"
            " torch, which are seeded for each record there, or from the draws of a shard_reader.Transform",
            stacklevel=2,
        )


def of_batches(value: Any) -> ValueError:
    """The error for a transform that mixes the images and labels of a batch, as MixUp does."""
    return ValueError(
        f"image={described(value)}: mixes the images and labels of a batch, and a stream has it transform one image:"
        " call it in the loop, on each batch"
    )


def described(value: Any) -> str:
    """One line about an object, the same in every process."""
    if isinstance(value, functools.partial):
        settings = [*map(repr, value.args), *(f"{name}={one!r}" for name, one in value.keywords.items())]
        return f"partial({', '.join([described(value.func), *settings])})"
    if hasattr(value, "__qualname__"):
        return qualified_name(value)
    # A callable object. The default `repr` has its address, which is another one in each process.
    has_words = getattr(type(value), "__repr__", None) is not object.__repr__
    # Some objects of Albumentations have no words, and raise.
    with contextlib.suppress(Exception):
        return _ADDRESS.sub("", " ".join(repr(value).split())) if has_words else qualified_name(type(value))
    return qualified_name(type(value))
