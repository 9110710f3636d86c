"""The section "Look at this first": suspicions, the worst first, each with the command that mends it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np

from beam_jobs.report.classes import Classes
from beam_jobs.report.origin import prepare_command, without_places
from beam_jobs.report.reading.lists import Lists
from beam_jobs.report.reading.survey import Survey
from beam_jobs.sources.files.interface import DROPPED
from beam_jobs.terminal import counted
from shard_reader.format.manifest import Manifest
from shard_reader.printable import printable

__all__ = ["Command", "Finding", "findings"]

Level = Literal["problem", "check", "note"]
_ORDER: Final[Sequence[Level]] = ("problem", "check", "note")
_MOST_WARNINGS = 10
_NAMES = 6
_TINY = 32  # pixels of a short side
_IMBALANCE = 20  # times the records of the smallest class
_MANY = 0.05  # of all records


class Command(NamedTuple):
    """A command line: its beginning, the words of it that mend something, and its end."""

    begin: str
    mends: str = ""
    end: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A suspicion.

    Attributes:
        level: "problem" is wrong or makes an evaluation wrong, "check" may be, "note" is worth knowing.
        title: what was found.
        text: what it means, and what to do.
        section: the section with more about it, or "".
        command: a command that mends it; None without one.
        pictures: the name of pictures that show it, or "".
    """

    level: Level
    title: str
    text: str
    section: str = ""
    command: Command | None = None
    pictures: str = field(default="", kw_only=True)


_VERIFY: Final = Command("image-shards verify DATASET")
_OFTEN: Final = "A training sees these more often than others."
_EVALUATION: Final = "An evaluation would see images of the training."


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
        title = f"{counted(len(found.problems), 'shard')} cannot be read"
        yield Finding("problem", title, f"{_some(found.problems, 3)}. This report is of the others.", "", _VERIFY)
    for problem in lists.problems:
        yield Finding("check", "A list beside the shards cannot be read", f"{problem}.", "", _VERIFY)


def _layout(manifest: Manifest) -> Iterator[Finding]:
    """What the listing of INPUT has warned of, and empty splits."""
    for warning in manifest.warnings[:_MOST_WARNINGS]:
        said = without_places(manifest, warning).removeprefix("INPUT: ")
        title, _, text = said.partition(": ")
        sentences = [f"{_capital(text)}."] if text else []
        command = _command(manifest, "--dry-run")
        sentences += ["This shows how INPUT is understood, and writes nothing:"] if command else []
        yield Finding(
            "problem", _capital(title), " ".join(sentences), "classes", command, pictures=_class_in(manifest, said)
        )
    if (more := len(manifest.warnings) - _MOST_WARNINGS) > 0:
        yield Finding("problem", f"{counted(more, 'further warning')}", "dataset.json has all of them.")
    for name, split in manifest.splits.items():
        if not split.records:
            yield Finding("problem", f"The split {name} is empty", "It needs a larger part of the images.", "classes")


def _duplicates(manifest: Manifest) -> Iterator[Finding]:
    counts = manifest.counts
    if count := counts.contradictions:
        title = f"{counted(count, 'image')} with the bytes of another, under another label"
        text = "At least one label of each pair is wrong. Correct INPUT; or keep none of them:"
        again = _again(manifest, "--drop-duplicates", "--duplicate-labels drop")
        yield Finding("problem", title, text, "duplicates", again, pictures="contradictions")
    if count := counts.leaks:
        title = f"{counted(count, 'image')} in another split than an image with the same bytes"
        again = _again(manifest, "--drop-duplicates")
        yield Finding("problem", title, _EVALUATION, "duplicates", again, pictures="leaks")
    if count := counts.near_leaks:
        title = f"{counted(count, 'image')} in another split than an image that looks the same"
        text = f"{_EVALUATION} This keeps images that look the same in one split:"
        again = _again(manifest, "--near-duplicates group")
        yield Finding("problem", title, text, "duplicates", again, pictures="near-leaks")
    if (count := counts.duplicates - counts.leaks) > 0:
        level: Level = "check" if counts.duplicates > _MANY * counts.written else "note"
        title = f"{counted(count, 'image')} with the bytes of another in the same split"
        yield Finding(level, title, _OFTEN, "duplicates", _again(manifest, "--drop-duplicates"))
    if count := counts.near_contradictions:
        title = f"{counted(count, 'image')} {'looks' if count == 1 else 'look'} like another under another label"
        text = "One of the labels may be wrong."
        yield Finding("check", title, text, "duplicates", pictures="near-contradictions")
    if (count := counts.near_duplicates - counts.near_leaks) > 0:
        title = f"{counted(count, 'image')} {'looks' if count == 1 else 'look'} like another in the same split"
        yield Finding("note", title, _OFTEN, "duplicates", _again(manifest, "--near-duplicates drop"))


def _rejects(manifest: Manifest, lists: Lists) -> Iterator[Finding]:
    reasons = {reason: count for reason, count in lists.reasons.items() if reason not in DROPPED}
    if rejected := sum(reasons.values()):
        why = ", ".join(
            f"{reasons[reason]} {reason}" for reason in sorted(reasons, key=lambda one: (-reasons[one], one))
        )
        named = _some(line["id"] for line in lists.rejects if line.get("reason") not in DROPPED)
        level: Level = "problem" if rejected > _MANY * manifest.counts.written else "check"
        title = f"{counted(rejected, 'input')} could not be used: {why}"
        text = f"{named}. Replace these files by good copies, then run the job again:"
        yield Finding(level, title, text, "rejects", _again(manifest), pictures="rejects")
    if suspects := manifest.counts.suspects:
        title = f"{counted(suspects, 'image')} may be damaged"
        text = f"A decoder complained: {_some(line['id'] for line in lists.suspects)}. This leaves them out:"
        yield Finding("check", title, text, "rejects", _again(manifest, "--reject-suspects"), pictures="suspects")


def _classes(manifest: Manifest, classes: Classes | None) -> Iterator[Finding]:
    if classes is None:
        return
    if classes.empty:
        text = f"{_some(classes.empty)}. No model can learn a class that it never sees."
        yield Finding("problem", f"{counted(len(classes.empty), 'class')} without an {classes.noun}", text, "classes")
    if classes.single and classes.noun != "object":
        text = f"{_some(classes.single)}. One image is either learned or tested, never both."
        yield Finding("check", f"{counted(len(classes.single), 'class')} with one image", text, "classes")
    single = set(classes.single)  # such a class is missing in all splits but one
    for split, missing in classes.missing:
        if names := [name for name in missing if name not in single]:
            title, text = (
                f"{counted(len(names), 'class')} without an {classes.noun} in {split}",
                f"Missing: {_some(names)}.",
            )
            command = _again(manifest, "--stratify") if manifest.options.get("split") else None
            text += " This divides each class in the same proportion:" if command else ""
            yield Finding("check", title, text, "classes", command)
    if classes.most > _IMBALANCE * classes.fewest:
        times = f"{classes.most / classes.fewest:,.0f}"
        title = f"The largest class has {times} times the {classes.noun}s of the smallest"
        text = f"{classes.most:,} and {classes.fewest:,}. Weigh the classes in the loss, or sample them evenly."
        yield Finding("note", title, text, "classes")


def _images(manifest: Manifest, found: Survey) -> Iterator[Finding]:
    counts = manifest.counts
    if found.constant:
        text = "Nothing can be learned from these. Put their ids into a file, one a line; this leaves them out:"
        title, again = f"{counted(found.constant, 'image')} of one colour", _again(manifest, "--exclude FILE")
        yield Finding("check", title, text, "pixels", again, pictures="constants")
    enlarged = counts.changed.get("enlarged", 0)
    if enlarged > _MANY * counts.written:
        title = f"{counted(enlarged, 'image')} enlarged: {_share(enlarged / max(1, counts.written))} of all"
        text = "Enlarged images are blurred, and take room. Give a smaller --size, or leave them small:"
        yield Finding("check", title, text, "sizes", _again(manifest, "--only-shrink"), pictures="smallest")
    if part := _tiny(found):
        title = f"{_share(part)} of the images had a side of less than {_TINY} pixels, and were enlarged"
        text = "Little is to be seen in them: they may be icons, or placeholders of a web server."
        yield Finding("check", title, text, "sizes", pictures="smallest")
    if boxes := counts.changed.get("boxes"):
        text = "Nothing of them is left in the image: --fit crop cuts the sides."
        yield Finding("note", f"{counted(boxes, 'box')} dropped", text, "changes")


def _tiny(found: Survey) -> float:
    """The part of the images that were so small that little is to be seen."""
    if not found.has_originals or not len(found.sizes):
        return 0.0
    original = np.minimum(found.sizes["original_height"], found.sizes["original_width"])
    stored = np.minimum(found.sizes["height"], found.sizes["width"])
    return float(np.mean((original < _TINY) & (original < stored)))


def _class_in(manifest: Manifest, warning: str) -> str:
    """The class that a warning about folders begins with, as the name of pictures."""
    return next((name for name in manifest.class_names or () if warning.startswith(f"took {printable(name)}")), "")


def _again(manifest: Manifest, *mends: str) -> Command | None:
    return _command(manifest, *mends, end="--overwrite")


def _command(manifest: Manifest, *mends: str, end: str = "") -> Command | None:
    """The command that made the dataset, with words that mend it; None if `prepare` did not make it."""
    command = prepare_command(manifest, without=mends)
    return Command(command, " ".join(mends), end) if command else None


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _some(names: Iterable[str], most: int = _NAMES) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _share(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else f"{part:.2%}"
