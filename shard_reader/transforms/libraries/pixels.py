"""Pixels as the images of other libraries, and back."""

# A library is imported only where one of its objects was given: it is loaded already, but for a worker process.

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_array", "as_pil", "as_tensor"]

Image = NDArray[Any]


def as_pil(image: Image) -> Any:
    """A `PIL.Image.Image` that may share the memory: of mode L, RGB or RGBA, or I;16 or F where there is one channel.

    Raises:
        ValueError: Pillow has no such image. The message continues "the image".
    """
    is_grey = image.shape[2] == 1
    if image.dtype.newbyteorder("=") not in ((np.uint8, np.uint16, np.float32) if is_grey else (np.uint8,)):
        raise ValueError(
            f"is of {image.dtype.name} with {image.shape[2]} channels, and Pillow has no such images: take transforms"
            " of tensors, as torchvision.transforms.v2 with ToImage() first, or prepare 8 bits"
        )
    pixels = image[..., 0] if is_grey else image
    return importlib.import_module("PIL.Image").fromarray(np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("=")))


def as_tensor(image: Image, *, is_copied: bool = False) -> Any:
    """A `torch.Tensor` `[channels, height, width]`, which is a view unless the pixels are read-only.

    Args:
        is_copied: take memory of its own, since the tensor will be changed.
    """
    is_foreign = is_copied or not image.flags.writeable or not image.dtype.isnative
    own = np.array(image, image.dtype.newbyteorder("=")) if is_foreign else image
    return importlib.import_module("torch").from_numpy(own).permute(2, 0, 1)


def as_array(result: Any) -> Image:
    """An array `[height, width, channels]` of a tensor `[..., height, width]`, an image of Pillow or an array.

    Raises:
        ValueError: it is something else. The message continues "the image".
    """
    found = _array(result)
    if found is None or found.ndim not in (2, 3):
        what = type(result).__qualname__ if found is None else f"an array of {found.ndim} dimensions"
        raise ValueError(f"becomes {what}: transforms must give one image, a tensor, an array or an image of Pillow")
    return found[..., np.newaxis] if found.ndim == 2 else found


def _array(result: Any) -> Image | None:
    if isinstance(result, np.ndarray):
        return result
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(result).__mro__]
    if "torch.Tensor" in kinds:
        if str(result.dtype) == "torch.bfloat16":
            raise ValueError("becomes a tensor of bfloat16, which NumPy does not have: have the model convert it")
        pixels: Image = result.detach().cpu().numpy()
        return pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    if "PIL.Image.Image" in kinds:
        return np.asarray(result.convert("RGB") if result.mode == "P" else result)
    return None
