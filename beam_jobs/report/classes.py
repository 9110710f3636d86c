"""The classes of a dataset and their numbers of records, split by split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from beam_jobs.report.charts import parts
from shard_reader.format.manifest import Manifest

__all__ = ["ClassRow", "Classes", "classes_of"]

SHOWN: Final = 320
"""Classes in the table and in the gallery: of more, those with the most and those with the fewest records."""
SPLITS: Final = 8
"""Splits with a column of the table."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A class.

    Attributes:
        name: its name, or its number.
        label: its number.
        counts: its records in each split that is shown.
        total: its records in all splits.
        bar: the parts of its bar, a pair of begin and length in percent for each split.
    """

    name: str
    label: int
    counts: tuple[int, ...]
    total: int
    bar: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Classes:
    """All classes, with the numbers of their records, or of their objects.

    Attributes:
        noun: what is counted: "image", or "object" where labels are those of objects.
        rows: those that are shown, the largest first.
        count: the number of all.
        splits: the names of the splits that are shown.
        empty: the names of classes without a record.
        single: the names of classes with one record.
        missing: for each split with records, the names of classes that it lacks and others have.
        most, fewest: the records of the largest class, and of the smallest with a record.
    """

    noun: str
    rows: tuple[ClassRow, ...]
    count: int
    splits: tuple[str, ...]
    empty: tuple[str, ...]
    single: tuple[str, ...]
    missing: tuple[tuple[str, tuple[str, ...]], ...]
    most: int
    fewest: int

    @property
    def text(self) -> str:
        """The numbers of all classes in a sentence."""
        if self.most == self.fewest:
            return f"Every class has {self.most:,} {self.noun}{'' if self.most == 1 else 's'}."
        return f"A class has {self.fewest:,} to {self.most:,} {self.noun}s."


def classes_of(manifest: Manifest) -> Classes | None:
    """The classes of a dataset; None if its records have no labels."""
    splits = {name: split.classes for name, split in manifest.splits.items() if split.classes is not None}
    names = list(dict.fromkeys(name for counts in splits.values() for name in counts))
    if not names:
        return None
    totals = {name: sum(counts.get(name, 0) for counts in splits.values()) for name in names}
    shown = _shown(sorted(names, key=lambda name: -totals[name]))
    columns = tuple(splits)[:SPLITS]
    labels = {name: number for number, name in enumerate(manifest.class_names or ())}
    rows = [
        ClassRow(
            name=name,
            label=labels.get(name, int(name) if name.lstrip("-").isascii() and name.lstrip("-").isdigit() else -1),
            counts=(counts := tuple(splits[split].get(name, 0) for split in columns)),
            total=totals[name],
            bar=parts(counts, max(totals.values())),
        )
        for name in shown
    ]
    filled = [total for total in totals.values() if total]
    return Classes(
        noun="image" if "label" in manifest.fields else "object",
        rows=tuple(rows),
        count=len(names),
        splits=columns,
        empty=tuple(name for name in names if not totals[name]),
        single=tuple(name for name in names if totals[name] == 1),
        missing=tuple(
            (split, tuple(name for name in names if totals[name] and not counts.get(name)))
            for split, counts in splits.items()
            if manifest.splits[split].records
        ),
        most=max(filled, default=0),
        fewest=min(filled, default=0),
    )


def _shown(names: list[str]) -> list[str]:
    return names if len(names) <= SHOWN else [*names[: SHOWN // 2], *names[-SHOWN // 2 :]]
