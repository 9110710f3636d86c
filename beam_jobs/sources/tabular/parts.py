"""The files of one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.file_names import split_place
from beam_jobs.sources.files.interface import BadInput
from beam_jobs.sources.files.tables.rows import KINDS, Rows
from beam_jobs.sources.tabular.columns import listed
from shard_reader.storage.open import directory

__all__ = ["columns_of_parts", "order_of_classes", "rows_of_parts", "table_parts", "table_suffix"]


def table_parts(place: str, refused: Callable[[str], UsageError]) -> list[Rows]:
    """The files of a table, which is a file or a folder, in the order of their names.

    Args:
        place: a path or a URL.
        refused: makes an error that names the table.

    Raises:
        UsageError: it is no table.
    """
    folder, name = split_place(place)
    inside = directory(place)
    if not inside.exists():
        suffix = table_suffix(name)
        if suffix not in KINDS:
            raise refused(f"is no table; its name would end in {', '.join(KINDS)}")
        return [KINDS[suffix](directory(folder), name)]
    # Spark writes a file _SUCCESS beside the parts of a table.
    names = sorted(name for name in inside.names() if not name.startswith((".", "_")))
    if not names:
        raise refused("is an empty folder")
    odd = next((name for name in names if table_suffix(name) not in KINDS), None)
    if odd is not None or len({table_suffix(name) for name in names}) > 1:
        table = next((name for name in names if table_suffix(name) in KINDS), None)
        remedy = f"give the table alone: {place}/{table}" if table else "give a table"
        raise refused(f"a folder of tables has nothing else in it, here is {odd or names[-1]}; {remedy}")
    return [KINDS[table_suffix(name)](inside, name) for name in names]


def table_suffix(place: str) -> str:
    """The suffix of a file's name, in lower case, with `.gz` if it has that."""
    name = place.rpartition("/")[2].lower()
    dot, suffix = name.removesuffix(".gz").rpartition(".")[1:]
    return dot + suffix + (".gz" if name.endswith(".gz") else "")


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
