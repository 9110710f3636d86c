"""`image-shards benchmark`: the speed of reading a dataset on this machine, the time of each stage, and advice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from beam_jobs.errors import UsageError
from beam_jobs.terminal import counted, size_text
from shard_reader import Dataset, Draws, open_dataset
from shard_reader.format.checksum import crc32c
from shard_reader.format.fields import IMAGE, extent_columns, size_columns
from shard_reader.format.image_codecs.table import IMAGE_CODECS, codec_of, decode_image
from shard_reader.printable import printable
from shard_reader.stream.prefetch import major_faults
from shard_reader.stream.stream import Stream
from shard_reader.system.cpus import available_cpus
from shard_reader.transforms.compose import compose
from shard_reader.transforms.standard import CenterCrop, Flip, RandomResizedCrop

__all__ = ["BenchmarkOptions", "Report", "advice", "describe", "measure"]

_SAMPLE = 512  # images for timing each stage by itself
_STAGE_SECONDS = 1.0
_OF_IMAGES = ("checksum", "copy", "decode", "transform")  # stages that each image field has
_ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkOptions:
    """The options of the measurement.

    `crop` and `random_crop` are sides in pixels, of a centre crop or of a random resized crop with flips. `fields` are
    those of a batch; ("all",) stands for all images, None for the image and its label.
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
    fields: tuple[str, ...] | None = None


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
        encoding: the encoding of the images; of several fields that of each, with " and " between.
        image_bytes: mean bytes of the stored images of a record.
        stored_pixels, batch_pixels: mean pixels of a stored image, and pixels of an image in a batch, of the first.
        batch_bytes: bytes of the images of a record in a batch.
        stages: microseconds for one record on one thread, by the name of the stage. Stages of a further image have its
            name after theirs.
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
            fields=_fields(data, options),
            image=_transforms(options),
            fast=options.fast,
            verify=options.verify,
            threads=options.threads,
            remainder="keep",
        )
        if len(stream) == 0:
            raise UsageError(f"{data.name} holds no records")
        images = [name for name in stream.fields if data.fields[name].is_image]
        with stream, data:
            # The stages come after the loop: by then, the sample is in memory, and its pages are not counted.
            first_epoch, later, first_batch = _read(stream, begin, options.seconds)
            from_disk = major_faults() - faults
            sample = _sample(data)
            stages = dict(_stages(stream, sample, options, images))
    except ValueError as error:  # images differ in size, or are smaller than the crop
        hint = " (here: --crop or --random-crop)" if "size" in str(error) or "smaller" in str(error) else ""
        raise UsageError(f"{error}{hint}") from error
    places = range(len(sample.records))
    shapes, targets = [sample.shape(place, images[0]) for place in places], [_target(stream, name) for name in images]
    return Report(
        name=data.name,
        options=options,
        encoding=" and ".join(dict.fromkeys(data.fields[name].encoding or "" for name in images)),
        records=len(data),
        first_epoch=first_epoch,
        later=later,
        first_batch=first_batch,
        from_disk=from_disk,
        image_bytes=float(np.mean([sum(sample.payload(place, name).size for name in images) for place in places])),
        stored_pixels=float(np.mean([height * width for height, width in shapes])),
        batch_pixels=math.prod(targets[0].shape[:2]),
        batch_bytes=sum(target.nbytes for target in targets),
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
        f"where the time goes: one {'record' if o.fields else 'image'} on one thread",
    ]
    shown = {printable(name): cost for name, cost in report.stages.items()}
    width = max(10, *map(len, shown))
    lines += [f"  {name:<{width}} {cost:9.1f} us {cost / alone:6.1%}" for name, cost in shown.items()]
    lines += [f"  {'all':<{width}} {alone:9.1f} us         {1e6 / alone:,.0f} images/s"]
    return "\n".join([*lines, "what to change", *(f"  - {line}" for line in advice(report))])


def advice(report: Report) -> list[str]:
    """Advice for more speed, a line each, the most useful first."""
    parts = dict[str, float]()
    for name, cost in report.stages.items():
        kind = next((kind for kind in _OF_IMAGES if name.startswith(f"{kind} ")), name)
        parts[kind] = parts.get(kind, 0.0) + cost / sum(report.stages.values())
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
        if not o.fast and any(IMAGE_CODECS[name].decodes_faster for name in report.encoding.split(" and ")):
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


def _fields(data: Dataset, options: BenchmarkOptions) -> tuple[str, ...] | None:
    """The fields of a batch; None for the usual ones.

    Raises:
        UsageError: no image is among them.
    """
    if options.fields is None:
        return None
    images = tuple(name for name, field in data.fields.items() if field.is_image)
    if options.fields == (_ALL,) and _ALL not in data.fields:
        return images
    if not set(images) & {*options.fields}:
        shown = printable(", ".join(images))
        raise UsageError(f"--fields {','.join(options.fields)}: has no image, and images take the time: {shown}")
    return options.fields


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

    def payload(self, place: int, image: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        shard, row = self.located.shard(place)
        start, length = (int(shard.rows[column][row]) for column in extent_columns(image)[:2])
        found: np.ndarray[Any, np.dtype[np.uint8]] = shard.stored(start, length)
        return found

    def shape(self, place: int, image: str) -> tuple[int, int]:
        shard, row = self.located.shard(place)
        height, width = (int(shard.rows[column][row]) for column in size_columns(image))
        return height, width


def _sample(data: Dataset) -> _PickedRecords:
    # Spread over the dataset, since stored images may be sorted by their source, and differ in size.
    numbers = np.unique(np.linspace(0, len(data) - 1, min(_SAMPLE, len(data))).astype(np.int64))
    return _PickedRecords(data, numbers, data.locate(numbers))


def _stages(
    stream: Stream, sample: _PickedRecords, options: BenchmarkOptions, images: Sequence[str]
) -> Iterator[tuple[str, float]]:
    """Microseconds for one record of each stage by itself, on one thread."""
    # Each stage works on data in memory, so that the times add up to work, without waiting for a disk.
    data = sample.data
    steps = min(len(stream), max(1, 4096 // stream.order.share))
    looked_up = min(len(data), steps * stream.order.share)
    look_up = _seconds(lambda: _look_up(stream, steps)) / looked_up * 1e6
    yield "look up", look_up
    for name in images:
        more = "" if name == images[0] else f" {name}"
        for stage, cost in _image_stages(stream, sample, options, name, look_up):
            yield f"{stage}{more}", cost


def _image_stages(
    stream: Stream, sample: _PickedRecords, options: BenchmarkOptions, name: str, look_up: float
) -> Iterator[tuple[str, float]]:
    """Microseconds for one image of each stage of a field."""
    data, chain = sample.data, compose(_transforms(options))
    field, places = data.fields[name], range(len(sample.records))
    if not field.is_filtered:
        chain = chain.by_nearest(keeps_values=True)
    payloads = [sample.payload(place, name) for place in places]
    if options.verify != "never":
        yield "checksum", _per_image(lambda place: crc32c(payloads[place]), places)
    shapes = [sample.shape(place, name) for place in places]
    target = _target(stream, name)

    codec = codec_of(field)
    # Raw pixels are copied for a whole batch at once: the time is that of a stream, less the looking up.
    if codec.is_raw and not chain.steps:
        yield "copy", max(0.0, _batch_cost(data, options, name) - look_up)
        return

    # Other programs store masks of other sizes than their photos. Those are decoded as a whole, and scaled first.
    is_part = [shape == sample.shape(place, IMAGE) for place, shape in zip(places, shapes, strict=True)]

    def decode(place: int) -> Any:
        part = chain.part(*shapes[place], Draws(0, place)) if is_part[place] else None
        return decode_image(payloads[place], field, *shapes[place], fast=options.fast, part=part)

    def transform(place: int) -> None:
        run = chain.of_part if is_part[place] else chain
        run(pixels[place], Draws(0, place), target)

    if not codec.is_raw:
        yield "decode", _per_image(decode, places)
    pixels = [decode(place) for place in places]
    pixels = [own if is_part[n] else _scaled(own, sample.shape(n, IMAGE)) for n, own in enumerate(pixels)]
    yield "transform", _per_image(transform, places)


def _scaled(pixels: Any, size: tuple[int, int]) -> Any:
    """Pixels of another size, the nearest ones."""
    rows, columns = (np.arange(new) * own // new for new, own in zip(size, pixels.shape, strict=False))
    return np.ascontiguousarray(pixels[rows][:, columns])


def _batch_cost(data: Dataset, options: BenchmarkOptions, name: str) -> float:
    """Microseconds to read one image of raw pixels into a batch, on one thread, without checksums."""
    o = options
    with data.stream(batch_size=o.batch_size, fields=(name,), threads=1, verify="never", remainder="keep") as alone:
        first, later, _ = _read(alone, 0.0, _STAGE_SECONDS)
    return 1e6 / (later if later.images else first).rate


def _target(stream: Stream, name: str) -> np.ndarray[Any, Any]:
    """An array for one image, with the shape and dtype of a batch, and its channels."""
    spec, field = stream.specs[name], stream.data.fields[name]
    shape = [side or 0 for side in spec.shape]
    return np.empty([*shape, 1] if field.is_flat else shape, spec.dtype)


def _look_up(stream: Stream, steps: int) -> None:
    fields = {name: stream.data.fields[name] for name in stream.fields}
    stream.data.locate(stream.order.records_of(0, 0, steps)).columns(fields)


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
