"""Several transforms as one, which writes its result into the batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.base import PartTransform, Shape, Transform, moves_of
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.libraries.functions import draws_globally
from shard_reader.transforms.libraries.generators import seeded
from shard_reader.transforms.libraries.library import LibraryTransform, described, warn_of_generators
from shard_reader.transforms.libraries.recognized import is_random_transform, library_transform
from shard_reader.transforms.moves.move import Move
from shard_reader.transforms.moves.nearest import Nearest
from shard_reader.transforms.part import Part

__all__ = ["ComposedTransform", "Transforms", "compose", "put"]

Image = NDArray[Any]


class ComposedTransform:
    """Several transforms as one. Made by `compose`.

    Attributes:
        steps: the transforms, in order.
        is_random: whether one of them uses draws.
        is_seeded: whether the global generators of the process are seeded for functions, too.
        keeps_image: whether one of them may use the input image later.
    """

    __slots__ = ("_alone", "_calls", "_first", "_part_calls", "is_random", "is_seeded", "keeps_image", "steps")

    def __init__(self, steps: Sequence[Transform], *, is_seeded: bool = False) -> None:
        self.steps, self.is_seeded = tuple(steps), is_seeded
        self.is_random = any(step.is_random or (is_seeded and _is_foreign(step)) for step in self.steps)
        self.keeps_image = any(step.keeps_image for step in self.steps)
        # `out` goes to the last step, and to an earlier one whose followers all work in place on it.
        first = max(0, len(self.steps) - 1)
        while first > 0 and self.steps[first].in_place:
            first -= 1
        self._alone = first
        self._calls = tuple(_call_of(step, number, is_seeded) for number, step in enumerate(self.steps))
        self._first = _first_of_parts(self.steps)
        self._part_calls = self._calls if self._first is None else (self._of_part, *self._calls[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        steps = [step.function if isinstance(step, _Function) else step for step in self.steps]
        return (_compose_seeded if self.is_seeded else compose), (steps,)

    def __setstate__(self, state: tuple[None, dict[str, Any]]) -> None:
        """For old pickles only: see `old_pickles.py`."""
        self.__init__(state[1]["steps"])  # type: ignore[misc]

    def output_shape(self, shape: Shape) -> Shape | None:
        """The shape of the result for images of `shape`, with None for a side that differs; None if only a call shows
        it."""
        result: Shape | None = shape
        for step in self.steps:
            if result is not None:
                result = step.output_shape(result)
        return result

    def __call__(self, image: Image, draws: Draws | None = None, out: Image | None = None) -> Image:
        """The result of the last transform.

        Args:
            image: `[height, width, channels]`, not changed unless it is `out`.
            draws: random numbers for all transforms, one after the other; may be None unless `is_random`.
            out: an array for the result, C-contiguous, which does not overlap `image`. It is then returned.

        Raises:
            TypeError: there are no draws, and a transform uses them.
            ValueError: a transform cannot take the image, or the result is not of `out`'s shape and dtype. The message
                continues "the image".
        """
        if draws is None and self.is_random:
            raise TypeError(f"draws=None: {self!r} needs the draws of a record, as Draws(key, position)")
        return self._run(self._calls, image, draws, out)

    def part(self, height: int, width: int, draws: Draws | None) -> Part | None:
        """The part of an image of this size that the first transform uses; None where it wants the whole image."""
        return None if self._first is None else self._first.part(height, width, draws)  # type: ignore[arg-type]

    def of_part(self, image: Image, draws: Draws | None = None, out: Image | None = None) -> Image:
        """As a call, with the pixels of the part that `part` has named, and the draws that it was called with."""
        return self._run(self._part_calls, image, draws, out)

    @property
    def draws_globally(self) -> bool:
        """Whether one of them draws from generators of the process, which threads share. Of functions, a guess."""
        return any(isinstance(step, _Function | LibraryTransform) and step.draws_globally for step in self.steps)

    @property
    def needs_processes(self) -> bool:
        """Whether a transform of another library draws from generators of the process, for sure."""
        return any(
            isinstance(step, LibraryTransform) and step.draws_globally and not step.is_function for step in self.steps
        )

    @property
    def joins(self) -> bool:
        """Whether the last one takes masks, boxes and keypoints together with the image, in one call."""
        return bool(self.steps) and isinstance(self.steps[-1], LibraryTransform) and self.steps[-1].joins

    def split(self) -> tuple[ComposedTransform, LibraryTransform]:
        """The transforms before the last one, and the last one, which `joins`."""
        last = self.steps[-1]
        assert isinstance(last, LibraryTransform)
        return ComposedTransform(self.steps[:-1], is_seeded=self.is_seeded), last

    def seeded(self) -> ComposedTransform:
        """The same transforms, where global generators are seeded for every one that is not part of this package.

        The seed of a step depends on the record and the step's number alone. Other draws stay the same.
        """
        return self if self.is_seeded else ComposedTransform(self.steps, is_seeded=True)

    @property
    def keeps_places(self) -> bool:
        """Whether every pixel shows the same place of the image after all of them."""
        return all(map(_keeps_places, self.steps))

    def moves(self, height: int, width: int, draws: Draws | None) -> list[Move]:
        """The geometry of a call on an image of this size, step by step, by the draws of that call.

        Raises:
            ValueError: a transform cannot take an image of this size. The message continues "the image".
        """
        found = []
        for step in self.steps:
            if _has_move(step) or not _keeps_places(step):
                for move in moves_of(step, height, width, draws):
                    move.check(height, width)
                    found.append(move)
                    height, width = move.height, move.width
        return found

    def check_moves(self, what: str) -> None:
        """Check that `moves` knows the geometry.

        Args:
            what: a field that moves with the image, for the message.

        Raises:
            ValueError: a transform does not say how it moves pixels, or how many draws it uses before another one.
        """
        unknown: Transform | None = None  # one that keeps places, and uses any number of draws
        for step in self.steps:
            if _keeps_places(step):
                draws = step.is_random and not isinstance(step, LibraryTransform)  # those have draws of their own
                unknown = step if draws and not _has_move(step) else unknown
                continue
            if isinstance(step, LibraryTransform):
                remedy = "take torchvision.transforms.v2 or Albumentations"
                if step.joins:
                    remedy = "make it the last one, all of them in one Compose"
                raise ValueError(
                    f"{step!r} transforms images alone here, and {what!r} has to follow: {remedy}; set its attribute"
                    f" keeps_places = True if each pixel stays in its place; or leave {what!r} out of fields="
                )
            if not _has_move(step):
                raise ValueError(
                    f"{step!r} does not say how it moves pixels, and {what!r} has to follow: declare keeps_places ="
                    " True (on the class, or on the function) if each pixel stays in its place, or write a method"
                    f" move(height, width, draws); or leave {what!r} out of fields="
                )
            if step.output_shape((None, None, None)) is None:
                raise ValueError(f"{step!r} moves pixels, and has no output_shape(shape): {what!r} has to follow")
            if step.is_random and unknown is not None:
                raise ValueError(
                    f"{unknown!r} uses draws before {step!r}, and {what!r} has to follow without it: put {unknown!r}"
                    " after it, or give it a method move that draws as many numbers"
                )

    def by_nearest(self, *, keeps_values: bool) -> ComposedTransform:
        """These transforms for masks and depth maps, whose pixels are chosen, never mixed.

        Args:
            keeps_values: leave out the transforms that keep places: colours change, masks do not.
        """
        steps = list[Transform]()
        for step in self.steps:
            is_called = not _has_move(step) or (_keeps_places(step) and not keeps_values)
            if not is_called:
                steps.append(Nearest(step))
            elif not (keeps_values and _keeps_places(step)):
                steps.append(step.of_masks() if isinstance(step, LibraryTransform) else step)
        return ComposedTransform(steps, is_seeded=self.is_seeded)

    def _of_part(self, image: Image, draws: Draws | None, out: Image | None = None) -> Image:
        assert self._first is not None
        return self._first.of_part(image, out)

    def _run(
        self, calls: Sequence[Callable[..., Image]], image: Image, draws: Draws | None, out: Image | None
    ) -> Image:
        for call in calls[: self._alone]:
            image = call(image, draws)
        for call in calls[self._alone :]:
            image = call(image, draws, out)
        if out is None or image is out:
            return image
        return put(image, out)

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.steps))}]"


def _first_of_parts(steps: Sequence[Transform]) -> PartTransform | None:
    """The first transform, if it uses a part alone. A subclass with a `__call__` of its own wants the whole image."""
    if steps and isinstance(steps[0], PartTransform) and type(steps[0]).__call__ is PartTransform.__call__:
        return steps[0]
    return None


Transforms = Transform | Callable[..., Any] | ComposedTransform | Sequence[Transform | Callable[..., Any]] | None
"""The arguments of `compose`. A callable is a function of an image, or a transform of another library."""


def compose(transforms: Transforms) -> ComposedTransform:
    """One object for no, one or several transforms. A function of an image is a transform without draws.

    Raises:
        TypeError: `transforms` are something else.

    Examples:
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


def _compose_seeded(transforms: Transforms) -> ComposedTransform:
    """For pickles."""
    return compose(transforms).seeded()


@dataclass(frozen=True, slots=True, repr=False)
class _Function(Transform):
    """A function of an image alone."""

    is_random = False

    function: Callable[[Image], Image]

    @property
    def draws_globally(self) -> bool:
        """Whether it seems to draw from generators of the process."""
        return draws_globally(self.function, is_random_transform)

    def __call__(self, image: Image, draws: Draws | None = None, out: Image | None = None) -> Image:
        return self.function(image)

    def __repr__(self) -> str:
        return described(self.function)


def _is_foreign(step: Transform) -> bool:
    """Whether a step may use global generators: a function, or a class of another package."""
    if isinstance(step, LibraryTransform):
        return step.is_function and not step.is_random  # others are seeded in any case
    is_own = type(step).__module__.partition(".")[0] == __name__.partition(".")[0]
    return isinstance(step, _Function) or not is_own


def _call_of(step: Transform, number: int, is_seeded: bool) -> Callable[..., Image]:
    """The call of a step, with what it needs to draw from generators that are not the record's draws."""
    if isinstance(step, LibraryTransform) and step.is_random:
        return functools.partial(_call_with_child, step, number)
    return functools.partial(_call_seeded, step, number) if is_seeded and _is_foreign(step) else step


def _call_with_child(step: Transform, number: int, image: Image, draws: Draws, out: Image | None = None) -> Image:
    return step(image, draws.child(number), out)


def _call_seeded(step: Transform, number: int, image: Image, draws: Draws, out: Image | None = None) -> Image:
    with seeded(draws.child(number)):
        return step(image, draws, out)


def _keeps_places(step: Transform) -> bool:
    """Whether a transform keeps places; a function, or an object of another library, says so by an attribute."""
    if not isinstance(step, _Function | LibraryTransform):
        return step.keeps_places
    given = step.function if isinstance(step, _Function) else step.original
    return bool(getattr(given, "keeps_places", False))


def _has_move(step: Transform) -> bool:
    return type(step).move is not Transform.move


def _transform(value: object) -> Transform:
    if isinstance(value, Transform):
        return value
    if isinstance(value, type):
        raise TypeError(f"image={value.__qualname__}: is a class, pass an instance: {value.__qualname__}(...)")
    if not callable(value):
        raise TypeError(
            f"image={value!r}: expected a transform, as CenterCrop(224), a function of an image, or a list of them"
        )
    found = library_transform(value)
    if found is None:
        warn_of_generators(value, value)
    return found or _Function(value)


def put(image: Image, out: Image) -> Image:
    """Copy the result of the last transform into the batch.

    Raises:
        ValueError: it is of another shape or dtype. The message continues "the image".
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(f"becomes {type(image).__qualname__}: transforms must give an array of NumPy")
    # Pixels may come in either byte order: "equiv" allows that, and nothing else.
    if image.shape != out.shape or not np.can_cast(image.dtype, out.dtype, "equiv"):
        raise ValueError(
            f"gives {image.shape} {image.dtype}, the first image gave {out.shape} {out.dtype}: transforms must give"
            " one shape and dtype for all images, as Resize, CenterCrop or RandomResizedCrop do"
        )
    if image.ndim == 3 and abs(image.strides[2]) > abs(image.strides[1]):
        # The planes of a tensor [c, h, w]: NumPy copies each of them three times as fast as all of them together.
        for channel in range(image.shape[2]):
            out[..., channel] = image[..., channel]
    else:
        np.copyto(out, image)
    return out
