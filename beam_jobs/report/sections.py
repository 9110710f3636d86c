"""The sections of the report, as values for the template."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from beam_jobs.images.changes import CHANGES
from beam_jobs.report.charts import Histogram, histogram
from beam_jobs.report.classes import Classes
from beam_jobs.report.reading.choice import Place
from beam_jobs.report.reading.lists import Lists
from beam_jobs.report.reading.pictures import MEASURES, Measures, Picture, picture_of_jpeg
from beam_jobs.report.reading.previews import Preview, Previews
from beam_jobs.report.reading.survey import EXTREMES, Survey
from beam_jobs.sources.files.interface import Thumbnail
from beam_jobs.terminal import size_text
from shard_reader.format.fields import IMAGE
from shard_reader.format.image_codecs.table import codec_of
from shard_reader.format.manifest import Manifest

__all__ = [
    "Change",
    "Figure",
    "Group",
    "Pair",
    "changes",
    "duplicates",
    "evidence",
    "gallery",
    "pixels",
    "rejects",
    "sizes",
]

_MOST_NAMED = 12  # rejects without a picture, of each reason
_EVIDENCE = 4  # pictures beside a finding
_OF_A_LINE = 2  # pictures of each class, up to which all classes are one group


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture, or the place where one is missing, with its words.

    Attributes:
        preview: the picture and its facts.
        text: the line below the id.
    """

    preview: Preview
    text: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures with a heading.

    Attributes:
        name: a name by which findings refer to it.
        title: the heading.
        text: a sentence about it, or "".
        shown: the pictures.
        named: further ids with their messages, which have no pictures.
        more: the number of those that are neither shown nor named.
    """

    name: str
    title: str
    text: str = ""
    shown: tuple[Figure, ...] = ()
    named: tuple[tuple[str, str], ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images with the same bytes, or that look the same.

    Attributes:
        kind: in words, such as "other label, other split".
        first, second: the images.
        is_contradiction, is_leak: whether they have other labels, or are in other splits.
        is_near: whether they look the same, and have other bytes.
        distance: the bits in which their perceptual hashes differ; None if that is not known.
    """

    kind: str
    first: Figure
    second: Figure
    is_contradiction: bool
    is_leak: bool
    is_near: bool = False
    distance: int | None = None


class Change(NamedTuple):
    """A kind of change, "" for none: the number of images, its sentence, and pictures before and after."""

    kind: str
    images: int
    text: str
    pairs: list[tuple[Preview, Preview]]


def gallery(found: Survey, classes: Classes | None, previews: Previews, random: Sequence[Place]) -> list[Group]:
    """A few records of each class. Without labels in the index, a few of all."""
    places = {row.name: found.of_class.get(row.label, []) for row in classes.rows} if classes is not None else {}
    if not any(places.values()):
        return [Group("all", "A sample of all images", shown=tuple(_plain(previews.of(random))))]
    previews.add(place for some in places.values() for place in some)
    seen = {name: previews.of(some) for name, some in places.items() if some}
    if max(map(len, seen.values())) > _OF_A_LINE:
        return [
            Group(name, name, shown=tuple(Figure(preview, preview.split) for preview in some))
            for name, some in seen.items()
        ]
    # Hundreds of headings over one picture each would be hard to read.
    together = tuple(_plain(preview for some in seen.values() for preview in some))
    return [Group("all", f"Pictures of {len(seen)} classes", shown=together)]


def sizes(found: Survey, previews: Previews, manifest: Manifest) -> Mapping[str, Any]:
    """Sizes and aspect ratios before and after, and stored bytes."""
    rows = found.sizes
    kinds = {"before": "original_", "after": ""} if found.has_originals else {"after": ""}
    charts: list[Histogram | None] = []
    for when, kind in kinds.items():
        height, width = (np.maximum(rows[f"{kind}{side}"], 1).astype(np.float64) for side in ("height", "width"))
        charts.append(histogram(f"Shorter side {when}, pixels", np.minimum(height, width), log=True))
        charts.append(histogram(f"Width / height {when}", width / height, log=True))
    if found.has_originals:
        charts.append(histogram("Pixels of a side after, for each one before", _scale(rows), log=True))
    charts.append(histogram("Stored bytes of an image", rows["length"], lambda size: size_text(round(size)), log=True))
    groups = [
        _extreme(found, previews, "smallest", "The smallest images", _size_text),
        _extreme(found, previews, "widest", "The widest, for their height", _size_text),
        _extreme(found, previews, "tallest", "The tallest, for their width", _size_text),
        _extreme(found, previews, "least-bytes", "Fewest bytes for a pixel: often plain, or blurred", _size_text),
        _extreme(found, previews, "most-bytes", "Most bytes for a pixel: often noise, or text", _size_text),
    ]
    kind = "original_" if found.has_originals else ""
    same = {
        "smallest": _is_constant(rows[f"{kind}height"] * rows[f"{kind}width"]),
        "widest": _is_constant(rows[f"{kind}height"] / np.maximum(rows[f"{kind}width"], 1)),
    }
    same["tallest"] = same["widest"]
    return {
        "charts": [chart for chart in charts if chart is not None],
        "groups": [group for group in groups if group.shown and not same.get(group.name)],
        "enlarged": manifest.counts.changed.get("enlarged"),
        "is_raw": codec_of(manifest.fields[IMAGE]).is_raw,
    }


def pixels(found: Survey, measured: Sequence[tuple[Place, Measures]], previews: Previews) -> Mapping[str, Any]:
    """Brightness, contrast and sharpness of the sample, with the extremes as pictures."""
    values = {name: np.array([getattr(measures, name) for _, measures in measured]) for name in MEASURES}
    charts = [
        histogram("Brightness, 0 to 1", values["brightness"]),
        histogram("Contrast: standard deviation", values["contrast"]),
        histogram("Sharpness: variance of the Laplacian", np.maximum(values["sharpness"], 1), log=True),
    ]
    wanted: list[tuple[str, str, str, int]] = [
        ("darkest", "The darkest", "brightness", 1),
        ("brightest", "The brightest", "brightness", -1),
        ("flattest", "The least contrast", "contrast", 1),
        ("blurred", "The least sharp", "sharpness", 1),
        ("sharpest", "The sharpest: often noise", "sharpness", -1),
    ]
    groups = []
    if found.constants:
        groups.append(Group("constants", "Images of one colour", shown=tuple(_plain(previews.of(found.constants)))))
    for name, title, measure, sign in wanted:
        if len(measured) <= EXTREMES or _is_constant(values[measure]):
            continue
        order = np.argsort(sign * values[measure], kind="stable")[:EXTREMES]
        seen = previews.of([measured[number][0] for number in order])
        texts = [f"{measure} {values[measure][number]:.3g}" for number in order]
        groups.append(Group(name, title, shown=tuple(map(Figure, seen, texts))))
    return {"charts": [chart for chart in charts if chart is not None], "groups": groups}


def rejects(lists: Lists, found: Survey, previews: Previews) -> list[Group]:
    """Rejects by their reasons, and suspects, with pictures where there are any."""
    pictures = {(one.group, one.id): one for one in lists.thumbnails or () if one.group in ("reject", "suspect")}
    groups = []
    for reason, count in sorted(lists.reasons.items(), key=lambda pair: (-pair[1], pair[0])):
        messages = {line["id"]: str(line.get("message", "")) for line in lists.rejects if line.get("reason") == reason}
        kept = [one for one in pictures.values() if one.group == "reject" and one.reason == reason]
        messages = {one.id: messages.get(one.id, "") for one in kept} | messages
        groups.append(_reject_group("rejects", reason, count, messages, pictures, previews))
    if lists.suspects:
        shown = []
        for line in lists.suspects:
            one, place = pictures.get(("suspect", line["id"])), found.by_id.get(line["id"])
            if one is not None or place is not None:
                preview = previews.of([place])[0] if place is not None else _thumbnail_preview(one, previews)  # type: ignore[arg-type]
                shown.append(Figure(preview, str(line.get("message", ""))))
        some = tuple(shown[:_MOST_NAMED])
        groups.append(Group("suspects", "May be damaged: read with a complaint of the decoder", shown=some))
    return groups


def duplicates(lists: Lists, found: Survey, previews: Previews) -> list[Pair]:
    """Pairs of duplicates side by side."""
    return [pair for line in lists.duplicates if (pair := _pair(line, found, previews)) is not None]


def changes(manifest: Manifest, lists: Lists, previews: Previews) -> list[Change]:
    """The kinds of changes, and at the end some images as they usually are before and after."""
    kept: dict[str, list[Thumbnail]] = {}
    for one in lists.thumbnails or ():
        if one.group in ("change", "usual"):
            kept.setdefault(one.reason if one.group == "change" else "", []).append(one)
    kinds = [kind for kind in CHANGES if manifest.counts.changed.get(kind) or kind in kept]
    result = [
        Change(
            kind, manifest.counts.changed.get(kind, 0), CHANGES[kind], _before_and_after(kept.get(kind, []), previews)
        )
        for kind in kinds
    ]
    if kept.get(""):
        result.append(Change("", 0, "", _before_and_after(kept[""], previews)))
    return result


def evidence(name: str, pairs: Sequence[Pair], groups: Iterable[Group]) -> list[Figure]:
    """The pictures beside a finding."""
    exact, near = ([pair for pair in pairs if pair.is_near is kind] for kind in (False, True))
    kinds = {
        "contradictions": [pair for pair in exact if pair.is_contradiction],
        # Others than those of the finding before, if there are any.
        "leaks": sorted((pair for pair in exact if pair.is_leak), key=lambda pair: pair.is_contradiction),
        "near-leaks": [pair for pair in near if pair.is_leak],
        "near-contradictions": [pair for pair in near if pair.is_contradiction],
    }
    if (some := kinds.get(name)) is not None:
        shown = [one for pair in some for one in (pair.first, pair.second)]
    else:
        shown = [one for group in groups if group.name == name for one in group.shown]
    return [one for one in shown if one.preview.picture is not None][:_EVIDENCE]


def _plain(previews: Iterable[Preview]) -> Iterator[Figure]:
    return (Figure(preview, ", ".join(preview.labels)) for preview in previews)


def _scale(rows: Any) -> Any:
    return np.sqrt(
        np.maximum(rows["height"] * rows["width"], 1) / np.maximum(rows["original_height"] * rows["original_width"], 1)
    )


def _is_constant(values: Any) -> bool:
    return bool(len(values) == 0 or values.min() == values.max())


def _extreme(found: Survey, previews: Previews, name: str, title: str, text: Callable[[Preview], str]) -> Group:
    seen = previews.of(found.extremes.get(name, ()))
    return Group(name, title, shown=tuple(Figure(preview, text(preview)) for preview in seen))


def _size_text(preview: Preview) -> str:
    before = f"{preview.original[1]} x {preview.original[0]} to " if preview.original is not None else ""
    return f"{before}{preview.width} x {preview.height}"


def _reject_group(
    name: str,
    reason: str,
    count: int,
    messages: Mapping[str, str],
    pictures: Mapping[tuple[str, str], Thumbnail],
    previews: Previews,
) -> Group:
    shown, named = list[Figure](), list[tuple[str, str]]()
    for id, message in messages.items():
        one = pictures.get(("reject", id))
        preview = _thumbnail_preview(one, previews) if one is not None else None
        if preview is not None and preview.picture is not None and len(shown) < _MOST_NAMED:
            shown.append(Figure(preview, message))
        elif len(named) < _MOST_NAMED:
            named.append((id, message))
    return Group(name, reason, "", tuple(shown), tuple(named), max(0, count - len(shown) - len(named)))


def _thumbnail_preview(one: Thumbnail, previews: Previews, after: bool = False) -> Preview:
    text = one.after if after or one.before is None else one.before
    picture: Picture | None = picture_of_jpeg(text) if text is not None else None
    if picture is not None and not previews.has_room(picture):
        picture = None
    return Preview(split=one.split or "", id=one.id, picture=picture)


def _before_and_after(thumbnails: Iterable[Thumbnail], previews: Previews) -> list[tuple[Preview, Preview]]:
    both = [one for one in thumbnails if one.before is not None and one.after is not None]
    return [
        (_thumbnail_preview(one, previews), _thumbnail_preview(one, previews, after=True)) for one in both[:EXTREMES]
    ]


def _pair(line: Mapping[str, Any], found: Survey, previews: Previews) -> Pair | None:
    first_id = line.get("first_id")
    if not isinstance(first_id, str):
        return None
    contradiction, leak = line.get("contradiction") is True, line.get("leak") is True
    words = ["other label"] if contradiction else []
    words += ["other split"] if leak else []
    distance = line.get("distance")
    return Pair(
        kind=" and ".join(words) or "same split",
        first=Figure(_of_id(first_id, line.get("first_split"), found, previews), _labels(line, "first_")),
        second=Figure(_of_id(line["id"], line.get("split"), found, previews), _labels(line, "")),
        is_contradiction=contradiction,
        is_leak=leak,
        is_near=line.get("near") is True,
        distance=distance if isinstance(distance, int) else None,
    )


def _of_id(id: str, split: object, found: Survey, previews: Previews) -> Preview:
    place = found.by_id.get(id)
    return previews.of([place])[0] if place is not None else Preview(split=str(split or ""), id=id, problem="not found")


def _labels(line: Mapping[str, Any], kind: str) -> str:
    labels = line.get(f"{kind}labels")
    shown = [f"{', '.join(map(str, labels[:5]))}"] if isinstance(labels, list) and labels else []
    return " in ".join([*shown, str(line.get(f"{kind}split", ""))])
