"""Running `image-shards prepare`: the words, the job, and what is said at the end."""

from __future__ import annotations

from collections.abc import Sequence

from beam_jobs.arguments import parse
from beam_jobs.errors import JobError
from beam_jobs.images import ignore_image_warnings
from beam_jobs.prepare import prepare
from shard_reader.secret import without_secrets

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Run the command line; the exit status.

    Raises:
        JobError: the job failed, or cannot start.
    """
    ignore_image_warnings()
    summary = prepare(parse(arguments))
    try:
        print(without_secrets(summary), flush=True)  # noqa: T201
    except OSError as error:
        raise JobError(f"the dataset is whole, but standard output cannot be written ({error.strerror})") from error
    return 0
