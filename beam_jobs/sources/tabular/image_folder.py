"""A folder of images with files that describe them, as ImageFolder of Hugging Face has it.

```
INPUT/metadata.csv          file_name,label,age      or metadata.jsonl, or metadata.parquet
INPUT/1.jpg                 1.jpg,cat,7
INPUT/train/metadata.csv    one for each split folder, with paths relative to it
```

The column `file_name`, or one that ends in `_file_name`, has paths relative to the folder of its file. Further such
columns have further images: those of `mask_file_name` become the field `mask`. Every other column is a field, as of a
table. An id is the path relative to INPUT. Splits are folders right below INPUT. Labels come
from a column alone: where images are described, other folders are no classes, as in Hugging Face. An image without a
row, and a row without its image, are rejects. Images and rows are joined on disk.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import posixpath
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.sources.files.annotations.payloads import PayloadColumns, read_file
from beam_jobs.sources.files.file_names import SPLIT_NAMES, LeftOutFiles, is_ignored
from beam_jobs.sources.files.interface import (
    BadInput,
    Entry,
    Layout,
    LeftOut,
    Problem,
    Reference,
    Source,
    SourceOptions,
    refuse_options,
)
from beam_jobs.sources.files.many_images import count
from beam_jobs.sources.files.tables.rows import KINDS, Rows
from beam_jobs.sources.paths import with_slashes
from beam_jobs.sources.tabular.columns import RowColumns, column, listed, no_value, recognise
from beam_jobs.sources.tabular.metadata_files import METADATA, field_of, file_columns, is_metadata
from beam_jobs.sources.tabular.parts import columns_of_parts, order_of_classes, rows_of_parts
from shard_reader.format.fields import Field
from shard_reader.storage.open import directory

__all__ = ["ImageFolder"]

_MOST_TOPS = 1000  # folders right below INPUT that are kept
_FILE, _ROW, _FURTHER = range(3)  # kinds of lines: a file, a row about one, and a further image of a row


class ImageFolder(Source):
    """The images of a folder, described by files in it."""

    def __init__(self, options: SourceOptions) -> None:
        super().__init__(options)
        columns = ("path_column", "id_column", "label_column", "split_column", "fields", "boxes", "points")
        more = ("label_separator", "box_format", "box_frame", "image_columns", "mask_column", "allow_missing")
        refuse_options(options, "a folder of images with metadata", taken=(*columns, *more))
        try:
            self._directory = directory(options.input)
        except (ValueError, TypeError, ImportError) as error:
            raise UsageError(f"INPUT {options.input}: {error}") from error
        self._left_out = LeftOutFiles()
        self._parts: list[Rows] = []
        self._columns: RowColumns | None = None
        self._others: list[str] = []  # columns with names of other files
        self._fixed: Mapping[str, Field] = {}
        self._order: tuple[str, ...] | None = None  # of an ordered categorical label
        self._tops: set[str] = set()  # the first folders of images; "" is INPUT
        self._folders = 0  # of images, below those with metadata
        self._usable = 0
        self._first = ""  # problem

    def entries(self) -> Iterator[Entry]:
        """Every image, and every row without one.

        Raises:
            UsageError: INPUT is missing, has no such file, or one is damaged.
        """
        if not self._directory.exists():
            raise self._refused(f"does not exist, or is no folder{self._directory.missing()}")
        with tempfile.TemporaryDirectory(prefix="image-shards-") as folder:
            spill = Spill(Path(folder))
            for entry in itertools.chain(self._images(spill), self._rows(spill), self._joined(spill)):
                self._usable += entry.problem is None
                if entry.problem is not None and not self._first:
                    self._first = f"; {entry.id}: {entry.problem.message}"
                yield entry

    def layout(self) -> Layout:
        """The fields of the columns, and the splits.

        Raises:
            UsageError: no image can be used.
        """
        columns = self._columns
        if not self._usable or columns is None:
            raise self._refused(f"has no image that can be used{self._first}")
        splits = self._splits
        text = f"split folders ({', '.join(sorted(splits))}) of " if splits else ""
        text += f"images described by {count(len(self._parts), self._parts[0].name, 'files')}"
        called, warnings = f"INPUT {self.options.input}", []
        if columns.label is None and self._folders > 1:
            warnings.append(
                f"{called}: images lie in folders, which are no classes where metadata describes them: if they are,"
                " write a column label, or give --source folder"
            )
        return Layout(
            text=", ".join([f'{text} (names in column "{columns.image}")', *columns.texts]),
            left_out=(*self._left_out.named(), *columns.not_read(), *self._unread(columns)),
            warnings=tuple(warnings),
            class_names=self._order,
            splits=splits if columns.split is None else None,
            fields=columns.types(self._fixed),
            boxes=columns.box_formats,
            points=columns.point_formats,
            payloads=columns.payloads.roles,
            untyped=not self._parts[0].typed,
        )

    def resolve(self, entry: Entry) -> Entry | Problem:
        """The entry, completed with the split of its folder."""
        if entry.problem is not None or self._columns is None or self._columns.split is not None or not self._splits:
            return entry.problem or entry
        return entry._replace(split=_name(entry).partition("/")[0].lower())

    def uri(self, entry: Entry | Reference) -> str:
        """The address of a file."""
        return self._directory.uri(_name(entry))

    def read(self, reference: Reference) -> bytes:
        """The bytes of a file."""
        return self._directory.read(_name(reference))

    def read_payload(self, reference: Reference, name: str) -> bytes:
        """The bytes of the file of another column."""
        return read_file(self._directory, reference.payloads[name], self.reading)

    def answers(self, reference: Reference) -> bool:
        """Whether the folder of a missing file, or INPUT, can be reached."""
        return self._directory.answers(_name(reference))

    @property
    def _splits(self) -> tuple[str, ...] | None:
        """The splits, if all images are in folders that are splits."""
        tops = {top.lower() for top in self._tops}
        return tuple(name for name in SPLIT_NAMES if name in tops) if tops and tops <= set(SPLIT_NAMES) else None

    def _images(self, spill: Spill) -> Iterator[Entry]:
        """Note every image; an entry for a file of another kind, and for an image that no metadata can describe."""
        described: dict[str, Rows] = {}
        folders = set[str]()
        for file in self._directory.walk():
            name = file.name
            if is_metadata(name) and not name.startswith(".") and "/." not in name:
                folder = posixpath.dirname(name)
                if folder in described:
                    raise self._refused(f"has {name} and {described[folder].name}; keep one of them")
                described[folder] = KINDS[posixpath.splitext(name)[1]](self._directory, name)
            elif is_ignored(name):
                self._left_out.add(name)
            elif not file.regular:
                yield Entry(name, 0, problem=Problem("not-a-file", "is a link to nowhere, a pipe or a device"))
            else:
                if len(folders) < _MOST_TOPS:
                    folders.add(posixpath.dirname(name))
                self._add(spill, name, _FILE, [file.size])
        if not described:
            raise self._refused(f"has no {', '.join(METADATA[:-1])} or {METADATA[-1]}; give --source folder")
        self._folders = len(folders - described.keys())
        self._parts = [described[folder] for folder in sorted(described)]

    def _rows(self, spill: Spill) -> Iterator[Entry]:
        """Note every row; an entry for one that cannot be read."""
        parts = self._parts
        if len({part.kind for part in parts}) > 1:
            odd = next(part.name for part in parts if part.kind != parts[0].kind)
            raise self._refused(f"is described by {parts[0].name} and {odd}; write both in one format")
        names = columns_of_parts(parts)
        self._columns = columns = self._recognise(names, parts[0])
        self._fixed = parts[0].fields(columns.fields)
        self._order = order_of_classes(parts, columns.label)
        for part, number, values in rows_of_parts(parts, names, columns.wanted):
            where = f"{part.name} {part.unit} {number}"
            name, own = None, f"{part.name}:{number}"
            if isinstance(values, BadInput):
                yield Entry(own, place="", problem=Problem(values.reason, f"{where}: {values}"))
                continue
            row = dict(zip(columns.wanted, values, strict=True))
            try:
                name = _inside(part.name, row[columns.image], columns.image)
                if len(self._tops) < _MOST_TOPS:
                    self._tops.add(name.partition("/")[0] if "/" in name else "")
                payloads = columns.paths_of(row, functools.partial(_below, part.name))
                for path in payloads.values():
                    self._add(spill, path, _FURTHER, None)
                entry = Entry(
                    columns.id_of(row, name),
                    place=name if columns.id is not None else None,
                    label=columns.label_of(row, where),
                    split=columns.split_of(row),
                    fields=columns.fields_of(row),
                    payloads=payloads,
                )
                self._add(spill, name, _ROW, [where, entry])
            except BadInput as bad:
                problem = Problem(bad.reason, f"{where}: {bad}")
                if name is None:
                    yield Entry(own, place="", problem=problem)
                else:
                    self._add(spill, name, _ROW, [where, Entry(name, problem=problem)])

    def _recognise(self, names: Sequence[str], part: Rows) -> RowColumns:
        found = file_columns(names)
        payloads = PayloadColumns.of(self.options)
        given = payloads.image_or("--path-column", self.options.path_column)
        usual = [name for name in found if name not in payloads.columns.values()]
        path = column(
            "--path-column" if payloads.image is None else "--image-columns", given, usual, names, self.options
        )
        if path is None:
            raise part.refused(f"has no column file_name, nor one that ends so; it has {listed(names)}")
        special = {path, *payloads.columns.values(), *(self.options.fields or ())}
        self._others = [name for name in found if name not in special]
        if self.options.image_columns is None:
            payloads = payloads.with_columns({field_of(name): name for name in self._others})
            self._others = [name for name in self._others if name not in payloads.columns.values()]
        names = [name for name in names if name not in self._others]
        return recognise(names, self.options, path, self._refused, splits=(), payloads=payloads)

    def _joined(self, spill: Spill) -> Iterator[Entry]:
        """The entry of each image with a row, and one with a problem for each without one, and for other rows."""
        for _, lines in itertools.groupby(spill.lines(), lambda line: line[:32]):
            found = [json.loads(line[33:]) for line in lines]
            sizes = [value[0] for name, number, value in found if number == _FILE]
            rows = [value for name, number, value in found if number == _ROW]
            if not rows and len(sizes) == len(found):  # no row names the file, nor for another column
                message = f"no {posixpath.basename(self._parts[0].name)} has a row for it"
                yield Entry(found[0][0], sizes[0], problem=Problem("no-row", message))
            for where, fields in rows:
                entry = Entry(*fields)
                problem = Problem(*entry.problem) if entry.problem else None
                if not sizes:
                    problem = problem or Problem("missing", f"{where}: names {found[0][0]}, which is not there")
                yield entry._replace(size=sizes[0] if sizes else -1, problem=problem)

    def _add(self, spill: Spill, name: str, number: int, value: Any) -> None:
        key = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()
        spill.add_line(key, f"{key.hex()}{number}{json.dumps([name, number, value])}".encode())

    def _unread(self, columns: RowColumns) -> Iterator[LeftOut]:
        if self._others:
            why = f"--image-columns does not name them; the image is {columns.image}"
            yield LeftOut(what=f"columns {listed(self._others)}", why=why)

    def _refused(self, message: str) -> UsageError:
        return UsageError(f"INPUT {self.options.input}: {message}")


def _inside(part: str, value: Any, column: str) -> str:
    """The path of a row's image below INPUT.

    Raises:
        BadInput: the value is missing, or leads elsewhere.
    """
    if not isinstance(value, str) or not value:
        raise BadInput("no-path", f'column "{column}" {no_value(value)}; it is to have the path of an image')
    return _below(part, value)


def _below(part: str, value: str) -> str:
    """A path below INPUT, of a path in one of its files.

    Raises:
        BadInput: it leads elsewhere.
    """
    name = posixpath.normpath(posixpath.join(posixpath.dirname(part), with_slashes(value)))
    if name.startswith(("/", "../")) or name in (".", ".."):
        raise BadInput("outside", f"the path {value!r:.80} leads out of INPUT")
    return name


def _name(entry: Entry | Reference) -> str:
    return entry.id if entry.place is None else str(entry.place)
