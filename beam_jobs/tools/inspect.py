"""`image-shards inspect`: the contents of a dataset, from its manifest and some of its indexes."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import JobError
from beam_jobs.terminal import counted, size_text
from beam_jobs.tools.dataset_files import copy_to_disk, data_files, manifest_at, record_ids, remaining_of
from shard_reader.errors import CorruptionError
from shard_reader.format import index
from shard_reader.format.fields import IMAGE, INPUT_FIELDS, Field, extent_columns, further_images, size_columns
from shard_reader.format.manifest import Generation, Manifest, Shard, ShardFile
from shard_reader.order.remaining import Remaining
from shard_reader.printable import excerpt, printable
from shard_reader.storage.directory import Directory
from shard_reader.storage.local import LocalDirectory
from shard_reader.system.memory_map import map_file

__all__ = ["describe", "facts"]

_MOST_INDEXES = 64  # read for the sizes of images
_MOST_ROWS = 1 << 21  # used of all these indexes together
_RECORDS = 3
_MOST_SPLITS, _MOST_FIELDS, _MOST_FURTHER, _MOST_OPTION_LINES = 5, 12, 4, 3
# Options about the run instead of the result, and options that other lines show.
_OPTIONS_LEFT_OUT = frozenset({"input", "output", "workers", "command", "formats", "kind", "shards", "shard_counts"})
_OPTIONS_LEFT_OUT |= {"max_rejects", "beam", "runner", "why", "layout"}


def facts(place: str) -> dict[str, Any]:
    """All facts about a dataset, as values of JSON.

    Raises:
        UsageError: the place has no dataset.
        JobError: the manifest is damaged, or files are missing.
    """
    files, manifest = manifest_at(place)
    _check_files(place, files, manifest)
    if files.local is not None:
        return _facts(place, files.local, manifest)
    with tempfile.TemporaryDirectory(prefix="image-shards-") as folder:
        path = Path(folder) / "dataset"  # below the folder, since shards of a join lie beside the dataset
        try:
            path.mkdir()
            return _facts(place, path, manifest, files)
        except JobError as error:
            raise JobError(str(error).replace(str(path), place.rstrip("/"))) from error


def _facts(place: str, path: Path, manifest: Manifest, remote: Directory | None = None) -> dict[str, Any]:
    """The facts. The needed files of a `remote` dataset are copied to `path`."""
    # A large dataset has thousands of indexes. A part of them, spread over all splits, is enough for sizes of images.
    shards = list(manifest.shards())
    filled = [shard for shard in shards if shard.records]
    looked_at = filled[:: max(1, -(-len(filled) // _MOST_INDEXES))]
    remaining = remaining_of(remote or LocalDirectory(path), manifest)
    if remote is not None:
        _copy_to_disk(remote, path, manifest, remaining, looked_at)
    return {
        "path": place,
        "formats": list(manifest.formats),
        "records": manifest.records,
        "generations": [_generation_facts(one) for one in manifest.generations],
        "bytes": sum(file.bytes for file in data_files(manifest)),
        "splits": {name: _split_facts(manifest, name) for name in manifest.splits},
        "fields": {name: _field_facts(field) for name, field in manifest.fields.items()},
        "classes": _class_facts(manifest),
        "sizes": _size_facts(path, manifest, looked_at, len(filled)),
        "statistics": _statistics_facts(manifest),
        "counts": {name: getattr(manifest.counts, name) for name in manifest.counts.__slots__},
        "options": dict(manifest.options),
        "seed": manifest.seed,
        "fingerprint": manifest.fingerprint.digest,
        "examples": list(_examples(path, manifest, remaining)),
    }


def describe(shown: Mapping[str, Any]) -> str:
    """The facts in words, on one screen."""
    lines = [f"{shown['path']}: {' and '.join(shown['formats'])}, {counted(shown['records'], 'record')}, "
             f"{size_text(shown['bytes'])}"]  # fmt: skip
    lines += _some(shown["splits"], _MOST_SPLITS, _split_line)
    own = {name: facts for name, facts in shown["fields"].items() if name not in INPUT_FIELDS}
    lines += ["fields", *_some(own, _MOST_FIELDS, _field_line)]
    if of_inputs := [name for name in shown["fields"] if name in INPUT_FIELDS]:
        lines.append(f"  of inputs  {', '.join(of_inputs)}")
    lines += [*_class_lines(shown["classes"]), *_size_lines(shown["sizes"]), *_statistics_lines(shown["statistics"])]
    counts = {name: number for name, number in shown["counts"].items() if name != "changed"}
    lines.append(f"inputs       {_numbers(counts) or 'none'}")
    if changed := _numbers(shown["counts"]["changed"]):
        lines.append(f"changed      {changed}")
    lines += list(_option_lines(shown["options"]))
    if grown := {f"{one['number']}": one for one in shown["generations"]}:
        lines += ["generations", *_some(grown, len(grown), _generation_line)]
    lines.append(f"seed         {excerpt(shown['seed'], 40)}, fingerprint {shown['fingerprint']}")
    if shown["examples"]:
        lines.append(f"records      of {_short(shown['examples'][0]['split'])}: id, label, height x width, bytes")
    lines += [f"  {_example_line(example)}" for example in shown["examples"]]
    return "\n".join(lines)


def _numbers(counts: Mapping[str, int]) -> str:
    """The numbers that are not 0, with their names."""
    return ", ".join(f"{number} {printable(name).replace('_', ' ')}" for name, number in counts.items() if number)


def _copy_to_disk(
    remote: Directory, path: Path, manifest: Manifest, remaining: Mapping[str, Remaining], shards: list[Shard]
) -> None:
    """Copy the indexes of some shards, and the ids of the first records."""
    # The ids go to their offsets in a sparse file of the shard's size, so that it can be read like a local shard.
    format, first = manifest.formats[0], next(_first_shards(manifest), None)
    for shard in [*shards, *([first[1]] if first else [])]:
        name = shard.files[format].index
        if not (path / name).exists():
            copy_to_disk(remote, name, path, index.size(shard.files[format], shard.records, manifest.fields))
    if first is None:
        return
    file = first[1].files[format]
    (path / file.path).parent.mkdir(parents=True, exist_ok=True)
    with open(path / file.path, "wb") as hollow:
        hollow.truncate(file.bytes)
        rows = _rows(path, first[1], format, manifest.fields)
        for row in rows[_first_rows(remaining[first[0]], len(rows))]:
            if "id" not in manifest.fields:
                break
            start, end = int(row["id_offset"]), int(row["id_offset"]) + int(row["id_length"])
            hollow.seek(start)
            hollow.write(remote.read(file.path, start, end))


def _check_files(path: str, directory: Directory, manifest: Manifest) -> None:
    """Check that every shard file is there. Raises JobError."""
    there = set(directory.names())
    if not there:  # a web server lists no names
        return
    files = list(data_files(manifest))
    for folder in {file.path.rpartition("/")[0] for file in files} - {""}:
        there |= {f"{folder}/{name}" for name in directory.names(folder)}
    missing = [file.path for file in files if file.path not in there]
    if missing:
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise JobError(f"{path}: of {counted(len(files), 'shard file')}, {len(missing)} are missing: {named};"
                       " restore them from a copy, or make the dataset again")  # fmt: skip


def _split_facts(manifest: Manifest, name: str) -> dict[str, Any]:
    split = manifest.splits[name]
    sizes = {format: split.shards.bytes(format) for format in manifest.formats}
    return {"records": split.records, "shards": len(split.shards), "bytes": sizes}


def _generation_facts(generation: Generation) -> dict[str, Any]:
    return {
        "number": generation.number,
        "made": generation.made,
        "records": generation.records,
        "fingerprint": generation.fingerprint.digest,
        "is_removed": generation.is_removed,
    }


def _generation_line(generation: Mapping[str, Any]) -> str:
    removed = ", removed" if generation["is_removed"] else ""
    return f"{printable(generation['made'])}: {counted(generation['records'], 'record')}{removed}"


def _field_facts(field: Field) -> dict[str, Any]:
    shown = {
        "kind": field.kind,
        "dtype": field.dtype,
        "shape": list(field.shape),
        "encoding": field.encoding,
        "role": field.role,
        "names": list(field.names) or None,
        "flip_pairs": [list(pair) for pair in field.flip_pairs] or None,
        "feature": field.feature,
    }
    return {name: value for name, value in shown.items() if value is not None}


def _class_facts(manifest: Manifest) -> dict[str, Any] | None:
    """The names of the classes in order, and their counts over all splits that have counts."""
    counts: dict[str, int] = {}
    for split in manifest.splits.values():
        for name, number in (split.classes or {}).items():
            counts[name] = counts.get(name, 0) + number
    if manifest.class_names is None and not counts:
        return None
    names = list(manifest.class_names or counts)
    return {"names": names, "named": manifest.class_names is not None, "counts": counts or None}


def _size_facts(path: Path, manifest: Manifest, shards: list[Shard], of: int) -> dict[str, Any] | None:
    if not shards:
        return None
    format = manifest.formats[0]
    step = -(-sum(shard.records for shard in shards) // _MOST_ROWS)
    images = {name: _size_columns(name) for name in (IMAGE, *further_images(manifest.fields))}
    names = [column for columns in images.values() for column in columns.values()]
    every = np.concatenate([_rows(path, shard, format, manifest.fields)[names][::step].copy() for shard in shards])
    sizes = {name: {what: _range(every[c]) for what, c in columns.items()} for name, columns in images.items()}
    further = {name: sizes[name] for name in images if name != IMAGE}
    return {**sizes[IMAGE], "further": further, "indexes": len(shards), "of": of}


def _size_columns(name: str) -> dict[str, str]:
    """The columns of an index with height, width and stored bytes of an image."""
    return dict(zip(("height", "width", "length"), (*size_columns(name), extent_columns(name)[1]), strict=True))


def _range(values: NDArray[Any]) -> list[int]:
    return [int(values.min()), int(np.median(values)), int(values.max())]


def _statistics_facts(manifest: Manifest) -> dict[str, Any] | None:
    found = manifest.statistics
    if found is None:
        return None
    facts = {"split": found.split, "pixels": found.pixels, "mean": list(found.mean), "std": list(found.std)}
    return facts if found.scaled else {**facts, "scaled": False}


def _examples(path: Path, manifest: Manifest, remaining: Mapping[str, Remaining]) -> Iterator[dict[str, Any]]:
    """The first records of the first split with records."""
    format, fields = manifest.formats[0], manifest.fields
    for split, shard in islice(_first_shards(manifest), 1):
        file = shard.files[format]
        rows, data = _rows(path, shard, format, fields), _map(path, file)
        numbers = _first_rows(remaining[split], len(rows))
        for row, id in zip(numbers, record_ids(file, data, rows, "id" in fields, numbers), strict=True):
            label = rows["label"][row].tolist() if "label" in (rows.dtype.names or ()) else None
            names = manifest.class_names or ()
            name = names[label] if isinstance(label, int) and 0 <= label < len(names) else None
            yield {
                "split": split,
                "id": id.decode("utf-8", "backslashreplace"),
                "label": label if name is None else name,
                **{name: int(rows[name][row]) for name in ("height", "width", "length")},
            }


def _first_rows(remaining: Remaining, rows: int) -> list[int]:
    """The first rows of the first shard with records that count."""
    first: list[int] = remaining.rows(0, rows)[:_RECORDS].tolist()
    return first


def _first_shards(manifest: Manifest) -> Iterator[tuple[str, Shard]]:
    """The shards with records, each with its split."""
    return ((name, shard) for name, split in manifest.splits.items() for shard in split.shards if shard.records)


def _rows(path: Path, shard: Shard, format: str, fields: Mapping[str, Field]) -> NDArray[np.void]:
    try:
        return index.load(path, shard.files[format], shard.records, fields)
    except CorruptionError as error:
        raise JobError(f"{error}; `image-shards index {path}` makes it again") from error


def _map(path: Path, file: ShardFile) -> NDArray[np.uint8]:
    data = map_file(path / file.path)
    if data.size != file.bytes:
        raise JobError(
            f"{path / file.path}: has {data.size:,} bytes, the manifest says {file.bytes:,};"
            f" `image-shards verify {path}` says more"
        )
    return data


def _some(shown: Mapping[str, Any], most: int, line: Callable[[Mapping[str, Any]], str]) -> list[str]:
    first = dict(islice(shown.items(), most))
    width = max([10, *(len(_short(name)) for name in first)])
    more = len(shown) - len(first)
    lines = [f"  {_short(name):<{width}} {line(value)}" for name, value in first.items()]
    return lines + ([f"  ... {more} more"] if more else [])


def _split_line(split: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{format} {size_text(size)}" for format, size in split["bytes"].items())
    return f"{counted(split['records'], 'record')}, {counted(split['shards'], 'shard')}, {sizes}"


def _field_line(field: Mapping[str, Any]) -> str:
    shape = ", ".join("*" if size is None else str(size) for size in field["shape"])
    parts = [field["dtype"] + (f" [{shape}]" if shape else ""), field.get("encoding"), field.get("role")]
    parts += [counted(len(field["names"]), "name")] if "names" in field else []
    parts += [f"from {_short(field['feature'])}"] if "feature" in field else []
    return ", ".join(part for part in parts if part)


def _class_lines(classes: Mapping[str, Any] | None) -> list[str]:
    if classes is None:
        return ["classes      none"]
    names, counts = classes["names"], classes["counts"]
    numbers = "" if classes["named"] else " (numbers, without names)"
    lines = [f"classes      {len(names)}{numbers}: {_few(map(_short, names), 46)}"]
    if counts and len(counts) > 1:
        order = sorted(counts, key=lambda name: (-counts[name], name))
        for kind, part in (("most", order), ("fewest", order[::-1])):
            lines.append(f"  {kind:<10} {_few((f'{_short(name)} {counts[name]}' for name in part), 62)}")
    return lines


def _few(texts: Iterable[str], width: int) -> str:
    """As many of `texts` as fit into `width`, but at least the first, with commas between."""
    shown = ""
    for text in texts:
        if shown and len(shown) + len(text) + 2 > width:
            return f"{shown}, ..."
        shown += f"{', ' if shown else ''}{text}"
    return shown


def _size_lines(sizes: Mapping[str, Any] | None) -> list[str]:
    if sizes is None:
        return []
    part = f" (from {sizes['indexes']} of {sizes['of']} shards)" if sizes["indexes"] < sizes["of"] else ""
    lines = [f"sizes        smallest, median, largest{part}"]
    for name in ("height", "width"):
        lines.append(f"  {name:<10} {', '.join(map(str, sizes[name]))}")
    lines.append(f"  {'stored':<10} {', '.join(map(size_text, sizes['length']))}")
    return lines + _some(sizes["further"], _MOST_FURTHER, lambda one: ", ".join(map(size_text, one["length"])))


def _statistics_lines(statistics: Mapping[str, Any] | None) -> list[str]:
    if statistics is None:
        return []
    mean, std = (" ".join(f"{value:.4f}" for value in statistics[name]) for name in ("mean", "std"))
    unit = "0 to 1" if statistics.get("scaled", True) else "as they are"
    return [f"statistics   mean {mean}, std {std} (of {_short(statistics['split'])}, {unit})"]


def _option_lines(options: Mapping[str, Any]) -> Iterator[str]:
    """The origin of the dataset and its options, in a few lines."""
    origin = next((value for name, value in _flat(options) if name[-1] == "input"), None)
    command = printable(str(options.get("command", "prepare")))
    yield f"made         by {command}{f' from {printable(str(origin))}' if origin else ''}"
    shown = ((name, value) for name, value in _flat(options) if not _OPTIONS_LEFT_OUT & set(name))
    parts = [printable(f"{name[-1]} {value}") for name, value in shown]
    lines = textwrap.wrap(", ".join(parts), 76, break_long_words=False, break_on_hyphens=False)
    yield from (f"  {line}" for line in lines[:_MOST_OPTION_LINES])


def _flat(options: Mapping[str, Any], outer: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each option with a value, with its path of names."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*outer, name))
        elif value not in (None, False, [], ""):
            yield (*outer, name), value


def _example_line(example: Mapping[str, Any]) -> str:
    label = "" if example["label"] is None else f"  {_short(str(example['label']))}"
    size = f"{example['height']} x {example['width']}"
    return f"{_short(example['id'], 40)}{label}  {size}  {size_text(example['length'])}"


def _short(text: str, most: int = 24) -> str:
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."
