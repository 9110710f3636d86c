"""The columns with further images or bytes, and their roles."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import ROLES, BadInput, Reading, SourceOptions
from shard_reader.format.fields import IMAGE
from shard_reader.storage.directory import Directory

__all__ = ["IMAGE_SUFFIXES", "PayloadColumns", "read_file", "role_of_name"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".avif", ".pgm", ".exr")
"""Suffixes of further images, by which a text is known for the path of one."""
_MASK = re.compile(
    r"(^|[^a-z])(mask|masks|seg|segmentation|instances|label_?map|annotation|trimap|matte)([^a-z]|$)", re.IGNORECASE
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

    def image_or(self, option: str, given: str | None) -> str | None:
        """The column of the first image: that of --image-columns, or that of another option.

        Raises:
            UsageError: both name one, and not the same.
        """
        if self.image is not None and given is not None and self.image != given:
            raise UsageError(f"--image-columns {self.image},...: its first is the image, and {option} is {given}")
        return given if self.image is None else self.image

    def with_columns(self, more: Mapping[str, str]) -> PayloadColumns:
        """These columns and some more, by the names of their fields, with the roles of these names."""
        new = {field: column for field, column in more.items() if field not in self.columns}
        roles = {field: role_of_name(field) for field in new}
        return PayloadColumns(self.image, {**self.columns, **new}, {**self.roles, **roles})

    @property
    def options(self) -> Iterator[tuple[str, str]]:
        """Each column with the option that may name it."""
        if self.image is not None:
            yield "--image-columns", self.image
        for field, column in self.columns.items():
            yield "--mask-column" if field != column else "--image-columns", column

    @property
    def texts(self) -> list[str]:
        """The columns in words."""
        return [f'{field} ({self.roles[field]}) in "{column}"' for field, column in self.columns.items()]


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
