"""The values of one record, as Python's and NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.fields import Field

__all__ = ["as_python", "flat"]


def as_python(value: Any, field: Field) -> Any:
    """One value of a column as a Python int, float, str, bytes or list of str; arrays stay arrays."""
    if isinstance(value, bytes):
        return value if field.dtype == "bytes" else value.decode()
    if isinstance(value, list):
        return [text.decode() for text in value]
    return value.item() if isinstance(value, np.generic) else np.array(value)


def flat(pixels: NDArray[Any], field: Field) -> NDArray[Any]:
    """Pixels `[height, width, channels]`; `[height, width]` of a mask."""
    return pixels[..., 0] if field.is_flat else pixels
