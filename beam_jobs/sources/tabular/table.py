"""A table with a row for each image: CSV, TSV, JSONL (also `.gz`), a JSON list or Parquet; a file or a folder.

```
path,label,split,age        the path of the image, below the folder of the table or --root, absolute, or a URL
cat/1.jpg,cat,train,7       every other column is a field of the record
```

An id is the path in the table, for a URL without its signature, or the value of `--id-column`. Each row is an image:
several boxes of one image are a list in its row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.annotations import boxes, points
from beam_jobs.sources.files.class_names import one_hot
from beam_jobs.sources.files.file_names import split_place
from beam_jobs.sources.files.interface import (
    DOWNLOADS,
    BadInput,
    Entry,
    Label,
    Layout,
    LeftOut,
    Problem,
    Reference,
    Source,
    SourceOptions,
    refuse_options,
)
from beam_jobs.sources.files.tables.rows import KINDS, Rows
from beam_jobs.sources.paths import UNREACHED, Paths, with_slashes
from shard_reader.format.fields import Field
from shard_reader.printable import printable
from shard_reader.storage.open import directory, is_url
from shard_reader.storage.secrets import unsigned

__all__ = ["Table"]

PATH_COLUMNS = (
    "path", "file", "file_name", "filename", "filepath", "file_path", "image", "image_path", "image_file", "image_name",
    "img", "img_path", "tile_name", "url", "image_url", "image_id",
)  # fmt: skip
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "y", "target")
_INDEX = re.compile(r"|__index_level_[0-9]+__")  # pandas' names for its row numbers
_SHOWN = 20  # columns of a long table


@dataclass(frozen=True, slots=True, kw_only=True)
class _TableColumns:
    """The columns by their meaning."""

    path: str
    id: str | None
    label: str | None
    split: str | None
    boxes: tuple[str, ...]
    points: tuple[str, ...]
    fields: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def wanted(self) -> list[str]:
        """The columns to read, each once."""
        named = (self.path, self.id, self.label, self.split, *self.boxes, *self.points, *self.fields)
        return [name for name in dict.fromkeys(named) if name is not None]


class Table(Source):
    """The images of a table."""

    def __init__(self, options: SourceOptions) -> None:
        super().__init__(options)
        columns = ("path_column", "id_column", "label_column", "split_column", "fields", "boxes", "points")
        more = ("root", "path_suffix", "label_separator", "box_format", "box_frame", "no_urls", "below", *DOWNLOADS)
        refuse_options(options, "a table", taken=(*columns, *more))
        is_file = _suffix(options.input) in KINDS
        folder = split_place(options.input)[0] if is_file else options.input
        self._paths = Paths(options.root or folder, options, "--root" if options.root else "INPUT")
        self._folder = directory(folder)
        self._columns: _TableColumns | None = None
        self._kind, self._parts, self._rows, self._usable = "", 0, 0, 0
        self._typed = True
        self._first = ""  # problem
        self._fixed: Mapping[str, Field] = {}
        self._order: tuple[str, ...] | None = None  # of an ordered categorical label

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
        fields = dict(self._fixed)
        if columns.boxes:
            fields["objects/bbox"] = Field(dtype="float32", shape=(None, 4))
        if columns.points:
            fields["objects/point"] = Field(dtype="float32", shape=(None, 2))
        parts_of_image = self.options.box_format.startswith("rel-")
        return Layout(
            text=self._text(columns),
            left_out=self._left_out(columns),
            class_names=self._order,
            fields=fields,
            boxes={"objects/bbox": self.options.box_format} if columns.boxes else {},
            points={"objects/point": "rel-xy" if parts_of_image else "xy"} if columns.points else {},
            untyped=not self._typed,
            reached=self._paths.reached,
        )

    def read(self, reference: Reference) -> bytes:
        """The bytes of a file."""
        return self._paths.read(_path(reference), self.reading)

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
        parts = self._find_parts()
        if self.options.root is not None or self.options.below is not None:
            self._paths.check_root()
        names = parts[0].columns()
        if not parts[0].same_columns:
            names = tuple(dict.fromkeys(name for part in parts for name in part.columns()))
        if not names:
            raise parts[0].refused(f"has no {'column' if parts[0].same_columns else 'line with a JSON object'}")
        self._kind, self._typed, self._parts = parts[0].kind, parts[0].typed, len(parts)
        self._columns = columns = self._recognise(names)
        self._fixed = parts[0].fields(columns.fields)
        orders = {part.categories(columns.label) for part in parts} if columns.label is not None else set()
        self._order = orders.pop() if len(orders) == 1 else None
        for part in parts:
            if part.same_columns and set(part.columns()) != set(names):
                raise part.refused(
                    f"has the columns {_listed(part.columns())}; {parts[0].name} has {_listed(names)}:"
                    " the files of a folder are one table, with the same columns"
                )
            for number, values in part.rows(columns.wanted):
                entry = self._entry(part, number, values)
                self._rows += 1
                self._usable += entry.problem is None
                if entry.problem is not None and not self._first:
                    self._first = entry.problem.message
                yield entry
        if not self._rows and parts[0].same_columns:
            raise self._refused(f"has no row, only the columns {_listed(names)}")

    def _find_parts(self) -> list[Rows]:
        """The files of the table, in the order of their names."""
        folder, name = self._folder, split_place(self.options.input)[1]
        inside = directory(self.options.input)
        if not inside.exists():
            suffix = _suffix(name)
            if suffix not in KINDS:
                raise self._refused(f"is no table; its name would end in {', '.join(KINDS)}")
            return [KINDS[suffix](folder, name)]
        # Spark writes a file _SUCCESS beside the parts of a table.
        names = sorted(name for name in inside.names() if not name.startswith((".", "_")))
        if not names:
            raise self._refused("is an empty folder")
        odd = next((name for name in names if _suffix(name) not in KINDS), None)
        if odd is not None or len({_suffix(name) for name in names}) > 1:
            table = next((name for name in names if _suffix(name) in KINDS), None)
            remedy = f"give the table alone: {self.options.input}/{table}" if table else "give a table"
            raise self._refused(f"a folder of tables has nothing else in it, here is {odd or names[-1]}; {remedy}")
        return [KINDS[_suffix(name)](inside, name) for name in names]

    def _recognise(self, names: Sequence[str]) -> _TableColumns:
        options = self.options
        path = self._column("--path-column", options.path_column, PATH_COLUMNS, names)
        if path is None:
            raise self._refused(f"which column has the paths of images? give --path-column; it has {_listed(names)}")
        elsewhere = {path, options.id_column, *(options.fields or ()), *(options.boxes or ()), *(options.points or ())}
        others = [name for name in names if name not in elsewhere]
        label = self._column("--label-column", options.label_column, LABEL_COLUMNS, names, others)
        split = self._column("--split-column", options.split_column, ("split",), names, others)
        if options.label_separator is not None and label is None:
            raise self._refused(
                f"--label-separator: no column has labels; give --label-column; it has {_listed(names)}"
            )
        for option, given, counts in (("--boxes", options.boxes, (1, 4)), ("--points", options.points, (1, 2))):
            if given is not None and len(given) not in counts:
                raise UsageError(f"{option} {','.join(given)}: give one column of lists, or {counts[1]} columns")
        for option, several in (("--fields", options.fields), ("--boxes", options.boxes), ("--points", options.points)):
            for one in several or ():
                self._column(option, one, (), names)
        id_column = self._column("--id-column", options.id_column, (), names)
        taken = {path, id_column, label, split, *(options.boxes or ()), *(options.points or ())}
        rest = tuple(name for name in names if name not in taken and not _INDEX.fullmatch(name))
        fields = rest if options.fields is None else options.fields
        for made, given in (("objects/bbox", options.boxes), ("objects/point", options.points)):
            if given and made in fields:
                raise self._refused(f'the column "{made}" has the name that {given[0]} gets; rename it')
        return _TableColumns(
            path=path,
            id=id_column,
            label=label,
            split=split,
            boxes=options.boxes or (),
            points=options.points or (),
            fields=fields,
            left_out=tuple(name for name in names if name not in taken.union(fields)),
        )

    def _column(
        self,
        option: str,
        given: str | None,
        usual: Sequence[str],
        names: Sequence[str],
        free: Sequence[str] | None = None,
    ) -> str | None:
        """The column of an option, or else the first free column with a usual name, in any case."""
        if given is not None:
            if given not in names or not given:
                raise UsageError(
                    f"{option} {given}: INPUT {self.options.input} has no such column; it has {_listed(names)}"
                )
            return given
        lower = {name.lower(): name for name in reversed(names if free is None else free)}
        return next((lower[name] for name in usual if name in lower), None)

    def _entry(self, part: Rows, number: int, values: Sequence[Any] | BadInput) -> Entry:
        columns = self._columns
        assert columns is not None  # a row was read by them
        where, own = f"{part.name} {part.unit} {number}", f"{part.name}:{number}"
        if isinstance(values, BadInput):
            return Entry(own, place="", problem=Problem(values.reason, f"{where}: {values}"))
        row = dict(zip(columns.wanted, values, strict=True))
        path = row[columns.path]
        if not isinstance(path, str) or not path:
            message = f'{where}: column "{columns.path}" {_no_value(path)}; it is to have the path of an image'
            return Entry(own, place="", problem=Problem("no-path", message))
        path = with_slashes(path) + (self.options.path_suffix or "")
        # Signed URLs have another signature on every run, and a signature is a credential: ids go without it.
        id = unsigned(path) if is_url(path) else path
        place = None if id == path else path
        try:
            self._paths.check(path)
            if columns.id is not None:
                place = path
                id = _name(row, columns.id, "no-id", "an id")
            return Entry(
                id,
                place=place,
                label=self._label(row[columns.label], columns.label, where) if columns.label is not None else None,
                split=_name(row, columns.split, "no-split", "a split") if columns.split is not None else None,
                fields=self._fields(row, columns),
            )
        except BadInput as bad:
            place = "" if bad.reason in UNREACHED else path
            return Entry(id, place=place, problem=Problem(bad.reason, f"{where}: {bad}"))

    def _label(self, value: Any, column: str, where: str) -> Label:
        separator = self.options.label_separator
        # With a separator, an empty cell is an image without labels, and not a missing label.
        if separator is not None and isinstance(value, str):
            return [part.strip() for part in value.split(separator) if part.strip()]
        if value is None or (isinstance(value, str) and not value.strip()) or value != value:
            raise BadInput("no-label", f'column "{column}" is empty; it is to have a label')
        if isinstance(value, list):
            hot = one_hot(value)
            return hot if hot is not None else [_class(one, column, where) for one in value]  # type: ignore[return-value]
        return _class(value, column, where)

    def _fields(self, row: Mapping[str, Any], columns: _TableColumns) -> dict[str, Any]:
        fields = {name: row[name] for name in columns.fields}
        if columns.boxes:
            fields["objects/bbox"] = boxes([row[name] for name in columns.boxes], self.options.box_format)
        if columns.points:
            fields["objects/point"] = points([row[name] for name in columns.points])
        if columns.boxes or columns.points:
            of_objects = {name: v for name, v in fields.items() if name.startswith("objects/")}
            counts = {n: 0 if v is None else len(v) for n, v in of_objects.items() if v is None or isinstance(v, list)}
            if len(set(counts.values())) > 1:
                counted = ", ".join(f"{count} in {name}" for name, count in counts.items())
                raise BadInput("bad-box", f"as many elements as objects are to be in each of them, here are {counted}")
        return fields

    def _left_out(self, columns: _TableColumns) -> tuple[LeftOut, ...]:
        """The columns that are not read, with the reason."""
        indexes = [name for name in columns.left_out if _INDEX.fullmatch(name)]
        others = [name for name in columns.left_out if name not in indexes]
        index = LeftOut(what="the column without a name", why="row numbers of pandas; rename it to read it")
        other = LeftOut(what=f"columns {_listed(others)}", why="--fields does not name them")
        return (*([index] if indexes else []), *([other] if others else []))

    def _text(self, columns: _TableColumns) -> str:
        parts = f" in {self._parts} files" if self._parts > 1 else ""
        below = f" below {self.options.root}" if self.options.root else ""
        found = [f'images in column "{columns.path}"{below}']
        for what, name in (("ids", columns.id), ("labels", columns.label), ("split", columns.split)):
            if name is not None:
                found.append(f'{what} in "{name}"')
        for what, several in (("boxes", columns.boxes), ("points", columns.points)):
            if several:
                found.append(f"{what} in " + ", ".join(f'"{name}"' for name in several))
        if columns.fields:
            found.append(f"fields {_listed(columns.fields)}")
        return f"a {self._kind} table of {self._rows} rows{parts}; {', '.join(found)}"

    def _refused(self, message: str) -> UsageError:
        return UsageError(f"INPUT {self.options.input}: {message}")


def _suffix(place: str) -> str:
    name = place.rpartition("/")[2].lower()
    dot, suffix = name.removesuffix(".gz").rpartition(".")[1:]
    return dot + suffix + (".gz" if name.endswith(".gz") else "")


def _path(entry: Entry | Reference) -> str:
    return entry.id if entry.place is None else str(entry.place)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) or '""' for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _no_value(value: Any) -> str:
    return "is empty" if value is None or value == "" else f"is {value!r:.80}"


def _name(row: Mapping[str, Any], column: str, reason: str, what: str) -> str:
    """The value of a column as a text: a text, or a whole number."""
    value = row[column]
    if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
        return str(value)
    raise BadInput(reason, f'column "{column}" {_no_value(value)}; it is to have {what}')


def _class(value: Any, column: str, where: str) -> str | int:
    """A class: a name or a number."""
    # Pandas writes whole numbers as floats where some are missing.
    if (isinstance(value, float) and value.is_integer()) or isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value == value:
        raise UsageError(
            f'{where}: column "{column}" is {value}, which is no class; if it is a value to predict, make it a field:'
            f" --fields {column}"
        )
    if isinstance(value, str):
        value = value.strip()
    if isinstance(value, (str, int)) and value != "":
        return value
    raise BadInput("bad-label", f'column "{column}" has {value!r:.80}, which is no class')
