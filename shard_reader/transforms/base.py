"""The interface of a transform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from numpy.typing import NDArray

from shard_reader.transforms.draws import Draws

__all__ = ["Shape", "Transform", "qualified_name"]

Image = NDArray[Any]
Shape = tuple[int | None, ...]


class Transform(ABC):
    """A change of an image. Subclass it for an augmentation of your own, which has draws:

    ```
    @dataclass(frozen=True)
    class Brightness(Transform):
        strength: float = 0.2
        in_place = True  # it keeps shape and dtype, and does not mind
        keeps_image = False  # its result is an array of its own

        def __call__(self, image, draws, out=None):
            return np.clip(image * draws.uniform(1 - self.strength, 1 + self.strength), 0, 255).astype(image.dtype)
    ```

    Its `repr` shows all that matters, the same in every process, as that of a dataclass does. A stream's saved position
    does not have it: whoever goes on with another augmentation has decided so.
    """

    __slots__ = ()

    is_random: ClassVar[bool] = True
    """Whether it uses its draws. Where it does not, it may be given None."""

    in_place: ClassVar[bool] = False
    """Whether it keeps shape and dtype and can be called with an `out` that is `image` itself."""

    keeps_image: ClassVar[bool] = True
    """Whether the image that it is given, or a view of it, may be in use after its result is in the batch: it remembers
    images, or passes them on. Each image is then decoded into memory of its own. False: that memory takes the next
    image, which is faster. A subclass that has a `__call__` of its own says so itself, or it counts as True."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__call__" in vars(cls) and "keeps_image" not in vars(cls):
            cls.keeps_image = True  # what the class above says of its own `__call__` need not hold for this one

    @abstractmethod
    def __call__(self, image: Image, draws: Draws, out: Image | None = None) -> Image:
        """The new image.

        Args:
            image: `[height, width, channels]`, of any size, maybe a read-only view, not to be changed but as `out`.
            draws: the numbers that decide what it does: the same image and numbers must give the same result.
            out: an array of the result's shape and dtype, C-contiguous. It may write its result there and return
                it, which saves a copy; it need not. Never overlaps `image`, but where `in_place` says that it
                may be `image`.

        Raises:
            ValueError: this image cannot be transformed. The message goes on after "the image".
        """

    def output_shape(self, shape: Shape) -> Shape | None:
        """The shape of its result for images of `shape`, where None is a side that differs between images.

        None, the default but for `in_place`, says that only calling it tells.
        """
        return shape if self.in_place else None

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in getattr(self, "__dict__", {}).items())
        return f"{qualified_name(type(self))}({settings})"


def qualified_name(value: Any) -> str:
    """Its name and that of its module: the same in every process."""
    return f"{value.__module__}.{value.__qualname__}" if value.__module__ else str(value.__qualname__)
