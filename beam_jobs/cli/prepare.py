"""`image-shards prepare`: from words to options, and from the result to text."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from beam_jobs.cli.beam_options import add_beam_arguments, beam_values
from beam_jobs.cli.changes.append import add_append, base_of, check_same_options, shard_rule_of, words_of_base
from beam_jobs.cli.options.downloads import add_downloads
from beam_jobs.cli.options.duplicates import add_duplicates, duplicate_options
from beam_jobs.cli.options.papers import add_papers, place_and_card
from beam_jobs.cli.options.pixels import add_pixels, image_options
from beam_jobs.cli.options.places import place
from beam_jobs.cli.options.planning import add_planning, planning_options
from beam_jobs.cli.options.sources import add_sources, source_options
from beam_jobs.cli.options.targets import add_targets
from beam_jobs.cli.parser import Parser, command_parser, listed
from beam_jobs.cli.values import byte_size, image_size, integer, max_rejects, split_parts
from beam_jobs.errors import JobError, UsageError
from beam_jobs.generations.append import append, plan_append
from beam_jobs.images.decode import ignore_image_warnings
from beam_jobs.options import FITS, JobOptions, ShardRule, SplitRule
from beam_jobs.prepare_options import read_config, words_of
from beam_jobs.sources.files.class_names import read_class_names, read_ids
from beam_jobs.steps.prepare import plan, prepare
from shard_reader.format.image_codecs.table import IMAGE_CODECS, codec_for
from shard_reader.format.manifest import FORMATS, Manifest
from shard_reader.printable import printable_lines
from shard_reader.storage.secrets import without_secrets
from shard_reader.system.cpus import available_cpus

__all__ = ["parse", "run"]

_PREPARE = """\
Turn images into shards of TFRecord and HDF5.

INPUT is a folder of images, in class folders (INPUT/cat/1.jpg), split folders (INPUT/train/cat/1.jpg) or
flat; a table (.csv .tsv .jsonl .parquet), or images in .parquet or .arrow; COCO instances (.json); an archive
(.tar .zip); or records (.tfrecord .h5 .npy .npz). OUTPUT is a new or empty directory, or the unfinished dataset
of the same command, which then continues. Both are paths, or URLs such as gs://bucket/photos."""

_EXAMPLE = "image-shards prepare photos shards --size 256 --split train=0.9,val=0.1"

_NOTES = """\
A column is a column of a table, a key of a WebDataset's JSON, or a feature or array of records. A color is
R,G,B or #rrggbb or a name. Options of Apache Beam are passed on, such as --runner=FlinkRunner. Without
--runner the job runs on all cores of this machine."""


def parse(arguments: Sequence[str]) -> JobOptions:
    """Parse a command line: `prepare`, and the words after it.

    Raises:
        UsageError: an option is wrong; the message names it, its value, and the allowed values.
        SystemExit: after `--help`.
    """
    return _parsed(arguments)[0]


def _parsed(arguments: Sequence[str]) -> tuple[JobOptions, argparse.Namespace]:
    """The options of a job, and all that was parsed."""
    parser = command_parser("prepare", "INPUT OUTPUT [options]", _PREPARE, _EXAMPLE, _NOTES)
    _add_arguments(parser)
    places, words = _with_config(arguments[1:])
    beam = add_beam_arguments(parser, words)
    every = [*places, *words]
    found, unknown = parser.parse_known_args(every)
    if places and len(unknown) == len(places) and not any(word.startswith("-") for word in unknown):
        every = words  # the command line has places of its own
        found, unknown = parser.parse_known_args(every)
    if unknown:
        parser.refuse(unknown, "neither image-shards nor Apache Beam has it")
    given = beam_values(parser, found, beam)
    base = base_of(found, _output_of(found))
    if base is not None:
        parser.set_defaults(shard_bytes=None)
        found = parser.parse_known_args([*words_of_base(base), *every])[0]
    return _build(found, given, base), found


def _with_config(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """INPUT and OUTPUT in the file of `--config`; and its options, followed by those of the command line, which count.

    Raises:
        UsageError: the file cannot be used.
    """
    finder = Parser(prog="image-shards prepare", add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(words)[0].config
    if path is None:
        return [], list(words)
    values = read_config(path)
    if any(word.partition("=")[0] == "--format" for word in words):  # which adds up
        values.pop("format", None)
    places: dict[str, Any] = {name: values.pop(name) for name in ("input", "output") if name in values}
    if len(places) == 1:
        raise UsageError(f"--config {path}: has {' '.join(places)} alone; give input and output, or none of them")
    return words_of(places), [*words_of(values), *words]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="INPUT", help=argparse.SUPPRESS)
    parser.add_argument("output", metavar="OUTPUT", help=argparse.SUPPRESS)
    _add_common(parser)
    add_sources(parser)
    add_targets(parser)
    add_downloads(parser)
    add_duplicates(parser)
    add_pixels(parser)
    _add_splits(parser)
    add_papers(parser)
    add_planning(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("common options")
    add = group.add_argument
    add("--size", type=image_size, metavar="N|WxH", help="width x height in pixels (default: 256)")
    add("--fit", choices=FITS, metavar="FIT", help="cover: resize the short side; inside: resize the long side; crop:"
        " cover, then cut the center; pad: inside, then add a border; stretch: ignore the aspect ratio; none: keep the"
        " size (default: cover for N, crop for WxH)")  # fmt: skip
    add("--format", choices=tuple(FORMATS), action="append", dest="formats", metavar="FORMAT",
        help="tfrecord (default) or hdf5; give it twice for both")  # fmt: skip
    add("--split", type=split_parts, metavar="NAME=F,...", help="divide images by a hash of their id, as"
        " train=0.9,val=0.1 (default: the splits of INPUT, or all in train)")  # fmt: skip
    add("--encoding", choices=tuple(IMAGE_CODECS), metavar="E", help=f"{listed(tuple(IMAGE_CODECS), 'or')} (default:"
        f" {codec_for('uint8').name}; {codec_for('float32').name} for other dtypes than uint8)")  # fmt: skip
    add("--workers", type=integer(1), default=available_cpus(), metavar="N",
        help="processes on this machine (default: one a CPU, here %(default)s)")  # fmt: skip
    add("--max-rejects", type=max_rejects, default="0.01", metavar="N|F", help="fail if more inputs than"
        " this number or fraction cannot be used (default: 0.01)")  # fmt: skip
    add("--dry-run", action="store_true", help="print the plan and estimates, and write nothing")
    add("--config", metavar="FILE", help="a YAML file with options by their names: `size: 256`")
    add("--report", action="store_true", help="write report.html, too: the dataset in pictures")
    add("--overwrite", action="store_true", help="first remove the finished or unfinished dataset in OUTPUT")
    add_append(group)


def _add_splits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("splits and shards").add_argument
    add("--stratify", action="store_true", help="divide each class in the same proportion")
    add("--group-by", metavar="FIELD", help="keep images with the same value in one split; folder: of the same folder")
    rule = parser._action_groups[-1].add_mutually_exclusive_group()
    rule.add_argument("--shards", type=integer(1, 99_999), metavar="N",
        help="number of shards in the largest split; others get shards of that size")  # fmt: skip
    rule.add_argument("--shard-records", type=integer(1), metavar="N", help="most records in a shard")
    rule.add_argument("--shard-bytes", type=byte_size, default="128MB", metavar="SIZE",
        help="approximate size of a shard (default: 128MB)")  # fmt: skip
    add("--seed", type=integer(), default=0, help="seed of the order and the splits (default: 0)")
    add("--reject-crashers", action="store_true", help="reject images that crash their decoder (default: fail)")
    add("--reject-suspects", action="store_true",
        help="reject images that may be damaged (default: list them)")  # fmt: skip


def _formats(found: argparse.Namespace) -> tuple[str, ...]:
    return tuple(name for name in FORMATS if name in (found.formats or [next(iter(FORMATS))]))


def _output_of(found: argparse.Namespace) -> str:
    """The place of the dataset."""
    output = place(found.output, "OUTPUT")
    return place_and_card(found, output, tuple(FORMATS))[0] if found.tfds_layout else output


def _build(found: argparse.Namespace, beam: dict[str, Any], base: Manifest | None) -> JobOptions:
    """The options of a job, which may add to a dataset."""
    formats = _formats(found)
    output, card = place_and_card(found, place(found.output, "OUTPUT"), formats)
    classes = read_class_names(found.classes) if found.classes is not None else None
    if base is not None and classes is None and base.options.get("classes"):
        classes = base.class_names
    options = JobOptions(
        source=source_options(found),
        output=output,
        image=image_options(found),
        formats=formats,
        split=_split_rule(found),
        shards=_shard_rule(found, base),
        seed=found.seed,
        workers=found.workers,
        max_rejects=found.max_rejects,
        classes=classes,
        **duplicate_options(found),
        dali_index=found.dali_index,
        card=card,
        exclude=read_ids(found.exclude) if found.exclude is not None else None,
        max_seconds=found.max_seconds,
        reject_crashers=found.reject_crashers,
        overwrite=found.overwrite,
        append=found.append,
        replace=found.replace,
        **planning_options(found),
        report=found.report,
        beam=beam,
    )
    if base is not None:
        check_same_options(options, base)
    return options


def _split_rule(found: argparse.Namespace) -> SplitRule:
    if found.stratify and found.group_by is not None:
        raise UsageError("--stratify: does not go with --group-by, which keeps groups whole; leave one out")
    for name, given in (("--stratify", found.stratify), ("--group-by", found.group_by)):
        if given and found.split is None:
            raise UsageError(f"{name}: says how to split; give --split, as train=0.9,val=0.1")
    return SplitRule(parts=found.split, stratify=found.stratify, group_by=found.group_by)


def _shard_rule(found: argparse.Namespace, base: Manifest | None) -> ShardRule:
    if found.shards is not None:
        return ShardRule(by="shards", value=found.shards)
    if found.shard_records is not None:
        return ShardRule(by="records", value=found.shard_records)
    if base is not None and found.shard_bytes is None:
        return shard_rule_of(base)
    return ShardRule(by="bytes", value=found.shard_bytes)


def run(arguments: Sequence[str]) -> int:
    """Run `image-shards prepare`, and return the exit status.

    Raises:
        JobError: the job failed, or cannot start.
    """
    ignore_image_warnings()
    options, found = _parsed(arguments)
    if found.dry_run:
        planned = plan_append(options) if options.append else plan(options)
        _print(planned.to_json() if found.json else without_secrets(planned.to_text()))
        return 0
    result = append(options) if options.append else prepare(options)
    try:
        _print(result.to_json() if found.json else without_secrets(result.text))
    except OSError as error:  # a script that reads the summary has to know that it is missing
        raise JobError(f"the dataset is whole, but standard output cannot be written ({error.strerror})") from error
    return 0


def _print(text: str) -> None:
    print(printable_lines(text), flush=True)  # noqa: T201
