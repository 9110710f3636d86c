"""The interface of a shard format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.fields import Field

__all__ = ["Framing", "ShardFormat", "ShardWriter"]


class ShardWriter(Protocol):
    """Writes one shard, record by record."""

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record: the payload of an image as bytes, every other field as its value."""

    def close(self) -> None:
        """Finish the file; without this it is not a shard."""

    def abort(self) -> None:
        """Close the file as it is. After `close`, nothing."""


class Framing(NamedTuple):
    """The state of the frames around the records of a damaged file.

    Attributes:
        wrong: the damaged records, by row, each with the damage in words.
        records: number of records with a frame.
        stopped: the byte from which on records cannot be told apart; None if all can.
    """

    wrong: dict[int, str]
    records: int
    stopped: int | None


class ShardFormat(ABC):
    """One file format of shards. `shard_formats/table.py` lists all of them."""

    name: ClassVar[str]
    """In manifests and on command lines."""
    suffix: ClassVar[str]
    """Of its files."""
    extra: ClassVar[str | None] = None
    """The extra that installs its package."""
    package: ClassVar[str | None] = None
    """The module that writing and indexing need; reading with an index needs none."""
    in_tfds: ClassVar[bool] = False
    """Whether TensorFlow Datasets reads its files."""

    @abstractmethod
    def writer(self, path: Path, fields: Mapping[str, Field]) -> ShardWriter:
        """A writer for a new file. Equal records give equal bytes."""

    @abstractmethod
    def rows(self, path: Path, data: NDArray[np.uint8], fields: Mapping[str, Field]) -> NDArray[np.void]:
        """The index of a file, from its bytes: a row for each record, every checksum 0.

        Raises:
            CorruptionError: the file is damaged, or its records lack a field.
        """

    @abstractmethod
    def value(self, data: NDArray[np.uint8], field: Field) -> Any:
        """A list from its stored bytes: an array `[n, ...]` of the field's dtype, or a list of `bytes`.

        Raises:
            ValueError: the bytes are not such a list.
        """

    @abstractmethod
    def list_bytes(self, value: Any, field: Field) -> bytes:
        """The stored bytes of a list, as `value` reads them: of an array `[n, ...]`, or of a list of str."""

    def framing(self, data: NDArray[np.uint8]) -> Framing | None:
        """The frames of a damaged file, found without trusting anything in it; None if the format has no frames."""
        del data
        return None
