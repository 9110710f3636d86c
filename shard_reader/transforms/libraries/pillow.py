"""Functions of images of Pillow: those of Pillow itself, and others that say so."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from shard_reader.transforms.draws import Draws
from shard_reader.transforms.libraries.functions import draws_globally
from shard_reader.transforms.libraries.library import LibraryTransform
from shard_reader.transforms.libraries.pixels import as_pil

__all__ = ["OfPil", "is_of_pillow"]


class OfPil(LibraryTransform):
    """A function that takes and gives an image of Pillow, as a transform of a stream.

    Functions of Pillow, such as `PIL.ImageOps.autocontrast`, and those whose first argument is annotated as
    `PIL.Image.Image` are recognized without it.

    Args:
        function: called with an image of mode L, RGB or RGBA, by the channels, or of I;16 or F for 16 bits or floats
            with one channel. It gives an image of Pillow, an array or a tensor.

    Raises:
        TypeError: it is no function.

    Examples:
        >>> from PIL import Image
        >>> OfPil(lambda image: image.rotate(90))(np.zeros((2, 3, 3), np.uint8)).shape  # doctest: +SKIP
        (2, 3, 3)
    """

    library = "PIL"
    is_function = True

    def __init__(self, function: Callable[[Any], Any]) -> None:
        if not callable(function):
            raise TypeError(f"OfPil({function!r}): expected a function of an image of Pillow")
        is_global = draws_globally(function, lambda value: False)
        super().__init__(function, is_random=is_global, draws_globally=is_global, code=[function])

    def called(self, image: NDArray[Any], draws: Draws | None) -> Any:
        return self.original(as_pil(image))


def is_of_pillow(value: Any) -> bool:
    """Whether a function is one of Pillow, or its first argument is annotated as an image of Pillow."""
    while isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, type):
        return False
    if str(getattr(value, "__module__", None) or "").partition(".")[0] == "PIL":
        return True
    function = value if inspect.isroutine(value) else value.__call__
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except Exception:  # compiled code, or annotations that cannot be evaluated
        return False
    annotation = parameters[0].annotation if parameters else None
    if isinstance(annotation, str):
        annotation = _named(annotation, getattr(inspect.unwrap(function), "__globals__", {}))
    return isinstance(annotation, type) and (annotation.__module__, annotation.__qualname__) == ("PIL.Image", "Image")


def _named(name: str, scope: dict[str, Any]) -> Any:
    """The value of an annotation that is written as text: names and dots, which are not run as code."""
    first, *rest = name.strip().strip("'\"").split(".")
    value = scope.get(first)
    for part in rest:
        value = getattr(value, part, None)
    return value
