"""The interface of an augmentation: its parameters are drawn, and then applied."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from shard_reader.transforms.base import Image, Transform
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.moves.move import Move

__all__ = ["Augmentation"]


class Augmentation(Transform):
    """A transform whose parameters follow from the size of an image and the draws alone.

    It keeps shape and dtype, and every pixel in its place; those that move pixels say otherwise.
    """

    __slots__ = ()

    in_place = True
    keeps_image = False
    keeps_places = True

    @abstractmethod
    def parameters(self, height: int, width: int, draws: Draws) -> Any:
        """The next parameters for an image of this size, for `apply`."""

    @abstractmethod
    def apply(self, image: Image, parameters: Any, out: Image | None = None) -> Image:
        """The result for an image and its parameters; `image` itself, where nothing changes.

        Args:
            image: `[height, width, channels]`. It is not changed, unless it is `out`.
            parameters: as `parameters` gives them.
            out: an array of the result's shape and dtype for the result, C-contiguous. It may be `image`.

        Raises:
            ValueError: this image cannot be transformed. The message continues "the image".
        """

    def __call__(self, image: Image, draws: Draws, out: Image | None = None) -> Image:
        """The result for an image `[height, width, channels]` and the next parameters."""
        return self.apply(image, self.parameters(image.shape[0], image.shape[1], draws), out)

    def move(self, height: int, width: int, draws: Draws) -> Move | list[Move]:
        """No move. It draws as many numbers as a call, so that random moves may come after it."""
        self.parameters(height, width, draws)
        return Move.whole(height, width)
