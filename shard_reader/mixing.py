"""MixUp and CutMix: each image of a batch is mixed with the one before it, by numbers that the stream draws.

A stream with `mixing=` gives these numbers with each batch, as an array of its own, and leaves images and labels as
they are. `mixed` mixes them, on the device where they are: NumPy, PyTorch, TensorFlow or JAX.

```python
stream = data.stream(batch_size=256, image=RandomResizedCrop(224), mixing=[MixUp(0.2), CutMix()])
for batch in stream:
    images, labels = mixed(batch["image"], batch["label"], batch["mixing"], num_classes=1000)
```
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import require
from shard_reader.transforms.draws import Draws

__all__ = ["MIXING", "CutMix", "MixUp", "Mixing", "Mixings", "as_mixings", "mixed", "mixing_of"]

MIXING: Final = "mixing"
"""The name of the array in a batch."""

_MOST_ALPHA = 1_000_000  # with which all shares are a half
_ALONE = (1, 1, 0, 0, 0, 0)  # of a record that is mixed with nobody: its own image, outside of no box
_FRAMEWORKS = ("torch", "tensorflow", "jax", "jaxlib")


@dataclass(frozen=True)
class Mixing(ABC):
    """A way to mix the images of a batch, with the share of the own image from Beta(alpha, alpha).

    Args:
        alpha: above 0. The smaller it is, the more batches are left nearly as they are.

    Raises:
        TypeError: `alpha` is not a number.
        ValueError: `alpha` is out of range.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float | np.integer | np.floating):
            raise TypeError(f"alpha={self.alpha!r}: must be a number")
        require(0 < self.alpha <= _MOST_ALPHA, "alpha", self.alpha, f"must be above 0, and at most {_MOST_ALPHA:,}")
        object.__setattr__(self, "alpha", float(self.alpha))

    @abstractmethod
    def draw(self, draws: Draws, height: int, width: int) -> tuple[float, float, int, int, int, int]:
        """The numbers of a batch, for images of this size, in pixels.

        Returns:
            The share of the own label; the share of the own image inside of a box, outside of which it is 1; and the
            box: top, left, bottom, right.
        """


class MixUp(Mixing):
    """Adds a part of the image before, and the same part of its label (Zhang and others, 2018, "mixup: Beyond
    empirical risk minimization"), as torchvision defines it.

    Args:
        alpha: above 0. The smaller it is, the more batches are left nearly as they are.

    Raises:
        TypeError: `alpha` is not a number.
        ValueError: `alpha` is out of range.
    """

    def draw(self, draws: Draws, height: int, width: int) -> tuple[float, float, int, int, int, int]:
        share = _beta(self.alpha, draws)
        return share, share, 0, 0, height, width


class CutMix(Mixing):
    """Puts a box of the image before into each image, and the part of its area into the label (Yun and others, 2019,
    "CutMix: Regularization strategy to train strong classifiers with localizable features"), as torchvision defines it.

    Args:
        alpha: above 0. The smaller it is, the more boxes are nearly nothing, or nearly everything.

    Raises:
        TypeError: `alpha` is not a number.
        ValueError: `alpha` is out of range.
    """

    def draw(self, draws: Draws, height: int, width: int) -> tuple[float, float, int, int, int, int]:
        side = 0.5 * math.sqrt(1 - _beta(self.alpha, draws))
        x, y = draws.integer(width), draws.integer(height)
        across, down = int(side * width), int(side * height)
        top, left = max(0, y - down), max(0, x - across)
        bottom, right = min(height, y + down), min(width, x + across)
        return 1 - (bottom - top) * (right - left) / (height * width), 0.0, top, left, bottom, right


Mixings = Mixing | Sequence[Mixing] | None


def as_mixings(mixing: Mixings) -> tuple[Mixing, ...]:
    """The ways to mix, of which each batch draws one.

    Raises:
        TypeError: a value is not a Mixing.
    """
    several = () if mixing is None else (mixing,) if isinstance(mixing, Mixing) else mixing
    if not isinstance(several, Sequence) or not all(isinstance(one, Mixing) for one in several):
        raise TypeError(f"mixing={mixing!r}: must be MixUp, CutMix, or a list of them, as [MixUp(0.2), CutMix()]")
    return tuple(several)


def mixing_of(
    mixings: Sequence[Mixing], draws: Draws, height: int, width: int, weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The numbers of each record of a batch, float32 `[n, 6]`, as `Mixing.draw` returns them; `_ALONE` at weight 0."""
    way = mixings[draws.integer(len(mixings))]
    found = np.tile(np.array(way.draw(draws, height, width), np.float32), (len(weights), 1))
    found[weights == 0] = _ALONE
    return found


def mixed(
    images: Any, labels: Any, mixing: Any, num_classes: int | None = None, *, channels_first: bool | None = None
) -> tuple[Any, Any]:
    """Images and labels of a batch, each mixed with the one before; the first one with the last.

    The arithmetic runs where the arrays are, also inside of `torch.compile`, `tf.function` and `jax.jit`.

    Args:
        images: arrays of NumPy, PyTorch, TensorFlow or JAX, `[n, height, width, channels]`, in PyTorch
            `[n, channels, height, width]`. Integers become float32.
        labels: numbers of classes, `[n]`, or floats `[n, num_classes]`, one-hot for instance.
        mixing: the array `mixing` of the batch, float32 `[n, 6]`.
        num_classes: the number of classes, for labels that are numbers.
        channels_first: the axes of images, if they are not the framework's.

    Returns:
        Images of the same shape, and labels `[n, num_classes]`, both of floats. The labels of a record sum to 1.

    Raises:
        ValueError: labels are numbers, and `num_classes` is missing; with NumPy, a label is not below it.
    """
    framework = type(images).__module__.partition(".")[0]
    arrays = _FRAMEWORK_ARRAYS[framework]() if framework in _FRAMEWORKS else _NumPy()
    first = framework == "torch" if channels_first is None else channels_first
    images = arrays.floats(images)
    if len(labels.shape) == 1:
        if num_classes is None:
            raise ValueError("num_classes=None: must be the number of classes, since labels are numbers")
        arrays.check(labels, num_classes)
        labels = arrays.floats(labels)  # small integers have no room for all classes
        labels = labels[:, None] == arrays.range(num_classes, labels)[None, :]
        labels = arrays.cast(labels, mixing)
    labels = arrays.floats(labels)  # differences of unsigned integers would be wrong
    height, width = (arrays.size(images, axis) for axis in ((2, 3) if first else (1, 2)))
    share, own, top, left, bottom, right = (mixing[:, column] for column in range(6))
    # By the rows alone, so that any part of a batch is mixed as well as the whole: that of a rank, or of a step.
    alone = (own == 1) & (right == 0)
    mixes = arrays.cast(~(alone | arrays.roll(alone)), mixing)
    rows, columns = arrays.range(height, mixing)[None, :], arrays.range(width, mixing)[None, :]
    down = (rows >= top[:, None]) & (rows < bottom[:, None])
    across = (columns >= left[:, None]) & (columns < right[:, None])
    part = arrays.cast(down[:, :, None] & across[:, None, :], mixing) * (mixes * (1 - own))[:, None, None]
    part = part[:, None] if first else part[..., None]
    # Boxes have no room in bfloat16.
    images = images + arrays.cast(part, images) * (arrays.roll(images) - images)
    # Labels may be of another float than the numbers, between which TensorFlow does no arithmetic.
    return images, labels + arrays.cast(mixes * (1 - share), labels)[:, None] * (arrays.roll(labels) - labels)


def _beta(alpha: float, draws: Draws) -> float:
    """A number from Beta(alpha, alpha)."""
    # Not NumPy's, whose distributions may change with its version: a resumed training would get other numbers.
    return _beta_small(alpha, draws) if alpha <= 1 else _beta_large(alpha, draws)


def _beta_small(alpha: float, draws: Draws) -> float:
    """Jöhnk's algorithm (Devroye, 1986, "Non-uniform random variate generation", IX.3.5), in logarithms."""
    while True:
        one, other = (math.log(1 - draws.uniform()) / alpha for _ in range(2))
        most = max(one, other)
        # The sum of the powers is at most 1.
        if most + math.log(math.exp(one - most) + math.exp(other - most)) <= 0:
            return math.exp(one - most) / (math.exp(one - most) + math.exp(other - most))


def _beta_large(alpha: float, draws: Draws) -> float:
    """Cheng's algorithm BB (1978, "Generating beta variates with nonintegral shape parameters"), for equal shapes."""
    both = 2 * alpha
    scale = math.sqrt((both - 2) / (2 * alpha * alpha - both))
    slope = alpha + 1 / scale
    while True:
        one, other = 1 - draws.uniform(), 1 - draws.uniform()
        if one == 1:
            continue
        power = scale * math.log(one / (1 - one))
        weight = alpha * math.exp(power)
        bound = slope * power - math.log(4) + both * math.log(both / (alpha + weight))
        if bound >= math.log(one * one * other):
            return weight / (alpha + weight)


class _NumPy:
    """The functions that differ between frameworks."""

    name = "numpy"

    def __init__(self) -> None:
        self.module: Any = sys.modules[self.name]

    def floats(self, values: Any) -> Any:
        return values if "float" in str(values.dtype) else values.astype(np.float32)

    def cast(self, values: Any, like: Any) -> Any:
        return values.astype(like.dtype)

    def range(self, stop: Any, like: Any) -> Any:
        return self.module.arange(stop, dtype=like.dtype)

    def size(self, values: Any, axis: int) -> Any:
        return values.shape[axis]

    def roll(self, values: Any) -> Any:
        return self.module.roll(values, 1, 0)

    def check(self, labels: Any, num_classes: int) -> None:
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        if len(wrong):
            raise ValueError(f"num_classes={num_classes}: there is a label {wrong[0]}")


class _Jax(_NumPy):
    name = "jax.numpy"

    def check(self, labels: Any, num_classes: int) -> None:
        """Labels on a device are not looked at."""


class _Torch(_Jax):
    name = "torch"

    def floats(self, values: Any) -> Any:
        return values if values.is_floating_point() else values.float()

    def cast(self, values: Any, like: Any) -> Any:
        return values.to(like.dtype)

    def range(self, stop: Any, like: Any) -> Any:
        return self.module.arange(stop, dtype=like.dtype, device=like.device)


class _TensorFlow(_Jax):
    name = "tensorflow"

    def floats(self, values: Any) -> Any:
        return values if values.dtype.is_floating else self.module.cast(values, "float32")

    def cast(self, values: Any, like: Any) -> Any:
        return self.module.cast(values, like.dtype)

    def range(self, stop: Any, like: Any) -> Any:
        return self.module.cast(self.module.range(stop), like.dtype)

    def size(self, values: Any, axis: int) -> Any:
        return self.module.shape(values)[axis]


_FRAMEWORK_ARRAYS: dict[str, type[_NumPy]] = {"torch": _Torch, "tensorflow": _TensorFlow, "jax": _Jax, "jaxlib": _Jax}
