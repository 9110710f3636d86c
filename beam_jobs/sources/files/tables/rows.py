"""Files of rows: CSV, TSV, JSONL (also `.gz`), JSON lists and Parquet, read a row at a time."""

from __future__ import annotations

import codecs
import csv
import functools
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from beam_jobs.sources.files.interface import BadInput
from beam_jobs.sources.files.tables.json_lists import JsonLists, is_too_deep
from beam_jobs.sources.files.tables.parquet import ParquetRows
from beam_jobs.sources.files.tables.row_files import LARGEST_ROW, Rows
from shard_reader.storage.directory import Directory

__all__ = ["KINDS", "Rows", "json_objects"]

_LARGEST_CELL = 1 << 24  # characters: a quote that is not closed would take the rest of the file into memory


_SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's first line


class _TextRows(Rows):
    """A file of lines."""

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
        for number, line in enumerate(iter(functools.partial(file.readline, LARGEST_ROW + 1), b""), 1):
            if len(line) > LARGEST_ROW:
                raise self.refused(f"line {number}: has more than {LARGEST_ROW:,} bytes; is it a table?")
            yield line

    def _renamed(self, end: str) -> str:
        stem, _, suffix = self.name.rpartition(".")
        return f"{stem}-{end}.{suffix}"

    def _iconv(self, encoding: str) -> str:
        return f"iconv -f {encoding} -t UTF-8 {self.name} > {self._renamed('utf8')}"


class _Csv(_TextRows):
    kind = "CSV"
    typed = False

    def columns(self) -> tuple[str, ...]:
        with closing(self._cells()) as cells:
            for _, header in cells:
                return self.named_once([name.strip() for name in header])
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
                        f"line {number}: a row that begins here has more than {LARGEST_ROW:,} characters; is a quote"
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
        if self.size > LARGEST_ROW:
            raise OverflowError
        return line


class _Tsv(_Csv):
    kind = "TSV"

    def _delimiter(self, header: str) -> str:
        return "\t"


class _JsonLines(_TextRows):
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


_TEXTS: Mapping[str, type[Rows]] = {".csv": _Csv, ".tsv": _Tsv, ".jsonl": _JsonLines, ".ndjson": _JsonLines}
KINDS: Mapping[str, type[Rows]] = {
    **_TEXTS,
    ".json": _JsonArray,
    ".parquet": ParquetRows,
    **{f"{suffix}.gz": kind for suffix, kind in _TEXTS.items()},
}
"""The class that reads files of each suffix."""


def json_objects(directory: Directory, name: str) -> Iterator[tuple[int, dict[str, Any] | BadInput]]:
    """The number and the object of each line of a JSONL that is not empty, or the defect of the line.

    Raises:
        UsageError: the file is damaged.
    """
    return _JsonLines(directory, name)._objects()
