"""The options of `prepare` about further images, bytes and the outlines of objects."""

from __future__ import annotations

import argparse
from typing import Any

from beam_jobs.cli.parser import listed
from beam_jobs.cli.values import integer, names
from beam_jobs.errors import UsageError
from beam_jobs.options import DEPTH_DTYPES, DEPTH_FILTERS, MASK_DTYPES
from beam_jobs.sources.files.interface import SEGMENTS
from shard_reader.format.image_codecs.table import IMAGE_CODECS

__all__ = ["TARGET_COLUMNS", "add_targets", "target_options"]

TARGET_COLUMNS = ("image_columns", "mask_column", "segments", "allow_missing")
"""Options of sources that are passed on as they are."""


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    add = parser.add_argument_group("more than one image in a record").add_argument
    add("--image-columns", type=names, metavar="C,...", help="columns of images, as image,mask,right:photo: the"
        " first is the image, the others fields with a role: photo, mask, depth or bytes (default: by the"
        " name)")  # fmt: skip
    add("--mask-column", metavar="C", help="column of masks, for the field mask")
    add("--segments", choices=SEGMENTS, metavar="FORM", help="store the outlines of objects as mask (of classes),"
        " instances (a mask of objects), rle or polygons (default: leave them out)")  # fmt: skip
    add("--allow-missing", type=names, metavar="FIELD,...", help="store an empty image or no bytes where an input"
        " has none in these fields (default: reject it)")  # fmt: skip
    add("--mask-border", type=integer(0, 65_535), metavar="N", help="value of masks in the border of --fit pad"
        " (default: 0)")  # fmt: skip
    add("--mask-dtype", choices=MASK_DTYPES, metavar="D", help="uint8 (default) or uint16, for values above 255")
    add("--depth-filter", choices=DEPTH_FILTERS, metavar="FILTER", help="nearest (default) or bilinear")
    add("--depth-dtype", choices=DEPTH_DTYPES, metavar="D", help="uint16 (default) or float32, which needs"
        " --encoding raw")  # fmt: skip


def target_options(found: argparse.Namespace, fit: str, encoding: str) -> dict[str, Any]:
    """The values of `ImageOptions` that a command line gives, by their names.

    Raises:
        UsageError: an option cannot be used.
    """
    border, dtype = found.mask_border or 0, found.mask_dtype or MASK_DTYPES[0]
    if found.mask_border is not None and fit != "pad":
        raise UsageError(f"--mask-border: is for --fit pad, not for {fit}; leave it out")
    if border > 255 and dtype == "uint8":
        raise UsageError(f"--mask-border {border}: is more than masks of 8 bits hold; give --mask-dtype uint16")
    depth = found.depth_dtype or DEPTH_DTYPES[0]
    if depth == "float32" and depth not in IMAGE_CODECS[encoding].dtypes:
        others = [name for name, codec in IMAGE_CODECS.items() if depth in codec.dtypes]
        raise UsageError(f"--depth-dtype {depth}: --encoding {encoding} holds no floats; give {listed(others, 'or')}")
    return {
        "mask_border": border,
        "mask_dtype": dtype,
        "depth_filter": found.depth_filter or DEPTH_FILTERS[0],
        "depth_dtype": depth,
    }
