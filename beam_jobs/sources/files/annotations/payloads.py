"""The columns with further images or bytes, and their roles."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import ROLES, BadInput, Reading, SourceOptions
from shard_reader.format.fields import IMAGE
from shard_reader.storage.directory import Directory

__all__ = ["PayloadColumns", "read_file", "role_of_name"]

_MASK = re.compile(
    r"(^|[^a-z])(mask|masks|seg|segmentation|label_?map|annotation|trimap|matte)([^a-z]|$)", re.IGNORECASE
)
_DEPTH = re.compile(r"(^|[^a-z])(depth|disparity)([^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PayloadColumns:
    """The columns that --image-columns and --mask-column name.

    Attributes:
        image: the column of the first image; None if the options do not say it.
        columns: the column of each further field.
        roles: the role of each further field, one of `ROLES`.
    """

    image: str | None
    columns: Mapping[str, str]
    roles: Mapping[str, str]

    @classmethod
    def of(cls, options: SourceOptions) -> PayloadColumns:
        """The columns of the options.

        Raises:
            UsageError: a role is unknown, or two columns become one field.
        """
        first, *others = options.image_columns or (None,)
        if first is not None:
            first, role = _split(first)
            if role not in (None, "photo"):
                raise UsageError(f"--image-columns {first}:{role}: the first is the image of the record, a photo")
        columns, roles = dict[str, str](), dict[str, str]()
        for text in others:
            name, role = _split(text or "")
            columns[name], roles[name] = name, role or role_of_name(name)
        if options.mask_column is not None:
            if "mask" in columns:
                raise UsageError("--mask-column: --image-columns has a mask, too; leave one out")
            columns["mask"], roles["mask"] = options.mask_column, "mask"
        if IMAGE in columns or len(columns) != len(others) + (options.mask_column is not None):
            raise UsageError(f"--image-columns {','.join(options.image_columns or ())}: names a field twice")
        return cls(first, columns, roles)


def role_of_name(name: str) -> str:
    """The role of a further image by its name: a mask, a depth map, or a photo."""
    return "mask" if _MASK.search(name) else "depth" if _DEPTH.search(name) else "photo"


def _split(text: str) -> tuple[str, str | None]:
    """The name and the role of `NAME:ROLE`."""
    name, colon, role = text.rpartition(":")
    if not colon:
        return text, None
    if role not in ROLES:
        raise UsageError(f"--image-columns {text}: {role!r} is no role; they are {', '.join(ROLES)}")
    return name, role


def read_file(place: Directory, name: str, reading: Reading) -> bytes:
    """The bytes of a file.

    Raises:
        BadInput: it is larger than `reading` allows, or no file.
        OSError: it cannot be read.
    """
    try:
        return place.read(name, most=reading.max_bytes)
    except IsADirectoryError as error:
        raise BadInput("not-a-file", f"{name} is a folder") from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise BadInput("too-large", f"{name}: {error.strerror} (--max-bytes)") from error
        raise
