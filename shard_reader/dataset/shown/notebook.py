"""Records as a notebook shows them: pictures, tables, and a data frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import as_integer
from shard_reader.dataset.shown.display import Gallery, gallery, overview
from shard_reader.dataset.shown.frame import data_frame

__all__ = ["InNotebooks"]


class InNotebooks:
    """The methods of a dataset for people who look at it."""

    def to_pandas(self: Any, fields: Iterable[str] | None = None) -> Any:
        """The fields of all records as a `pandas.DataFrame`, without images: a row for each record, by its number.

        `data.select(frame.index[frame.width < 64])` are the records of some rows. A column `class` with the names of
        labels, a pandas Categorical, stands after `label`, unless the records have a field of that name. Arrays and
        lists are objects.

        Args:
            fields: the fields to read. By default all that the indexes hold (numbers), and `id`. Ids, strings and
                lists are read from the shards, record by record.

        Raises:
            ValueError: there is no such field, or it is an image.
            TypeError: `fields` is a single text.
            CorruptionError: a shard or a value is damaged.
            ModuleNotFoundError: pandas is not installed.

        Examples:
            >>> data.to_pandas(["label", "width"]).groupby("class").width.describe()  # doctest: +SKIP
        """
        return data_frame(self, fields)

    def show(self: Any, n: int = 12, *, seed: int = 0) -> Gallery:
        """Some records with their pictures, for a notebook; in a terminal, a line for each.

        Labels are under the pictures; mask, boxes and keypoints are drawn on them. A damaged record shows its damage.

        Args:
            n: number of records, at most 200; all, if there are fewer.
            seed: decides which records.

        Raises:
            ValueError: a value is out of range.
            TypeError: a value is not an integer.
        """
        return self._gallery(n, seed)  # type: ignore[no-any-return]

    def _gallery(self: Any, n: int, seed: int, among: Any = None, numbers: NDArray[np.int64] | None = None) -> Gallery:
        """Some records among those of a subset, which have these numbers here."""
        return gallery(self, n, as_integer("seed", seed), title=repr(self if among is None else among), among=numbers)

    def _repr_html_(self: Any) -> str:
        """What a notebook shows: a few pictures, splits, fields and classes."""
        return overview(self, {}, "", ())
