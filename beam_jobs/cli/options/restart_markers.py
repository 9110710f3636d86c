"""The option of `prepare` on the restart markers of JPEGs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import get_args

from beam_jobs.cli.parser import listed
from beam_jobs.errors import UsageError
from shard_reader.format.image_codecs.codec import RestartMarkers
from shard_reader.format.image_codecs.table import IMAGE_CODECS

__all__ = ["add_restart_markers", "restart_markers"]


def add_restart_markers(add: Callable[..., argparse.Action]) -> None:
    """Add the option to a group."""
    # Without a default, to tell whether it was given.
    add("--restart-markers", choices=get_args(RestartMarkers), metavar="M", help="in JPEGs: auto (default), row, none")


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
