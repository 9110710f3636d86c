"""One run of work on an engine: its tasks and its results, in a place that the workers and the command see.

```
PLACE/tasks/00000000      some tasks
PLACE/results/00000000    the result of a task
```

They are pickled, and signed with a key of the run: a store is no place from which to unpickle what others may write.
"""

from __future__ import annotations

import hashlib
import hmac
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from beam_jobs.errors import JobError
from beam_jobs.parallel import in_order, readers_of
from beam_jobs.runners.inline import inline_calls
from shard_reader.errors import ShardsError
from shard_reader.storage.open import directory

__all__ = ["EngineRun"]

_TOGETHER: Final = 256  # tasks of a file
_KNOWN: Final = (JobError, ShardsError)  # errors of a task that its caller expects


@dataclass(frozen=True, slots=True)
class EngineRun:
    """One run: the place of its tasks and results, the number of tasks, and the key of signatures."""

    place: str
    tasks: int
    key: bytes = field(repr=False)

    @property
    def files(self) -> int:
        """The number of files of tasks."""
        return -(-self.tasks // _TOGETHER)

    def write_tasks(self, tasks: Sequence[Any]) -> None:
        """Store all tasks."""
        for number in range(self.files):
            self._write(f"tasks/{number:08d}", tasks[number * _TOGETHER : (number + 1) * _TOGETHER])

    def read_tasks(self, number: int) -> Iterator[tuple[int, Any]]:
        """The tasks of one file, with their numbers."""
        yield from enumerate(self._read(f"tasks/{number:08d}"), number * _TOGETHER)

    def do(self, work: Callable[[Any], Any], task: tuple[int, Any]) -> int:
        """Do some work, and store its result, or its error if that is known. Returns the number of the task."""
        number, value = task
        try:
            found = (True, inline_calls.call(work, value))
        except _KNOWN as error:
            found = (False, error.with_traceback(None))
        self._write(f"results/{number:08d}", found)
        return number

    def results(self) -> Iterator[Any]:
        """The results of all tasks, in order.

        Raises:
            JobError: one is missing.
            Exception: the error of a task.
        """
        read = in_order(self._result, range(self.tasks), readers_of(directory(self.place)))
        for is_result, found in read:
            if not is_result:
                raise found
            yield found

    def finished(self) -> int:
        """The number of results."""
        return len(directory(self.place).names("results"))

    def _result(self, number: int) -> Any:
        return self._read(f"results/{number:08d}")

    def _write(self, name: str, value: Any) -> None:
        data = pickle.dumps(value)
        files = directory(self.place)
        if files.local is not None:
            (files.local / name).parent.mkdir(parents=True, exist_ok=True)
        files.write(name, [self._signature(name, data), data])

    def _read(self, name: str) -> Any:
        try:
            data = directory(self.place).read(name)
        except FileNotFoundError:
            raise JobError(f"{self.place}/{name}: is gone; run the command again") from None
        size = hashlib.sha256().digest_size
        if not hmac.compare_digest(data[:size], self._signature(name, data[size:])):
            raise JobError(f"{self.place}/{name}: another program has written it; run the command again")
        return pickle.loads(data[size:])  # signed by this run

    def _signature(self, name: str, data: bytes) -> bytes:
        return hmac.digest(self.key, name.encode() + b"\0" + data, "sha256")
