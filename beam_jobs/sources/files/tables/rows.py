"""Files of rows: CSV, TSV, JSONL (also `.gz`), JSON lists and Parquet, read a row at a time.

Of Parquet, only needed columns are read.
"""

from __future__ import annotations

import codecs
import csv
import functools
import gzip
import itertools
import json
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import BadInput
from beam_jobs.sources.files.tables.arrow import fixed_field, is_string, is_taken, python_values, text_columns
from beam_jobs.sources.files.tables.json_lists import JsonLists, is_too_deep
from shard_reader.format.fields import Field
from shard_reader.storage.directory import Directory

__all__ = ["KINDS", "Rows", "json_objects"]

_LARGEST_CELL = 1 << 24  # characters: a quote that is not closed would take the rest of the file into memory
_LARGEST_ROW = 1 << 24  # bytes, over all of its lines
_LARGEST_CHUNK = 1 << 29  # bytes of a column in a row group of Parquet
_BATCH = 4096  # rows of Parquet at a time
_BUFFER = 1 << 20  # bytes of each column of Parquet


_SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's first line


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

    def _named_once(self, columns: Sequence[str]) -> tuple[str, ...]:
        for number, name in enumerate(columns):
            if name and name in columns[:number]:
                raise self.refused(f'two columns are named "{name}"; rename one')
        return tuple(columns)

    def _lines(self) -> Generator[str, None, None]:
        """Every line as text, with its line break."""
        for number, line in enumerate(self._stored_lines(), 1):
            # Spreadsheets export "Unicode text" as UTF-16, with a byte order mark or without one.
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
                if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0\0" in (line[:4:2], line[1:4:2]):
                    raise self.refused(f"line 1: byte 1: is UTF-16, not UTF-8; convert it: {self._iconv('UTF-16')}")
                if b"\r" in line.rstrip(b"\r\n") and not line.endswith(b"\n"):
                    lf = f"tr '\\r' '\\n' < {self.name} > {self._renamed('lf')}"
                    raise self.refused(f"has lines that end in CR alone, as of old Macs; convert it: {lf}")
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise self.refused(
                    f"line {number}: byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; if the file is"
                    f" Latin-1, convert it: {self._iconv('LATIN1')}"
                ) from None
            yield text

    def _stored_lines(self) -> Generator[bytes, None, None]:
        with self._directory.open(self.name) as stored:
            if not self.name.lower().endswith(".gz"):
                yield from self._bounded_lines(stored)
                return
            try:
                with gzip.open(stored) as file:
                    yield from self._bounded_lines(file)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise self.refused(f"cannot be unpacked by gzip ({error}); copy it again") from error

    def _bounded_lines(self, file: Any) -> Iterator[bytes]:
        """Each line, none of which may fill the memory: of a few bytes, gzip makes a thousand times as many."""
        for number, line in enumerate(iter(functools.partial(file.readline, _LARGEST_ROW + 1), b""), 1):
            if len(line) > _LARGEST_ROW:
                raise self.refused(f"line {number}: has more than {_LARGEST_ROW:,} bytes; is it a table?")
            yield line

    def _renamed(self, end: str) -> str:
        stem, _, suffix = self.name.rpartition(".")
        return f"{stem}-{end}.{suffix}"

    def _iconv(self, encoding: str) -> str:
        return f"iconv -f {encoding} -t UTF-8 {self.name} > {self._renamed('utf8')}"


class _Csv(Rows):
    kind = "CSV"
    typed = False

    def columns(self) -> tuple[str, ...]:
        with closing(self._cells()) as cells:
            for _, header in cells:
                return self._named_once([name.strip() for name in header])
        raise self.refused("is empty; its first line names the columns")

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[Any] | BadInput]]:
        own = self.columns()
        places = [own.index(name) for name in columns]
        for number, cells in itertools.islice(self._cells(), 1, None):
            if len(cells) == len(own):
                yield number, [cells[place] for place in places]
            else:
                start = ",".join(cells)
                more = "put quotes around a cell that has a comma in it"
                remedy = more if len(cells) > len(own) else "fill in the missing value, or remove the row"
                yield (
                    number,
                    BadInput(
                        "bad-row",
                        f"has {len(cells)} cells, the header has {len(own)}: {start!r:.80}; {remedy}",
                    ),
                )

    def _cells(self) -> Generator[tuple[int, list[str]], None, None]:
        """Every row that is not blank, with the number of its first line."""
        csv.field_size_limit(max(csv.field_size_limit(), _LARGEST_CELL))
        with closing(self._lines()) as lines:
            first, skipped = next(lines, ""), 0
            said = _SEPARATOR.fullmatch(first)
            if said:
                first, skipped = next(lines, ""), 1
            delimiter = said[1] if said else self._delimiter(first)
            row = _RowOfLines(itertools.chain([first], lines))
            reader = csv.reader(row, delimiter=delimiter, strict=True, skipinitialspace=True)
            while True:
                number = reader.line_num + 1 + skipped
                row.size = 0
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except OverflowError:
                    raise self.refused(
                        f"line {number}: a row that begins here has more than {_LARGEST_ROW:,} characters; is a quote"
                        " not closed?"
                    ) from None
                except csv.Error as error:
                    raise self.refused(
                        f"line {number}: a row that begins here has a quote that is not closed, or that has text after"
                        f' it ({error}); write a " in a quoted cell twice'
                    ) from None
                if cells:
                    yield number, cells

    def _delimiter(self, header: str) -> str:
        """The delimiter of the file, by its first line."""
        # Where a comma separates decimals, spreadsheets write CSV with semicolons or tabs.
        return next((character for character in ",;\t" if character in header), ",")


class _RowOfLines:
    """The lines of a table, of which no row takes too many: a line break in quotes goes on with the row."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.size = 0

    def __iter__(self) -> _RowOfLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.size += len(line)
        if self.size > _LARGEST_ROW:
            raise OverflowError
        return line


class _Tsv(_Csv):
    kind = "TSV"

    def _delimiter(self, header: str) -> str:
        return "\t"


class _JsonLines(Rows):
    kind = "JSONL"
    same_columns = False  # any line may lack a key

    def columns(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for _, value in self._objects():
            if not isinstance(value, BadInput):
                found.update(dict.fromkeys(value))
        return tuple(found)

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[Any] | BadInput]]:
        for number, value in self._objects():
            yield number, value if isinstance(value, BadInput) else [value.get(name) for name in columns]

    def _objects(self) -> Iterator[tuple[int, dict[str, Any] | BadInput]]:
        for number, line in enumerate(self._lines(), 1):
            if line.strip():
                yield number, self._object(line)

    def _object(self, line: str) -> dict[str, Any] | BadInput:
        if is_too_deep(line):
            return BadInput("bad-row", f"nests lists and objects too deeply: {line.rstrip()!r:.80}")
        try:
            value = json.loads(line)
            # Escapes such as "\ud83d" can make half of a surrogate pair, which no format can store.
            if "\\u" in line:
                json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return BadInput("bad-row", "has half of a surrogate pair, which is no text")
        except (ValueError, RecursionError) as error:
            message = getattr(error, "msg", str(error))
            return BadInput("bad-row", f"is no JSON ({message}): {line.rstrip()!r:.80}")
        if not isinstance(value, dict):
            return BadInput("bad-row", f"is no JSON object: {line.rstrip()!r:.80}")
        return value


class _JsonArray(_JsonLines):
    kind = "JSON"
    unit = "element"

    def _objects(self) -> Iterator[tuple[int, dict[str, Any] | BadInput]]:
        try:
            for number, (_, value) in enumerate(JsonLists(self._directory, self.name).items(""), 1):
                is_object = isinstance(value, dict)
                yield number, value if is_object else BadInput("bad-row", f"is no JSON object: {value!r:.80}")
        except ValueError as error:
            raise self.refused(str(error)) from error


class _Parquet(Rows):
    kind = "Parquet"
    unit = "row"

    def columns(self) -> tuple[str, ...]:
        with self._file() as file:
            return self._named_once(file.schema_arrow.names)

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
                        f'column "{name}" is {kind}, which cannot be read: images inside of a table are not,'
                        " and other columns can be left out by naming those to keep (--fields)"
                    )
                self._check_chunks(file, name)
        number = 0
        # Texts that are stored once are kept once: written out for each row, a few bytes could fill the memory.
        with self._file(text_columns(schema, columns)) as file:
            for batch in file.iter_batches(_BATCH, columns=list(columns)):
                values = [self._values(batch.column(name), name) for name in columns]
                for row in zip(*values, strict=True):
                    number += 1
                    yield number, row

    def _check_chunks(self, file: Any, column: str) -> None:
        """Check that no part of a column, which a page may be as large as, is unpacked to more than memory allows."""
        metadata = file.metadata
        for group in range(metadata.num_row_groups):
            for place in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(place)
                if chunk.path_in_schema.partition(".")[0] == column and chunk.total_uncompressed_size > _LARGEST_CHUNK:
                    raise self.refused(
                        f'column "{column}" has {chunk.total_uncompressed_size:,} bytes in row group {group}; write it'
                        " again in smaller row groups, or leave it out with --fields"
                    )

    def _values(self, column: Any, name: str) -> Iterable[Any]:
        from pyarrow import compute, types

        if not types.is_dictionary(column.type) or not is_string(column.type.value_type):
            return python_values(column)
        sizes = compute.binary_length(column.dictionary)
        if (compute.max(sizes).as_py() or 0) > _LARGEST_ROW:
            raise self.refused(f'column "{name}" has a text of more than {_LARGEST_ROW:,} bytes')
        if (compute.sum(sizes.take(column.indices)).as_py() or 0) > _LARGEST_ROW:
            return (value.as_py() for value in column)
        return python_values(column.dictionary_decode())

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
        import pyarrow as pa
        from pyarrow import parquet

        with self._directory.open(self.name) as raw:
            try:
                with parquet.ParquetFile(raw, buffer_size=_BUFFER, read_dictionary=list(once)) as file:
                    yield file
            except (pa.ArrowException, UnicodeDecodeError) as error:
                raise self.refused(f"cannot be read as Parquet: {str(error).splitlines()[0]}") from error
            except OSError as error:
                if error.errno is not None or type(error) is not OSError:
                    raise
                # An OSError without a number is Arrow's error for a damaged page, not one of the disk.
                raise self.refused(f"cannot be read as Parquet: {str(error).splitlines()[0]}") from error


_TEXTS: Mapping[str, type[Rows]] = {".csv": _Csv, ".tsv": _Tsv, ".jsonl": _JsonLines, ".ndjson": _JsonLines}
KINDS: Mapping[str, type[Rows]] = {
    **_TEXTS,
    ".json": _JsonArray,
    ".parquet": _Parquet,
    **{f"{suffix}.gz": kind for suffix, kind in _TEXTS.items()},
}
"""The class that reads files of each suffix."""


def json_objects(directory: Directory, name: str) -> Iterator[tuple[int, dict[str, Any] | BadInput]]:
    """The number and the object of each line of a JSONL that is not empty, or the defect of the line.

    Raises:
        UsageError: the file is damaged.
    """
    return _JsonLines(directory, name)._objects()
