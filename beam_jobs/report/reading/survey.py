"""One pass over the indexes: numbers of all records, and the choice of those to look at. No pixel is read here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from beam_jobs.report.reading.choice import Lowest, LowestOfEach, Place, is_number, mixed
from shard_reader.dataset.dataset import Dataset
from shard_reader.errors import ShardsError
from shard_reader.format import index
from shard_reader.format.checksum import crc32c
from shard_reader.format.fields import IMAGE, extent_columns, point_role
from shard_reader.format.image_codecs.table import codec_of
from shard_reader.format.manifest import Manifest
from shard_reader.shards.shard import OpenShard

__all__ = ["EXTREMES", "LOOKED_AT", "Survey", "survey"]

EXTREMES: Final = 6
"""Records that are shown of each extreme."""
LOOKED_AT: Final = 1024
"""Records of the sample whose pixels are measured."""
_ROWS = 1 << 19  # records of which sizes are kept, for medians and charts
_BLOCK = 1 << 18  # rows of an index that are looked at together
_TOGETHER = 16  # indexes of a store that are fetched at the same time
_MOST_LOCAL, _MOST_REMOTE = 1 << 32, 1 << 28  # bytes of indexes that are read
_MOST_PIXELS = 1 << 26  # of one image that is shown
_SIZES = ("height", "width", "original_height", "original_width", "length")
_SIZES_DTYPE = np.dtype([(name, "<i8") for name in _SIZES])


@dataclass(slots=True)
class Survey:
    """The result of the pass.

    Attributes:
        rows: the number of records that were seen.
        records: the number of all records.
        sizes: the sizes of up to half a million of them, spread evenly: a structured array of int64.
            `original_height` and `original_width` are 0 if the dataset does not have them.
        has_originals: whether the dataset has the sizes of the images before they were resized.
        constant: the number of images of one colour; None if the dataset has no perceptual hashes.
        sample: a random sample of all records.
        of_class: a few records of each class, by its label.
        extremes: records by the name of what is extreme about them.
        constants: some of the images of one colour.
        by_id: the records of the ids that were asked for, each with those that have the same CRC-32C.
        empty: the number of the records that have no bytes in a field of bytes, or no element in a list with a role.
        problems: a line for each shard that cannot be read.
    """

    records: int
    has_originals: bool
    rows: int = 0
    shards: int = 0
    sizes: NDArray[np.void] = field(default_factory=lambda: np.empty(0, _SIZES_DTYPE))
    constant: int | None = None
    sample: list[Place] = field(default_factory=list)
    of_class: dict[int, list[Place]] = field(default_factory=dict)
    extremes: dict[str, list[Place]] = field(default_factory=dict)
    constants: list[Place] = field(default_factory=list)
    by_id: dict[str, Place] = field(default_factory=dict)
    empty: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def survey(
    manifest: Manifest,
    splits: list[Dataset],
    labels: Collection[int],
    of_each: int,
    ids: Collection[str],
    *,
    remote: bool,
) -> Survey:
    """Read the indexes.

    Args:
        manifest: the manifest of the dataset.
        splits: the dataset, a part for each split, in the manifest's order.
        labels: the labels of which records are chosen.
        of_each: the number of records to choose of each.
        ids: ids whose records are to be found.
        remote: whether the dataset is in a store: then fewer indexes are read.
    """
    found = _Pass(manifest, labels, of_each, ids)
    steps = _steps(manifest, _MOST_REMOTE if remote else _MOST_LOCAL)
    for number, data in enumerate(splits):
        remaining = data.remaining
        for shard, first in _shards(data, steps, found.survey):
            start, rows = int(remaining.ends(np.array([first]))[0]), remaining.rows(first, len(shard.rows))
            found.add(shard, number, rows, start)
        if remote:
            data.close()
    return found.finished()


def _steps(manifest: Manifest, most: int) -> int:
    """Of how many indexes one is read, so that they have no more than `most` bytes."""
    format = manifest.formats[0]
    size = sum(index.size(shard.files[format], shard.records, manifest.fields) for shard in manifest.shards())
    return max(1, -(-size // most))


def _shards(data: Dataset, step: int, survey: Survey) -> Iterator[tuple[OpenShard, int]]:
    """Every `step`-th shard with records, and the number of its first record in the split."""
    ends = np.cumsum(data.manifest.splits[data.split].shards.records)
    firsts, last = np.concatenate([[0], ends]), data.remaining.ends(ends)
    filled = np.flatnonzero(np.diff(last, prepend=0))[::step]
    for start in range(0, len(filled), _TOGETHER):
        chosen = filled[start : start + _TOGETHER]
        opened = data.locate(last[chosen] - 1)
        for place, first in enumerate(firsts[chosen].tolist()):
            try:
                yield opened.shard(place)[0], first
            except (ShardsError, OSError) as error:
                survey.problems.append(str(error))


class _Pass:
    """What is collected during the pass."""

    def __init__(self, manifest: Manifest, labels: Collection[int], of_each: int, ids: Collection[str]) -> None:
        fields = manifest.fields
        self.survey = Survey(
            records=sum(split.records for split in manifest.splits.values()),
            has_originals=is_number(fields, "original_height") and is_number(fields, "original_width"),
        )
        self._payloads = {
            name: extent_columns(name)[1]
            for name, field in fields.items()
            if field.dtype == "bytes" or point_role(name, field)
        }
        self._has_labels = is_number(fields, "label")
        self._is_raw = codec_of(fields[IMAGE]).is_raw
        self._has_hash = is_number(fields, "phash")
        self._step = max(1, -(-self.survey.records // _ROWS))
        self._sizes: list[NDArray[np.void]] = []
        self._sample = Lowest(LOOKED_AT)
        self._of_class = LowestOfEach(np.array(sorted(labels), np.int64), of_each)
        names = ["smallest", "widest", "tallest", *(["least-bytes", "most-bytes"] if not self._is_raw else [])]
        self._extremes = {name: Lowest(EXTREMES) for name in names}
        self._constants = Lowest(EXTREMES)
        # An index has no ids, but a checksum of each.
        self._wanted: dict[int, list[str]] = {}
        for id in sorted(ids) if "id" in fields else ():
            self._wanted.setdefault(crc32c(id.encode("utf-8", "replace")), []).append(id)
        self._checksums = np.array(sorted(self._wanted), np.uint32)

    def add(self, shard: OpenShard, split: int, rows: NDArray[np.int64], first: int) -> None:
        """Look at some rows of a shard, rising. The first of them is that of record `first` of its split."""
        self.survey.shards += 1
        for start in range(0, len(rows), _BLOCK):
            places = rows[start : start + _BLOCK]
            block = shard.rows[places]
            self._add(block, split, np.arange(first + start, first + start + len(block)))
            self._find(shard, block, places, split, first + start)

    def _add(self, rows: NDArray[np.void], split: int, numbers: NDArray[np.int64]) -> None:
        sizes = self._sizes_of(rows)
        self.survey.rows += len(rows)
        for name, column in self._payloads.items():
            self.survey.empty[name] = self.survey.empty.get(name, 0) + int(np.count_nonzero(rows[column] == 0))
        self._sizes.append(sizes[-int(numbers[0]) % self._step :: self._step])
        stored = sizes["height"].astype(np.float64) * sizes["width"]
        may_be_shown = (stored > 0) & (stored <= _MOST_PIXELS)
        self._sample.add(np.where(may_be_shown, mixed(split, numbers).astype(np.float64), np.inf), split, numbers)
        if self._has_labels:
            some = np.flatnonzero(may_be_shown)
            self._of_class.add(rows["label"][some], split, numbers[some])
        for name, keys in self._keys(sizes, stored).items():
            self._extremes[name].add(np.where(may_be_shown, keys, np.inf), split, numbers)
        if self._has_hash:
            constant = rows["phash"] == 0
            self.survey.constant = (self.survey.constant or 0) + int(constant.sum())
            self._constants.add(np.where(constant & may_be_shown, 0.0, np.inf), split, numbers)

    def _sizes_of(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        sizes = np.zeros(len(rows), _SIZES_DTYPE)
        for name in _SIZES:
            if name in (rows.dtype.names or ()) and not rows.dtype[name].shape:
                sizes[name] = rows[name]
        return sizes

    def _keys(self, sizes: NDArray[np.void], stored: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64]]:
        """The keys of the extremes: the lowest are the most extreme."""
        kind = "original_" if self.survey.has_originals else ""
        height, width = (np.maximum(sizes[f"{kind}{side}"], 1).astype(np.float64) for side in ("height", "width"))
        keys = {"smallest": height * width, "widest": height / width, "tallest": width / height}
        if not self._is_raw:
            density = sizes["length"] / np.maximum(stored, 1)
            keys |= {"least-bytes": density, "most-bytes": -density}
        return keys

    def _find(
        self, shard: OpenShard, rows: NDArray[np.void], places: NDArray[np.int64], split: int, first: int
    ) -> None:
        """Find the ids that are looked for among some rows of a shard, at some places."""
        if not len(self._checksums):
            return
        for row in np.flatnonzero(np.isin(rows["id_crc32c"], self._checksums)).tolist():
            for id in self._wanted[int(rows["id_crc32c"][row])]:
                try:
                    found = shard.id(int(places[row]))
                    if id not in self.survey.by_id and found == id.encode("utf-8", "replace"):
                        self.survey.by_id[id] = Place(split, first + row)
                except ShardsError as error:
                    self.survey.problems.append(str(error))

    def finished(self) -> Survey:
        """The result, after the last shard."""
        found = self.survey
        found.sizes = np.concatenate([np.empty(0, _SIZES_DTYPE), *self._sizes])
        found.sample, found.of_class = self._sample.places(), self._of_class.places()
        found.extremes = {name: lowest.places() for name, lowest in self._extremes.items()}
        found.constants = self._constants.places()
        return found
