"""Records in a notebook: HTML with pictures inside of it, and the same as plain text.

The HTML needs no network and runs no script. All that comes from a dataset is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import at_least_one, require
from shard_reader.dataset.shown.thumbnails import Box, Thumbnail, short, thumbnails
from shard_reader.format.fields import Field
from shard_reader.format.manifest import Split
from shard_reader.order.shuffle import FullShuffle
from shard_reader.shards.source import RecordSource

_MOST_SHOWN = 200  # records
__all__ = ["Gallery", "gallery", "overview"]

_STRIP, _STRIP_SECONDS = 8, 10.0  # of an overview, which nobody asked to wait for
_MOST_ROWS = 20  # of a table
_MOST_CLASSES = 12
_HEIGHT, _WIDEST = 112, 280  # of a picture on the screen, in pixels
_FINE = 64  # pixels from which on a picture is smoothed when it is enlarged

_FIGURE = "display:inline-block;vertical-align:top;margin:0 8px 8px 0"
_WORDS = "font-size:12px;line-height:1.3;overflow-wrap:anywhere"
_PROBLEM = "box-sizing:border-box;border:1px dashed;padding:6px;overflow:auto"
_OVERLAY = "position:absolute;top:0;left:0;width:100%;height:100%"
_POINT = "stroke='#54a24b' stroke-width='6' stroke-linecap='round' vector-effect='non-scaling-stroke'"
_TABLE, _CELL = "display:inline-table;vertical-align:top;margin:8px 24px 8px 0", "text-align:left;padding:1px 8px 1px 0"
_BAR = "display:inline-block;height:8px;background:#4c78a8"


@dataclass(frozen=True, slots=True)
class Gallery:
    """Some records to look at: a notebook shows their pictures, a terminal a line for each.

    Attributes:
        title: the records that these are taken from.
        records: the records, with their pictures.
    """

    title: str
    records: tuple[Thumbnail, ...]

    def __repr__(self) -> str:
        return "\n".join([f"{self._heading}:", *map(_line, self.records)])

    def _repr_html_(self) -> str:
        return f"<div><p>{html.escape(self._heading)}</p>{_pictures(self.records)}</div>"

    @property
    def _heading(self) -> str:
        return f"{len(self.records)} records of {self.title}"


def gallery(
    data: RecordSource,
    n: int,
    seed: int,
    *,
    title: str,
    among: NDArray[np.int64] | None = None,
    seconds: float | None = None,
) -> Gallery:
    """Some records, chosen by the seed, in stored order.

    Args:
        among: the numbers to choose from, int64 `[n]`; by default all.
        seconds: the longest time to wait for pictures.

    Raises:
        ValueError, TypeError: `n` is not a number from 1 to 200.
    """
    require(at_least_one("n", n) <= _MOST_SHOWN, "n", n, f"must be at most {_MOST_SHOWN}")
    size = len(data) if among is None else len(among)
    places = FullShuffle(size, seed).at(0, np.arange(min(n, size))) if size else np.empty(0, np.int64)
    places.sort()
    numbers = places if among is None else among[places]
    return Gallery(title, tuple(thumbnails(data, numbers.tolist(), seconds)))


def overview(data: RecordSource, splits: Mapping[str, Split], split: str, formats: Sequence[str]) -> str:
    """HTML of a whole: a strip of pictures, splits, fields and classes.

    Args:
        splits: the splits of the dataset; empty for a mixture.
        split: the split of the records, whose classes are counted; empty for records of which the count is not known.
        formats: the formats of the shards.
    """
    strip = gallery(data, _STRIP, 0, title=repr(data), seconds=_STRIP_SECONDS)
    counts = splits[split].classes if split in splits else None
    parts = [
        f"<p><b>{html.escape(strip.title)}</b></p>",
        f"<div>{_pictures(strip.records)}</div>",
        _table(("split", "records", "shards", *formats), [_split_row(*item, formats) for item in splits.items()]),
        _table(("field", "dtype", "shape", "encoding", "role"), [_field_row(*item) for item in data.fields.items()]),
        _table(("class", "records", ""), _class_rows(counts or {}), _MOST_CLASSES),
    ]
    return f"<div>{''.join(parts)}</div>"


def _line(record: Thumbnail) -> str:
    """A record in a terminal."""
    objects = f"boxes: {len(record.boxes)}" if record.boxes else ""
    facts = (record.label, f"{record.width}x{record.height}", objects, record.id, record.problem)
    return f"{record.number:>8}  {'  '.join(fact for fact in facts if fact)}"


def _pictures(records: Sequence[Thumbnail]) -> str:
    return "".join(map(_figure, records)) or "<p>no records</p>"


def _figure(record: Thumbnail) -> str:
    height, width = _shown_size(record)
    content = _problem(record, height) if record.problem else _image(record, height, width)
    width = max(width, _HEIGHT)
    label = html.escape(record.label)
    caption = f"<figcaption style='{_WORDS};max-width:{width}px'>{record.number} {label}</figcaption>"
    return f"<figure style='{_FIGURE}'>{content}{caption}</figure>"


def _shown_size(record: Thumbnail) -> tuple[int, int]:
    """Height and width of a picture on the screen."""
    height, width = max(1, record.height), max(1, record.width)
    scale = min(_HEIGHT / height, _WIDEST / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _problem(record: Thumbnail, height: int) -> str:
    size = f"width:{_WIDEST}px;height:{max(height, _HEIGHT)}px"
    return f"<div style='{_PROBLEM};{_WORDS};{size}'>{html.escape(record.problem)}</div>"


def _image(record: Thumbnail, height: int, width: int) -> str:
    smooth = "" if max(record.height, record.width) > _FINE else ";image-rendering:pixelated"
    words = html.escape(f"{record.id} {record.label} {record.width}x{record.height}")
    image = f"<img src='{record.uri}' alt='{words}' title='{words}' width='{width}' height='{height}'"
    style = f"margin:0;max-width:none{smooth}"
    mask = f"<img src='{record.mask}' alt='' style='{_OVERLAY}{smooth};margin:0'>" if record.mask else ""
    drawn = _drawn(record.boxes, record.points) if record.boxes or record.points else ""
    # An inner block of the image's size, so that boxes lie on the image.
    return (
        f"<div style='position:relative;width:{width}px;height:{height}px'>{image} style='{style}'>{mask}{drawn}</div>"
    )


def _drawn(boxes: Sequence[Box], points: Sequence[tuple[float, float]]) -> str:
    """The boxes around objects, and points, in parts of the image's size."""
    drawn = "".join(
        f"<rect x='{box.left:.5f}' y='{box.top:.5f}' width='{box.right - box.left:.5f}'"
        f" height='{box.bottom - box.top:.5f}' fill='transparent' stroke='#f58518' stroke-width='2'"
        f" vector-effect='non-scaling-stroke'><title>{html.escape(box.label)}</title></rect>"
        for box in boxes
    )
    # A line without a length has round ends of one size, where a circle would be stretched with the picture.
    drawn += "".join(f"<path d='M {x:.5f} {y:.5f} h 0' {_POINT}/>" for y, x in points)
    return f"<svg viewBox='0 0 1 1' preserveAspectRatio='none' style='{_OVERLAY}'>{drawn}</svg>"


def _split_row(name: str, split: Split, formats: Iterable[str]) -> list[str]:
    sizes = [split.shards.bytes(format) for format in formats]
    return [_text(name), f"{split.records:,}", f"{len(split.shards):,}", *(f"{size / 1e6:,.1f} MB" for size in sizes)]


def _field_row(name: str, field: Field) -> list[str]:
    shape = "x".join("?" if size is None else str(size) for size in field.shape)
    return [_text(name), field.dtype, shape, field.encoding or "", field.role or ""]


def _class_rows(counts: Mapping[str, int]) -> list[list[str]]:
    """The classes, those with the most records first, with a bar for each."""
    most = max(counts.values(), default=0) or 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return [
        [_text(name), f"{count:,}", f"<span style='{_BAR};width:{round(200 * count / most)}px'></span>"]
        for name, count in ordered
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], most: int = _MOST_ROWS) -> str:
    """A table of cells of HTML, of a bounded number of rows; nothing without rows."""
    if not rows:
        return ""
    shown = [_row("td", row) for row in rows[:most]]
    if len(rows) > most:
        shown.append(f"<tr><td colspan='{len(head)}'>and {len(rows) - most:,} more</td></tr>")
    return f"<table style='{_TABLE}'><thead>{_row('th', head)}</thead><tbody>{''.join(shown)}</tbody></table>"


def _row(kind: str, cells: Iterable[str]) -> str:
    inner = "".join(f"<{kind} style='{_CELL}'>{cell}</{kind}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def _text(text: str) -> str:
    return html.escape(short(text))
