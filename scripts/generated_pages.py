"""Writes the pages of the documentation that are made from the code: `python scripts/generated_pages.py`."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

from beam_jobs.cli.commands import COMMANDS
from beam_jobs.cli.main import main
from shard_reader.format import manifest
from shard_reader.format.fields import FORMAT_VERSION

REPOSITORY = Path(__file__).parents[1]
REFERENCE = REPOSITORY / "docs/reference"


def pages() -> dict[Path, str]:
    """The text of each generated page, by its path."""
    return {REFERENCE / "command-line.md": _command_line(), REFERENCE / "format.md": _format()}


def _command_line() -> str:
    return "\n".join(
        [
            "# Command line",
            "",
            "The help of each command, as `image-shards help COMMAND` prints it.",
            *_section("image-shards", ["--help"]),
            *(line for name in COMMANDS for line in _section(f"image-shards {name}", [name, "--help"])),
            "",
        ]
    )


def _section(title: str, words: list[str]) -> Iterator[str]:
    os.environ["COLUMNS"] = "100"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main(words)
    # Defaults that depend on the machine.
    text = re.sub(r"\bhere \d+", "here 8", printed.getvalue())
    yield from ("", f"## {title}", "", "```text", text.rstrip(), "```")


def _format() -> str:
    assert manifest.__doc__ is not None
    return f"# Format, version {FORMAT_VERSION}\n\n{manifest.__doc__.strip()}\n"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
