"""The code blocks of a page of documentation, run in order as a reader would run them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from support.command import REPOSITORY, command

__all__ = ["LANGUAGES", "Block", "Session", "blocks", "run_page"]

LANGUAGES = {"python", "bash", "diff", "text", "json", "yaml", "csv", "toml"}
"""The languages of blocks. Those in `python` and `bash` are run, and both sides of a `diff`."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- (before )?not run: (.+?) -->$")
_RUN_WITH = re.compile(r"<!-- run with: (.+?) -> (.+?), (since .+?) -->$")
_SECONDS = 600

# Answers each block with a line: nothing, or a traceback.
_LOOP = """
import json, sys, traceback
answers, sys.stdout = sys.stdout, sys.stderr
names = {"__name__": "__main__"}
for line in sys.stdin:
    try:
        exec(compile(json.loads(line), "page", "exec"), names)
        found = ""
    except BaseException:
        found = traceback.format_exc()
    print(json.dumps(found), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text as it is run, its line, and the reason if it is not run.

    `before_only` is true for a `diff` if the script after the change is run.
    """

    language: str
    text: str
    line: int
    not_run: str | None = None
    before_only: bool = False

    @property
    def scripts(self) -> list[str]:
        """What is run."""
        if self.language != "diff" or (self.not_run and not self.before_only):
            return [] if self.not_run else [self.text]
        after = _without(self.text, "-")
        return [after] if self.not_run else [_without(self.text, "+"), after]


def _without(diff: str, sign: str) -> str:
    """One side of a diff."""
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if not line.startswith(sign))


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order. A comment before a fence may say why it is not run, or what is run instead."""
    for match in _FENCE.finditer(page):
        before = page[: match.start()].rstrip().rpartition("\n")[2].strip()
        text = textwrap.dedent(match["text"])
        if instead := _RUN_WITH.match(before):
            assert instead[1] in text, f"{before}: the block has no {instead[1]}"
            text = text.replace(instead[1], instead[2])
        reason = _NOT_RUN.match(before)
        line = page.count("\n", 0, match.start()) + 1
        yield Block(match["language"], text, line, reason and reason[2], bool(reason and reason[1]))


class Session:
    """A Python process that runs blocks in one namespace."""

    def __init__(self, directory: Path):
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path}
        self._errors = (directory / "session-errors.txt").open("w+")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOOP],
            cwd=directory,
            env=environment,
            stdin=pipe,
            stdout=pipe,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def run(self, text: str) -> str:
        """Run a block; the traceback of its error, if it has one."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(text) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer:
            return str(json.loads(answer))
        self._errors.seek(0)
        return f"the process ended: {self._errors.read()[-2000:]}"


def run_page(page: str, directory: Path, replace: Mapping[str, str]) -> int:
    """Run the blocks of a page in the working directory, with texts replaced; the number of blocks that were run."""
    count = 0
    with Session(directory) as session:
        for block in blocks(page):
            if block.language not in ("python", "bash", "diff"):
                continue
            for text in block.scripts:
                count += 1
                for old, new in replace.items():
                    text = text.replace(old, new)
                problem = _run_lines(text) if block.language == "bash" else session.run(text)
                assert not problem, f"line {block.line}:\n{text}\n{problem}"
    return count


def _run_lines(text: str) -> str:
    """Run lines of a shell; the error of the first that fails."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[0] == "image-shards" and not set(line) & set("|<>&;$*"):
            result = command(*words[1:])
        else:
            result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=_SECONDS)
        if result.returncode:
            return f"{line}: exit status {result.returncode}\n{result.stdout[-1000:]}{result.stderr[-2000:]}"
    return ""
