"""`prepare --append`: new records become a folder of a dataset, and then its next generation."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.generations.combine import combined
from beam_jobs.generations.growth import Growth, grown
from beam_jobs.generations.tables import measured_statistics
from beam_jobs.generations.withdraw import without
from beam_jobs.options import JobOptions
from beam_jobs.plan.fingerprint import OtherJobError
from beam_jobs.plan.schema.base import Base, NothingToAdd
from beam_jobs.plan.schema.earlier import KNOWN, known_records, spilled_by_id
from beam_jobs.report.report import make_report, need_report_packages
from beam_jobs.sources.files.interface import DOWNLOADS, SourceOptions
from beam_jobs.sources.known import recognised
from beam_jobs.steps import prepare as steps
from beam_jobs.steps.dry_run import DryRun
from beam_jobs.steps.result import OnProgress, PrepareResult
from beam_jobs.terminal import counted
from beam_jobs.tools.dataset_files import REPORT_NAME, manifest_at, remaining_of
from shard_reader.format.fields import JOINED
from shard_reader.format.manifest import PIXELS_NAME, Manifest, generation_folder
from shard_reader.storage.open import directory

__all__ = ["append", "plan_append"]

_PLACES = {"root", "below", "no_urls"}  # options about the places of inputs


def append(options: JobOptions, on_progress: OnProgress | None = None) -> PrepareResult:
    """Add the inputs to the dataset in OUTPUT, as its next generation.

    Args:
        options: the options of the job.
        on_progress: called with the progress, as by `prepare`.

    Raises:
        UsageError: INPUT, OUTPUT or an option does not allow it.
        Interrupted: the user pressed Ctrl-C.
        JobError: the job failed; the message names the work that is kept.
    """
    began = time.monotonic()
    if options.report:
        need_report_packages()
    with grown(options.output) as growth:
        _check_growable(growth.place, growth.manifest)
        folder = _folder(growth, options)
        base = Base(place=growth.place, folder=folder, manifest=growth.manifest, replaces=options.replace)
        try:
            added = steps.prepare(_inside(options, base), on_progress, base)
        except NothingToAdd as nothing:
            growth.files.delete_folder(folder)
            return _nothing(options, growth.manifest, nothing)
        except OtherJobError as error:
            raise UsageError(
                f"{growth.place}: has an unfinished append in {folder}, of another job: {error.differences}. Finish it"
                " with its own command, or discard it with --append --overwrite"
            ) from error
        except BaseException:
            if folder not in growth.unfinished():
                growth.files.delete_folder(folder)
            raise
        manifest = _published(growth, added.manifest, base, options)
    return _result(options, manifest, added, folder, time.monotonic() - began)


def plan_append(options: JobOptions) -> DryRun:
    """The plan of an append, of which nothing is written.

    Raises:
        UsageError: INPUT, OUTPUT or an option does not allow it.
        Interrupted: the user pressed Ctrl-C.
        JobError: the listing alone rejects too many images, or the sample cannot be taken.
    """
    _, manifest = manifest_at(options.output)
    _check_growable(options.output, manifest)
    folder = generation_folder(manifest.generation + 1)
    base = Base(place=options.output, folder=folder, manifest=manifest, replaces=options.replace)
    try:
        return steps.plan(_inside(options, base), base)
    except NothingToAdd:
        raise UsageError(f"{options.output}: has a record of the id of each input: nothing new to add") from None


def _check_growable(place: str, manifest: Manifest) -> None:
    """Refuse a dataset that lacks what an append needs.

    Raises:
        UsageError: it does.
    """
    if "values_hash" not in manifest.fields:
        raise UsageError(
            f"{place}: was made before datasets could grow: its records have no values_hash, by which an append knows"
            " those that are the same; prepare it again"
        )
    if JOINED in manifest.requires:
        raise UsageError(f"{place}: has shards of other datasets; append to these, or `image-shards compact` it first")
    if not manifest.options.get("image"):
        raise UsageError(f"{place}: its manifest has no options of prepare; prepare it again")
    if manifest.options.get("stratify"):
        raise UsageError(
            f"{place}: was split with --stratify, which counts all records of a class: with more of them, old ones"
            " would have to change their splits; prepare it again, with all inputs"
        )


def _folder(growth: Growth, options: JobOptions) -> str:
    """The folder of an unfinished append, or a new one."""
    unfinished = growth.unfinished()
    if options.overwrite:
        for name in unfinished:
            growth.files.delete_folder(name)
    elif unfinished:
        return unfinished[-1]
    return growth.new_folder()


def _inside(options: JobOptions, base: Base) -> JobOptions:
    """The options of the job that makes the folder."""
    stored = base.manifest.options
    if not _given_of_source(options):
        like = replace(options.source, **_stored_source(stored.get("source")))
        # The options of a table are no options of a folder.
        if recognised(like)[0].kind == stored.get("kind"):
            options = replace(options, source=like)
    return replace(options, output=f"{base.place}/{base.folder}", overwrite=False, report=False)


def _stored_source(stored: Any) -> dict[str, Any]:
    """The options of a dataset about its inputs. A manifest is data: it chooses no class, and no place."""
    if not isinstance(stored, dict):
        return {}
    known = {one.name for one in fields(SourceOptions)} - {"input", "kind", *_PLACES, *DOWNLOADS}
    found = {name: tuple(map(str, one)) if isinstance(one, list) else one for name, one in stored.items()}
    return {name: one for name, one in found.items() if name in known and isinstance(one, str | bool | tuple)}


def _given_of_source(options: JobOptions) -> bool:
    given = options.deciding()["source"] or {}
    return bool(given.keys() - _PLACES)


def _published(growth: Growth, added: Manifest, base: Base, options: JobOptions) -> Manifest:
    """Make the folder the next generation."""
    manifest = combined(growth.manifest, added, base.folder)
    if base.replaces and (stored := _replaced(growth, added, base)):
        before = remaining_of(growth.files, growth.manifest)
        gone = {name: numbers - np.searchsorted(before[name].withdrawn, numbers) for name, numbers in stored.items()}
        manifest = without(growth, manifest, base.folder, gone)
    if manifest.statistics is None and manifest.lists(PIXELS_NAME):
        statistics = measured_statistics(growth.files, manifest, base.statistics_split)
        manifest = replace(manifest, statistics=statistics)
    return growth.publish(manifest, "append", base.folder, options.card)


def _replaced(growth: Growth, added: Manifest, base: Base) -> dict[str, NDArray[np.int64]]:
    """The numbers of the records of each split that have the id of a new one, rising."""
    found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in growth.manifest.splits}
    with tempfile.TemporaryDirectory(prefix="image-shards-") as scratch:
        for old, new in _same_buckets(growth, added, base, Path(scratch)):
            is_known = np.isin(old["key"], new["key"]) & np.isin(old["check"], new["check"])
            for number, name in enumerate(found):
                found[name].append(old["number"][is_known & (old["split"] == number)].astype(np.int64))
    joined = {name: np.sort(np.concatenate([np.empty(0, np.int64), *numbers])) for name, numbers in found.items()}
    return {name: numbers for name, numbers in joined.items() if len(numbers)}


def _same_buckets(
    growth: Growth, added: Manifest, base: Base, scratch: Path
) -> Iterator[tuple[NDArray[np.void], NDArray[np.void]]]:
    """The old and the new records whose ids have hashes of one range."""
    folders = scratch / "old", scratch / "new"
    for folder in folders:
        folder.mkdir()
    seed = growth.manifest.seed
    old = spilled_by_id(known_records(growth.place, growth.manifest, seed, folders[0]), folders[0])
    new = spilled_by_id(known_records(f"{base.place}/{base.folder}", added, seed, folders[1]), folders[1])
    for pair in zip(old.buckets(), new.buckets(), strict=True):
        one, other = (np.frombuffer(data, KNOWN) for data in pair)
        yield one, other
    shutil.rmtree(scratch, ignore_errors=True)


def _nothing(options: JobOptions, manifest: Manifest, nothing: NothingToAdd) -> PrepareResult:
    text = f"{options.output}: has all of these inputs, nothing to do (generation {manifest.generation})"
    if nothing.rejected:
        inputs = counted(nothing.rejected, "input")
        text += f"\n  rejected   {inputs} that cannot be used, as {nothing.first}"
    return PrepareResult(
        output=options.output, manifest=manifest, seconds=0.0, was_finished=True, report=None, text=text
    )


def _result(
    options: JobOptions, manifest: Manifest, added: PrepareResult, folder: str, seconds: float
) -> PrepareResult:
    counts = added.manifest.counts
    skipped = f", {counted(counts.skipped, 'input')} there already" if counts.skipped else ""
    lines = [
        f"{options.output}: generation {manifest.generation}: {counted(counts.written, 'image')} more{skipped},"
        f" {manifest.counts.written} in all, in {seconds:.1f} s"
    ]
    inside = f"{options.output}/{folder}"
    # The next command is about the whole dataset.
    lines += [
        line.replace(inside, options.output) if "open_dataset" in line else line for line in added.text.splitlines()[1:]
    ]
    report = None
    if options.report:
        made = make_report(options.output)
        files = directory(options.output)
        report = files.uri(REPORT_NAME)
        files.write(REPORT_NAME, [made.html])
        lines += ["report:", f"  {made.describe(report)}"]
    return PrepareResult(
        output=options.output,
        manifest=manifest,
        seconds=seconds,
        was_finished=False,
        report=report,
        text="\n".join(lines),
    )
