"""Files that carry the checksum of their own text, so that an edited file or another one of that name is recognised."""

from __future__ import annotations

import errno
import hashlib
import re
from typing import Final

from shard_reader.storage.directory import Directory

__all__ = ["BLANK", "is_foreign", "is_sealed", "sealed"]

BLANK: Final = "0" * 64
"""The place of the checksum in a text that is not sealed yet: it is the last such run of zeros."""
_CHECKSUM: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_MOST_BYTES: Final = 1 << 27


def sealed(text: str) -> bytes:
    """A text in UTF-8 with its SHA-256 in place of the last `BLANK`. The checksum is that of the text with `BLANK`."""
    data = text.encode()
    before, _, after = data.rpartition(BLANK.encode())
    return before + hashlib.sha256(data).hexdigest().encode() + after


def is_sealed(data: bytes) -> bool:
    """Whether a file is as `sealed` made it."""
    text = data.decode("utf-8", "replace")
    found = [*_CHECKSUM.finditer(text)][-1:]
    return any(sealed(text[: one.start()] + BLANK + text[one.end() :]) == data for one in found)


def is_foreign(files: Directory, name: str) -> bool:
    """Whether there is a file that its user wrote or edited."""
    try:
        return not is_sealed(files.read(name, most=_MOST_BYTES))
    except FileNotFoundError:
        return False
    except OSError as error:
        # A folder, a FIFO, or a file too large for a page.
        if error.errno in (errno.EFBIG, errno.EISDIR, errno.EINVAL):
            return True
        raise
