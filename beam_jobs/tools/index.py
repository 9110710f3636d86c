"""`image-shards index`: a dataset of another program's TFRecords, in place; or new indexes for a damaged dataset.

Foreign files are read twice: for a survey of their contents, and for their indexes. The manifest is written last.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import JobError, UsageError
from beam_jobs.external_sort import EqualHashes, find_equal_hashes
from beam_jobs.processes import ParallelMap, in_parallel
from beam_jobs.terminal import counted, size_text
from beam_jobs.tools.dataset_files import (
    label_counts,
    local_directory,
    need_image_packages,
    need_packages,
    need_shard_packages,
    read_manifest,
)
from beam_jobs.tools.foreign.fields import ForeignFields, image_words, infer
from beam_jobs.tools.foreign.split_files import missing_numbers, split_files
from beam_jobs.tools.foreign.survey import Keys, Survey, find_keys, survey
from shard_reader.errors import CorruptionError
from shard_reader.format import index
from shard_reader.format.checksum import sha256_file
from shard_reader.format.fields import IMAGE, Field, further_images
from shard_reader.format.image_codecs.table import IMAGE_CODECS
from shard_reader.format.manifest import (
    LOCK_NAME,
    MANIFEST_NAME,
    Counts,
    Fingerprint,
    Manifest,
    Shard,
    ShardFile,
    ShardTable,
    Split,
    canonical_json,
    index_name,
)
from shard_reader.format.shard_formats.table import TFRecord
from shard_reader.storage.local import sync, write_whole
from shard_reader.system.memory_map import map_file

__all__ = ["IndexOptions", "index_again", "index_directory"]

_MOST_CLASSES = 100_000  # distinct labels without names, up to which the manifest counts each of them

Show = Callable[[str], None]
"""Shows a text about the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """The options. Names of features are None to recognise them, "none" for no such feature."""

    path: str
    splits: tuple[tuple[str, str], ...] = ()
    image_key: str | None = None
    label_key: str | None = None
    id_key: str | None = None
    classes: str | None = None
    raw: tuple[int, int, int] | None = None
    bytes_keys: tuple[str, ...] = ()

    @property
    def said(self) -> dict[str, Any]:
        """The options that were given, without the path."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "path"}
        return {name: value for name, value in values.items() if value not in (None, ())}


class _Indexed(NamedTuple):
    """A file with its index written."""

    shard: Shard
    labels: Counter[int]


def index_directory(options: IndexOptions, workers: int | ParallelMap, show: Show) -> tuple[list[str], int]:
    """Write the indexes, and a manifest if the directory has none.

    Returns:
        The summary, in lines, and the number of problems.

    Raises:
        UsageError: the files do not fit the options.
        JobError: a file is damaged, or cannot be part of a dataset.
        CorruptionError: a file is damaged.
    """
    # The manifest of a dataset decides everything but damage: there are no options to give.
    path = local_directory(options.path)
    if (path / MANIFEST_NAME).exists():
        if options.said:
            name = next(iter(options.said)).replace("_", "-").replace("splits", "split").replace("keys", "key")
            raise UsageError(
                f"--{name}: {path / MANIFEST_NAME} says it already; leave the option out, or, if the files were"
                f" written by others, remove {MANIFEST_NAME} to index them again"
            )
        return _index_again(options.path, workers, show)
    if (path / LOCK_NAME).exists():
        raise UsageError(f"{path}: is not finished; the `image-shards prepare` that began it goes on")
    need_packages("decode", *sorted({name for codec in IMAGE_CODECS.values() for name in codec.packages}))
    return _index_foreign(path, options, workers, show), 0


def _index_again(place: str, workers: int | ParallelMap, show: Show) -> tuple[list[str], int]:
    """Make the missing and damaged indexes of a dataset again."""
    path, manifest = read_manifest(place)
    files = [(format, shard) for shard in manifest.shards() for format in shard.files]
    need_shard_packages(manifest)
    need_image_packages(manifest, decode=False)
    lines, made = list[str](), 0
    again = functools.partial(index_again, path, manifest.fields)
    for number, (is_new, problem) in enumerate(in_parallel(again, files, workers), 1):
        made += is_new
        lines += [problem] if problem else []
        show(f"{number}/{len(files)} indexes")
    whole, problems = len(files) - made - len(lines), len(lines)
    words = f"{counted(made, 'index')} made again, {whole} whole"
    return [*lines, f"{path}: {words}" + (f", {counted(problems, 'problem')}" if problems else "")], problems


def index_again(path: Path, fields: Mapping[str, Field], item: tuple[str, Shard]) -> tuple[bool, str | None]:
    """Make the index of one file again if it is damaged. Returns whether it was, and a problem that prevented it.

    Raises:
        DatasetError: a development version made the index, and the manifest has its checksum.
    """
    format, shard = item
    file = shard.files[format]
    place, target = path / file.path, path / file.index
    with contextlib.suppress(CorruptionError):
        index.load(path, file, shard.records, fields)
        return False, None
    if target.exists() and sha256_file(target) == file.index_sha256:
        return False, None  # the manifest has another defect, which `verify` finds
    remedy = "restore it from a copy, or make the dataset again"
    if file.replaced_index:
        # That of the shard would have the values of before.
        what = "is damaged" if target.exists() else "is missing"
        return False, f"{target}: {what}, and has values of `relabel` that no shard has; restore it from a copy"
    if not place.exists():
        return False, f"{place}: is missing, and so is its index; {remedy}"
    if sha256_file(place) != file.sha256:
        return False, f"{place}: is damaged (SHA-256 mismatch), and no index is made of it; {remedy}"
    # The file is whole, so its index can be made from it, and has to be the one in the manifest.
    try:
        rows = index.build(place, format, fields)
        data = index.to_bytes(rows, has_checksums=file.index_crc32c is not None)
    except CorruptionError as error:
        return False, f"{error}; {remedy}"
    if hashlib.sha256(data).hexdigest() != file.index_sha256:
        return False, (
            f"{place}: its index comes out otherwise than {MANIFEST_NAME} says, though the file is whole:"
            f" {MANIFEST_NAME} was changed; restore it from a copy"
        )
    write_whole(target, [data])
    return True, None


def _index_foreign(path: Path, options: IndexOptions, workers: int | ParallelMap, show: Show) -> list[str]:
    splits = split_files((entry.name for entry in path.iterdir() if entry.is_file()), options.splits)
    names = [name for files in splits.values() for name in files]
    if not names:
        raise UsageError(
            f"{path}: holds no TFRecord files by their names (*.tfrecord, *-00000-of-00010);"
            " say which are, as --split train='*.rec'"
        )
    keys = _keys(path, names, options)
    found, again = _survey(path, names, keys, workers, show)
    has_ids, why_not = _ids(names, keys, found, again, options)
    schema = infer(_together(found), keys, options.label_key, has_ids, options.bytes_keys)
    class_names, origin = _class_names(path, schema, options)
    try:
        indexed = _index_files(path, names, schema.fields, workers, show)
        manifest = _manifest(splits, indexed, schema, class_names, options)
        sync(path)  # after a power cut, a manifest on disk must imply the indexes on disk
        write_whole(path / MANIFEST_NAME, [manifest.to_json().encode()])
    except BaseException:
        # The directory belongs to another program: nothing may stay in it but a whole dataset's files.
        for name in names:
            (path / index_name(name)).unlink(missing_ok=True)
        raise
    return list(_summary(path, manifest, schema, origin, why_not, missing_numbers(names)))


def _index_files(
    path: Path, names: list[str], fields: Mapping[str, Field], workers: int | ParallelMap, show: Show
) -> dict[str, _Indexed]:
    """Write the index of each file."""
    indexed = dict[str, _Indexed]()
    build = functools.partial(_index_file, path, fields)
    for name, result in zip(names, in_parallel(build, names, workers), strict=True):
        indexed[name] = result
        show(f"{len(indexed)}/{len(names)} indexes")
    return indexed


def _keys(path: Path, names: list[str], options: IndexOptions) -> Keys:
    for name in names:
        keys = find_keys(path / name, options.image_key, options.id_key, options.raw)
        if keys is not None:
            return keys
    raise UsageError(f"{path}: {counted(len(names), 'TFRecord file')} without a record: there is nothing to index")


def _survey(
    path: Path, names: list[str], keys: Keys, workers: int | ParallelMap, show: Show
) -> tuple[list[Survey], EqualHashes]:
    """The survey of each file, and the ids that occur more than once."""
    found = list[Survey]()

    def ids() -> Iterator[NDArray[np.uint64]]:
        paths = [path / name for name in names]
        for seen in in_parallel(functools.partial(survey, keys=keys), paths, workers):
            block, seen.ids = seen.ids, seen.ids[:0]
            found.append(seen)
            show(f"{len(found)}/{len(names)} files looked at")
            # Rows of zeros count as missing ids: they keep the numbers of later records right.
            yield block if len(block) else np.zeros((seen.records, 2), np.uint64)

    with tempfile.TemporaryDirectory() as scratch:
        again = find_equal_hashes(ids(), Path(scratch))
    return found, again


def _together(found: list[Survey]) -> Survey:
    together = Survey()
    for seen in found:
        together.merge(seen)
    return together


def _ids(
    names: list[str], keys: Keys, found: list[Survey], again: EqualHashes, options: IndexOptions
) -> tuple[bool, str | None]:
    """Whether the possible id is one text in every record, and unique; if not, the reason.

    Raises:
        UsageError: the feature was given as an option, and is not an id.
    """
    if keys.id is None:
        return False, None
    seen, why = _together(found).features.get(keys.id), None
    records = sum(one.records for one in found)
    if seen is None or (seen.records, seen.least, seen.most, seen.is_text) != (records, 1, 1, True):
        why = f"{keys.id} is not one text in every record"
    elif len(again.places):
        ends = np.cumsum([one.records for one in found])
        first, second = (_place(names, ends, int(places[0])) for places in (again.firsts, again.places))
        why = f"{keys.id} is not unique: {first} and {second} have the same"
    if why and options.id_key is not None:
        raise UsageError(f"--id-key {keys.id}: {why}; give --id-key none, and ids are FILE:ROW")
    return why is None, why


def _place(names: list[str], ends: NDArray[Any], place: int) -> str:
    number = int(np.searchsorted(ends, place, "right"))
    return f"{names[number]}:{place - int(ends[number - 1] if number else 0)}"


def _class_names(path: Path, schema: ForeignFields, options: IndexOptions) -> tuple[tuple[str, ...] | None, str]:
    """The names of the labels, and the file that they come from."""
    from beam_jobs.sources.files.class_names import read_class_names

    if options.classes is not None:
        if schema.label is None:
            raise UsageError(f"--classes {options.classes}: there are no labels; name their feature with --label-key")
        return read_class_names(options.classes), options.classes
    file = path / f"{(schema.label or '').replace('/', '-')}.labels.txt"  # TensorFlow Datasets' name
    if schema.label is None or not file.exists():
        return None, ""
    return read_class_names(str(file)), file.name


def _index_file(path: Path, fields: Mapping[str, Field], name: str) -> _Indexed:
    """Write the index of one file."""
    rows = index.build(path / name, TFRecord.name, fields)
    data = index.to_bytes(rows)
    write_whole(path / index_name(name), [data])
    stored = map_file(path / name)
    file = ShardFile(
        path=name,
        bytes=stored.size,
        sha256=sha256_file(path / name),
        index_sha256=hashlib.sha256(data).hexdigest(),
        index_crc32c=index.checksums_crc32c(rows),
    )
    try:
        labels = label_counts(TFRecord.name, stored, rows, fields)
    except CorruptionError as error:
        raise CorruptionError(f"{path / name}: {error}") from error
    return _Indexed(Shard(records=len(rows), files={TFRecord.name: file}), labels)


def _manifest(
    splits: Mapping[str, list[str]],
    indexed: Mapping[str, _Indexed],
    schema: ForeignFields,
    class_names: tuple[str, ...] | None,
    options: IndexOptions,
) -> Manifest:
    indexed_splits = {split: _split([indexed[name] for name in names], class_names) for split, names in splits.items()}
    shards = [shard for split in indexed_splits.values() for shard in split.shards]
    files = [file for shard in shards for file in shard.files.values()]
    records = sum(shard.records for shard in shards)
    said = {"command": "index", **options.said}
    inputs = canonical_json([[file.path, file.bytes, file.sha256] for file in files])
    manifest = Manifest(
        fields=schema.fields,
        formats=(TFRecord.name,),
        splits=indexed_splits,
        class_names=class_names,
        statistics=None,
        counts=Counts(ignored=0, planned=records, written=records, rejected=0),
        seed=0,
        options=said,
        fingerprint=Fingerprint(
            inputs=hashlib.sha256(inputs.encode()).hexdigest(),
            options=hashlib.sha256(canonical_json(said).encode()).hexdigest(),
            codecs={},
        ),
    )
    return Manifest.from_json(manifest.to_json())  # reading it checks the names of files and fields


def _split(shards: list[_Indexed], class_names: tuple[str, ...] | None) -> Split:
    labels = sum((one.labels for one in shards), Counter[int]())
    classes: dict[str, int] | None = None
    if class_names is not None:
        wrong = next((label for label in sorted(labels) if not 0 <= label < len(class_names)), None)
        if wrong is not None:
            raise JobError(
                f"a record has the label {wrong}, and there are {len(class_names)} class names, for 0 to"
                f" {len(class_names) - 1}; give one for each with --classes FILE"
            )
        classes = {name: labels[number] for number, name in enumerate(class_names)}
    elif len(labels) <= _MOST_CLASSES:
        classes = {str(label): labels[label] for label in sorted(labels)} or None
    records = sum(one.shard.records for one in shards)
    return Split(records=records, shards=ShardTable.of(one.shard for one in shards), classes=classes)


def _summary(
    path: Path, manifest: Manifest, schema: ForeignFields, classes: str, why_no_id: str | None, missing: list[str]
) -> Iterator[str]:
    """The summary: splits, fields, and the features and files that are left out or missing."""
    yield f"{path}: {counted(manifest.counts.written, 'record')} indexed where they are"
    for name, split in manifest.splits.items():
        size = split.shards.bytes(TFRecord.name)
        files = counted(len(split.shards), "file")
        yield f"  {name:<10} {counted(split.records, 'record')}, {files}, {size_text(size)}"
    image = manifest.fields[IMAGE]
    grey = "; grey ones are read as RGB" if schema.grey_as_rgb else ""
    yield f"  image      from {image.feature}, {image_words(image)}{grey}"
    for name in further_images(manifest.fields):
        yield f"  {name:<10} from {manifest.fields[name].feature}, {image_words(manifest.fields[name])}"
    names = f", {len(manifest.class_names)} names from {classes}" if manifest.class_names else ""
    lists = ", a list: not every record has exactly one" if schema.label and manifest.fields["label"].shape else ""
    yield f"  label      {f'from {schema.label}{names}{lists}' if schema.label else 'none'}"
    own = manifest.fields.get("id")
    place = f"FILE:ROW ({why_no_id})" if why_no_id else "FILE:ROW"
    yield f"  id         {f'from {own.feature}' if own else place}"
    own_names = ("label", "id", "height", "width")
    others = [name for name, field in manifest.fields.items() if not field.is_image and name not in own_names]
    if others:
        yield f"  fields     {', '.join(others)}"
    for name, why in schema.left_out.items():
        yield f"  left out   {name}: {why}"
    if missing:
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        yield f"  missing    {counted(len(missing), 'file')} by their numbers: {named}"
