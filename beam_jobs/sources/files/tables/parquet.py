"""Rows of Parquet, of which only needed columns are read, and the places of the images in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import BadInput
from beam_jobs.sources.files.members import ranges
from beam_jobs.sources.files.tables.arrow import bounded_values, fixed_field, is_taken, text_columns
from beam_jobs.sources.files.tables.image_columns import Column, Group, ImageColumn, checked, text_tops, values_of
from beam_jobs.sources.files.tables.page_bodies import Damaged
from beam_jobs.sources.files.tables.parquet_pages import RowGroup, chunk_of, places, row_groups
from beam_jobs.sources.files.tables.row_files import Rows
from shard_reader.format.fields import Field

__all__ = ["ParquetImages", "ParquetRows"]

_LARGEST_CHUNK = 1 << 29  # bytes of a column in a row group
_BATCH = 4096  # rows at a time
_BUFFER = 1 << 20  # bytes of each column


class ParquetRows(Rows):
    """One Parquet file."""

    kind = "Parquet"
    unit = "row"

    def columns(self) -> tuple[str, ...]:
        with self._file() as file:
            return self.named_once(file.schema_arrow.names)

    def fields(self, columns: Sequence[str]) -> Mapping[str, Field]:
        with self._file() as file:
            found = {name: fixed_field(file.schema_arrow.field(name).type) for name in columns}
        return {name: field for name, field in found.items() if field is not None}

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[Any] | BadInput]]:
        with self._file() as file:
            schema = file.schema_arrow
            for name in columns:
                if not is_taken(kind := file.schema_arrow.field(name).type):
                    raise self.refused(
                        f'column "{name}" is {kind}, which is no field: name the columns to keep with --fields; for'
                        " images in it, give --source arrow"
                    )
            self._check_chunks(columns)
        number = 0
        # Texts that are stored once are kept once: written out for each row, a few bytes could fill the memory.
        with self._file(text_columns(schema, columns)) as file:
            for batch in file.iter_batches(_BATCH, columns=list(columns)):
                values = [bounded_values(batch.column(name), name) for name in columns]
                for row in zip(*values, strict=True):
                    number += 1
                    yield number, row

    def _check_chunks(self, columns: Sequence[str]) -> None:
        """Check that no part of a column, which a page may be as large as, is unpacked to more than memory allows."""
        with self._directory.open(self.name) as raw:
            for number, group in enumerate(row_groups(ranges(raw), raw.seek(0, 2))):
                for column in group.columns:
                    top = column.path.partition(".")[0]
                    if top in columns and column.size > _LARGEST_CHUNK:
                        raise self._too_large(top, column.size, number)

    def _too_large(self, column: str, size: int, group: int) -> UsageError:
        return self.refused(
            f'column "{column}" has {size:,} bytes in row group {group}; write it again in smaller row groups, or leave'
            " it out with --fields"
        )

    def categories(self, column: str) -> tuple[str, ...] | None:
        from pyarrow import types

        with self._file() as file:
            if not getattr(file.schema_arrow.field(column).type, "ordered", False):
                return None
            batch = next(file.iter_batches(1, columns=[column]), None)
            if batch is None or not types.is_dictionary(batch.column(column).type):
                return None
            names = batch.column(column).dictionary.to_pylist()
        return tuple(names) if all(isinstance(name, str) and name == name.strip() for name in names) else None

    @contextmanager
    def _file(self, once: Sequence[str] = ()) -> Iterator[Any]:
        """The file, open. The texts of the columns in `once` are kept once each."""
        from pyarrow import parquet

        with (
            self._directory.open(self.name) as raw,
            self._errors("cannot be read as Parquet"),
            parquet.ParquetFile(raw, buffer_size=_BUFFER, read_dictionary=list(once)) as file,
        ):
            yield file

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turns errors of a damaged file into one line, which begins with `what`."""
        import pyarrow as pa

        try:
            yield
        except Damaged as error:
            raise self.refused(str(error)) from error
        except (pa.ArrowException, UnicodeDecodeError, RuntimeError) as error:
            raise self.refused(f"{what}: {str(error).splitlines()[0]}") from error
        except OSError as error:
            if error.errno is not None or type(error) is not OSError:
                raise
            # An OSError without a number is Arrow's error for a damaged page, not one of the disk.
            raise self.refused(f"{what}: {str(error).splitlines()[0]}") from error


class ParquetImages(ParquetRows):
    """One Parquet file with images in it."""

    group = "row group"

    @property
    def schema(self) -> Any:
        """The schema in Arrow's types.

        Raises:
            UsageError: the file is damaged, or of another kind.
        """
        with self._file() as file:
            return checked(file.schema_arrow)

    def groups(self, images: Sequence[ImageColumn], columns: Sequence[Column]) -> Iterator[Group]:
        """Every row group: the values of its rows in these columns, and the places of the images of each of these.

        Raises:
            UsageError: a column is damaged, or too large.
        """
        with self._file(text_tops(columns)) as file, self._directory.open(self.name) as raw:
            leaves = [leaf.path for leaf in map(file.schema.column, range(len(file.schema)))]
            wanted = {column.name: _leaves(leaves, column) for column in columns}
            binary = [_binary_leaf(leaves, image) for image in images]
            levels = [file.schema.column(leaves.index(leaf)) for leaf in binary]
            needed = {leaf for those in wanted.values() for leaf in those}
            for number, group in enumerate(row_groups(ranges(raw), raw.seek(0, 2))):
                for column in group.columns:
                    if column.path in needed and column.size > _LARGEST_CHUNK:
                        raise self._too_large(column.path, column.size, number)
                chunks = [chunk_of(group, leaf, own) for leaf, own in zip(binary, levels, strict=True)]
                found = [places(ranges(raw), chunk) for chunk in chunks]
                yield Group(number, self._group_rows(file, number, group, columns, wanted), found)

    def _group_rows(
        self, file: Any, number: int, group: RowGroup, columns: Sequence[Column], wanted: Mapping[str, Sequence[str]]
    ) -> Iterator[Sequence[Any]]:
        if not columns:
            yield from ([] for _ in range(group.rows))
            return
        names = list(dict.fromkeys(leaf for leaves in wanted.values() for leaf in leaves))
        with self._errors(f"row group {number} cannot be read"):
            for batch in file.iter_batches(_BATCH, row_groups=[number], columns=names):
                yield from zip(*(values_of(batch, column) for column in columns), strict=True)


def _binary_leaf(leaves: Sequence[str], image: ImageColumn) -> str:
    """The column of Parquet that has the bytes of images."""
    own = [leaf for leaf in leaves if leaf == image.name or leaf.startswith(f"{image.name}.")]
    return next(leaf for leaf in own if not image.is_struct or leaf.endswith(".bytes"))


def _leaves(leaves: Sequence[str], column: Column) -> list[str]:
    """The columns of Parquet that a column has its values in."""
    if column.child is None:
        return [leaf for leaf in leaves if leaf == column.top or leaf.startswith(f"{column.top}.")]
    place = column.top.count(".") + (3 if column.is_list else 1)  # "objects.list.element.bbox", or "objects.bbox"
    own = [leaf for leaf in leaves if leaf.startswith(f"{column.top}.")]
    return [leaf for leaf in own if leaf.split(".")[place : place + 1] == [column.child]]
