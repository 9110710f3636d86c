"""Datasets in files of many images: TFRecord, HDF5, NumPy, and records of one length.

```
INPUT.tfrecord, INPUT/x.tfrecord, INPUT/x-train.tfrecord-00000-of-00010    tf.train.Example
INPUT.h5, INPUT/x.hdf5                                                     named arrays
INPUT.npz, INPUT.npy, INPUT/images.npy + INPUT/labels.npy                  named arrays
INPUT.bin, INPUT/x.bin                                                     records of one length (--record)
```

An id is the number of the image in its file, in eight digits, after the file's name if INPUT is a folder:
"x.h5/00000012". The arrays of one folder of `.npy` files count as one file. Splits are first folders, or words in the
names of files, or arrays of one file, as `x_train` and `x_test` or `train/images` and `test/images`. All arrays of
images are read unless `--image-key` names one. Ids then have the array's name, "x_test/00000012", and names of fields
lose the name of the split.

The feature or array of images is recognised by the names below, or given by an option. The label is found in the same
way, for an array by the name of the images. TFDS's `objects/bbox` are boxes, which move with the pixels. All others
become fields, but further images and bytes, which `--image-columns` and `--mask-column` name (`further.py`), and values
that describe the stored image: `height`, `width`, `depth`, `channels`, `content_hash`, and `image/` with `height`,
`width`, `channels`, `colorspace` and `format`. `--fields` can ask for these, too. A feature with one value in each
record is a number or a text, otherwise a list. Arrays with another number of rows than the images, or of another split,
are left out, and named. HDF5 in chunks of many images is slow: they are read one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.arrays import hdf5, plain
from beam_jobs.sources.files.arrays.plain import Array, as_pixels, describe
from beam_jobs.sources.files.file_names import SPLIT_NAMES, is_ignored, is_records, records_kind, split_place
from beam_jobs.sources.files.interface import (
    BadInput,
    Entry,
    Layout,
    LeftOut,
    Pixels,
    Problem,
    Reference,
    Source,
    SourceOptions,
    refuse_options,
)
from beam_jobs.sources.files.many_images import (
    NOUNS,
    Columns,
    Files,
    Splits,
    Types,
    as_list,
    asked_columns,
    count,
    image_splits,
    label_of,
    split_of,
    without_split,
    without_splits,
)
from beam_jobs.sources.files.tf_examples import BOXES, LABELS, framed, refuse_floats
from beam_jobs.sources.records.examples import Examples
from beam_jobs.sources.records.further import Further
from beam_jobs.sources.records.own_dataset import own_fields, own_points
from shard_reader.format.fields import INPUT_FIELDS, OUTLINES, Field
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory

__all__ = ["RecordFiles"]

_ARRAY_IMAGES = ("image", "images", "x", "X", "data", "x_train")
_LEFT_OUT = frozenset({"height", "width", "depth", "channels", *INPUT_FIELDS})
_LEFT_OUT |= {"image/height", "image/width", "image/channels", "image/colorspace", "image/format"}
_BLOCK_ROWS, _BLOCK_BYTES = 1024, 1 << 24  # rows of values that are read together, and bytes that this may touch


class RecordFiles(Source):
    """A file, or a folder of files, that hold many images each."""

    def __init__(self, options: SourceOptions) -> None:
        super().__init__(options)
        columns = ("id_column", "label_column", "label_separator", "split_column", "fields", "image_key", "record")
        more = ("box_frame", "image_columns", "mask_column", "allow_missing")
        refuse_options(options, "a file of records", taken=(*columns, *more))
        self._record = plain.parse_record(options.record) if options.record else None
        self._files = Files(options)
        self._columns, self._types = Columns(options, (), _LEFT_OUT), Types()
        self._own: dict[str, Field] = {}  # the fields of a dataset by image-shards
        self._further = Further(options, {})
        self._image = self._further.key(options.image_key)
        self._shown: tuple[str, ...] = ()
        self._labels: dict[str, None] = {}  # arrays of labels, an ordered set
        self._unlabelled: dict[str, None] = {}  # arrays of images without labels
        self._inner: dict[str, str] = {}  # splits within a file, each with its array of images
        self._names: list[str] = []
        self._splits = Splits([])
        self._kind = ""
        self._left_out: dict[str, str] = {}  # arrays that are not read, with the reason
        self._usable = self._unusable = 0
        self._hint = ""
        self._hdf5 = hdf5.HDF5Files(self._files.directory)

    def entries(self) -> Iterator[Entry]:
        """Every image of every file.

        Raises:
            UsageError: INPUT has no such file, or one is compressed, cut off or damaged, or has no array of images.
        """
        self._names = self._files.find(self._is_wanted, self._expected)
        kinds = {self._kind_of(name) for name in self._names}
        if len(kinds) > 1:
            raise UsageError(
                f"{self._files.called('')}: holds {' and '.join(sorted(kinds))} files;"
                " give a folder that holds one kind, or one file"
            )
        self._kind = kinds.pop()
        names = self._names if self._kind != "npy" else [re.sub("[^/]*$", ".", name) for name in self._names]
        self._splits = Splits([] if self.options.split_column is not None else names)
        self._own = own_fields(self._beside_files())
        left_out = _LEFT_OUT | ({OUTLINES} & self._own.keys())
        self._columns = Columns(self.options, LABELS if self._kind == "TFRecord" else (), left_out)
        self._further = Further(self.options, self._own)
        examples = Examples(self._image, self._columns, self._types, self._further)
        for entry in self._files.others(self._is_wanted, self._names):
            self._unusable += 1
            yield entry
        for entry in self._all(examples):
            self._usable += entry.problem is None
            self._unusable += entry.problem is not None
            yield entry

    def layout(self) -> Layout:
        """The splits of the files, and the types of fields that are arrays.

        Raises:
            UsageError: INPUT has no image, or no file has a name in an option.
        """
        called = self._files.called("")
        if not self._usable:
            raise UsageError(f"{called}: holds no images ({self._unusable:,} other inputs){self._hint}")
        self._columns.check(called)
        self._further.check(called)
        inner = f"splits ({', '.join(self._inner)}) of " if self._inner else self._splits.text
        text = inner + count(len(self._names), *NOUNS[self._kind])
        if self._kind == "TFRecord" and self._columns.label:
            self._labels = {self._columns.label: None}
        parts = [f"images in {' and '.join(self._shown)}"]
        parts += [f"labels in {' and '.join(self._labels)}"] if self._labels else []
        if self._unlabelled:
            parts.append(f"{' and '.join(self._unlabelled)} without labels" if self._labels else "without labels")
        # A schema with labels of objects has no label of the image.
        special = {self._columns.label, self.options.id_column, self.options.split_column}
        special |= {"objects/label"} if self._columns.label else set()
        types = self._types.layout(special)
        types |= (points := own_points(self._own, types))
        parts += [f"{name} ({role})" for name, role in self._further.roles.items()]
        named = f"; left out: {', '.join(sorted(self._left_out))}" if self._left_out else ""
        arrays = tuple(LeftOut(what=name, why=why) for name, why in sorted(self._left_out.items()))
        return Layout(
            text=f"{text} ({', '.join(parts)}{named})",
            left_out=self._files.left_out.named() + self._columns.left_out() + arrays,
            splits=(tuple(self._inner) if self.options.split_column is None else ()) or self._splits.names,
            fields=types,
            boxes={BOXES: "rel-yxyx"} if BOXES in types else {},
            points=dict.fromkeys(points.keys() - {BOXES}, "rel-yx"),
            payloads=self._further.roles,
        )

    def resolve(self, entry: Entry) -> Entry | Problem:
        """The entry, completed with the split of its file, and with lists where other records have several values."""
        if entry.problem is not None:
            return entry.problem
        if entry.split is None:
            split = self._splits.of(entry.place[1])
            if isinstance(split, Problem):
                return split
            entry = entry._replace(split=split)
        if not self._types.lists:
            return entry
        fields = {name: as_list(v) if name in self._types.lists else v for name, v in entry.fields.items()}
        label = entry.label
        if self._columns.label in self._types.lists:
            label = as_list(label)
        return entry._replace(fields=fields, label=label)

    def uri(self, entry: Entry | Reference) -> str:
        """The address of the file, followed by the number in it, or by the id of a column."""
        if self.options.id_column is not None and entry.place is not None:
            return f"{self._files.directory.uri(entry.place[1])}#{entry.id}"
        return f"{self._files.directory.uri('')}/{entry.id}"

    def read(self, reference: Reference) -> bytes | Pixels:
        """The bytes of an encoded image, or pixels.

        Raises:
            BadInput: the file is damaged, or has become shorter since the listing.
        """
        return self._read_at(reference.place)

    def read_payload(self, reference: Reference, name: str) -> bytes | Pixels:
        """The bytes or the pixels of another feature or array. Raises as `read` does."""
        return self._read_at(reference.payloads[name])

    def _read_at(self, place: list[Any]) -> bytes | Pixels:
        kind, name, *place = place
        if kind == "hdf5":
            return self._hdf5.read(name, *place)
        start, length = place[0], place[1]
        if kind == "bytes" and length > self.reading.max_bytes:
            raise BadInput("too-large", f"has {length:,} bytes, more than --max-bytes {self.reading.max_bytes:,}")
        data = self._files.directory.read(name, start, start + length)
        if len(data) != length:
            raise BadInput("damaged", f"the file ends {length - len(data):,} bytes before its end")
        if kind == "bytes":
            return data
        return as_pixels(np.frombuffer(data, place[2]).reshape(place[3]))

    def pixels(self, reference: Reference) -> tuple[int, int]:
        """Width and height of an array's row."""
        kind, name, *place = reference.place
        shape = self._hdf5.shape(name, place[0]) if kind == "hdf5" else place[3] if kind == "pixels" else ()
        return plain.width_and_height(shape)

    def answers(self, reference: Reference) -> bool:
        """Whether the folder of the file can be reached."""
        return self._files.directory.answers(reference.place[1])

    @property
    def _expected(self) -> str:
        if self._record is not None:
            return "file of records"
        return "file of records (.tfrecord, .h5, .hdf5, .npz, .npy; for others, --record says what a record is)"

    def _is_wanted(self, name: str) -> bool:
        return not is_ignored(name) if self._record is not None else is_records(name)

    def _kind_of(self, name: str) -> str:
        return "record" if self._record is not None else records_kind(self._files.base(name)) or ""

    def _all(self, examples: Examples) -> Iterator[Entry]:
        if self._kind == "TFRecord":
            refuse_floats(self._beside_files(), self._files.called(""))
            for name in self._names:
                yield from self._tfrecord(name, examples)
        elif self._kind == "npy":
            folders = sorted({name.rpartition("/")[0] for name in self._names})
            for folder in folders:
                yield from self._npy(folder, [name for name in self._names if name.rpartition("/")[0] == folder])
        else:
            for name in self._names:
                yield from self._arrays(name)

    def _beside_files(self) -> Directory:
        return self._files.directory if self._names != [""] else directory(split_place(self.options.input)[0])

    def _tfrecord(self, name: str, examples: Examples) -> Iterator[Entry]:
        called = self._files.called(name)
        for number, (start, payload) in enumerate(framed(self._files.directory, name, called)):
            place = ["bytes", name, start, len(payload)]
            entry = Entry(self._files.id(name, f"{number:08d}"), len(payload), place)
            yield examples.entry(entry, payload, f"{called}: record {number:,}")
        self._shown = (examples.image or "",)
        self._hint = examples.hint

    def _npy(self, folder: str, names: list[str]) -> Iterator[Entry]:
        """The arrays of one folder, by the names of their files."""
        with ExitStack() as stack:
            found, files = {}, {}
            for name in names:
                file = stack.enter_context(self._files.directory.open(name))
                array = self._files.base(name)[: -len(".npy")]
                found[array] = plain.npy_array(file, 0, file.seek(0, 2), self._files.called(name), array)
                files[array] = name
            outer = folder if len(self._names) > len(names) else ""
            yield from self._group(outer, self._files.called(folder), found, lambda image: files[image])

    def _arrays(self, name: str) -> Iterator[Entry]:
        called = self._files.called(name)
        if self._kind == "HDF5":
            try:
                with self._hdf5.open(name) as file:
                    found = hdf5.hdf5_arrays(file, called, {self._image, *asked_columns(self.options)})
                    yield from self._group(name, called, found, lambda _: name)
            except (OSError, RuntimeError) as error:
                # An OSError with a number is of the disk, not of the contents of the file.
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise UsageError(f"{called}: cannot be read as HDF5 ({error}); make or copy it again") from error
            return
        with self._files.directory.open(name) as stream:
            if self._record is not None:
                found = plain.record_arrays(stream, self._record, called)
            else:
                found = plain.npz_arrays(stream, called)
            yield from self._group(name, called, found, lambda _: name)

    def _group(
        self, outer: str, called: str, found: Mapping[str, Array], file_of: Callable[[str], str]
    ) -> Iterator[Entry]:
        """The images of arrays that belong together. `outer` precedes their ids."""
        self._left_out |= {name: "one value, not a row for each image" for name, a in found.items() if not a.shape}
        found = {name: array for name, array in found.items() if array.shape}
        splits = {} if self._image else image_splits(found)
        if not splits:
            name = self._pick(found, called)
            if self._inner:
                raise UsageError(f"{called}: holds no arrays of splits, as others do; name the images with --image-key")
            self._shown = (name,)
            yield from self._part(outer, called, found, name, file_of)
            return
        if not self._inner:
            self._columns = Columns(without_splits(self.options), (), _LEFT_OUT)
        self._inner = dict(sorted((self._inner | splits).items(), key=lambda item: SPLIT_NAMES.index(item[0])))
        self._shown = tuple(self._inner.values())
        for split, name in splits.items():
            for entry in self._part(self._files.id(outer, name), called, found, name, file_of, True):
                yield entry if self.options.split_column is not None else entry._replace(split=split)

    def _part(
        self,
        outer: str,
        called: str,
        found: Mapping[str, Array],
        name: str,
        file_of: Callable[[str], str],
        in_splits: bool = False,
    ) -> Iterator[Entry]:
        """The images of one array."""
        images = found[name]
        plain.check_images(images, name, called)
        further, others = self._further.of_arrays(found, name, called, file_of, in_splits)
        found = {other: array for other, array in found.items() if other not in others}
        beside = self._beside(found, name, called, in_splits)
        for other, array in {name: images, **beside}.items():
            hdf5.check_stored(array, other, called)
        place, size, step = plain.placing(images, name, file_of(name))
        step = max(step, *map(plain.row_bytes, beside.values()), 1)
        for rows in plain.blocks(images.shape[0], max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // step))):
            columns = {other: plain.values(array, other, called, rows) for other, array in beside.items()}
            for number in range(rows.start, rows.stop):
                payloads = {field: place_of(number) for field, place_of in further.items()}
                entry = Entry(self._files.id(outer, f"{number:08d}"), size, place(number), payloads=payloads)
                yield self._columns.fill(entry, {n: column[number - rows.start] for n, column in columns.items()})

    def _pick(self, found: Mapping[str, Array], called: str) -> str:
        names = [self._image] if self._image else list(_ARRAY_IMAGES)
        name = next((name for name in names if name in found), None)
        if name is None and self.options.image_key is None and len(found) == 1:
            return next(iter(found))
        if name is None:
            there = ", ".join(f"{name} ({describe(array)})" for name, array in sorted(found.items())) or "none"
            raise UsageError(
                f"{called}: no array is named {' or '.join(names)}; name one of its own with --image-key: {there}"
            )
        self._image = name
        return name

    def _beside(self, found: Mapping[str, Array], image: str, called: str, in_splits: bool) -> dict[str, Array]:
        """The arrays to read with a value for each image, by the names of their fields."""
        own, label = split_of(image), label_of(image, found)
        names = {name: without_split(name) if in_splits else name for name in found if name != image}
        if self.options.label_column is None:
            self._columns.label = names[label] if label else None
        if in_splits:
            names = {name: short for name, short in names.items() if split_of(name) not in self._inner.keys() - {own}}
        self._columns.see(list(names.values()))
        asked = without_splits(self.options) if in_splits else self.options
        wanted = asked_columns(asked)
        beside: dict[str, Array] = {}
        for name, short in names.items():
            array = found[name]
            if not self._columns.is_needed(short):
                continue
            if short not in wanted and own is not None and split_of(name) != own and (in_splits or split_of(name)):
                self._left_out[name] = "of another split than the images"
                continue
            if array.shape[0] != found[image].shape[0]:
                if short in wanted or short == self._columns.label:
                    raise UsageError(
                        f"{called}: the array {name} is {describe(array)}, and {image} is {describe(found[image])}:"
                        " expected a row for each image"
                    )
                self._left_out[name] = f"{describe(array)}: not a row for each image"
                continue
            if short in beside:
                raise UsageError(f"{called}: several arrays would be {short} of {image}; choose one with --image-key")
            if short == self._columns.label:
                plain.check_label(array, name, called)
                self._labels[name] = None
            beside[short] = array
            if short != self._columns.label:
                self._types.declare(short, plain.field(array))
        if self._columns.label not in beside:
            self._unlabelled[image] = None
        return beside
