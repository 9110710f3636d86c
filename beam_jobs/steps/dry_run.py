"""The plan of a job, as an object of JSON and in words: what it reads and writes, its time, and its price."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from beam_jobs.external_sort import Spill
from beam_jobs.options import JobOptions
from beam_jobs.plan.listing import list_input
from beam_jobs.plan.order import PlannedInputs, statistics_split
from beam_jobs.plan.schema.base import Base
from beam_jobs.runners.jobs import worker_count
from beam_jobs.runners.local import import_beam_meanwhile, is_local
from beam_jobs.shards.output import Output, output_directory
from beam_jobs.shards.records.record import image_fields, labels_of
from beam_jobs.sources.files.interface import Reference, Source
from beam_jobs.steps.known import Known, same_ids
from beam_jobs.steps.planner import Plan, Run, make_plan, take_sample, worker_processes
from beam_jobs.steps.result import plain_json
from beam_jobs.steps.sample import Sample
from beam_jobs.steps.summary import column, image_text, output_state, reached_lines
from beam_jobs.terminal import counted, size_text
from shard_reader.printable import printable
from shard_reader.system.cpus import available_cpus

__all__ = ["DryRun", "Estimate", "Pass", "SplitPlan", "Tally", "dry_run"]

_SAMPLE = 128  # images: of photos, their mean time is within 15 % of that of all in 19 of 20 samples
_SHARDS_WITH_THUMBNAILS = 32  # at most: then a dataset has its candidates
_LARGEST = 20  # classes in the plan
_SHOWN = 5  # of them in words
_PIPELINE_SECONDS = 0.6  # to start Beam's pipeline here, and to publish; all that comes before is measured


class Tally:
    """Counts the references of a plan: the bytes of their inputs, and their labels.

    Attributes:
        bytes: the known bytes of the inputs of each split.
        unsized: the number of inputs of each split whose size is not known before they are read.
        labels: the number of records, or of their objects, of each label.
    """

    def __init__(self, count_classes: bool) -> None:
        self._count_classes = count_classes
        self.bytes, self.unsized, self.labels = Counter[str](), Counter[str](), Counter[int]()

    def add(self, split: str, reference: Reference) -> None:
        """Count a reference."""
        if reference.size < 0:
            self.unsized[split] += 1
        else:
            self.bytes[split] += reference.size
        if self._count_classes:
            self.labels.update(labels_of(reference.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPlan:
    """A split: its images and its shards. `bytes` and `shard_bytes` are estimates, of all formats together."""

    images: int
    shards: int
    shard_images: tuple[int, int]
    bytes: int
    shard_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A step that reads images: its name in Beam, and the images, bytes and CPU seconds of it. `why` is for people."""

    step: str
    images: int
    bytes: int
    cpu_seconds: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes, time and price of the whole job.

    `seconds` is the time by the clock with `cpus` CPUs, None if their number is not known. On this machine it has the
    time until the first image, and the waiting that the sample has seen. `price` is that of an hour
    of one CPU, and `cost` that of all.
    """

    sampled: int
    bytes_in: int
    bytes_out: int
    cpu_hours: float
    cpus: int | None
    seconds: float | None
    price: float | None
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The plan of a job, of which nothing is written."""

    output: str
    state: str
    formats: tuple[str, ...]
    splits: Mapping[str, SplitPlan]
    image: str
    fields: tuple[str, ...]
    classes: int
    largest_classes: Mapping[str, int]
    rejected: int
    unusable: tuple[str, ...]
    passes: tuple[Pass, ...]
    estimate: Estimate
    workers: str
    reached: Mapping[str, int]

    def to_json(self) -> str:
        """One object of JSON."""
        body = plain_json({name: value for name, value in asdict(self).items() if name != "workers"})
        return json.dumps(body, indent=2)

    def to_text(self) -> str:
        """The plan in words."""
        lines = [f"{self.output}: {self.state}. The plan, of which nothing is written:"]
        lines += [f"  {printable(name):<10} {_split_text(split)}" for name, split in self.splits.items()]
        lines.append(f"  image      {self.image}")
        if self.largest_classes:
            lines.append(f"  classes    {self._classes()}")
        if self.fields:
            lines.append(f"  fields     {', '.join(map(printable, self.fields))}")
        lines += column("pre-pass", [_pass_text(one) for one in self.passes[:-1]])
        lines.append(f"  rejected   {self.rejected} by the listing")
        lines += column("sample", list(self.unusable))
        lines += column("estimated", self._estimates())
        return "\n".join([*lines, *reached_lines(self.reached)])

    def _classes(self) -> str:
        shown = [f"{printable(name)} {count}" for name, count in self.largest_classes.items()]
        more = f" the largest: {', '.join(shown[:_SHOWN])}, ..."
        return f"{self.classes}:" + (more if len(shown) > _SHOWN else f" {', '.join(shown)}")

    def _estimates(self) -> list[str]:
        found = self.estimate
        size = f"reads {size_text(found.bytes_in)}, writes {size_text(found.bytes_out)} of {' and '.join(self.formats)}"
        time = _cpu_text(found.cpu_hours)
        if found.seconds is not None:
            time += f", {_duration(found.seconds)} with {self.workers}"
        lines = [f"{size} (from {counted(found.sampled, 'image')})", time]
        if found.cost is not None:
            cost = f"about {found.cost:,.2f}" if found.cost >= 0.01 else "less than 0.01"
            lines.append(f"{cost} at {found.price:g} a CPU hour")
        return lines


def dry_run(options: JobOptions, source: Source, why: str, base: Base | None = None) -> DryRun:
    """Make the plan of a job in a temporary folder.

    Args:
        options: the options of the command.
        source: the source of the images.
        why: the reason for this source, in words.
        base: the dataset that the inputs are added to. Those with the id of a record count as the same.

    Raises:
        UsageError: INPUT, OUTPUT or an option does not allow the job.
        JobError: the listing alone rejects too many images, or the sample cannot be taken.
    """
    began = time.monotonic()
    output = Output(options.output, output_directory(options.output))
    with tempfile.TemporaryDirectory(prefix="image-shards-") as folder, worker_processes(options) as workers:
        run = Run(options, Path(folder), workers)
        beam = import_beam_meanwhile() if is_local(options.beam) else None
        listing = list_input(options, source, why, Spill(run.scratch), base)
        tally = Tally(listing.schema.count_classes)
        known = None if base is None else same_ids(run, listing, base)
        plan = make_plan(run, listing, on_reference=tally.add, skipped=known or ())
        # A job on this machine needs all of this, too, so its first image comes as late, on a machine of any speed.
        if beam is not None:
            beam.join()
        elapsed = time.monotonic() - began
        sample = take_sample(run, listing, plan.inputs, _SAMPLE)
    state = output_state(output, listing.fingerprint) if base is None else _base_state(base, known)
    return _described(options, state, plan, tally, sample, elapsed)


def _base_state(base: Base, known: Known | None) -> str:
    """The dataset that inputs are added to, in words."""
    manifest = base.manifest
    text = f"has generation {manifest.generation} of {counted(manifest.records, 'record')}, another would be added"
    if known is None or not known.skipped:
        return text
    return f"{text}; {counted(known.skipped, 'input')} with a known id would be compared, and not counted here"


def _described(options: JobOptions, state: str, plan: Plan, tally: Tally, sample: Sample, elapsed: float) -> DryRun:
    """The plan with estimates. `elapsed` is the time until the first image of a job on this machine."""
    inputs, shards, schema = plan.inputs, plan.shards, plan.listing.schema
    cpus, workers = _cpus(options, plan.tasks)
    thumbnails = min(plan.tasks, _SHARDS_WITH_THUMBNAILS) * sample.thumbnail_seconds
    fixed = thumbnails + (cpus or 1) * sample.start_seconds
    passes = tuple(_passes(options, inputs, tally, sample, fixed))
    return DryRun(
        output=options.output if plan.listing.base is None else plan.listing.base.place,
        state=state,
        formats=options.formats,
        splits={name: _split(ordered.records, shards[name], sample) for name, ordered in inputs.ordered.items()},
        image=image_text(image_fields(options.image, schema.fields, schema.payloads)["image"], asdict(options.image)),
        fields=tuple(name for name in (*schema.payloads, *schema.fields) if name != "label"),
        classes=len(schema.class_names or tally.labels),
        largest_classes=_largest(tally.labels, schema.class_names),
        rejected=inputs.rejected,
        unusable=tuple(
            f"{len(sample.rejects)} of {counted(sample.images, 'image')} cannot be used, as"
            f" {printable(one.uri)}: {one.reason}: {printable(one.message)}"
            for one in sample.rejects[:1]
        ),
        passes=passes,
        estimate=_estimate(options, passes, cpus, inputs.planned, sample, elapsed),
        workers=workers,
        reached=plan.listing.layout.reached,
    )


def _split(images: int, shards: int, sample: Sample) -> SplitPlan:
    size = round(images * sample.file_bytes)
    return SplitPlan(
        images=images,
        shards=shards,
        shard_images=(images // shards, -(-images // shards)),
        bytes=size,
        shard_bytes=size // shards,
    )


def _passes(options: JobOptions, inputs: PlannedInputs, tally: Tally, sample: Sample, fixed: float) -> list[Pass]:
    """The steps that read images, in their order. The last one writes the shards, with `fixed` CPU seconds for them."""
    everything = list(inputs.ordered)

    def of(step: str, splits: list[str], seconds: float, why: str, fixed: float = 0.0) -> Pass:
        images = sum(inputs.ordered[split].records for split in splits)
        unsized = sum(tally.unsized[split] for split in splits)
        size = sum(tally.bytes[split] for split in splits) + round(unsized * sample.input_bytes)
        return Pass(step=step, images=images, bytes=size, cpu_seconds=images * seconds + fixed, why=why)

    passes = list[Pass]()
    if options.acts_on_near_duplicates:
        passes.append(of("HashInputs", everything, sample.cpu_seconds, "and decodes them, to find duplicates"))
    elif options.drop_duplicates:
        passes.append(of("HashInputs", everything, sample.read_seconds, "once more, to find duplicates"))
    if options.image.normalize == "dataset" and not options.append:
        split = statistics_split(everything)
        passes.append(of("MeasureShards", [split], sample.cpu_seconds, f"of {printable(split)} once more"))
    return [*passes, of("WriteShards", everything, sample.cpu_seconds, "to write them", fixed)]


def _estimate(
    options: JobOptions, passes: tuple[Pass, ...], cpus: int | None, images: int, sample: Sample, elapsed: float
) -> Estimate:
    seconds = sum(one.cpu_seconds for one in passes)
    start, clock = 0.0, seconds
    if is_local(options.beam):  # a store or a disk that is slow from here may be near to an engine
        start = elapsed + _PIPELINE_SECONDS
        clock = seconds * max(1.0, sample.clock_seconds / max(1e-9, sample.cpu_seconds))
    return Estimate(
        sampled=sample.images,
        bytes_in=sum(one.bytes for one in passes),
        bytes_out=round(images * sample.file_bytes),
        cpu_hours=seconds / 3600,
        cpus=cpus,
        seconds=None if cpus is None else start + clock / cpus,
        price=options.price,
        cost=None if options.price is None else options.price * seconds / 3600,
    )


def _cpus(options: JobOptions, shards: int) -> tuple[int | None, str]:
    """The number of CPUs that work at a time, if the options say it, and the workers in words."""
    if is_local(options.beam):
        return min(options.workers, available_cpus()), f"{counted(options.workers, 'worker')} here"
    workers = worker_count(options.beam)
    if workers is None:
        return None, ""
    # As Google Cloud's machine types end: n2-standard-8.
    size = re.search(r"-([1-9][0-9]{0,3})$", options.beam.get("machine_type") or "")
    each = int(size[1]) if size else 1
    # A shard is made by one CPU.
    cpus = min(workers * each, shards)
    return cpus, f"{counted(workers, 'worker')} of {counted(each, 'CPU')}, without the start of the engine"


def _largest(labels: Counter[int], names: tuple[str, ...] | None) -> dict[str, int]:
    """The largest classes, first the one with the most records."""
    known = ((label, number) for label, number in labels.items() if label >= 0 or names is None)
    ordered = sorted(known, key=lambda item: (-item[1], item[0]))[:_LARGEST]
    return {names[label] if names is not None and 0 <= label < len(names) else str(label): n for label, n in ordered}


def _split_text(split: SplitPlan) -> str:
    low, high = split.shard_images
    each = f"{low} to {high} images" if low != high else counted(low, "image")
    size = f"about {size_text(split.bytes)}"
    if split.shards > 1:
        size += f", {size_text(split.shard_bytes)} each"
    return f"{counted(split.images, 'image')}, {counted(split.shards, 'shard')} of {each}, {size}"


def _pass_text(one: Pass) -> str:
    return f"{one.step}: reads {counted(one.images, 'image')} {one.why}, {size_text(one.bytes)}"


def _cpu_text(hours: float) -> str:
    return (
        f"{hours:,.1f} CPU hours" if hours >= 0.1 else f"{hours * 3600:.{0 if hours * 3600 >= 10 else 1}f} CPU seconds"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
