"""The parser of all commands."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import NoReturn

from beam_jobs.errors import UsageError

__all__ = ["Parser", "command_parser"]


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    # argparse would print the whole usage, some forty lines, and end the process.
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_all(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse words, without any that are unknown.

        Raises:
            UsageError: a word is wrong; the message names it, its value, and the allowed values.
            SystemExit: after `--help`.
        """
        found, unknown = self.parse_known_args(words)
        if unknown:
            self.refuse(unknown, "there is none of that name")
        return found

    def refuse(self, words: Sequence[str], why: str) -> NoReturn:
        """Raise a UsageError about the first unknown word, with a suggestion."""
        options = [word.split("=")[0] for word in words if word.startswith("-")]
        if not options:
            self.error(f"unexpected argument {words[0]!r}")
        close = difflib.get_close_matches(options[0], self._option_string_actions, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        self.error(f"unknown option {options[0]}: {why}{hint}")


def command_parser(name: str, usage: str, description: str, epilog: str) -> Parser:
    """The parser of the words after a command's name. `usage` is a summary of them."""
    return Parser(
        prog=f"image-shards {name}",
        allow_abbrev=False,
        usage=f"image-shards {name} {usage}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
