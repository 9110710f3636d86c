"""The parser of all commands."""

from __future__ import annotations

import argparse
import difflib
import shutil
from collections.abc import Sequence
from typing import Any, NoReturn

from beam_jobs import terminal
from beam_jobs.errors import UsageError
from shard_reader.printable import printable

__all__ = ["HelpFormatter", "Parser", "add_output_options", "command_parser", "listed"]


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    # argparse would print the whole usage, some forty lines, and end the process.
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{printable(message)} (see {self.prog} --help)")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        # argparse of Python 3.11 takes the value of `--name=--` for the end of the options, and gives an empty list.
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)

    def parse_all(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse words, without any that are unknown.

        Raises:
            UsageError: a word is wrong; the message names it, its value, and the allowed values.
            SystemExit: after `--help`.
        """
        found, unknown = self.parse_known_args(words)
        if unknown:
            self.refuse(unknown, "image-shards has no such option")
        return found

    def refuse(self, words: Sequence[str], why: str) -> NoReturn:
        """Raise a UsageError about the first unknown word, with a suggestion."""
        options = [word.split("=")[0] for word in words if word.startswith("-")]
        if not options:
            self.error(f"unexpected argument {words[0]!r}")
        close = difflib.get_close_matches(options[0], self._option_string_actions, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        self.error(f"unknown option {options[0]}: {why}{hint}")


def command_parser(name: str, usage: str, description: str, example: str, notes: str = "") -> Parser:
    """The parser of the words after a command's name.

    Args:
        name: the name of the command.
        usage: a summary of the words.
        description: the purpose of the command, in paragraphs.
        example: a command line.
        notes: a paragraph before the example.
    """
    parser = Parser(
        prog=f"image-shards {name}",
        allow_abbrev=False,
        usage=f"image-shards {name} {usage}",
        description=description,
        epilog=f"{notes}\n\nexample:\n  {example}".strip(),
        formatter_class=HelpFormatter,
    )
    add_output_options(parser)
    return parser


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about the output of every command. They take effect as they are parsed."""
    add = parser.add_argument
    add("--quiet", action=_SetOutput, const=terminal.QUIET, help="print no status and no progress: only results,"
        " warnings and errors")  # fmt: skip
    add("--verbose", action=_SetOutput, const=terminal.VERBOSE, help="print logs of Beam and of stores' libraries, too,"
        " and tracebacks of errors")  # fmt: skip


def listed(names: Sequence[str], last: str) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


class _SetOutput(argparse.Action):
    """Sets how much is printed, and leaves nothing among the parsed options."""

    def __init__(self, option_strings: Sequence[str], dest: str, const: int, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, const=const, help=help)

    def __call__(self, *_: Any) -> None:
        terminal.set_output(self.const)


class HelpFormatter(argparse.HelpFormatter):
    """Wraps each paragraph to the width of the terminal, but leaves an example as it is."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=22, width=shutil.get_terminal_size().columns)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(part if "\n  " in part else fill(part, width, indent) for part in text.split("\n\n"))
