"""The section "Look at this first": suspicions, the worst first, each with the command that mends it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from beam_jobs.report.classes import Classes
from beam_jobs.report.reading.lists import Lists
from beam_jobs.report.origin import prepare_command, without_places
from beam_jobs.report.reading.survey import Survey
from beam_jobs.terminal import counted
from shard_reader.format.manifest import Manifest

__all__ = ["Finding", "findings"]

Level = Literal["problem", "check", "note"]
_ORDER: Final[Sequence[Level]] = ("problem", "check", "note")
_MOST_WARNINGS = 10
_NAMES = 6
_TINY = 32  # pixels of a short side
_IMBALANCE = 20  # times the records of the smallest class
_MANY = 0.05  # of all records


@dataclass(frozen=True, slots=True)
class Finding:
    """A suspicion.

    Attributes:
        level: "problem" is wrong or makes an evaluation wrong, "check" may be, "note" is worth knowing.
        title: what was found.
        text: what it means, and what to do.
        command: a command that mends it, or "".
        section: the section with more about it, or "".
        pictures: the name of pictures that show it, or "".
    """

    level: Level
    title: str
    text: str
    command: str = ""
    section: str = ""
    pictures: str = ""


def findings(manifest: Manifest, found: Survey, lists: Lists, classes: Classes | None) -> list[Finding]:
    """All suspicions, the worst first."""
    every = [
        *_files(found, lists),
        *_layout(manifest),
        *_duplicates(manifest),
        *_rejects(manifest, lists),
        *_classes(manifest, classes),
        *_images(manifest, found),
    ]
    return sorted(every, key=lambda finding: _ORDER.index(finding.level))


def _files(found: Survey, lists: Lists) -> Iterator[Finding]:
    if found.problems:
        yield Finding("problem", f"{counted(len(found.problems), 'shard')} cannot be read",
            f"{_some(found.problems, 3)}. The other shards are in this report.", "image-shards verify DATASET")  # fmt: skip
    for problem in lists.problems:
        yield Finding("check", "A list beside the shards cannot be read", f"{problem}.", "image-shards verify DATASET")


def _layout(manifest: Manifest) -> Iterator[Finding]:
    """What the listing of INPUT has warned of."""
    for warning in manifest.warnings[:_MOST_WARNINGS]:
        text = without_places(manifest, warning).removeprefix("INPUT: ")
        title = "The folders may be misread" if manifest.options.get("kind") == "folder" else "INPUT may be misread"
        yield Finding("problem", title, f"{text[:1].upper()}{text[1:]}.", _again(manifest), "classes")
    if len(manifest.warnings) > _MOST_WARNINGS:
        yield Finding("problem", f"{len(manifest.warnings) - _MOST_WARNINGS} more warnings", "dataset.json lists them.")
    for name, split in manifest.splits.items():
        if not split.records:
            yield Finding("problem", f"The split {name} is empty", "A larger part of the images fills it.",
                _again(manifest), "classes")  # fmt: skip


def _duplicates(manifest: Manifest) -> Iterator[Finding]:
    counts, again = manifest.counts, _again(manifest, "--drop-duplicates")
    if counts.contradictions:
        yield Finding("problem", f"{counted(counts.contradictions, 'image')} with the bytes of another, under another label",
            "At least one label of each pair is wrong. Correct INPUT; or this keeps none of them:",
            _again(manifest, "--drop-duplicates", "--duplicate-labels drop"), "duplicates", "contradictions")  # fmt: skip
    if counts.leaks:
        yield Finding("problem", f"{counted(counts.leaks, 'image')} in another split than an image with the same bytes",
            "An evaluation would see images of the training.", again, "duplicates", "leaks")  # fmt: skip
    near_leaks, near = getattr(counts, "near_leaks", 0), getattr(counts, "near_duplicates", 0)
    if near_leaks:
        yield Finding("problem", f"{counted(near_leaks, 'image')} in another split than one that looks the same",
            "An evaluation would see images of the training. This keeps images that look the same in one split:",
            _again(manifest, "--near-duplicates group"), "duplicates", "leaks")  # fmt: skip
    others = counts.duplicates - counts.leaks
    if others > 0:
        level: Level = "check" if counts.duplicates > _MANY * max(1, counts.written) else "note"
        yield Finding(level, f"{counted(others, 'image')} with the bytes of another in the same split",
            "A training sees these more often than others.", again, "duplicates")  # fmt: skip
    if near - near_leaks > 0:
        yield Finding("note", f"{counted(near - near_leaks, 'image')} that look like another in the same split",
            "A training sees these more often than others.", _again(manifest, "--near-duplicates drop"), "duplicates")  # fmt: skip


def _rejects(manifest: Manifest, lists: Lists) -> Iterator[Finding]:
    counts = manifest.counts
    reasons = {reason: count for reason, count in lists.reasons.items() if reason != "duplicate"}
    if rejected := sum(reasons.values()):
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair)))
        named = _some([line["id"] for line in lists.rejects if line.get("reason") != "duplicate"])
        yield Finding("problem" if rejected > _MANY * max(1, counts.written) else "check",
            f"{counted(rejected, 'input')} could not be used: {why}",
            f"{named}. Replace these files by good copies, then run the job again:",
            _again(manifest), "rejects", "rejects")  # fmt: skip
    if counts.suspects:
        yield Finding("check", f"{counted(counts.suspects, 'image')} may be damaged",
            f"A decoder complained: {_some([line['id'] for line in lists.suspects])}. This leaves them out:",
            _again(manifest, "--reject-suspects"), "rejects", "suspects")  # fmt: skip


def _classes(manifest: Manifest, classes: Classes | None) -> Iterator[Finding]:
    if classes is None:
        return
    if classes.empty:
        yield Finding("problem", f"{_counted(len(classes.empty), 'class')} without an image",
            f"{_some(classes.empty)}. No model can learn a class that it never sees.", _again(manifest), "classes")  # fmt: skip
    if classes.single and len(manifest.splits) > 0:
        yield Finding("check", f"{_counted(len(classes.single), 'class')} with one image",
            f"{_some(classes.single)}. One image is in one split: it is either learned or tested, never both.",
            section="classes")  # fmt: skip
    stratify = "--stratify" if manifest.options.get("split") else ""
    for split, names in classes.missing:
        # Classes of one image lack in all other splits; they are named above.
        names = tuple(name for name in names if name not in set(classes.single))
        if names:
            yield Finding("check", f"{_counted(len(names), 'class')} without an image in {split}",
                f"{_some(names)}. {'This divides each class in the same proportion:' if stratify else ''}",
                _again(manifest, stratify) if stratify else "", "classes")  # fmt: skip
    if classes.most > _IMBALANCE * classes.fewest:
        yield Finding("note", f"The largest class has {classes.most / classes.fewest:,.0f} times the images of the smallest",
            f"{classes.most:,} and {classes.fewest:,} images. Weigh the classes in the loss, or sample them evenly.",
            section="classes")  # fmt: skip


def _images(manifest: Manifest, found: Survey) -> Iterator[Finding]:
    counts = manifest.counts
    if found.constant:
        yield Finding("check", f"{counted(found.constant, 'image')} of one colour",
            "Nothing can be learned from them. Put their ids into a file, a line for each; this leaves them out:",
            _again(manifest, "--exclude FILE"), "pixels", "constants")  # fmt: skip
    enlarged = counts.changed.get("enlarged", 0)
    if enlarged > _MANY * max(1, counts.written):
        yield Finding("check", f"{counted(enlarged, 'image')} enlarged: {enlarged / max(1, counts.written):.0%} of all",
            "Enlarged images are blurred, and take room. A smaller --size fits them; this leaves them small:",
            _again(manifest, "--only-shrink"), "sizes", "smallest")  # fmt: skip
    yield from _tiny(found)
    if counts.changed.get("boxes"):
        yield Finding("note", f"{counted(counts.changed['boxes'], 'box')[:-1]}es dropped",
            "Nothing of them is left in the image: --fit crop cuts the sides.", section="changes")  # fmt: skip


def _tiny(found: Survey) -> Iterator[Finding]:
    """Images whose originals are so small that little is to be seen."""
    if not found.has_originals or not len(found.sizes):
        return
    original = np.minimum(found.sizes["original_height"], found.sizes["original_width"])
    stored = np.minimum(found.sizes["height"], found.sizes["width"])
    part = float(np.mean((original < _TINY) & (original < stored)))
    if part:
        yield Finding("check", f"{_share(part)} of the images had a side of less than {_TINY} pixels, and were enlarged",
            "Little is to be seen in them: they may be icons or placeholders of a web server.",
            section="sizes", pictures="smallest")  # fmt: skip


def _again(manifest: Manifest, *more: str) -> str:
    command = prepare_command(manifest, *more)
    return f"{command} --overwrite" if command else ""


def _some(names: Iterable[str], most: int = _NAMES) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}es"


def _share(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else f"{part:.2%}"
