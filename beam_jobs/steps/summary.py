"""Texts about a job: the count of its images, the plan in words, and the summary at the end."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from beam_jobs.images.changes import change_lines
from beam_jobs.meter import Meter, shares
from beam_jobs.options import MaxRejects
from beam_jobs.plan.order import PlannedInputs
from beam_jobs.shards.job import Watcher
from beam_jobs.shards.output import Output
from beam_jobs.shards.publish import check_rejects
from beam_jobs.sources.files.interface import DROPPED, Reject
from beam_jobs.steps.result import ProgressReport
from beam_jobs.terminal import counted, progress_bar, progress_text, rate_text, size_text
from shard_reader.format.fields import FIELD_DTYPES, Field
from shard_reader.format.image_codecs.table import codec_of
from shard_reader.format.manifest import (
    DUPLICATES_NAME,
    MANIFEST_NAME,
    REJECTS_NAME,
    SUSPECTS_NAME,
    Counts,
    Fingerprint,
    Manifest,
)
from shard_reader.printable import printable
from shard_reader.storage.open import directory

__all__ = ["Progress", "column", "image_text", "output_state", "reached_lines", "summary"]

_SHOWN_PLACES = 20  # hosts and folders of a table
_STILL_SECONDS = 30.0  # without a finished image, after which a line of progress names those in work
_SHOWN_HOSTS = 5


class Progress(Watcher):
    """Counts finished and rejected images.

    Args:
        steps: the number of images that will be reported, over all passes.
        count: the number of inputs, including the rejects of the listing.
        inputs: the planned inputs, and the rejects of the listing.
        limit: the largest number of rejects allowed.
    """

    def __init__(self, steps: int, count: int, inputs: PlannedInputs, limit: MaxRejects) -> None:
        self._steps, self._count, self._limit = steps, count, limit
        self._rejects, self._rejected = list(inputs.first_rejects), inputs.rejected - inputs.dropped
        self._done = self._kept = 0
        self._began = self._changed = time.monotonic()
        self._named = 0.0, ""  # when images in work were named, and their names
        self.in_work: Callable[[], list[str]] = list
        """Returns the ids of the images that are being read or decoded."""

    def counts(self, images: int, reject: Reject | None = None) -> None:
        """Count finished images, or a rejected one.

        Raises:
            JobError: more images are rejected than `limit` allows.
        """
        self._done += images
        self._changed = time.monotonic()
        if reject is not None:
            self._rejected += 1
            self._rejects = [*self._rejects, reject][:3]
            check_rejects(self._rejected, self._rejects, self._count, self._limit)

    def keeps(self, images: int, rejected: int) -> None:
        """Count the finished images of an earlier run."""
        self._done += images
        self._changed = time.monotonic()
        self._kept += images
        self._rejected += rejected

    def text(self, as_bar: bool) -> str:
        """Images done, images/s, rejects and time left."""
        shown = progress_bar if as_bar else progress_text
        seconds = time.monotonic() - self._began
        return shown(self._done, self._steps, "images", seconds, f"{self._rejected} rejected{self._slow()}", self._kept)

    def report(self, step: str) -> ProgressReport:
        """The progress as numbers."""
        seconds = time.monotonic() - self._began
        return ProgressReport(
            step=step, done=self._done, total=self._steps, unit="images", rejected=self._rejected, seconds=seconds
        )

    def _slow(self) -> str:
        """The images in work, where none has been finished for a while."""
        # Another thread counts images, also while the plan is read.
        changed, now = self._changed, time.monotonic()
        if now - changed < _STILL_SECONDS:
            return ""
        # To find their names, the plan is read: not ten times a second.
        if now - self._named[0] >= _STILL_SECONDS:
            self._named = now, ", ".join(map(printable, self.in_work()[:3]))
        return f", {now - changed:.0f} s on {self._named[1]}" if self._named[1] else ""


def summary(manifest: Manifest, output: str, elapsed: float, spent: Meter | None = None) -> str:
    """The text about a new dataset: its splits, fields and rejects, and a command to see its first record.

    `spent` is the time of all workers.
    """
    counts = manifest.counts
    rate = rate_text(counts.written / elapsed)
    lines = [f"{output}: {counted(counts.written, 'image')} in {elapsed:.1f} s ({rate} images/s)"]
    lines += [
        f"  {printable(name):<10} {counted(split.records, 'image')}, {_files(manifest, name)}"
        for name, split in manifest.splits.items()
    ]
    lines.append(f"  image      {image_text(manifest.fields['image'], manifest.options['image'])}")
    if manifest.class_names:
        lines.append(f"  classes    {len(manifest.class_names)}: {_some(manifest.class_names)}")
    if others := [name for name in manifest.fields if name not in FIELD_DTYPES]:
        lines.append(f"  fields     {', '.join(map(printable, others))}")
    if "label" in manifest.fields and not manifest.class_names:
        lines.append("  labels     numbers, without names")
    if "label" not in manifest.fields and "objects/label" not in manifest.fields:
        lines.append("  labels     none")
    lines += column("hosts", _hosts(manifest))
    lines += column("changed", change_lines(counts.changed))
    if counts.suspects:
        lines.append(f"  suspects   {counts.suspects} may be damaged, listed in {output}/{SUSPECTS_NAME}")
    if counts.duplicates:
        leaks = f", {counts.leaks} of them across splits" if len(manifest.splits) > 1 else ""
        leaks += f", {counts.contradictions} under another label" if counts.contradictions else ""
        where = f"listed in {output}/{DUPLICATES_NAME}"
        lines.append(f"  duplicates {counts.duplicates} with the bytes of another{leaks}, {where}")
        lines += [f"    {remedy}" for count, remedy in _remedies(counts) if count]
    if counts.near_duplicates:
        kinds = f", {counts.near_leaks} of them across splits" if len(manifest.splits) > 1 else ""
        kinds += f", {counts.near_contradictions} under another label" if counts.near_contradictions else ""
        lines.append(f"  look alike {counts.near_duplicates} like another{kinds}, listed in {output}/{DUPLICATES_NAME}")
        if counts.near_leaks:
            lines.append("    across splits: --near-duplicates group keeps each group in one split; drop keeps one")
    if counts.excluded:
        lines.append(f"  excluded   {counts.excluded}, as --exclude says")
    lines += column("left out", [f"{printable(one.what)}: {printable(one.why)}" for one in manifest.left_out])
    lines += column("warning", list(map(printable, manifest.warnings)))
    lines += _reject_lines(manifest, output)
    lines += column("time", _time_texts(spent or Meter()))
    filled = [name for name, split in manifest.splits.items() if split.records]
    if filled:
        lines += ["next:", f"  {_next_command(output, filled[0])}"]
    return "\n".join(lines)


def reached_lines(reached: Mapping[str, int]) -> list[str]:
    """The hosts and folders that a table names, each with the number of paths, most first."""
    ordered = sorted(reached.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{counted(count, 'path')} of {printable(place)}" for place, count in ordered[:_SHOWN_PLACES]]
    rest = sum(count for _, count in ordered[_SHOWN_PLACES:])
    return column("reads", lines + ([f"{counted(rest, 'path')} of other places"] if rest else []))


def output_state(output: Output, fingerprint: Fingerprint) -> str:
    """The contents of OUTPUT before a job, in words."""
    if output.files.local is not None and output.files.local.is_file():
        return "is a file: nothing could be written there"
    manifest, left = output.manifest(), output.job()
    if manifest is not None:
        same = manifest.fingerprint == fingerprint
        return "holds this dataset, finished" if same else "holds another dataset: --overwrite would replace it"
    if left is not None and output.finished():
        return f"holds {counted(output.finished(), 'finished shard')} of " + (
            "this job, which would be kept"
            if left["fingerprint"] == asdict(fingerprint)
            else "another job: --overwrite would remove them"
        )
    return "is not empty: nothing could be written there" if output.files.names() else "is empty, or not there"


def _next_command(output: str, split: str) -> str:
    """A shell command that prints the first record, with the Python that runs this process."""
    # The name alone where the shell would find the same Python by it, otherwise its path. In double quotes, a shell
    # still replaces `$` and backquotes, and an interactive one "!".
    name = Path(sys.executable).name
    python = name if shutil.which(name) == sys.executable else shlex.quote(sys.executable)
    code = f"from shard_reader import open_dataset; print(open_dataset({output!r}, {split!r})[0])"
    quoted = shlex.quote(code) if set(code) & set('"$`\\!') else f'"{code}"'
    return f"{python} -c {quoted}"


def _files(manifest: Manifest, split: str) -> str:
    shards = manifest.splits[split].shards
    size = sum(file.bytes for shard in shards for file in shard.files.values())
    return f"{counted(len(shards), 'shard')} of {' and '.join(manifest.formats)}, {size_text(size)}"


def image_text(field: Field, options: Mapping[str, Any]) -> str:
    """Size, fit, filter, dtype and encoding of the stored images."""
    height, width, channels = field.shape
    fit, box = options["fit"], f"{options['width']}x{options['height']}"
    sizes = {"cover": f"smallest that covers {box}", "inside": f"largest inside {box}", "none": "as it is"}
    how = f"{fit}, {options['filter']}" if fit != "none" else fit
    # Raw pixels of four channels may be four bands, too.
    four = ", 4 channels" if codec_of(field).is_raw else ", with transparency"
    colours = {1: ", grey", 3: "", 4: four, None: ", grey or colour"}.get(channels, f", {channels} bands")
    codec = codec_of(field)
    quality = f" quality {options['quality'] or codec.quality}" if codec.quality is not None else ""
    if codec.keeps_files and not options["quality"] and (fit == "none" or options.get("only_shrink")):
        quality += f", {codec.label} files that need no change as they are"
    seen = f", all {width}x{height}" if fit in sizes and None not in (width, height) else ""
    return f"{sizes.get(fit, f'{width}x{height}')} ({how}){seen}{colours}, {field.dtype}, {field.encoding}{quality}"


def _hosts(manifest: Manifest) -> list[str]:
    """The web servers that images come from."""
    shown = [
        f"{printable(name)}: {counted(host.images, 'image')}, {size_text(host.bytes)}"
        for name, host in list(manifest.hosts.items())[:_SHOWN_HOSTS]
    ]
    more = len(manifest.hosts) - len(shown)
    return [*shown, f"and {counted(more, 'other')}, in {MANIFEST_NAME}"] if more else shown


def _time_texts(spent: Meter) -> list[str]:
    """Where the time of all workers went."""
    seconds = sum(spent.cpu.values())
    if not seconds:
        return []  # every shard is from an earlier run
    waited = spent.wall["read"] - spent.cpu["read"]
    texts = [f"{seconds:,.1f} CPU seconds: {shares(spent.cpu)}"]
    return [*texts, f"threads waited {waited:,.0f} seconds for INPUT"] if waited > seconds else texts


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(map(printable, names[:5])) + (", ..." if len(names) > 5 else "")


def column(name: str, texts: list[str]) -> list[str]:
    """Lines below one name."""
    return [f"  {name if number == 0 else '':<10} {text}" for number, text in enumerate(texts)]


def _remedies(counts: Counts) -> list[tuple[int, str]]:
    """What to do about duplicates of each kind, with their numbers."""
    return [
        (counts.leaks, "across splits: an evaluation would see images of the training; --drop-duplicates keeps one"),
        (
            counts.contradictions,
            "under another label: correct them; --drop-duplicates --duplicate-labels drop keeps none",
        ),
    ]


def _reject_lines(manifest: Manifest, output: str) -> list[str]:
    if not manifest.counts.rejected:
        return ["  rejected   0"]
    # Read as a stream: there may be as many rejects as inputs.
    reasons, first = Counter[str](), dict[str, Reject]()
    for reject in map(Reject.from_line, directory(output).lines(REJECTS_NAME)):
        reasons[reject.reason] += 1
        first.setdefault(reject.reason, reject)
    shown = sorted(first.values(), key=lambda reject: reject.reason in DROPPED)
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    lines = [f"  rejected   {reasons.total()} ({why}), listed in {output}/{REJECTS_NAME}"]
    lines += [f"    {printable(reject.id)}: {reject.reason}: {printable(reject.message)}" for reject in shown]
    return lines + (["    ..."] if reasons.total() > len(shown) else [])
