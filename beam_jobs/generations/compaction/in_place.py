"""`image-shards compact --in-place`: the records that count as a generation, and the removal of all earlier files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime

from beam_jobs.errors import JobError
from beam_jobs.generations.compaction.compact import (
    COMPACTED,
    Compacting,
    CompactOptions,
    checked_engine,
    copy_records,
    described,
    fingerprint_of_compaction,
)
from beam_jobs.generations.compaction.removals import Removed, Waiting, add_waiting, remove_due, replaced_files
from beam_jobs.generations.growth import Growth, grown
from beam_jobs.shards.output import Output, claimed
from beam_jobs.steps.failures import in_words
from beam_jobs.terminal import counted, print_warning
from shard_reader.format.fields import JOINED, RELABELED
from shard_reader.format.manifest import Manifest
from shard_reader.format.shard_table import FileColumns, ShardTable
from shard_reader.printable import printable
from shard_reader.storage.open import directory

__all__ = ["compact_in_place", "is_compact", "within"]


def compact_in_place(options: CompactOptions, grace: float, now: Callable[[], float] = time.time) -> list[str]:
    """Make a generation of the records that count, and remove the files of all earlier ones that no reader needs.

    Args:
        options: the dataset, and how to copy.
        grace: the seconds for which replaced files stay.
        now: the time in seconds since 1970.

    Returns:
        Lines about what was done.

    Raises:
        UsageError: there is no such dataset, or an option does not allow it.
        Interrupted: the user pressed Ctrl-C; the message names the work that is kept.
        JobError: the job failed; the message names the work that is kept.
    """
    options = checked_engine(options, {"DATASET": options.place})
    with in_words(options.place), grown(options.place) as growth:
        asked, stored = options.shards, growth.manifest.options.get("shards")
        if is_compact(growth.manifest) and (asked is None or asdict(asked) == stored):
            lines, manifest = [f"{options.place}: nothing to compact"], growth.manifest
        else:
            manifest = _compacted(growth, options, grace, now)
            lines = [f"{described(manifest, options.place)}, as generation {manifest.generation}"]
        growth.lock.renew()
        return lines + list(_removal_lines(remove_due(growth.files, manifest, now())))


def is_compact(manifest: Manifest) -> bool:
    """Whether all files of a dataset are its own, of one generation in which every record counts."""
    living = [one for one in manifest.history if not one.is_removed]
    has_withdrawn = any(split.withdrawn is not None for split in manifest.splits.values())
    return len(living) == 1 and not has_withdrawn and not {RELABELED, JOINED} & set(manifest.requires)


def within(manifest: Manifest, folder: str) -> Manifest:
    """The manifest of a dataset in a folder, as one of the directory around it."""

    def moved(columns: FileColumns) -> FileColumns:
        return replace(columns, path=[f"{folder}/{path}" for path in columns.path])

    splits = {
        name: replace(
            split,
            shards=ShardTable(
                split.shards.records.tolist(), {format: moved(found) for format, found in split.shards.files.items()}
            ),
        )
        for name, split in manifest.splits.items()
    }
    files = {f"{folder}/{name}": sha256 for name, sha256 in manifest.files.items()}
    return replace(manifest, splits=splits, files=files)


def _compacted(growth: Growth, options: CompactOptions, grace: float, now: Callable[[], float]) -> Manifest:
    """Copy the records into a folder, and publish them as a generation."""
    dataset = Compacting(growth.place, growth.files, growth.manifest)
    folder = _begun(growth, dataset, options) or growth.new_folder()
    with claimed(f"{growth.place}/{folder}") as output:
        made = output.manifest() or copy_records(dataset, options, output)
    # Before the new generation is visible: a command that is killed after it leaves the list of what is to go.
    replaced = replaced_files(growth.files, growth.place, growth.manifest, folder)
    add_waiting(growth.files, growth.manifest, Waiting(growth.number, now() + grace, replaced))
    return growth.publish(within(made, folder), "compact", folder, removes=True)


def _begun(growth: Growth, dataset: Compacting, options: CompactOptions) -> str | None:
    """The folder of the same command, which was interrupted. Those of one for another state are removed."""
    wanted, kept = fingerprint_of_compaction(dataset, options), None
    for folder in growth.unfinished():
        output = Output(f"{growth.place}/{folder}", directory(f"{growth.place}/{folder}"))
        with contextlib.suppress(JobError):
            job, made = output.job(), output.manifest()
            if made is not None and made.fingerprint == wanted:
                return folder
            # Without the name of a job, a folder has no work: this process holds the dataset, so nobody is in it.
            is_own = COMPACTED in made.options if made is not None else job is None
            if job is not None and job["options"].get("command") == "compact":
                is_own = True
                kept = folder if job["fingerprint"] == asdict(wanted) else kept
            if is_own and kept != folder:
                growth.files.delete_folder(folder)
    return kept


def _removal_lines(removed: Removed) -> list[str]:
    lines = [f"{counted(removed.files, 'file')} of earlier generations removed"] if removed.files else []
    if removed.left:
        named = ", ".join(map(printable, removed.left[:3])) + (", ..." if len(removed.left) > 3 else "")
        print_warning(
            f"warning: {named}: not of the size of the file that was replaced, or in a folder that is a link; left as"
            " it is"
        )
    for one in removed.waiting:
        when = datetime.fromtimestamp(one.after, UTC).strftime("%Y-%m-%d %H:%M UTC")
        files = counted(len(one.files), "replaced file")
        lines.append(f"{files} may go after {when}: the next `compact --in-place` removes them")
    return lines
