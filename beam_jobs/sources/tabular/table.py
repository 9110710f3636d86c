"""A table with a row for each image: CSV, TSV, JSONL (also `.gz`), a JSON list or Parquet; a file or a folder.

```
path,label,split,age        the path of the image, below the folder of the table or --root, absolute, or a URL
cat/1.jpg,cat,train,7       every other column is a field of the record
```

`--image-columns path,mask,depth` and `--mask-column` name columns with the paths of further images, or of files that
are kept as bytes: they lie where the images lie. An empty cell is a missing image.
An id is the path in the table, for a URL without its signature, or the value of `--id-column`. Each row is an image:
several boxes of one image are a list in its row.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.annotations.payloads import IMAGE_SUFFIXES, PayloadColumns, role_of_name
from beam_jobs.sources.files.file_names import split_place
from beam_jobs.sources.files.interface import (
    DOWNLOADS,
    BadInput,
    Entry,
    Layout,
    Problem,
    Reference,
    Source,
    SourceOptions,
    refuse_options,
)
from beam_jobs.sources.files.tables.rows import KINDS, Rows
from beam_jobs.sources.paths import UNREACHED, Paths, with_slashes
from beam_jobs.sources.tabular.columns import PATH_COLUMNS, RowColumns, column, listed, no_value, recognise
from beam_jobs.sources.tabular.parts import columns_of_parts, order_of_classes, rows_of_parts, table_parts, table_suffix
from shard_reader.format.fields import Field
from shard_reader.storage.open import directory, is_url
from shard_reader.storage.secrets import unsigned

__all__ = ["Table"]


class Table(Source):
    """The images of a table."""

    def __init__(self, options: SourceOptions) -> None:
        super().__init__(options)
        columns = ("path_column", "id_column", "label_column", "split_column", "fields", "boxes", "points")
        more = ("root", "path_suffix", "label_separator", "box_format", "box_frame", "no_urls", "below", *DOWNLOADS)
        further = ("image_columns", "mask_column", "allow_missing")
        refuse_options(options, "a table", taken=(*columns, *more, *further))
        is_file = table_suffix(options.input) in KINDS
        folder = split_place(options.input)[0] if is_file else options.input
        self._paths = Paths(options.root or folder, options, "--root" if options.root else "INPUT")
        self._folder = directory(folder)
        self._columns: RowColumns | None = None
        self._kind, self._parts, self._rows, self._usable = "", 0, 0, 0
        self._typed = True
        self._first = ""  # problem
        self._fixed: Mapping[str, Field] = {}
        self._order: tuple[str, ...] | None = None  # of an ordered categorical label
        self._like_images: list[str] = []  # fields whose first values look like paths of masks or depth maps

    def entries(self) -> Iterator[Entry]:
        """An entry for each row.

        Raises:
            UsageError: INPUT is not a table, is damaged, or lacks a column.
        """
        try:
            yield from self._entries()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._refused("does not exist") from error
        except PermissionError as error:
            raise self._refused("may not be read") from error

    def layout(self) -> Layout:
        """The fields of the columns.

        Raises:
            UsageError: no row can be used.
        """
        if not self._rows:
            raise self._refused("has no row")
        if not self._usable:
            raise self._refused(f"has no row that can be used; {self._first}")
        columns = self._columns
        assert columns is not None  # a row was seen
        return Layout(
            text=self._text(columns),
            left_out=columns.not_read(),
            warnings=self._warnings(columns),
            class_names=self._order,
            fields=columns.types(self._fixed),
            boxes=columns.box_formats,
            points=columns.point_formats,
            payloads=columns.payloads.roles,
            untyped=not self._typed,
            reached=self._paths.reached,
        )

    def read(self, reference: Reference) -> bytes:
        """The bytes of a file."""
        return self._paths.read(_path(reference), self.reading)

    def read_payload(self, reference: Reference, name: str) -> bytes:
        """The bytes of the file of another column."""
        return self._paths.read(reference.payloads[name], self.reading)

    def size(self, reference: Reference) -> int:
        """The number of bytes of a file on a disk, otherwise -1."""
        return self._paths.size(_path(reference))

    def uri(self, entry: Entry | Reference) -> str:
        """The address of a file; for a row without a path, the address of the row."""
        return self._paths.uri(_path(entry)) if _path(entry) else self._folder.uri(entry.id)

    def host(self, reference: Reference) -> str:
        """The web server of a file; empty for another place."""
        return self._paths.host(_path(reference))

    def answers(self, reference: Reference) -> bool:
        """Whether the root, or the folder of an absolute path, can be reached."""
        return self._paths.answers(_path(reference))

    def _entries(self) -> Iterator[Entry]:
        parts = table_parts(self.options.input, self._refused)
        if self.options.root is not None or self.options.below is not None:
            self._paths.check_root()
        names = columns_of_parts(parts)
        self._kind, self._typed, self._parts = parts[0].kind, parts[0].typed, len(parts)
        self._columns = columns = self._recognise(names)
        self._fixed = parts[0].fields(columns.fields)
        self._order = order_of_classes(parts, columns.label)
        for part, number, values in rows_of_parts(parts, names, columns.wanted):
            entry = self._entry(part, number, values)
            self._rows += 1
            if entry.problem is None and not self._usable:
                self._like_images = [name for name, value in entry.fields.items() if _is_mask(name, value)]
            self._usable += entry.problem is None
            if entry.problem is not None and not self._first:
                self._first = entry.problem.message
            yield entry
        if not self._rows and parts[0].same_columns:
            raise self._refused(f"has no row, only the columns {listed(names)}")

    def _recognise(self, names: Sequence[str]) -> RowColumns:
        payloads = PayloadColumns.of(self.options)
        given = payloads.image_or("--path-column", self.options.path_column)
        usual = [name for name in PATH_COLUMNS if name not in payloads.columns.values()]
        path = column(
            "--path-column" if payloads.image is None else "--image-columns", given, usual, names, self.options
        )
        if path is None:
            raise self._refused(f"which column has the paths of images? give --path-column; it has {listed(names)}")
        return recognise(names, self.options, path, self._refused)

    def _entry(self, part: Rows, number: int, values: Sequence[Any] | BadInput) -> Entry:
        columns = self._columns
        assert columns is not None  # a row was read by them
        where, own = f"{part.name} {part.unit} {number}", f"{part.name}:{number}"
        if isinstance(values, BadInput):
            return Entry(own, place="", problem=Problem(values.reason, f"{where}: {values}"))
        row = dict(zip(columns.wanted, values, strict=True))
        path = row[columns.image]
        if not isinstance(path, str) or not path:
            message = f'{where}: column "{columns.image}" {no_value(path)}; it is to have the path of an image'
            return Entry(own, place="", problem=Problem("no-path", message))
        path = with_slashes(path) + (self.options.path_suffix or "")
        # Signed URLs have another signature on every run, and a signature is a credential: ids go without it.
        id = unsigned(path) if is_url(path) else path
        place = None if id == path else path
        try:
            self._paths.check(path)
            if columns.id is not None:
                place = path
                id = columns.id_of(row, id)
            return Entry(
                id,
                place=place,
                label=columns.label_of(row, where),
                split=columns.split_of(row),
                fields=columns.fields_of(row),
                payloads=columns.paths_of(row, self._resolve),
            )
        except BadInput as bad:
            place = "" if bad.reason in UNREACHED else path
            return Entry(id, place=place, problem=Problem(bad.reason, f"{where}: {bad}"))

    def _resolve(self, path: str) -> str:
        """The path of a further image, which has the suffix of the option if it has none."""
        path = with_slashes(path)
        path += "" if posixpath.splitext(path)[1] else self.options.path_suffix or ""
        self._paths.check(path)
        return path

    def _warnings(self, columns: RowColumns) -> tuple[str, ...]:
        if not self._like_images:
            return ()
        names = ",".join((columns.image, *self._like_images))
        return (
            f"INPUT {self.options.input}: {listed(self._like_images)} seems to have paths of images, and is stored as"
            f" texts: to store these images, give --image-columns {names}",
        )

    def _text(self, columns: RowColumns) -> str:
        parts = f" in {self._parts} files" if self._parts > 1 else ""
        below = f" below {self.options.root}" if self.options.root else ""
        found = [f'images in column "{columns.image}"{below}', *columns.texts]
        return f"a {self._kind} table of {self._rows} rows{parts}; {', '.join(found)}"

    def _refused(self, message: str) -> UsageError:
        return UsageError(f"INPUT {self.options.input}: {message}")


def _is_mask(name: str, value: Any) -> bool:
    """Whether a value seems to be the path of a mask or of a depth map."""
    return role_of_name(name) != "photo" and isinstance(value, str) and value.lower().endswith(IMAGE_SUFFIXES)


def _path(entry: Entry | Reference) -> str:
    return entry.id if entry.place is None else str(entry.place)
