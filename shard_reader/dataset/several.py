"""Several datasets as one, each after the other, and what mixtures share with that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.dataset.dataset import Dataset
from shard_reader.dataset.records import Records
from shard_reader.dataset.sampling.stored import StoredRecords
from shard_reader.format.fields import ANY_ENCODING, Field, point_role
from shard_reader.order.record_order import Shuffle
from shard_reader.printable import printable
from shard_reader.shards.located import Located
from shard_reader.shards.remote_shards import RemoteShards
from shard_reader.shards.source import Shards

__all__ = ["Concatenation", "Several", "common_fields", "concat"]

_LABELS = ("label", "objects/label")


class Several(Records):
    """Records of several sources, with numbers that go through the sources one after the other."""

    def __init__(self, sources: Sequence[Records]) -> None:
        self._sources = tuple(sources)
        self._ends = np.cumsum([len(source) for source in self._sources])
        self._fields = common_fields([source.fields for source in self._sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def fields(self) -> Mapping[str, Field]:
        """The fields that all sources have, with the same type."""
        return self._fields

    @property
    def shard_count(self) -> int:
        """The number of shards of all sources."""
        return sum(source.shard_count for source in self._sources)

    @property
    def remote_shards(self) -> set[RemoteShards]:
        """The shards of its sources that are in a store."""
        return set().union(*(source.remote_shards for source in self._sources))

    def shards_of(self, records: NDArray[np.int64]) -> list[tuple[Shards, NDArray[np.int64], NDArray[np.int64]]]:
        numbers = np.searchsorted(self._ends, records, "right")
        found = []
        for number, source in enumerate(self._sources):
            mine = np.flatnonzero(numbers == number)
            own = source.shards_of(records[mine] - (int(self._ends[number]) - len(source)))
            found += [(shards, of_shards, mine[places]) for shards, of_shards, places in own]
        return found

    @property
    def prefetch_bytes(self) -> int:
        """The smallest bound of a source. All sources share it."""
        return min(source.prefetch_bytes for source in self._sources)

    def locate(self, records: NDArray[np.int64]) -> Located:
        self._check_numbers(records)
        numbers = np.searchsorted(self._ends, records, "right")
        shards: list[Any] = []
        which, rows = np.empty_like(records), np.empty_like(records)
        for number, source in enumerate(self._sources):
            places = np.flatnonzero(numbers == number)
            located = source.locate(records[places] - (int(self._ends[number]) - len(source)))
            which[places], rows[places] = located.which + len(shards), located.rows
            shards += located.shards
        return Located(shards, which, rows)

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def _check_room(self, shuffle: Shuffle, batch_size: int, lanes: int, window: int) -> None:
        for source in self._sources:
            source._check_room(shuffle, batch_size, lanes, window)


class Concatenation(Several, StoredRecords):
    """Several datasets one after the other, as one dataset. Made by `concat`.

    Its records and its shards are those of the sources in their order, and each epoch is that of a dataset with all of
    them.
    """

    def __init__(self, sources: Sequence[Dataset | Concatenation]) -> None:
        super().__init__(sources)
        self._parts = tuple(sources)
        self._class_names = _longest([source.class_names for source in sources])

    def __getstate__(self) -> dict[str, Any]:
        return {"_sources": self._parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_sources"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Concatenation({', '.join(map(repr, self._parts))})"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The class names of its sources: the longest list of them, with which all others begin."""
        return self._class_names

    @property
    def fingerprint(self) -> str:
        """The identity of the records."""
        text = "\n".join(source.fingerprint for source in self._parts)
        return f"concatenation/{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"a concatenation of {', '.join(source.name for source in self._parts)}"

    def shard_records(self) -> NDArray[np.int64]:
        """The number of records of each shard, in order, int64 `[shard_count]`.

        Raises:
            ValueError: records of a source are not in stored order.
        """
        return np.concatenate([source.shard_records() for source in self._parts])


def concat(sources: Sequence[Dataset | Concatenation]) -> Concatenation:
    """Put datasets with the same fields one after the other: the result is read as one dataset with all records.

    The names of their classes are the same, or one list begins with the other, as after `prepare --append`. Images may
    differ in size and encoding. `mix` gives each source a part of every batch instead.

    Args:
        sources: datasets from `open_dataset`, `select`, `where` or `concat`.

    Raises:
        ValueError: there is no source, or their fields or class names differ.
        TypeError: a source is not a dataset.

    Examples:
        >>> both = concat([open_dataset("january"), open_dataset("february")])  # doctest: +SKIP
        >>> stream = both.stream(batch_size=256, image=CenterCrop(224))  # doctest: +SKIP
    """
    sources = list(sources)
    if not sources:
        raise ValueError("sources=[]: pass a dataset")
    for source in sources:
        if not isinstance(source, Dataset | Concatenation):
            raise TypeError(f"{source!r}: pass the results of open_dataset, select, where or concat")
    _check_fields(sources)
    _check_classes(sources)
    return Concatenation(sources)


def _check_fields(sources: Sequence[Records]) -> None:
    """Check that records of all sources have the same fields."""
    common, first = common_fields([source.fields for source in sources]), sources[0]
    for source in sources:
        for name in (*first.fields, *source.fields):
            if name not in common and _type(first.fields.get(name)) != _type(source.fields.get(name)):
                types = [_type(one.fields.get(name)) for one in (first, source)]
                raise ValueError(
                    f"the field {printable(name)!r} is {types[0]} in {first.name}, and {types[1]} in {source.name}:"
                    " prepare them with the same options, or give records a field with `image-shards relabel`"
                )


def _check_classes(sources: Sequence[Records]) -> None:
    """Check that a label is of the same class in all sources."""
    if not any(name in sources[0].fields for name in _LABELS):
        return
    longest = max(sources, key=lambda source: len(source.class_names or ()))
    for source in sources:
        names, others = source.class_names, longest.class_names
        if (names is None) != (others is None) or (names or ()) != (others or ())[: len(names or ())]:
            why = f"class names of {source.name} and {longest.name} differ"
            if names is not None and others is not None:
                number = next(number for number, name in enumerate(names) if name != others[number])
                both = f"{printable(names[number])!r} and {printable(others[number])!r}"
                why += f", as {both} of number {number}"
            raise ValueError(f"{why}: prepare them with the same --classes, or join them with `image-shards join`")


def _longest(names: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    found = [one for one in names if one is not None]
    return max(found, key=len) if found else None


def _type(field: Field | None) -> str:
    """The type of a field in words."""
    if field is None:
        return "missing"
    shape = ", ".join("*" if size is None else str(size) for size in field.shape)
    role = f" of the role {field.role}" if field.role is not None else ""
    return f"{field.dtype} [{shape}]{role}" if field.shape else field.dtype


def common_fields(sources: Sequence[Mapping[str, Field]]) -> dict[str, Field]:
    """The fields of all sources. Images may differ in encoding and size: their common field is then of any."""
    first, *others = sources
    common = {}
    for name, field in first.items():
        found = [other.get(name) for other in others]
        if all(other is not None and _with_role(name, other) == _with_role(name, field) for other in found):
            common[name] = _with_role(name, field)
        elif field.is_image and all(other and other.is_image and _pixels(other) == _pixels(field) for other in found):
            shape = (None, None, field.shape[2])
            common[name] = Field(dtype=field.dtype, shape=shape, encoding=ANY_ENCODING, role=field.role)
    return common


def _with_role(name: str, field: Field) -> Field:
    """A field with the role that it has by its name, if it was made before fields had roles."""
    return field if field.is_image else replace(field, role=point_role(name, field))


def _pixels(field: Field) -> tuple[object, ...]:
    """The properties that images of one batch have in common."""
    return field.dtype, field.shape[2], "photo" if field.is_filtered else field.role
