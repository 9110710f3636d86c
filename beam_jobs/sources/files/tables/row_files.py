"""The interface of one file of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import BadInput
from shard_reader.format.fields import Field
from shard_reader.storage.directory import Directory

__all__ = ["LARGEST_ROW", "Rows"]

LARGEST_ROW = 1 << 24
"""The most bytes of a row, over all of its lines, or of a text."""


class Rows(ABC):
    """One file of rows. `unit` is the noun of their numbers, which begin at 1."""

    kind = ""
    unit = "line"
    typed = True
    same_columns = True  # whether all files of a table have to have the same columns

    def __init__(self, directory: Directory, name: str) -> None:
        self._directory, self.name = directory, name

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The names of the columns; "" for a column without a name.

        Raises:
            UsageError: the file is of another kind, or damaged.
        """

    @abstractmethod
    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[Any] | BadInput]]:
        """The number of each row, with the values of these columns or the defect of the row.

        Raises:
            UsageError: the file is damaged, or a column has values of an unsupported type.
        """

    def fields(self, columns: Sequence[str]) -> Mapping[str, Field]:
        """The types of the columns, as far as the file declares them."""
        return {}

    def categories(self, column: str) -> tuple[str, ...] | None:
        """The names of an ordered categorical column in their order; None for another column."""
        return None

    def refused(self, message: str) -> UsageError:
        """An error that names the file."""
        return UsageError(f"INPUT {self._directory.uri(self.name)}: {message}")

    def named_once(self, columns: Sequence[str]) -> tuple[str, ...]:
        for number, name in enumerate(columns):
            if name and name in columns[:number]:
                raise self.refused(f'two columns are named "{name}"; rename one')
        return tuple(columns)
