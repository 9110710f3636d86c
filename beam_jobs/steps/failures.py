"""Errors of a job in words: the work that is kept, and the errors of Ctrl-C and of stores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from beam_jobs.errors import Interrupted, JobError, LostJobError, UsageError
from beam_jobs.shards.output import Output
from shard_reader.storage.open import is_url

__all__ = ["Reached", "explained", "in_words"]


@dataclass(slots=True)
class Reached:
    """The changes that a run has made to OUTPUT, for the message of an error."""

    removed: bool = False  # the dataset that was there
    begun: bool = False


@contextlib.contextmanager
def in_words(*places: str) -> Iterator[None]:
    """Turn Ctrl-C, and the errors that the libraries of stores at `places` raise, into errors of a job."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command says how much is finished, and goes on") from None
    except (JobError, OSError):
        raise
    except Exception as error:
        # The libraries of stores have error classes of their own. On a disk, any other error is a bug.
        if any(map(is_url, places)):
            raise JobError(f"{type(error).__name__}: {error}") from error
        raise


@contextlib.contextmanager
def explained(output: Output, *, overwrite: bool = False) -> Iterator[Reached]:
    """Add the work that is kept to the messages of errors."""
    reached = Reached()
    try:
        yield reached
    except (JobError, OSError, KeyboardInterrupt) as error:
        # An interrupt may come after the manifest was written: then the dataset is finished.
        if not isinstance(error, KeyboardInterrupt) or not reached.begun or output.manifest() is None:
            _explain(error, output, reached, overwrite)


def _explain(error: BaseException, output: Output, reached: Reached, overwrite: bool) -> NoReturn:
    """Raise an error again, with the work that is kept."""
    if isinstance(error, (UsageError, LostJobError)):
        raise error
    kept = ""
    with contextlib.suppress(Exception):  # the store may be unreachable, which may be the error itself
        kept = output.kept(overwrite)
    if isinstance(error, OSError):
        error = JobError(f"{error.filename or output.place}: {error.strerror or error}")
    if isinstance(error, JobError):
        raise JobError(f"{error}\n{kept}".strip()) from error
    removed = "the dataset that was in OUTPUT is removed, as --overwrite says"
    raise Interrupted(f"interrupted; {kept or (removed if reached.removed else 'OUTPUT is as it was')}") from None
