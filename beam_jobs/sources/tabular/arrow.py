"""Images inside of Parquet and Arrow files, as the Hugging Face Hub and `datasets.save_to_disk` have them.

```
INPUT.parquet                                    one file
INPUT/data/train-00000-of-00005.parquet          the Hub; splits are words in the names, or folders
INPUT/train/data-00000-of-00001.arrow            save_to_disk of a DatasetDict: streams of Arrow; also files of Arrow
```

The column of images is `struct<bytes, path>`, binary, or a list of either, of which the first is read. Of a struct
without bytes, the path is read, as that of a table. An id is the file and the number of the row in it, from 0, in eight
digits: "data/train-00000-of-00005.parquet/00000012". Classes come from the metadata of Hugging Face; a label that is
null or -1 stands for no label. Other columns of images are further images if `--image-columns` names them, or if their
names are of masks or depth maps; other binary columns become bytes as NAME:bytes. Every other column is a field. A
column `objects` of structs of lists has fields `objects/name`.

The plan sorts images by hashes, and so they are read in any order, by every worker. A worker that unpacked a row group
for one image would read the dataset as many times as a row group has rows. So the listing finds the range of each image
in its file, without reading the images (`files/tables/page_bodies.py`), and a worker reads that range and nothing else.
Measured for photos of 110 kB: the listing reads 10 % of a file of Snappy and 4 % of one without compression from a
disk, and the workers read 1.5 times and once as many bytes as the images have. In a store, the listing reads whole
pieces of the files, and so nearly all bytes once.
Memory does not depend on the size of a row group. Pages of other codecs, such as zstd, are unpacked whole for each
image, the last few are kept, and one of more than 128 MiB is an error with the remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.annotations.payloads import PayloadColumns
from beam_jobs.sources.files.file_names import SPLIT_NAMES, split_place
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
from beam_jobs.sources.files.many_images import Files, Splits, count
from beam_jobs.sources.files.tables.page_bodies import Damaged, Values, unpacked_for
from beam_jobs.sources.paths import UNREACHED, Paths, with_slashes
from beam_jobs.sources.tabular.arrow_schema import ArrowFile, FileSchema, arrow_file, is_arrow
from beam_jobs.sources.tabular.columns import RowColumns, listed, recognise
from shard_reader.format.fields import Field

__all__ = ["ArrowFiles"]

_MANY_BYTES, _MANY_TIMES = 1 << 27, 10  # beyond which the pages of zstd and the like are named
_CACHE = "cache-"  # files that datasets keeps beside those of a dataset


class ArrowFiles(Source):
    """A Parquet or Arrow file with images, or a folder of them, on a disk or in an object store."""

    def __init__(self, options: SourceOptions) -> None:
        super().__init__(options)
        columns = ("id_column", "label_column", "label_separator", "split_column", "fields", "boxes", "points")
        more = ("image_key", "box_format", "box_frame", "root", "no_urls", "below", *DOWNLOADS)
        further = ("image_columns", "mask_column", "allow_missing")
        refuse_options(options, "Parquet or Arrow with images", taken=(*columns, *more, *further))
        self._files = Files(options)
        folder = options.input if self._files.directory.exists() else split_place(options.input)[0]
        self._paths = Paths(options.root or folder, options, "--root" if options.root else "INPUT")
        self._values = Values(self._files.directory)
        self._names: list[str] = []
        self._kind = ""
        self._splits = Splits([])
        self._columns: RowColumns | None = None
        self._schema = FileSchema()
        self._rows = self._usable = 0
        self._labelled: dict[str | None, bool] = {}  # whether any image of a split has a label
        self._objects: str | None = None  # the column with the classes of objects
        self._own: dict[str, str] = {}  # the names of fields by those of columns
        self._first = ""  # problem
        self._read = self._unpacked = 0  # bytes of images, and bytes that are unpacked to read each of them

    def entries(self) -> Iterator[Entry]:
        """An entry for each row.

        Raises:
            UsageError: INPUT has no such file, or one is damaged, has no column of images, or other columns.
        """
        if self.options.root is not None or self.options.below is not None:
            self._paths.check_root()
        self._names = self._files.find(_is_wanted, "Parquet or Arrow file (.parquet, .arrow)")
        files = [arrow_file(self._files.directory, name) for name in self._names]
        self._kind = files[0].kind
        if len({file.kind for file in files}) > 1:
            raise self._refused("holds Parquet and Arrow files; give a folder that holds one kind, or one file")
        by_column = self.options.split_column is not None
        self._splits = Splits([] if by_column else _below_common(self._names))
        for entry in self._files.others(_is_wanted, self._names):
            if is_arrow(entry.id):
                self._files.left_out.add(entry.id, "kept by datasets beside a dataset")
                continue
            self._note(entry)
            yield entry
        self._recognise(files[0])
        for file, name, short in zip(files, self._names, _below_common(self._names), strict=True):
            schema = file.schema if file is not files[0] else None
            if schema is not None and (problem := self._schema.difference(FileSchema(schema), files[0].name)):
                raise file.refused(problem)
            split = self._splits.of(short)
            for entry in self._entries(file, name, split):
                self._note(entry)
                yield entry

    def layout(self) -> Layout:
        """The fields, the classes of the metadata, and the splits.

        Raises:
            UsageError: no row can be used.
        """
        if not self._usable:
            raise self._refused(f"has no image that can be used{self._first}" if self._rows else "has no row")
        columns, schema = self._columns, self._schema
        assert columns is not None  # a row was seen
        article = "an" if self._kind == "Arrow" else "a"
        files = count(len(self._names), f"{article} {self._kind} file", f"{self._kind} files")
        what = f"{self._splits.text}{files} of {count(self._rows, '1 row', 'rows')}"
        lists = ", the first of each list" if schema.image.is_list else ""
        text = f"{what}; " + ", ".join([f'images in column "{columns.image}"{lists}', *columns.texts])
        fields = columns.types({self._own[name]: field for name, field in schema.fixed(columns.fields).items()})
        any_label = any(self._labelled.values())
        names = schema.classes.get(columns.label or "") if any_label else None
        unlabelled = frozenset(split for split, some in self._labelled.items() if split is not None and not some)
        if self._objects is not None:
            fields["objects/label"] = Field(dtype="int64", shape=(None,))
            names = schema.classes[self._objects]
        return Layout(
            text=text,
            left_out=(*self._files.left_out.named(), *self._left_out(columns)),
            warnings=tuple(self._warnings(columns)),
            class_names=names,
            splits=self._splits.names,
            fields=fields,
            boxes=columns.box_formats,
            points=columns.point_formats,
            payloads=columns.payloads.roles,
            unlabelled=unlabelled if any_label else frozenset(),
            reached=self._paths.reached,
        )

    def read(self, reference: Reference) -> bytes:
        """The bytes of an image.

        Raises:
            BadInput: the file is damaged, or has become shorter since the listing.
        """
        return self._read_at(reference.place)

    def read_payload(self, reference: Reference, name: str) -> bytes:
        """The bytes in another column, or of the file that it names. Raises as `read` does."""
        return self._read_at(reference.payloads[name])

    def _read_at(self, place: Any) -> bytes:
        if isinstance(place, str):
            return self._paths.read(place, self.reading)
        name, *place = place
        if place[-1] > self.reading.max_bytes:
            raise BadInput("too-large", f"has {place[-1]:,} bytes, more than --max-bytes {self.reading.max_bytes:,}")
        try:
            return self._values.read(name, place)
        except Damaged as error:
            raise BadInput("damaged", str(error)) from error

    def size(self, reference: Reference) -> int:
        """The number of bytes of an image; -1 for the path of a file elsewhere."""
        return self._paths.size(reference.place) if isinstance(reference.place, str) else reference.size

    def uri(self, entry: Entry | Reference) -> str:
        """The address of the file, followed by the number of the row, or by an id of a column; or that of a path."""
        if isinstance(entry.place, str) and entry.place:
            return self._paths.uri(entry.place)
        if self.options.id_column is not None and entry.place:
            return f"{self._files.directory.uri(entry.place[0])}#{entry.id}"
        return f"{self._files.directory.uri('')}/{entry.id}"

    def host(self, reference: Reference) -> str:
        """The web server of a path; empty for another place."""
        return self._paths.host(reference.place) if isinstance(reference.place, str) else super().host(reference)

    def answers(self, reference: Reference) -> bool:
        """Whether the folder of the file can be reached."""
        place = reference.place
        return self._paths.answers(place) if isinstance(place, str) else self._files.directory.answers(place[0])

    def _note(self, entry: Entry) -> None:
        self._usable += entry.problem is None
        if entry.problem is not None and not self._first:
            self._first = f"; {entry.id}: {entry.problem.message}"

    def _recognise(self, file: ArrowFile) -> None:
        try:
            self._schema = schema = FileSchema(file.schema)
        except Damaged as error:
            raise file.refused(str(error)) from error
        payloads = PayloadColumns.of(self.options)
        key = payloads.image_or("--image-key", self.options.image_key)
        image = schema.choose(key, file, "--image-key" if payloads.image is None else "--image-columns")
        payloads = schema.add_further(payloads, file, self.options.fields is None)
        others = {name: kind for name, kind in schema.others.items() if name in (self.options.fields or ())}
        for name, kind in others.items():
            raise file.refused(f'column "{name}" is {kind}, which cannot be a field; leave it out of --fields')
        names = [name for name in schema.columns if name not in schema.paths or self._asks(name)]
        names += [name for name in (image.name, *payloads.columns.values()) if name not in names]
        splits = () if self._splits.names else ("split",)
        self._columns = columns = recognise(
            names,
            self.options,
            image.name,
            self._refused,
            label=schema.only_label,
            splits=splits,
            payloads=payloads,
        )
        boxes = self.options.boxes[0] if self.options.boxes else None
        objects = schema.object_classes(boxes)
        self._objects = objects if columns.label is None and objects in columns.fields else None
        self._own = {name: schema.field(name, boxes) for name in columns.fields}
        self._own |= {self._objects: "objects/label"} if self._objects is not None else {}

    def _asks(self, name: str) -> bool:
        options = self.options
        return name in (options.id_column, options.label_column, options.split_column, *(options.fields or ()))

    def _entries(self, file: ArrowFile, name: str, split: str | Problem | None) -> Iterator[Entry]:
        """The entries of one file."""
        columns, schema = self._columns, self._schema
        assert columns is not None  # the file was recognised
        images = [schema.image, *schema.further.values()]
        wanted = [one for one in columns.wanted if one not in {image.name for image in images}]
        wanted += [path for one in images if (path := f"{one.name}.path") in schema.columns and path not in wanted]
        read = [schema.columns[one] for one in wanted]
        names, row = [one.name for one in read], 0
        for group in file.groups(images, read):
            streams, broken = list(map(_Places, group.places)), f"{file.group} {group.number} cannot be read"
            for values in group.rows:
                place, *others = map(next, streams)
                damage = next((one for one in (place, *others) if isinstance(one, str)), None)
                problem = Problem("damaged", f"{broken}: {damage}") if damage is not None else None
                problem = split if isinstance(split, Problem) else problem
                known = split if isinstance(split, str) else None
                found = dict(zip(names, values, strict=True))
                entry = self._entry(name, row, place if isinstance(place, list) else None, found, known, problem)
                yield entry if entry.problem is not None else self._with_further(entry, name, row, others, found)
                row += 1
        self._rows += row

    def _entry(
        self,
        name: str,
        number: int,
        place: list[Any] | None,
        row: Mapping[str, Any],
        split: str | None,
        problem: Problem | None,
    ) -> Entry:
        columns = self._columns
        assert columns is not None  # the row was read by them
        id, where = self._files.id(name, f"{number:08d}"), f"{self._files.base(name)} row {number}"
        size = place[-1] if place is not None else -1
        if place is not None:
            self._read += size
            self._unpacked += unpacked_for(place)
        entry = Entry(id, size, [name, *place] if place is not None else "")
        if problem is not None:
            return entry._replace(problem=Problem(problem.reason, f"{where}: {problem.message}"))
        try:
            if place is None:
                entry = entry._replace(place=self._path_of(row, columns.image))
            label = self._label(row, where)
            if self._objects is not None:
                self._check_objects(row[self._objects])
            entry = entry._replace(label=label, split=split, fields=columns.fields_of(row, self._own))
            entry = entry._replace(split=columns.split_of(row)) if columns.split is not None else entry
            self._labelled[entry.split] = self._labelled.get(entry.split, False) or label is not None
            return entry._replace(id=columns.id_of(row, id))
        except BadInput as bad:
            entry = entry._replace(place="") if bad.reason in UNREACHED else entry
            return entry._replace(problem=Problem(bad.reason, f"{where}: {bad}"))

    def _with_further(self, entry: Entry, name: str, number: int, places: list[Any], row: Mapping[str, Any]) -> Entry:
        """The entry with the places of its further images. A null value is a missing one."""
        payloads: dict[str, Any] = {}
        for (field, column), place in zip(self._schema.further.items(), places, strict=True):
            path = row.get(f"{column.name}.path")
            try:
                if place is not None:
                    payloads[field] = [name, *place]
                elif isinstance(path, str) and path:
                    payloads[field] = self._path_of(row, column.name)
            except BadInput as bad:
                where = f'{self._files.base(name)} row {number}: column "{column.name}"'
                return entry._replace(problem=Problem(bad.reason, f"{where}: {bad}"))
        return entry._replace(payloads=payloads)

    def _path_of(self, row: Mapping[str, Any], column: str) -> str:
        """The path of an image without bytes."""
        path = row.get(f"{column}.path")
        path = path[0] if isinstance(path, list) and path else path
        if not isinstance(path, str) or not path:
            raise BadInput("no-image", f'column "{column}" is empty; it is to have an image')
        path = with_slashes(path)
        self._paths.check(path)
        return path

    def _label(self, row: Mapping[str, Any], where: str) -> Label | None:
        """The label of a row by its name; None if it is missing."""
        columns = self._columns
        assert columns is not None  # the row was read by them
        if columns.label is None or row[columns.label] is None:
            return None
        names = self._schema.classes.get(columns.label)
        value = row[columns.label]
        if names is None:
            return columns.label_of(row, where)
        if value == -1:
            return None
        numbers = value if isinstance(value, list) else [value]
        if not all(isinstance(one, int) and 0 <= one < len(names) for one in numbers):
            message = f'column "{columns.label}" is {value!r:.80}: the schema names {len(names):,} classes, from 0'
            raise BadInput("bad-label", message)
        found = [names[one] for one in numbers]
        return found if isinstance(value, list) else found[0]

    def _check_objects(self, numbers: Any) -> None:
        names = self._schema.classes[self._objects or ""]
        if not all(isinstance(one, int) and 0 <= one < len(names) for one in numbers or ()):
            raise BadInput("bad-label", f"objects have the classes {numbers!r:.80}: the schema names {len(names):,}")

    def _left_out(self, columns: RowColumns) -> Iterator[LeftOut]:
        """The columns that are not read, with the reason."""
        yield from columns.not_read()
        yield from self._schema.left_out(self._asks)
        unnamed = [name for name in columns.fields if name in self._schema.classes and name != self._objects]
        if unnamed:
            yield LeftOut(what=f"names of the classes of {listed(unnamed)}", why="they are fields of whole numbers")

    def _warnings(self, columns: RowColumns) -> Iterator[str]:
        called, schema = self._files.called(""), self._schema
        several = [name for name in schema.classes if name in columns.fields and schema.columns[name].child is None]
        if columns.label is None and len(several) > 1:
            yield f"{called}: {listed(several)} have classes, and none is the label: choose with --label-column"
        if self._read > _MANY_BYTES and self._unpacked > _MANY_TIMES * self._read:
            yield (
                f"{called}: to read an image, {self._unpacked // self._read:,} times as much is unpacked, since it is"
                ' packed without random access: write it again with compression="snappy" if this takes too long'
            )

    def _refused(self, message: str) -> UsageError:
        return UsageError(f"INPUT {self.options.input}: {message}")


class _Places:
    """The places of a group's images; after damage, the reason for each further row."""

    def __init__(self, places: Iterator[list[Any] | None]) -> None:
        self._places, self._broken = places, ""

    def __next__(self) -> list[Any] | str | None:
        if self._broken:
            return self._broken
        try:
            return next(self._places)
        except StopIteration:
            self._broken = "has fewer images than rows"
        except Damaged as error:
            self._broken = str(error)
        return self._broken


def _is_wanted(name: str) -> bool:
    return is_arrow(name) and not name.startswith(_CACHE)


def _below_common(names: Sequence[str]) -> list[str]:
    """Names without folders that contain all of them and are no splits, such as a configuration of the Hub."""
    names = list(names)
    while names and all("/" in name for name in names):
        tops = {name.partition("/")[0] for name in names}
        if len(tops) > 1 or tops.pop().lower() in SPLIT_NAMES:
            break
        names = [name.partition("/")[2] for name in names]
    return names
