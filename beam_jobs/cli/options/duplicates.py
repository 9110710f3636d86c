"""The options of duplicates: images with the same bytes, and images that look alike."""

from __future__ import annotations

import argparse
from typing import Any

from beam_jobs.cli.values import integer
from beam_jobs.errors import UsageError
from beam_jobs.options import DUPLICATE_LABELS, NEAR_DUPLICATES
from beam_jobs.plan.near_duplicates import MOST_DISTANCE, NEAR_DISTANCE

__all__ = ["add_duplicates", "duplicate_options"]


def add_duplicates(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    add = parser.add_argument_group("duplicates").add_argument
    add("--drop-duplicates", action="store_true",
        help="keep one of images with the same bytes; reads INPUT twice")  # fmt: skip
    add("--duplicate-labels", choices=DUPLICATE_LABELS, metavar="first|drop", help="of duplicates with"
        " different labels keep the first, or drop all (default: fail)")  # fmt: skip
    add("--near-duplicates", choices=NEAR_DUPLICATES, metavar="DO", help="report: list images that look alike; drop:"
        " keep the largest of each group; group: keep each group in one split")  # fmt: skip
    add("--near-distance", type=integer(0, MOST_DISTANCE), metavar="BITS", help="most bits of 64 in which their"
        f" hashes differ (default: {NEAR_DISTANCE})")  # fmt: skip


def duplicate_options(found: argparse.Namespace) -> dict[str, Any]:
    """The options as arguments of `JobOptions`.

    Raises:
        UsageError: two options contradict each other.
    """
    if found.duplicate_labels is not None and not found.drop_duplicates:
        raise UsageError(f"--duplicate-labels {found.duplicate_labels}: is for --drop-duplicates; give that, too")
    near, bits = found.near_duplicates, found.near_distance
    if bits is not None and near is None:
        raise UsageError(f"--near-distance {bits}: is for --near-duplicates; give that, too, as report")
    if near == "group":
        _check_groups(found)
    return {
        "drop_duplicates": found.drop_duplicates,
        "duplicate_labels": found.duplicate_labels,
        "near_duplicates": near,
        "near_distance": None if near is None else NEAR_DISTANCE if bits is None else bits,
    }


def _check_groups(found: argparse.Namespace) -> None:
    option = "--near-duplicates group"
    if found.split is None:
        raise UsageError(f"{option}: says how to split; give --split, as train=0.9,val=0.1")
    for name, given in (("--stratify", found.stratify), ("--group-by", found.group_by is not None)):
        if given:
            raise UsageError(f"{option}: does not go with {name}, which decides the split, too; leave one out")
