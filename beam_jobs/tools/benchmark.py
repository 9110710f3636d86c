"""`image-shards benchmark`: the speed of reading a dataset on this machine, the time of each stage, and advice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from beam_jobs.errors import UsageError
from beam_jobs.terminal import counted, size_text
from shard_reader import Dataset, Draws, open_dataset
from shard_reader.format.checksum import crc32c
from shard_reader.format.image_codecs.table import IMAGE_CODECS, codec_of, decode_image
from shard_reader.stream.prefetch import major_faults
from shard_reader.stream.stream import Stream
from shard_reader.system.cpus import available_cpus
from shard_reader.transforms.compose import ComposedTransform, compose
from shard_reader.transforms.standard import CenterCrop, Flip, RandomResizedCrop

__all__ = ["BenchmarkOptions", "Report", "advice", "describe", "measure"]

_SAMPLE = 512  # images for timing each stage by itself
_STAGE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkOptions:
    """The options of the measurement.

    `crop` and `random_crop` are sides in pixels, of a centre crop or of a random resized crop with flips.
    """

    dataset: str
    split: str | None
    format: str | None
    batch_size: int
    shuffle: Literal["none", "full", "window"]
    crop: int | None
    random_crop: int | None
    threads: int
    verify: Literal["always", "first-epoch", "never"]
    fast: bool
    seconds: float


@dataclass(slots=True)
class Counter:
    """A number of images, and the seconds that they took."""

    images: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of the measurement.

    Attributes:
        first_epoch, later: images and seconds of the first epoch, and of all later ones.
        first_batch: seconds from opening the dataset to the first batch.
        from_disk: the number of pages that were waited for.
        image_bytes: mean bytes of a stored image.
        stored_pixels, batch_pixels: mean pixels of a stored image, and pixels of an image in a batch.
        batch_bytes: bytes of an image in a batch.
        stages: microseconds for one image on one thread, by the name of the stage.
    """

    name: str
    options: BenchmarkOptions
    encoding: str
    records: int
    first_epoch: Counter
    later: Counter
    first_batch: float
    from_disk: int
    image_bytes: float
    stored_pixels: float
    batch_pixels: int
    batch_bytes: int
    stages: Mapping[str, float]

    @property
    def images(self) -> int:
        """Number of images in all epochs."""
        return self.first_epoch.images + self.later.images

    @property
    def rate(self) -> float:
        """Images a second, of the later epochs if there were any."""
        return (self.later if self.later.images else self.first_epoch).rate


def measure(options: BenchmarkOptions) -> Report:
    """Read epochs for some seconds, then time each stage by itself.

    Raises:
        UsageError: the options contradict each other, or do not fit the dataset.
        ShardsError: the dataset cannot be read.
    """
    begin = time.perf_counter()
    data, faults = _open(options), major_faults()
    try:
        stream = data.stream(
            batch_size=options.batch_size,
            shuffle=options.shuffle,
            image=_transforms(options),
            fast=options.fast,
            verify=options.verify,
            threads=options.threads,
            remainder="keep",
        )
        if len(stream) == 0:
            raise UsageError(f"{data.name} holds no records")
        with stream, data:
            # The stages come after the loop: by then, the sample is in memory, and its pages are not counted.
            first_epoch, later, first_batch = _read(stream, begin, options.seconds)
            from_disk = major_faults() - faults
            sample = _sample(data)
            stages = dict(_stages(stream, sample, options))
    except ValueError as error:  # images differ in size, or are smaller than the crop
        hint = " (here: --crop or --random-crop)" if "size" in str(error) or "smaller" in str(error) else ""
        raise UsageError(f"{error}{hint}") from error
    shapes, target = [sample.shape(place) for place in range(len(sample.records))], _target(stream)
    return Report(
        name=data.name,
        options=options,
        encoding=data.fields["image"].encoding or "",
        records=len(data),
        first_epoch=first_epoch,
        later=later,
        first_batch=first_batch,
        from_disk=from_disk,
        image_bytes=float(np.mean([sample.payload(place).size for place in range(len(sample.records))])),
        stored_pixels=float(np.mean([height * width for height, width in shapes])),
        batch_pixels=math.prod(target.shape[:2]),
        batch_bytes=target.nbytes,
        stages=stages,
    )


def describe(report: Report) -> str:
    """The report in words, on one screen."""
    o = report.options
    alone = sum(report.stages.values())
    lines = [
        f"{report.name}: {report.images:,} images read, of {report.records:,};"
        f" batch size {o.batch_size}, shuffle {o.shuffle}, {counted(o.threads, 'thread')}",
        f"  {report.rate:,.0f} images/s, {report.rate * report.image_bytes / 1e6:,.0f} MB/s of {report.encoding},"
        f" first batch after {report.first_batch:.2f} s,"
        f" first epoch {report.first_epoch.rate:,.0f} images/s,"
        f" {'all in memory' if report.from_disk == 0 else f'waited {report.from_disk:,} times for the disk'}",
        "where the time goes: one image on one thread",
    ]
    lines += [f"  {name:<10} {cost:9.1f} us {cost / alone:6.1%}" for name, cost in report.stages.items()]
    lines += [f"  {'all':<10} {alone:9.1f} us         {1e6 / alone:,.0f} images/s"]
    return "\n".join([*lines, "what to change", *(f"  - {line}" for line in advice(report))])


def advice(report: Report) -> list[str]:
    """Advice for more speed, a line each, the most useful first."""
    parts = {name: cost / sum(report.stages.values()) for name, cost in report.stages.items()}
    return list(_advice(report, report.options, parts)) or [
        "nothing that this can see: it is as fast as memory is here"
    ]


def _advice(report: Report, o: BenchmarkOptions, parts: Mapping[str, float]) -> Iterator[str]:
    if report.from_disk > report.images / 100:
        yield (
            "the disk is the limit: read it again to see the speed from memory"
            f" ({size_text(int(report.image_bytes * report.records))} of images); faster disks, or JPEG for raw pixels"
        )
    if o.threads < available_cpus():
        yield f"--threads {available_cpus()}: there are more CPUs than threads"
    if parts.get("decode", 0) > 0.5:
        if report.stored_pixels > 2.5 * report.batch_pixels:
            yield (
                f"images are stored with {report.stored_pixels / report.batch_pixels:.1f} times the pixels of a batch:"
                " prepare them smaller (--size)"
            )
        if IMAGE_CODECS[report.encoding].decodes_faster and not o.fast:
            yield "fast=True (--fast): decodes some percent faster, a little less exactly"
        yield (
            f"decoding is {parts['decode']:.0%} of the work: --encoding raw --fit crop needs none, and takes"
            f" {size_text(report.batch_bytes * report.records)} instead of"
            f" {size_text(int(report.image_bytes * report.records))}"
        )
        yield f"more CPUs: {counted(o.threads, 'thread')} decode now; decoding grows with them"
    if parts.get("transform", 0) > 0.3:
        yield f"transforms are {parts['transform']:.0%} of the work: leave them to the accelerator, in the model"
    if o.verify == "always" and parts.get("checksum", 0) > 0.05:
        yield f'verify="first-epoch" (--verify first-epoch): checksums are {parts["checksum"]:.0%} of the work'
    if parts.get("look up", 0) > 0.3 and o.batch_size < 128:
        yield "a larger batch_size: looking up is paid for by the batch"


def _open(options: BenchmarkOptions) -> Dataset:
    from beam_jobs.tools.dataset_files import manifest_at

    _, manifest = manifest_at(options.dataset)
    split = options.split or next(iter(manifest.splits))
    try:
        return open_dataset(options.dataset, split, format=options.format)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _transforms(options: BenchmarkOptions) -> Any:
    if options.crop is not None and options.random_crop is not None:
        raise UsageError("--crop and --random-crop: give one of them")
    if options.random_crop is not None:
        return [RandomResizedCrop(options.random_crop), Flip()]
    return None if options.crop is None else CenterCrop(options.crop)


def _read(stream: Stream, begin: float, seconds: float) -> tuple[Counter, Counter, float]:
    """The first epoch and all later ones, each as images and seconds, and seconds from `begin` to the first batch."""
    # The first epoch is apart: it reads from the disk and checks checksums, which later ones may not. Short epochs are
    # repeated, so that the time is long enough to measure.
    first_epoch, later, first_batch = Counter(), Counter(), 0.0
    start = time.perf_counter()
    while first_epoch.seconds + later.seconds < seconds / 2:
        now = later if first_epoch.images else first_epoch
        last = time.perf_counter()
        for batch in stream:
            stop = time.perf_counter()
            now.images, now.seconds, last = now.images + len(batch["weight"]), now.seconds + stop - last, stop
            first_batch = first_batch or stop - begin
            if stop - start > seconds:
                return first_epoch, later, first_batch
    return first_epoch, later, first_batch


@dataclass(frozen=True, slots=True)
class _PickedRecords:
    """Some records, with their shards."""

    data: Dataset
    records: np.ndarray[Any, np.dtype[np.int64]]
    located: Any

    def payload(self, place: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        shard, row = self.located.shard(place)
        start, length = (int(shard.rows[name][row]) for name in ("offset", "length"))
        found: np.ndarray[Any, np.dtype[np.uint8]] = shard.stored(start, length)
        return found

    def shape(self, place: int) -> tuple[int, int]:
        shard, row = self.located.shard(place)
        return int(shard.rows["height"][row]), int(shard.rows["width"][row])


def _sample(data: Dataset) -> _PickedRecords:
    # Spread over the dataset, since stored images may be sorted by their source, and differ in size.
    numbers = np.unique(np.linspace(0, len(data) - 1, min(_SAMPLE, len(data))).astype(np.int64))
    return _PickedRecords(data, numbers, data.locate(numbers))


def _stages(stream: Stream, sample: _PickedRecords, options: BenchmarkOptions) -> Iterator[tuple[str, float]]:
    """Microseconds for one image of each stage by itself, on one thread."""
    # Each stage works on data in memory, so that the times add up to work, without waiting for a disk.
    data, chain = sample.data, compose(_transforms(options))
    field, places = data.fields["image"], range(len(sample.records))
    steps = min(len(stream), max(1, 4096 // stream.order.share))
    looked_up = min(len(data), steps * stream.order.share)
    look_up = _seconds(lambda: _look_up(stream, steps)) / looked_up * 1e6
    yield "look up", look_up
    payloads = [sample.payload(place) for place in places]
    if options.verify != "never":
        yield "checksum", _per_image(lambda place: crc32c(payloads[place]), places)
    shapes = [sample.shape(place) for place in places]
    target = _target(stream)

    codec = codec_of(field)
    # Raw pixels are copied for a whole batch at once: the time is that of a stream, less the looking up.
    if codec.is_raw and not chain.steps:
        yield "copy", max(0.0, _batch_cost(data, options) - look_up)
        return

    def decode(place: int) -> Any:
        part = chain.part(*shapes[place], Draws(0, place))
        return decode_image(payloads[place], field, *shapes[place], fast=options.fast, part=part)

    if not codec.is_raw:
        yield "decode", _per_image(decode, places)
    pixels = [decode(place) for place in places]
    yield "transform", _per_image(lambda place: _transform(chain, pixels[place], place, target), places)


def _batch_cost(data: Dataset, options: BenchmarkOptions) -> float:
    """Microseconds to read one image of raw pixels into a batch, on one thread, without checksums."""
    with data.stream(batch_size=options.batch_size, threads=1, verify="never", remainder="keep") as alone:
        first, later, _ = _read(alone, 0.0, _STAGE_SECONDS)
    return 1e6 / (later if later.images else first).rate


def _target(stream: Stream) -> np.ndarray[Any, Any]:
    """An array for one image, with the shape and dtype of a batch."""
    spec = stream.specs["image"]
    return np.empty([side or 0 for side in spec.shape], spec.dtype)


def _look_up(stream: Stream, steps: int) -> None:
    fields = {name: stream.data.fields[name] for name in stream.fields}
    stream.data.locate(stream.order.records_of(0, 0, steps)).columns(fields)


def _transform(chain: ComposedTransform, pixels: Any, place: int, target: Any) -> None:
    chain.of_part(pixels, Draws(0, place), target)


def _per_image(work: Callable[[int], object], places: range) -> float:
    def every() -> None:
        for place in places:
            work(place)

    return _seconds(every) / len(places) * 1e6


def _seconds(work: Callable[[], object]) -> float:
    """The shortest time of some runs."""
    # Other work on the machine can only make a run longer.
    times: list[float] = []
    while not times or (sum(times) < _STAGE_SECONDS and len(times) < 5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
