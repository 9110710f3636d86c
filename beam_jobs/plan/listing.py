"""The listing of INPUT: its inputs, their layout and their fingerprint."""

from __future__ import annotations

import heapq
import re
import time
from dataclasses import dataclass, replace

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.options import JobOptions
from beam_jobs.plan.fingerprint import fingerprint_of
from beam_jobs.plan.order import Inputs, scan
from beam_jobs.plan.schema.base import Base, conformed
from beam_jobs.plan.schema.catalog import Catalog, Schema
from beam_jobs.sources.files.interface import Layout, Source
from beam_jobs.sources.files.many_images import without_split
from beam_jobs.terminal import counted, print_status, print_warning
from shard_reader.format.manifest import Fingerprint
from shard_reader.printable import printable

__all__ = ["Listing", "list_input"]

_BOXES = re.compile(r"(^|[/_.])(bbox|bboxes|boxes|xmin|ymin|xmax|ymax)$", re.IGNORECASE)
_MISSING = {"nan", "none", "na", "n/a", "<na>", "null", "nat", "#n/a"}  # in lower case
_LISTING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Listing:
    """The listing of INPUT: its source and the reason for its kind, its entries in a spill, and its schema.

    `base` is the dataset that they are added to; None for a new one.
    """

    source: Source
    why: str
    spill: Spill | None
    inputs: Inputs
    layout: Layout
    schema: Schema
    fingerprint: Fingerprint
    base: Base | None = None

    def everything(self) -> Spill:
        """The spill with all entries.

        Raises:
            ValueError: the entries were not kept.
        """
        if self.spill is None:
            raise ValueError("the listing was not kept")
        return self.spill


def list_input(options: JobOptions, source: Source, why: str, spill: Spill | None, base: Base | None = None) -> Listing:
    """List INPUT. Prints its kind and size, and the progress of a long listing. It is to be added to `base`, if given.

    Raises:
        UsageError: no dataset can be made of INPUT.
    """
    last, number = time.monotonic(), 0

    def on_entry() -> None:
        nonlocal last, number
        number += 1
        # The clock is read for one entry in a thousand, since this is called for each of millions.
        if number % 1000 == 0 and time.monotonic() - last >= _LISTING_SECONDS:
            last = time.monotonic()
            print_status(f"{options.source.input}: {number} inputs found so far")

    catalog = Catalog(options.classes)
    inputs = scan(source, options.seed, catalog, spill, on_entry, options.exclude or frozenset())
    if inputs.excluded and not inputs.count:
        raise UsageError(f"--exclude: leaves out all {counted(inputs.excluded, 'input')}")
    layout = source.layout()
    schema = catalog.close(layout)
    if base is not None:
        schema = conformed(schema, layout, base, options.classes, options.split)
    layout = replace(layout, warnings=(*layout.warnings, *_missing_labels(schema), *_not_excluded(inputs)))
    _check_boxes(options, schema)
    _check_missing(options, schema)
    ignored = f"{counted(layout.ignored, 'file')} ignored"
    if inputs.excluded:
        ignored += f", {inputs.excluded} excluded"
    kind = f"source: {source.options.kind}, {why}"
    print_status(
        f"{options.source.input}: {printable(layout.text)}, {counted(inputs.count, 'image')}, {ignored} ({kind})"
    )
    for warning in layout.warnings:
        print_warning(f"warning: {printable(warning)}")
    fingerprint = fingerprint_of(options, inputs)
    return Listing(
        source=source,
        why=why,
        spill=spill,
        inputs=inputs,
        layout=layout,
        schema=schema,
        fingerprint=fingerprint if base is None else base.fingerprint(fingerprint),
        base=base,
    )


def _missing_labels(schema: Schema) -> tuple[str, ...]:
    """A warning for class names that other programs write where there is no label."""
    names = [name for name in schema.class_names or () if name.strip().lower() in _MISSING]
    if not names:
        return ()
    listed = ", ".join(map(repr, names))
    return (f"class {listed}: is this a missing label? if so, remove these inputs or leave their labels empty",)


def _not_excluded(inputs: Inputs) -> tuple[str, ...]:
    """A warning for ids of --exclude that no input has."""
    if not inputs.unknown:
        return ()
    named = ", ".join(map(printable, heapq.nsmallest(3, inputs.unknown)))
    more = ", ..." if len(inputs.unknown) > 3 else ""
    return (f"--exclude: {counted(len(inputs.unknown), 'id')} of the file no input has: {named}{more}",)


def _check_missing(options: JobOptions, schema: Schema) -> None:
    """Refuse names in --allow-missing that no further image or field of bytes has.

    Raises:
        UsageError: there is no such field.
    """
    for name in options.source.allow_missing or ():
        if name not in schema.payloads or name == schema.segments:
            known = ", ".join(field for field in schema.payloads if field != schema.segments) or "none"
            raise UsageError(
                f"--allow-missing {name}: is no further image or field of bytes of INPUT, which has {printable(known)}"
            )


def _check_boxes(options: JobOptions, schema: Schema) -> None:
    """Refuse fields that look like boxes and would not move with the pixels.

    Raises:
        UsageError: a field has the name of boxes, is not declared as such, and the pixels move.
    """
    # Boxes that stay while the pixels move are wrong labels, which nothing later would reveal.
    kept = {own for name in options.source.fields or () for own in (name, without_split(name))}
    kept |= {schema.renamed[name] for name in kept if name in schema.renamed}
    for name in schema.fields:
        if _BOXES.search(name) and name not in schema.boxes and options.image.fit != "none":
            if name in kept:
                continue  # the user has asked for this field, unchanged
            raise UsageError(
                f"the field {name!r} looks like boxes, and would not move with the pixels: name it with --boxes (of"
                " a table), keep the pixels where they are with --fit none, or choose the fields to keep with --fields"
            )
