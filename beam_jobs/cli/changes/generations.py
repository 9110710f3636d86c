"""The commands that change a finished dataset: each makes a generation of it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from beam_jobs.cli.beam_options import add_beam_arguments, beam_values
from beam_jobs.cli.datasets import add_workers, dataset_parser, print_result, reading
from beam_jobs.cli.options.places import place
from beam_jobs.cli.values import byte_size, integer
from beam_jobs.errors import UsageError
from beam_jobs.options import ShardRule
from beam_jobs.terminal import ProgressLine, counted
from shard_reader.printable import printable

__all__ = ["compact", "duration", "join", "relabel", "withdraw"]

_DAY = 24 * 3600

_WITHDRAW = """\
Withdraw records from a dataset: a new generation without them. Readers neither give nor count them from then on. No
shard is written again, so the bytes of the images stay until `image-shards compact`. IDS is a file with an id a line.

Earlier generations stay readable with open_dataset(..., generation=N)."""

_COMPACT = """\
Write the records of a dataset that count to new shards of even size. Images keep their bytes, and withdrawn records are
really gone: from shards, lists, thumbnails and tables. The order is that of one `prepare` over what remains, with the
same seed. The same command goes on after an interruption. Options of Apache Beam are passed on, such as
--runner=FlinkRunner.

With --in-place, the new shards are a generation of DATASET, and the only one from then on. Earlier ones, and positions
in them, are refused by name. Their files are removed after --grace by the next `compact --in-place`, which removes
what is due also where nothing is to be compacted; removals.json says what waits, and until when."""


def withdraw(arguments: Sequence[str]) -> int:
    """Run `image-shards withdraw`, and return the exit status.

    Raises:
        JobError: the records cannot be withdrawn.
    """
    example = "image-shards withdraw shards gone.txt"
    parser = dataset_parser("withdraw", "DATASET IDS [--ignore-unknown]", _WITHDRAW, example)
    parser.add_argument("ids", metavar="IDS", help="the file with the ids")
    parser.add_argument("--ignore-unknown", action="store_true", help="count ids that no record has (default: fail)")
    found = parser.parse_all(arguments[1:])

    # Imported after parsing: help and wrong options need nothing of it.
    from beam_jobs.generations.withdraw import withdraw as withdraw_records
    from beam_jobs.sources.files.class_names import read_ids

    ids = read_ids(found.ids, "IDS")
    made = reading(lambda: withdraw_records(found.dataset, ids, ignore_unknown=found.ignore_unknown))
    earlier = f", {counted(made.earlier, 'record')} had been withdrawn before" if made.earlier else ""
    unknown = f", {counted(made.unknown, 'id')} that no record has" if made.unknown else ""
    if made.withdrawn:
        print_result(
            f"{found.dataset}: generation {made.manifest.generation}: {counted(made.withdrawn, 'record')} withdrawn,"
            f" {made.manifest.records:,} remain{earlier}{unknown}\n"
            "their bytes are still in the shards; `image-shards compact` removes them"
        )
    else:
        print_result(f"{found.dataset}: nothing to do{earlier}{unknown}")
    return 0


_RELABEL = """\
Give records new labels or other fields by their ids: a generation of the dataset, without touching an image or a shard.
TABLE is a .csv, .tsv, .jsonl or .parquet file with a column of ids. Its columns are new values of the fields of these
names; an empty cell changes nothing. A column that is no field yet becomes one, and needs a value for every record.

Labels are names of classes. New classes come behind those that are there, so that no number changes. Boxes and points
are given as they are stored: ymin, xmin, ymax, xmax as parts of the image's height and width.

The features inside of TFRecord and HDF5 files keep their old values, which programs without the index go on reading."""


def relabel(arguments: Sequence[str]) -> int:
    """Run `image-shards relabel`, and return the exit status.

    Raises:
        JobError: the table does not fit the dataset, or the dataset is damaged.
    """
    example = "image-shards relabel shards corrected.csv --label-column class"
    parser = dataset_parser("relabel", "DATASET TABLE [options]", _RELABEL, example)
    add = parser.add_argument
    add("table", metavar="TABLE", help="the table, or a folder of tables")
    add("--id-column", metavar="C", help="the column of ids (default: id)")
    add("--label-column", metavar="C", help="the column of labels (default: label, class, category, ...)")
    add("--label-separator", metavar="S", help="a label is several classes with S in between, as 'cat;dog'")
    add("--fields", type=lambda text: tuple(filter(None, text.split(","))), metavar="C,...",
        help="the columns that become fields (default: all others)")  # fmt: skip
    add("--ignore-unknown", action="store_true", help="count ids that no record has; without it they are an error")
    add_workers(parser)
    found = parser.parse_all(arguments[1:])

    from beam_jobs.generations.relabeled.relabel import RelabelOptions
    from beam_jobs.generations.relabeled.relabel import relabel as make

    options = RelabelOptions(
        place=found.dataset,
        table=found.table,
        id_column=found.id_column,
        label_column=found.label_column,
        label_separator=found.label_separator,
        fields=found.fields,
        ignore_unknown=found.ignore_unknown,
    )
    line = ProgressLine()
    result = reading(lambda: make(options, found.workers, line.show))
    line.clear()
    print_result(result.describe(found.dataset))
    return 0


def compact(arguments: Sequence[str]) -> int:
    """Run `image-shards compact`, and return the exit status.

    Raises:
        JobError: the records cannot be copied.
    """
    parser = dataset_parser(
        "compact", "DATASET NEW|--in-place [options]", _COMPACT, "image-shards compact shards even-shards"
    )
    parser.add_argument("target", metavar="NEW", nargs="?", help="a new or empty directory, or its URL")
    parser.add_argument("--in-place", action="store_true", help="put the shards in place of those of DATASET")
    parser.add_argument("--grace", type=duration, metavar="TIME", help="keep replaced files for this time, for"
        " trainings that read them: 24h, 30m, 7d, or 0 (default: 24h)")  # fmt: skip
    _add_shard_rule(parser)
    add_workers(parser)
    beam = add_beam_arguments(parser, arguments[1:])
    found = parser.parse_all(arguments[1:])
    if (found.target is None) == (not found.in_place):
        raise UsageError("compact: give either NEW, a place for the new dataset, or --in-place")
    if found.grace is not None and not found.in_place:
        raise UsageError("--grace: says when replaced files go; leave it out without --in-place, where none do")

    from beam_jobs.generations.compaction.compact import CompactOptions, compact_to
    from beam_jobs.generations.compaction.in_place import compact_in_place

    options = CompactOptions(
        place=place(found.dataset, "DATASET"),
        workers=found.workers,
        shards=_shard_rule(found),
        beam=beam_values(parser, found, beam),
    )
    if found.in_place:
        lines = reading(lambda: compact_in_place(options, _DAY if found.grace is None else found.grace))
    else:
        lines = [reading(lambda: compact_to(options, place(found.target, "NEW")))]
    for line in lines:
        print_result(printable(line))
    return 0


def duration(text: str) -> float:
    """Seconds in words, as 24h, 30m, 7d and 0."""
    match = re.fullmatch(r"([0-9]{1,6})(?:([smhd])|)", text)
    if match is None or (match[2] is None and int(match[1])):
        raise argparse.ArgumentTypeError(f"expected a time as 24h, 30m, 7d or 0, got {text!r}")
    return float(int(match[1]) * {None: 0, "s": 1, "m": 60, "h": 3600, "d": _DAY}[match[2]])


def _add_shard_rule(parser: argparse.ArgumentParser) -> None:
    rule = parser.add_mutually_exclusive_group()
    rule.add_argument("--shards", type=integer(1, 99_999), metavar="N", help="number of shards in the largest split")
    rule.add_argument("--shard-records", type=integer(1), metavar="N", help="most records in a shard")
    rule.add_argument("--shard-bytes", type=byte_size, metavar="SIZE", help="approximate size of a shard (default: the"
        " options by which DATASET was made)")  # fmt: skip


def _shard_rule(found: argparse.Namespace) -> ShardRule | None:
    rules = {"shards": found.shards, "records": found.shard_records, "bytes": found.shard_bytes}
    return next((ShardRule(by=by, value=value) for by, value in rules.items() if value is not None), None)


_JOIN = """\
Make one dataset OUT of several, over their shards where they are: nothing is copied but a manifest. All parts lie in
the directory of OUT, or below it, on one disk or in one bucket. They have the same fields and formats, and no id in
common. Classes are those of all: where the same name has another number in a later part, its shards get new indexes in
OUT.

A part may grow, or lose records, later: the join stays what it is. It breaks where a part is removed, or compacted
--in-place. `image-shards compact OUT NEW` makes a dataset of its own of it."""


def join(arguments: Sequence[str]) -> int:
    """Run `image-shards join`, and return the exit status.

    Raises:
        JobError: the datasets do not fit together, or one is damaged.
    """
    example = "image-shards join january february all"
    parser = dataset_parser("join", "DATASET DATASET [...] OUT", _JOIN, example)
    parser.add_argument("others", metavar="DATASET", nargs="+", help="more datasets, and then OUT, a new directory")
    add_workers(parser)
    found = parser.parse_all(arguments[1:])

    from beam_jobs.generations.joining.join import join as make

    line, (*others, out) = ProgressLine(), found.others
    result = reading(lambda: make([found.dataset, *others], out, found.workers, line.show))
    line.clear()
    print_result(result.describe(out))
    return 0
