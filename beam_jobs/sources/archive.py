"""Tar and zip archives, in WebDataset layout or with folders as on a disk. They are read by offset, never unpacked.

```
INPUT.tar         one archive; an id is the member's path
INPUT/1.tar       a folder of archives; an id is "1.tar/" and the member's path
INPUT/train/1.tar split folders; or else each archive has the name of a split in its own name: train-1.tar
```

WebDataset: the members of one sample share a key, the path up to the first dot of the base name, wherever they lie in
the archive. The rest after the dot is the component. The input is the component with the suffix of an image, or the
component that `--image-key` names ("jpg", "input.jpg"). `key.cls` is its label (a number, or else a name), `key.txt`
its field "txt", and the object in `key.json` has further fields, and the label ("label", or the label column) if there
is no `cls`. With `--image-key`, a single component that ends in ".cls" is the label, too. "height" and "width" in the
JSON are left out unless `--fields` names them, since each record has its own. `--boxes` and `--points` name lists in
the JSON, and `--id-column` a text. Members as `key.mask.png` and `key.depth.png` are masks and depth maps; others are
fields if `--image-columns` names them (`layouts/further_members.py`), and else are left out. Of members with one path,
the last one counts.

If no input has such a label, and in archives without this layout, labels are those of `ClassFolders`.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.file_names import is_ignored
from beam_jobs.sources.files.interface import (
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
from beam_jobs.sources.files.many_images import Columns, Files, Splits, as_label, count
from beam_jobs.sources.files.members import Member, list_tar, list_zip, ranges, read_plain, read_zip, unpack
from beam_jobs.sources.layouts.class_folders import ClassFolders
from beam_jobs.sources.layouts.further_members import IMAGE_COMPONENTS, FurtherMembers, check_size
from beam_jobs.sources.layouts.joined_members import Joined, json_object, refuse_nested, text_of
from shard_reader.printable import printable

__all__ = ["Archive", "is_archive"]

_VALUES = ("cls", "json", "txt")
_LISTINGS = {"tar": list_tar, "zip": list_zip}
_PACKED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|Z)|tgz|tbz2?|txz|tzst|rar|7z)$", re.IGNORECASE)
_KEY_MEMBERS = 1000  # most members of one key, which are in memory together
_VALUE_BYTES = 1 << 24  # of a cls, json or txt
_NUMBER = re.compile(r"([+-]?[0-9]+)(\.0*)?")


def is_archive(name: str) -> bool:
    """Whether a file is a tar or a zip by its name, including compressed ones, which have to be unpacked first."""
    return _kind(name) is not None or _PACKED.search(name) is not None


class Archive(Source):
    """A tar or a zip, or a folder of them, on a disk or in an object store."""

    def __init__(self, options: SourceOptions) -> None:
        super().__init__(options)
        columns = ("id_column", "label_column", "label_separator", "split_column", "fields", "boxes", "points")
        more = ("box_format", "box_frame", "image_key", "nested_classes", "class_pattern")
        further = ("image_columns", "mask_column", "allow_missing")
        refuse_options(options, "an archive", taken=(*columns, *more, *further))
        self._files = Files(options)
        self._columns = Columns(options, ("label",), frozenset({"height", "width"}))
        self._folders = ClassFolders(options.nested_classes, options.class_pattern)
        self._names: list[str] = []
        self._splits = Splits([])
        self._further = FurtherMembers(options)
        self._image = self._further.image  # the component, or "" for any image
        self._webdataset: bool | None = True if self._image else None  # None: not known yet
        self._labels: set[str] = set()  # kinds of members with labels
        self._roles: dict[str, str] = {}  # of further members
        self._first = ""  # the first problem
        self._usable = self._unusable = self._replaced = 0

    def entries(self) -> Iterator[Entry]:
        """Every image of every archive.

        Raises:
            UsageError: there is no archive, or one is compressed, encrypted, cut off or damaged.
        """
        self._names = self._files.find(is_archive, "tar or zip archive (.tar, .zip)")
        for name in self._names:
            _refuse_packed(self._files.base(name), self._files.called(name))
        self._splits = Splits([] if self.options.split_column is not None else self._names)
        for entry in self._files.others(is_archive, self._names):
            self._unusable += 1
            yield entry
        for name in self._names:
            with self._files.directory.open(name) as file:
                for entry in self._entries(name, file):
                    self._usable += entry.problem is None
                    self._unusable += entry.problem is not None
                    if entry.problem is not None:
                        first = f"; {printable(entry.id)}: {entry.problem.message}"
                        self._first = min(self._first or first, first)
                    yield entry

    def layout(self) -> Layout:
        """The classes and splits of the archives.

        Raises:
            UsageError: INPUT has no image, or no archive has a name in an option.
        """
        called = self._files.called("")
        if not self._usable:
            raise UsageError(
                f"{called}: holds no images ({self._files.left_out.files + self._unusable:,} other files{self._first})"
            )
        self._columns.check(called)
        self._roles = self._further.roles(called)
        left_out, splits = (*self._files.left_out.named(), *self._columns.left_out()), self._splits.names
        if self._replaced:
            why = "a later one has the same path and counts, as where an archive is unpacked"
            left_out += (LeftOut(what=count(self._replaced, "1 member", "members"), why=why, files=self._replaced),)
        kinds = {self._kind(name) for name in self._names}
        kind = f"{kinds.pop()} " if len(kinds) == 1 else ""
        text = f"{self._splits.text}{count(len(self._names), f'a {kind}archive', f'{kind}archives')}"
        if self._webdataset:
            text += " in WebDataset layout"
        images = f"images in .{self._image}" if self._image else ""
        folders = self._folders
        if self._labels and self.options.class_pattern is None:
            text += f" ({images}{', ' if images else ''}labels from {' and '.join(sorted(self._labels))})"
            if folders.splits and splits is None:
                splits, text = folders.splits, f"{text}, in split folders ({', '.join(folders.splits)})"
            return self._layout(text=text, left_out=left_out, splits=splits)
        text += f" ({images})" if images else ""
        flat = folders.class_names is None and folders.splits is None
        text += " of images without classes" if flat else f" of {folders.text}"
        return self._layout(
            text=text,
            left_out=left_out,
            warnings=folders.warnings(called),
            class_names=folders.class_names,
            splits=splits or folders.splits,
            unlabelled=folders.unlabelled,
        )

    def _layout(self, **facts: Any) -> Layout:
        of = self._columns.objects
        if self._roles:
            further = ", ".join(f"{field} ({role})" for field, role in sorted(self._roles.items()))
            facts["text"] += f", with {further}"
        points = of.point_formats
        return Layout(fields=of.types(), boxes=of.box_formats, points=points, payloads=self._roles, **facts)

    def resolve(self, entry: Entry) -> Entry | Problem:
        """The entry, completed with its split and, where folders are classes, its class."""
        if entry.problem is not None:
            return entry.problem
        archive = entry.place[0]
        split = self._splits.of(archive)
        if isinstance(split, Problem):
            return split
        split = entry.split or split
        found = self._folders.label(_inner(_id_of(entry)[len(self._files.id(archive, "")) :]))
        if self._labels and self.options.class_pattern is None:
            folder = None if isinstance(found, Problem) or self.options.split_column is not None else found[1]
            return entry._replace(split=split or folder)
        return found if isinstance(found, Problem) else entry._replace(label=found[0], split=split or found[1])

    def uri(self, entry: Entry | Reference) -> str:
        """The address of the archive, followed by the member's path."""
        return f"{self._files.directory.uri('')}/{_id_of(entry)}"

    def read(self, reference: Reference) -> bytes:
        """The bytes of a member.

        Raises:
            BadInput: the bytes are damaged.
        """
        archive, *place = reference.place
        if self.options.id_column is not None:
            place.pop()
        return _read(lambda start, end: self._files.directory.read(archive, start, end), place)

    def read_payload(self, reference: Reference, name: str) -> bytes:
        """The bytes of a further member. Raises as `read` does."""
        archive, *place = reference.payloads[name]
        check_size(place, self.reading.max_bytes)
        return _read(lambda start, end: self._files.directory.read(archive, start, end), place)

    def answers(self, reference: Reference) -> bool:
        """Whether the folder of the archive can be reached."""
        return self._files.directory.answers(reference.place[0])

    def _entries(self, name: str, file: BinaryIO) -> Iterator[Entry]:
        listing = _LISTINGS[self._kind(name)]
        members = (m for m in listing(file, self._files.called(name)) if self._is_visible(m))
        with tempfile.TemporaryDirectory() as folder:
            joined = Joined(members, lambda path: _key(path)[0], _inner, Path(folder))
            # Asked of every archive until one is a WebDataset: the first ones may have no values.
            self._webdataset = self._webdataset or any(map(self._is_sample, joined))
            for group in joined:
                yield from self._sample(name, file, group) if self._webdataset else self._files_of(name, group)
            self._replaced += joined.replaced

    def _files_of(self, archive: str, members: list[Member]) -> Iterator[Entry]:
        for member in members:
            if is_ignored(_inner(member.name)):
                self._files.left_out.add(member.name)
            else:
                yield self._entry(archive, member)

    def _kind(self, name: str) -> str:
        return _kind(self._files.base(name)) or "tar"

    def _is_visible(self, member: Member) -> bool:
        inner = _inner(member.name)
        hidden = inner.startswith((".", "__MACOSX/")) or "/." in inner
        if hidden:
            self._files.left_out.add(inner)
        return not hidden

    def _entry(self, archive: str, member: Member) -> Entry:
        if member.problem is None:
            self._folders.add(_inner(member.name))
        id = self._files.id(archive, _without_dot(member.name))
        # With ids of a column, the path goes along: folders and messages need it.
        place = [archive, *member.place, *([] if self.options.id_column is None else [id])]
        return Entry(id, member.size, place, problem=member.problem)

    def _sample(self, archive: str, file: BinaryIO, members: list[Member]) -> Iterator[Entry]:
        """The images of one key, with the values beside them."""
        key = _key(members[0].name)[0]
        # A bound, for archives whose names all begin alike up to a dot: the whole archive would be one key.
        if len(members) > _KEY_MEMBERS:
            raise UsageError(
                f"{self._files.called(archive)}: more than {_KEY_MEMBERS:,} members have the key {key!r}, their path up"
                " to the first dot: name the files without dots, or remove files that are not images"
            )
        images = [member for member in members if self._is_image(member)]
        beside = self._beside(members)
        kinds = sorted({_suffix(member) for member in images})
        if len(kinds) > 1:
            named = f"{', '.join(f'.{kind}' for kind in kinds[:-1])} and .{kinds[-1]}"
            problem = Problem("several-images", f"has the images {named}; {_choice(kinds)}")
            yield Entry(self._files.id(archive, _without_dot(key)), 0, problem=problem)
            return
        if not images and (beside or not all(is_ignored(member.name) for member in members)):
            there = ", ".join(sorted(map(_suffix, members)))
            wanted = f"is .{self._image}, which --image-key names" if self._image else "is an image"
            pictures = sorted(_suffix(member) for member in members if _last_suffix(member) in IMAGE_COMPONENTS)
            remedy = f"; {_choice(pictures)}" if pictures and not self._image else ""
            problem = Problem("no-image", f"none of {there} {wanted}{remedy}")
            yield Entry(self._files.id(archive, _without_dot(key)), 0, problem=problem)
            return
        for member in members:
            is_read = member in images or member in beside.values() or self._further.field(_suffix(member)) is not None
            if not is_read:
                why = self._further.remedy(_suffix(images[0]), _suffix(member)) if images else ""
                self._files.left_out.add(member.name, "" if is_ignored(member.name) else why)
        if not images:
            return
        try:
            others = [(_suffix(member), member) for member in members if member not in images]
            payloads = self._further.of_sample(archive, others)
            values, label = self._values(ranges(file), beside)
        except BadInput as error:
            problem = Problem(error.reason, str(error))
            yield from (self._entry(archive, image)._replace(problem=image.problem or problem) for image in images)
            return
        for image in images:
            entry = self._columns.fill(self._entry(archive, image)._replace(payloads=payloads), values)
            yield entry if label is None else entry._replace(label=label)

    def _is_sample(self, members: list[Member]) -> bool:
        """Whether the members of a key are an image and values of it, or masks."""
        has_image = any(_last_suffix(member) in IMAGE_COMPONENTS for member in members)
        has_plain = any(_suffix(member) in IMAGE_COMPONENTS for member in members)
        has_target = has_plain and any(self._further.is_target(_suffix(member)) for member in members)
        return has_target or (has_image and any(_suffix(member) in _VALUES for member in members))

    def _is_image(self, member: Member) -> bool:
        return _suffix(member) == self._image if self._image else _suffix(member) in IMAGE_COMPONENTS

    def _beside(self, members: list[Member]) -> dict[str, Member]:
        """The members of one key that hold values, by their kind, one of _VALUES."""
        beside = {_suffix(member): member for member in members if _suffix(member) in _VALUES}
        classes = [member for member in members if _suffix(member).endswith(".cls")]
        if self._image and "cls" not in beside and len(classes) == 1:
            beside["cls"] = classes[0]
        return beside

    def _values(self, read: Any, beside: dict[str, Member]) -> tuple[dict[str, Any], Label | None]:
        """The values beside an image, and the label if it has a member of its own."""
        for kind, member in beside.items():
            if member.problem is not None:
                raise BadInput(member.problem.reason, f"its .{kind} {member.problem.message}")
            if member.size > _VALUE_BYTES:
                raise BadInput(f"bad-{kind}", f"its .{kind} has {member.size:,} bytes; {_VALUE_BYTES:,} can be read")
        texts = {kind: text_of(kind, _read(read, member.place)) for kind, member in beside.items()}
        values = json_object(texts["json"]) if "json" in texts else {}
        if "txt" in texts:
            values["txt"] = texts["txt"]
        self._columns.see(values)
        values = {name: value for name, value in values.items() if self._columns.is_needed(name)}
        refuse_nested({n: value for n, value in values.items() if n not in self._columns.objects.names})
        if "cls" in texts:
            self._labels.add(f".{_suffix(beside['cls'])}")
            values.pop(self._columns.label or "", None)
            return values, self._class(texts["cls"])
        if values.get(self._columns.label or "") is not None:
            self._labels.add(f"{self._columns.label} in .json")
        return values, None

    def _class(self, text: str) -> Label:
        text = text.strip()
        number = _NUMBER.fullmatch(text)
        label = as_label(int(number[1]) if number else text, ".cls", self.options.label_separator)
        if label is None or label == "" or isinstance(label, Problem):
            raise BadInput("bad-label", "its .cls is empty")
        return label


def _id_of(entry: Entry | Reference) -> str:
    """The id of an entry without a column of ids: the path of its member."""
    *_, last = entry.place or [None]
    return last if isinstance(last, str) else entry.id


def _kind(name: str) -> str | None:
    """The kind of an archive by its suffix, one of `_LISTINGS`."""
    suffix = posixpath.splitext(name)[1].lower().removeprefix(".")
    return suffix if suffix in _LISTINGS else None


def _refuse_packed(name: str, called: str) -> None:
    """Refuse an archive without random access, with the command that unpacks it."""
    found = _PACKED.search(name)
    if found is None:
        return
    program = {"gz": "gzip", "bz": "bzip2", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}.get(
        found[1].lower().removeprefix("tar.").removeprefix("t")
    )
    if program is None:
        raise UsageError(f"{called}: is an archive without random access; unpack it, and give the folder")
    raise UsageError(
        f"{called}: is compressed as a whole, without random access; unpack it first: {unpack(program, called)}"
    )


def _inner(name: str) -> str:
    """The normalized path of a member, below the folder even if it begins with "/" or ".."."""
    return posixpath.normpath(f"/{name.lstrip('/')}")[1:]


def _without_dot(name: str) -> str:
    """A member's path without a leading "./", with which `tar -c .` begins all paths."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _key(name: str) -> tuple[str, str]:
    """The path up to the first dot of the base name, and the rest after the dot."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _choice(kinds: list[str]) -> str:
    """The options that read one of several images of a sample, or all of them."""
    every = f", or take all with --image-columns {','.join(kinds)}" if len(kinds) > 1 else ""
    return f"choose with --image-key {kinds[0]}{every}"


def _suffix(member: Member) -> str:
    """The component of a member: the rest after its key, as "jpg" or "mask.png"."""
    return _key(member.name)[1]


def _last_suffix(member: Member) -> str:
    """The rest of a member's name after the last dot, in lower case."""
    return _suffix(member).rpartition(".")[2]


def _read(read: Any, place: list[int]) -> bytes:
    return read_plain(read, place) if len(place) == 2 else read_zip(read, place)
