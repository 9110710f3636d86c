"""The bytes and the pixels of an input, from its source."""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Iterator

from beam_jobs.errors import JobError
from beam_jobs.images.decode import check_size
from beam_jobs.shards.job import Job
from beam_jobs.sources.files.interface import BadInput, Pixels, Reading, Reference, Source, SourceOptions, of_field
from beam_jobs.sources.known import open_source
from shard_reader.storage.open import is_url
from shard_reader.storage.secrets import without_secrets

__all__ = ["read_image", "read_payloads", "source_of"]


@functools.lru_cache(8)
def _opened(options: SourceOptions, reading: Reading) -> Source:
    source = open_source(options)
    source.reading = reading
    return source


def source_of(job: Job) -> Source:
    return _opened(job.source, job.reading)


def read_image(reference: Reference, job: Job) -> bytes | Pixels:
    """The bytes or the pixels of an input, checked against its listed size and the largest size allowed.

    Raises:
        BadInput: the input is gone, changed, damaged, or may not be read.
        JobError: it could not be read for a reason that may pass.
    """
    source = source_of(job)
    with _explained(source, reference):
        _check_size(source.size(reference), job)
        check_size(*source.pixels(reference), job.image)
        data = _read(source, reference)
    if isinstance(data, bytes) and len(data) != reference.size >= 0:
        raise BadInput("changed", f"has {len(data)} bytes, and had {reference.size} when it was listed")
    if isinstance(data, bytes):
        _check_size(len(data), job)
    return data


def read_payloads(reference: Reference, job: Job) -> dict[str, bytes | Pixels]:
    """The further images and bytes that an input has, by their fields.

    Raises:
        BadInput: one of them is gone, damaged or too large, or may not be read.
        JobError: it could not be read for a reason that may pass.
    """
    source, found = source_of(job), dict[str, bytes | Pixels]()
    for name in job.payloads:
        if name in reference.payloads:
            with of_field(name):
                with _explained(source, reference, is_payload=True):
                    data = source.read_payload(reference, name)
                if isinstance(data, bytes):
                    _check_size(len(data), job)
                found[name] = data
    return found


@contextlib.contextmanager
def _explained(source: Source, reference: Reference, *, is_payload: bool = False) -> Iterator[None]:
    """Tell the defects of an input from faults that may pass. The file of a payload is named beside its image."""
    try:
        yield
    except BadInput:
        raise
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        problem = error.strerror or str(error)
        # A store that denies one object denies them all: the credentials are wrong or have expired.
        if isinstance(error, PermissionError) and _in_store(error.filename):
            raise JobError(f"{source.uri(reference)}: cannot be read: {problem}") from error
        # A disk that is not mounted must not turn every input into a reject.
        if not source.answers(reference):
            raise JobError(f"{source.uri(reference)}: cannot be read ({problem}), nor anything beside it") from error
        if isinstance(error, PermissionError):
            raise BadInput("unreadable", problem) from error
        named = f"{without_secrets(error.filename)} " if is_payload and isinstance(error.filename, str) else ""
        gone = "was listed, and is gone" if reference.size >= 0 else "is not there"
        raise BadInput("missing", f"{named}{gone}") from error
    except Exception as error:  # a fault of the disk or the network, not of the image: another run may succeed
        problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise JobError(f"{source.uri(reference)}: cannot be read ({problem})") from error


def _in_store(place: object) -> bool:
    """Whether a place is in an object store. A web server is not: it may deny access to single files."""
    return isinstance(place, str) and is_url(place) and not place.startswith(("http://", "https://"))


def _check_size(size: int, job: Job) -> None:
    if size > job.image.max_bytes:
        raise BadInput("too-large", f"has {size} bytes, more than --max-bytes {job.image.max_bytes}")


def _read(source: Source, reference: Reference) -> bytes | Pixels:
    """The bytes or the pixels of an input: of the listed size, or of a size that two reads agree on."""
    data = source.read(reference)
    if not isinstance(data, bytes) or len(data) == reference.size or reference.size < 0:
        return data
    # Another size may be a file that has changed, which is a defect, or a read that was cut short, which may pass.
    again = source.read(reference)
    if len(again) not in (reference.size, len(data)):
        raise OSError(errno.EIO, f"{len(data)} bytes the first time, {len(again)} the second")
    return again
