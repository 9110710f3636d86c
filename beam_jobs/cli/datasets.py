"""The commands on finished datasets: from words to options, and from results to text. They need no Beam."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from beam_jobs.cli.parser import Parser, command_parser
from beam_jobs.errors import JobError
from beam_jobs.processes import ParallelMap
from beam_jobs.terminal import ProgressLine
from shard_reader.errors import ShardsError
from shard_reader.format.manifest import FORMATS
from shard_reader.printable import printable, printable_json, printable_lines
from shard_reader.storage.open import is_url
from shard_reader.storage.secrets import without_secrets
from shard_reader.system.cpus import available_cpus

__all__ = [
    "add_workers",
    "benchmark",
    "dataset_parser",
    "export",
    "index",
    "inspect",
    "print_result",
    "reading",
    "report",
    "verify",
]

_T = TypeVar("_T")

_INSPECT = """\
Show the contents of a dataset: splits, shards, fields, classes, sizes of images, how it was made, and a few records.
Reads the manifest and some indexes, never all of the data."""

_REPORT = """\
Make a report about a dataset: one HTML file with pictures. It begins with everything suspicious, and shows classes,
sizes, rejects and duplicates. Reads the indexes and a sample of the images. The file needs no network."""

_ENGINE = """\
Options of Apache Beam are passed on: with --runner=FlinkRunner, each shard is looked at by a worker of the engine.
Tasks and results are then below --temp_location, which the workers and this machine have to see."""

_VERIFY = """\
Check a dataset: the checksums of files and records, indexes, ids and counts, and that all formats hold the same.
Each problem is a line with its place and a remedy.

With --withdrawn, prove that nothing is left of withdrawn records: no record has such an id, no list or table mentions
one, and the dataset has no file but its own. Ids of digits alone, or of fewer than four bytes, are found as a whole
text, and not inside of sentences."""

_INDEX = """\
Make a dataset of TFRecord files of other programs (tf.train.Example): write an index beside each file, and
dataset.json. The files stay unchanged. Further images of a record become fields, as masks and depth maps by their
names. In a dataset of `prepare`, write missing and damaged indexes again.

Splits are read from the files' names (train-00000-of-00010, cifar10-test.tfrecord-00000-of-00001, val.tfrecord),
and otherwise all files are train. Height and width come from the images, not from features."""

_EXPORT = """\
Write the records of a dataset as files that other programs read: ids, labels, fields and boxes. FORMAT is

folder: SPLIT/CLASS/NAME.jpg, with SPLIT/metadata.jsonl, as ImageFolder of Hugging Face reads it;
webdataset: tar archives with NAME.jpg, NAME.cls and NAME.json;
parquet: data/SPLIT-00000-of-00001.parquet, with images inside, as the Hugging Face Hub shows them.

Encoded images keep their bytes. Raw ones become PNG files."""
_TARGETS = ("folder", "webdataset", "parquet")

_BENCHMARK = """\
Read a split as training would, for some seconds. Print the speed, the cost of each stage, and possible improvements."""


def inspect(arguments: Sequence[str]) -> int:
    """Run `image-shards inspect`, and return the exit status.

    Raises:
        JobError: there is nothing to show.
    """
    parser = dataset_parser("inspect", "DATASET [--json]", _INSPECT, "image-shards inspect shards")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    found = parser.parse_all(arguments[1:])

    # Imported after parsing, in each command: help and wrong options need nothing of it.
    from beam_jobs.tools.inspect import describe, facts

    shown = reading(lambda: facts(found.dataset))
    print_result(printable_json(json.dumps(shown, indent=1, ensure_ascii=False)) if found.json else describe(shown))
    return 0


def report(arguments: Sequence[str]) -> int:
    """Run `image-shards report`, and return the exit status.

    Raises:
        JobError: the dataset cannot be read.
    """
    parser = dataset_parser("report", "DATASET [--output FILE] [--open]", _REPORT, "image-shards report shards --open")
    parser.add_argument("--output", default="report.html", metavar="FILE", help="the file (default: report.html)")
    parser.add_argument("--open", action="store_true", help="open it in a browser")
    found = parser.parse_all(arguments[1:])

    from beam_jobs.report.report import save_report

    made = reading(lambda: save_report(found.dataset, found.output))
    print_result(printable(made.describe(found.output)))
    if found.open:
        _open(found.output)
    return 0


def verify(arguments: Sequence[str]) -> int:
    """Run `image-shards verify`, and return the exit status: 0 if the dataset is whole, 1 if it is not.

    Raises:
        JobError: there is nothing to verify.
    """
    parser = dataset_parser(
        "verify",
        "DATASET [--decode] [--withdrawn IDS] [--workers N]",
        _VERIFY,
        "image-shards verify shards --decode",
        notes=_ENGINE,
    )
    parser.add_argument("--decode", action="store_true", help="decode every image too, and compare height and width")
    parser.add_argument("--withdrawn", metavar="IDS", help="look for traces of these ids, one a line, instead: in"
        " records, lists, tables, and files that the dataset does not know")  # fmt: skip
    found, where = _with_runner(parser, arguments)
    if found.withdrawn is not None:
        with where as workers:
            return _traces(found.dataset, found.withdrawn, workers)

    from beam_jobs.tools.checks.verify import Verification

    with where as workers, contextlib.closing(Verification(found.dataset, decode=found.decode)) as verification:
        total, line = len(verification.tasks), ProgressLine()
        reading(
            lambda: verification.run(
                workers,
                note=functools.partial(_print_above, line),
                progress=lambda: line.show(f"{verification.done}/{total} shards, {verification.problems} problems"),
            )
        )
        line.clear()
        for text in verification.summary():
            print_result(printable(text))
        return 1 if verification.problems else 0


def _traces(place: str, ids: str, workers: int | ParallelMap) -> int:
    """Run `image-shards verify --withdrawn`, and return the exit status: 0 if nothing of the records is left."""
    from beam_jobs.generations.checks.traces import Traces, ids_in

    traces, line, done = Traces(place), ProgressLine(), 0

    def progress() -> None:
        nonlocal done
        done += 1
        line.show(f"{done}/{traces.shards} shards, {traces.traces} traces")

    reading(lambda: traces.run(lambda: ids_in(ids), workers, functools.partial(_print_above, line), progress))
    line.clear()
    print_result(printable(traces.summary()))
    return 1 if traces.traces else 0


def index(arguments: Sequence[str]) -> int:
    """Run `image-shards index`, and return the exit status: 1 if an index cannot be made again.

    Raises:
        JobError: the files cannot be indexed.
    """
    parser = dataset_parser(
        "index", "PATH [options]", _INDEX, "image-shards index imagenet --split train='train-*'", "PATH", _ENGINE
    )
    add = parser.add_argument
    add("--split", type=_split_pattern, action="append", default=[], dest="splits", metavar="NAME=PATTERN",
        help="files of a split, as train='train-*'; give it once for each split")  # fmt: skip
    add("--image-key", metavar="K", help="the feature with images (default: image/encoded, image, image_raw, ...)")
    add("--label-key", metavar="K", help="the feature with labels (default: image/class/label, label, ...), or none")
    add("--id-key", metavar="K", help="the feature with unique ids (default: id, image/filename, filename, ..., if"
        " unique), or none: then ids are FILE:ROW")  # fmt: skip
    add(
        "--classes", metavar="FILE", help="class names in order, one a line (default: label.labels.txt, if it is there)"
    )
    add("--bytes-key", action="append", default=[], dest="bytes_keys", metavar="K",
        help="a feature of bytes that are no text, to be kept as a field; may be repeated")  # fmt: skip
    add("--raw", type=_raw_shape, metavar="HxWxC", help="size of images that are raw pixels, all of one size")
    add("--dali", action="store_true", help="write an index for NVIDIA DALI beside each TFRecord file, too")
    found, where = _with_runner(parser, arguments)

    from beam_jobs.tools.index import IndexOptions, index_directory

    options = IndexOptions(
        path=found.dataset,
        splits=tuple(found.splits),
        image_key=found.image_key,
        label_key=found.label_key,
        id_key=found.id_key,
        classes=found.classes,
        raw=found.raw,
        bytes_keys=tuple(found.bytes_keys),
    )
    line = ProgressLine()
    with where as workers:
        if not isinstance(workers, int) and is_url(found.dataset):
            from beam_jobs.generations.checks.index_again import index_remote

            lines, problems = reading(lambda: index_remote(found.dataset, workers))
        else:
            lines, problems = reading(lambda: index_directory(options, workers, line.show))
        if found.dali:
            from beam_jobs.tools.dali import write_dali_indexes

            more, damaged = reading(lambda: write_dali_indexes(found.dataset, workers, line.show))
            lines, problems = [*lines, *more], problems + damaged
    line.clear()
    for text in lines:
        print_result(printable(text))
    return 1 if problems else 0


def export(arguments: Sequence[str]) -> int:
    """Run `image-shards export`, and return the exit status.

    Raises:
        JobError: the dataset cannot be read, or the files cannot be written.
    """
    example = "image-shards export shards photos-again --to folder"
    parser = dataset_parser("export", "DATASET DIR --to FORMAT [--split NAME]", _EXPORT, example)
    parser.add_argument("target", metavar="DIR", help="a new folder for the files")
    parser.add_argument("--to", choices=_TARGETS, required=True, metavar="FORMAT", help=", ".join(_TARGETS))
    parser.add_argument("--split", action="append", default=[], metavar="NAME", help="a split; may be repeated"
        " (default: all)")  # fmt: skip
    add_workers(parser)
    found = parser.parse_all(arguments[1:])

    from beam_jobs.tools.exporting.export import export as export_dataset

    line = ProgressLine()
    made = reading(
        lambda: export_dataset(
            found.dataset,
            found.target,
            found.to,
            splits=found.split,
            workers=found.workers,
            on_progress=lambda done, total: line.show(f"{done:,} of {total:,} records"),
        )
    )
    line.clear()
    counts = ", ".join(f"{count:,} of {printable(split)}" for split, count in made.splits.items())
    print_result(f"{printable(found.target)}: {counts}")
    return 0


def benchmark(arguments: Sequence[str]) -> int:
    """Run `image-shards benchmark`, and return the exit status.

    Raises:
        JobError: the dataset cannot be read.
    """
    from beam_jobs.cli.values import integer

    parser = dataset_parser("benchmark", "DATASET [options]", _BENCHMARK, "image-shards benchmark shards --crop 224")
    add = parser.add_argument
    add("--split", metavar="NAME", help="the split to read (default: the first)")
    add("--format", choices=tuple(FORMATS), help="the format to read (default: the first of the dataset)")
    add("--fields", type=lambda text: tuple(text.split(",")), metavar="F,...", help="the fields of a batch, as"
        " image,mask; or all images: all (default: image and label)")  # fmt: skip
    add("--crop", type=integer(1), metavar="N", help="crop the center of N x N pixels; needed if images differ in size")
    add("--random-crop", type=integer(1), metavar="N", help="random resized crops of N x N pixels, and flips")
    add("--batch-size", type=integer(1), default=256, metavar="N", help="records in a batch (default: %(default)s)")
    add("--shuffle", choices=("full", "window", "none"), default="full", help="order of records (default: %(default)s)")
    add("--verify", choices=("first-epoch", "always", "never"), default="first-epoch", help="(default: %(default)s)")
    add("--fast", action="store_true", help="decode JPEGs faster and less exactly")
    add("--threads", type=integer(1), default=available_cpus(), metavar="N",
        help="threads that decode (default: one for each CPU, here %(default)s)")  # fmt: skip
    add("--seconds", type=integer(1), default=10, metavar="N", help="longest time to read (default: %(default)s)")
    found = parser.parse_all(arguments[1:])

    from beam_jobs.tools.benchmark import BenchmarkOptions, describe, measure

    print_result(describe(reading(lambda: measure(BenchmarkOptions(**vars(found))))))
    return 0


def _open(file: str) -> None:
    import webbrowser

    if not webbrowser.open(Path(file).absolute().as_uri()):
        raise JobError(f"{file}: is written, but there is no browser to open it")


def dataset_parser(
    name: str, usage: str, description: str, example: str, argument: str = "DATASET", notes: str = ""
) -> Parser:
    """The parser of a command on a dataset, with the place of the dataset as its first argument."""
    parser = command_parser(name, usage, description, example, notes)
    parser.add_argument("dataset", metavar=argument, help="the directory, or its URL")
    return parser


def add_workers(parser: Parser) -> None:
    """Add the option for the number of processes."""
    from beam_jobs.cli.values import integer

    parser.add_argument(
        "--workers",
        type=integer(1),
        default=available_cpus(),
        metavar="N",
        help="processes on this machine (default: one for each CPU, here %(default)s)",
    )


def _with_runner(
    parser: Parser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, contextlib.AbstractContextManager[int | ParallelMap]]:
    """Parse a command line with options of Beam. Returns what was parsed, and the way to work on shards."""
    from beam_jobs.cli.beam_options import add_beam_arguments, beam_values

    add_workers(parser)
    names = add_beam_arguments(parser, arguments[1:])
    found = parser.parse_all(arguments[1:])
    beam = beam_values(parser, found, names)
    if not beam:
        return found, contextlib.nullcontext(found.workers)

    from beam_jobs.generations.checks.engine_map import on_engine

    return found, on_engine(beam, found.workers, found.dataset)


def _split_pattern(text: str) -> tuple[str, str]:
    name, equals, pattern = text.partition("=")
    if not equals or not pattern or not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise argparse.ArgumentTypeError(f"expected NAME=PATTERN, as train='train-*', got {text!r}")
    return name, pattern


def _raw_shape(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)x([1-4])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected height, width and channels (1 to 4), as 32x32x3, got {text!r}")
    return int(match[1]), int(match[2]), int(match[3])


def reading(work: Callable[[], _T]) -> _T:
    """The result of `work`, with the reader's errors turned into errors of a command."""
    try:
        return work()
    except ShardsError as error:
        raise JobError(printable(str(error))) from error


def print_result(text: str) -> None:
    """Print a result, without the secrets of URLs."""
    # With `| head`, the pipe may be closed before the end. The exit status is still right.
    with contextlib.suppress(BrokenPipeError):
        print(printable_lines(without_secrets(text)), flush=True)  # noqa: T201


def _print_above(line: ProgressLine, text: str) -> None:
    """Print a line of the result above the line of progress."""
    line.clear()
    print_result(printable(text))
