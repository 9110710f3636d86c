"""The files of one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from beam_jobs.sources.files.interface import BadInput
from beam_jobs.sources.files.tables.rows import Rows
from beam_jobs.sources.tabular.columns import listed

__all__ = ["columns_of_parts", "order_of_classes", "rows_of_parts"]


def columns_of_parts(parts: Sequence[Rows]) -> tuple[str, ...]:
    """The columns of a table.

    Raises:
        UsageError: there are none, or a file is damaged.
    """
    names = parts[0].columns()
    if not parts[0].same_columns:
        names = tuple(dict.fromkeys(name for part in parts for name in part.columns()))
    if not names:
        raise parts[0].refused(f"has no {'column' if parts[0].same_columns else 'line with a JSON object'}")
    return names


def order_of_classes(parts: Sequence[Rows], label: str | None) -> tuple[str, ...] | None:
    """The classes of an ordered categorical column in their order, if all files have it; otherwise None."""
    orders = {part.categories(label) for part in parts} if label is not None else set()
    return orders.pop() if len(orders) == 1 else None


def rows_of_parts(
    parts: Sequence[Rows], names: Sequence[str], wanted: Sequence[str]
) -> Iterator[tuple[Rows, int, Sequence[Any] | BadInput]]:
    """Every row with its file and its number: the values of the wanted columns, or the defect of the row.

    Raises:
        UsageError: a file is damaged, or has other columns than `names`.
    """
    for part in parts:
        if part.same_columns and set(part.columns()) != set(names):
            raise part.refused(
                f"has the columns {listed(part.columns())}; {parts[0].name} has {listed(names)}:"
                " the files of a folder are one table, with the same columns"
            )
        for number, values in part.rows(wanted):
            yield part, number, values
