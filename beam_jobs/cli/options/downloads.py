"""The options of images by URL."""

from __future__ import annotations

import argparse

from beam_jobs.cli.values import integer
from beam_jobs.errors import UsageError

__all__ = ["add_downloads"]

_MOST_REQUESTS = 1000


def add_downloads(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    add = parser.add_argument_group("images by URL").add_argument
    add("--user-agent", type=_user_agent, metavar="T", help="the header User-Agent (default: image-shards/VERSION)")
    add("--requests-per-host", type=integer(1, _MOST_REQUESTS), default=8, metavar="N",
        help="most requests at a time to one host (default: 8)")  # fmt: skip
    add("--download-seconds", type=integer(1), default=60, metavar="N", help="longest time for one image (default: 60)")
    add("--ignore-opt-out", action="store_true", help="use images despite noai and similar headers, if you may")
    add("--respect-robots", action="store_true", help="reject images that robots.txt disallows")


def _user_agent(text: str) -> str:
    """A value of the header User-Agent.

    Raises:
        UsageError: no header can have it.
    """
    if not text.strip() or not text.isascii() or not text.isprintable():
        raise UsageError(f"--user-agent {text!r}: give printable ASCII, as 'photos-of-ann/1.0 (ann@example.org)'")
    return text
