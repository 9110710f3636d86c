"""A command that is killed with -9 at its n-th change of a dataset, whatever that is: a file, a name, an object.

As a program, `python tests/support/killing.py MOMENT COUNT PLACE WORDS...`: runs `image-shards WORDS`, and kills itself
before its change number MOMENT of what is at PLACE. Writes the number of changes to the file COUNT.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["changes", "killed_at"]

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "shutil.rmtree"}
_OF_STORES = ("write", "put", "put_if", "delete", "delete_all", "delete_folder")


def killed_at(moment: int, place: object, words: list[object], count: Path, environment: Mapping[str, str]) -> bool:
    """Run a command, and kill it before one of its changes. Returns whether it came so far."""
    code = [sys.executable, __file__, str(moment), str(count), str(place), *map(str, words)]
    found = subprocess.run(code, capture_output=True, text=True, timeout=600, env={**os.environ, **environment})
    assert found.returncode in (0, -signal.SIGKILL), found.stderr
    return found.returncode != 0


def changes(place: object, words: list[object], count: Path, environment: Mapping[str, str]) -> int:
    """The number of changes of a command that runs to its end."""
    assert not killed_at(0, place, words, count, environment)
    return int(count.read_text())


class _Counter:
    def __init__(self, moment: int, place: str) -> None:
        self._moment, self._place, self._process, self.count = moment, place, os.getpid(), 0

    def change(self) -> None:
        # Workers change the dataset, too: their end is another test's.
        if os.getpid() != self._process:
            return
        self.count += 1
        if self.count == self._moment:
            os.kill(self._process, signal.SIGKILL)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            _, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR):
                return
        elif event not in _CHANGES:
            return
        if self._place in str(arguments[0]):
            self.change()


def _main() -> int:
    moment, count, place, *words = sys.argv[1:]
    counter = _Counter(int(moment), place)
    if "://" in place:
        from beam_jobs.shards import lock
        from shard_reader.storage.object_store import ObjectDirectory

        lock.BEAT_SECONDS = 0.2  # a killed job is waited for so long
        for name in _OF_STORES:
            setattr(ObjectDirectory, name, _counted(getattr(ObjectDirectory, name), counter))
    else:
        sys.addaudithook(counter.hook)
    from beam_jobs.cli.main import main

    status = main(words)
    Path(count).write_text(f"{counter.count}")
    return status


def _counted(method: Any, counter: _Counter) -> Any:
    @functools.wraps(method)
    def call(self: Any, name: Any, *arguments: Any, **options: Any) -> Any:
        if "lock" not in str(name):
            counter.change()
        return method(self, name, *arguments, **options)

    return call


if __name__ == "__main__":
    sys.exit(_main())
