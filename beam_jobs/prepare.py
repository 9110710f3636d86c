"""`image-shards prepare`: list, plan, run the pipeline, report."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from beam_jobs import plan
from beam_jobs.commit import Output, Publication, check_rejects, claimed
from beam_jobs.errors import JobError, UsageError
from beam_jobs.images import BadImage, codec_versions, prepare_image
from beam_jobs.options import PrepareOptions, fingerprint
from beam_jobs.report import counted, say, summary
from beam_jobs.run import run
from beam_jobs.sources import Listing, Reference
from beam_jobs.sources.folder import list_folder, read_image
from beam_jobs.write import Job, image_fields
from shard_reader.format import Fingerprint, Manifest

__all__ = ["prepare"]

_SAMPLE = 32  # images that tell how large a record will be
_RECORD_OVERHEAD = 128  # bytes of framing and other fields, roughly


def prepare(options: PrepareOptions) -> str:
    """Make the dataset, and return the text that says what was made.

    Raises:
        UsageError: INPUT, OUTPUT or an option does not allow it.
        JobError: it failed; OUTPUT is as it was before.
    """
    began = time.monotonic()
    _check_places(options)
    listing = list_folder(options.input)
    found = f"{counted(len(listing.references), 'image')}, {counted(listing.ignored, 'file')} ignored"
    rejected = f", {len(listing.rejects)} rejected" if listing.rejects else ""
    say(f"{options.input}: {listing.layout}, {found}{rejected}")
    with claimed(options.output) as output:
        finished = output.manifest()
        wanted = _fingerprint(options, listing)
        if finished is not None:
            _check_same(finished, options, wanted)
            counts = f"{counted(finished.counts.written, 'image')}, {finished.counts.rejected} rejected"
            return f"{options.output}: is finished, nothing to do ({counts})"
        inputs = len(listing.references) + len(listing.rejects)
        check_rejects(len(listing.rejects), listing.rejects, inputs, options.max_rejects)
        try:
            _make(options, listing, output, wanted)
        except KeyboardInterrupt:
            if output.manifest() is None:
                raise  # otherwise it came too late: everything is there
        manifest = output.manifest()
        if manifest is None:
            raise JobError(f"{options.output}: the pipeline ended without a manifest")
        return summary(manifest, options.output, time.monotonic() - began)


def _check_places(options: PrepareOptions) -> None:
    source, target = Path(options.input).resolve(), Path(options.output).resolve()
    if target.is_relative_to(source):
        raise UsageError(f"OUTPUT {options.output}: lies inside INPUT {options.input}")
    if options.beam.get("runner") == "DataflowRunner":
        raise UsageError(f"OUTPUT {options.output}: is local, and Dataflow's workers cannot write there")


def _fingerprint(options: PrepareOptions, listing: Listing) -> Fingerprint:
    return Fingerprint(
        inputs=plan.fingerprint(listing),
        options=fingerprint(options.deciding()),
        codecs=codec_versions(),
    )


def _check_same(found: Manifest, options: PrepareOptions, wanted: Fingerprint) -> None:
    """Whether a finished dataset is the one that is asked for.

    Raises:
        UsageError: it is not; the message shows what differs.
    """
    if found.fingerprint == wanted:
        return
    there = _flat({**found.options, "inputs": found.fingerprint.inputs, **found.fingerprint.codecs})
    asked = _flat({**options.deciding(), "inputs": wanted.inputs, **wanted.codecs})
    differences = [
        "the files in INPUT are others" if name == "inputs" else f"{name} is {there.get(name)!r} there, {value!r} here"
        for name, value in asked.items()
        if there.get(name) != value
    ]
    raise UsageError(f"OUTPUT {options.output}: was made differently: {'; '.join(differences)}")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with names like `image.fit`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _make(options: PrepareOptions, listing: Listing, output: Output, wanted: Fingerprint) -> None:
    splits = plan.split_references(listing, options.split, options.seed)
    shards = _shard_counts(options, splits)
    work = output.work.absolute()  # workers may be elsewhere
    (work / "plan").mkdir(parents=True)
    tasks = plan.plan_shards(splits, shards, work / "plan")
    processes = min(options.workers, len(tasks))
    job = Job(
        input=os.path.abspath(options.input),
        attempts=str(work / "attempts"),
        image=options.image,
        formats=options.formats,
        fields=image_fields(options.image, listing.class_names is not None),
        # More than one thread for each process, so that the last shards still keep every CPU busy.
        threads=1 if options.workers == 1 else max(2, -(-options.workers // processes)),
    )
    publication = Publication(
        output=str(work.parent),
        fields=dict(job.fields),
        formats=options.formats,
        splits=tuple(splits),
        class_names=listing.class_names,
        seed=options.seed,
        options={**options.to_json(), "shard_counts": shards},
        fingerprint=wanted,
        ignored=listing.ignored,
        planned=len(listing.references),
        listing_rejects=tuple(listing.rejects),
        max_rejects=options.max_rejects,
    )
    run(tasks, job, publication, options.beam, processes)


def _shard_counts(options: PrepareOptions, splits: plan.Plan) -> dict[str, int]:
    largest = max(splits.values(), key=len)

    def record_bytes() -> float:
        return _record_bytes(options, largest[:_SAMPLE])

    return {
        name: plan.shard_count(len(references), options.shards, len(largest), record_bytes)
        for name, references in splits.items()
    }


def _record_bytes(options: PrepareOptions, sample: list[Reference]) -> float:
    """The mean size of a record, from the images that come first in the order: the same on every run."""
    image = replace(options.image, normalize="none")  # of the same size, and without statistics
    sizes = []
    for reference in sample:
        try:
            sizes.append(len(prepare_image(read_image(options.input, reference.id), image).data))
        except (BadImage, OSError):  # written as a reject, or an error, when its turn comes
            sizes.append(reference.size)
    return sum(sizes) / max(1, len(sizes)) + _RECORD_OVERHEAD
