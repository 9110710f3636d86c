"""The options of `prepare` on JPEGs: how they are decoded, and their restart markers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import get_args

from beam_jobs.cli.parser import listed
from beam_jobs.errors import UsageError
from shard_reader.format.image_codecs.codec import RestartMarkers
from shard_reader.format.image_codecs.table import IMAGE_CODECS

__all__ = ["add_jpeg", "exact_decode", "restart_markers"]


def add_jpeg(add: Callable[..., argparse.Action]) -> None:
    """Add the options to a group."""
    add("--exact-decode", action="store_true", help="decode large JPEGs at their full size")
    # Without a default, to tell whether it was given.
    add("--restart-markers", choices=get_args(RestartMarkers), metavar="M", help="in JPEGs: auto (default), row, none")


def exact_decode(found: argparse.Namespace, fit: str) -> bool:
    """Whether JPEGs are decoded at their full size.

    Raises:
        UsageError: the option would change nothing.
    """
    if found.exact_decode and (fit == "none" or found.filter == "nearest"):
        raise UsageError("--exact-decode: --fit none and --filter nearest decode whole images already; leave it out")
    exact: bool = found.exact_decode
    return exact


def restart_markers(found: argparse.Namespace, encoding: str) -> RestartMarkers:
    """The option of a command line.

    Raises:
        UsageError: it is given for an encoding without them.
    """
    if found.restart_markers is not None and not IMAGE_CODECS[encoding].has_restart_markers:
        having = listed([name for name, codec in IMAGE_CODECS.items() if codec.has_restart_markers], "and")
        raise UsageError(
            f"--restart-markers {found.restart_markers} is for {having}, the encoding is {encoding}: leave it out"
        )
    markers: RestartMarkers = found.restart_markers or "auto"
    return markers
