"""Writes the pages of the documentation that are made from the code: `python scripts/generated_pages.py`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beam_jobs.cli.commands import COMMANDS
from beam_jobs.cli.main import main
from shard_reader.format import manifest
from shard_reader.format.fields import FORMAT_VERSION

REPOSITORY = Path(__file__).parents[1]
REFERENCE = REPOSITORY / "docs/reference"
NOTEBOOKS = REPOSITORY / "docs/notebooks"


def pages() -> dict[Path, str]:
    """The text of each generated page, by its path."""
    notebooks = {path.with_suffix(".md"): _notebook(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    return {REFERENCE / "command-line.md": _command_line(), REFERENCE / "format.md": _format(), **notebooks}


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


def _notebook(path: Path) -> str:
    """A notebook with its outputs as a page, which every builder of sites shows alike."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    texts = [text for cell in cells for text in _cell(cell)]
    title, *rest = texts[0].split("\n", 1)
    first = "".join(rest).strip()
    source = f"This page is a [notebook]({path.name}), with the outputs of its last execution."
    return "\n\n".join([title, source, first, *texts[1:]]).rstrip() + "\n"


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    language = "bash" if source.startswith("!") else "python"
    yield f"```{language}\n{source.lstrip('!')}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {"text/plain": output.get("text", "")})
        if "image/png" in data:
            yield f"![Output of the code above](data:image/png;base64,{''.join(data['image/png']).strip()})"
        elif "text/html" in data:
            yield "".join(data["text/html"]).strip()
        elif text := "".join(data.get("text/plain", "")).rstrip():
            yield f"```text\n{text}\n```"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
