"""The datasets of a join: what they must have in common, and the manifest of all of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.images.measures.statistics import ChannelSums, statistics_of
from beam_jobs.plan.order import statistics_split
from shard_reader.format.fields import Field
from shard_reader.format.image_codecs.table import codec_of
from shard_reader.format.manifest import (
    Counts,
    Fingerprint,
    Generation,
    Host,
    Manifest,
    Split,
    Statistics,
    canonical_json,
)
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory
from shard_reader.storage.secrets import without_secrets

__all__ = ["LABELS", "Classes", "Part", "common_fields", "joined_manifest", "measured_split", "merged_classes"]

LABELS = ("label", "objects/label")
_SHOWN = 5  # differences in a message
_HOSTS = 1000


@dataclass(frozen=True, slots=True)
class Part:
    """A dataset of a join: its place, its path from OUT, its directory, and its manifest."""

    place: str
    path: str
    files: Directory
    manifest: Manifest

    @property
    def shown(self) -> str:
        """Its place without secrets."""
        return without_secrets(self.place)


@dataclass(frozen=True, slots=True)
class Classes:
    """The names of all classes, and for each part the new number of each class; None where numbers stay."""

    names: tuple[str, ...] | None
    numbers: tuple[NDArray[np.int64] | None, ...]


def common_fields(parts: Sequence[Part]) -> dict[str, Field]:
    """The fields of all parts.

    Raises:
        UsageError: the parts differ in fields, formats or normalization. The message has the differences.
    """
    first, found = parts[0], dict(parts[0].manifest.fields)
    for part in parts[1:]:
        differences = list(_differences(first.manifest, part.manifest))
        if differences:
            more = ", ..." if len(differences) > _SHOWN else ""
            raise UsageError(
                f"{first.shown} and {part.shown} cannot be joined: {'; '.join(differences[:_SHOWN])}{more}: prepare"
                " them with the same options"
            )
        for name, field in part.manifest.fields.items():
            if field.is_image and field.shape != found[name].shape:
                found[name] = replace(found[name], shape=(None, None, field.shape[2]))
    return found


def _differences(one: Manifest, other: Manifest) -> Iterator[str]:
    if set(one.formats) != set(other.formats):
        yield f"the formats are {' and '.join(one.formats)}, and {' and '.join(other.formats)}"
    for name in dict.fromkeys((*one.fields, *other.fields)):
        pair = one.fields.get(name), other.fields.get(name)
        if pair[0] is None or pair[1] is None or _kind(pair[0]) != _kind(pair[1]):
            yield f"the field {printable(name)!r} is {' and '.join(map(_words, pair))}"
    normalized = [_normalization(manifest) for manifest in (one, other)]
    if normalized[0] != normalized[1]:
        how = [str(found[0]) for found in normalized]
        of = f"{how[0]}, and {how[1]}" if how[0] != how[1] else f"{how[0]}, each by its own statistics"
        yield f"the pixels are normalized by {of}"
    labels = [name for name in LABELS if name in one.fields and one.fields[name].dtype == "int64"]
    if labels and (one.class_names is None) != (other.class_names is None):
        yield "the classes of one have names, and those of the other have none"


def _kind(field: Field) -> Field:
    """A field without the size of its images, which may differ. Raw further images have theirs from their shape."""
    if not field.is_image or (codec_of(field).is_raw and field.is_fixed and field.role is not None):
        return field
    return replace(field, shape=(None, None, field.shape[2]))


def _words(field: Field | None) -> str:
    if field is None:
        return "missing"
    shape = ", ".join("*" if size is None else str(size) for size in field.shape)
    kind = f"{field.dtype} [{shape}]" if field.shape else field.dtype
    return " ".join(filter(None, (kind, field.encoding, field.role)))


def _normalization(manifest: Manifest) -> tuple[Any, Any]:
    image = manifest.options.get("image")
    how = image.get("normalize") if isinstance(image, Mapping) else None
    own: Any = None
    if how == "dataset":
        # Datasets of before name no sums: their statistics were those of their normalization.
        found = manifest.statistics
        own = manifest.options.get("normalization") or (found and [found.mean, found.std])
    return how, own


def merged_classes(parts: Sequence[Part]) -> Classes:
    """The names of all classes: those of the first part, and then the new ones of each other part in their order."""
    if all(part.manifest.class_names is None for part in parts):
        return Classes(None, (None,) * len(parts))
    numbers: dict[str, int] = {}
    for part in parts:
        for name in part.manifest.class_names or ():
            numbers.setdefault(name, len(numbers))
    found = [np.array([numbers[name] for name in part.manifest.class_names or ()], np.int64) for part in parts]
    has_labels = any(name in parts[0].manifest.fields for name in LABELS)
    changed = [has_labels and not np.array_equal(new, np.arange(len(new))) for new in found]
    return Classes(
        tuple(numbers), tuple(new if is_changed else None for new, is_changed in zip(found, changed, strict=True))
    )


def joined_manifest(
    parts: Sequence[Part],
    fields_of_all: Mapping[str, Field],
    names: tuple[str, ...] | None,
    splits: Mapping[str, Split],
    files: Mapping[str, str],
    folder: str,
) -> Manifest:
    """The manifest of all parts, from their splits, whose classes are counted here."""
    manifests = [part.manifest for part in parts]
    splits = {name: replace(split, classes=_classes(manifests, name, names)) for name, split in splits.items()}
    records = sum(split.records for split in splits.values())
    fingerprint = _fingerprint(manifests)
    return Manifest(
        fields=fields_of_all,
        formats=manifests[0].formats,
        splits=splits,
        class_names=names,
        statistics=_statistics(manifests),
        counts=_counts(manifests, records),
        seed=manifests[0].seed,
        options=_options(parts),
        fingerprint=fingerprint,
        left_out=tuple(dict.fromkeys(one for manifest in manifests for one in manifest.left_out)),
        warnings=tuple(dict.fromkeys(one for manifest in manifests for one in manifest.warnings)),
        files=files,
        hosts=_hosts(manifests),
        generations=(Generation(number=1, made="join", records=records, fingerprint=fingerprint, folder=folder),),
    )


def measured_split(manifests: Sequence[Manifest]) -> str:
    """The split whose pixels the statistics are of."""
    return statistics_split(list(dict.fromkeys(name for manifest in manifests for name in manifest.splits)))


def _statistics(manifests: Sequence[Manifest]) -> Statistics | None:
    """The statistics of all parts, from their exact sums; None if a part has no such sums."""
    split, sums = measured_split(manifests), ChannelSums()
    for manifest in manifests:
        found = manifest.statistics
        if split not in manifest.splits or not manifest.splits[split].records:
            continue
        if found is None or found.split != split or found.sums is None:
            return None
        sums += ChannelSums(found.pixels, found.sums.total, found.sums.squares, found.sums.peak)
    return statistics_of(split, sums)


def _classes(manifests: Sequence[Manifest], split: str, names: tuple[str, ...] | None) -> Mapping[str, int] | None:
    found = [manifest.splits[split] for manifest in manifests if split in manifest.splits]
    if any(one.classes is None for one in found if one.records) or all(one.classes is None for one in found):
        return None
    counts = Counter[str]()
    for one in found:
        counts.update(one.classes or {})
    if names is None:
        return {name: counts[name] for name in sorted(counts, key=int)}
    return {name: counts[name] for name in names}


def _counts(manifests: Sequence[Manifest], records: int) -> Counts:
    changed, sums = Counter[str](), Counter[str]()
    for manifest in manifests:
        changed.update(manifest.counts.changed)
        sums.update({one.name: getattr(manifest.counts, one.name) for one in fields(Counts) if one.name != "changed"})
    return Counts(**{**sums, "written": records}, changed=dict(changed))


def _hosts(manifests: Sequence[Manifest]) -> dict[str, Host]:
    images, sizes = Counter[str](), Counter[str]()
    for manifest in manifests:
        for name, host in manifest.hosts.items():
            images[name] += host.images
            sizes[name] += host.bytes
    kept = [name for name, _ in images.most_common() if name != "..."]
    for name in kept[_HOSTS:]:
        images["..."] += images[name]
        sizes["..."] += sizes[name]
    last = ["..."] if images["..."] else []
    return {name: Host(images=images[name], bytes=sizes[name]) for name in [*kept[:_HOSTS], *last]}


def _options(parts: Sequence[Part]) -> dict[str, Any]:
    """The options that all parts have in common, of the image those of each."""
    every = [dict(part.manifest.options) for part in parts]
    common = {name: value for name, value in every[0].items() if all(one.get(name, ...) == value for one in every)}
    images = [image for one in every if isinstance(image := one.get("image"), Mapping)]
    if len(images) == len(every):
        same = [name for name, value in images[0].items() if all(image.get(name, ...) == value for image in images)]
        common["image"] = {name: images[0][name] for name in same}
    return {**common, "command": "join", "parts": [part.path for part in parts]}


def _fingerprint(manifests: Sequence[Manifest]) -> Fingerprint:
    found = [manifest.fingerprint for manifest in manifests]
    options = {one.options for one in found}
    codecs: dict[str, str] = {}
    for one in found:
        for name, version in one.codecs.items():
            known = codecs.get(name, version)
            codecs[name] = known if version in known.split(", ") else f"{known}, {version}"
    inputs = hashlib.sha256(canonical_json(["join", [one.digest for one in found]]).encode()).hexdigest()
    joined = hashlib.sha256(canonical_json([one.options for one in found]).encode()).hexdigest()
    return Fingerprint(inputs=inputs, options=min(options) if len(options) == 1 else joined, codecs=codecs)
