"""Pascal VOC: images, and an XML file with the objects of each.

```
INPUT/JPEGImages/000005.jpg           or images
INPUT/Annotations/000005.xml          or annotations
INPUT/ImageSets/Main/train.txt        the splits: train, val, test; trainval, if there is neither train nor val
INPUT/SegmentationClass/000005.png    masks of classes and of objects: --segments mask, --segments instances
INPUT/ImageSets/Segmentation/train.txt the splits of images with masks, which count with --segments
INPUT/train/1.jpg, train/1.xml      or XML files beside the images, as LabelImg and Roboflow write them
```

With image sets, an image in none of them is left out. Without them, splits are folders with their names. A split that
has no XML file at all, as the test images of VOC2012, gives images without objects; in others, an image without an XML
file is a reject.

VOC counts pixels from 1, and a box has all of its pixels: the pixels 1 to 10 are the first ten. So a box is xmin - 1,
ymin - 1, xmax, ymax, as in Detectron2. Where any box of INPUT begins at 0, its files count from 0, and boxes are as
they are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import posixpath
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.parallel import in_order, readers_of
from beam_jobs.sources.detection.annotated import (
    BBOX,
    LABEL,
    Annotated,
    SplitFolders,
    object_fields,
    objects_text,
    splits_text,
)
from beam_jobs.sources.detection.parts.voc_xml import MOST_BYTES, parse_annotation
from beam_jobs.sources.files.file_names import SPLIT_NAMES, LeftOutFiles, file_problem, is_ignored, is_voc_xml
from beam_jobs.sources.files.interface import (
    INSTANCES,
    TEXT_SEGMENTS,
    BadInput,
    Entry,
    Layout,
    LeftOut,
    Problem,
    Reading,
    Reference,
    SourceOptions,
)
from beam_jobs.terminal import counted
from shard_reader.format.fields import Field
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory

__all__ = ["Voc", "is_voc"]

_FOLDERS = (("JPEGImages", "Annotations"), ("images", "annotations"), ("images", "Annotations"))
_SETS = "ImageSets/Main"
_SETS_OF_MASKS = "ImageSets/Segmentation"
_MASKS = {"mask": "SegmentationClass", "instances": "SegmentationObject"}  # the folder of each form
_SPLITS = ("train", "val", "test")
_BOTH = "trainval"
_ORDER = (_BOTH, *_SPLITS)
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")  # that some write into image sets
_FLAGS = {"objects/is_truncated": "is_truncated", "objects/is_difficult": "is_difficult"}
_FLAGS |= {"objects/is_occluded": "is_occluded"}
_POSE = "objects/pose"
_XML_FILES = Reading(max_bytes=MOST_BYTES)
_HEAD = 4096
_LONGEST_LINE = 1 << 12
_MOST_UNREAD = 100
_SHOWN = 10
_SET, _XML, _IMAGE, _MASK = range(4)  # kinds of lines


class _Named(NamedTuple):
    """Everything of one name: its places in image sets (split, line, text), its XML file, its images, and its masks.

    An image has a place, a size, and perhaps a problem.
    """

    sets: list[tuple[str, int, str]]
    xml: str | None
    images: list[tuple[str, int, list[str] | None]]
    masks: list[tuple[str, int]]

    @classmethod
    def of(cls, lines: list[list[Any]]) -> _Named:
        """From lines of a kind each."""
        sets = [(split, number, text) for kind, split, number, text in lines if kind == _SET]
        xml = next((place for kind, place, *_ in lines if kind == _XML), None)
        images = [(place, size, problem) for kind, place, size, problem in lines if kind == _IMAGE]
        masks = [(place, size) for kind, place, size, _ in lines if kind == _MASK]
        return cls(sorted(sets, key=lambda one: (_ORDER.index(one[0]), one[1])), xml, images, masks)


def is_voc(folder: Directory, names: list[str], below: str = "") -> bool:
    """Whether a folder has the layout of VOC, or XML files of objects beside its images.

    Args:
        folder: the folder, or one above.
        names: the names in the folder.
        below: the place of the folder below `folder`, which ends with a slash.
    """
    if {"JPEGImages", "Annotations"} <= set(names):
        return True
    pair = _pair(names)
    place = f"{below}{pair[1]}/" if pair else below
    inside = folder.names(place) if pair else names
    first = min((name for name in inside if name.lower().endswith(".xml")), default=None)
    if first is None:
        return False
    try:
        return is_voc_xml(folder.read(place + first, 0, _HEAD))
    except OSError:
        return False


class Voc(Annotated):
    """The images of a folder in the layout of Pascal VOC, with their boxes."""

    def __init__(self, options: SourceOptions) -> None:
        super().__init__(options, "Pascal VOC", options.input, ("box_frame", "below", "segments", "allow_missing"))
        if options.segments in TEXT_SEGMENTS:
            raise UsageError(f"--segments {options.segments}: Pascal VOC has masks; give mask or instances")
        self._sets_folder = _SETS
        self._folder = directory(options.input)
        self._pair: tuple[str, str] | None = None  # the folders of images and of XML files
        self._sets: tuple[str, ...] | None = None
        self._folders = SplitFolders()
        self._with_xml: set[str | None] = set()  # the splits with XML files
        self._without_xml: dict[str | None, int] = {}  # the images without, of each split
        self._images = self._objects = self._empty = self._zeros = self._outside = 0
        self._left_out = LeftOutFiles()
        self._others: list[str] = []  # beside the folders of images and of XML files
        self._unread: set[str] = set()

    def entries(self) -> Iterator[Entry]:
        """An entry for each image, for each XML file without an image, and for each missing image of a set.

        Raises:
            UsageError: INPUT is missing, or an image is in several sets.
        """
        self._check_root()
        if not self._folder.exists():
            raise self._refused(f"does not exist, or is no folder{self._folder.missing()}")
        names = self._folder.names()
        self._pair = _pair(names)
        if self._pair:
            self._others = sorted(set(names) - {*self._pair, _SETS.partition("/")[0]})
        masks = _MASKS.get(self.options.segments or "")
        if masks is not None:
            if not self._pair or masks not in names:
                raise self._refused(f"has no folder {masks}, which --segments {self.options.segments} reads")
            self._others.remove(masks)
            if self._folder.names(_SETS_OF_MASKS):
                self._sets_folder = _SETS_OF_MASKS
        with tempfile.TemporaryDirectory(prefix="image-shards-") as folder:
            spill = Spill(Path(folder))
            self._spill_sets(spill)
            self._spill_files(spill)
            # The first 32 digits of a line are the hash of the name without its suffix.
            groups = itertools.groupby(spill.lines(), lambda line: line[:32])
            named = (_Named.of([json.loads(line[32:]) for line in lines]) for _, lines in groups)
            for one, data in in_order(self._read_xml, named, readers_of(self._folder)):
                yield from self._counted(self._entries(one, data))

    def layout(self) -> Layout:
        """The fields of objects and the splits. Classes are the names in the files, sorted.

        Raises:
            UsageError: INPUT has no image.
        """
        self._check_usable()
        form = self.options.segments
        numbers = (*_FLAGS, INSTANCES) if form == "instances" else tuple(_FLAGS)
        fields = object_fields() | {name: Field(dtype="int64", shape=(None,)) for name in numbers}
        splits = self._sets or self._folders.splits
        text = objects_text(self._images, self._objects, empty=self._empty)
        return Layout(
            text=f"Pascal VOC of {text}{splits_text(splits)}",
            left_out=self._all_left_out(),
            warnings=tuple(f"INPUT {self.options.input}: {warning}" for warning in self._warnings()),
            splits=splits,
            fields=fields | {_POSE: Field(dtype="string", shape=(None,))},
            boxes={BBOX: "xyxy"},
            payloads={form: "mask"} if form else {},
            reached=self._paths.reached,
        )

    def resolve(self, entry: Entry) -> Entry | Problem:
        """The entry, completed with its split, and its boxes as corners that are counted from 0."""
        if entry.problem is not None:
            return entry.problem
        if entry.fields[LABEL] is None and self._group(entry.id, entry.split) in self._with_xml:
            return Problem("no-annotation", f"has no XML file, as others have: that of 1.jpg is {self._example()}1.xml")
        split = entry.split if self._sets is not None else self._folders.of(entry.id)
        if isinstance(split, Problem):
            return split
        boxes = entry.fields[BBOX]
        if not self._zeros:
            boxes = [[left - 1, top - 1, right, bottom] for left, top, right, bottom in boxes]
        return entry._replace(split=split, fields={**entry.fields, BBOX: boxes})

    def _example(self) -> str:
        return f"{self._pair[1]}/" if self._pair else ""

    def _group(self, id: str, split: str | None) -> str | None:
        """The images that have XML files together, or together have none: a split, or all of INPUT."""
        top = id.partition("/")[0].lower()
        return split if self._sets is not None else top if top in SPLIT_NAMES else None

    def _warnings(self) -> Iterator[str]:
        if self._zeros:
            boxes = counted(self._zeros, "box")
            yield f"{boxes} with a side at 0: the files count pixels from 0, not from 1 as VOC does, and boxes stay so"
        for split, images in sorted(self._without_xml.items(), key=str):
            if split not in self._with_xml:
                what = f"the split {split}" if split else "INPUT"
                yield f"{what} has no XML file: its {counted(images, 'image')} are without objects"

    def _all_left_out(self) -> tuple[LeftOut, ...]:
        left_out = list(self._left_out.named())
        masks = [name for name in self._others if name in _MASKS.values()]
        if masks:
            why = f"--segments {' or '.join(form for form, name in _MASKS.items() if name in masks)} stores them"
            left_out.append(LeftOut(what=", ".join(masks), why=why))
        others = [name for name in self._others if name not in masks]
        if others:
            named = ", ".join(map(printable, others[:_SHOWN]))
            more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
            left_out.append(LeftOut(what=f"{named}{more}", why="not read by a VOC source"))
        if self._outside:
            what = counted(self._outside, "image")
            left_out.append(LeftOut(what=what, why=f"in no image set of {self._sets_folder}", files=self._outside))
        if self._unread:
            named = ", ".join(map(printable, sorted(self._unread)))
            left_out.append(LeftOut(what=f"{named} in XML files", why="a VOC source reads no such values"))
        return tuple(left_out)

    def _spill_sets(self, spill: Spill) -> None:
        """Sort the lines of image sets by the hash of the image's name."""
        folder = self._sets_folder
        names = self._folder.names(folder) if self._pair else []
        sets = [split for split in _SPLITS if f"{split}.txt" in names]
        if not {"train", "val"} & set(sets) and f"{_BOTH}.txt" in names:
            sets = [_BOTH, *sets]
        self._sets = tuple(sets) or None
        for split in sets:
            for number, line in enumerate(self._folder.lines(f"{folder}/{split}.txt"), 1):
                if len(line) > _LONGEST_LINE:
                    raise self._refused(f"{folder}/{split}.txt line {number}: has {len(line):,} bytes; is it a list?")
                text = line.decode("utf-8-sig", "surrogateescape").strip()
                if text:
                    stem = posixpath.splitext(text)[0] if text.lower().endswith(_SUFFIXES) else text
                    _add(spill, stem, [_SET, split, number, text])

    def _spill_files(self, spill: Spill) -> None:
        """Sort images and XML files by the hash of their names without suffix."""
        for folder in self._pair or ("",):
            place = f"{folder}/" if folder else ""
            for file in self._paths.folder(place).walk():
                is_xml = file.name.lower().endswith(".xml")
                if (self._pair and is_xml != (folder == self._pair[1])) or (not is_xml and is_ignored(file.name)):
                    self._left_out.add(file.name)
                else:
                    kind, problem = (_XML, None) if is_xml else (_IMAGE, file_problem(file))
                    _add(spill, posixpath.splitext(file.name)[0], [kind, place + file.name, file.size, problem])

        folder = _MASKS.get(self.options.segments or "", "")
        for file in self._paths.folder(f"{folder}/").walk() if folder else ():
            if is_ignored(file.name):
                self._left_out.add(file.name)
            elif file_problem(file) is None:  # of a mask that is no file, the image has none
                _add(spill, posixpath.splitext(file.name)[0], [_MASK, f"{folder}/{file.name}", file.size, None])

    def read_payload(self, reference: Reference, name: str) -> bytes:
        """The bytes of the file of a mask."""
        return self._paths.read(reference.payloads[name][0], self.reading)

    def _read_xml(self, named: _Named) -> tuple[_Named, bytes | BadInput | None]:
        """The bytes of an XML file; None if it is missing, or no image set names it."""
        if named.xml is None or (self._sets is not None and not named.sets):
            return named, None
        try:
            self._paths.allow(named.xml)
            return named, self._paths.read(named.xml, _XML_FILES)
        except BadInput as bad:
            return named, BadInput(bad.reason, f"{named.xml}: {bad}")
        except (FileNotFoundError, PermissionError) as error:
            return named, BadInput("unreadable", f"{named.xml}: {error.strerror or error}")

    def _entries(self, named: _Named, data: bytes | BadInput | None) -> Iterator[Entry]:
        self._check_sets(named)
        if self._sets is not None and not named.sets:
            self._outside += len(named.images)
        elif named.images:
            split = named.sets[0][0] if named.sets else None
            for place, size, problem in named.images:
                id = place.removeprefix(f"{self._pair[0]}/") if self._pair else place
                entry = Entry(id, size, place, split=split, problem=Problem(*problem) if problem else None)
                yield entry if problem else self._with_mask(self._filled(entry, named.xml or "", data), named.masks)
        elif named.sets:
            split, number, text = named.sets[0]
            where = f"{self._sets_folder}/{split}.txt line {number}"
            folder = self._pair[0] if self._pair else "INPUT"
            message = f"{where}: {text.encode('utf-8', 'backslashreplace').decode()} is no image in {folder}"
            yield Entry(where, problem=Problem("missing", message))
        elif named.xml is not None and (self._pair or (isinstance(data, bytes) and is_voc_xml(data[:_HEAD]))):
            message = f"{named.xml} is of an image that is not there"
            yield Entry(named.xml, place=named.xml, problem=Problem("unknown-image", message))
        elif named.xml is not None:
            self._left_out.add(named.xml)
        else:
            for place, size in named.masks:
                yield Entry(place, size, place, problem=Problem("unknown-image", "is of an image that is not there"))

    def _check_sets(self, named: _Named) -> None:
        """Refuse an image in several sets, for which it would be learned and tested."""
        for split, number, text in named.sets[1:]:
            if split != named.sets[0][0]:
                raise self._refused(
                    f"{self._sets_folder}/{split}.txt line {number}: {printable(text)} is in {named.sets[0][0]}.txt,"
                    " too; remove it from one of them"
                )

    def _with_mask(self, entry: Entry, masks: list[tuple[str, int]]) -> Entry:
        """The entry with its mask, if it has one."""
        form = self.options.segments
        if form is None or not masks or entry.problem is not None:
            return entry
        if len(masks) > 1:
            named = " and ".join(sorted(printable(place) for place, _ in masks)[:2])
            return entry._replace(problem=Problem("several-masks", f"has two files for {form}: {named}; keep one"))
        return entry._replace(payloads={form: list(masks[0])})

    def _filled(self, entry: Entry, xml: str, data: bytes | BadInput | None) -> Entry:
        """The entry with its fields, or with the problem of its XML file."""
        try:
            self._paths.check(str(entry.place))
            if isinstance(data, BadInput):
                raise data
            fields, frame = self._fields(xml, data)
        except BadInput as bad:
            return entry._replace(problem=Problem(bad.reason, str(bad)))
        group = self._group(entry.id, entry.split)
        if data is None:
            self._without_xml[group] = self._without_xml.get(group, 0) + 1
        else:
            self._with_xml.add(group)
        self._folders.add(entry.id)
        self._images += 1
        self._objects += len(fields[BBOX])
        self._empty += not fields[BBOX]
        return entry._replace(fields=fields, frame=frame)

    def _fields(self, xml: str, data: bytes | None) -> tuple[dict[str, Any], tuple[int, int] | None]:
        """The fields of an image, and the size that its file states. Without a file, it has no objects."""
        with_numbers = self.options.segments == "instances"
        if data is None:
            none: list[Any] = []
            flags = dict.fromkeys((*_FLAGS, INSTANCES) if with_numbers else _FLAGS, none)
            return {BBOX: none, LABEL: None, **flags, _POSE: none}, None
        try:
            found = parse_annotation(data)
        except BadInput as bad:
            raise BadInput(bad.reason, f"{xml} {bad}") from bad
        if len(self._unread) < _MOST_UNREAD:
            self._unread |= found.unread
        objects = found.objects
        self._zeros += sum(min(one.box[:2]) == 0 for one in objects)
        fields: dict[str, Any] = {BBOX: [list(one.box) for one in objects], LABEL: [one.name for one in objects]}
        fields |= {name: [getattr(one, own) for one in objects] for name, own in _FLAGS.items()}
        if with_numbers:
            fields[INSTANCES] = list(range(1, len(objects) + 1))
        return fields | {_POSE: [one.pose for one in objects]}, found.size


def _pair(names: list[str]) -> tuple[str, str] | None:
    """The folders of images and of XML files among some names; None if they lie together."""
    return next((pair for pair in _FOLDERS if set(pair) <= set(names)), None)


def _add(spill: Spill, stem: str, line: list[Any]) -> None:
    key = hashlib.blake2b(stem.encode("utf-8", "surrogateescape"), digest_size=16).digest()
    spill.add_line(key, key.hex().encode() + json.dumps(line, separators=(",", ":")).encode())
