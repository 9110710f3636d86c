"""The options about the plan and the log of a job."""

from __future__ import annotations

import argparse
import re
from typing import Any

from beam_jobs.errors import UsageError
from shard_reader.storage.open import is_url

__all__ = ["add_planning", "planning_options"]


def add_planning(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    add = parser.add_argument_group("plan and log").add_argument
    add("--json", action="store_true", help="print the result, or the plan of --dry-run, in JSON")
    add("--price", type=_price, metavar="P", help="price of a CPU hour: --dry-run adds up the cost")
    add("--log-json", metavar="FILE", help="write a line of JSON for each shard: counts, bytes, times")


def planning_options(found: argparse.Namespace) -> dict[str, Any]:
    """The options, by their names in `JobOptions`.

    Raises:
        UsageError: an option is without the one that it is for, or the log is no file of this machine.
    """
    if found.price and not found.dry_run:
        raise UsageError("--price: is for --dry-run; give that, too, or leave it out")
    if found.log_json is not None and (found.dry_run or is_url(found.log_json)):
        why = "--dry-run writes no shards; leave it out" if found.dry_run else "is a URL; give a file of this machine"
        raise UsageError(f"--log-json {found.log_json}: {why}")
    return {"price": found.price, "log_json": found.log_json}


def _price(text: str) -> float:
    """A price: a number without a currency."""
    if not re.fullmatch(r"[0-9]{0,9}\.?[0-9]{1,9}", text) or not float(text):
        raise argparse.ArgumentTypeError(f"expected a number above 0, as 0.38, got {text!r}")
    return float(text)
