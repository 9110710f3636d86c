"""Common parts of sources whose files hold many images each: files, splits, columns, types, and names of arrays.

Arrays belong together by their names: the labels of `x_test`, `test_images` and `test/images` are in `y_test`,
`test_labels` and `test/labels`, and all of them are in the split "test".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.annotations.objects import ObjectColumns
from beam_jobs.sources.files.class_names import one_hot
from beam_jobs.sources.files.file_names import SPLIT_NAMES, LeftOutFiles, is_ignored
from beam_jobs.sources.files.interface import BadInput, Entry, Label, LeftOut, Problem, SourceOptions
from shard_reader.format.fields import Field
from shard_reader.printable import printable
from shard_reader.storage.directory import Stored
from shard_reader.storage.open import directory

__all__ = [
    "NOUNS",
    "Columns",
    "Files",
    "Splits",
    "Types",
    "as_label",
    "as_list",
    "asked_columns",
    "count",
    "image_splits",
    "label_of",
    "split_of",
    "without_split",
    "without_splits",
]

NOUNS = {
    "TFRecord": ("a TFRecord file", "TFRecord files"),
    "HDF5": ("an HDF5 file", "HDF5 files"),
    "npz": ("an npz file", "npz files"),
    "npy": ("a NumPy array", "NumPy arrays"),
    "record": ("a file of records", "files of records"),
}
"""The nouns for one and several files of each kind."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|/|[^A-Za-z\d/]+")
_IMAGES = ("image", "images", "img", "imgs", "x", "data")
_LABELS = {"images": ("labels", "label", "y"), "imgs": ("labels", "label", "y"), "x": ("y", "label", "labels")}
_LABEL_WORDS = ("label", "labels", "y")


class Files:
    """The files of INPUT: a single file, whose name is "", or the files of a folder, by their names below it."""

    def __init__(self, options: SourceOptions) -> None:
        """Nothing is read yet.

        Raises:
            UsageError: no installed package reads such URLs.
        """
        self._input = options.input
        try:
            self.directory = directory(options.input)
        except (ValueError, TypeError, ImportError) as error:
            raise UsageError(f"INPUT {options.input}: {error}") from error
        self.left_out = LeftOutFiles()

    def find(self, wanted: Callable[[str], bool], expected: str) -> list[str]:
        """The sorted names of the files that `wanted` accepts: INPUT itself, or files in it.

        Raises:
            UsageError: there is no such file; `expected` describes it in the message.
        """
        if self.directory.exists():
            names = sorted(file.name for file in self._regular() if self._is_wanted(file.name, wanted))
            if not names:
                raise UsageError(f"INPUT {self._input}: holds no {expected}")
            return names
        try:
            self.directory.open("").close()
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"INPUT {self._input}: does not exist") from None
        if not wanted(self.base("")):
            raise UsageError(f"INPUT {self._input}: is no {expected}")
        return [""]

    def others(self, wanted: Callable[[str], bool], names: Sequence[str]) -> Iterator[Entry]:
        """An entry with a problem for each other file of the folder. Ignored files are left out."""
        if names == [""]:
            return
        for file in self.directory.walk():
            if not file.regular:
                yield Entry(file.name, 0, problem=Problem("not-a-file", "is a link to nowhere, a pipe or a device"))
                continue
            if self._is_wanted(file.name, wanted):
                continue
            if is_ignored(file.name) or file.name.endswith(".index.npy"):  # the index of a shard
                self.left_out.add(file.name)
            else:
                yield Entry(file.name, file.size, problem=Problem("other-file", "is another kind of file than INPUT's"))

    def _regular(self) -> Iterator[Stored]:
        return (file for file in self.directory.walk() if file.regular)

    def base(self, name: str) -> str:
        """The last part of a file's name."""
        return (name or self._input).rstrip("/").rpartition("/")[2]

    def called(self, name: str) -> str:
        """The name of a file in messages."""
        return f"INPUT {self._input}/{printable(name)}" if name else f"INPUT {self._input}"

    def id(self, name: str, inner: str) -> str:
        """The id of an image in a file."""
        return f"{name}/{inner}" if name else inner

    def _is_wanted(self, name: str, wanted: Callable[[str], bool]) -> bool:
        return not _is_hidden(name) and wanted(self.base(name))


class Splits:
    """The splits of files: their first folders, if all of those are splits, or a word that each file's name has.

    ```
    train/a.tar  val/a.tar          cifar10-train.tfrecord-00000-of-00001  cifar10-test.tfrecord-00000-of-00001
    ```

    Where some names have such a word, none of them "train", files without one are "train": `data_batch_1.bin` beside
    `test_batch.bin`. Case does not matter; a split's name is in lower case.
    """

    def __init__(self, names: Sequence[str]) -> None:
        tops = {name.partition("/")[0] for name in names if "/" in name}
        self._by_folder = bool(tops) and {top.lower() for top in tops} <= set(SPLIT_NAMES)
        self._rest: str | None = None  # the split of files without a split in their names
        found = {self._named(name) for name in names}
        self.names: tuple[str, ...] | None = None
        clear = not found & {"train", "training"} and all(len(_split_words(name)) < 2 for name in names)
        if not self._by_folder and None in found and len(found) > 1 and clear:
            self._rest = "train"
            found = found - {None} | {"train"}
        if self._by_folder or (found and names != [""] and None not in found):
            self.names = tuple(name for name in SPLIT_NAMES if name in found)

    @property
    def text(self) -> str:
        """The splits in words, as the beginning of a sentence; "" if there are no splits."""
        if self.names is None:
            return ""
        rest = f"; {self._rest} are those without a split in their names" if self._rest else ""
        return f"split {'folders' if self._by_folder else 'files'} ({', '.join(sorted(self.names))}{rest}) of "

    def of(self, name: str) -> str | Problem | None:
        """The split of a file; None if there are no splits."""
        if self.names is None:
            return None
        return self._named(name) or Problem("no-split", "its file lies beside the split folders")

    def _named(self, name: str) -> str | None:
        if self._by_folder:
            return name.partition("/")[0].lower() if "/" in name else None
        words = _split_words(name)
        return words.pop() if len(words) == 1 else self._rest


class Columns:
    """Turns the named values of an input into its label, its split, its id, and the fields of its record."""

    def __init__(self, options: SourceOptions, labels: Sequence[str], left_out: frozenset[str] = frozenset()) -> None:
        """`labels` are the usual names of a label. `left_out` are names that only `--fields` makes fields."""
        self._options = options
        self._labels = labels
        self._left_out = left_out
        self.objects = ObjectColumns.of(options)
        self._seen: dict[str, None] = {}  # an ordered set
        self.label: str | None = options.label_column

    def is_needed(self, name: str) -> bool:
        """Whether `fill` uses a value, so that it has to be read."""
        options = self._options
        if name in (self.label, options.id_column, options.split_column, *self.objects.names):
            return True
        return name in options.fields if options.fields is not None else name not in self._left_out

    def see(self, names: Sequence[str] | Mapping[str, Any]) -> None:
        """Take note of the names of one input's values."""
        if self.label is None:
            self.label = next((name for name in self._labels if name in names), None)
        self._seen.update(dict.fromkeys(names))

    def fill(self, entry: Entry, values: Mapping[str, Any]) -> Entry:
        """An entry completed with its values, or with a problem if a value cannot be used."""
        label = as_label(values.get(self.label or ""), self.label or "", self._options.label_separator)
        if isinstance(label, Problem):
            return entry._replace(problem=label)
        replaced: dict[str, Any] = {"label": label}
        options = self._options
        for attribute, name in (("id", options.id_column), ("split", options.split_column)):
            if name is None:
                continue
            value = values.get(name)
            if value is None or value == "" or not isinstance(value, (str, int)):
                return entry._replace(problem=Problem(f"no-{attribute}", f"{name} is {value!r}, no text and no number"))
            replaced[attribute] = str(value)
        special = (self.label, options.id_column, options.split_column, *self.objects.names)
        fields = {n: v for n, v in values.items() if n not in special and self.is_needed(n)}
        try:
            return entry._replace(**replaced, fields=self.objects.filled(fields, values))
        except BadInput as bad:
            return entry._replace(**replaced, problem=Problem(bad.reason, str(bad)))

    def left_out(self) -> tuple[LeftOut, ...]:
        """The values that are not read, with the reason."""
        names = ", ".join(sorted(name for name in self._seen if not self.is_needed(name)))
        usual = "they describe the file of an image, not the stored one; --fields keeps them"
        why = usual if self._options.fields is None else "--fields does not name them"
        return (LeftOut(what=names, why=why),) if names else ()

    def check(self, called: str) -> None:
        """Check that some input had every name of the options. `called` names INPUT in the message.

        Raises:
            UsageError: no input had one of them.
        """
        options = self._options
        asked = [("--label-column", options.label_column), ("--id-column", options.id_column)]
        asked += [("--split-column", options.split_column), *(("--fields", name) for name in options.fields or ())]
        asked += [*(("--boxes", one) for one in self.objects.boxes), *(("--points", n) for n in self.objects.points)]
        for option, name in asked:
            if name is not None and name not in self._seen:
                there = ", ".join(sorted(self._seen)) or "none"
                raise UsageError(f"{option} {name}: {called} has no such values; it has {there}")


def asked_columns(options: SourceOptions) -> set[str | None]:
    """The names of columns in the options."""
    return {options.label_column, options.id_column, options.split_column, *(options.fields or ())}


class Types:
    """The types of fields as far as they are known, and the names of lists."""

    def __init__(self) -> None:
        self._fields: dict[str, Field] = {}
        self.lists: set[str] = set()  # features that had several values in some record

    def see(self, name: str, values: Sequence[Any]) -> None:
        """Take note of a feature of one record. Features of objects are always lists."""
        if len(values) > 0:
            kind = "string" if isinstance(values[0], slice) else "float32" if isinstance(values[0], float) else "int64"
            self._fields[name] = Field(dtype=kind)
        if len(values) > 1 or name.startswith("objects/"):
            self.lists.add(name)

    def declare(self, name: str, field: Field | None) -> None:
        """Take note of the type of an array."""
        # An array of another shape in another file: lists of any length hold both.
        if field is not None and self._fields.setdefault(name, field).shape != field.shape:
            self._fields[name] = Field(dtype=field.dtype, shape=(None,))

    def layout(self, special: set[str | None]) -> dict[str, Field]:
        """The types of all lists and arrays but the `special` ones: the label, the id and the split."""
        lists = {n: Field(dtype=self._fields[n].dtype, shape=(None,)) for n in sorted(self.lists & self._fields.keys())}
        if "objects/bbox" in self.lists:
            lists["objects/bbox"] = Field(dtype="float32", shape=(None, 4))
        return {name: field for name, field in (self._fields | lists).items() if field.shape and name not in special}


def as_label(value: Any, name: str, separator: str | None = None) -> Label | Problem | None:
    """A value as a label: a name, a whole number, or a list of either. A one-hot vector is a whole number."""
    if value is None or isinstance(value, str):
        return [part.strip() for part in value.split(separator)] if value and separator else value
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)  # a bool becomes 0 or 1; whole numbers beside missing ones are often written as 1.0
    if isinstance(value, list) and (hot := one_hot(value)) is not None:
        return hot
    if isinstance(value, list) and (all(type(v) is int for v in value) or all(type(v) is str for v in value)):
        return value
    return Problem("bad-label", f"{name} is {value!r}: a label is a name, a whole number, or a list of either")


def as_list(value: Any) -> list[Any]:
    """A value as a list: of itself, or of nothing if it is missing."""
    return value if isinstance(value, list) else [] if value is None else [value]


def split_of(name: str) -> str | None:
    """The split in the name of an array or of its groups."""
    found = {word.lower() for word in _words(name)} & set(SPLIT_NAMES)
    return found.pop() if len(found) == 1 else None


def without_split(name: str) -> str:
    """An array's name without its split: "weight" for "weight_train", "train/weight"."""
    parts = []
    for part in name.split("/"):
        words = _words(part)
        if any(word.lower() in SPLIT_NAMES for word in words):
            part = "_".join(word for word in words if word[0].isalnum() and word.lower() not in SPLIT_NAMES)
        parts += [part] if part else []
    return "/".join(parts) or name


def label_of(image: str, names: Iterable[str]) -> str | None:
    """The array of labels for an array of images: its name differs only in the word for its contents."""
    rest, held = _parted(image, _IMAGES)
    # A name such as "faces_train" has no word for images. Its labels are then found by its groups and its split.
    if not held:
        base = [word.lower() for word in _words(image.rpartition("/")[2])]
        folder = [word.lower() for word in _words(image[: -len(image.rpartition("/")[2])])]
        rest = tuple(word for word in folder if _is_word(word)) + tuple(w for w in base if w in SPLIT_NAMES)
    order = _LABELS.get(held.lower(), _LABEL_WORDS)
    found = []
    for name in names:
        label_rest, word = _parted(name, _LABEL_WORDS)
        if word and label_rest == rest and name != image:
            found.append((order.index(word.lower()), word.isupper() != held.isupper(), name))
    return min(found)[2] if found else None


def without_splits(options: SourceOptions) -> SourceOptions:
    """The options with the names of arrays without their splits."""

    def short(name: str | None) -> str | None:
        return None if name is None else without_split(name)

    return replace(
        options,
        label_column=short(options.label_column),
        id_column=short(options.id_column),
        split_column=short(options.split_column),
        fields=None if options.fields is None else tuple(map(without_split, options.fields)),
    )


def image_splits(names: Iterable[str]) -> dict[str, str]:
    """Arrays of images by their splits, as `x_train` and `x_test`; empty unless there are several."""
    alike: dict[tuple[int, tuple[str, ...]], dict[str, str]] = {}
    for name in names:
        rest, held = _parted(name, _IMAGES)
        split = split_of(name)
        if held and split:
            key = (_IMAGES.index(held.lower()), tuple(w for w in rest if w not in (*SPLIT_NAMES, "/")))
            alike.setdefault(key, {}).setdefault(split, name)
    several = [key for key, splits in alike.items() if len(splits) > 1]
    found = alike[min(several, key=lambda key: (len(key[1]), key))] if several else {}
    return {split: found[split] for split in SPLIT_NAMES if split in found}


def _words(name: str) -> list[str]:
    """The words of a name, with the separators between them. "xtrain" has two words."""
    words = []
    for word in _WORD.findall(name):
        two = word[0] in "xXyY" and word[1:].lower() in SPLIT_NAMES
        words += [word[0], word[1:]] if two else [word]
    return words


def _is_word(word: str) -> bool:
    return word == "/" or word.isalnum()


def _parted(name: str, words: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The words of a name in lower case without the last one of `words`, and that word, or ""."""
    all_words = [word for word in _words(name) if _is_word(word)]
    for place in range(len(all_words) - 1, -1, -1):
        if all_words[place].lower() in words:
            rest = all_words[:place] + all_words[place + 1 :]
            return tuple(word.lower() for word in rest), all_words[place]
    return tuple(word.lower() for word in all_words), ""


def _split_words(name: str) -> set[str]:
    """The names of splits among the words of a file's own name."""
    return set(re.split(r"[-_.]", name.rpartition("/")[2].lower())) & set(SPLIT_NAMES)


def count(number: int, one: str, several: str) -> str:
    """A number with its noun; `one` is the text for 1."""
    return one if number == 1 else f"{number:,} {several}"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name
