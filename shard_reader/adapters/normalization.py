"""Statistics to normalize stored pixels with, for the frameworks' own layers."""

# Batches keep the stored dtype, and the model normalizes on the device: uint8 is a quarter of the bytes of float32.

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from shard_reader.arguments import require
from shard_reader.dataset.dataset import Dataset
from shard_reader.dataset.records import Records
from shard_reader.format.fields import IMAGE

__all__ = ["PixelStatistics", "pixel_statistics"]

_WHITE = {"uint8": 255.0, "uint16": 65535.0}


class PixelStatistics(NamedTuple):
    """Mean and standard deviation of each channel, in the units of the stored pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def pixel_statistics(
    data: Records, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> PixelStatistics:
    """The statistics of a dataset's manifest, or the given ones.

    Args:
        data: a dataset. Its statistics are over every pixel of one split, as `prepare` wrote them.
        mean, std: values for each channel, of pixels scaled to 0..1, in place of the manifest's, such as those of a
            pretrained model; of inputs that are floats, of the values as they are.

    Raises:
        ValueError: the dataset has no statistics, its pixels are normalized already, or `mean` and `std` do not fit
            its channels.
        TypeError: `data` is not a dataset.
    """
    if not isinstance(data, Records):
        raise TypeError(f"{data!r} is no dataset: pass the result of open_dataset")
    if (mean is None) != (std is None):
        raise ValueError(f"mean={mean!r}, std={std!r}: give both or neither")
    found = data.manifest.statistics if isinstance(data, Dataset) else None
    scaled = found is None or found.scaled  # floats without a known range are taken as they are
    white = _white(data) if scaled else _unscaled(data)
    if mean is None or std is None:
        statistics = found
        if statistics is None or not statistics.mean:
            raise ValueError(f"{data.name} has no statistics of its pixels: pass mean= and std=, of pixels from 0 to 1")
        # A channel of one value everywhere has a deviation of 0, which nothing can be divided by.
        mean, std = statistics.mean, [value or 1.0 for value in statistics.std]
    channels = data.fields[IMAGE].shape[2]
    require(channels is not None, "data", data.name, "images may differ in channels, and then fit into no batch")
    for name, values in (("mean", mean), ("std", std)):
        fits = isinstance(values, Sequence) and len(values) == channels and all(map(math.isfinite, values))
        require(fits, name, values, f"must be {channels} numbers, one for each channel of {data.name}")
    require(not scaled or (min(mean) >= 0 and max(mean) <= 1), "mean", mean, "must be of pixels scaled to 0..1")
    require(not scaled or max(std) <= 1, "std", std, "must be of pixels scaled to 0..1, and above 0")
    require(min(std) > 0, "std", std, "must be of pixels scaled to 0..1, and above 0")
    return PixelStatistics(tuple(value * white for value in mean), tuple(value * white for value in std))


def _white(data: Records) -> float:
    """The largest value of a pixel.

    Raises:
        ValueError: the pixels are normalized already.
    """
    dtype = data.fields[IMAGE].dtype
    if dtype in _WHITE:
        return _WHITE[dtype]
    options = data.manifest.options.get("image") if isinstance(data, Dataset) else None
    how = options.get("normalize") if isinstance(options, dict) else None
    if how not in ("none", "unit"):
        raise ValueError(
            f"the pixels of {data.name} are normalized already ({how}), or nothing is known of them: take them as"
            " they are, or prepare them as uint8"
        )
    return 255.0 if how == "none" else 1.0


def _unscaled(data: Records) -> float:
    """1 for floats as they are.

    Raises:
        ValueError: they are normalized already.
    """
    options = data.manifest.options.get("image") if isinstance(data, Dataset) else None
    how = options.get("normalize") if isinstance(options, dict) else None
    if how != "none":
        raise ValueError(f"the pixels of {data.name} are normalized already ({how}): take them as they are")
    return 1.0
