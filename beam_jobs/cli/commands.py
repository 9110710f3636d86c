"""The table of the commands of `image-shards`: the purpose of each, and the function that runs it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from beam_jobs.cli.parser import HelpFormatter, Parser, add_output_options

__all__ = ["COMMANDS", "Command", "choose"]

Run = Callable[[Sequence[str]], int]
"""Runs a command line, which begins with the command's name, and returns the exit status."""


class Command(NamedTuple):
    """A command: its line in the help, the module of the function that runs it, and the function's name."""

    # The module is imported when its command runs: `inspect` does not wait for the imports of `prepare`, and works
    # without its packages.

    summary: str
    module: str
    function: str

    def load(self) -> Run:
        """The function that runs the command."""
        run: Run = getattr(importlib.import_module(self.module), self.function)
        return run


COMMANDS: Final[Mapping[str, Command]] = {
    "prepare": Command("turn images into shards", "beam_jobs.cli.prepare", "run"),
    "inspect": Command("show the contents of a dataset, and how it was made", "beam_jobs.cli.datasets", "inspect"),
    "report": Command("make an HTML page with pictures of a dataset", "beam_jobs.cli.datasets", "report"),
    "verify": Command("check every byte of a dataset", "beam_jobs.cli.datasets", "verify"),
    "index": Command("index TFRecords of other programs, or repair indexes", "beam_jobs.cli.datasets", "index"),
    "join": Command("make one dataset of several, without a copy", "beam_jobs.cli.changes.generations", "join"),
    "relabel": Command("change labels and fields by id", "beam_jobs.cli.changes.generations", "relabel"),
    "export": Command("write a dataset as files of other programs", "beam_jobs.cli.datasets", "export"),
    "compact": Command("rewrite what counts of a dataset", "beam_jobs.cli.changes.generations", "compact"),
    "withdraw": Command("leave records out from now on", "beam_jobs.cli.changes.generations", "withdraw"),
    "benchmark": Command("measure how fast a dataset is read, and explain it", "beam_jobs.cli.datasets", "benchmark"),
}


def choose(arguments: Sequence[str]) -> tuple[Command, Sequence[str]]:
    """The command in a command line, and the words from its name on.

    Raises:
        UsageError: there is no such command.
        SystemExit: after `help`, `--help` and `--version`.
    """
    from shard_reader import __version__

    top = Parser(
        prog="image-shards",
        allow_abbrev=False,
        description="Turn raw images into training-ready shards, and look after them.",
        epilog="image-shards help COMMAND says how.\n\nexample:\n  image-shards prepare photos shards --size 256",
        formatter_class=HelpFormatter,
    )
    add_output_options(top)
    top.add_argument("--version", action="version", version=f"image-shards {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    # These parsers are for the help and for the choice alone. The command's own parser is in its module.
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary, add_help=False)
    commands.add_parser("help", help="show this, or how to use a command: help COMMAND", add_help=False)
    found, rest = top.parse_known_args(arguments)
    if found.command == "help":
        return choose([*rest[:1], "--help"])
    return COMMANDS[found.command], arguments[list(arguments).index(found.command) :]
