"""The interface of a transform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from numpy.typing import NDArray

from shard_reader.transforms.draws import Draws
from shard_reader.transforms.moves.move import Move
from shard_reader.transforms.part import Part

__all__ = ["PartTransform", "Shape", "Transform", "moves_of", "qualified_name"]

Image = NDArray[Any]
Shape = tuple[int | None, ...]


class Transform(ABC):
    """A change of an image. Subclass it for a custom augmentation with random draws, here for images of uint8:

    ```
    @dataclass(frozen=True)
    class Brightness(Transform):
        strength: float = 0.2
        in_place = True  # shape and dtype stay, and `out` may be `image`
        keeps_image = False  # its result is an array of its own
        keeps_places = True  # masks, boxes and keypoints stay as they are

        def __call__(self, image, draws, out=None):
            return np.clip(image * draws.uniform(1 - self.strength, 1 + self.strength), 0, 255).astype(image.dtype)
    ```

    The `repr` must show all settings, and be the same in every process, as that of a dataclass is. It is not part of a
    stream's saved position: a training may continue with another augmentation.
    """

    __slots__ = ()

    is_random: ClassVar[bool] = True
    """Whether it uses its draws. If not, they may be None."""

    in_place: ClassVar[bool] = False
    """Whether it keeps shape and dtype, and can be called with an `out` that is `image` itself."""

    keeps_image: ClassVar[bool] = True
    """Whether the input image, or a view of it, may be in use after the result is in the batch: the transform stores
    images, or passes them on. Each image is then decoded into memory of its own. False lets the next image take the
    same memory, which is faster. A subclass with a `__call__` of its own states it again, or counts as True."""

    keeps_places: ClassVar[bool] = False
    """Whether every pixel stays in its place, as when colours change: masks, boxes and keypoints then stay as they are.
    A transform that moves pixels has a method `move` instead. A stream with masks, boxes or keypoints takes no
    transform with neither. A subclass with a `__call__` of its own states either again."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A subclass of a transform may keep images in its `__call__` though its base class does not: a wrong True costs
        # memory, a wrong False would change images that are in use.
        if vars(cls).keys() & {"__call__", "of_part"} and "keeps_image" not in vars(cls):
            cls.keeps_image = True
        # For the same reason: boxes that follow another geometry than the pixels would be wrong without a word.
        if vars(cls).keys() & {"__call__", "of_part", "part"}:
            if "keeps_places" not in vars(cls):
                cls.keeps_places = False
            if "move" not in vars(cls):
                cls.move = Transform.move  # type: ignore[method-assign]

    @abstractmethod
    def __call__(self, image: Image, draws: Draws, out: Image | None = None) -> Image:
        """The new image.

        Args:
            image: `[height, width, channels]`, of any size, with 1 (grey), 3 (RGB) or 4 (RGB and opacity) channels, of
                uint8, uint16, float16 or float32, maybe a read-only view or of the other byte order. Integers fill
                their range; floats are as they were prepared: 0 to 255, or 0 to 1 with `--normalize unit`. It must not
                be changed, unless it is `out`.
            draws: random numbers. The same image and numbers must give the same result.
            out: an array of the result's shape and dtype, C-contiguous. To write the result there and return it is
                optional, and saves a copy. It does not overlap `image`, but may be `image` if `in_place` is set.

        Raises:
            ValueError: this image cannot be transformed. The message continues "the image".
        """

    def output_shape(self, shape: Shape) -> Shape | None:
        """The shape of the result for images of `shape`, with None for a side that differs between images.

        None, the default unless `in_place` is set, means that only a call shows the shape.
        """
        return shape if self.in_place else None

    def move(self, height: int, width: int, draws: Draws) -> Move | list[Move]:
        """The geometry of a call on an image of this size, for masks, boxes and keypoints to follow.

        Several moves, each on the result of the one before, are a list.

        It must use as many draws as the call, in the same order: then it finds the same numbers. A transform that keeps
        places needs none, unless it draws and stands before a random one that moves pixels. Others have an
        `output_shape`, too.

        Raises:
            ValueError: this image cannot be transformed. The message continues "the image".
            NotImplementedError: the transform does not say how it moves pixels.
        """
        if self.keeps_places:
            return Move.whole(height, width)
        raise NotImplementedError(f"{self!r} has no method move")

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in getattr(self, "__dict__", {}).items())
        return f"{qualified_name(type(self))}({settings})"


class PartTransform(Transform):
    """A transform that uses one part of an image, by its size and the draws: a decoder may give that alone."""

    __slots__ = ()

    keeps_image = False

    @abstractmethod
    def part(self, height: int, width: int, draws: Draws) -> Part:
        """The part of an image of this size."""

    @abstractmethod
    def of_part(self, image: Image, out: Image | None = None) -> Image:
        """The result for the pixels of the part, which may have been decoded at its scale. `out` is as on a call.

        Raises:
            ValueError: this image cannot be transformed. The message continues "the image".
        """

    def __call__(self, image: Image, draws: Draws | None = None, out: Image | None = None) -> Image:
        """The result of `of_part` for the part of an image, `[h, w, channels]`, of the same dtype."""
        part = self.part(image.shape[0], image.shape[1], draws)  # type: ignore[arg-type]  # where it is not random
        return self.of_part(image[part.rows, part.columns], out)


def moves_of(step: Transform, height: int, width: int, draws: Draws | None) -> list[Move]:
    """The moves of a call on an image of this size, in a list. Raises as `Transform.move`."""
    found = step.move(height, width, draws)  # type: ignore[arg-type]  # where it is not random
    return found if isinstance(found, list) else [found]


def qualified_name(value: Any) -> str:
    """The name of a class or a function, with its module: the same in every process."""
    return f"{value.__module__}.{value.__qualname__}" if value.__module__ else str(value.__qualname__)
