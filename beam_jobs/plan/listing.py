"""The listing of INPUT: its inputs, their layout and their fingerprint."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import Spill
from beam_jobs.options import PrepareOptions
from beam_jobs.plan.catalog import Catalog, Schema
from beam_jobs.plan.fingerprint import fingerprint_of
from beam_jobs.plan.order import Inputs, scan
from beam_jobs.sources.files.interface import Layout, Source
from beam_jobs.sources.files.many_images import without_split
from beam_jobs.terminal import counted, print_status
from shard_reader.format.manifest import Fingerprint

__all__ = ["Listing", "list_input"]

_BOXES = re.compile(r"(^|[/_.])(bbox|bboxes|boxes|xmin|ymin|xmax|ymax)$", re.IGNORECASE)
_LISTING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Listing:
    """What INPUT is, and all that it has, in a spill."""

    source: Source
    spill: Spill | None
    inputs: Inputs
    layout: Layout
    schema: Schema
    fingerprint: Fingerprint

    def everything(self) -> Spill:
        """The spill.

        Raises:
            ValueError: the listing was not kept.
        """
        if self.spill is None:
            raise ValueError("the listing was not kept")
        return self.spill


def list_input(options: PrepareOptions, source: Source, why: str, spill: Spill | None) -> Listing:
    """List INPUT, tell what it is, and now and then how far the listing is.

    Raises:
        UsageError: it is nothing to make a dataset of.
    """
    last, number = time.monotonic(), 0

    def on_entry() -> None:
        nonlocal last, number
        number += 1
        if number % 1000 == 0 and time.monotonic() - last >= _LISTING_SECONDS:
            last = time.monotonic()
            print_status(f"{options.source.input}: {number} inputs found so far")

    catalog = Catalog(options.classes)
    inputs = scan(source, options.seed, catalog, spill, on_entry)
    layout = source.layout()
    schema = catalog.close(layout)
    _check_boxes(options, schema)
    ignored = f"{counted(layout.ignored, 'file')} ignored"
    kind = f"source: {source.options.kind}, {why}"
    print_status(f"{options.source.input}: {layout.text}, {counted(inputs.count, 'image')}, {ignored} ({kind})")
    return Listing(
        source=source,
        spill=spill,
        inputs=inputs,
        layout=layout,
        schema=schema,
        fingerprint=fingerprint_of(options, inputs),
    )


def _check_boxes(options: PrepareOptions, schema: Schema) -> None:
    """Whether there are boxes that nobody says to move with the pixels.

    Raises:
        UsageError: there are, by their name, and the pixels move.
    """
    kept = {own for name in options.source.fields or () for own in (name, without_split(name))}
    kept |= {schema.renamed[name] for name in kept if name in schema.renamed}
    for name in schema.fields:
        if _BOXES.search(name) and name not in schema.boxes and options.image.fit != "none":
            if name in kept:
                continue  # as it is, as the user wants it
            raise UsageError(
                f"the field {name!r} looks like boxes, and would not move with the pixels: name it with --boxes (of"
                " a table), keep the pixels where they are with --fit none, or choose the fields to keep with --fields"
            )
