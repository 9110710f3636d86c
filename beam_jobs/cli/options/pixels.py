"""The options of `prepare` about pixels: colours, encoding, normalization, and limits of images."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec

from beam_jobs.cli.options.jpeg import add_jpeg, exact_decode, restart_markers
from beam_jobs.cli.options.targets import target_options
from beam_jobs.cli.parser import listed
from beam_jobs.cli.values import byte_size, color, dicom_window, integer
from beam_jobs.errors import UsageError
from beam_jobs.options import CHANNELS, FILTERS, MAX_SECONDS, MAX_WORK, NORMALIZATIONS, ImageOptions
from shard_reader.format.fields import IMAGE_DTYPES, MAX_PIXELS
from shard_reader.format.image_codecs.codec import ImageCodec
from shard_reader.format.image_codecs.table import IMAGE_CODECS, codec_for

__all__ = ["add_pixels", "image_options"]


def add_pixels(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    add = parser.add_argument_group("pixels").add_argument
    add("--only-shrink", action="store_true", help="never make an image larger (cover, inside, pad)")
    add("--filter", choices=FILTERS, default="lanczos", metavar="FILTER",
        help=", ".join(FILTERS).replace("lanczos", "lanczos (default)"))  # fmt: skip
    add("--quality", type=integer(1, 100), metavar="1..100", help=f"quality of {_qualities()};"
        " without it, a JPEG file that needs no change keeps its bytes")  # fmt: skip
    add_jpeg(add)
    add("--pad-color", type=color, metavar="COLOR", help="color of the border of --fit pad (default: black)")
    add("--background", type=color, default="white", metavar="COLOR",
        help="color below transparent pixels (default: white)")  # fmt: skip
    add("--channels", choices=CHANNELS, default="rgb", metavar="CH",
        help="rgb, grey, or keep: as in the file (default: rgb)")  # fmt: skip
    add("--dtype", choices=IMAGE_DTYPES, metavar="D", help="uint8 (default), uint16, float16 or float32")
    add("--normalize", choices=NORMALIZATIONS, default="none", metavar="HOW", help="unit: 0..1; symmetric: -1..1;"
        " imagenet, dataset, per-image: subtract that mean, divide by that deviation (default: none)")  # fmt: skip
    add("--dicom-window", type=dicom_window, metavar="W", help="of DICOM: default (the file's own), or CENTER,WIDTH")
    add("--max-pixels", type=integer(1), default=MAX_PIXELS, metavar="N",
        help="reject images with more pixels (default: %(default)s)")  # fmt: skip
    add("--max-bytes", type=byte_size, default="512MiB", metavar="SIZE",
        help="reject image files with more bytes (default: 512MiB)")  # fmt: skip
    add("--max-work", type=integer(1), default=MAX_WORK, metavar="N",
        help="reject images whose decoder would touch more pixels, passes counted (default: %(default)s)")  # fmt: skip
    add("--max-seconds", type=integer(1), default=MAX_SECONDS, metavar="S",
        help="fail if an image takes longer to decode (default: %(default)s)")  # fmt: skip


def image_options(found: argparse.Namespace) -> ImageOptions:
    """The options of a command line.

    Raises:
        UsageError: two options contradict each other.
    """
    width, height = found.size or (256, None)
    fit = found.fit or ("crop" if height else "cover")
    dtype = found.dtype or ("uint8" if found.normalize == "none" else "float32")
    encoding = found.encoding or codec_for(dtype).name
    _check_image_options(found, fit, dtype, encoding)
    # Sizes mean nothing here: one value, so that the fingerprint is the same.
    if fit == "none":
        width, height = 0, 0
    return ImageOptions(
        width=width,
        height=width if height is None else height,
        fit=fit,
        filter=found.filter,
        encoding=encoding,
        quality=found.quality,
        restart_markers=restart_markers(found, encoding),
        dtype=dtype,
        normalize=found.normalize,
        only_shrink=found.only_shrink,
        pad_color=found.pad_color or (0, 0, 0),
        background=found.background,
        channels=found.channels,
        max_pixels=found.max_pixels,
        max_bytes=found.max_bytes,
        max_work=found.max_work,
        reject_suspects=found.reject_suspects,
        exact_decode=exact_decode(found, fit),
        dicom_window=found.dicom_window,
        **target_options(found, fit, encoding),
    )


def _check_image_options(found: argparse.Namespace, fit: str, dtype: str, encoding: str) -> None:
    """Check that options about pixels fit each other.

    Raises:
        UsageError: two options contradict each other; the message has a remedy.
    """
    normalize, channels, codec = found.normalize, found.channels, IMAGE_CODECS[encoding]
    if normalize != "none" and found.dtype is not None and not dtype.startswith("float"):
        raise UsageError(f"--normalize {normalize} gives floats: give --dtype float32 or float16")
    if normalize != "none" and "float32" not in codec.dtypes:
        raise UsageError(
            f"--normalize {normalize} gives floats, and --encoding {encoding} stores integers: give --encoding"
            f" {_encodings(lambda codec: 'float32' in codec.dtypes)}, or normalise on the device, with the mean and std"
            " of the manifest"
        )
    if dtype not in codec.dtypes:
        others = _encodings(lambda codec: dtype in codec.dtypes)
        held = " and ".join(codec.dtypes)
        raise UsageError(f"--encoding {encoding} holds {held} pixels only: give --encoding {others} for {dtype}")
    missing = () if dtype == codec.dtypes[0] or channels == "grey" else codec.deep_packages
    for name in missing:
        if find_spec(name) is None:
            raise UsageError(
                f"--encoding {encoding} needs {name} for colours of {dtype}: pip install 'image-shards[decode]'"
            )
    if found.quality is not None and codec.quality is None:
        lossy = listed([codec.label for codec in IMAGE_CODECS.values() if codec.quality is not None], "and")
        raise UsageError(f"--quality {found.quality} is for {lossy}, the encoding is {encoding}: leave it out")
    if channels == "grey" and 1 not in codec.channels:
        others = _encodings(lambda codec: 1 in codec.channels)
        raise UsageError(f"--channels grey: {codec.label} has no grey images; give --encoding {others}")
    if (channels, normalize) in {("grey", "imagenet"), ("keep", "imagenet"), ("keep", "dataset")}:
        needs = "three channels" if normalize == "imagenet" else "the same channels in every image"
        raise UsageError(f"--normalize {normalize}: needs {needs}, and not --channels {channels}")
    if fit == "none" and found.size is not None:
        raise UsageError("--size: --fit none keeps the size of each image; leave one out")
    if found.only_shrink and fit not in ("cover", "inside", "pad"):
        raise UsageError(f"--only-shrink: is for --fit cover, inside or pad, not for {fit}")
    if found.pad_color is not None and fit != "pad":
        raise UsageError(f"--pad-color: is for --fit pad, not for {fit}; leave it out")


def _encodings(fits: Callable[[ImageCodec], bool]) -> str:
    """The names of the encodings that fit, as the end of a sentence."""
    return listed([name for name, codec in IMAGE_CODECS.items() if fits(codec)], "or")


def _qualities() -> str:
    """The encodings with a quality, each with its default."""
    lossy = [codec for codec in IMAGE_CODECS.values() if codec.quality is not None]
    return listed([f"{codec.label} (default: {codec.quality})" for codec in lossy], "and")
