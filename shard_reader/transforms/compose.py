"""Several transforms as one, which writes its result where the batch wants it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.base import Shape, Transform, qualified_name
from shard_reader.transforms.draws import Draws

__all__ = ["ComposedTransform", "Transforms", "compose"]

Image = NDArray[Any]


class ComposedTransform:
    """Several transforms as one. Made by `compose`.

    Attributes:
        steps: the transforms, in order.
        is_random: whether one of them uses draws.
        keeps_image: whether one of them may use the image later.
    """

    __slots__ = ("_alone", "_into", "is_random", "keeps_image", "steps")

    def __init__(self, steps: Sequence[Transform]) -> None:
        self.steps = tuple(steps)
        self.is_random = any(step.is_random for step in self.steps)
        self.keeps_image = any(step.keeps_image for step in self.steps)
        # Which steps are given `out`: the last, and a step whose followers all work in place.
        first = max(0, len(self.steps) - 1)
        while first > 0 and self.steps[first].in_place:
            first -= 1
        self._alone: tuple[Callable[..., Image], ...] = self.steps[:first]
        self._into: tuple[Callable[..., Image], ...] = self.steps[first:]

    def __reduce__(self) -> tuple[Any, ...]:
        return compose, ([step.function if isinstance(step, _Function) else step for step in self.steps],)

    def __setstate__(self, state: tuple[None, dict[str, Any]]) -> None:
        """Only for pickles that `old_pickles.py` tells of."""
        self.__init__(state[1]["steps"])  # type: ignore[misc]

    def output_shape(self, shape: Shape) -> Shape | None:
        """The shape that images of `shape` get, None for a side that differs; None where only a call tells."""
        result: Shape | None = shape
        for step in self.steps:
            if result is not None:
                result = step.output_shape(result)
        return result

    def __call__(self, image: Image, draws: Draws | None = None, out: Image | None = None) -> Image:
        """The image that the last transform gives.

        Args:
            image: `[height, width, channels]`, left as it is unless it is `out`.
            draws: which all transforms draw from, one after the other; may be None unless `is_random`.
            out: an array for the result, C-contiguous, no part of `image`. It is what is returned then.

        Raises:
            TypeError: no draws for transforms that use them.
            ValueError: a transform cannot take the image, or the result is not of `out`'s shape and dtype. The message
                goes on after "the image".
        """
        if draws is None and self.is_random:
            raise TypeError(f"draws=None: {self!r} needs the draws of a record, as Draws(key, position)")
        for step in self._alone:
            image = step(image, draws)
        for step in self._into:
            image = step(image, draws, out)
        if out is None or image is out:
            return image
        return _put(image, out)

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.steps))}]"


Transforms = (
    Transform | Callable[[Image], Image] | ComposedTransform | Sequence[Transform | Callable[[Image], Image]] | None
)
"""What `compose` takes."""


def compose(transforms: Transforms) -> ComposedTransform:
    """One object for none, one or several transforms; a function of an image is one that has no draws.

    Raises:
        TypeError: something else.

    >>> from shard_reader import Flip, RandomResizedCrop
    >>> compose([RandomResizedCrop(224), Flip()]).output_shape((None, None, 3))
    (224, 224, 3)
    >>> compose(np.fliplr)
    [numpy.fliplr]
    """
    if isinstance(transforms, ComposedTransform):
        return transforms
    if transforms is None:
        return ComposedTransform(())
    several = transforms if isinstance(transforms, list | tuple) else (transforms,)
    return ComposedTransform([_transform(one) for one in several])


@dataclass(frozen=True, slots=True, repr=False)
class _Function(Transform):
    """A function of an image alone."""

    is_random = False

    function: Callable[[Image], Image]

    def __call__(self, image: Image, draws: Draws | None = None, out: Image | None = None) -> Image:
        return self.function(image)

    def __repr__(self) -> str:
        return _name_of(self.function)


def _transform(value: object) -> Transform:
    if isinstance(value, Transform):
        return value
    if isinstance(value, type):
        raise TypeError(f"image={value.__qualname__}: is a class, pass an instance: {value.__qualname__}(...)")
    if not callable(value):
        raise TypeError(
            f"image={value!r}: expected a transform, as CenterCrop(224), a function of an image, or a list of them"
        )
    return _Function(value)


def _name_of(function: Callable[..., Any]) -> str:
    """What says which function it is, in every process the same."""
    if isinstance(function, functools.partial):
        settings = [*map(repr, function.args), *(f"{name}={value!r}" for name, value in function.keywords.items())]
        return f"partial({', '.join([_name_of(function.func), *settings])})"
    if hasattr(function, "__qualname__"):
        return qualified_name(function)
    # An object that can be called: its own words where it has some, rather than its address.
    has_words = getattr(type(function), "__repr__", None) is not object.__repr__
    return repr(function) if has_words else qualified_name(type(function))


def _put(image: Image, out: Image) -> Image:
    """Copy the result of the last transform to where it is wanted."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"becomes {type(image).__qualname__}: transforms must give an array of NumPy")
    # Another byte order is no other dtype.
    if image.shape != out.shape or not np.can_cast(image.dtype, out.dtype, "equiv"):
        raise ValueError(
            f"gives {image.shape} {image.dtype}, the first image gave {out.shape} {out.dtype}: transforms must give"
            " one shape and dtype for all images, as Resize, CenterCrop or RandomResizedCrop do"
        )
    np.copyto(out, image)
    return out
